//! Cursors, and the segments that nobody needs: trimmed, given up, reset.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{Core, Journal, cursor_key, cursor_value, segment_key};
use super::error::{Error, io};
use super::facts::sync_dir;
use super::flush::mark_at;
use super::segment::{HEADER_BYTES, Header, Point, Segment};
use crate::types::Seq;

/// An active segment larger than this is sealed when everything in it has been consumed.
const IDLE_BYTES_MAX: u64 = 8 << 20;

impl Journal {
    /// Enters a cursor, or sets it anew: records after `seq` are kept for it. Durable on return.
    ///
    /// # Errors
    /// [`Error::Cursor`], [`Error::Io`].
    pub fn register(&self, cursor: &str, seq: Seq) -> Result<(), Error> {
        let generation = self.core.generation();
        self.core.cursors.register(cursor, generation, seq)?;
        let value = cursor_value(generation, seq);
        self.core.index.set(cursor_key(cursor), value);
        Ok(())
    }

    /// Moves a cursor on and trims what nobody needs any more. Cursors that are not registered, and
    /// positions not beyond the cursor's, change nothing. The move is saved within 100 ms; a cursor
    /// that is behind after a crash only costs records sent again.
    pub fn advance(&self, cursor: &str, seq: Seq) {
        if self.core.cursors.advance(cursor, seq) {
            self.core.index.call();
        }
        if let Err(error) = self.trim() {
            tracing::warn!(%error, "journal not trimmed");
        }
        self.seal_if_consumed();
    }

    /// Forgets a cursor: nothing is kept for it any more.
    pub fn unregister(&self, cursor: &str) {
        self.core.cursors.unregister(cursor);
        self.core.index.remove(&cursor_key(cursor));
    }

    /// Where a cursor is.
    pub fn cursor(&self, cursor: &str) -> Option<Seq> {
        self.core.cursors.get(cursor)
    }

    /// All cursors, by name.
    pub fn cursors(&self) -> Vec<(String, Seq)> {
        self.core.cursors.all()
    }

    /// Unlinks sealed segments that every cursor has passed, without cursors all sealed ones.
    /// Returns the bytes of disk freed.
    ///
    /// # Errors
    /// [`Error::Io`]: the segment and those after it stay.
    pub fn trim(&self) -> Result<u64, Error> {
        self.core.trim()
    }

    /// Gives the disk back when everything has been consumed but the active segment is large.
    fn seal_if_consumed(&self) {
        let core = &*self.core;
        if core.cursors.min().is_some_and(|min| min >= core.end()) {
            self.seal_beyond(IDLE_BYTES_MAX);
        }
    }

    /// Begins another segment when the one written to is larger than `bytes`: a segment is freed as a whole.
    pub fn seal_beyond(&self, bytes: u64) {
        let core = &*self.core;
        if core.active_bytes.load(Ordering::Relaxed) <= bytes || core.poison.get().is_some() {
            return;
        }
        let mut tail = core.tail.lock();
        let is_open = tail.at.offset != tail.segment.len();
        if is_open || tail.at.offset <= bytes {
            return;
        }
        if let Err(error) = core.roll(&mut tail) {
            tracing::warn!(%error, "segment not sealed");
        }
    }

    /// Drops all sealed segments whatever the cursors, and the active one, too, when there is still
    /// no room. Returns the cursors that have lost records; they are no longer registered.
    ///
    /// # Errors
    /// [`Error::Io`]: what could not be unlinked stays, with the cursors.
    pub fn give_up(&self) -> Result<Vec<String>, Error> {
        let core = &*self.core;
        {
            let mut tail = core.tail.lock();
            core.drop_sealed()?;
            if !core.has_room(&tail) && tail.segment.end().records > 0 {
                core.drop_open_group(&mut tail)?;
                // The ballast makes room for the new segment's header.
                if core.roll(&mut tail).is_err() {
                    core.ballast.release();
                    core.roll(&mut tail)?;
                }
                core.drop_sealed()?;
            }
            tail.free_budget = 0;
        }
        let first = self.first();
        let lost = core.cursors.all().into_iter();
        let lost: Vec<String> = lost
            .filter(|(_, seq)| seq.next() < first)
            .map(|(name, _)| name)
            .collect();
        for name in &lost {
            self.unregister(name);
        }
        tracing::warn!(%first, cursors = ?lost, "backlog given up");
        Ok(lost)
    }

