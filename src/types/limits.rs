//! Every limit, with its unit in its name; relations between them are checked at compile time.

use std::time::Duration;

/// Longest directory entry (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Most bytes of payload in one record; also the largest FUSE write.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Most bytes of an encoded body in one record.
pub const META_BYTES_MAX: usize = 1 << 20;

/// Size of a record's fixed header.
pub const HEADER_BYTES: usize = 64;

/// Largest frame: header, body, payload.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + META_BYTES_MAX + PAYLOAD_BYTES_MAX;

/// A segment of the journal is closed when it has this size.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Most bytes of listing entries in one frame of a listing's group.
pub const LISTING_BYTES_MAX: usize = 256 << 10;

/// Memory of one listing, which is kept until its last frame: some five million entries.
pub const LISTING_GROUP_BYTES_MAX: u64 = 512 << 20;

/// Raw bytes of frames in one wire batch; one frame may exceed it alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Largest message on the wire: a batch of one largest frame, incompressible.
pub const MESSAGE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX + BATCH_BYTES_MAX;

/// Identities in one want-list message.
pub const WANT_COUNT_MAX: usize = 4096;

/// Identities remembered for a gap before everything is in doubt.
pub const GAP_IDS_MAX: usize = 4096;

/// Bytes of extended attributes that a record carries in its body; more follow as records of their
/// own.
pub const XATTRS_INLINE_BYTES_MAX: usize = 256 << 10;

/// Longest value of an extended attribute (`XATTR_SIZE_MAX`).
pub const XATTR_BYTES_MAX: usize = 64 << 10;

/// How often what is dirty is written back with a relaxed order, by default.
pub const FLUSH_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// The shortest such interval.
pub const FLUSH_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The longest.
pub const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Queue limits of the reference product: smallest and default memory, default free space.
pub const QUEUE_MEMORY_BYTES_MIN: u64 = 32 << 20;
/// Default of the queue's memory limit.
pub const QUEUE_MEMORY_BYTES_DEFAULT: u64 = 128 << 20;
/// Free space that the queue leaves on its disk by default.
pub const QUEUE_FREE_BYTES_DEFAULT: u64 = 50 << 20;
/// Per cent of the queue limit at which an alert is given.
pub const QUEUE_ALERT_PERCENT_DEFAULT: u64 = 50;

const _: () =
    assert!(LISTING_BYTES_MAX + XATTRS_INLINE_BYTES_MAX + XATTR_BYTES_MAX < META_BYTES_MAX);
const _: () = assert!((FRAME_BYTES_MAX as u64) < SEGMENT_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + FRAME_BYTES_MAX < MESSAGE_BYTES_MAX);
