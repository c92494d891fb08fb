//! Rooms through their doors, without a mount.
#![allow(missing_docs, reason = "tests")]
#![allow(
    unreachable_pub,
    reason = "support is shared by the modules of one binary"
)]

mod activity;
mod capture;
mod codec;
mod digest_equal;
mod digest_kinds;
mod digest_walk;
mod journal_basic;
mod journal_support;
mod passthrough;
#[path = "../support/scratch.rs"]
mod scratch;
mod sync;
mod trees;
mod link_flow;
mod link_support;
mod wire_codec;
