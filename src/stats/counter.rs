//! What is bumped on the way of an operation.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Kind;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Operations in the three groups that the one-line form shows.
#[derive(Debug, Default)]
pub struct OpCounters {
    add: Counter,
    delete: Counter,
    rename: Counter,
}

impl OpCounters {
    /// Counts one operation. Records of a mirror are none: they are counted in bytes, so that what
    /// was queued and what was sent of it can be compared.
    pub fn note(&self, kind: Kind) {
        let group = match kind {
            Kind::Unlink | Kind::Rmdir => &self.delete,
            Kind::Rename => &self.rename,
            Kind::Write
            | Kind::Truncate
            | Kind::Fallocate
            | Kind::SetAttr
            | Kind::SetXattr
            | Kind::RemoveXattr
            | Kind::Create
            | Kind::Link
            | Kind::Gap => &self.add,
            Kind::Mark
            | Kind::MirrorBegin
            | Kind::MirrorEnd
            | Kind::Listing
            | Kind::Image
            | Kind::ImageBegin
            | Kind::ImageData
            | Kind::ImageHole
            | Kind::ImageEnd => return,
        };
        group.add(1);
    }

    /// The numbers now.
    pub fn get(&self) -> OpCounts {
        OpCounts {
            add: self.add.get(),
            delete: self.delete.get(),
            rename: self.rename.get(),
        }
    }
}

/// [`OpCounters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OpCounts {
    /// Data, attributes, new names: everything that is neither of the others.
    pub add: u64,
    /// Names removed.
    pub delete: u64,
    /// Names moved.
    pub rename: u64,
}

impl OpCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.add + self.delete + self.rename
    }
}

/// What the kernel was told of and has forgotten. Two counters make a gauge: their difference is what
/// it knows now.
#[derive(Debug, Default)]
pub struct KernelCounters {
    /// Nodes that it was told of.
    pub nodes_told: Counter,
    /// Nodes that it has forgotten.
    pub nodes_forgotten: Counter,
    /// Lookups counted, several to a node.
    pub lookups_told: Counter,
    /// Lookups taken back.
    pub lookups_forgotten: Counter,
    /// It took back more than it was told: a defect, here or there.
    pub lookups_unknown: Counter,
}

/// What a set counts on the source, before any connection.
#[derive(Debug, Default)]
pub struct SetCounters {
    /// Nodes and lookups of the mount.
    pub kernel: KernelCounters,
    /// Operations recorded.
    pub captured: OpCounters,
    /// Their payload.
    pub captured_bytes: Counter,
    /// Operations that could not be recorded.
    pub gaps: Counter,
}

/// What one connection counts on the source.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Operations handed to the link.
    pub sent: OpCounters,
    /// Bytes of their records.
    pub sent_bytes: Counter,
    /// Bytes on the wire.
    pub wire_bytes: Counter,
    /// Bytes of mirror records among `sent_bytes`.
    pub mirror_bytes: Counter,
    /// Connections made after the first.
    pub reconnects: Counter,
}

/// What one stream counts on the target.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Operations received.
    pub received: OpCounters,
    /// Bytes of their records.
    pub received_bytes: Counter,
    /// Operations applied.
    pub applied: Counter,
    /// Attempts that failed.
    pub failed: Counter,
}

impl StreamCounters {
    /// The numbers now.
    pub fn get(&self) -> super::StreamSnapshot {
        super::StreamSnapshot {
            received: self.received.get(),
            received_bytes: self.received_bytes.get(),
            applied: self.applied.get(),
            failed: self.failed.get(),
        }
    }
}
