//! Reading by position: from the segments, never beyond the published end, never past damage.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::append::head_crc;
use super::core::Journal;
use super::error::{Damage, Error, io};
use super::segment::{HEADER_BYTES, Segment};
use crate::codec::{self, Frame, Header};
use crate::sys;
use crate::types::{Seq, limits};

/// Read at once; larger frames are read on their own.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes read between two times that their pages are let go.
const ADVICE_BYTES: u64 = 8 << 20;

/// Reads records in their order. Holds its segment's file open, so that a segment trimmed meanwhile
/// is read to its end.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    segment: Arc<Segment>,
    file: Arc<File>,
    /// Of the next frame.
    offset: u64,
    seq: Seq,
    /// Header checksum of the last frame.
    crc: u32,
    /// A record has been read; before this, `seq` may be a number that the stream leaves out.
    is_placed: bool,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_at: u64,
    /// Pages before this have been let go.
    advised: u64,
}

impl Reader {
    pub(super) fn open(journal: Arc<Journal>, after: Seq) -> Result<Reader, Error> {
        let core = &journal.core;
        let end = core.end();
        if after > end {
            return Err(Error::Beyond { after, end });
        }
        let segment = {
            let segments = core.segments.lock();
            let mut fitting = segments.iter().rev();
            let found = fitting.find(|s| s.header.first <= after.next()).cloned();
            found.ok_or(Error::Trimmed {
                first: core.first(),
            })?
        };
        let file = open_file(&journal, &segment)?;
        let from = segment.landmark_for(after);
        let mut reader = Reader {
            journal,
            segment,
            file,
            offset: from.offset,
            seq: from.seq,
            crc: from.crc,
            is_placed: false,
            buffer: Vec::new(),
            buffer_at: 0,
            advised: HEADER_BYTES,
        };
        reader.skip(after)?;
        Ok(reader)
    }

    /// Steps over the records up to `after`, by their headers.
    fn skip(&mut self, after: Seq) -> Result<(), Error> {
        while self.seq < after && self.offset < self.segment.len() {
            let len = self.segment.len();
            let header = self.peek(len)?;
            if header.seq > after {
                break;
            }
            self.crc = head_crc(self.buffer.get(self.buffer_index()..).unwrap_or_default());
            self.pass(&header, len);
        }
        // Where the stream leaves numbers out, `after` may be one of them.
        self.seq = self.seq.max(after);
        Ok(())
    }

    /// The last record returned, or where reading began.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Bytes of frames before the next one, ever: on the scale of [`Journal::end_bytes`].
    pub fn bytes(&self) -> u64 {
        self.segment.header.start_bytes + self.offset - HEADER_BYTES
    }

