//! What an inode is, as far as a replica must show it.

use serde::{Deserialize, Serialize};

/// A point in time as inodes hold it: nanoseconds count up also before 1970.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub secs: i64,
    /// 0 to 999,999,999, added to `secs`.
    pub nanos: u32,
}

/// Attributes of an inode after an operation, as stat(2) shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Attrs {
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links left; 0 means that no name leads to the inode any more.
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
}

/// What kind of inode, with what cannot be changed after its creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// Regular file.
    #[serde(rename = "f")]
    File,
    /// Directory.
    #[serde(rename = "d")]
    Dir,
    /// Symbolic link and where it points, as bytes.
    #[serde(rename = "l")]
    Symlink(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Named pipe.
    #[serde(rename = "p")]
    Fifo,
    /// Unix socket.
    #[serde(rename = "s")]
    Socket,
    /// Character device with its number (`st_rdev`).
    #[serde(rename = "c")]
    Char(u64),
    /// Block device with its number (`st_rdev`).
    #[serde(rename = "b")]
    Block(u64),
}

impl Node {
    /// Is this a directory?
    pub fn is_dir(&self) -> bool {
        matches!(self, Node::Dir)
    }
}
