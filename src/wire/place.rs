//! Where a directory is on its host: so that a target on the same host sees that it was asked to
//! replicate a directory into itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys;

/// Directories deeper than this are not walked up.
const DEPTH_MAX: usize = 4096;

/// A directory on one host, however it is reached: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DirectoryId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// Where a source's protected directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The boot of the host: the same only on the same host.
    pub boot_id: String,
    /// The protected directory itself (below the mount), then its parents up to the root.
    pub chain: Vec<DirectoryId>,
    /// Device number of the mount over it, where there is one.
    pub mount_dev: Option<u64>,
}

impl Place {
    /// The place of `directory`, whose content is reached through `below`.
    ///
    /// # Errors
    /// From opening the parent or from walking up.
    pub fn of(directory: &Path, below: BorrowedFd<'_>) -> io::Result<Place> {
        let itself = sys::fstat(below)?;
        let mut chain = vec![DirectoryId {
            dev: itself.dev,
            ino: itself.ino,
        }];
        // Not through the directory itself: a mount of ours may lie over it.
        if let Some(parent) = directory.parent() {
            let parent = std::fs::File::open(parent)?;
            chain.extend(ancestors(parent.as_fd())?);
        }
        Ok(Place {
            boot_id: sys::boot_id()?,
            chain,
            mount_dev: None,
        })
    }

    /// Adds what is mounted over it.
    ///
    /// # Errors
    /// From reading the table of mounts.
    pub fn with_mount(mut self, mountpoint: &Path) -> io::Result<Place> {
        self.mount_dev = sys::mount_device(mountpoint)?;
        Ok(self)
    }
}

/// `dir` and its parents, up to the root, mounts crossed.
///
/// # Errors
/// From opening or reading a parent.
pub fn ancestors(dir: BorrowedFd<'_>) -> io::Result<Vec<DirectoryId>> {
    let mut chain: Vec<DirectoryId> = Vec::new();
    let mut here: OwnedFd = dir.try_clone_to_owned()?;
    while chain.len() < DEPTH_MAX {
        let stat = sys::fstat(here.as_fd())?;
        let id = DirectoryId {
            dev: stat.dev,
            ino: stat.ino,
        };
        if chain.last() == Some(&id) {
            break;
        }
        chain.push(id);
        here = sys::openat(here.as_fd(), c"..", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    }
    Ok(chain)
}
