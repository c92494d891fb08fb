//! Rooms through their doors, without a mount.

mod digest_equal;
mod digest_kinds;
mod digest_walk;
#[path = "../support/scratch.rs"]
mod scratch;
mod trees;
