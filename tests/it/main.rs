//! Drives every room through its door.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli_commands;
mod cli_helpers;
mod cli_render;
mod cli_scratch;
mod cli_umount;
mod config;
mod control;
mod stats;
mod supervisor;
