//! The requests under way: one slot for each thread that serves, and one for each request of a worker
//! that died which the kernel has not asked for again.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{Mutex, Rank};
use crate::sys::SharedWords;
use crate::types::{FileId, Generation, Ino, ROOT_ID, Seq};

use super::intent::Intent;

/// `FUSE_UNIQUE_RESEND`: the kernel sends this request once more.
const RESENT: u64 = 1 << 63;

/// Slots of threads, and behind them those of requests left over.
const THREADS: usize = 16;
const SLOTS: usize = 64;

const WORD_UNIQUE: usize = 0;
/// How many workers died over it.
const WORD_DEATHS: usize = 1;
/// The journal's end when the intent was noted.
const WORD_END: usize = 2;
const WORD_INTENT_BYTES: usize = 3;
const WORD_NODES: usize = 4;
/// 0 or the number of the open file.
const WORD_FILE: usize = 5;
/// 0 or the number of the open directory.
const WORD_DIR: usize = 6;
/// How it is to be answered: 0 by serving it.
const WORD_ANSWER: usize = 7;
const WORD_VALUE: usize = 8;
const WORD_GENERATION: usize = 9;
/// Which take-over left it, counted from 1.
const WORD_BORN: usize = 10;
/// 1: it was answered, or is just being, and not recorded yet.
const WORD_ANSWERED: usize = 11;
const INTENT_AT: usize = 12;
const INTENT_WORDS: usize = 512;
const NODES_AT: usize = INTENT_AT + INTENT_WORDS;
const NODES_MAX: usize = 1024;
const SLOT_WORDS: usize = NODES_AT + NODES_MAX;

thread_local! {
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What a request that took effect already is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// This inode is new, or has a new name.
    Entry(FileId),
    /// So many bytes were written.
    Written(u64),
    /// Workers die over it.
    Poison,
}

impl Answer {
    fn words(self) -> (u64, u64, u64) {
        match self {
            Answer::Done => (1, 0, 0),
            Answer::Entry(id) => (2, id.ino.0, id.generation.0),
            Answer::Written(bytes) => (3, bytes, 0),
            Answer::Poison => (4, 0, 0),
        }
    }

    fn of((kind, value, generation): (u64, u64, u64)) -> Option<Answer> {
        match kind {
            1 => Some(Answer::Done),
            2 => Some(Answer::Entry(FileId {
                root: ROOT_ID,
                ino: Ino(value),
                generation: Generation(generation),
            })),
            3 => Some(Answer::Written(value)),
            4 => Some(Answer::Poison),
            _ => None,
        }
    }
}

/// A request that a worker left when it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The kernel's number, without the mark of one that is sent again.
    pub unique: u64,
    /// How many workers died while they served it.
    pub deaths: u64,
    /// What it was about to change.
    pub intent: Option<Intent>,
    /// The journal's end before.
    pub end: Seq,
    /// Lookups that were counted for its answer, by node.
    pub nodes: Vec<u64>,
    /// The file opened for it, by number; 0: none.
    pub file: u64,
    /// The directory opened for it.
    pub dir: u64,
    /// What it is answered with, where that is known already.
    pub answer: Option<Answer>,
    /// Its program had its answer, perhaps, and what others did because of that may be left, too.
    pub was_answered: bool,
}

/// The slots.
#[derive(Debug)]
pub struct Flight {
    words: Option<SharedWords>,
    next: AtomicUsize,
    /// How many requests left over there are.
    left: AtomicUsize,
    /// Guards the slots of requests left over. Rank `Leaf`.
    leftovers: Mutex<()>,
}

impl Flight {
    pub(super) fn none() -> Flight {
        Flight::of(None)
    }

    fn of(words: Option<SharedWords>) -> Flight {
        Flight {
            words,
            next: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            leftovers: Mutex::new(Rank::Leaf, ()),
        }
    }

    pub(super) fn open(path: &Path) -> io::Result<Flight> {
        let flight = Flight::of(Some(SharedWords::open(path, SLOTS * SLOT_WORDS)?));
        let used = (THREADS..SLOTS).filter(|slot| flight.load(*slot, WORD_UNIQUE) != 0);
        flight.left.store(used.count(), Ordering::Release);
        Ok(flight)
    }

    fn load(&self, slot: usize, word: usize) -> u64 {
        self.words
            .as_ref()
            .map_or(0, |words| words.load(slot * SLOT_WORDS + word))
    }

    fn store(&self, slot: usize, word: usize, value: u64) {
        if let Some(words) = &self.words {
            words.store(slot * SLOT_WORDS + word, value);
        }
    }

