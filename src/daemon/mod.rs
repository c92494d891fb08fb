//! Wires the rooms together: the worker of a set, and the target.
//!
//! # The contract
//! [`run_source`] protects one directory until it is unmounted; [`run_target`] serves replicas until
//! it is told to end. Both say through [`Ready`](crate::supervisor::Ready) when they serve, or return
//! what stands in the way, for people.
//!
//! # Order of the end
//! When the mount is gone nothing can be captured any more: the jobs end first, then the senders,
//! then the journal is made durable, then the clean end is recorded, and last the control socket goes
//! (so that who waits for the end of the worker waits for all of it).

mod acquaintance;
mod answers;
mod believe;
mod bypass;
mod claim;
mod confined;
mod detach;
mod entry;
mod events;
mod flusher;
mod observe;
mod pauses;
mod prepare;
mod rates;
mod report;
mod settler;
mod source;
mod stand_in;
mod start;
mod tail;
mod target;
mod ways;

pub use believe::{Belief, Doubt, believe, unfinished};
pub use entry::{probe_source, run_source};
pub use target::run_target;
