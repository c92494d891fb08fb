//! The same calls on a file system and through a mount over its like, compared one by one.
//!
//! Needs root, `/dev/fuse`, loop devices and setpriv(1); without them every test says `SKIPPED` and
//! passes. Environment, besides that of tests/fuse/main.rs: `DOPPELFS_CALLS` (20,000): random calls for
//! each file system. `DOPPELFS_CLOSE_LOOK`: from this call on all is compared every ten calls.

mod actor;
mod calls;
mod changing_lists;
mod explained;
mod listing;
mod op;
mod planted;
mod random;
mod random_calls;
mod rig;
mod scripts;
#[path = "../fuse/support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the other tests of mounts, which use all of it"
)]
mod support;
