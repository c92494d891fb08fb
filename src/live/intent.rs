//! What a request is about to change.

use serde::{Deserialize, Serialize};

use crate::types::{Dentry, FileId};

/// A change that may or may not have taken effect when the worker dies, with what was there before, so
/// that one can be told from the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// A new entry where there is none: its inode is new, too.
    Make {
        /// Where.
        at: Dentry,
        /// The clock before, nanoseconds since 1970.
        began_ns: u64,
    },
    /// One more name.
    Link {
        /// Of what.
        id: FileId,
        /// Where.
        at: Dentry,
    },
    /// A name goes.
    Unlink {
        /// Of what.
        id: FileId,
        /// Where.
        at: Dentry,
        /// Is it a directory?
        is_dir: bool,
    },
    /// An entry moves.
    Rename {
        /// What.
        id: FileId,
        /// From where.
        from: Dentry,
        /// Where to.
        to: Dentry,
        /// What is there.
        replaced: Option<FileId>,
        /// `RENAME_*`.
        flags: u32,
    },
    /// Bytes of a file.
    Range {
        /// Which.
        id: FileId,
        /// First byte.
        offset: u64,
        /// How many at most.
        length: u64,
        /// Its file capabilities, where they are to stay.
        #[serde(with = "serde_bytes")]
        capabilities: Vec<u8>,
    },
    /// The size of a file, or its attributes.
    Attrs {
        /// Which.
        id: FileId,
        /// Is the access time set?
        atime: bool,
    },
    /// An extended attribute.
    Xattr {
        /// Of what.
        id: FileId,
        /// Which.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Was it there, where the call depends on that: with `XATTR_CREATE`, or to be removed?
        was: Option<bool>,
    },
}

impl Intent {
    /// Every inode that it concerns.
    pub fn ids(&self) -> Vec<FileId> {
        match self {
            Intent::Make { at, .. } => vec![at.parent],
            Intent::Link { id, at } | Intent::Unlink { id, at, .. } => vec![*id, at.parent],
            Intent::Rename {
                id,
                from,
                to,
                replaced,
                ..
            } => {
                let mut ids = vec![*id, from.parent, to.parent];
                ids.extend(*replaced);
                ids
            }
            Intent::Range { id, .. } | Intent::Attrs { id, .. } | Intent::Xattr { id, .. } => {
                vec![*id]
            }
        }
    }
}
