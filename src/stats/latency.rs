//! How long things took, as percentiles of all that happened: exact to a fifth.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Classes for each doubling.
const PARTS: u32 = 4;
/// Whatever took less (65 us) is in the first class.
const SHORTEST: u32 = 16;
/// Doublings from there on, up to five hours.
const DOUBLINGS: u32 = 28;
const CLASSES: usize = (PARTS * DOUBLINGS) as usize;

/// Counts durations by their length. Many threads may count at once.
#[derive(Debug)]
pub struct Latency {
    classes: [AtomicU64; CLASSES],
    longest_ns: AtomicU64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            classes: [const { AtomicU64::new(0) }; CLASSES],
            longest_ns: AtomicU64::new(0),
        }
    }
}

/// Percentiles of durations, in seconds; zeroes where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_seconds: f64,
    /// 99 of 100 took no longer.
    pub p99_seconds: f64,
    /// The longest.
    pub max_seconds: f64,
}

fn class_of(ns: u64) -> usize {
    let doubling = 63 - (ns | 1).leading_zeros();
    let Some(above) = doubling.checked_sub(SHORTEST) else {
        return 0;
    };
    let part = (ns >> (doubling - 2)) & 3;
    ((above * PARTS) as usize + part as usize).min(CLASSES - 1)
}

/// Nothing of the class took longer.
fn most_of(class: usize) -> u64 {
    if class == CLASSES - 1 {
        return u64::MAX;
    }
    let class = class as u64;
    let (above, part) = (class / u64::from(PARTS), class % u64::from(PARTS));
    (5 + part) << (above + u64::from(SHORTEST) - 2)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Latency {
    /// Something took so long.
    pub fn note(&self, ns: u64) {
        self.note_many(ns, 1);
    }

    /// So many took so long.
    pub fn note_many(&self, ns: u64, count: u64) {
        self.classes[class_of(ns)].fetch_add(count, Ordering::Relaxed);
        self.longest_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// All that was counted.
    pub fn percentiles(&self) -> Percentiles {
        let counts = self
            .classes
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        let count: u64 = counts.iter().sum();
        let longest = self.longest_ns.load(Ordering::Relaxed);
        let reached_at = |percent: u64| {
            let wanted = (count * percent).div_ceil(100).max(1);
            let mut so_far = 0;
            let class = counts.iter().position(|count| {
                so_far += count;
                so_far >= wanted
            });
            seconds(class.map_or(0, |class| most_of(class).min(longest)))
        };
        Percentiles {
            count,
            p50_seconds: reached_at(50),
            p99_seconds: reached_at(99),
            max_seconds: seconds(longest),
        }
    }
}
