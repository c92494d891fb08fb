//! Where inodes were seen lately, to tell people.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;

use crate::sync::{Mutex, Rank};
use crate::types::FileId;

const SHARDS: usize = 8;
/// Paths kept in each shard.
const KEPT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Each with the number of renames that were before it was looked up.
type Shard = Mutex<LruCache<FileId, (u64, Vec<u8>)>>;

/// Paths of inodes, each from the time between two renames: any of these may have changed it.
#[derive(Debug)]
pub(super) struct Paths {
    renames: AtomicU64,
    shards: [Shard; SHARDS],
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            renames: AtomicU64::new(0),
            shards: std::array::from_fn(|_| Mutex::new(Rank::Cache, LruCache::new(KEPT))),
        }
    }
}

impl Paths {
    /// Something got another name.
    pub(super) fn note_rename(&self) {
        self.renames.fetch_add(1, Ordering::AcqRel);
    }

    /// The path of `id`; looked up when it is not known.
    pub(super) fn of(&self, id: FileId, look_up: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        // Before it is looked up: a rename meanwhile makes it old.
        let renames = self.renames.load(Ordering::Acquire);
        if let Some((since, path)) = self.shard(id).lock().get(&id)
            && *since == renames
        {
            return path.clone();
        }
        let path = look_up();
        self.shard(id).lock().put(id, (renames, path.clone()));
        path
    }

    fn shard(&self, id: FileId) -> &Shard {
        &self.shards[(id.ino.0 % SHARDS as u64) as usize]
    }
}
