//! The source's side of a mirror: answers what targets want with images in the stream.
//!
//! # The contract
//! A mirror is driven by its target. It knows which files it has and which are in doubt, so its
//! want-list *is* the mirror: the root directory first, then what the listings name. Here only one
//! thread per set works: it takes wanted ids, images each under its lock (see
//! [`capture`](crate::capture)), and lets go when the link is behind. Nothing has to be remembered
//! here: after a restart of either side the target asks for what is still missing. Beside it some threads read
//! the files that come next into memory, while they are found on the disk.
//!
//! [`check`] is the walk after a time in which nobody watched the tree: it puts in doubt what was
//! changed then; the target asks for exactly that.
//!
//! # Failure
//! An inode that cannot be read is tried again and shown; the mirror does not end without it.

mod ahead;
mod check;
mod job;

pub use check::{CheckProgress, check};
pub use job::{Event, Mirror, MirrorState, Pace};
