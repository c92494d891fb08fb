//! Goal: locks are taken in rising rank, and a thread that does not is caught at once.

use doppelfs::sync::{Mutex, Rank, spawn};

#[test]
fn rising_ranks_are_fine() {
    let (low, high) = (Mutex::new(Rank::Inode, 1), Mutex::new(Rank::Journal, 2));
    let (a, b) = (low.lock(), high.lock());
    assert_eq!(*a + *b, 3);
}

#[test]
#[cfg(debug_assertions)]
fn a_falling_rank_is_caught() {
    let caught = spawn("dfs-test", || {
        let (low, high) = (Mutex::new(Rank::Inode, ()), Mutex::new(Rank::Journal, ()));
        let _high = high.lock();
        let _low = low.lock();
    });
    assert!(caught.unwrap().join().is_err());
}

#[test]
#[cfg(debug_assertions)]
fn two_locks_of_one_rank_are_caught() {
    let caught = spawn("dfs-test", || {
        let (one, two) = (Mutex::new(Rank::Journal, ()), Mutex::new(Rank::Journal, ()));
        let _one = one.lock();
        let _two = two.lock();
    });
    assert!(caught.unwrap().join().is_err());
}
