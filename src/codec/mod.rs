//! Record <-> bytes: one encoding for disk and wire, versioned and checksummed.
//!
//! A record is encoded once, when it is captured; the same bytes are stored in the source's
//! journal, sent, and stored in the target's. Only the applier (and who shows records to people)
//! decodes the body.
//!
//! # Layout of a frame (integers little-endian)
//! ```text
//!  0  u32  magic "DPR1"
//!  4  u16  format version (1)
//!  6  u16  kind of the operation
//!  8  u32  meta_len: bytes of body (MessagePack) after the header
//! 12  u32  payload_len: bytes of payload after the body
//! 16  u64  seq
//! 24  u64  prev_seq: the record before this one in the stream (0: none)
//! 32  u64  time of capture, nanoseconds since 1970
//! 40  u32  flags: 1 = MORE, the next frame belongs to the same operation
//! 44  u32  reserved, 0
//! 48  u64  reserved, 0
//! 56  u32  crc32c of the payload
//! 60  u32  crc32c of bytes 0..60 and the body
//! 64       body, payload
//! ```
//!
//! # Invariants
//! No length is believed before it has passed its limit, and nothing is decoded before both
//! checksums agreed.

mod frame;

pub use frame::{Draft, Error, FLAG_MORE, Frame, Header, MAGIC, VERSION, parse_header};
