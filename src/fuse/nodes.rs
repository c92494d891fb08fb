//! The nodes that the kernel knows: number -> generation and lookup count.

use std::collections::HashMap;
use std::sync::Arc;

use crate::stats::SetCounters;
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::{FileId, Generation, Ino, ROOT_ID};

const SHARDS: usize = 16;

/// A shard with room for so many nodes gives its memory back to the system when it shrinks.
const LARGE: usize = 8192;
const ROOT_NODE: u64 = 1;

#[derive(Debug, Clone, Copy)]
struct Known {
    generation: Generation,
    nlookup: u64,
}

/// The table. Measured: 66 to 80 bytes of memory a node, given back when the kernel forgets them.
#[derive(Debug)]
pub(super) struct Nodes {
    root: FileId,
    shards: [Mutex<HashMap<u64, Known>>; SHARDS],
    counters: Arc<SetCounters>,
}

impl Nodes {
    pub(super) fn new(root: FileId, counters: Arc<SetCounters>) -> Nodes {
        let shard = |_| Mutex::new(Rank::Nodes, HashMap::new());
        Nodes {
            root,
            shards: std::array::from_fn(shard),
            counters,
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

    /// The inode number below behind a number of the kernel's.
    pub(super) fn ino(&self, node: u64) -> Ino {
        match node {
            ROOT_NODE => self.root.ino,
            node if node == self.root.ino.0 => Ino(ROOT_NODE),
            node => Ino(node),
        }
    }

    /// The file behind a number; `None` when the kernel was never told (or forgot) it.
    pub(super) fn id(&self, node: u64) -> Option<FileId> {
        if node == ROOT_NODE {
            return Some(self.root);
        }
        let known = *self.shard(node).lock().get(&node)?;
        Some(self.id_of(node, known))
    }

    fn id_of(&self, node: u64, known: Known) -> FileId {
        FileId {
            root: ROOT_ID,
            ino: self.ino(node),
            generation: known.generation,
        }
    }

    /// Counts one lookup, before the reply that tells the kernel.
    pub(super) fn remember(&self, id: FileId) {
        let node = self.number(id);
        if node == ROOT_NODE {
            return;
        }
        let counters = &self.counters.kernel;
        let mut shard = self.shard(node).lock();
        let known = shard.entry(node).or_insert_with(|| {
            counters.nodes_told.add(1);
            Known {
                generation: id.generation,
                nlookup: 0,
            }
        });
        // A number whose inode was replaced: the kernel's old node is stale from here on.
        known.generation = id.generation;
        known.nlookup += 1;
        counters.lookups_told.add(1);
    }

    /// Takes back `nlookup` lookups; the node goes with the last, and is returned then.
    pub(super) fn forget(&self, node: u64, nlookup: u64) -> Option<FileId> {
        if node == ROOT_NODE {
            return None;
        }
        let counters = &self.counters.kernel;
        let mut shard = self.shard(node).lock();
        let known = shard.get(&node).map_or(0, |known| known.nlookup);
        let taken = nlookup.min(known);
        counters.lookups_forgotten.add(taken);
        if taken < nlookup {
            counters.lookups_unknown.add(nlookup - taken);
            tracing::error!(
                node,
                nlookup,
                known,
                "the kernel forgot more than it was told"
            );
        }
        if nlookup < known {
            if let Some(rest) = shard.get_mut(&node) {
                rest.nlookup -= nlookup;
            }
            return None;
        }
        let gone = shard.remove(&node)?;
        counters.nodes_forgotten.add(1);
        let before = shard.capacity();
        let shrinks = before > 4 * shard.len() + 1024;
        if shrinks {
            shard.shrink_to_fit();
        }
        drop(shard);
        if shrinks && before >= LARGE {
            sys::return_memory();
        }
        Some(self.id_of(node, gone))
    }
}
