//! What can go wrong between a client and a worker.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::access::denied_text;
use crate::sys::NotPrivate;

/// Why a worker does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// It is no request.
    Malformed,
    /// The client speaks another version of the API.
    Version,
    /// The version is right but the request is unknown, or means nothing to this service.
    Unknown,
    /// Not in this state; the text says what to do first.
    State,
    /// It was tried and went wrong.
    Failed,
    /// Who asks may not.
    Denied,
    /// Too many ask at the same time.
    Busy,
}

impl RefusalCode {
    /// All of them.
    pub const ALL: [RefusalCode; 7] = [
        RefusalCode::Malformed,
        RefusalCode::Version,
        RefusalCode::Unknown,
        RefusalCode::State,
        RefusalCode::Failed,
        RefusalCode::Denied,
        RefusalCode::Busy,
    ];

    /// The status of HTTP that goes with it.
    pub fn status(self) -> u16 {
        match self {
            RefusalCode::Malformed | RefusalCode::Version => 400,
            RefusalCode::Denied => 403,
            RefusalCode::Unknown => 404,
            RefusalCode::State => 409,
            RefusalCode::Failed => 500,
            RefusalCode::Busy => 503,
        }
    }
}

/// A worker's "no", with what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: one line, says what to do.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Refusal {
        Refusal {
            code,
            text: text.into(),
        }
    }
}

/// Errors of the local API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: no socket, or one left over by a dead worker. Nothing was asked.
    #[error(
        "{service} {gone}; `doppelfs status` lists what runs",
        gone = if *.left_over {
            format!("is not running (its worker does not answer on {})", .path.display())
        } else {
            format!("is not running here (there is no {})", .path.display())
        }
    )]
    NotRunning {
        /// `set data` or `target on port 7420`.
        service: String,
        /// The socket.
        path: PathBuf,
        /// A socket is there but nobody behind it.
        left_over: bool,
    },
    /// The worker took the request, or a place in its queue, and then was silent for too long: it is
    /// stopped or hangs. Whether the request is done is unknown.
    #[error(
        "{service} does not answer (nothing heard on {path} for {patience:?}); its worker is \
         stopped or hangs, see its log"
    )]
    Silent {
        /// As in [`Error::NotRunning`].
        service: String,
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// The worker lives but has not answered within the time given. Whether the request is done is
    /// unknown.
    #[error("{service} lives but has not answered within {limit:?}; see its log")]
    Late {
        /// As in [`Error::NotRunning`].
        service: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The worker closed the connection before its answer was complete: it ended, or the request
    /// made it fail. Whether the request is done is unknown.
    #[error("{service} ended the conversation without an answer; see its log")]
    CutOff {
        /// As in [`Error::NotRunning`].
        service: String,
    },
    /// The worker was started by an older version, which talks in lines. Nothing was done.
    #[error(
        "the worker of {service} was started by an older version of doppelfs, with which this one cannot \
         talk; {remedy}"
    )]
    Older {
        /// As in [`Error::NotRunning`].
        service: String,
        /// What makes it understand.
        remedy: String,
    },
    /// What came is no answer: another program or another version listens there.
    #[error("{service} answered something that this version does not understand: {text}")]
    NotUnderstood {
        /// As in [`Error::NotRunning`].
        service: String,
        /// What it was, shortened.
        text: String,
    },
    /// The worker said no; its text says what to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another live worker has this name. Nothing was changed.
    #[error("{service} is running already (somebody holds {path}); choose another name or end it")]
    InUse {
        /// As in [`Error::NotRunning`].
        service: String,
        /// The lock.
        path: PathBuf,
    },
    /// Whoever asks is not let into the run directory or to the socket. Nothing was asked.
    #[error("{path}: {text}", text = denied_text())]
    Denied {
        /// Where the way ended.
        path: PathBuf,
    },
    /// The run directory is not for this user alone. It was left as it was.
    #[error("run directory: {0}; --run-dir names another")]
    Exposed(#[source] NotPrivate),
    /// A call of the system failed. What was begun was undone.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    }
}

impl From<NotPrivate> for Error {
    fn from(error: NotPrivate) -> Error {
        match error {
            NotPrivate::Io {
                operation,
                path,
                source,
            } => Error::Io {
                operation,
                path,
                source,
            },
            other @ (NotPrivate::Owner { .. }
            | NotPrivate::Writable { .. }
            | NotPrivate::Shared { .. }) => Error::Exposed(other),
        }
    }
}
