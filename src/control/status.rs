//! What `status` says. The JSON form is an interface: it may grow, nothing in it may go.

use serde::{Deserialize, Serialize};

use crate::stats::{Lags, Latencies, StreamSnapshot};

/// Version of the JSON form.
pub const STATUS_VERSION: u32 = 1;

/// Everything that runs on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`STATUS_VERSION`].
    pub version: u32,
    /// The sets protected here.
    pub sets: Vec<SetStatus>,
    /// The targets served here.
    #[serde(default)]
    pub targets: Vec<TargetStatus>,
}

/// How a set is, in one word; the worst of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetState {
    /// Every target follows.
    #[default]
    Ok,
    /// A mirror or a resynchronisation is under way.
    Synchronising,
    /// A target follows too far behind, or is not reached.
    Behind,
    /// Somebody paused it.
    Paused,
    /// It does not go on by itself.
    Error,
}

/// A protected directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootStatus {
    /// The directory.
    pub path: String,
    /// Where it is served.
    pub mountpoint: String,
    /// Do absolute links into it lead to the replica on the replica?
    pub remap_links: bool,
}

/// What waits on the source.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueStatus {
    /// Operations.
    pub ops: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Disk space.
    pub disk_bytes: u64,
    /// Age of the oldest.
    pub oldest_seconds: f64,
    /// How much of its room it has filled, of what its limit and its disk leave it.
    pub used_percent: Option<f64>,
}

/// What the kernel holds of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelStatus {
    /// Inodes that it knows, the root not counted.
    pub nodes: u64,
    /// Lookups of them that it has not taken back.
    pub lookups: u64,
    /// Lookups that it took back without having been told of them: a defect, should be 0.
    pub lookups_unknown: u64,
    /// Open files.
    pub open_files: u64,
    /// Open directories.
    pub open_dirs: u64,
}

/// Does data flow?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transmit {
    /// Yes.
    Started,
    /// Not connected.
    #[default]
    Stopped,
    /// Somebody paused it.
    Paused,
    /// It waits for its time.
    Scheduled,
    /// It tries and fails; `error` says why.
    Error,
}

/// What the replica is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataState {
    /// A prefix of the source.
    #[default]
    Ok,
    /// A mirror is under way: no prefix until its end.
    Mirroring,
    /// A redo after a crash is under way.
    Recovering,
    /// Only a mirror makes it good again.
    MirrorRequired,
    /// The target was promoted: its changes must be brought back first.
    RestoreRequired,
}

impl DataState {
    /// The word that `status` shows.
    pub fn word(self) -> &'static str {
        match self {
            DataState::Ok => "ok",
            DataState::Mirroring => "mirroring",
            DataState::Recovering => "recovering",
            DataState::MirrorRequired => "mirror-required",
            DataState::RestoreRequired => "restore-required",
        }
    }
}

/// What the target does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetState {
    /// It applies.
    Ok,
    /// Nothing is known of it.
    #[default]
    NotLoaded,
    /// It will pause.
    PausePending,
    /// It stores but does not apply.
    Paused,
    /// An operation cannot be applied and is tried again.
    Retrying,
}

/// What replication does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// There is something to replicate.
    Replicating,
    /// There is nothing.
    Ready,
    /// It was stopped.
    Stopped,
    /// It waits for a connection or a mirror.
    #[default]
    Pending,
}

/// What a mirror does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorState {
    /// None is under way.
    #[default]
    Idle,
    /// One is.
    Mirroring,
    /// One is, but waits.
    Paused,
    /// Hashes are compared.
    Verifying,
}

/// A mirror of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorStatus {
    /// What it does.
    pub state: MirrorState,
    /// How far: the share of the files known so far that is done. More may become known.
    pub percent: Option<f64>,
    /// How much is left, where it is known.
    pub remaining_bytes: Option<u64>,
    /// Its number.
    pub number: Option<u64>,
    /// Files and directories that are done.
    pub files_done: u64,
    /// Those that are known to be needed, done or not; grows while directories are listed.
    pub files_known: u64,
    /// Since it was begun.
    pub seconds: f64,
    /// Bytes of it sent per second, now.
    pub bytes_per_second: f64,
    /// At this speed, and with what is known so far.
    pub seconds_left: Option<f64>,
}

