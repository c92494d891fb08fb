//! Tests that drive each room through its door.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    unreachable_pub,
    reason = "support is shared by the modules of one binary"
)]

mod applier_cuts;
mod applier_kills;
mod applier_mirror;
mod applier_model;
mod applier_real;
mod applier_rig;
mod applier_rows;
mod applier_traps;
mod applier_world;
