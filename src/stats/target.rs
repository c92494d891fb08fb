//! All numbers of a target at one moment.

use serde::{Deserialize, Serialize};

use super::snapshot::float;
use super::{Sample, StreamSnapshot, names};

/// A stream with its numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamNumbers {
    /// Host of the source.
    pub source: String,
    /// Set on the source.
    pub set: String,
    /// What was counted.
    pub counts: StreamSnapshot,
    /// Records that are kept here and not applied yet.
    pub waiting_ops: u64,
    /// Disk space of the stream's queue.
    pub queue_disk_bytes: u64,
}

/// The numbers of a target.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetNumbers {
    /// Where it listens.
    pub listen: String,
    /// When: nanoseconds since 1970.
    pub time_ns: u64,
    /// Its streams.
    pub streams: Vec<StreamNumbers>,
}

impl TargetNumbers {
    /// All streams together.
    pub fn total(&self) -> StreamSnapshot {
        let all = self.streams.iter().map(|stream| stream.counts);
        all.fold(StreamSnapshot::default(), StreamSnapshot::plus)
    }

    /// The one-line form of all streams: `Received add=0 del=0 rename=0 failed=0`.
    pub fn one_line(&self) -> String {
        self.total().one_line()
    }

    /// Every value under its name.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for stream in &self.streams {
            let counts = &stream.counts;
            for (name, value) in [
                (names::RECEIVED_OPS, counts.received.total()),
                (names::RECEIVED_BYTES, counts.received_bytes),
                (names::APPLIED_OPS, counts.applied),
                (names::APPLY_FAILURES, counts.failed),
                (names::WAITING_OPS, stream.waiting_ops),
                (names::QUEUE_DISK_BYTES, stream.queue_disk_bytes),
            ] {
                samples.push(Sample {
                    name,
                    labels: vec![
                        ("source", stream.source.clone()),
                        ("set", stream.set.clone()),
                    ],
                    value: float(value),
                });
            }
        }
        samples
    }
}
