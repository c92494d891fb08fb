//! What a target shows of itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::keys::Fingerprint;
use crate::stats;
use crate::types::{History, Remap, Seq, SetName};
use crate::wire::{DataState, MirrorProgress, TargetState};

use super::crowd::Refusal;
use super::peers::Peer;
use super::registry::Marked;

/// Who may come in, and who could not.
#[derive(Debug, Clone)]
pub struct Doors {
    /// The key that the target answers with.
    pub key: Fingerprint,
    /// The one that it will have next.
    pub next_key: Option<Fingerprint>,
    /// Sources that are paired.
    pub peers: Vec<Peer>,
    /// The last connections that were refused.
    pub refusals: Vec<Refusal>,
    /// How many were refused since the target was started.
    pub refused: u64,
}

/// A target at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct TargetSnapshot {
    /// Where it listens.
    pub address: SocketAddr,
    /// The directory that replicas lie below.
    pub root: PathBuf,
    /// Its streams, by number.
    pub streams: Vec<StreamSnapshot>,
}

/// A stream at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSnapshot {
    /// Its number.
    pub number: u32,
    /// The source's host name.
    pub source: String,
    /// The set.
    pub set: SetName,
    /// The number of the paired source that owns it.
    pub owner: Option<String>,
    /// Where the replica stands.
    pub path: PathBuf,
    /// How absolute links into the set are made.
    pub remap: Option<Remap>,
    /// The source's address while a session is up.
    pub peer: Option<SocketAddr>,
    /// How that session is protected: `plain`, or protocol and cipher.
    pub protection: Option<String>,
    /// The line of positions.
    pub history: Option<History>,
    /// Last record durable in the target's journal.
    pub received: Seq,
    /// Last record applied.
    pub applied: Seq,
    /// Last record durable in the replica.
    pub durable: Seq,
    /// What the replica is.
    pub data: DataState,
    /// What the applier does.
    pub state: TargetState,
    /// What fails, and what to do.
    pub error: Option<String>,
    /// The last file worked on.
    pub last_path: Option<String>,
    /// The mirror under way.
    pub mirror: Option<MirrorProgress>,
    /// It is collected before any of it is applied.
    pub is_staged: bool,
    /// The last mark that was applied.
    pub mark: Option<Marked>,
    /// Records and bytes in the stream's journal.
    pub queue_ops: u64,
    /// Bytes of them on disk.
    pub queue_disk_bytes: u64,
    /// What came and was applied since the target was started.
    pub counts: stats::StreamSnapshot,
}
