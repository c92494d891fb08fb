//! Where a session begins, and what an answer may say: the decisions alone, without journal and socket,
//! so that the simulation of the tests takes them as the thread of a connection does.

use crate::types::{Fork, History, Marks, Seq};
use crate::wire::{Ack, DataState, Start, Welcome};

/// What a source has to go on from.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The journal's line of positions.
    pub history: History,
    /// The lines that it goes on from, oldest first.
    pub forks: &'a [Fork],
    /// The position before the first record that the journal still has.
    pub before_first: Seq,
    /// The journal's last record.
    pub end: Seq,
}

/// Where a session begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// Where the target stands, or where its history parted from ours.
    GoesOn {
        /// What the target is told.
        start: Start,
        /// What the target holds durably of our history: nothing after it may be trimmed.
        durable: Seq,
    },
    /// With a full mirror, whose beginning is yet to be appended.
    Mirror(Why),
}

/// Why nothing but a full mirror will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it, or the journal could not be followed.
    Required,
    /// The target stands nowhere.
    NoPosition,
    /// It stands in a history that does not lead to ours.
    OtherHistory,
    /// What it lacks was given up.
    Trimmed,
    /// It has what we have not.
    BeyondEnd,
}

impl Line<'_> {
    /// The histories to be told in the greeting; none where the session will begin with a full mirror in any
    /// case, so that the target waits for nothing.
    pub fn forks_told(&self, jumps: bool) -> Vec<History> {
        let forks = self.forks.iter().map(|fork| fork.history);
        forks.filter(|_| !jumps).collect()
    }

    /// Where the session begins with a target that says `welcome`. `required`: only with a full mirror.
    pub fn beginning(&self, welcome: &Welcome, required: bool) -> Beginning {
        if required {
            return Beginning::Mirror(Why::Required);
        }
        let Some(theirs) = welcome.history else {
            return Beginning::Mirror(Why::NoPosition);
        };
        let fork = Some(theirs).filter(|theirs| *theirs != self.history);
        let after = match fork {
            None => Some(welcome.received),
            Some(theirs) => Fork::common(self.forks, theirs, welcome.received),
        };
        match after {
            None => Beginning::Mirror(Why::OtherHistory),
            Some(after) if after < self.before_first => Beginning::Mirror(Why::Trimmed),
            Some(after) if after > self.end => Beginning::Mirror(Why::BeyondEnd),
            Some(after) => Beginning::GoesOn {
                durable: welcome.durable.min(after).max(self.before_first),
                start: Start {
                    history: self.history,
                    after,
                    jump: false,
                    fork,
                    next_key: None,
                },
            },
        }
    }

    /// What the target is told when a full mirror begins with the record `begin`.
    pub fn jump_to(&self, begin: Seq) -> Start {
        Start {
            history: self.history,
            after: Seq(begin.0.saturating_sub(1)),
            jump: true,
            fork: None,
            next_key: None,
        }
    }
}

/// The position that a target says in its welcome can be one: each of its marks at most the one before.
pub fn is_possible(welcome: &Welcome) -> bool {
    welcome.durable <= welcome.applied && welcome.applied <= welcome.received
}

/// The marks at the beginning of a session, from those before it.
pub fn marks_at(before: Marks, welcome: &Welcome, start: &Start) -> Marks {
    let after = start.after;
    // The target's own marks are of another line, or of none.
    let anew = start.jump || start.fork.is_some();
    Marks {
        sent: after.max(if anew { after } else { before.sent }),
        received: after,
        applied: if anew { after } else { welcome.applied },
        durable: if anew { after } else { welcome.durable },
    }
}

/// The marks after an answer; `None` where no target may say so.
pub fn marks_after(marks: Marks, ack: &Ack) -> Option<Marks> {
    let ordered =
        ack.durable <= ack.applied && ack.applied <= ack.received && ack.received <= marks.sent;
    let rising = marks.received <= ack.received
        && marks.applied <= ack.applied
        && marks.durable <= ack.durable;
    (ordered && rising).then_some(Marks {
        sent: marks.sent,
        received: ack.received,
        applied: ack.applied,
        durable: ack.durable,
    })
}

/// The target has applied all that there is, up to `end`, and waits for a mirror of what is in doubt: who
/// recorded the doubt died before it began one. So does one that holds what it has, up to `end`, without
/// the beginning of a mirror among it.
pub fn is_mirror_due(ack: &Ack, end: Seq) -> bool {
    let is_missed = ack.is_staged && ack.mirror.is_none() && ack.received >= end;
    is_missed || ack.data == DataState::MirrorRequired && ack.applied >= end
}
