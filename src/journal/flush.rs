//! Making records durable: group commit, and the background flush of a backlog.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::{Core, Journal};
use super::cursor::Mark;
use super::error::{Error, io};
use super::facts::sync_dir;
use super::segment::{HEADER_BYTES, Point, Segment};
use crate::sys;
use crate::types::Seq;

/// Sealed segments are left to the page cache, so many and so long: while the consumers keep up, they are
/// unlinked before they are ever written. Older ones are a backlog and get flushed. It is enough for what a
/// target has applied and not on its disk yet: in an initial mirror all of it would be written here, too.
const CACHED_SEGMENTS: usize = 16;
const CACHED_FOR: Duration = Duration::from_secs(10);

impl Journal {
    /// Makes everything appended so far durable and returns how far that is. Callers at the same
    /// time wait for one another; appends go on meanwhile.
    ///
    /// # Errors
    /// A failed flush poisons: what the disk holds is unknown until the journal is opened anew.
    pub fn sync(&self) -> Result<Seq, Error> {
        let core = &*self.core;
        let _flush = core.flush.lock();
        core.check_poison()?;
        let (active, end) = {
            let tail = core.tail.lock();
            let active = Arc::clone(&tail.segment);
            let end = active.end();
            (active, end)
        };
        core.sync_up_to(&active, end)?;
        Ok(end.seq)
    }
}

impl Core {
    /// Flushes sealed segments that were not consumed soon, so that after a power cut only the last
    /// few need a scan, and few files are kept open.
    pub(super) fn sync_backlog(&self) -> Result<(), Error> {
        let _flush = self.flush.lock();
        let newest = {
            let segments = self.segments.lock();
            let sealed = segments.iter().rev().filter(|segment| segment.is_sealed());
            let mut due = sealed.enumerate().filter(|(newer, segment)| {
                *newer >= CACHED_SEGMENTS || segment.is_sealed_for(CACHED_FOR)
            });
            due.next().map(|(_, segment)| Arc::clone(segment))
        };
        match newest {
            Some(segment) if !segment.is_synced() && self.poison.get().is_none() => {
                self.sync_up_to(&segment, segment.end())
            }
            _ => Ok(()),
        }
    }

    /// Flushes every segment up to this one. The flush lock is held.
    fn sync_up_to(&self, last: &Segment, end: Point) -> Result<(), Error> {
        if Seq(self.durable.load(Ordering::SeqCst)) >= end.seq && last.synced_len() >= end.offset {
            return Ok(());
        }
        let due: Vec<Arc<Segment>> = {
            let segments = self.segments.lock();
            let all = segments.iter();
            let due = all.filter(|s| !s.is_synced() && s.header.first <= last.header.first);
            due.cloned().collect()
        };
        let is_new = due.iter().any(|s| s.synced_len() == 0);
        for segment in &due {
            self.sync_segment(segment)?;
        }
        if is_new && let Err(error) = sync_dir(&self.seg_dir) {
            self.set_poison(error.to_string());
            return self.check_poison();
        }
        self.durable.fetch_max(end.seq.0, Ordering::SeqCst);
        if let Err(error) = self.cursors.save_mark(&mark_at(last, end)) {
            tracing::warn!(%error, "synced mark not saved");
        }
        Ok(())
    }

    fn sync_segment(&self, segment: &Segment) -> Result<(), Error> {
        // In this order: a segment seen sealed has its final length.
        let is_sealed = segment.is_sealed();
        let len = segment.len();
        let file = match segment.open() {
            Ok(file) => file,
            // Trimmed meanwhile: nobody needs it any more.
            Err(_) if !segment.path.exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Err(error) = sys::fdatasync(file.as_fd()) {
            self.set_poison(io("flush", &segment.path)(error).to_string());
            return self.check_poison();
        }
        segment.note_synced(len);
        if is_sealed {
            segment.keep_file(None);
        }
        Ok(())
    }
}

/// The mark that says: durable up to here.
pub(super) fn mark_at(segment: &Segment, end: Point) -> Mark {
    Mark {
        generation: segment.header.generation,
        seq: end.seq,
        segment: segment.header.first,
        offset: end.offset,
        records: end.records,
        bytes: segment.header.start_bytes + end.offset - HEADER_BYTES,
        crc: end.crc,
    }
}
