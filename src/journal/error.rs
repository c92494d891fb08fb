//! What can go wrong, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::codec;
use crate::types::Seq;

/// Why the journal did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk, or the journal's share of it, is full. Nothing was appended and nothing is half
    /// written. [`give_up`](super::Journal::give_up) makes room, then the append may be tried again.
    #[error("no room left for the journal in {}", dir.display())]
    Full {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// The system failed. An append has been taken back as a whole and may be tried again; at
    /// opening nothing more was changed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A flush failed earlier, or a failed write could not be taken back: what the disk holds is
    /// not known. Reading goes on; appending and flushing need the journal opened anew.
    #[error("journal is out of service until it is opened anew: {cause}")]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// The frame does not follow the last one. Nothing was stored; the sender must begin at `last`.
    #[error("record {seq} follows {prev_seq}, but the last record here is {last}")]
    NotNext {
        /// The last record here.
        last: Seq,
        /// The record that the frame follows.
        prev_seq: Seq,
        /// The frame's own position.
        seq: Seq,
    },
    /// The records wanted are no longer kept. Only a mirror helps whoever needs them.
    #[error("records before {first} are no longer kept")]
    Trimmed {
        /// The first record kept.
        first: Seq,
    },
    /// A reader was asked to begin after a record that was never appended here: another history, or
    /// a tail that was lost. Nothing changed; the caller compares histories.
    #[error("record {after} is beyond the journal's end {end}")]
    Beyond {
        /// Where the reader should have begun.
        after: Seq,
        /// The last record.
        end: Seq,
    },
    /// Stored bytes are not what was written. The reader stays in front of the damage and says the
    /// same again; nothing is skipped. Whoever needs the records needs a mirror.
    #[error("segment {segment} of the journal is damaged at byte {offset}: {source}")]
    Corrupt {
        /// The segment, by its first position.
        segment: Seq,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        source: Damage,
    },
    /// Something in the directory is not of a journal. Nothing was touched; name another directory.
    #[error("{} is not part of a journal: not touching this directory", path.display())]
    Foreign {
        /// What was found.
        path: PathBuf,
    },
    /// Written by a newer doppelfs. Nothing was touched; use that version.
    #[error("{} has journal format {found}; this doppelfs knows {known}", path.display())]
    UnknownVersion {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another process has the journal open. Nothing was touched; end that process first.
    #[error("journal {} is in use by another process", path.display())]
    Locked {
        /// The journal's directory.
        path: PathBuf,
    },
    /// A cursor's name is empty or too long, or there are too many. Nothing changed.
    #[error("cursor {name:?} refused: {reason}")]
    Cursor {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A fact's key or value is beyond its limits. Nothing changed.
    #[error("fact {key:?} refused: {reason}")]
    Fact {
        /// The key.
        key: String,
        /// Why not.
        reason: &'static str,
    },
    /// Both copies of a fact are unreadable. It stays so until it is put anew.
    #[error("fact {key:?} is damaged")]
    FactDamaged {
        /// The key.
        key: String,
    },
}

/// What is wrong with stored bytes.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The bytes are no sound record.
    #[error(transparent)]
    Record(#[from] codec::Error),
    /// A sound record, but not the one that belongs here.
    #[error("a record that follows {found} stands where one that follows {wanted} belongs")]
    Order {
        /// The position before.
        wanted: Seq,
        /// What the record says.
        found: Seq,
    },
    /// The segment's header is unreadable.
    #[error("the segment's header is unreadable")]
    Header,
    /// The next segment does not continue this one, or is missing.
    #[error("the next segment does not continue this one")]
    Chain,
    /// The file is shorter than what was published of it.
    #[error("the segment is cut short")]
    Short,
}

/// For `map_err`: an error of the system with its context.
pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

/// Is this the disk saying that it is full (or the quota exhausted)?
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
