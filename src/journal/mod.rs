//! The ordered durable queue of records: append, read by cursor, trim, recover.
//!
//! The same code queues on the source (many threads append) and on the target (frames are stored as
//! they came, flushed in groups). Bytes stand in segments, files that are appended to and unlinked
//! from the front; order, catalogue and cursors stand in a small sled index beside them.
//!
//! # The contract
//! * [`Journal::append`] gives the next number, and when it returns the record survives this process:
//!   one write into the page cache, no flush. [`Journal::sync`] makes everything appended durable.
//! * The frames of a group are in one segment, become visible together, and after a crash are there
//!   together or not at all.
//! * A [`Reader`] delivers every record after its position, in order, or says why not. It never sees
//!   what is not published, and never passes damage.
//! * Records beyond the slowest cursor are kept, until [`Journal::give_up`] or [`Journal::reset`].
//!   Without any cursor only the segment written to is kept.
//!
//! # Invariants
//! * `prev_seq` of every record is the record before it; a segment's `first` is the position after the
//!   last record before it, so an empty journal has a position, too.
//! * Only the last segment is written to; a sealed one never changes and has its successor in the list.
//! * What is published only grows, except by a reset, which makes a new generation.
//! * Nothing is unlinked from the middle: segments go from the front, damage from the back.
//! * sled is never asked to keep what is not in a file beside it.
//!
//! # Files
//! ```text
//! seg/<first, 20 digits>.seg   records; the only truth
//! index/                       sled: `s/<first>` segments, `c/<cursor>` positions, `k/<key>` facts
//! index.aside/                 an index that could not be opened, for a look; may be deleted
//! cursors                      positions and the synced mark, two slots each (see `cursor.rs`)
//! facts/<key>                  facts, one file each (see `facts.rs`)
//! ballast                      8 MiB, thrown off on a full disk so that the others can be written
//! lock                         locked while the journal is open
//! ```
//!
//! # Layout of a segment (integers little-endian)
//! ```text
//!    0  8 bytes   magic "DPFSSEG1"
//!    8  u32       format version (1)
//!   12  u32       chain: header checksum of the last frame before this segment (0: none)
//!   16  u64       first: the position after the last record before
//!   24  u64       generation: rises with each reset
//!   32  u64       bytes of frames before, ever
//!   40  u64       frames before, ever
//!   48  u64       durable: the last record known to be durable when this segment was made
//!   56  40 bytes  the boot (23 hexadecimal digits of its id), ".", the mount (16)
//!   96            zeroes
//! 4092  u32       crc32c of bytes 0..4092
//! 4096            frames as in [`crate::codec`], back to back; behind the last one of the segment
//!                 that is written to, zeroes
//! ```
//!
//! # Assumptions
//! * *page-cache*: what write(2) took survives the process, not the host.
//! * *cut*: a crash of the process leaves of a write at most its beginning; one of the host may leave
//!   any page written since the last flush old, new, zero or missing.
//! * *flush*: after fdatasync(2) said so, content and length are durable; after one failure nobody
//!   knows, so nothing is tried again.
//! * *metadata-prefix*: creations and unlinks in one directory become durable in their order.
//!
//! # Failure
//! A write that fails is cut off again, the caller gets the error and may try again. If the cut fails,
//! the segment is sealed and the next begun; if that fails, or a flush does, the journal is poisoned:
//! it can be read but takes nothing until it is opened anew. A full disk is [`Error::Full`]. What
//! opening does about a crash is the table in `recovery.rs`.
//!
//! # Why not every record in sled?
//! Measured with 0.34.7: it loses the last 60 to 340 records when the process is killed, takes 13 to 42
//! times the space with large values and does not give it back, and cannot be opened on a full disk. A
//! log of segments loses nothing and returns space by unlink. So sled keeps what is small and can be
//! made anew: deleting `index/` costs nothing but the next start's look at the segments' headers.

mod ahead;
mod append;
mod core;
mod cursor;
mod error;
mod facts;
mod flush;
mod index;
mod reader;
mod recovery;
mod repair;
mod scan;
mod segment;
mod space;
mod survey;
mod trim;

pub use self::core::{CatalogueEntry, Journal, Options, SealedEnd, Usage};
pub use error::{Damage, Error};
pub use reader::Reader;
pub use recovery::Recovery;
