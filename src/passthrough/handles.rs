//! Open files and directories of the mount, by the number that the kernel gives back.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{Mutex, Rank};
use crate::types::FileId;

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// Which.
    pub id: FileId,
    /// Below: never with `O_APPEND` (pwrite would ignore its offset) nor `O_DIRECT`.
    pub fd: OwnedFd,
    /// Where it was when it was opened; for people only.
    pub path: Vec<u8>,
}

/// An open directory.
#[derive(Debug)]
pub struct OpenDir {
    /// Which.
    pub id: FileId,
    /// Below; its offset belongs to whoever holds `cursor`.
    pub fd: OwnedFd,
    /// The cookie that the descriptor stands at (rank `Handles`; getdents happens under it).
    pub cursor: Mutex<i64>,
}

const SHARDS: usize = 8;

/// A table of open things; numbers are never reused.
#[derive(Debug)]
pub struct Handles<T> {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<T>>>; SHARDS],
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        let shard = |_| Mutex::new(Rank::Handles, HashMap::new());
        Handles {
            next: AtomicU64::new(1),
            shards: std::array::from_fn(shard),
        }
    }
}

impl<T> Handles<T> {
    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Arc<T>>> {
        &self.shards[(number % SHARDS as u64) as usize]
    }

    /// Keeps `thing` under a new number.
    pub fn insert(&self, thing: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).lock().insert(number, Arc::new(thing));
        number
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.shards.iter().map(|s| s.lock().len() as u64).sum()
    }

    /// The thing under this number.
    pub fn get(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).lock().get(&number).cloned()
    }

    /// Gives the thing back; it closes when its last user is done.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).lock().remove(&number)
    }
}
