//! Real-time replication of a directory tree, in order, crash-safe.
pub mod applier;
pub mod codec;
pub mod journal;
pub mod receiver;
pub mod sender;
pub mod sync;
pub mod sys;
pub mod types;
pub mod wire;
