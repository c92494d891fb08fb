//! One lock order over all inodes.

use std::time::Instant;

use crate::activity::Underway;
use crate::sync::{Mutex, MutexGuard, Rank};
use crate::types::FileId;

const STRIPES: usize = 4096;

/// The locks: a fixed number of stripes, an inode belongs to one.
#[derive(Debug)]
pub(super) struct Order {
    dir_rename: Mutex<()>,
    stripes: Vec<Mutex<()>>,
}

/// Proof that the stripes of some inodes are held; dropping it frees them.
#[derive(Debug)]
pub struct Locked<'a> {
    held: Vec<(usize, Guard<'a>)>,
    _dir_rename: Option<Guard<'a>>,
    /// The operation in the activity log; none where nothing is changed.
    pub(super) underway: Option<Underway<'a>>,
}

struct Guard<'a> {
    _inner: MutexGuard<'a, ()>,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("held")
    }
}

fn stripe(id: FileId) -> usize {
    // Neighbouring inode numbers are used together; spread them over the stripes.
    (id.ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as usize % STRIPES
}

impl Locked<'_> {
    /// Is this inode's stripe held?
    pub(super) fn holds(&self, id: FileId) -> bool {
        let wanted = stripe(id);
        self.held.iter().any(|(stripe, _)| *stripe == wanted)
    }
}

/// Does the set of locks include the one of directory renames?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirRename {
    /// A directory moves to another parent: only one at a time, so that the order of records is the
    /// order in which ancestries changed.
    Yes,
    /// Ancestries stay as they are.
    No,
}

/// Proof that every lock is held: nothing is under way, and nothing begins.
#[derive(Debug)]
pub struct Stillness<'a> {
    _dir_rename: Guard<'a>,
    _stripes: Vec<Guard<'a>>,
}

fn taken_until(lock: &Mutex<()>, until: Instant) -> Option<Guard<'_>> {
    let left = until.saturating_duration_since(Instant::now());
    lock.try_lock_for(left).map(|lock| Guard { _inner: lock })
}

impl Order {
    /// Takes every lock there is, in the order in which all take them; none when one of them is not free
    /// before `until`.
    pub(super) fn lock_all(&self, until: Instant) -> Option<Stillness<'_>> {
        let stripes = self.stripes.iter();
        Some(Stillness {
            _dir_rename: taken_until(&self.dir_rename, until)?,
            _stripes: stripes
                .map(|stripe| taken_until(stripe, until))
                .collect::<Option<_>>()?,
        })
    }

    pub(super) fn new() -> Order {
        Order {
            dir_rename: Mutex::new(Rank::DirRename, ()),
            stripes: (0..STRIPES).map(|_| Mutex::new(Rank::Inode, ())).collect(),
        }
    }

    /// Takes the stripes of `ids` in ascending order, each once.
    pub(super) fn lock(&self, dir_rename: DirRename, ids: &[FileId]) -> Locked<'_> {
        let _dir_rename = (dir_rename == DirRename::Yes).then(|| Guard {
            _inner: self.dir_rename.lock(),
        });
        let mut wanted: Vec<usize> = ids.iter().map(|&id| stripe(id)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let take = |stripe: usize| {
            (
                stripe,
                Guard {
                    _inner: self.stripes[stripe].lock(),
                },
            )
        };
        Locked {
            held: wanted.into_iter().map(take).collect(),
            _dir_rename,
            underway: None,
        }
    }
}
