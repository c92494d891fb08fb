//! All numbers of a set or a stream at one moment, and their difference.

use serde::{Deserialize, Serialize};

use super::{OpCounts, Percentiles, names};

/// How much has been captured but has not passed a stage.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// Operations.
    pub ops: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Age of the oldest of them.
    pub seconds: f64,
}

/// The lag of each stage behind capture.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lags {
    /// Handed to the link.
    pub sent: Lag,
    /// In the target's journal: durable there, but in a full mirror.
    pub received: Lag,
    /// Shown by the replica.
    pub applied: Lag,
    /// Safe on the replica's disk.
    pub durable: Lag,
}

/// How long what programs did took from its capture to a stage, since this worker began to serve, the way back of
/// the acknowledgement included. What a mirror copies does not count.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latencies {
    /// To the replica.
    pub applied: Percentiles,
    /// To the replica's disk.
    pub durable: Percentiles,
}

impl Lags {
    /// The stages in their order, with the word for each.
    pub fn stages(&self) -> [(&'static str, Lag); 4] {
        [
            ("sent", self.sent),
            ("received", self.received),
            ("applied", self.applied),
            ("durable", self.durable),
        ]
    }
}

/// What the queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueSnapshot {
    /// Operations.
    pub ops: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Disk space taken.
    pub disk_bytes: u64,
    /// Age of the oldest record.
    pub oldest_seconds: f64,
}

/// The numbers of one connection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionSnapshot {
    /// Its number in the set.
    pub id: u32,
    /// `host:port`.
    pub target: String,
    /// Operations handed to the link.
    pub sent: OpCounts,
    /// Bytes of their records.
    pub sent_bytes: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Bytes of mirror records among `sent_bytes`.
    pub mirror_bytes: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// How far behind.
    pub lag: Lags,
    /// How long what was captured took.
    pub latency: Latencies,
}

/// The numbers of a set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The set.
    pub set: String,
    /// When: nanoseconds since 1970.
    pub time_ns: u64,
    /// Operations captured.
    pub captured: OpCounts,
    /// Their payload.
    pub captured_bytes: u64,
    /// Operations that could not be recorded.
    pub gaps: u64,
    /// The queue.
    pub queue: QueueSnapshot,
    /// Every connection.
    pub connections: Vec<ConnectionSnapshot>,
}

/// One value under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// A constant of [`names`].
    pub name: &'static str,
    /// Labels: key and value.
    pub labels: Vec<(&'static str, String)>,
    /// Counters are whole numbers far below 2^53.
    pub value: f64,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floats everywhere; the loss begins at 2^53"
)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

impl Snapshot {
    /// The one-line form: what was queued and what was sent of it, by group.
    ///
    /// `Que/sent add=612/611 (3343432 bytes) del=612/610 ren=3/3`
    pub fn one_line(&self) -> String {
        let sent = |pick: fn(&OpCounts) -> u64| {
            // Several targets: the slowest counts, as for the queue itself.
            self.connections.iter().map(|c| pick(&c.sent)).min()
        };
        let pair = |pick: fn(&OpCounts) -> u64| {
            let queued = pick(&self.captured);
            format!("{queued}/{}", sent(pick).unwrap_or(0))
        };
        format!(
            "Que/sent add={} ({} bytes) del={} ren={}",
            pair(|c| c.add),
            self.captured_bytes,
            pair(|c| c.delete),
            pair(|c| c.rename)
        )
    }

