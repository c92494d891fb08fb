//! Telling administrators what needs them, by name, severity and number that never change.
//!
//! # Contract
//! [`Kind`] is the table of all alerts: number, name, severity, what it means and what to do. A process has one
//! [`Alerts`], which hands each [`Alert`] to the journal (journald's native protocol, with `MESSAGE_ID`, so that
//! `journalctl MESSAGE_ID=...` and `journalctl -x` know it), or to syslog where there is no journal, and to the
//! log in any case. [`SetWatch`] and [`TargetWatch`] look at one status after another and say what has changed.
//!
//! # Invariants
//! * A number is never given to another alert. An alert that stands for a state has one that ends it, and each
//!   is told once for each time the state begins and ends.
//! * Raising an alert never waits: a thread of its own delivers. When more come than can be delivered, the ones
//!   that come are counted and the count is told.
//! * What is told holds no control characters, whatever a file or a peer is called.
//!
//! # Failure
//! A journal that does not answer costs its alerts the way to the log; nothing else waits for it.

mod alert;
mod deliver;
mod kinds;
mod set_watch;
mod target_watch;

pub use alert::{Alert, Alerts};
pub use kinds::{Kind, Severity};
pub use set_watch::SetWatch;
pub use target_watch::TargetWatch;
