//! The one door to locks and threads: ranked locks, named threads.
//!
//! # Invariants
//! A thread takes locks in rising [`Rank`]; debug builds check it. Locks of one rank are taken
//! together only where the rank says how ([`Rank::Inode`]: by ascending stripe).

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// The order in which locks are taken. The list is the whole truth: a lock not here does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// Connections and jobs of a daemon (rarely taken, never on the path of an operation).
    Daemon = 10,
    /// One stream of a target: its receiver and its state.
    Stream = 20,
    /// Directory renames, one at a time.
    DirRename = 30,
    /// Inodes, by ascending stripe; I/O to the file system below happens under it.
    Inode = 40,
    /// Suspects and gaps of a set.
    Suspects = 45,
    /// Open files of the mount.
    Handles = 50,
    /// Nodes that the kernel knows.
    Nodes = 60,
    /// Cached descriptors of nodes.
    Cache = 70,
    /// Flushes of a journal, one at a time; the flush happens under it.
    Flush = 75,
    /// The journal's end; the write of one record happens under it.
    Journal = 80,
    /// The journal's catalogue and cursors.
    Catalogue = 90,
    /// Counters, texts, small states; nothing else is taken under it.
    Leaf = 100,
}

thread_local! {
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

fn note_taken(rank: Rank) {
    if cfg!(debug_assertions) {
        // A thread that ends may take locks when what it held is known no more.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(&last) = held.iter().max() {
                let fine = last < rank || (last == rank && rank == Rank::Inode);
                assert!(
                    fine,
                    "lock of rank {rank:?} taken while one of rank {last:?} is held"
                );
            }
            held.push(rank);
        });
    }
}

fn note_freed(rank: Rank) {
    if cfg!(debug_assertions) {
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|&r| r == rank) {
                held.swap_remove(at);
            }
        });
    }
}

/// A mutual exclusion lock with a place in the order.
pub struct Mutex<T> {
    rank: Rank,
    inner: parking_lot::Mutex<T>,
}

/// Holds a [`Mutex`]; dropping it frees the lock.
pub struct MutexGuard<'a, T> {
    rank: Rank,
    inner: parking_lot::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// A free lock.
    pub const fn new(rank: Rank, value: T) -> Mutex<T> {
        Mutex {
            rank,
            inner: parking_lot::Mutex::new(value),
        }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        note_taken(self.rank);
        MutexGuard {
            rank: self.rank,
            inner: self.inner.lock(),
        }
    }

    /// Waits at most `patience` for the lock.
    pub fn try_lock_for(&self, patience: Duration) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock_for(patience)?;
        note_taken(self.rank);
        Some(MutexGuard {
            rank: self.rank,
            inner,
        })
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mutex({:?})", self.rank)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        note_freed(self.rank);
    }
}

/// Waits for a change of what a [`Mutex`] guards. Every wait stands in a loop on a named predicate.
#[derive(Debug, Default)]
pub struct Condvar(parking_lot::Condvar);

impl Condvar {
    /// Nobody waits yet.
    pub const fn new() -> Condvar {
        Condvar(parking_lot::Condvar::new())
    }

    /// Wakes all who wait. Publish first.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one of those who wait. Publish first; what it wakes for is for any of them.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Frees the lock, waits, takes it again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(&mut guard.inner);
    }

    /// As [`Condvar::wait`], at most `patience`; false when the time ran out.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> bool {
        !self.0.wait_for(&mut guard.inner, patience).timed_out()
    }
}

/// Starts a named thread.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn<F, T>(name: &str, body: F) -> std::io::Result<std::thread::JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // The kernel keeps 15 bytes of a thread's name.
    std::thread::Builder::new()
        .name(name.chars().take(15).collect())
        .spawn(body)
}
