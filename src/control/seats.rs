//! How many may talk at the same time: nobody takes all places, and root finds one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::{Mutex, Rank};

/// Conversations at the same time.
pub(super) const SEATS: usize = 256;

/// Those of them that only root and the worker's own user take.
const SEATS_RESERVED: usize = 64;

/// Those that one other user takes at most.
pub(super) const SEATS_EACH: usize = 32;

const _: () = assert!(SEATS_EACH < SEATS - SEATS_RESERVED && SEATS_RESERVED < SEATS);

/// Who sits.
#[derive(Debug)]
pub(super) struct Seats {
    /// Conversations by user. Rank: leaf; no I/O under it.
    taken: Mutex<HashMap<u32, usize>>,
}

/// A place; free again when it is dropped, also by a panic.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    uid: u32,
}

impl Seats {
    pub(super) fn new() -> Arc<Seats> {
        Arc::new(Seats {
            taken: Mutex::new(Rank::Leaf, HashMap::new()),
        })
    }

    /// `None`: there is none for this user.
    pub(super) fn take(self: &Arc<Seats>, uid: u32, is_owner: bool) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let all: usize = taken.values().sum();
        let own = taken.get(&uid).copied().unwrap_or(0);
        let is_free = if is_owner {
            all < SEATS
        } else {
            own < SEATS_EACH && all < SEATS - SEATS_RESERVED
        };
        if !is_free {
            return None;
        }
        taken.insert(uid, own + 1);
        Some(Seat {
            seats: Arc::clone(self),
            uid,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        match taken.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.uid);
            }
        }
    }
}
