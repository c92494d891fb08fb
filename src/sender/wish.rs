//! What an administrator wants of a connection. It is remembered over restarts, in the journal.

use serde::{Deserialize, Serialize};

use crate::types::{History, MarkName, Seq, Time};

use super::events::SenderOptions;

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

    /// What was wished for last, in this history or one that it goes on from: a state that was begun anew has
    /// forgotten it. What cannot be read is as nothing.
    pub(super) fn load(options: &SenderOptions) -> Wish {
        let stored = options.journal.get(&options.wish_fact()).ok().flatten();
        let stored = stored.and_then(|bytes| rmp_serde::from_slice::<Stored>(&bytes).ok());
        let mut forks = options.forks.iter();
        let is_ours = |stored: &Stored| {
            stored.history == options.history || forks.any(|fork| fork.history == stored.history)
        };
        stored
            .filter(is_ours)
            .map_or(Wish::Run, |stored| stored.wish)
    }

    /// Writes it down, durably.
    pub(super) fn store(&self, options: &SenderOptions) -> Result<(), crate::journal::Error> {
        let stored = Stored {
            history: options.history,
            wish: self.clone(),
        };
        // Nothing in it that could not be written.
        let bytes = rmp_serde::to_vec_named(&stored).unwrap_or_default();
        options.journal.put(&options.wish_fact(), &bytes)
    }
}

/// A wish, and in which history it was wished.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    history: History,
    wish: Wish,
}
