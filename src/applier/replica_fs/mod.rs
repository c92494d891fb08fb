//! The replica on a real file system: by file handles, single names, cached descriptors.
//!
//! The hidden directory holds `limbo/`, the marker `position`, and while an emulated collapse or
//! insert is under way `shift.<seq>`.

mod calls;
mod open;
mod range;

pub use open::FsReplica;
