//! A correct plain file system over a backing directory; knows neither replication nor FUSE.
//!
//! # The contract
//! Files are named by [`FileId`](crate::types::FileId); an id is a file handle of the file system
//! below, so nothing has to stay open for a file to be found again, and a deleted file is `ESTALE`,
//! never another file. Descriptors of recently used inodes are kept in a bounded cache, and so are
//! those of open files: what falls out is opened again by its handle. Only what was removed and is
//! still used holds a descriptor for as long as it is.
//!
//! Permissions are *not* judged here: the kernel above has judged them with the caller's real
//! credentials. Calls that create or write run with the caller's file system identity, so that
//! ownership, quotas and reserved blocks come out as below.
//!
//! # Invariants
//! Nothing outside the tree of the root's own file system is reachable by name: an entry with another
//! `st_dev` (a btrfs subvolume) is not followed ([`UNFOLLOWED`]). What is mounted over or inside the tree is invisible.
//! By number alone ([`Tree::find`]) an inode is found that may lie outside; [`Found::is_inside`] and
//! [`Members`] tell, and nobody serves it before they do.
//!
//! # Failure
//! Every error carries the errno of the call below, unchanged, with the operation's name.

mod export;
mod handles;
mod members;
mod paths;
mod removed;
mod tree;
mod unfit;

pub use export::Found;
pub use handles::{Handles, Open, OpenDir, OpenFile};
pub use members::Members;
pub use tree::{Error, Keeper, Tree, UNFOLLOWED};
pub use unfit::unfit;
