//! The table of metrics.

use crate::stats::names;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    /// It only rises, from 0 at the start of the process that counts.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// A metric: its name, how it behaves, what it means.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The name; of a counter with `_total`.
    pub name: &'static str,
    /// How it behaves.
    pub kind: FamilyKind,
    /// What it means.
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: FamilyKind::Counter,
        help,
    }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: FamilyKind::Gauge,
        help,
    }
}

pub(super) const UP: &str = "doppelfs_up";
pub(super) const INFO: &str = "doppelfs_build_info";
pub(super) const SET_STATE: &str = "doppelfs_set_state";
pub(super) const QUEUE_USED: &str = "doppelfs_queue_used_ratio";
pub(super) const WORKER_RESTARTS: &str = "doppelfs_worker_restarts_total";
pub(super) const CONNECTED: &str = "doppelfs_connected";
pub(super) const DATA_STATE: &str = "doppelfs_data_state";
pub(super) const TRANSMIT_STATE: &str = "doppelfs_transmit_state";
pub(super) const TARGET_STATE: &str = "doppelfs_target_state";
pub(super) const REFUSED: &str = "doppelfs_refused_connections_total";
pub(super) const PEERS: &str = "doppelfs_paired_sources";
pub(super) const STREAM_CONNECTED: &str = "doppelfs_stream_connected";
pub(super) const STREAM_DATA_STATE: &str = "doppelfs_stream_data_state";
pub(super) const STREAM_STATE: &str = "doppelfs_stream_target_state";

/// All of them.
pub const FAMILIES: &[Family] = &[
    gauge(UP, "Whether the set or target answers: 1, or 0."),
    gauge(
        INFO,
        "Always 1; the label tells the version of the program that was asked.",
    ),
    gauge(
        SET_STATE,
        "1 for the state that the set is in, 0 for the others.",
    ),
    counter(names::CAPTURED_OPS, "Operations captured on the mount."),
    counter(
        names::CAPTURED_BYTES,
        "Bytes that were written on the mount and captured.",
    ),
    counter(
        names::GAPS,
        "Operations that were done and could not be recorded; their files are sent again.",
    ),
    gauge(
        names::QUEUE_OPS,
        "Operations that some target does not hold durably yet.",
    ),
    gauge(names::QUEUE_BYTES, "Bytes of their records."),
    gauge(names::QUEUE_DISK_BYTES, "Disk space that the queue takes."),
    gauge(
        names::QUEUE_OLDEST_SECONDS,
        "Age of the oldest operation in the queue.",
    ),
    gauge(
        QUEUE_USED,
        "Share of the room that limit and disk leave to the queue, from 0 to 1.",
    ),
    counter(WORKER_RESTARTS, "Workers that took over the mount."),
    gauge(
        CONNECTED,
        "Whether there is a session with the target: 1, or 0.",
    ),
    gauge(
        TRANSMIT_STATE,
        "1 for what the connection does, 0 for the rest.",
    ),
    gauge(
        DATA_STATE,
        "1 for what the replica is worth, 0 for the rest.",
    ),
    gauge(TARGET_STATE, "1 for what the target does, 0 for the rest."),
    counter(names::SENT_OPS, "Operations handed to the connection."),
    counter(
        names::SENT_BYTES,
        "Bytes of records handed to the connection, before compression.",
    ),
    counter(
        names::WIRE_BYTES,
        "Bytes that went over the wire, compressed.",
    ),
    counter(
        names::MIRROR_BYTES,
        "Bytes of mirrors among the bytes sent.",
    ),
    counter(names::RECONNECTS, "Sessions after the first."),
    gauge(
        names::LAG_OPS,
        "Operations captured that have not passed the stage.",
    ),
    gauge(
        names::LAG_BYTES,
        "Bytes captured that have not passed the stage.",
    ),
    gauge(
        names::LAG_SECONDS,
        "Age of the oldest operation that has not passed the stage.",
    ),
    gauge(
        names::LATENCY_SECONDS,
        "How long what programs did took to the stage, by percentile, since the worker began.",
    ),
    counter(REFUSED, "Connections that the target refused."),
    gauge(PEERS, "Sources that are paired with the target."),
    gauge(
        STREAM_CONNECTED,
        "Whether the source of a replica is connected: 1, or 0.",
    ),
    gauge(
        STREAM_DATA_STATE,
        "1 for what the replica is worth, 0 for the rest.",
    ),
    gauge(
        STREAM_STATE,
        "1 for what the applier of the replica does, 0 for the rest.",
    ),
    counter(names::RECEIVED_OPS, "Operations that the target received."),
    counter(names::RECEIVED_BYTES, "Bytes of their records."),
    counter(names::APPLIED_OPS, "Operations that the target applied."),
    counter(
        names::APPLY_FAILURES,
        "Attempts of the target to apply an operation that failed.",
    ),
    gauge(
        names::WAITING_OPS,
        "Operations that the target holds and the replica does not show yet.",
    ),
];