    /// This thread's slot.
    fn slot(&self) -> Option<usize> {
        self.words.as_ref()?;
        SLOT.with(|slot| {
            if slot.get().is_none() {
                let next = self.next.fetch_add(1, Ordering::Relaxed);
                slot.set((next < THREADS).then_some(next));
            }
            slot.get()
        })
    }

    /// This thread begins to serve a request. Returns what an earlier worker left of it, where the
    /// kernel sends it again.
    pub fn begin(&self, unique: u64) -> Option<Left> {
        let slot = self.slot()?;
        let left = (unique & RESENT != 0 && self.left.load(Ordering::Acquire) > 0)
            .then(|| self.find_left(unique & !RESENT))
            .flatten();
        self.store(slot, WORD_UNIQUE, 0);
        for word in [
            WORD_INTENT_BYTES,
            WORD_NODES,
            WORD_FILE,
            WORD_DIR,
            WORD_ANSWER,
            WORD_ANSWERED,
        ] {
            self.store(slot, word, 0);
        }
        let deaths = left.as_ref().map_or(0, |left| left.deaths);
        self.store(slot, WORD_DEATHS, deaths);
        self.store(slot, WORD_UNIQUE, unique & !RESENT);
        left
    }

    /// The request is answered.
    pub fn end(&self) {
        let Some(slot) = self.slot() else {
            return;
        };
        let unique = self.load(slot, WORD_UNIQUE);
        if self.left.load(Ordering::Acquire) > 0 {
            self.settle(unique);
        }
        self.store(slot, WORD_UNIQUE, 0);
    }

