//! What a process gives up before it listens to strangers, so that whoever takes it over has little.
//!
//! # The contract
//! [`confine`] is called once, by the only thread of a process that has everything open which needs
//! more than it keeps; threads started afterwards inherit all of it, and nothing is ever given back.
//! Four layers, which do not rely on each other:
//!
//! - no new privileges: a program that is run gains nothing by its file;
//! - capabilities: [`KEPT`] with the reason for each, all others are gone from every set;
//! - seccomp: calls that a file server never makes fail with `EPERM`;
//! - Landlock: no TCP connection outwards, no signal to others, no program, no ioctl of a device, and
//!   where the root of the replicas is a mount of its own, no write outside of it.
//!
//! # Invariants
//! What was got is what is told ([`Confinement`]): a layer that the kernel lacks is never passed over
//! in silence. A thread that is not confined does not exist beside one that is.
//!
//! # Failure
//! With [`Wish::Auto`] a missing layer is a warning, with [`Wish::Required`] an error. A process whose
//! confinement failed has perhaps lost something already, and is to end.
//!
//! # Why no crates?
//! `seccompiler` gives all calls of one filter one answer, and this needs two; what is left of it are
//! 40 lines. `landlock` wraps three calls, and hides what a fallback gave up, which is told here.

mod apply;
mod calls;
mod capabilities;
mod landlock;
mod report;
mod wish;

pub use apply::{Places, confine, confine_thread};
pub use calls::refused_calls;
pub use capabilities::{Capability, KEPT, UNUSED_BY_SOURCE, give_up_unused};
pub use report::{Confinement, Error, Layer};
pub use wish::{Part, Wish, WishError};
