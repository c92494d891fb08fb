//! Counters and gauges: what is counted, what it is called, how it is summed up in a line.
//!
//! # Contract
//! Counters are bumped where a thing happens, with relaxed atomics and no lock; a [`Snapshot`] is
//! taken by whoever answers a question. A rate is the difference of two snapshots ([`Rates`]),
//! never a gauge of its own. Every name a metric has stands in [`names`].
//!
//! # Invariants
//! A counter never goes down while its process lives, and starts at 0 with it; a reader that sees a
//! smaller value than before knows that the process was restarted.
//!
//! # Failure
//! Nothing here can fail.

mod counter;
mod latency;
mod meter;
pub mod names;
mod snapshot;
mod target;

pub use counter::{
    Counter, KernelCounters, LinkCounters, OpCounters, OpCounts, SetCounters, StreamCounters,
};
pub use latency::{Latency, Percentiles};
pub use meter::{Meter, RATE_WINDOW};
pub use snapshot::{
    ConnectionSnapshot, Lag, Lags, Latencies, QueueSnapshot, Rates, Sample, Snapshot,
    StreamSnapshot,
};
pub use target::{StreamNumbers, TargetNumbers};
