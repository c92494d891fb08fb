//! Real-time replication of a directory tree, in order, crash-safe.
pub mod activity;
pub mod capture;
pub mod cli;
pub mod codec;
pub mod config;
pub mod control;
pub mod daemon;
pub mod digest;
pub mod fuse;
pub mod journal;
pub mod mirror;
pub mod passthrough;
pub mod stats;
pub mod supervisor;
pub mod sync;
pub mod sys;
pub mod types;
