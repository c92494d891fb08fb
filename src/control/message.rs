//! Requests and answers, as programs see them.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::Refusal;
use super::peers::{PeerLine, PeersReport, SecretText, TermsChange};
use super::queue_filter::QueueFilter;
use super::queue_line::QueueLine;
use super::status::{SetStatus, TargetStatus};
use crate::stats::{Snapshot, TargetNumbers};
use crate::types::MarkName;

/// Version of the API, the first part of every path. A change that an older side would misunderstand raises
/// it; new requests and new fields do not.
///
/// * 1: HTTP. (Before there was another one, of lines of JSON.)
pub const VERSION: u32 = 1;

/// How often a server says that it lives while an answer is under way.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Longest body of a request.
pub(super) const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Longest line of an answer, and longest answer that is no stream.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How much a mirror compares before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorKind {
    /// Everything is sent.
    Full,
    /// Only what differs.
    Difference,
}

/// What a worker can be asked. Each has its row in [`ROUTES`](super::ROUTES).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// How are you? Answered from memory, at once.
    Status,
    /// Answer when the condition is true or the time is over.
    Wait {
        /// Everything captured before this request is applied and durable on all targets.
        caught_up: bool,
        /// How long; none is for ever.
        timeout_ms: Option<u64>,
    },
    /// The last `count` operations as items, then, if `follow`, each new one until the client goes.
    QueueTail {
        /// Go on.
        #[serde(default)]
        follow: bool,
        /// How many of the past.
        count: u64,
    },
    /// As `queue-tail`, of those operations alone that the filter lets through.
    QueueFind {
        /// Go on.
        follow: bool,
        /// How many of the past.
        count: u64,
        /// Which.
        filter: QueueFilter,
    },
    /// What the queue holds and who reads it.
    QueueShow,
    /// All numbers at this moment.
    Stats,
    /// Begin a mirror to every connection; answered when it has begun.
    MirrorStart {
        /// What is compared first.
        kind: MirrorKind,
    },
    /// The mount is about to be unmounted: finish what can be finished without waiting for targets,
    /// and then take the coming end of the mount as clean.
    PrepareUmount,
    /// The umount did not take place (the mount is in use): go on as before.
    AbandonUmount,
    /// End without a umount (targets).
    Stop,
    /// Make an invitation (targets).
    Invite {
        /// For this set only.
        set: Option<String>,
        /// The mirror path; without one the directory with the source's name.
        path: Option<String>,
        /// The source's limits.
        #[serde(default)]
        terms: TermsChange,
        /// How long it is good.
        expires_seconds: u64,
    },
    /// Who may come in? (Targets.)
    Peers,
    /// Let a source in no more (targets).
    RevokePeer {
        /// Its name, or the beginning of its key's fingerprint.
        name: String,
    },
    /// Change a source's limits (targets).
    SetPeer {
        /// Its name, or the beginning of its key's fingerprint.
        name: String,
        /// What is changed.
        terms: TermsChange,
    },
    /// Let no operation begin for so long, so that the marks of several sets are one point. Answered when none
    /// is under way any more; `mark` and `pause` with what is answered end it.
    Hold {
        /// The longest that programs may wait.
        milliseconds: u64,
    },
    /// Give this point of the stream a name.
    Mark {
        /// The name.
        name: MarkName,
        /// What [`Reply::Held`] said, for a mark that is to stand where everything was held.
        hold: Option<u64>,
    },
    /// Send everything up to a new mark to all targets, and then nothing.
    Pause {
        /// The mark's name.
        name: MarkName,
        /// As for `mark`.
        hold: Option<u64>,
    },
    /// End a pause: what was captured meanwhile is sent.
    Resume,
    /// End the connections, and make none.
    Disconnect {
        /// Keep nothing for the targets any more.
        #[serde(default)]
        forget: bool,
    },
    /// Make the connections again.
    Connect,
    /// Keep nothing of what is captured, and send nothing.
    StopReplication,
    /// Begin again, with a mirror.
    StartReplication,
    /// Apply nothing more to a replica, or to all (targets).
    PauseReplicas {
        /// The mirror path; all without one.
        path: Option<String>,
        /// Do not wait until the replica is what its source was at one moment.
        #[serde(default)]
        now: bool,
    },
    /// Apply again (targets).
    ResumeReplicas {
        /// The mirror path; all without one.
        path: Option<String>,
    },
    /// Change the target's own key: announce the next one, or go over to it.
    RotateKey {
        /// Go over to the one that was announced.
        #[serde(default)]
        finish: bool,
        /// Also where sources do not know it yet.
        #[serde(default)]
        force: bool,
    },
}