    /// The next record; `None` at the end, where it may be asked again.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when the records were given up or reset, [`Error::Corrupt`] in front of
    /// damage, every time; [`Error::Io`].
    #[allow(
        clippy::should_implement_trait,
        reason = "an end that may grow is no iterator's end"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            self.check_gone()?;
            // In this order: a segment seen sealed has its final length.
            let is_sealed = self.segment.is_sealed();
            let len = self.segment.len();
            if self.segment.is_damaged {
                return Err(self.corrupt(Damage::Header));
            }
            if self.offset < len {
                return self.read(len).map(Some);
            }
            if !is_sealed || !self.step()? {
                return Ok(None);
            }
        }
    }

    fn read(&mut self, len: u64) -> Result<Frame, Error> {
        let header = self.peek(len)?;
        let is_next = header.prev_seq == self.seq
            || (!self.is_placed && header.prev_seq < self.seq && header.seq > self.seq);
        if !is_next {
            return Err(self.corrupt(Damage::Order {
                wanted: self.seq,
                found: header.prev_seq,
            }));
        }
        let frame = self.take(&header).map_err(|e| match e {
            Take::Record(source) => self.corrupt(Damage::Record(source)),
            Take::Other(error) => error,
        })?;
        self.crc = head_crc(frame.bytes());
        self.pass(&header, len);
        self.is_placed = true;
        self.let_pages_go();
        Ok(frame)
    }

    /// The header of the next frame, whose end is before `len`.
    fn peek(&mut self, len: u64) -> Result<Header, Error> {
        self.fill(limits::HEADER_BYTES, len)?;
        let at = self.buffer_index();
        let head = self.buffer.get(at..).and_then(|b| b.first_chunk());
        let Some(head) = head else {
            return Err(self.corrupt(Damage::Short));
        };
        let header = codec::parse_header(head).map_err(|e| self.corrupt(Damage::Record(e)))?;
        if self.offset + header.frame_len() as u64 > len {
            return Err(self.corrupt(Damage::Short));
        }
        Ok(header)
    }

    fn pass(&mut self, header: &Header, len: u64) {
        self.offset += header.frame_len() as u64;
        self.seq = header.seq;
        debug_assert!(self.offset <= len, "frames end before the published end");
    }

    fn take(&self, header: &Header) -> Result<Frame, Take> {
        let need = header.frame_len();
        let have = self.buffer.get(self.buffer_index()..).unwrap_or_default();
        if have.len() >= need {
            return Frame::parse(have).map_err(Take::Record);
        }
        let mut bytes = vec![0u8; need];
        bytes[..have.len()].copy_from_slice(have);
        let at = self.offset + have.len() as u64;
        let rest = &mut bytes[have.len()..];
        let wanted = rest.len();
        let got = sys::pread(self.file.as_fd(), rest, at)
            .map_err(|e| Take::Other(io("read", &self.segment.path)(e)))?;
        if got < wanted {
            return Err(Take::Other(self.corrupt(Damage::Short)));
        }
        Frame::from_vec(bytes).map_err(Take::Record)
    }

    fn buffer_index(&self) -> usize {
        let into = self.offset.saturating_sub(self.buffer_at);
        usize::try_from(into).unwrap_or(usize::MAX)
    }

    /// Sees to it that `need` bytes from `offset` are in the buffer, if they are before `len`.
    fn fill(&mut self, need: usize, len: u64) -> Result<(), Error> {
        let is_inside = self.offset >= self.buffer_at;
        let have = self.buffer.len().saturating_sub(self.buffer_index());
        if is_inside && have >= need {
            return Ok(());
        }
        let rest = usize::try_from(len - self.offset).unwrap_or(usize::MAX);
        self.buffer.resize(rest.min(BUFFER_BYTES), 0);
        let got = sys::pread(self.file.as_fd(), &mut self.buffer, self.offset)
            .map_err(io("read", &self.segment.path));
        self.buffer_at = self.offset;
        self.buffer.truncate(*got.as_ref().unwrap_or(&0));
        got.map(drop)
    }

    /// Goes on to the next segment; false when there is none yet.
    fn step(&mut self) -> Result<bool, Error> {
        let core = &self.journal.core;
        let (next, first) = {
            let segments = core.segments.lock();
            let here = self.segment.header.first;
            let mut later = segments.iter();
            (later.find(|s| s.header.first > here).cloned(), core.first())
        };
        let Some(next) = next else {
            return Ok(false);
        };
        if first > self.seq.next() {
            return Err(Error::Trimmed { first });
        }
        let header = &next.header;
        let is_chained = next.is_damaged || header.chain == self.crc;
        if header.first != self.seq.next() || !is_chained {
            return Err(self.corrupt(Damage::Chain));
        }
        self.advise(self.segment.len());
        self.file = open_file(&self.journal, &next)?;
        self.crc = header.chain;
        self.segment = next;
        self.offset = HEADER_BYTES;
        self.advised = HEADER_BYTES;
        self.buffer.clear();
        Ok(true)
    }

    fn check_gone(&self) -> Result<(), Error> {
        if !self.segment.is_gone() {
            return Ok(());
        }
        let core = &self.journal.core;
        let first = core.first();
        let is_reset = self.segment.header.generation != core.generation();
        if is_reset || self.seq.next() < first {
            return Err(Error::Trimmed { first });
        }
        Ok(())
    }

    /// A reader far behind would otherwise fill the page cache with what nobody reads again.
    fn let_pages_go(&mut self) {
        if self.offset - self.advised >= ADVICE_BYTES {
            self.advise(self.offset);
        }
    }

    fn advise(&mut self, to: u64) {
        let core = &self.journal.core;
        let lag = core.end_bytes().saturating_sub(self.bytes());
        if lag > core.options.segment_bytes && to > self.advised {
            // Only advice.
            let _ = sys::fadvise_dontneed(self.file.as_fd(), self.advised, to - self.advised);
        }
        self.advised = to;
    }

    fn corrupt(&self, source: Damage) -> Error {
        Error::Corrupt {
            segment: self.segment.header.first,
            offset: self.offset,
            source,
        }
    }
}

enum Take {
    Record(codec::Error),
    Other(Error),
}

/// A segment that has left the disk between the look at the list and this.
fn open_file(journal: &Journal, segment: &Segment) -> Result<Arc<File>, Error> {
    segment.open().map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::Trimmed {
                first: journal.core.first(),
            }
        }
        other => other,
    })
}
