//! The want-list: the files whose image the replica needs.
//!
//! Files are handed out before directories, and the directory found last first: what waits is then
//! mostly directories, and the list stays short in a deep tree.

use std::collections::{HashMap, VecDeque};

use crate::types::{FileId, limits};

use super::replica::InodeKind;

/// Ids wanted, and which of them the source has been asked for.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Everything wanted; true: asked for.
    all: HashMap<FileId, bool>,
    files: VecDeque<FileId>,
    dirs: Vec<FileId>,
    outstanding: usize,
}

impl Wants {
    pub(super) fn add(&mut self, id: FileId, kind: InodeKind) {
        if self.all.contains_key(&id) {
            return;
        }
        self.all.insert(id, false);
        self.queue(id, kind);
    }

    /// Wanted, and on its way without having been asked for.
    pub(super) fn add_asked(&mut self, id: FileId) {
        if let std::collections::hash_map::Entry::Vacant(slot) = self.all.entry(id) {
            slot.insert(true);
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
        if self.all.remove(&id) == Some(true) {
            self.outstanding -= 1;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Wants::default();
    }

    /// Ids to ask for now: at most `max`, and so many that no more than the limit are outstanding.
    pub(super) fn take(&mut self, max: usize) -> Vec<FileId> {
        let room = limits::WANT_COUNT_MAX.saturating_sub(self.outstanding);
        let mut taken = Vec::new();
        while taken.len() < max.min(room) {
            let Some(id) = self.files.pop_front().or_else(|| self.dirs.pop()) else {
                break;
            };
            // No longer wanted, or queued twice and asked for already.
            if let Some(asked @ false) = self.all.get_mut(&id) {
                *asked = true;
                self.outstanding += 1;
                taken.push(id);
            }
        }
        taken
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
