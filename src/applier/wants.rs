//! The want-list: the files whose image the replica needs.
//!
//! Files are handed out before directories, and the directory found last first: what waits is then
//! mostly directories, and the list stays short in a deep tree. Of directories so many are asked for at a time as
//! hold the files, going by those listed before, that may be asked for: the list stays short in a wide tree, too, and
//! files are imaged while others are listed.

use std::collections::{HashMap, VecDeque};

use crate::types::{FileId, limits};

use super::replica::InodeKind;

/// Files in a directory, as long as nothing is known.
const FILES_EACH: usize = 16;

/// Something wanted.
#[derive(Debug, Clone, Copy)]
struct Want {
    is_asked: bool,
    is_dir: bool,
}

/// Ids wanted, and which of them the source has been asked for.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Everything wanted.
    all: HashMap<FileId, Want>,
    files: VecDeque<FileId>,
    dirs: Vec<FileId>,
    outstanding: usize,
    /// Of these, directories.
    outstanding_dirs: usize,
    /// Directories that were wanted and are there, and files found so far.
    dirs_done: usize,
    files_found: usize,
}

impl Wants {
    pub(super) fn add(&mut self, id: FileId, kind: InodeKind) {
        if self.all.contains_key(&id) {
            return;
        }
        let is_dir = kind == InodeKind::Dir;
        let is_asked = false;
        self.all.insert(id, Want { is_asked, is_dir });
        self.files_found += usize::from(!is_dir);
        self.queue(id, kind);
    }

    /// A file that is wanted, and on its way without having been asked for.
    pub(super) fn add_asked(&mut self, id: FileId) {
        if let std::collections::hash_map::Entry::Vacant(slot) = self.all.entry(id) {
            slot.insert(Want {
                is_asked: true,
                is_dir: false,
            });
            self.outstanding += 1;
        }
    }

    fn queue(&mut self, id: FileId, kind: InodeKind) {
        match kind {
            InodeKind::Dir => self.dirs.push(id),
            InodeKind::File | InodeKind::Other => self.files.push_back(id),
        }
    }

    /// Wanted again from the start, whatever was asked before.
    pub(super) fn add_anew(&mut self, id: FileId, kind: InodeKind) {
        self.remove(id);
        self.add(id, kind);
    }

    pub(super) fn remove(&mut self, id: FileId) {
        let Some(want) = self.all.remove(&id) else {
            return;
        };
        self.dirs_done += usize::from(want.is_dir);
        self.outstanding -= usize::from(want.is_asked);
        self.outstanding_dirs -= usize::from(want.is_asked && want.is_dir);
    }

    pub(super) fn clear(&mut self) {
        *self = Wants::default();
    }

    /// Ids to ask for now: at most `max`, and so many that no more than the limit are outstanding.
    pub(super) fn take(&mut self, max: usize) -> Vec<FileId> {
        let room = limits::WANT_COUNT_MAX.saturating_sub(self.outstanding);
        let mut taken = Vec::new();
        while taken.len() < max.min(room) {
            let next = match self.files.pop_front() {
                Some(file) => Some(file),
                None if self.outstanding_dirs < self.dirs_at_a_time() => self.dirs.pop(),
                None => None,
            };
            let Some(id) = next else { break };
            // No longer wanted, or queued twice and asked for already.
            if let Some(want) = self.all.get_mut(&id).filter(|want| !want.is_asked) {
                want.is_asked = true;
                self.outstanding += 1;
                self.outstanding_dirs += usize::from(want.is_dir);
                taken.push(id);
            }
        }
        taken
    }

    fn dirs_at_a_time(&self) -> usize {
        let each = (self.files_found + FILES_EACH) / (self.dirs_done + 1);
        (limits::WANT_COUNT_MAX / (each + 1)).max(1)
    }

    /// Nothing has been asked for: the source that was asked is gone.
    pub(super) fn reset(&mut self, kind_of: impl Fn(FileId) -> Option<InodeKind>) {
        let mut ids: Vec<FileId> = self.all.keys().copied().collect();
        // Always the same order: a run can be repeated.
        ids.sort_unstable();
        self.clear();
        for id in ids {
            if let Some(kind) = kind_of(id) {
                self.add(id, kind);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }
}
