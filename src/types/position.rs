//! Where in the stream: sequence numbers, histories, watermarks.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a record in its [`History`]; the first is 1, 0 stands before all. One that comes from
/// outside is at most [`Seq::MAX`], or is not taken.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// Nobody gets there by counting; up to here there is always a next one.
    pub const MAX: Seq = Seq(u64::MAX / 2);

    /// The number after this one; the last number there is has none but itself.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}

impl TryFrom<u64> for Seq {
    type Error = String;

    fn try_from(number: u64) -> Result<Seq, String> {
        let seq = Seq(number);
        let fits = seq <= Seq::MAX;
        fits.then_some(seq)
            .ok_or_else(|| format!("{number} is no number of a record"))
    }
}

impl From<Seq> for u64 {
    fn from(seq: Seq) -> u64 {
        seq.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The line of positions that a [`Seq`] belongs to: a random id, new whenever numbers could be
/// given a second time (unclean start of the source's host, a state directory restored).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(pub u128);

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "History({self})")
    }
}

/// Where a history ended in a loss of power: its records up to here are also those of the one that
/// follows; what it had beyond is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The history that ended.
    pub history: History,
    /// The last record that survived.
    pub end: Seq,
}

impl Fork {
    /// Up to where a position of `history` is one of the histories that `forks` lead to, too, oldest
    /// first; `None`: they do not come from it.
    pub fn common(forks: &[Fork], history: History, seq: Seq) -> Option<Seq> {
        let fork = forks.iter().find(|fork| fork.history == history)?;
        Some(seq.min(fork.end))
    }
}

/// A point in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub history: History,
    /// The last record included.
    pub seq: Seq,
}

/// How far a connection is. Always `durable <= applied <= received <= sent <= captured`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// Last record handed to the link.
    pub sent: Seq,
    /// Last record stored in the target's journal: durably, but in a full mirror, which begins anew where the target
    /// lost power.
    pub received: Seq,
    /// Last record whose effect the replica shows.
    pub applied: Seq,
    /// Last record whose effect survives a power cut of the target without its journal.
    pub durable: Seq,
}