/// What a connection does per second, over the last ten.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionRates {
    /// Operations sent.
    pub sent_ops: f64,
    /// Bytes of records sent.
    pub sent_bytes: f64,
    /// Bytes on the wire.
    pub wire_bytes: f64,
    /// Operations applied.
    pub applied_ops: f64,
}

/// What a set captures per second, over the last ten.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SetRates {
    /// Operations.
    pub captured_ops: f64,
    /// Bytes of their payload.
    pub captured_bytes: f64,
}

/// A point of a stream with a name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MarkStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub seq: u64,
    /// When it was set: seconds since 1970.
    pub time: u64,
}

/// A connection that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseStatus {
    /// Up to where it sends.
    pub mark: MarkStatus,
    /// The replica stands there, durably, and is what the source was then.
    pub reached: bool,
}

/// A connection of a set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionStatus {
    /// Its number in the set.
    pub id: u32,
    /// `host:port`.
    pub target: String,
    /// The path on the target, as the target names it.
    pub path: String,
    /// Does data flow?
    pub transmit: Transmit,
    /// What the replica is worth.
    pub data_state: DataState,
    /// What the target does.
    pub target_state: TargetState,
    /// What replication does.
    pub replication: Replication,
    /// Watermark.
    pub sent_seq: u64,
    /// Watermark.
    pub received_seq: u64,
    /// Watermark.
    pub applied_seq: u64,
    /// Watermark.
    pub durable_seq: u64,
    /// Operations captured and not yet applied.
    pub lag_ops: u64,
    /// Their bytes.
    pub lag_bytes: u64,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// The lag of every stage.
    pub lags: Lags,
    /// How long what was captured took.
    #[serde(default)]
    pub latency: Latencies,
    /// Bytes of records sent by this worker.
    pub sent_bytes: u64,
    /// Bytes on the wire, after compression.
    pub wire_bytes: u64,
    /// Bytes of mirror records among `sent_bytes`.
    pub mirror_bytes: u64,
    /// Operations sent by this worker.
    pub sent_ops: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// What happens now.
    pub rates: ConnectionRates,
    /// Seconds since 1970; none while there is no connection.
    pub connected_since: Option<u64>,
    /// The file touched last, escaped.
    pub last_path: Option<String>,
    /// The mirror.
    pub mirror: MirrorStatus,
    /// Is the mirror collected on the target before any of it is applied? Until then the replica is as it was
    /// before it, at `applied_seq`.
    #[serde(default)]
    pub staged: bool,
    /// Plain TCP without authentication, loopback only.
    pub insecure: bool,
    /// How the connection is protected: `plain`, or protocol and cipher; none while there is none.
    pub protection: Option<String>,
    /// The pause, while there is one.
    pub pause: Option<PauseStatus>,
    /// Somebody disconnected it, or stopped the replication.
    pub stopped: bool,
    /// What is wrong, and what to do.
    pub error: Option<String>,
}

/// A set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SetStatus {
    /// Its name.
    pub name: String,
    /// Its directories.
    pub roots: Vec<RootStatus>,
    /// In one word.
    pub state: SetState,
    /// 0 while there is no supervisor.
    pub supervisor_pid: u32,
    /// The worker.
    pub worker_pid: u32,
    /// How often the worker was restarted.
    pub worker_restarts: u64,
    /// The line of positions.
    pub history: String,
    /// The last record.
    pub captured_seq: u64,
    /// The last mark set.
    pub mark: Option<MarkStatus>,
    /// When this was said: nanoseconds since 1970.
    pub time_ns: u64,
    /// Operations captured by this worker, without records of mirrors.
    pub captured_ops: u64,
    /// Bytes of their payload.
    pub captured_bytes: u64,
    /// What is captured now.
    pub rates: SetRates,
    /// What the kernel holds of the mount.
    pub kernel: KernelStatus,
    /// What waits.
    pub queue: QueueStatus,
    /// What was in doubt when it was mounted, and became of it.
    pub resync: ResyncStatus,
    /// Its connections.
    pub connections: Vec<ConnectionStatus>,
    /// The state directory.
    pub state_dir: String,
    /// What an administrator should know, one line each.
    pub warnings: Vec<String>,
    /// What is wrong with the set itself, and what to do.
    pub error: Option<String>,
}

