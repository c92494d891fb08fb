//! The durable fact and the decision.

use serde::{Deserialize, Serialize};

use crate::types::{FileId, Fork, History, Seq};

/// What one run leaves for the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// Random id of this source's state.
    pub instance: u128,
    /// Which line its positions belong to.
    pub history: History,
    /// The protected directory's inode.
    pub root: FileId,
    /// The protected directory's path when it was mounted.
    pub directory: String,
    /// Kernel's id of the boot.
    pub boot: String,
    /// The mounts that it ran on.
    #[serde(default)]
    pub mounts: Mounts,
    /// When the run began, nanoseconds since 1970.
    pub began_ns: u64,
    /// Was a way beside the mount known? What was changed there has any time since it began.
    #[serde(default)]
    pub bypassed: bool,
    /// How it ended; `None` while it runs and after a crash.
    pub clean: Option<Clean>,
    /// The histories that this one goes on from, oldest first.
    #[serde(default)]
    pub forks: Vec<Fork>,
}

/// On which mount of its file system each of a run's directories lay. With the boot it tells whether
/// the page cache that they were changed in is still there: a file system that is mounted anew has
/// another, and what was not written of the last one may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mounts {
    /// The protected directory.
    pub data: u64,
    /// The queue and the state with it.
    pub queue: u64,
}

/// A clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clean {
    /// Whatever has a later `ctime` was not captured: the latest that a captured operation left, or,
    /// with a way beside the mount, when the mount began.
    pub last_ctime_ns: u64,
    /// When the mount had ended.
    pub ended_ns: u64,
    /// The journal's last record; all up to it had been made durable.
    pub end: Seq,
}

impl Covered {
    /// For storing.
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// `None` where it cannot be understood.
    pub fn from_bytes(bytes: &[u8]) -> Option<Covered> {
        rmp_serde::from_slice(bytes).ok()
    }
}

/// What can be seen at the start.
#[derive(Debug, Clone)]
pub struct Now<'a> {
    /// The directory's inode.
    pub root: FileId,
    /// Kernel's id of the boot.
    pub boot: &'a str,
    /// The mounts.
    pub mounts: Mounts,
    /// The clock.
    pub now_ns: u64,
    /// Time of the journal's last record, where there is one.
    pub last_record_ns: Option<u64>,
    /// The journal's last record.
    pub end: Seq,
    /// The journal misses records that it had.
    pub records_lost: bool,
}

/// What a start may believe. The letter is the row of the table in the room's doc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A: nothing is known.
    Unknown,
    /// B, D: what has a later `ctime` than this (nanoseconds since 1970) is in doubt.
    DoubtAfter(u64),
    /// C: everything is in doubt.
    DoubtAll,
    /// E: records may be lost that a target has.
    PowerCut,
    /// F: positions and records of the last run are void.
    NewHistory,
}

/// An operation may have been under way, and so be in no record, for this long before the last record
/// was written.
const UNDER_WAY_NS: u64 = 10_000_000_000;

/// Decides; see the table in the room's doc.
pub fn assess(last: Option<&Covered>, now: &Now<'_>) -> Verdict {
    let Some(last) = last else {
        return Verdict::Unknown;
    };
    let cut = last.clean.is_some_and(|clean| now.end < clean.end);
    let is_cache_kept = last.boot == now.boot && last.mounts == now.mounts;
    if last.root == now.root && last.clean.is_none() && !is_cache_kept {
        return Verdict::PowerCut;
    }
    if last.root != now.root || now.records_lost || cut {
        return Verdict::NewHistory;
    }
    match last.clean {
        // The clock went back since, or did so while it was mounted.
        Some(clean) if now.now_ns < clean.ended_ns || clean.last_ctime_ns > clean.ended_ns => {
            Verdict::DoubtAll
        }
        Some(clean) => Verdict::DoubtAfter(clean.last_ctime_ns),
        None if is_cache_kept && last.bypassed => {
            Verdict::DoubtAfter(last.began_ns.saturating_sub(UNDER_WAY_NS))
        }
        None if is_cache_kept => {
            let known = now
                .last_record_ns
                .unwrap_or(last.began_ns)
                .max(last.began_ns);
            Verdict::DoubtAfter(known.saturating_sub(UNDER_WAY_NS))
        }
        None => Verdict::PowerCut,
    }
}
