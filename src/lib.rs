//! Real-time replication of a directory tree, in order, crash-safe.
pub mod cli;
pub mod codec;
pub mod config;
pub mod control;
pub mod daemon;
pub mod stats;
pub mod supervisor;
pub mod sync;
pub mod sys;
pub mod types;