/// What was in doubt when a set was mounted: after a loss of power, or because nobody watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResyncStatus {
    /// Files and directories that the activity log named: they had been changed, and the change may be
    /// lost here.
    pub suspects: u64,
    /// Files looked at for changes of a time in which nobody watched.
    pub checked: u64,
    /// Of those, found to be changed.
    pub found: u64,
    /// Files and directories sent again since the mount, for whatever reason.
    pub resent_files: u64,
    /// Bytes of content sent again.
    pub resent_bytes: u64,
}

/// A stream that a target receives.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStatus {
    /// Host of the source.
    pub source: String,
    /// Set on the source.
    pub set: String,
    /// The replica's path.
    pub path: String,
    /// Paths on the source; absolute links that lead there lead to the replica.
    pub remap_from: Vec<String>,
    /// Is there a connection?
    pub connected: bool,
    /// How it is protected: `plain`, or protocol and cipher.
    pub protection: Option<String>,
    /// The line of positions.
    pub history: String,
    /// Watermark.
    pub received_seq: u64,
    /// Watermark.
    pub applied_seq: u64,
    /// Watermark.
    pub durable_seq: u64,
    /// What the replica is worth.
    pub data_state: DataState,
    /// Is what was received beyond `applied_seq` held until a mirror is there in whole?
    pub staged: bool,
    /// The last mark that was applied.
    pub mark: Option<MarkStatus>,
    /// What the target does.
    pub target_state: TargetState,
    /// The mirror under way.
    pub mirror: MirrorStatus,
    /// The file touched last, escaped.
    pub last_path: Option<String>,
    /// Disk space of what has come.
    pub queue_disk_bytes: u64,
    /// Its numbers.
    pub stats: StreamSnapshot,
    /// What is wrong, and what to do.
    pub error: Option<String>,
}

/// A layer of a target's confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    /// It holds.
    On,
    /// Nobody asked for it.
    #[default]
    Off,
    /// It was asked for and could not be had.
    Missing,
}

/// What a target's process has given up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfinementStatus {
    /// What was asked for: `auto`, `no`, `required`, or the layers.
    pub asked: String,
    /// Capabilities.
    pub capabilities: LayerState,
    /// Those that are kept.
    pub capabilities_kept: Vec<String>,
    /// System calls.
    pub seccomp: LayerState,
    /// Landlock.
    pub landlock: LayerState,
    /// Version of its interface, where the kernel has it.
    pub landlock_version: Option<u32>,
    /// What it refuses.
    pub landlock_refuses: Vec<String>,
    /// What was asked for and is not there, one line each.
    pub lacks: Vec<String>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetStatus {
    /// Address and port that it listens on.
    pub listen: String,
    /// Replicas are below it.
    pub root: String,
    /// Its state directory.
    pub state_dir: String,
    /// Its process.
    pub pid: u32,
    /// Plain TCP from this host is taken, without authentication.
    pub insecure: bool,
    /// The fingerprint of its key.
    pub key: String,
    /// Sources that are paired with it.
    pub peers: u64,
    /// Connections refused since it was started.
    pub refused: u64,
    /// The last refusal, for people.
    pub last_refusal: Option<String>,
    /// What its process has given up.
    pub confinement: ConfinementStatus,
    /// When this was said: nanoseconds since 1970.
    pub time_ns: u64,
    /// Its streams.
    pub streams: Vec<StreamStatus>,
    /// What is wrong with the target itself, and what to do.
    pub error: Option<String>,
}

impl SetStatus {
    /// What is reported of a set whose worker does not answer.
    pub fn unreachable(name: &str, error: String) -> SetStatus {
        SetStatus {
            name: name.to_owned(),
            state: SetState::Error,
            error: Some(error),
            ..SetStatus::default()
        }
    }
}
