//! Numbers for monitoring systems, as text that Prometheus scrapes (its text format, 0.0.4).
//!
//! # Contract
//! [`encode`] makes the text of what the sets and targets of this host said of themselves; it asks nobody. Names
//! and units are those of [`FAMILIES`]: seconds, bytes, operations; counters end in `_total`.
//!
//! # Invariants
//! * A name that was given keeps its meaning and its labels; new ones may come.
//! * No label holds the name of a file: those are data, and who scrapes need not be allowed to see them.
//! * A set or a target that did not answer is there with `doppelfs_up` 0, and without its numbers.

mod encode;
mod families;
mod gather;

pub use encode::{CONTENT_TYPE, encode};
pub use families::{FAMILIES, Family, FamilyKind};
pub use gather::gather;
