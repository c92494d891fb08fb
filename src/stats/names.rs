//! The names of all metrics, with their unit as the last word.

/// Operations captured on the mount (counter).
pub const CAPTURED_OPS: &str = "doppelfs_captured_ops_total";
/// Payload bytes captured (counter).
pub const CAPTURED_BYTES: &str = "doppelfs_captured_bytes_total";
/// Operations that were done below but could not be recorded (counter).
pub const GAPS: &str = "doppelfs_gaps_total";
/// Operations kept in the queue (gauge).
pub const QUEUE_OPS: &str = "doppelfs_queue_ops";
/// Bytes of the records kept in the queue (gauge).
pub const QUEUE_BYTES: &str = "doppelfs_queue_bytes";
/// Disk space that the queue takes (gauge).
pub const QUEUE_DISK_BYTES: &str = "doppelfs_queue_disk_bytes";
/// Age of the oldest record in the queue (gauge).
pub const QUEUE_OLDEST_SECONDS: &str = "doppelfs_queue_oldest_seconds";
/// Operations handed to a connection (counter).
pub const SENT_OPS: &str = "doppelfs_sent_ops_total";
/// Bytes of records handed to a connection, before compression (counter).
pub const SENT_BYTES: &str = "doppelfs_sent_bytes_total";
/// Bytes that went over the wire, after compression (counter).
pub const WIRE_BYTES: &str = "doppelfs_wire_bytes_total";
/// Bytes of mirror records among the bytes sent (counter).
pub const MIRROR_BYTES: &str = "doppelfs_mirror_bytes_total";
/// How often a connection was made anew (counter).
pub const RECONNECTS: &str = "doppelfs_reconnects_total";
/// Operations captured that have not passed a stage (gauge; label `stage`).
pub const LAG_OPS: &str = "doppelfs_lag_ops";
/// Bytes captured that have not passed a stage (gauge; label `stage`).
pub const LAG_BYTES: &str = "doppelfs_lag_bytes";
/// Age of the oldest operation that has not passed a stage (gauge; label `stage`).
pub const LAG_SECONDS: &str = "doppelfs_lag_seconds";
/// From capture to a stage, by percentile.
pub const LATENCY_SECONDS: &str = "doppelfs_latency_seconds";
/// Operations that a target keeps and has not applied yet (gauge).
pub const WAITING_OPS: &str = "doppelfs_waiting_ops";
/// Operations that a target received (counter).
pub const RECEIVED_OPS: &str = "doppelfs_received_ops_total";
/// Bytes of records that a target received (counter).
pub const RECEIVED_BYTES: &str = "doppelfs_received_bytes_total";
/// Operations that a target applied (counter).
pub const APPLIED_OPS: &str = "doppelfs_applied_ops_total";
/// Attempts of a target to apply an operation that failed and are retried (counter).
pub const APPLY_FAILURES: &str = "doppelfs_apply_failures_total";
