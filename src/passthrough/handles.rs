//! Open files and directories of the mount, by the number that the kernel gives back.
//!
//! Programs may have more files open, all together, than one process may have descriptors. So only
//! those used last have one; the others are opened again by their identity when they are used. A file
//! that was removed while open is kept by [`Tree`] until the kernel forgets it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use lru::LruCache;

use super::tree::{Error, Tree};
use crate::live::{Found, Live, Slab};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::{Caller, FileId, Generation, Ino, ROOT_ID};

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// Which.
    pub id: FileId,
    /// Below: never with `O_APPEND` (pwrite would ignore its offset) nor `O_DIRECT`.
    pub fd: OwnedFd,
    /// Who opened it: pages of its mappings are written as theirs.
    pub opener: Caller,
    /// Where it was when it was opened; for people only.
    pub path: Vec<u8>,
    /// What the file system below wants of direct I/O, once somebody asked.
    direct: OnceLock<Option<u64>>,
}

impl OpenFile {
    /// An open file that was at `path`.
    pub fn new(id: FileId, fd: OwnedFd, opener: Caller, path: Vec<u8>) -> OpenFile {
        OpenFile {
            id,
            fd,
            opener,
            path,
            direct: OnceLock::new(),
        }
    }

    /// Would the file system below refuse to write this range directly? We do no direct I/O, our
    /// buffers being what they are, and so have to refuse it ourselves. What it wants of the caller's
    /// memory is not known here. (Of reads file systems and kernels want different things, and some
    /// nothing.)
    pub fn refuses_direct_write(&self, offset: u64, length: u64) -> bool {
        let wanted = self
            .direct
            .get_or_init(|| sys::direct_alignment(self.fd.as_fd()));
        wanted.is_some_and(|align| !offset.is_multiple_of(align) || !length.is_multiple_of(align))
    }
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

/// Something open that can be closed and opened again.
pub trait Open: Sized {
    /// What it is made of.
    fn of(tree: &Tree, id: FileId, fd: OwnedFd, opener: Caller) -> Self;
    /// Which.
    fn id(&self) -> FileId;
    /// Who opened it, where that matters.
    fn opener(&self) -> Caller;
}

impl Open for OpenFile {
    fn of(tree: &Tree, id: FileId, fd: OwnedFd, opener: Caller) -> OpenFile {
        let path = tree.path_of(fd.as_fd());
        OpenFile::new(id, fd, opener, path)
    }

    fn id(&self) -> FileId {
        self.id
    }

    fn opener(&self) -> Caller {
        self.opener
    }
}

impl Open for OpenDir {
    fn of(_tree: &Tree, id: FileId, fd: OwnedFd, _opener: Caller) -> OpenDir {
        let cursor = Mutex::new(Rank::Handles, 0);
        OpenDir { id, fd, cursor }
    }

    fn id(&self) -> FileId {
        self.id
    }

