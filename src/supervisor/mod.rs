//! Starting a worker in the background, and hearing whether it serves.
//!
//! # Contract
//! [`start_worker`] runs this program again in a session of its own, with its output in a log, and
//! returns when that one has said through its [`Ready`] that it serves, or why it does not. A
//! program in the foreground has a [`Ready`], too: it prints the line, and tells a service manager.
//! [`EndSignal`] hears when it is to end. [`users_of`] tells who uses a directory.
//!
//! What runs in the background is a supervisor ([`supervise`]), which starts the worker, and another
//! one when it dies, while the mount stays and its requests wait. The worker hears through its [`Line`]
//! whether it begins or takes over, and hands over what is to outlive it.
//!
//! # Invariants
//! Whoever waits for readiness always gets an answer: the line, the error, or the end of the worker.
//!
//! # Failure
//! A worker that ends without a word is reported with the place of its log. Workers that die again and
//! again are not started any more until somebody asks for it; the mount stays.

mod keep;
mod launch;
mod line;
mod ready;
mod signal;
mod users;

pub use keep::{Charge, Supervision, supervise};
pub use launch::{LaunchError, detach, start_worker};
pub use line::{Handover, Line};
pub use ready::Ready;
pub use signal::EndSignal;
pub use users::{User, holders_of, users_of};