    /// Every value under its name.
    pub fn samples(&self) -> Vec<Sample> {
        let set = ("set", self.set.clone());
        let mut samples = Vec::new();
        let mut put = |name, extra: Vec<(&'static str, String)>, value| {
            let mut labels = vec![set.clone()];
            labels.extend(extra);
            samples.push(Sample {
                name,
                labels,
                value,
            });
        };
        put(names::CAPTURED_OPS, vec![], float(self.captured.total()));
        put(names::CAPTURED_BYTES, vec![], float(self.captured_bytes));
        put(names::GAPS, vec![], float(self.gaps));
        put(names::QUEUE_OPS, vec![], float(self.queue.ops));
        put(names::QUEUE_BYTES, vec![], float(self.queue.bytes));
        put(
            names::QUEUE_DISK_BYTES,
            vec![],
            float(self.queue.disk_bytes),
        );
        put(
            names::QUEUE_OLDEST_SECONDS,
            vec![],
            self.queue.oldest_seconds,
        );
        for one in &self.connections {
            let who = || vec![("connection", one.id.to_string())];
            put(names::SENT_OPS, who(), float(one.sent.total()));
            put(names::SENT_BYTES, who(), float(one.sent_bytes));
            put(names::WIRE_BYTES, who(), float(one.wire_bytes));
            put(names::MIRROR_BYTES, who(), float(one.mirror_bytes));
            put(names::RECONNECTS, who(), float(one.reconnects));
            for (stage, lag) in one.lag.stages() {
                let at = || {
                    let mut labels = who();
                    labels.push(("stage", stage.to_owned()));
                    labels
                };
                put(names::LAG_OPS, at(), float(lag.ops));
                put(names::LAG_BYTES, at(), float(lag.bytes));
                put(names::LAG_SECONDS, at(), lag.seconds);
            }
            let took = [
                ("applied", one.latency.applied),
                ("durable", one.latency.durable),
            ];
            for (stage, took) in took.into_iter().filter(|(_, took)| took.count > 0) {
                for (percent, seconds) in [("50", took.p50_seconds), ("99", took.p99_seconds)] {
                    let mut labels = who();
                    labels.push(("stage", stage.to_owned()));
                    labels.push(("percentile", percent.to_owned()));
                    put(names::LATENCY_SECONDS, labels, seconds);
                }
            }
        }
        samples
    }
}

/// What happened per second between two snapshots of one set.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Operations captured.
    pub captured_ops: f64,
    /// Payload bytes captured.
    pub captured_bytes: f64,
    /// Operations sent, over all connections.
    pub sent_ops: f64,
    /// Bytes on the wire, over all connections.
    pub wire_bytes: f64,
}

impl Rates {
    /// The rates between `old` and `new`; 0 where a counter went back (a restart between them).
    pub fn between(old: &Snapshot, new: &Snapshot) -> Rates {
        let seconds = float(new.time_ns.saturating_sub(old.time_ns)) / 1e9;
        let rate = |pick: fn(&Snapshot) -> u64| {
            if seconds > 0.0 {
                float(pick(new).saturating_sub(pick(old))) / seconds
            } else {
                0.0
            }
        };
        Rates {
            captured_ops: rate(|s| s.captured.total()),
            captured_bytes: rate(|s| s.captured_bytes),
            sent_ops: rate(|s| s.connections.iter().map(|c| c.sent.total()).sum()),
            wire_bytes: rate(|s| s.connections.iter().map(|c| c.wire_bytes).sum()),
        }
    }
}

/// The numbers of one stream of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamSnapshot {
    /// Operations received.
    pub received: OpCounts,
    /// Bytes of their records.
    pub received_bytes: u64,
    /// Operations applied.
    pub applied: u64,
    /// Attempts that failed.
    pub failed: u64,
}

impl StreamSnapshot {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: StreamSnapshot) -> StreamSnapshot {
        StreamSnapshot {
            received: OpCounts {
                add: self.received.add + other.received.add,
                delete: self.received.delete + other.received.delete,
                rename: self.received.rename + other.received.rename,
            },
            received_bytes: self.received_bytes + other.received_bytes,
            applied: self.applied + other.applied,
            failed: self.failed + other.failed,
        }
    }

    /// The one-line form: `Received add=0 del=0 rename=0 failed=0`.
    pub fn one_line(&self) -> String {
        format!(
            "Received add={} del={} rename={} failed={}",
            self.received.add, self.received.delete, self.received.rename, self.failed
        )
    }
}