    fn opener(&self) -> Caller {
        Caller::default()
    }
}

const SHARDS: usize = 8;

/// Words of a record that survives the worker.
const RECORD_WORDS: usize = 5;

/// Fewest descriptors that a shard keeps.
const SHARD_MIN: usize = 4;

/// How something is opened again.
#[derive(Debug, Clone, Copy)]
struct Again {
    id: FileId,
    flags: i32,
    opener: Caller,
    /// Where it is kept for the next worker.
    slot: u32,
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Again {
    fn writes(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    fn record(&self, number: u64) -> [u64; RECORD_WORDS] {
        let Caller { uid, gid, pid } = self.opener;
        [
            number,
            self.id.ino.0,
            self.id.generation.0,
            pair(self.flags as u32, pid),
            pair(uid, gid),
        ]
    }

    /// The number, and how it is opened again.
    fn of(found: Found) -> Option<(u64, Again)> {
        let [number, ino, generation, flags, owner]: [u64; RECORD_WORDS] =
            found.words.try_into().ok()?;
        let (low, high) = (|pair: u64| pair as u32, |pair: u64| (pair >> 32) as u32);
        let again = Again {
            id: FileId {
                root: ROOT_ID,
                ino: Ino(ino),
                generation: Generation(generation),
            },
            flags: low(flags) as i32,
            opener: Caller {
                uid: low(owner),
                gid: high(owner),
                pid: high(flags),
            },
            slot: found.slot,
        };
        Some((number, again))
    }
}

#[derive(Debug)]
struct Shard<T> {
    /// All, and how they are opened again.
    all: HashMap<u64, Again>,
    /// What the next worker finds.
    slab: Slab,
    /// Those with a descriptor, the one used last first.
    open: LruCache<u64, Arc<T>>,
}

/// A table of open things; numbers are never reused.
#[derive(Debug)]
pub struct Handles<T> {
    next: AtomicU64,
    shard_max: usize,
    live: Live,
    /// How many are open for writing.
    writers: AtomicU64,
    /// Who wants to know when there is one again.
    waits_for_writer: OnceLock<Thread>,
    /// Rank `Handles`; no I/O under it.
    shards: [Mutex<Shard<T>>; SHARDS],
}

impl<T: Open> Handles<T> {
    /// A table that keeps about this many descriptors open, and under `name` in `live` what is open,
    /// with all that is there already.
    pub fn new(open_max: u64, live: &Live, name: &str) -> Handles<T> {
        let shard = |index| {
            let (slab, found) = live.slab(&format!("{name}.{index}"), RECORD_WORDS);
            let shard = Shard {
                all: found.into_iter().filter_map(Again::of).collect(),
                slab,
                open: LruCache::unbounded(),
            };
            Mutex::new(Rank::Handles, shard)
        };
        let shards: [Mutex<Shard<T>>; SHARDS] = std::array::from_fn(shard);
        let writers = |shard: &Mutex<Shard<T>>| {
            let shard = shard.lock();
            shard.all.values().filter(|again| again.writes()).count() as u64
        };
        let writers = shards.iter().map(writers).sum();
        let share = usize::try_from(open_max).unwrap_or(usize::MAX) / SHARDS;
        Handles {
            next: AtomicU64::new(live.next_handle()),
            shard_max: share.max(SHARD_MIN),
            live: live.clone(),
            writers: AtomicU64::new(writers),
            waits_for_writer: OnceLock::new(),
            shards,
        }
    }

    /// What everything in it is, each as often as it is open.
    pub fn ids(&self) -> Vec<FileId> {
        let of = |shard: &Mutex<Shard<T>>| -> Vec<FileId> {
            shard.lock().all.values().map(|again| again.id).collect()
        };
        self.shards.iter().flat_map(of).collect()
    }

    fn shard(&self, number: u64) -> &Mutex<Shard<T>> {
        &self.shards[(number % SHARDS as u64) as usize]
    }

    /// Puts it among those with a descriptor. What falls out is closed after the lock is free.
    fn keep(&self, shard: &mut Shard<T>, number: u64, thing: Arc<T>) -> [Option<(u64, Arc<T>)>; 2] {
        let replaced = shard.open.push(number, thing);
        let too_many = shard.open.len() > self.shard_max;
        let oldest = too_many.then(|| shard.open.pop_lru()).flatten();
        [replaced, oldest]
    }

    /// Keeps `thing` under a new number; `flags` open it again. Somebody has told the tree that it is
    /// open.
    pub fn insert(&self, thing: T, flags: i32) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.live.note_handle(number);
        let mut again = Again {
            id: thing.id(),
            flags,
            opener: thing.opener(),
            slot: u32::MAX,
        };
        let mut shard = self.shard(number).lock();
        match shard.slab.insert(&again.record(number)) {
            Ok(slot) => again.slot = slot,
            Err(error) => self.live.note_missing(&error),
        }
        shard.all.insert(number, again);
        let out = self.keep(&mut shard, number, Arc::new(thing));
        drop(shard);
        drop(out);
        if again.writes()
            && self.writers.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = self.waits_for_writer.get()
        {
            thread.unpark();
        }
        number
    }

    /// How many are open for writing.
    pub fn writers(&self) -> u64 {
        self.writers.load(Ordering::Acquire)
    }

    /// Has this thread unparked whenever something is opened for writing while nothing else is; only the
    /// first one that asks.
    pub fn wake_for_writer(&self, thread: Thread) {
        let _ = self.waits_for_writer.set(thread);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.shards.iter().map(|s| s.lock().all.len() as u64).sum()
    }

    /// Which file it is.
    pub fn id(&self, number: u64) -> Option<FileId> {
        let shard = self.shard(number).lock();
        shard.all.get(&number).map(|again| again.id)
    }

    /// The thing under this number, opened again if need be; `None` when there is none.
    ///
    /// # Errors
    /// What opening it again says.
    pub fn get(&self, tree: &Tree, number: u64) -> Result<Option<Arc<T>>, Error> {
        let Again {
            id, flags, opener, ..
        } = {
            let mut shard = self.shard(number).lock();
            if let Some(thing) = shard.open.get(&number) {
                return Ok(Some(thing.clone()));
            }
            match shard.all.get(&number) {
                Some(&known) => known,
                None => return Ok(None),
            }
        };
        let thing = Arc::new(T::of(tree, id, tree.open(id, flags)?, opener));
        let mut shard = self.shard(number).lock();
        if shard.all.contains_key(&number) {
            let out = self.keep(&mut shard, number, thing.clone());
            drop(shard);
            drop(out);
        }
        Ok(Some(thing))
    }

    /// Forgets the number; the descriptor closes when its last user is done. Returns what it was.
    pub fn remove(&self, number: u64) -> Option<FileId> {
        let mut shard = self.shard(number).lock();
        let known = shard.all.remove(&number);
        if let Some(again) = known {
            shard.slab.remove(again.slot);
            if shard.slab.is_sparse(shard.all.len()) {
                self.shrink(&mut shard);
            }
        }
        let open = shard.open.pop(&number);
        drop(shard);
        drop(open);
        if known.is_some_and(|again| again.writes()) {
            self.writers.fetch_sub(1, Ordering::AcqRel);
        }
        known.map(|again| again.id)
    }

    /// Gives room back that many open files took.
    fn shrink(&self, shard: &mut Shard<T>) {
        let mut next = 0;
        let record = |(number, again): (&u64, &mut Again)| {
            again.slot = next;
            next += 1;
            again.record(*number).to_vec()
        };
        let records: Vec<Vec<u64>> = shard.all.iter_mut().map(record).collect();
        if let Err(error) = shard.slab.rebuild(records.into_iter()) {
            self.live.note_missing(&error);
            shard.slab = Slab::none();
        }
    }
}
