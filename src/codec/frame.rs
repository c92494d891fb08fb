//! Frames: drafts before they have a position, sealed bytes after.

use crate::types::{Body, Kind, Seq, limits};

/// The first four bytes of every frame.
pub const MAGIC: u32 = u32::from_le_bytes(*b"DPR1");

/// The format version written; the only one so far.
pub const VERSION: u16 = 1;

/// Flag: the next frame belongs to the same operation.
pub const FLAG_MORE: u32 = 1;

/// Why bytes are no frame, or a body no frame's content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The magic number is wrong: not a frame begins here.
    #[error("no record begins here (magic {found:#010x})")]
    NoMagic {
        /// What stands there.
        found: u32,
    },
    /// Written by a newer doppelfs.
    #[error("record format version {found} is not known (this doppelfs knows {VERSION})")]
    UnknownVersion {
        /// What the header says.
        found: u16,
    },
    /// The kind is not known to this version.
    #[error("record kind {found} is not known")]
    UnknownKind {
        /// What the header says.
        found: u16,
    },
    /// A length is beyond its limit, so the header is not believed.
    #[error("record of {meta} + {payload} bytes is beyond the limits")]
    TooLarge {
        /// Body bytes claimed.
        meta: u64,
        /// Payload bytes claimed.
        payload: u64,
    },
    /// No record can have this position, or this one before it.
    #[error("record {seq} after record {prev_seq}: positions rise, up to {max}", max = Seq::MAX)]
    NoPosition {
        /// The record.
        seq: Seq,
        /// The one before it.
        prev_seq: Seq,
    },
    /// The bytes end before the frame does.
    #[error("record is cut: {have} of {need} bytes")]
    Cut {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Header and body do not match their checksum.
    #[error("checksum of the record's header is wrong")]
    HeaderChecksum,
    /// The payload does not match its checksum.
    #[error("checksum of the payload of record {seq} is wrong")]
    PayloadChecksum {
        /// The record.
        seq: Seq,
    },
    /// Checksums are right but the body cannot be understood.
    #[error("body of record {seq} cannot be decoded: {source}")]
    Body {
        /// The record.
        seq: Seq,
        /// What the decoder says.
        source: rmp_serde::decode::Error,
    },
    /// The body names another kind than the header.
    #[error("record {seq} is of kind {header:?} by its header and {body:?} by its body")]
    KindsDiffer {
        /// The record.
        seq: Seq,
        /// By the header.
        header: Kind,
        /// By the body.
        body: Kind,
    },
}

/// What the fixed header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Kind of the operation.
    pub kind: Kind,
    /// Bytes of body.
    pub meta_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Position.
    pub seq: Seq,
    /// The record before it in the stream.
    pub prev_seq: Seq,
    /// Nanoseconds since 1970 at capture.
    pub time_ns: u64,
    /// [`FLAG_MORE`] or 0.
    pub flags: u32,
    payload_crc: u32,
    head_crc: u32,
}

impl Header {
    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> usize {
        limits::HEADER_BYTES + self.meta_len as usize + self.payload_len as usize
    }

    /// Does the next frame belong to the same operation?
    pub fn has_more(&self) -> bool {
        self.flags & FLAG_MORE != 0
    }
}

fn u16_at(bytes: &[u8; 64], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}

/// Reads a header, checking everything that can be checked without the body.
///
/// # Errors
/// [`Error::NoMagic`], [`Error::UnknownVersion`], [`Error::UnknownKind`], [`Error::TooLarge`],
/// [`Error::NoPosition`].
pub fn parse_header(bytes: &[u8; limits::HEADER_BYTES]) -> Result<Header, Error> {
    let magic = u32_at(bytes, 0);
    if magic != MAGIC {
        return Err(Error::NoMagic { found: magic });
    }
    let version = u16_at(bytes, 4);
    if version != VERSION {
        return Err(Error::UnknownVersion { found: version });
    }
    let (meta_len, payload_len) = (u32_at(bytes, 8), u32_at(bytes, 12));
    if meta_len as usize > limits::META_BYTES_MAX
        || payload_len as usize > limits::PAYLOAD_BYTES_MAX
    {
        return Err(Error::TooLarge {
            meta: meta_len.into(),
            payload: payload_len.into(),
        });
    }
    let number = u16_at(bytes, 6);
    let kind = Kind::from_number(number).ok_or(Error::UnknownKind { found: number })?;
    let (seq, prev_seq) = (Seq(u64_at(bytes, 16)), Seq(u64_at(bytes, 24)));
    if seq <= prev_seq || seq > Seq::MAX {
        return Err(Error::NoPosition { seq, prev_seq });
    }
    Ok(Header {
        kind,
        meta_len,
        payload_len,
        seq,
        prev_seq,
        time_ns: u64_at(bytes, 32),
        flags: u32_at(bytes, 40),
        payload_crc: u32_at(bytes, 56),
        head_crc: u32_at(bytes, 60),
    })
}

/// A record that has no position yet: body encoded, payload's checksum taken. Made outside any lock;
/// sealed under the journal's.
#[derive(Debug)]
pub struct Draft<'a> {
    kind: Kind,
    meta: Vec<u8>,
    payload: &'a [u8],
    payload_crc: u32,
    flags: u32,
}

