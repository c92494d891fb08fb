//! The adapter to the kernel: decode, call capture, reply.
//!
//! The only room that names `fuser` or chooses an errno.
//!
//! # The contract
//! A node's number is the inode number below; the root, which the kernel insists to call 1, swaps
//! with whatever inode below is called 1. Requests carry no generation, so `Nodes` (nodes.rs) keeps it
//! for every node that the kernel knows: entered before the reply that tells the kernel, dropped when
//! the kernel forgets.
//!
//! Negotiated: permissions and POSIX ACLs judged by the kernel, umask left to the file system below,
//! suid stripping by us (`HANDLE_KILLPRIV_V2`), no locks (they stay local), no ioctl, writes of 1 MiB.
//! Not negotiated because fuser 0.18 cannot: see docs/differences.md.

mod adapter;
mod crew;
mod directory;
mod errno;
mod export;
mod nodes;
mod reply;
mod served;
mod session;

pub use adapter::Adapter;
pub use session::{Kernel, SessionError, serve, take_over};