    /// Notes what this thread's request is about to change; `end` is the journal's. False where it
    /// cannot be noted.
    pub fn intend(&self, intent: &Intent, end: Seq) -> bool {
        let Some(slot) = self.slot() else {
            return true;
        };
        if self.load(slot, WORD_UNIQUE) == 0 {
            return true;
        }
        let Ok(bytes) = rmp_serde::to_vec(intent) else {
            return false;
        };
        if bytes.len() > INTENT_WORDS * 8 {
            return false;
        }
        self.store(slot, WORD_INTENT_BYTES, 0);
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.store(slot, INTENT_AT + index, u64::from_le_bytes(word));
        }
        self.store(slot, WORD_END, end.0);
        self.store(slot, WORD_INTENT_BYTES, bytes.len() as u64);
        true
    }

    /// What was noted last did not happen: the call failed.
    pub fn retract(&self) {
        if let Some(slot) = self.slot() {
            self.store(slot, WORD_INTENT_BYTES, 0);
        }
    }

    /// This thread's request is about to be answered, and recorded after that.
    pub fn note_answered(&self) {
        if let Some(slot) = self.slot() {
            self.store(slot, WORD_ANSWERED, 1);
        }
    }

    /// A lookup was counted for the answer of this thread's request.
    pub fn note_node(&self, node: u64) {
        if let Some(slot) = self.slot() {
            let count = self.load(slot, WORD_NODES);
            // More than fit are never counted back, should this worker die now: their nodes stay known.
            if let Some(at) = usize::try_from(count)
                .ok()
                .filter(|count| *count < NODES_MAX)
            {
                self.store(slot, NODES_AT + at, node);
                self.store(slot, WORD_NODES, count + 1);
            }
        }
    }

    /// A file was opened for the answer of this thread's request.
    pub fn note_file(&self, number: u64) {
        if let Some(slot) = self.slot() {
            self.store(slot, WORD_FILE, number);
        }
    }

    /// As [`Flight::note_file`], a directory.
    pub fn note_dir(&self, number: u64) {
        if let Some(slot) = self.slot() {
            self.store(slot, WORD_DIR, number);
        }
    }

    fn read(&self, slot: usize) -> Option<Left> {
        let unique = self.load(slot, WORD_UNIQUE);
        if unique == 0 {
            return None;
        }
        let length = usize::try_from(self.load(slot, WORD_INTENT_BYTES)).unwrap_or(usize::MAX);
        let length = length.min(INTENT_WORDS * 8);
        let bytes: Vec<u8> = (0..length.div_ceil(8))
            .flat_map(|index| self.load(slot, INTENT_AT + index).to_le_bytes())
            .take(length)
            .collect();
        let nodes = usize::try_from(self.load(slot, WORD_NODES)).unwrap_or(0);
        Some(Left {
            unique,
            deaths: self.load(slot, WORD_DEATHS),
            intent: (length > 0)
                .then(|| rmp_serde::from_slice(&bytes).ok())
                .flatten(),
            end: Seq(self.load(slot, WORD_END)),
            nodes: (0..nodes.min(NODES_MAX))
                .map(|index| self.load(slot, NODES_AT + index))
                .collect(),
            file: self.load(slot, WORD_FILE),
            dir: self.load(slot, WORD_DIR),
            was_answered: self.load(slot, WORD_ANSWERED) != 0,
            answer: Answer::of((
                self.load(slot, WORD_ANSWER),
                self.load(slot, WORD_VALUE),
                self.load(slot, WORD_GENERATION),
            )),
        })
    }

    /// What the dead worker left: its threads' requests become requests left over. To be called once,
    /// before the first request is served. All of them are returned, also those of earlier workers. Where it
    /// `crashed`, the death counts against what it served; a kill from outside does not.
    pub fn take_left(&self, crashed: bool) -> Vec<Left> {
        let _guard = self.leftovers.lock();
        let last = (THREADS..SLOTS)
            .map(|slot| self.load(slot, WORD_BORN))
            .max();
        let born = last.unwrap_or(0) + 1;
        for slot in 0..THREADS {
            let unique = self.load(slot, WORD_UNIQUE);
            if unique == 0 {
                continue;
            }
            let same = (THREADS..SLOTS).find(|to| self.load(*to, WORD_UNIQUE) == unique);
            let free = (THREADS..SLOTS).find(|to| self.load(*to, WORD_UNIQUE) == 0);
            // Of more than there is room for, the oldest is forgotten, for which the kernel has not asked
            // in all the time since: it had its answer.
            let oldest = (THREADS..SLOTS).min_by_key(|slot| self.load(*slot, WORD_BORN));
            let Some(to) = same.or(free).or(oldest) else {
                continue;
            };
            // What was decided about it stands, unless it began to change something since.
            let begins = self.load(slot, WORD_INTENT_BYTES) != 0 || same.is_none();
            self.store(to, WORD_UNIQUE, 0);
            let copied = if begins {
                2..SLOT_WORDS
            } else {
                NODES_AT..SLOT_WORDS
            };
            for word in [WORD_NODES, WORD_FILE, WORD_DIR].into_iter().chain(copied) {
                self.store(to, word, self.load(slot, word));
            }
            if begins {
                self.store(to, WORD_ANSWER, 0);
            }
            self.store(
                to,
                WORD_DEATHS,
                self.load(slot, WORD_DEATHS) + u64::from(crashed),
            );
            self.store(to, WORD_BORN, born);
            self.store(to, WORD_UNIQUE, unique);
            self.store(slot, WORD_UNIQUE, 0);
        }
        let mut all: Vec<Left> = (THREADS..SLOTS)
            .filter_map(|slot| self.read(slot))
            .collect();
        // What was answered comes before what others may have done because of it.
        all.sort_by_key(|left| !left.was_answered);
        self.left.store(all.len(), Ordering::Release);
        all
    }

    /// What is left of this request. Its lookups and open files are the caller's to take back: they are
    /// not told again.
    fn find_left(&self, unique: u64) -> Option<Left> {
        let _guard = self.leftovers.lock();
        let slot = (THREADS..SLOTS).find(|slot| self.load(*slot, WORD_UNIQUE) == unique)?;
        let left = self.read(slot);
        for word in [WORD_NODES, WORD_FILE, WORD_DIR] {
            self.store(slot, word, 0);
        }
        left
    }

    /// What a request left over had been about to change is decided: it is served again, should the
    /// kernel send it again, and not looked at any more.
    pub fn note_settled(&self, unique: u64) {
        let _guard = self.leftovers.lock();
        let slot = (THREADS..SLOTS).find(|slot| self.load(*slot, WORD_UNIQUE) == unique);
        if let Some(slot) = slot {
            self.store(slot, WORD_INTENT_BYTES, 0);
        }
    }

    /// Notes what a request left over is to be answered with.
    pub fn note_answer(&self, unique: u64, answer: Answer) {
        let _guard = self.leftovers.lock();
        let slot = (THREADS..SLOTS).find(|slot| self.load(*slot, WORD_UNIQUE) == unique);
        if let Some(slot) = slot {
            let (kind, value, generation) = answer.words();
            self.store(slot, WORD_VALUE, value);
            self.store(slot, WORD_GENERATION, generation);
            self.store(slot, WORD_ANSWER, kind);
        }
    }

    fn settle(&self, unique: u64) {
        let _guard = self.leftovers.lock();
        let slot = (THREADS..SLOTS).find(|slot| self.load(*slot, WORD_UNIQUE) == unique);
        if let Some(slot) = slot.filter(|_| unique != 0) {
            self.store(slot, WORD_UNIQUE, 0);
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
