//! `doppelfs flush-pages`: the process that writes back what is dirty in a mount with a relaxed order.
//!
//! A process of its own: a thread that waits for the mount would keep a worker that was killed from ending,
//! and only when that one has ended does the next one serve. This one hangs until then, and nobody waits
//! for it.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use crate::sys::{self, Unstamped};

/// Requests that came while the last one was met are met together.
const REQUESTS_MAX: usize = 4096;

/// Writes back whenever a byte comes on standard input, until its end.
pub(super) fn flush_pages(mountpoint: &Path, device: &str) -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut requests = [0; REQUESTS_MAX];
    while stdin.read(&mut requests)? > 0 {
        if is_there(mountpoint, device) {
            // What could not be written is said to who wrote it, at its fsync(2) or close(2).
            let _ = write_back(mountpoint);
        }
    }
    Ok(())
}

fn is_there(mountpoint: &Path, device: &str) -> bool {
    let mounts = sys::read_mounts().unwrap_or_default();
    let top = mounts
        .iter()
        .rev()
        .find(|mount| mount.mountpoint == mountpoint);
    top.is_some_and(|mount| mount.device == device)
}

/// Through a copy of the mount, so that the mount itself is not in use and can be unmounted meanwhile; the
/// file system ends with the copy then, which goes when this returns.
fn write_back(mountpoint: &Path) -> io::Result<()> {
    let root = sys::clone_tree(mountpoint, Unstamped::AsBelow)?;
    sys::syncfs(root.as_fd())
}
