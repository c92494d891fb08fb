//! Which object of the replica stands for which file of the source.

use std::collections::{HashMap, HashSet};

use crate::types::FileId;

use super::replica::{Inode, InodeKind, Object};

/// How far the object's content can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Trust {
    /// Exact: operations on it are applied.
    Live = 0,
    /// In doubt until its image: operations on it are skipped.
    Stale = 1,
    /// Its image has begun and not ended: operations on it are applied.
    Imaging = 2,
}

/// One file of the source: its object here. 24 bytes, as there may be millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    object_ino: u64,
    object_generation: u32,
    epoch: u32,
    kind: InodeKind,
    trust: Trust,
    /// Stands in a live directory (or is the root), so that its image is wanted.
    placed: bool,
}

const _: () = assert!(size_of::<Held>() + size_of::<FileId>() <= 56);

/// Bytes of an encoded entry.
pub(super) const HELD_BYTES: usize = 19;

impl Held {
    /// The object.
    pub(super) fn inode(&self) -> Inode {
        Inode {
            object: self.object(),
            kind: self.kind,
        }
    }

    /// Who it is.
    pub(super) fn object(&self) -> Object {
        Object {
            ino: self.object_ino,
            generation: self.object_generation,
        }
    }

    /// Little-endian: ino, generation, epoch, kind, trust, placed.
    pub(super) fn encode(&self) -> [u8; HELD_BYTES] {
        let mut bytes = [0; HELD_BYTES];
        bytes[..8].copy_from_slice(&self.object_ino.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.object_generation.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16] = self.kind as u8;
        bytes[17] = self.trust as u8;
        bytes[18] = u8::from(self.placed);
        bytes
    }

    /// The other way; `None` when the bytes are no entry.
    pub(super) fn decode(bytes: &[u8]) -> Option<Held> {
        let bytes: &[u8; HELD_BYTES] = bytes.try_into().ok()?;
        Some(Held {
            object_ino: u64::from_le_bytes(*bytes.first_chunk()?),
            object_generation: u32::from_le_bytes(*bytes[8..].first_chunk()?),
            epoch: u32::from_le_bytes(*bytes[12..].first_chunk()?),
            kind: match bytes[16] {
                0 => InodeKind::File,
                1 => InodeKind::Dir,
                2 => InodeKind::Other,
                _ => return None,
            },
            trust: match bytes[17] {
                0 => Trust::Live,
                1 => Trust::Stale,
                2 => Trust::Imaging,
                _ => return None,
            },
            placed: bytes[18] != 0,
        })
    }
}

/// What became of an id: its entry now, or none.
pub type Change = (FileId, Option<Held>);

/// All files known, with what changed since the last checkpoint and in the current operation.
#[derive(Debug, Default)]
pub(super) struct Map {
    entries: HashMap<FileId, Held>,
    /// Entries of an older epoch are stale and not placed: a full mirror costs no loop.
    epoch: u32,
    dirty: HashSet<FileId>,
    changed: Vec<FileId>,
}

impl Map {
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is known of an id, whatever its state.
    pub(super) fn get(&self, id: FileId) -> Option<Inode> {
        self.entries.get(&id).map(Held::inode)
    }

    /// How far it is believed; `None` for an unknown id.
    pub(super) fn trust(&self, id: FileId) -> Option<Trust> {
        self.entries.get(&id).map(|held| self.trust_of(held))
    }

    fn trust_of(&self, held: &Held) -> Trust {
        if held.epoch == self.epoch {
            held.trust
        } else {
            Trust::Stale
        }
    }

    /// Has the id been met since everything was put in doubt?
    pub(super) fn is_of_epoch(&self, id: FileId) -> bool {
        let held = self.entries.get(&id);
        held.is_some_and(|held| held.epoch == self.epoch)
    }

    /// The object of an id whose content is exact.
    pub(super) fn live(&self, id: FileId) -> Option<Inode> {
        let held = self.entries.get(&id)?;
        (self.trust_of(held) == Trust::Live).then(|| held.inode())
    }

