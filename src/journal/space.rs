//! Room: the free space of the disk, and the ballast that is thrown off when there is none.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::{Error, io};
use crate::sys;

/// Enough for sled to open and for cursors and facts to be written.
const BALLAST_BYTES: u64 = 8 << 20;

/// Free bytes of the file system that `dir` is on, for everybody.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, Error> {
    let opened = File::open(dir).map_err(io("open", dir))?;
    let stat = sys::statvfs(opened.as_fd()).map_err(io("statvfs", dir))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A preallocated file that is removed when the disk is full.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub(super) fn new(dir: &Path) -> Ballast {
        Ballast {
            path: dir.join("ballast"),
        }
    }

    /// Frees its room; false when it was free already.
    pub(super) fn release(&self) -> bool {
        let is_released = std::fs::remove_file(&self.path).is_ok();
        if is_released {
            tracing::warn!(path = %self.path.display(), "disk is full, ballast released");
        }
        is_released
    }

    /// Takes the room again once there is plenty.
    pub(super) fn restore(&self, free_bytes_min: u64) {
        if self.path.exists() {
            return;
        }
        let Some(dir) = self.path.parent() else {
            return;
        };
        let plenty = free_bytes_min.saturating_add(4 * BALLAST_BYTES);
        if !free_bytes(dir).is_ok_and(|free| free >= plenty) {
            return;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let made = options
            .open(&self.path)
            .and_then(|file| sys::fallocate(file.as_fd(), 0, 0, BALLAST_BYTES));
        if made.is_err() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
