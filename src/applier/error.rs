//! What can go wrong, for callers; and the bare form that travels inside the room.

use std::io;
use std::path::PathBuf;

use crate::codec;
use crate::types::{Name, Seq, limits};

use super::replica::{Inode, Object};

/// A cause of any type.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation was not applied, or a stream not opened. Nothing has advanced: the same frame
/// may be applied again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The replica is not what the stream says it must be: somebody else changed it, or the file
    /// system lost something. The stream is held; a mirror repairs it.
    #[error("{op} {seq}: replica differs at {path:?}: {what}")]
    Diverged {
        /// The record.
        seq: Seq,
        /// The kind of the operation.
        op: &'static str,
        /// Where.
        path: String,
        /// What was expected or found.
        what: &'static str,
    },
    /// The replica's file system refused (full, read-only, broken, ...). Part of the operation may
    /// be done; applying it again completes it. Retry when the cause is gone.
    #[error("{op} {seq}: {path:?}: {source}")]
    Replica {
        /// The record.
        seq: Seq,
        /// The kind of the operation.
        op: &'static str,
        /// Where.
        path: String,
        /// What the file system says.
        source: io::Error,
    },
    /// The replica's file system gives files no identity that can be followed. Nothing was changed;
    /// another file system is needed.
    #[error(
        "file system of {path:?} is not supported for a replica: use ext4, xfs, btrfs or tmpfs"
    )]
    Unsupported {
        /// The directory.
        path: PathBuf,
    },
    /// The replica's directory or its hidden neighbour cannot be used. Nothing was changed.
    #[error("replica cannot be opened: {operation} {path:?}: {source}")]
    Open {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The table of applied operations (on a tmpfs) cannot be written. The operation is done but not
    /// noted; applying it again finds that out. Free memory, or take a checkpoint.
    #[error("table of applied operations: {operation} {path:?}: {source}")]
    Table {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The map of the last checkpoint cannot be read or written. The last checkpoint stays valid;
    /// retry, or remove the directory to start with a mirror.
    #[error("map of the replica: {operation} {path:?}: {source}")]
    Ledger {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the store says.
        source: Cause,
    },
    /// The replica could not be made durable. The last checkpoint stays valid; everything else is in doubt, for what
    /// could not be written once is not written later ([`Applier::distrust`](super::Applier::distrust)).
    #[error("replica cannot be synced: {source}")]
    Sync {
        /// What the system says.
        source: io::Error,
    },
    /// The target's journal could not be read while recovering. Retry.
    #[error("records after {after} cannot be read: {source}")]
    Backlog {
        /// Where reading began.
        after: Seq,
        /// What the journal says.
        source: Cause,
    },
    /// The record is sound but not understood (written by a newer doppelfs). Upgrade the target.
    #[error("record {seq}: {source}")]
    Record {
        /// The record.
        seq: Seq,
        /// What the codec says.
        source: codec::Error,
    },
    /// The record is sound, and no honest source sends it: nothing was done, and nothing of this stream is
    /// applied any more. Look after the source; a full mirror from it begins anew.
    #[error("{op} {seq} is refused: {what}")]
    Unfit {
        /// The record.
        seq: Seq,
        /// The kind of the operation.
        op: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A listing has more frames than are kept; nothing was changed. Look after the source.
    #[error("listing up to record {seq} is refused: it has more than {max} bytes", max = limits::LISTING_GROUP_BYTES_MAX)]
    ListingTooLong {
        /// The record that is too much.
        seq: Seq,
    },
    /// The caller left a record out, or gave one of another group. Feed from `applied()` on.
    #[error("record {found} follows {found_prev}, but {expected} was applied last")]
    OutOfOrder {
        /// The record given.
        found: Seq,
        /// What it follows.
        found_prev: Seq,
        /// What it should follow.
        expected: Seq,
    },
    /// Only listings come in several frames; the record is not understood. Nothing was changed.
    #[error("record {seq} ({op}) says that more follows, as only a listing may")]
    NotAListing {
        /// The record.
        seq: Seq,
        /// The kind of the operation.
        op: &'static str,
    },
    /// Nothing is known about the replica: a position must be set (`reset_to`) before a mirror.
    #[error("replica has no position: a full mirror must come first")]
    NoPosition,
    /// After a jump only a full mirror may come. Send one.
    #[error("record {seq} ({op}) follows a jump: a full mirror must come first")]
    NoMirror {
        /// The record.
        seq: Seq,
        /// The kind of the operation.
        op: &'static str,
    },
}

/// An error inside the room: what the applier's front door completes with record and path.
#[derive(Debug)]
pub(super) enum Fault {
    /// A call on the replica failed.
    Io {
        inode: Inode,
        name: Option<Name>,
        source: io::Error,
    },
    /// Something is not as the stream says.
    Diverged {
        inode: Option<Inode>,
        name: Option<Name>,
        what: &'static str,
    },
    /// A record shows that what one of these directories holds is wrong. Nothing was done about it.
    Disbelieved(Vec<Object>),
    /// Complete already.
    Whole(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Whole(error)
    }
}

/// Says where a call on the replica failed.
pub(super) trait At<T> {
    fn at(self, inode: Inode) -> Result<T, Fault>;
    fn at_name(self, dir: Inode, name: &Name) -> Result<T, Fault>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, inode: Inode) -> Result<T, Fault> {
        self.map_err(|source| Fault::Io {
            inode,
            name: None,
            source,
        })
    }

    fn at_name(self, dir: Inode, name: &Name) -> Result<T, Fault> {
        self.map_err(|source| Fault::Io {
            inode: dir,
            name: Some(name.clone()),
            source,
        })
    }
}

impl Fault {
    /// Something at a name is not as it must be.
    pub(super) fn diverged(dir: Inode, name: &Name, what: &'static str) -> Fault {
        Fault::Diverged {
            inode: Some(dir),
            name: Some(name.clone()),
            what,
        }
    }

    /// An id that must be known is not.
    pub(super) fn unknown(what: &'static str) -> Fault {
        Fault::Diverged {
            inode: None,
            name: None,
            what,
        }
    }
}

/// Error numbers that say: the tree is not what it should be (and no retry will change that).
pub(super) fn tells_divergence(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::ENOENT => Some("a name is missing"),
        libc::ESTALE => Some("an object is gone"),
        libc::EEXIST => Some("a name is taken"),
        libc::ENOTEMPTY => Some("a directory is not empty"),
        libc::ENOTDIR | libc::EISDIR | libc::ELOOP => Some("an object is of another kind"),
        _ => None,
    }
}
