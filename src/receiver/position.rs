//! Where a stream stands, what a source may begin with, and what it is told: the decisions alone, without
//! threads, journal and sockets, so that the simulation of the tests takes them as the target does.

use crate::applier;
use crate::codec::Frame;
use crate::types::{History, Kind, Op, Position, Scope, Seq};
use crate::wire::{DataState, Start, Welcome};

/// The position that an applier opens with, where it is one to go on from: the journal belongs to it
/// (`settled`), and holds what follows, from `before_first` to `received`.
pub fn opened_at(
    position: Option<Position>,
    settled: bool,
    before_first: Seq,
    received: Seq,
) -> Option<Position> {
    position.filter(|position| {
        let there = before_first <= position.seq && position.seq <= received;
        settled && there
    })
}

/// What the replica is, as the source is told.
pub fn data_state(state: applier::DataState) -> DataState {
    match state {
        applier::DataState::Ok => DataState::Ok,
        applier::DataState::Mirroring => DataState::Mirroring,
        applier::DataState::MirrorRequired => DataState::MirrorRequired,
        applier::DataState::Recovering => DataState::Recovering,
    }
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The line of positions; `None`: a full mirror must come.
    pub history: Option<History>,
    /// Last record that is durable in the target's journal.
    pub received: Seq,
    /// Last record applied.
    pub applied: Seq,
    /// What the replica is.
    pub data: DataState,
    /// The position holds only for the full mirror that is to come next.
    pub is_before_mirror: bool,
    /// What was received beyond `applied` is held until a mirror is there in whole, and all of it was looked at.
    pub stage_rests: bool,
}

impl Standing {
    /// Does the source's history go on from the one that the replica stands in? `forks`: those it goes on
    /// from.
    fn is_other(&self, forks: &[History]) -> bool {
        self.history.is_some_and(|ours| forks.contains(&ours))
    }

    /// Is the source to wait until the replica stands still? Its history may go on from where that is.
    pub fn is_awaited(&self, forks: &[History]) -> bool {
        self.is_other(forks) && self.applied < self.received && !self.stage_rests
    }

    /// The last record that a source is told is here. What is held is given up for one in another history,
    /// which sends what it still has of it, and says anew what is in doubt.
    pub fn received_told(&self, forks: &[History]) -> Seq {
        match self.is_other(forks) && self.stage_rests {
            true => self.applied,
            false => self.received,
        }
    }

    /// The history that a source is told; `None`: a mirror is needed. `is_as_before`: links are made as they
    /// were.
    pub fn history_told(&self, forks: &[History], is_as_before: bool) -> Option<History> {
        // No other history leads on from a replica whose mirror has not begun.
        let is_whole = !self.is_before_mirror && self.data != DataState::Recovering;
        let is_a_position = is_as_before && (is_whole || !self.is_other(forks));
        self.history.filter(|_| is_a_position)
    }
}

/// How a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With the record after the last one here.
    Continues,
    /// In a history that goes on from the one that the replica stands in.
    Forks,
    /// With a full mirror.
    Jumps,
}

impl Way {
    /// How a source begins that says `start` after it was told `welcome`; `None`: it may not.
    pub fn of(welcome: &Welcome, start: &Start) -> Option<Way> {
        if start.jump {
            return Some(Way::Jumps);
        }
        if welcome.history == Some(start.history) && start.after == welcome.received {
            return Some(Way::Continues);
        }
        // A position said with another history than the source's is one where the replica stands still.
        let forks = start.fork.is_some()
            && start.fork == welcome.history
            && start.fork != Some(start.history)
            && start.after <= welcome.received;
        forks.then_some(Way::Forks)
    }

    /// Is the position set anew before the first record?
    pub fn is_anew(self) -> bool {
        match self {
            Way::Continues => false,
            Way::Forks | Way::Jumps => true,
        }
    }

    /// From when on wants are told: `end` is the last record that the source had.
    pub fn gate(self, start: &Start, end: Seq) -> Gate {
        match self.is_anew() {
            // Nothing is wanted before the mirror's beginning is applied.
            true => Gate::After(end.max(start.after.next())),
            false => Gate::After(end),
        }
    }

    /// May the position be set anew before this record, the first of a session that begins with `start`?
    pub fn is_set_by(self, start: &Start, frame: &Frame) -> bool {
        let begins = || {
            frame.header().kind == Kind::MirrorBegin
                && matches!(
                    frame.body().map(|body| body.op),
                    Ok(Op::MirrorBegin {
                        scope: Scope::Full,
                        ..
                    })
                )
        };
        let is_next = frame.header().prev_seq == start.after;
        is_next
            && match self {
                Way::Continues => false,
                Way::Forks => true,
                Way::Jumps => begins(),
            }
    }
}

/// When wants may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// No session.
    #[default]
    Closed,
    /// Once this is applied: answers to earlier wants may still be in the stream before it.
    After(Seq),
    /// Now.
    Open,
}

impl Gate {
    /// Does it open now? `applied`: how far the replica is, where it stands anywhere.
    pub fn opens(self, applied: Option<Seq>) -> bool {
        match self {
            Gate::After(seq) => applied.is_some_and(|applied| applied >= seq),
            Gate::Closed | Gate::Open => false,
        }
    }

    /// What was held up to `upto` is applied from now on: what it wants beyond is told when it is.
    pub fn after_release(self, upto: Seq) -> Gate {
        match self {
            Gate::Closed => Gate::Closed,
            Gate::Open => Gate::After(upto),
            Gate::After(seq) => Gate::After(seq.max(upto)),
        }
    }
}

/// Which finished mirror the source has been told of: each once in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToldDone(Option<(u64, u64)>);

impl ToldDone {
    /// The mirror to tell of in this session; `finished`: the one that is done, if one is.
    pub fn newly(&mut self, session: u64, finished: Option<u64>) -> Option<u64> {
        let fresh = finished.map(|mirror| (session, mirror));
        let is_new = fresh.is_some() && fresh != self.0;
        self.0 = fresh;
        finished.filter(|_| is_new)
    }
}
