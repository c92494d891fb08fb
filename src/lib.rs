//! Real-time replication of a directory tree, in order, crash-safe.
pub mod activity;
pub mod capture;
pub mod codec;
pub mod fuse;
pub mod journal;
pub mod mirror;
pub mod passthrough;
pub mod sync;
pub mod sys;
pub mod types;
