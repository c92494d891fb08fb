//! Why a target does not start, or does not take a source.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::applier;
use crate::codec;
use crate::journal;
use crate::keys;
use crate::sys;
use crate::types::Seq;
use crate::wire;
use crate::wire::RefuseCode;

/// Why a target does not start, or does not take a source, or ends a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target makes files of every owner. Start it as root.
    #[error("a target must run as root: it gives files their owners and opens them by handle")]
    NotRoot,
    /// A directory of the target's own is open to other users, or they could exchange it.
    #[error("target: {0}")]
    Exposed(#[from] sys::NotPrivate),
    /// The root directory is missing, no directory, or cannot be opened.
    #[error("target root {}: {source}; name an existing directory with --root", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The root's file system is read-only.
    #[error("target root {} is on a read-only file system", path.display())]
    RootReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// The state directory, or a file in it, cannot be used.
    #[error("{operation} {}: {source}", path.display())]
    State {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another target uses the state directory.
    #[error("state directory {} is in use by another target", path.display())]
    StateInUse {
        /// The directory.
        path: PathBuf,
    },
    /// A stream's description cannot be understood; nothing was changed.
    #[error("{}: {source}", path.display())]
    StreamRecord {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        source: serde_json::Error,
    },
    /// No tmpfs for the tables of applied operations.
    #[error("{} is not on a tmpfs: name a directory that is with --run", path.display())]
    NotTmpfs {
        /// The directory.
        path: PathBuf,
    },
    /// The listening address cannot be used.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Without authentication only loopback addresses are listened on.
    #[error("--insecure-loopback listens on loopback addresses only, not on {address}")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The system gives no thread.
    #[error("thread {name}: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// A stream's journal cannot be opened or written; the stream is out of service.
    #[error("queue of stream {stream}: {source}")]
    Journal {
        /// The stream.
        stream: u32,
        /// What the journal says.
        source: journal::Error,
    },
    /// A stream's applier failed; it is tried again.
    #[error("{source}")]
    Applier {
        /// What the applier says.
        source: applier::Error,
    },
    /// A source is not taken, with the text that it is given.
    #[error("{text}")]
    Refused {
        /// The reason, for programs.
        code: RefuseCode,
        /// The reason and what to do, for people.
        text: String,
    },
    /// The conversation with a source broke; it connects again.
    #[error("{source}")]
    Wire {
        /// What broke.
        source: wire::Error,
    },
    /// A frame is damaged; nothing of it was stored, and the source sends it again.
    #[error("record after {after}: {source}")]
    Frame {
        /// The last good record.
        after: Seq,
        /// What is wrong.
        source: codec::Error,
    },
    /// The target's key, or the list of its peers, cannot be used.
    #[error("{source}")]
    Keys {
        /// What is wrong with it.
        source: keys::Error,
    },
    /// Nobody of that name is paired, or the beginning of a key fits to several.
    #[error("no paired source is called {name:?}; `doppelfs peers list` shows them")]
    NoPeer {
        /// As given.
        name: String,
    },
    /// No replica lies at that path.
    #[error(
        "there is no replica at {path:?} below this target's root; `doppelfs status` shows them"
    )]
    NoReplica {
        /// As given.
        path: String,
    },
    /// There is no next key to go over to.
    #[error("no next key was announced; `doppelfs target rotate-key` does that first")]
    NoNextKey,
    /// A source has not heard yet of the target's next key.
    #[error(
        "these sources have not been told the next key, and would have to be paired again: {names}; wait until \
         they have connected, or give --force"
    )]
    Untold {
        /// Their names.
        names: String,
    },
    /// A newer connection of the same source took over.
    #[error("a newer connection of this source took over")]
    Fenced,
    /// The receiver's thread ended on an internal error; the source connects again.
    #[error("the receiver has stopped on an internal error (see the target's log)")]
    Panicked,
    /// [`super::Target::stop`] was called.
    #[error("the target is stopping")]
    Stopping,
}

impl Error {
    /// A source is not taken.
    pub(super) fn refuse(code: RefuseCode, text: impl Into<String>) -> Error {
        let text = text.into();
        Error::Refused { code, text }
    }

    /// Has the peer done it, or the network? Then the refusal is remembered for those who look.
    pub(super) fn is_of_the_peer(&self) -> bool {
        let is_misplaced =
            |source: &journal::Error| matches!(source, journal::Error::NotNext { .. });
        match self {
            Error::Refused { .. } | Error::Wire { .. } | Error::Frame { .. } => true,
            Error::Journal { source, .. } => is_misplaced(source),
            _ => false,
        }
    }

    /// What the source is told; `None` when there is nobody to be told.
    pub(super) fn refusal(&self) -> Option<wire::Refuse> {
        let code = match self {
            Error::Refused { code, .. } => *code,
            Error::Fenced => RefuseCode::Fenced,
            Error::Stopping => RefuseCode::Stopping,
            Error::Frame { .. } => RefuseCode::Protocol,
            Error::Wire { source } => match source {
                wire::Error::Version { .. } => RefuseCode::Version,
                wire::Error::Closed
                | wire::Error::Cut
                | wire::Error::Silent { .. }
                | wire::Error::Io { .. }
                | wire::Error::Tls { .. }
                | wire::Error::WrongKey { .. }
                | wire::Error::NotDoppelfs { .. } => return None,
                wire::Error::UnknownType { .. }
                | wire::Error::TooLong { .. }
                | wire::Error::Unexpected { .. }
                | wire::Error::Malformed { .. }
                | wire::Error::TooMany { .. }
                | wire::Error::BadBatch { .. } => RefuseCode::Protocol,
            },
            Error::Journal { source, .. } => match source {
                journal::Error::NotNext { .. } => RefuseCode::Position,
                _ => RefuseCode::Failed,
            },
            Error::NotRoot
            | Error::Exposed(_)
            | Error::Root { .. }
            | Error::RootReadOnly { .. }
            | Error::State { .. }
            | Error::StateInUse { .. }
            | Error::StreamRecord { .. }
            | Error::NotTmpfs { .. }
            | Error::Listen { .. }
            | Error::NotLoopback { .. }
            | Error::Thread { .. }
            | Error::Panicked
            | Error::Keys { .. }
            | Error::NoPeer { .. }
            | Error::NoReplica { .. }
            | Error::NoNextKey
            | Error::Untold { .. }
            | Error::Applier { .. } => RefuseCode::Failed,
        };
        let text = self.to_string();
        Some(wire::Refuse { code, text })
    }
}

/// For `map_err`: an error of the system in the state directory.
pub(super) fn state(
    operation: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::State {
        operation,
        path,
        source,
    }
}
