//! The nodes that the kernel knows: number -> generation and lookup count.

use std::collections::HashMap;
use std::sync::Arc;

use crate::live::{Live, Slab};
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
    /// Where it is kept for the next worker.
    slot: u32,
}

impl Known {
    fn record(&self, node: u64) -> [u64; RECORD_WORDS] {
        [node, self.generation.0, self.nlookup]
    }
}

/// Words of a record: node, generation, lookups.
const RECORD_WORDS: usize = 3;
const WORD_GENERATION: usize = 1;
const WORD_NLOOKUP: usize = 2;

#[derive(Debug)]
struct Shard {
    known: HashMap<u64, Known>,
    slab: Slab,
}

/// The table. Measured: 66 to 80 bytes of memory a node, given back when the kernel forgets them.
#[derive(Debug)]
pub(super) struct Nodes {
    root: FileId,
    shards: [Mutex<Shard>; SHARDS],
    counters: Arc<SetCounters>,
    live: Live,
}

impl Nodes {
    /// The nodes that the kernel knows already: those that `live` has.
    pub(super) fn new(root: FileId, counters: Arc<SetCounters>, live: &Live) -> Nodes {
        let shard = |index| {
            let (slab, found) = live.slab(&format!("nodes.{index}"), RECORD_WORDS);
            let known = found.into_iter().filter_map(|found| {
                let [node, generation, nlookup]: [u64; RECORD_WORDS] =
                    found.words.try_into().ok()?;
                let known = Known {
                    generation: Generation(generation),
                    nlookup,
                    slot: found.slot,
                };
                counters.kernel.nodes_told.add(1);
                counters.kernel.lookups_told.add(nlookup);
                Some((node, known))
            });
            let known = known.collect();
            Mutex::new(Rank::Nodes, Shard { known, slab })
        };
        Nodes {
            root,
            shards: std::array::from_fn(shard),
            counters: counters.clone(),
            live: live.clone(),
        }
    }

    fn shard(&self, node: u64) -> &Mutex<Shard> {
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
        let known = *self.shard(node).lock().known.get(&node)?;
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
        let mut guard = self.shard(node).lock();
        let Shard { known: all, slab } = &mut *guard;
        let known = all.entry(node).or_insert_with(|| {
            counters.nodes_told.add(1);
            let mut known = Known {
                generation: id.generation,
                nlookup: 0,
                slot: u32::MAX,
            };
            match slab.insert(&known.record(node)) {
                Ok(slot) => known.slot = slot,
                Err(error) => self.live.note_missing(&error),
            }
            known
        });
        // A number whose inode was replaced: the kernel's old node is stale from here on.
        if known.generation != id.generation {
            known.generation = id.generation;
            slab.set(known.slot, WORD_GENERATION, id.generation.0);
        }
        known.nlookup += 1;
        slab.set(known.slot, WORD_NLOOKUP, known.nlookup);
        drop(guard);
        self.live.flight().note_node(node);
        counters.lookups_told.add(1);
    }

    /// Takes back `nlookup` lookups; the node goes with the last, and is returned then.
    pub(super) fn forget(&self, node: u64, nlookup: u64) -> Option<FileId> {
        if node == ROOT_NODE {
            return None;
        }
        let counters = &self.counters.kernel;
        let mut guard = self.shard(node).lock();
        let Shard { known: all, slab } = &mut *guard;
        let known = all.get(&node).map_or(0, |known| known.nlookup);
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
            if let Some(rest) = all.get_mut(&node) {
                rest.nlookup -= nlookup;
                slab.set(rest.slot, WORD_NLOOKUP, rest.nlookup);
            }
            return None;
        }
        let gone = all.remove(&node)?;
        slab.remove(gone.slot);
        counters.nodes_forgotten.add(1);
        let before = all.capacity();
        let shrinks = before > 4 * all.len() + 1024;
        if shrinks {
            all.shrink_to_fit();
        }
        if slab.is_sparse(all.len()) {
            self.shrink(all, slab);
        }
        drop(guard);
        if shrinks && before >= LARGE {
            sys::return_memory();
        }
        Some(self.id_of(node, gone))
    }

    /// Gives the room back that many nodes took.
    fn shrink(&self, all: &mut HashMap<u64, Known>, slab: &mut Slab) {
        let mut next = 0;
        let record = |(node, known): (&u64, &mut Known)| {
            known.slot = next;
            next += 1;
            known.record(*node).to_vec()
        };
        let records: Vec<Vec<u64>> = all.iter_mut().map(record).collect();
        if let Err(error) = slab.rebuild(records.into_iter()) {
            self.live.note_missing(&error);
            *slab = Slab::none();
        }
    }
}
