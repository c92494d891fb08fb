//! What survives the worker of a mount, but not the host: the nodes that the kernel knows, the files
//! that programs have open, the requests under way.
//!
//! # The contract
//! The tables lie in mapped files of a directory that is lost with the host (a tmpfs). A store is there
//! for the next worker also when this one is killed on the next instruction. A worker that takes over
//! opens the same directory ([`Live::open`]) and finds what the last one had; a first one begins anew
//! ([`Live::begin`]). Without a directory ([`Live::none`]) nothing is kept, and everything else works.
//!
//! # Invariants
//! - A record's first word is stored last and cleared first, and is not 0 while the record counts: a
//!   record is there whole or not at all.
//! - A request under way is in its slot from before its first effect until after its answer
//!   ([`Flight`]); what it is about to change stands there before it does.
//!
//! # Failure
//! Where the directory has no room left, the tables say that they miss something
//! ([`Live::is_whole`]): the worker goes on, and the mount cannot be taken over any more.

mod flight;
mod intent;
mod slab;
mod tables;

pub use flight::{Answer, Flight, Left};
pub use intent::Intent;
pub use slab::{Found, Slab};
pub use tables::{Live, Offer, OpenCheck};
