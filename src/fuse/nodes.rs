//! The nodes that the kernel knows: number -> generation and lookup count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{Mutex, Rank};
use crate::types::{FileId, Generation, Ino, ROOT_ID};

const SHARDS: usize = 16;
const ROOT_NODE: u64 = 1;

#[derive(Debug, Clone, Copy)]
struct Known {
    generation: Generation,
    nlookup: u64,
}

/// The table. About 40 bytes a node.
#[derive(Debug)]
pub(super) struct Nodes {
    root: FileId,
    shards: [Mutex<HashMap<u64, Known>>; SHARDS],
    count: AtomicU64,
}

impl Nodes {
    pub(super) fn new(root: FileId) -> Nodes {
        let shard = |_| Mutex::new(Rank::Nodes, HashMap::new());
        Nodes {
            root,
            shards: std::array::from_fn(shard),
            count: AtomicU64::new(0),
        }
    }

    fn shard(&self, node: u64) -> &Mutex<HashMap<u64, Known>> {
        &self.shards[(node % SHARDS as u64) as usize]
    }

    /// The number by which the kernel knows this inode.
    pub(super) fn number(&self, id: FileId) -> u64 {
        match id.ino.0 {
            ino if ino == self.root.ino.0 => ROOT_NODE,
            ROOT_NODE => self.root.ino.0,
            ino => ino,
        }
    }

    /// The file behind a number; `None` when the kernel was never told (or forgot) it.
    pub(super) fn id(&self, node: u64) -> Option<FileId> {
        if node == ROOT_NODE {
            return Some(self.root);
        }
        let known = *self.shard(node).lock().get(&node)?;
        let ino = if node == self.root.ino.0 {
            ROOT_NODE
        } else {
            node
        };
        Some(FileId {
            root: ROOT_ID,
            ino: Ino(ino),
            generation: known.generation,
        })
    }

    /// Counts one lookup, before the reply that tells the kernel.
    pub(super) fn remember(&self, id: FileId) {
        let node = self.number(id);
        if node == ROOT_NODE {
            return;
        }
        let mut shard = self.shard(node).lock();
        let known = shard.entry(node).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Known {
                generation: id.generation,
                nlookup: 0,
            }
        });
        // A number whose inode was replaced: the kernel's old node is stale from here on.
        known.generation = id.generation;
        known.nlookup += 1;
    }

    /// Takes back `nlookup` lookups; the node goes with the last.
    pub(super) fn forget(&self, node: u64, nlookup: u64) {
        let mut shard = self.shard(node).lock();
        if let Some(known) = shard.get_mut(&node) {
            known.nlookup = known.nlookup.saturating_sub(nlookup);
            if known.nlookup == 0 {
                shard.remove(&node);
                if shard.capacity() > 4 * shard.len() + 1024 {
                    shard.shrink_to_fit();
                }
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
