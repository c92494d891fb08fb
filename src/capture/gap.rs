//! What could not be recorded, or was changed unseen: it stands in the journal as a gap.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::journal;
use crate::sys;
use crate::types::{FileId, Op, limits};

use super::core::Capture;

#[derive(Debug, Default)]
pub(super) struct Gap {
    pub(super) ids: Vec<FileId>,
    pub(super) everything: bool,
}

impl Capture {
    /// Puts files in doubt: they stand in the journal as a gap, which may name none.
    ///
    /// Takes no inode locks: a directory whose listing changes at the same time is recorded too, and
    /// the image that settles the doubt is taken under its lock, later.
    pub fn doubt(&self, ids: &[FileId], everything: bool) {
        for part in ids.chunks(limits::GAP_IDS_MAX) {
            self.append_gap(Gap {
                ids: part.to_vec(),
                everything: false,
            });
        }
        if everything || ids.is_empty() {
            self.append_gap(Gap {
                ids: Vec::new(),
                everything,
            });
        }
    }

    pub(super) fn open_gap(&self, more: Gap, error: &journal::Error) {
        let mut guard = self.gap.lock();
        let (gap, file) = &mut *guard;
        gap.ids.extend(more.ids);
        gap.everything |= more.everything || gap.ids.len() > limits::GAP_IDS_MAX;
        if gap.everything {
            gap.ids.clear();
        }
        if !self.gap_open.swap(true, Ordering::AcqRel) {
            // The flag is durable before the application hears of its operation. Where even that
            // fails nothing durable is possible any more; the flag in memory still holds.
            if let Err(e) = set_gap_flag(file, true) {
                tracing::error!(error = %e, "cannot make the gap durable");
            }
        }
        drop(guard);
        tracing::error!(%error, "an operation could not be recorded: files are in doubt");
        self.observer.record_lost(error.to_string());
    }

    pub(super) fn close_gap(&self) {
        let mut guard = self.gap.lock();
        if !self.gap_open.load(Ordering::Acquire) {
            return;
        }
        let (gap, file) = &mut *guard;
        let op = Op::Gap {
            ids: gap.ids.clone(),
            everything: gap.everything,
        };
        if self.append_job(op).is_err() {
            return;
        }
        *gap = Gap::default();
        self.gap_open.store(false, Ordering::Release);
        if let Err(error) = set_gap_flag(file, false) {
            tracing::error!(%error, "cannot clear the durable gap flag: a mirror follows at the next start");
        }
        drop(guard);
        self.observer.gap_recorded();
    }

    fn append_gap(&self, gap: Gap) {
        let op = Op::Gap {
            ids: gap.ids.clone(),
            everything: gap.everything,
        };
        match self.append_job(op) {
            Ok(_) => self.observer.gap_recorded(),
            Err(error) => self.open_gap(gap, &error),
        }
    }

    /// Is there a gap that could not be recorded yet?
    pub fn has_open_gap(&self) -> bool {
        self.unnamed.load(Ordering::Acquire) > 0 || self.gap_open.load(Ordering::Acquire)
    }

    /// Tries to record an open gap; true when there is none (any more).
    pub fn try_close_gap(&self) -> bool {
        if self.has_open_gap() {
            self.close_gap();
        }
        !self.has_open_gap()
    }

    /// Clears the durable flag: everything has been put in doubt, so nothing is missing any more.
    ///
    /// # Errors
    /// When the flag file cannot be written.
    pub fn clear_gap_flag(&self) -> std::io::Result<()> {
        set_gap_flag(&self.gap.lock().1, false)
    }
}

const GAP_CLEAR: &[u8; 4] = b"none";
const GAP_SET: &[u8; 4] = b"gap!";

/// Opens the flag file with its four bytes allocated, so that setting it needs no space.
pub(super) fn open_gap_file(path: &Path) -> std::io::Result<(File, bool)> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let bytes = std::fs::read(path)?;
    let was_set = !bytes.is_empty() && bytes != GAP_CLEAR;
    if bytes.is_empty() {
        file.write_all(GAP_CLEAR)?;
        file.sync_all()?;
    }
    Ok((file, was_set))
}

fn set_gap_flag(file: &File, set: bool) -> std::io::Result<()> {
    let bytes = if set { GAP_SET } else { GAP_CLEAR };
    sys::pwrite(file.as_fd(), bytes, 0)?;
    sys::fdatasync(file.as_fd())
}
