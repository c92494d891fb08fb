//! Appending: position, write, publish, under one lock; segments change here, too.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{Core, Journal, Tail, blocks_of};
use super::error::{Error, io as io_error, is_full};
use super::segment::{self, HEADER_BYTES, Header, Point, Segment};
use super::space::free_bytes;
use crate::codec::{self, Draft, Frame};
use crate::sys;
use crate::types::{Seq, limits};

/// Appended between two looks at the disk's free space, at most.
const FREE_BUDGET_BYTES: u64 = 4 << 20;

/// Smallest segment that is not changed for the next, whatever the options say.
const SEGMENT_BYTES_MIN: u64 = 2 * HEADER_BYTES;

/// Sealed segments whose files are kept open until they are flushed.
const KEPT_FILES_MAX: usize = 64;

impl Journal {
    /// Appends one record. When this returns, it survives the process, not yet the host.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::NotNext`] (no number is left): nothing was appended.
    /// [`Error::Poisoned`].
    ///
    /// # Panics
    /// When the draft says that more of its operation follows: groups go to
    /// [`Journal::append_group`].
    pub fn append(&self, draft: &Draft<'_>) -> Result<Seq, Error> {
        self.append_after(draft, || {}, || {})
    }

    /// As [`Journal::append`]; `first` is called before, when nothing can come before the record any more and there is
    /// room for it: what others record because of it gets a later place. Under the lock of the end, so it waits for
    /// nothing. It may have been called when there is an error, and `failed` is called then under that lock, too: who
    /// takes it later ([`Journal::settled_end`]) finds what `failed` noted.
    ///
    /// # Errors
    /// As [`Journal::append`].
    ///
    /// # Panics
    /// As [`Journal::append`].
    pub fn append_after(
        &self,
        draft: &Draft<'_>,
        first: impl FnOnce(),
        failed: impl FnOnce(),
    ) -> Result<Seq, Error> {
        self.append_drafts(std::slice::from_ref(draft), first, failed)
    }