/// One of a stream of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "kebab-case")]
pub enum Item {
    /// An operation.
    Record(QueueLine),
}

/// The last answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To `status`, from a set.
    Set(Box<SetStatus>),
    /// To `status`, from a target.
    Target(Box<TargetStatus>),
    /// To `wait`.
    Waited {
        /// The condition is true.
        caught_up: bool,
        /// If not: why not, in a line for people.
        reason: Option<String>,
    },
    /// To `queue-show`.
    Queue(Box<QueueReport>),
    /// To `stats`, from a set.
    Stats(Box<Snapshot>),
    /// To `stats`, from a target.
    TargetStats(Box<TargetNumbers>),
    /// To `mirror-start`.
    MirrorStarted {
        /// The mirror's number.
        mirror: u64,
    },
    /// To `prepare-umount`: nothing stands in the way.
    Prepared {
        /// Who will end with the mount.
        worker_pid: u32,
    },
    /// To `invite`.
    Invited {
        /// What is to be carried to the source.
        token: SecretText,
        /// The fingerprint of the target's key.
        key: String,
    },
    /// To `peers`.
    Peers(Box<PeersReport>),
    /// To `revoke-peer` and `set-peer`.
    Peer(Box<PeerLine>),
    /// To `rotate-key`.
    KeyRotated {
        /// The next key, or the one in use from now on.
        key: String,
        /// Is it in use?
        finished: bool,
        /// Sources that do not know it yet.
        untold: Vec<String>,
    },
    /// To `hold`: nothing is under way.
    Held {
        /// To be given with what is to happen now.
        hold: u64,
    },
    /// To `mark` and `pause`.
    Marked {
        /// Where the mark stands.
        seq: u64,
    },
    /// To `pause-replicas` and `resume-replicas`.
    Replicas {
        /// Their paths below the target's root.
        paths: Vec<String>,
    },
    /// Done, nothing to tell.
    Done,
}

impl Reply {
    /// The same without names of files, for those who may only look. An error or a warning that is
    /// about one file still names it: whoever watches is there to read it.
    #[must_use]
    pub fn without_names(self) -> Reply {
        match self {
            Reply::Set(mut set) => {
                for connection in &mut set.connections {
                    connection.last_path = None;
                }
                Reply::Set(set)
            }
            Reply::Target(mut target) => {
                for stream in &mut target.streams {
                    stream.last_path = None;
                }
                Reply::Target(target)
            }
            other @ (Reply::Waited { .. }
            | Reply::Queue(_)
            | Reply::Stats(_)
            | Reply::TargetStats(_)
            | Reply::MirrorStarted { .. }
            | Reply::Prepared { .. }
            | Reply::Invited { .. }
            | Reply::Peers(_)
            | Reply::Peer(_)
            | Reply::KeyRotated { .. }
            | Reply::Held { .. }
            | Reply::Marked { .. }
            | Reply::Replicas { .. }
            | Reply::Done) => other,
        }
    }
}

/// A segment of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentLine {
    /// First record in it.
    pub first_seq: u64,
    /// Last record in it; for the open one the end of the queue.
    pub last_seq: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Nothing is added to it any more.
    pub sealed: bool,
}

/// A reader of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CursorLine {
    /// Whose it is.
    pub name: String,
    /// The last record that is done with.
    pub seq: u64,
    /// Records after it.
    pub behind_ops: u64,
}

/// What the queue holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueReport {
    /// The set.
    pub set: String,
    /// The line of positions.
    pub history: String,
    /// The oldest record kept (`end_seq` + 1 when there is none).
    pub first_seq: u64,
    /// The last record captured.
    pub end_seq: u64,
    /// Records kept.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Disk space taken.
    pub disk_bytes: u64,
    /// Limit of the disk space, none without one.
    pub disk_bytes_max: Option<u64>,
    /// Free space that is left alone.
    pub free_bytes_min: u64,
    /// Age of the oldest record.
    pub oldest_seconds: f64,
    /// The order, as the catalogue has it.
    pub segments: Vec<SegmentLine>,
    /// Who reads.
    pub cursors: Vec<CursorLine>,
}

/// A line from the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "kebab-case")]
pub(super) enum Message {
    /// Still at it.
    Alive,
    /// One of a stream.
    Item(Item),
    /// The last one.
    Done(Reply),
    /// The last one: no.
    Refused(Refusal),
}
