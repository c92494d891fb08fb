//! Inodes without a name that somebody still uses.
//!
//! What is open, or is a program's working directory, goes on after its last name has gone, and ends
//! with the kernel's memory of it. Nothing but a descriptor keeps it below meanwhile.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{Mutex, Rank};
use crate::types::FileId;

const SHARDS: usize = 8;

#[derive(Debug, Default)]
struct Shard {
    /// How often each inode is open.
    opened: HashMap<FileId, u32>,
    /// What keeps those that were removed.
    kept: HashMap<FileId, Arc<OwnedFd>>,
}

/// The table of both.
#[derive(Debug)]
pub(super) struct Removed {
    kept_count: AtomicUsize,
    /// Rank `Cache`; no I/O under it.
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Removed {
    fn default() -> Removed {
        Removed {
            kept_count: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::new(Rank::Cache, Shard::default())),
        }
    }
}

impl Removed {
    fn shard(&self, id: FileId) -> &Mutex<Shard> {
        &self.shards[(id.ino.0 as usize) % SHARDS]
    }

    /// Somebody is about to open it: counted before, so that a removal meanwhile keeps it.
    pub(super) fn note_open(&self, id: FileId) {
        *self.shard(id).lock().opened.entry(id).or_default() += 1;
    }

    /// Somebody closed it, or could not open it.
    pub(super) fn note_closed(&self, id: FileId) {
        let mut shard = self.shard(id).lock();
        if let Some(count) = shard.opened.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                shard.opened.remove(&id);
            }
        }
    }

    /// Its last name went: kept, if `always` or open. True when it is kept from now on.
    pub(super) fn keep(&self, id: FileId, fd: &Arc<OwnedFd>, always: bool) -> bool {
        let mut shard = self.shard(id).lock();
        let is_new = (always || shard.opened.contains_key(&id))
            && shard.kept.insert(id, fd.clone()).is_none();
        if is_new {
            self.kept_count.fetch_add(1, Ordering::AcqRel);
        }
        is_new
    }

    /// Would it be kept, were its last name removed now?
    pub(super) fn is_used(&self, id: FileId) -> bool {
        self.shard(id).lock().opened.contains_key(&id)
    }

    /// What keeps it.
    pub(super) fn find(&self, id: FileId) -> Option<Arc<OwnedFd>> {
        if self.kept_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.shard(id).lock().kept.get(&id).cloned()
    }

    /// The kernel knows it no more: nobody uses it. True when it was kept.
    pub(super) fn forget(&self, id: FileId) -> bool {
        if self.kept_count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let kept = self.shard(id).lock().kept.remove(&id);
        if kept.is_some() {
            self.kept_count.fetch_sub(1, Ordering::AcqRel);
        }
        kept.is_some()
    }
}