    /// Appends the frames of one operation: all of them or none. Returns the last one's position.
    ///
    /// # Errors
    /// As [`Journal::append`].
    ///
    /// # Panics
    /// When there is no draft, or not all but the last say that more follows.
    pub fn append_group(&self, drafts: &[Draft<'_>]) -> Result<Seq, Error> {
        self.append_drafts(drafts, || {}, || {})
    }

    fn append_drafts(
        &self,
        drafts: &[Draft<'_>],
        first: impl FnOnce(),
        failed: impl FnOnce(),
    ) -> Result<Seq, Error> {
        assert!(!drafts.is_empty(), "a group has frames");
        let core = &*self.core;
        core.check_poison()?;
        let mut tail = core.tail.lock();
        let appended = core.append_at(&mut tail, drafts, first);
        if appended.is_err() {
            failed();
        }
        drop(tail);
        if appended.is_ok() {
            core.bell.ring();
        }
        appended
    }

    /// Stores a frame as it is. The frames of a group are published with the last of them; a frame
    /// that follows the published end instead discards an unfinished group.
    ///
    /// # Errors
    /// [`Error::NotNext`] when it does not follow the last one, and as [`Journal::append`].
    pub fn append_frame(&self, frame: &Frame) -> Result<(), Error> {
        let core = &*self.core;
        core.check_poison()?;
        let header = frame.header();
        let mut tail = core.tail.lock();
        if header.prev_seq != tail.at.seq && header.prev_seq == tail.segment.last() {
            core.drop_open_group(&mut tail)?;
        }
        if header.prev_seq != tail.at.seq || header.seq <= header.prev_seq {
            return Err(Error::NotNext {
                last: tail.at.seq,
                prev_seq: header.prev_seq,
                seq: header.seq,
            });
        }
        let bytes = frame.bytes().len() as u64;
        core.make_room(&mut tail, bytes)?;
        core.zero_ahead(&mut tail, bytes);
        let before = tail.at;
        let after = Point {
            offset: before.offset + bytes,
            seq: header.seq,
            records: before.records + 1,
            crc: head_crc(frame.bytes()),
        };
        if let Err(error) = core.write(&mut tail, &[IoSlice::new(frame.bytes())], after) {
            core.take_back(&mut tail, before);
            return Err(error);
        }
        if header.has_more() {
            return Ok(());
        }
        let start = tail.segment.end();
        core.publish(&tail, start, header.time_ns);
        drop(tail);
        core.bell.ring();
        Ok(())
    }
}

fn check_more(sealed: &[u8; limits::HEADER_BYTES], is_wanted: bool) {
    let has_more = codec::parse_header(sealed).map(|header| header.has_more());
    assert_eq!(
        has_more.ok(),
        Some(is_wanted),
        "all but the last frame of a group say that more follows"
    );
}

/// The header checksum in a sealed frame.
pub(super) fn head_crc(frame: &[u8]) -> u32 {
    segment::le_u32(frame, limits::HEADER_BYTES - 4)
}

impl Core {
    fn append_at(
        &self,
        tail: &mut Tail,
        drafts: &[Draft<'_>],
        first: impl FnOnce(),
    ) -> Result<Seq, Error> {
        let bytes: usize = drafts.iter().map(Draft::frame_len).sum();
        self.drop_open_group(tail)?;
        let last = tail.at.seq;
        let seq = Seq(last.0 + drafts.len() as u64);
        if seq > Seq::MAX {
            // Nobody gets there by counting: files that are not as they were written said so.
            let prev_seq = last;
            return Err(Error::NotNext {
                last,
                prev_seq,
                seq,
            });
        }
        self.make_room(tail, bytes as u64)?;
        first();
        self.zero_ahead(tail, bytes as u64);
        let start = tail.at;
        let mut first_time_ns = 0;
        for (index, draft) in drafts.iter().enumerate() {
            let time_ns = sys::realtime_ns();
            let seq = tail.at.seq.next();
            let sealed = draft.seal(seq, tail.at.seq, time_ns);
            check_more(&sealed, index + 1 < drafts.len());
            let slices = [
                IoSlice::new(&sealed),
                IoSlice::new(draft.meta()),
                IoSlice::new(draft.payload()),
            ];
            let after = Point {
                offset: tail.at.offset + draft.frame_len() as u64,
                seq,
                records: tail.at.records + 1,
                crc: head_crc(&sealed),
            };
            if let Err(error) = self.write(tail, &slices, after) {
                self.take_back(tail, start);
                return Err(error);
            }
            if index == 0 {
                first_time_ns = time_ns;
            }
        }
        self.publish(tail, start, first_time_ns);
        Ok(tail.at.seq)
    }

    fn write(&self, tail: &mut Tail, slices: &[IoSlice<'_>], after: Point) -> Result<(), Error> {
        let write = || sys::pwritev_all(tail.file.as_fd(), slices, tail.at.offset);
        let written = match write() {
            Err(error) if is_full(&error) && self.bury() => write(),
            written => written,
        };
        match written {
            Ok(()) => {
                tail.at = after;
                Ok(())
            }
            Err(error) => Err(self.refuse("write", tail, error)),
        }
    }

    fn refuse(&self, operation: &'static str, tail: &mut Tail, error: io::Error) -> Error {
        if is_full(&error) {
            tail.free_budget = 0;
            self.full()
        } else {
            io_error(operation, &tail.segment.path)(error)
        }
    }

    fn full(&self) -> Error {
        self.ballast.release();
        Error::Full {
            dir: self.dir.clone(),
        }
    }

    /// What was appended since `start` becomes visible.
    fn publish(&self, tail: &Tail, start: Point, time_ns: u64) {
        let segment = &tail.segment;
        if start.records == 0 {
            segment.note_first_time(time_ns);
        }
        segment.note_landmark(start);
        segment.publish(tail.at);
        let bytes = segment.header.start_bytes + tail.at.offset - HEADER_BYTES;
        self.end_bytes.store(bytes, Ordering::SeqCst);
        self.active_bytes.store(tail.at.offset, Ordering::Relaxed);
        self.end.store(tail.at.seq.0, Ordering::SeqCst);
    }

    /// Cuts what was written after `to`. When the file cannot be cut, a new segment begins at the
    /// published end; when that fails, too, the journal is poisoned.
    fn take_back(&self, tail: &mut Tail, to: Point) {
        tail.at = to;
        let Err(error) = sys::ftruncate(tail.file.as_fd(), to.offset) else {
            tail.zeroed_to = 0;
            return;
        };
        let path = tail.segment.path.display();
        tracing::warn!(%path, %error, "failed write cannot be cut off, segment is sealed");
        tail.at = tail.segment.end();
        if let Err(error) = self.roll(tail) {
            self.set_poison(error.to_string());
        }
    }

    /// Cuts the frames of a group whose end never came.
    pub(super) fn drop_open_group(&self, tail: &mut Tail) -> Result<(), Error> {
        let end = tail.segment.end();
        if tail.at.offset != end.offset {
            self.take_back(tail, end);
            self.check_poison()?;
        }
        Ok(())
    }

    /// Sees to it that `bytes` may be written at the tail; a new segment when they would make this
    /// one too large. Groups stay in one segment.
    fn make_room(&self, tail: &mut Tail, bytes: u64) -> Result<(), Error> {
        self.check_share(tail, bytes)?;
        if tail.free_budget < bytes {
            tail.free_budget = self.free_budget(bytes)?;
        }
        let is_open = tail.at.offset != tail.segment.len();
        let is_large = tail.at.offset + bytes > self.segment_bytes();
        if is_large && !is_open && tail.at.records > 0 {
            self.roll(tail)?;
        }
        tail.free_budget = tail.free_budget.saturating_sub(bytes);
        Ok(())
    }

    fn check_share(&self, tail: &Tail, bytes: u64) -> Result<(), Error> {
        let Some(max) = self.options.disk_bytes_max else {
            return Ok(());
        };
        let taken = self.sealed_bytes.load(Ordering::Relaxed) + tail.at.offset;
        if taken.saturating_add(bytes) > max {
            return Err(Error::Full {
                dir: self.dir.clone(),
            });
        }
        Ok(())
    }

    fn free_budget(&self, bytes: u64) -> Result<u64, Error> {
        let needed = self.options.free_bytes_min + bytes + HEADER_BYTES;
        let mut free = free_bytes(&self.seg_dir)?;
        if free < needed && self.bury() {
            free = free_bytes(&self.seg_dir)?;
        }
        let spare = free.saturating_sub(self.options.free_bytes_min);
        if spare < bytes + HEADER_BYTES {
            // The limit is no emergency: the ballast stays.
            return Err(Error::Full {
                dir: self.dir.clone(),
            });
        }
        Ok(spare.min(FREE_BUDGET_BYTES.max(bytes)))
    }

    /// Is there room for another record of the largest size?
    pub(super) fn has_room(&self, tail: &Tail) -> bool {
        let bytes = limits::FRAME_BYTES_MAX as u64;
        self.check_share(tail, bytes).is_ok()
            && free_bytes(&self.seg_dir)
                .is_ok_and(|free| free >= self.options.free_bytes_min.saturating_add(bytes))
    }

    /// A journal with a small share changes segments sooner, so that trimming can keep it there.
    pub(super) fn segment_bytes(&self) -> u64 {
        let share = self.options.disk_bytes_max.map_or(u64::MAX, |max| max / 4);
        let bytes = self.options.segment_bytes.min(share);
        bytes.max(SEGMENT_BYTES_MIN)
    }

    /// Seals the segment written to and begins the next. Does nothing to one without records.
    pub(super) fn roll(&self, tail: &mut Tail) -> Result<(), Error> {
        let end = tail.segment.end();
        assert_eq!(
            tail.at, end,
            "no group is cut in two by a change of segments"
        );
        if end.records == 0 {
            return Ok(());
        }
        self.cut_zeroes(tail);
        let old = Arc::clone(&tail.segment);
        let header = Header {
            first: end.seq.next(),
            generation: self.generation(),
            start_bytes: old.header.start_bytes + end.offset - HEADER_BYTES,
            start_records: old.header.start_records + end.records,
            durable: Seq(self.durable.load(Ordering::SeqCst)),
            chain: end.crc,
            boot: self.boot.clone(),
        };
        self.begin_segment(tail, header)?;
        // The successor is in the list before readers are told to look for it.
        old.seal();
        self.note_segment(&old);
        self.trim().map(drop)
    }

    /// Makes a segment, enters it into the list and lets the tail point to it.
    pub(super) fn begin_segment(&self, tail: &mut Tail, header: Header) -> Result<(), Error> {
        let is_out_of_room =
            |error: &Error| matches!(error, Error::Io { source, .. } if is_full(source));
        let created = match segment::create(&self.seg_dir, &header) {
            Err(error) if is_out_of_room(&error) && self.bury() => {
                segment::create(&self.seg_dir, &header)
            }
            created => created,
        };
        let file = created.map_err(|error| match is_out_of_room(&error) {
            true => self.full(),
            false => error,
        })?;
        let file = Arc::new(file);
        let path = segment::path_of(&self.seg_dir, header.first);
        let start = Point::start(&header);
        let new = Arc::new(Segment::new(path, header, start));
        new.keep_file(Some(Arc::clone(&file)));
        let old = &tail.segment;
        old.measure(&tail.file);
        let old_bytes = old.disk_bytes().max(blocks_of(old.len()));
        old.note_disk_bytes(old_bytes);
        self.sealed_bytes.fetch_add(old_bytes, Ordering::Relaxed);
        let mut segments = self.segments.lock();
        segments.push_back(Arc::clone(&new));
        let kept = segments.len().checked_sub(KEPT_FILES_MAX);
        if let Some(oldest) = kept.and_then(|at| segments.get(at)) {
            oldest.keep_file(None);
        }
        drop(segments);
        self.note_segment(&new);
        self.active_bytes.store(start.offset, Ordering::Relaxed);
        tail.at = start;
        tail.zeroed_to = 0;
        tail.segment = new;
        tail.file = file;
        Ok(())
    }
}