impl<'a> Draft<'a> {
    /// Encodes `body` and takes the payload's checksum.
    ///
    /// # Panics
    /// When body or payload is beyond its limit: the caller splits, it is our own record.
    pub fn new(body: &Body, payload: &'a [u8]) -> Draft<'a> {
        assert!(
            payload.len() <= limits::PAYLOAD_BYTES_MAX,
            "payload beyond the limit"
        );
        let mut meta = Vec::with_capacity(192);
        let mut serializer = rmp_serde::Serializer::new(&mut meta);
        let encoded = serde::Serialize::serialize(body, &mut serializer);
        assert!(encoded.is_ok(), "a body always encodes into memory");
        assert!(
            meta.len() <= limits::META_BYTES_MAX,
            "body beyond the limit"
        );
        let payload_crc = crc32c::crc32c(payload);
        Draft {
            kind: body.op.kind(),
            meta,
            payload,
            payload_crc,
            flags: 0,
        }
    }

    /// Says that the next frame belongs to the same operation.
    #[must_use]
    pub fn with_more(mut self) -> Draft<'a> {
        self.flags |= FLAG_MORE;
        self
    }

    /// Kind of the operation.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> usize {
        limits::HEADER_BYTES + self.meta.len() + self.payload.len()
    }

    /// Encoded body.
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Payload.
    pub fn payload(&self) -> &[u8] {
        self.payload
    }

    /// The header for this position. Cheap: it is computed under the journal's lock.
    pub fn seal(&self, seq: Seq, prev_seq: Seq, time_ns: u64) -> [u8; limits::HEADER_BYTES] {
        assert!(prev_seq < seq, "positions rise");
        let mut header = [0u8; limits::HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(6, &self.kind.number().to_le_bytes());
        put(
            8,
            &u32::try_from(self.meta.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        put(
            12,
            &u32::try_from(self.payload.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        put(16, &seq.0.to_le_bytes());
        put(24, &prev_seq.0.to_le_bytes());
        put(32, &time_ns.to_le_bytes());
        put(40, &self.flags.to_le_bytes());
        put(56, &self.payload_crc.to_le_bytes());
        let head_crc = crc32c::crc32c_append(crc32c::crc32c(&header[..60]), &self.meta);
        header[60..64].copy_from_slice(&head_crc.to_le_bytes());
        header
    }
}

/// A sealed record whose checksums have been found right.
#[derive(Debug, Clone)]
pub struct Frame {
    header: Header,
    bytes: Vec<u8>,
}

impl Frame {
    /// Takes the frame that begins `bytes`, checking all; what follows it is left alone.
    ///
    /// # Errors
    /// Any [`Error`] but the ones of the body; nothing is taken then.
    pub fn parse(bytes: &[u8]) -> Result<Frame, Error> {
        let Some(head) = bytes.first_chunk::<{ limits::HEADER_BYTES }>() else {
            return Err(Error::Cut {
                have: bytes.len(),
                need: limits::HEADER_BYTES,
            });
        };
        let header = parse_header(head)?;
        let need = header.frame_len();
        let Some(frame) = bytes.get(..need) else {
            return Err(Error::Cut {
                have: bytes.len(),
                need,
            });
        };
        Frame::check(header, frame)?;
        Ok(Frame {
            header,
            bytes: frame.to_vec(),
        })
    }

    /// Like [`Frame::parse`] for a buffer that holds exactly one frame; takes it without a copy.
    ///
    /// # Errors
    /// As [`Frame::parse`].
    pub fn from_vec(bytes: Vec<u8>) -> Result<Frame, Error> {
        let Some(head) = bytes.first_chunk::<{ limits::HEADER_BYTES }>() else {
            return Err(Error::Cut {
                have: bytes.len(),
                need: limits::HEADER_BYTES,
            });
        };
        let header = parse_header(head)?;
        if bytes.len() != header.frame_len() {
            return Err(Error::Cut {
                have: bytes.len(),
                need: header.frame_len(),
            });
        }
        Frame::check(header, &bytes)?;
        Ok(Frame { header, bytes })
    }

    fn check(header: Header, frame: &[u8]) -> Result<(), Error> {
        let meta_end = limits::HEADER_BYTES + header.meta_len as usize;
        let head_crc = crc32c::crc32c(&frame[..60]);
        let head_crc = crc32c::crc32c_append(head_crc, &frame[limits::HEADER_BYTES..meta_end]);
        if head_crc != header.head_crc {
            return Err(Error::HeaderChecksum);
        }
        if crc32c::crc32c(&frame[meta_end..]) != header.payload_crc {
            return Err(Error::PayloadChecksum { seq: header.seq });
        }
        Ok(())
    }

    /// The fixed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The sealed bytes, as stored and as sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[limits::HEADER_BYTES + self.header.meta_len as usize..]
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`Error::Body`] and [`Error::KindsDiffer`]: the record is sound but not understood.
    pub fn body(&self) -> Result<Body, Error> {
        let seq = self.header.seq;
        let meta = &self.bytes[limits::HEADER_BYTES..][..self.header.meta_len as usize];
        let body: Body =
            rmp_serde::from_slice(meta).map_err(|source| Error::Body { seq, source })?;
        let kind = body.op.kind();
        if kind != self.header.kind {
            return Err(Error::KindsDiffer {
                seq,
                header: self.header.kind,
                body: kind,
            });
        }
        Ok(body)
    }
}
