//! Which device a mount has.

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::file::flock_exclusive;
use super::mount::{detached_tmpfs, fuse_open};
use super::stat::fstat;

/// So many file systems are made, at most, to get a number.
const OCCUPIED_MAX: usize = 1024;

/// Whose turn it is to be numbered is waited for so often, a millisecond each.
const TURN_WAITS_MAX: u32 = 2_000;

/// The device number (`st_dev`) of what is mounted last on `mountpoint`, without touching it.
pub fn mount_device(mountpoint: &Path) -> io::Result<Option<u64>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = mountpoint.to_string_lossy().replace('\\', "\\134");
    let wanted = wanted.replace(' ', "\\040").replace('\t', "\\011");
    let wanted = wanted.replace('\n', "\\012");
    let mut device = None;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (number, point) = (fields.nth(2), fields.nth(1));
        let (Some(number), Some(point)) = (number, point) else {
            continue;
        };
        if point != wanted {
            continue;
        }
        let Some((major, minor)) = number.split_once(':') else {
            continue;
        };
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            device = Some(libc::makedev(major, minor));
        }
    }
    Ok(device)
}

/// Waits until no other doppelfs occupies numbers, and keeps all others waiting until what is returned
/// is dropped: sets that are mounted at once, as at boot, would take each other's. Anybody may lock
/// this file, so it is waited for some time only.
pub(super) fn take_turn() -> Option<OwnedFd> {
    let lock = fuse_open().ok()?;
    for _ in 0..TURN_WAITS_MAX {
        match flock_exclusive(lock.as_fd()) {
            Ok(true) => return Some(lock),
            Ok(false) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => break,
        }
    }
    None
}

/// Takes the free device numbers below this one, until what is returned is dropped: the next file
/// system gets it. The kernel numbers file systems that have no block device itself, and each gets the
/// lowest number that is free (`get_anon_bdev` in `fs/super.c`). Nothing is taken where somebody else
/// has this one, or where it cannot be had.
pub(super) fn occupy_below(device: u64) -> Vec<OwnedFd> {
    let mut occupied = Vec::new();
    while occupied.len() < OCCUPIED_MAX {
        let Ok(file_system) = detached_tmpfs() else {
            break;
        };
        let Ok(found) = fstat(file_system.as_fd()) else {
            break;
        };
        match found.dev.cmp(&device) {
            Ordering::Less => occupied.push(file_system),
            Ordering::Equal => return occupied,
            Ordering::Greater => break,
        }
    }
    Vec::new()
}
