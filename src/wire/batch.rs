//! Batches: frames back to back, compressed where it pays.

use crate::codec;
use crate::types::limits;

use super::error::Error;
use super::message::Kind;

/// Most bytes of frames in a batch: the usual limit, or one largest frame alone.
pub const BATCH_RAW_BYTES_MAX: usize = if limits::FRAME_BYTES_MAX > limits::BATCH_BYTES_MAX {
    limits::FRAME_BYTES_MAX
} else {
    limits::BATCH_BYTES_MAX
};

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Length, type, codec, raw length.
const HEAD_BYTES: usize = 4 + 1 + 1 + 4;
/// Smaller batches are not worth a try.
const TRY_BYTES_MIN: usize = 256;
/// zstd's level, unless another is asked for.
const LEVEL: i32 = 1;
/// After tries that saved nothing, at most so many raw bytes go without another try.
const SKIP_BYTES_MAX: usize = 64 << 20;

/// A batch as it goes over the wire.
#[derive(Debug)]
pub struct Packed {
    /// The whole message: length, type, body.
    pub bytes: Vec<u8>,
    /// Bytes of frames in it.
    pub raw_bytes: usize,
    /// Was it compressed?
    pub is_compressed: bool,
}

/// Packs batches: zstd where it saves a tenth; data that does not compress is tried more and more
/// rarely, so that it costs no time.
pub struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    level: i32,
    skip_bytes: usize,
    skip_next: usize,
}

impl Default for Packer {
    fn default() -> Packer {
        Packer::new()
    }
}

impl Packer {
    /// A packer that has seen nothing yet.
    pub fn new() -> Packer {
        Packer {
            // Without a compressor (no memory) batches go raw.
            zstd: zstd::bulk::Compressor::new(LEVEL).ok(),
            level: LEVEL,
            skip_bytes: 0,
            skip_next: limits::BATCH_BYTES_MAX,
        }
    }

    /// From now on zstd's level is this. The usual one is 1.
    pub fn set_level(&mut self, level: i32) {
        if level == self.level {
            return;
        }
        if let Some(zstd) = self.zstd.as_mut()
            && let Err(error) = zstd.set_compression_level(level)
        {
            tracing::warn!(%error, level, "compression level stays as it is");
        }
        self.level = level;
    }

    /// Packs frames that stand back to back in `raw`.
    ///
    /// # Panics
    /// When `raw` is beyond [`BATCH_RAW_BYTES_MAX`]: the caller splits.
    pub fn pack(&mut self, raw: &[u8]) -> Packed {
        assert!(raw.len() <= BATCH_RAW_BYTES_MAX, "batch beyond its limit");
        let mut bytes = Vec::with_capacity(HEAD_BYTES + raw.len());
        bytes.resize(HEAD_BYTES, 0);
        let codec = if self.compress(raw, &mut bytes) {
            CODEC_ZSTD
        } else {
            bytes.truncate(HEAD_BYTES);
            bytes.extend_from_slice(raw);
            CODEC_RAW
        };
        let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
        let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = Kind::Batch.number();
        bytes[5] = codec;
        bytes[6..HEAD_BYTES].copy_from_slice(&raw_len.to_le_bytes());
        Packed {
            bytes,
            raw_bytes: raw.len(),
            is_compressed: codec == CODEC_ZSTD,
        }
    }

    /// Appends `raw` compressed; false when it was not tried or does not pay.
    fn compress(&mut self, raw: &[u8], bytes: &mut Vec<u8>) -> bool {
        let Some(zstd) = self.zstd.as_mut().filter(|_| raw.len() >= TRY_BYTES_MIN) else {
            return false;
        };
        if self.skip_bytes > 0 {
            self.skip_bytes = self.skip_bytes.saturating_sub(raw.len());
            return false;
        }
        let worth = raw.len() - raw.len() / 10;
        bytes.resize(HEAD_BYTES + worth, 0);
        let room = &mut bytes[HEAD_BYTES..];
        // Running out of room is the way to learn that it saves too little.
        match zstd.compress_to_buffer(raw, room) {
            Ok(length) => {
                bytes.truncate(HEAD_BYTES + length);
                self.skip_next = limits::BATCH_BYTES_MAX;
                true
            }
            Err(_) => {
                // A small batch says little about what comes.
                let small = raw.len() < limits::BATCH_BYTES_MAX / 16;
                self.skip_bytes = if small { 0 } else { self.skip_next };
                self.skip_next = (self.skip_next * 2).min(SKIP_BYTES_MAX);
                false
            }
        }
    }
}

/// Opens batches.
pub struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
}

impl Default for Unpacker {
    fn default() -> Unpacker {
        Unpacker::new()
    }
}

impl Unpacker {
    /// An unpacker without a buffer yet.
    pub fn new() -> Unpacker {
        Unpacker {
            zstd: None,
            raw: Vec::new(),
        }
    }

    /// The frames in a batch's body.
    ///
    /// # Errors
    /// [`Error::BadBatch`]; nothing beyond [`BATCH_RAW_BYTES_MAX`] is ever allocated.
    pub fn open<'a>(&'a mut self, body: &'a [u8]) -> Result<Frames<'a>, Error> {
        let Some((head, packed)) = body.split_first_chunk::<5>() else {
            return Err(Error::BadBatch { what: "no head" });
        };
        let [codec, length @ ..] = *head;
        let raw_len = u32::from_le_bytes(length) as usize;
        if raw_len > BATCH_RAW_BYTES_MAX {
            let what = "raw length beyond the limit";
            return Err(Error::BadBatch { what });
        }
        match codec {
            CODEC_RAW if packed.len() == raw_len => Ok(Frames { rest: packed }),
            CODEC_RAW => Err(Error::BadBatch {
                what: "raw length differs",
            }),
            CODEC_ZSTD => self.decompress(packed, raw_len),
            _ => Err(Error::BadBatch {
                what: "unknown codec",
            }),
        }
    }

    fn decompress(&mut self, packed: &[u8], raw_len: usize) -> Result<Frames<'_>, Error> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Decompressor::new().ok();
        }
        let no_memory = Error::BadBatch {
            what: "no memory to decompress",
        };
        let zstd = self.zstd.as_mut().ok_or(no_memory)?;
        self.raw.resize(raw_len, 0);
        match zstd.decompress_to_buffer(packed, &mut self.raw[..]) {
            Ok(length) if length == raw_len => Ok(Frames { rest: &self.raw }),
            Ok(_) => Err(Error::BadBatch {
                what: "decompresses to another length",
            }),
            Err(_) => Err(Error::BadBatch {
                what: "does not decompress",
            }),
        }
    }
}

/// The frames of a batch, one after the other, each checked.
#[derive(Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl Iterator for Frames<'_> {
    type Item = Result<codec::Frame, codec::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match codec::Frame::parse(self.rest) {
            Ok(frame) => {
                self.rest = self.rest.get(frame.bytes().len()..).unwrap_or_default();
                Some(Ok(frame))
            }
            Err(e) => {
                self.rest = &[];
                Some(Err(e))
            }
        }
    }
}