    /// Drops every record and every cursor; the next record follows `seq`. Durable on return.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::Poisoned`]: all is as before, unless only the
    /// unlinking of old segments failed; the next opening removes those.
    pub fn reset(&self, seq: Seq) -> Result<(), Error> {
        let core = &*self.core;
        let _flush = core.flush.lock();
        core.check_poison()?;
        let unlinked = {
            let mut tail = core.tail.lock();
            core.drop_open_group(&mut tail)?;
            let end = tail.segment.end();
            let old = Arc::clone(&tail.segment);
            let header = Header {
                first: seq.next(),
                generation: core.generation() + 1,
                start_bytes: old.header.start_bytes + end.offset - HEADER_BYTES,
                start_records: old.header.start_records + end.records,
                durable: seq,
                chain: 0,
                boot: core.boot.clone(),
            };
            core.begin_segment(&mut tail, header)?;
            let new = Arc::clone(&tail.segment);
            let synced = tail.file.sync_all().map_err(io("flush", &new.path));
            if let Err(error) = synced.and_then(|()| sync_dir(&core.seg_dir)) {
                core.set_poison(error.to_string());
                return Err(error);
            }
            new.note_synced(new.len());
            core.generation
                .store(new.header.generation, Ordering::SeqCst);
            core.durable.store(seq.0, Ordering::SeqCst);
            core.end.store(seq.0, Ordering::SeqCst);
            core.active_bytes.store(0, Ordering::Relaxed);
            core.drop_generations_before(&new)
        };
        // Flushed with the cursors; positions of before the reset are void then.
        let mark = {
            let tail = core.tail.lock();
            mark_at(&tail.segment, Point::start(&tail.segment.header))
        };
        core.cursors.save_mark(&mark)?;
        let names = core.cursors.all();
        core.cursors.settle(Default::default(), core.generation())?;
        for (name, _) in names {
            core.index.remove(&cursor_key(&name));
        }
        tracing::info!(%seq, "journal reset");
        core.bell.ring();
        unlinked
    }
}

impl Core {
    pub(super) fn trim(&self) -> Result<u64, Error> {
        let min = self.cursors.min();
        let mut freed = 0;
        let mut segments = self.segments.lock();
        while segments.len() > 1 {
            let is_done = |s: &Segment| s.is_sealed() && min.is_none_or(|min| s.last() <= min);
            let Some(oldest) = segments.front().filter(|s| is_done(s)).cloned() else {
                break;
            };
            let file = oldest.open().ok();
            self.unlink(&oldest)?;
            if let Some(file) = file {
                self.graves.lock().push(file);
                self.index.call();
            }
            freed += oldest.disk_bytes();
            segments.pop_front();
            let first = segments.front().map_or(Seq::ZERO, |s| s.header.first);
            self.first.store(first.0, Ordering::SeqCst);
        }
        Ok(freed)
    }

    /// Gives the room of trimmed segments back to the disk; false when there are none.
    pub(super) fn bury(&self) -> bool {
        let files = std::mem::take(&mut *self.graves.lock());
        !files.is_empty()
    }

    fn drop_sealed(&self) -> Result<(), Error> {
        self.bury();
        let mut segments = self.segments.lock();
        while segments.len() > 1 {
            let Some(oldest) = segments.front().cloned() else {
                break;
            };
            oldest.give_up();
            self.unlink(&oldest)?;
            segments.pop_front();
            let first = segments.front().map_or(Seq::ZERO, |s| s.header.first);
            self.first.store(first.0, Ordering::SeqCst);
        }
        Ok(())
    }

    fn drop_generations_before(&self, new: &Arc<Segment>) -> Result<(), Error> {
        let mut segments = self.segments.lock();
        let old: Vec<Arc<Segment>> = segments.drain(..).collect();
        segments.push_back(Arc::clone(new));
        self.first.store(new.header.first.0, Ordering::SeqCst);
        self.sealed_bytes.store(0, Ordering::Relaxed);
        let mut done = Ok(());
        for segment in old.iter().filter(|s| !Arc::ptr_eq(s, new)) {
            segment.give_up();
            // The new file has taken the place of one of the same name.
            if segment.path != new.path {
                done = done.and(self.unlink_file(segment));
            }
        }
        done
    }

    /// Takes a segment out of the catalogue, then off the disk.
    fn unlink(&self, segment: &Segment) -> Result<(), Error> {
        self.unlink_file(segment)?;
        self.sealed_bytes
            .fetch_sub(segment.disk_bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn unlink_file(&self, segment: &Segment) -> Result<(), Error> {
        self.index.remove(&segment_key(segment.header.first));
        segment.keep_file(None);
        match std::fs::remove_file(&segment.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                self.note_segment(segment);
                Err(io("unlink", &segment.path)(e))
            }
            _ => Ok(()),
        }
    }
}
