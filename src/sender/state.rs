//! What a connection shows of itself.

use serde::Serialize;

use crate::stats::{Lags, Latencies, OpCounts};
use crate::types::{Marks, Seq, Time};
use crate::wire::{DataState, MirrorProgress, TargetAddr, TargetState};

use super::wish::{PausePoint, Wish};

/// How the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Link {
    /// No session; one is tried again and again.
    #[default]
    Connecting,
    /// A session is up.
    Connected,
    /// [`super::Sender::stop`] was called.
    Stopped,
}

/// A connection at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct SenderState {
    /// The connection's number.
    pub id: u32,
    /// The target.
    pub target: TargetAddr,
    /// Where the replica stands on the target; known once it was met.
    pub replica_path: Option<String>,
    /// How the session is.
    pub link: Link,
    /// Since when it is up.
    pub connected_since: Option<Time>,
    /// Sessions begun so far.
    pub sessions: u64,
    /// How the session is protected: `plain`, or protocol and cipher.
    pub protection: Option<String>,
    /// What the replica is.
    pub data: DataState,
    /// What the applier does.
    pub target_state: TargetState,
    /// How far the connection is.
    pub marks: Marks,
    /// Last record captured.
    pub end: Seq,
    /// How far each stage is behind capture: exact at the moment of the snapshot, all 0 when caught
    /// up.
    pub lags: Lags,
    /// Records handed to the link so far.
    pub sent: OpCounts,
    /// Bytes of frames handed to the link so far; what was sent twice counts twice.
    pub sent_bytes: u64,
    /// Bytes written to the socket so far.
    pub wire_bytes: u64,
    /// The part of `sent_bytes` that mirrors wrote.
    pub mirror_bytes: u64,
    /// The last file worked on.
    pub last_path: Option<String>,
    /// The mirror under way.
    pub mirror: Option<MirrorProgress>,
    /// The target collects it before any of it is applied.
    pub is_staged: bool,
    /// What keeps the connection from going on, and what to do.
    pub error: Option<String>,
    /// What is wanted of it.
    pub wish: Wish,
    /// How long what programs did took.
    pub latencies: Latencies,
    /// The target has said how it is, to this worker: before, what is shown of it is what was known last.
    pub is_heard: bool,
}

impl SenderState {
    /// Is the replica what the source was at one moment, by the target's own word?
    pub fn is_whole(&self) -> bool {
        self.is_heard && self.data == DataState::Ok && !self.is_staged
    }

    /// Where it is paused, and whether the replica stands there, durably and as what the source was then.
    pub fn pause(&self) -> Option<(&PausePoint, bool)> {
        let Wish::Pause(point) = &self.wish else {
            return None;
        };
        let Marks {
            applied, durable, ..
        } = self.marks;
        let is_there = applied == point.seq && durable == point.seq;
        Some((point, is_there && self.is_whole()))
    }

    /// The word that `status` shows for the replication as a whole.
    pub fn replication_word(&self) -> &'static str {
        match self.link {
            Link::Connected => "replicating",
            Link::Connecting => "pending",
            Link::Stopped => "stopped",
        }
    }

    /// Is everything up to `seq` durable in a replica that is whole? What `wait --caught-up` asks;
    /// call [`super::Sender::request_checkpoint`] first.
    pub fn is_caught_up(&self, seq: Seq) -> bool {
        self.link == Link::Connected && self.data == DataState::Ok && self.marks.durable >= seq
    }
}
