//! What an administrator wants of a connection. It is remembered over restarts, in the journal.

use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::types::{History, MarkName, Seq, Time};

/// Where a paused connection stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausePoint {
    /// The mark; everything before it is sent, nothing after it.
    pub mark: MarkName,
    /// The line of positions that it stands in.
    pub history: History,
    /// Its position.
    pub seq: Seq,
    /// When it was set.
    pub since: Time,
}

/// What an administrator wants of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// To replicate.
    #[default]
    Run,
    /// To send everything up to a mark, and then nothing: the queue keeps what comes.
    Pause(PausePoint),
    /// No session. The queue keeps what comes, unless it was told to forget the target.
    Disconnect {
        /// Nothing is kept for the target: what was not sent is lost for it, and a mirror has to follow.
        forget: bool,
    },
    /// No replication: nothing is kept, and a mirror has to follow.
    Stop,
}

impl Wish {
    /// Is a session wanted?
    pub fn is_connected(&self) -> bool {
        matches!(self, Wish::Run | Wish::Pause(_))
    }

    /// Does the queue keep what is captured?
    pub fn is_kept(&self) -> bool {
        !matches!(self, Wish::Stop | Wish::Disconnect { forget: true })
    }

    /// What was wished for last; what cannot be read is as nothing.
    pub(super) fn load(journal: &Journal, key: &str) -> Wish {
        let stored = journal.get(key).ok().flatten();
        let wish = stored.and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
        wish.unwrap_or_default()
    }

    /// Writes it down, durably.
    pub(super) fn store(&self, journal: &Journal, key: &str) -> Result<(), crate::journal::Error> {
        // Nothing in it that could not be written.
        let bytes = rmp_serde::to_vec_named(self).unwrap_or_default();
        journal.put(key, &bytes)
    }
}