    /// The directories whose entries are exact.
    pub(super) fn live_dirs(&self) -> HashSet<Object> {
        let live = self
            .entries
            .values()
            .filter(|held| held.kind == InodeKind::Dir && self.trust_of(held) == Trust::Live);
        live.map(Held::object).collect()
    }

    /// The ids of these objects.
    pub(super) fn ids_of(&self, objects: &[Object]) -> Vec<FileId> {
        let known = self.entries.iter();
        let known = known.filter(|(_, held)| objects.contains(&held.object()));
        known.map(|(id, _)| *id).collect()
    }

    /// The object of an id that operations are applied to.
    pub(super) fn touchable(&self, id: FileId) -> Option<Inode> {
        let held = self.entries.get(&id)?;
        (self.trust_of(held) != Trust::Stale).then(|| held.inode())
    }

    /// Binds an id to an object.
    pub(super) fn bind(&mut self, id: FileId, inode: Inode, trust: Trust) {
        let held = Held {
            object_ino: inode.object.ino,
            object_generation: inode.object.generation,
            epoch: self.epoch,
            kind: inode.kind,
            trust,
            placed: trust != Trust::Live,
        };
        if self.entries.insert(id, held) != Some(held) {
            self.note(id);
        }
    }

    /// Changes how far a known id is believed.
    pub(super) fn set_trust(&mut self, id: FileId, trust: Trust) {
        let Some(inode) = self.get(id) else { return };
        self.bind(id, inode, trust);
    }

    /// Drops an id; true when it was known.
    pub(super) fn remove(&mut self, id: FileId) -> bool {
        let known = self.entries.remove(&id).is_some();
        if known {
            self.note(id);
        }
        known
    }

    /// Drops every id that is still in doubt.
    pub(super) fn remove_stale(&mut self) {
        let epoch = self.epoch;
        let dead: Vec<FileId> = self
            .entries
            .iter()
            .filter(|(_, held)| held.epoch != epoch || held.trust != Trust::Live)
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            self.remove(id);
        }
    }

    /// Drops every id that stands for one of these.
    pub(super) fn remove_objects(&mut self, gone: &HashSet<Object>) {
        let held = self.entries.iter();
        let dead: Vec<FileId> = held
            .filter(|(_, held)| gone.contains(&held.object()))
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            self.remove(id);
        }
    }

    /// All objects that are known.
    pub(super) fn inodes(&self) -> Vec<Inode> {
        self.entries.values().map(Held::inode).collect()
    }

    /// Ids whose image is wanted: in doubt, and in a place.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (FileId, InodeKind)> + '_ {
        self.entries
            .iter()
            .filter(|(_, held)| {
                held.epoch == self.epoch && held.placed && held.trust != Trust::Live
            })
            .map(|(id, held)| (*id, held.kind))
    }

    fn note(&mut self, id: FileId) {
        self.dirty.insert(id);
        self.changed.push(id);
    }

    /// What the current operation changed; `settle` empties it.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.changed
            .iter()
            .map(|id| (*id, self.entries.get(id).copied()))
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The current operation is noted.
    pub(super) fn settle(&mut self) {
        self.changed.clear();
    }

    /// Takes an entry as it was stored: no change.
    pub(super) fn load(&mut self, change: Change) {
        match change {
            (id, Some(held)) => {
                self.entries.insert(id, held);
            }
            (id, None) => {
                self.entries.remove(&id);
            }
        }
    }

    /// Takes a change that the last checkpoint has not.
    pub(super) fn load_dirty(&mut self, change: Change) {
        self.dirty.insert(change.0);
        self.load(change);
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes the set of changed ids; the next checkpoint starts with an empty one.
    pub(super) fn take_dirty(&mut self) -> HashSet<FileId> {
        std::mem::take(&mut self.dirty)
    }

    /// The entries of these ids as they are now.
    pub(super) fn snapshot(&self, ids: &HashSet<FileId>) -> Vec<Change> {
        ids.iter()
            .map(|id| (*id, self.entries.get(id).copied()))
            .collect()
    }
}
