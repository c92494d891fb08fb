//! A source that attacks its target. See README.md here.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    unreachable_pub,
    reason = "the parts are shared by the modules of one binary"
)]

mod attack;
mod door;
mod floods;
mod frames;
mod line;
mod names;
mod numbers;
mod pack;
mod scene;
#[path = "../support/scratch.rs"]
#[allow(dead_code, reason = "shared by several test binaries")]
mod scratch;
mod stage;
mod stream;
mod swaps;
