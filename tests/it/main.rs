//! Tests that drive each room through its door.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
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
mod journal_basic;
mod journal_full_disk;
mod journal_model;
mod journal_recovery;
mod journal_support;
mod link_cuts;
mod link_flow;
mod link_holds;
mod link_support;
mod receiver_door;
mod sender_session;
mod wire_codec;
