//! Who a file is, across renames and hard links.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An inode number of the file system below (`st_ino`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ino(pub u64);

/// The generation that the file system below gives to an inode number each time it is reused, as
/// found in the file handle of `name_to_handle_at(2)`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Which root (protected directory) of a set a file belongs to. One root is built so far; formats
/// carry the number so that sets of several directories need no new format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootId(pub u16);

/// The only root of a set so far.
pub const ROOT_ID: RootId = RootId(0);

/// The identity of a file across renames, links and restarts: (root, inode number, generation).
///
/// A deleted file's id never comes back: the file system below changes the generation when it
/// reuses the number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// The root that the file was captured under.
    pub root: RootId,
    /// Inode number below.
    pub ino: Ino,
    /// Generation below.
    pub generation: Generation,
}

impl FileId {
    /// A file of the first root.
    pub fn new(ino: u64, generation: u64) -> FileId {
        FileId {
            root: ROOT_ID,
            ino: Ino(ino),
            generation: Generation(generation),
        }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.root.0, self.ino.0, self.generation.0)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileId({self})")
    }
}
