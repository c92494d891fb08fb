//! The file system below plus the journal: what happens, is recorded in the order it happened.
//!
//! # The contract
//! A call here does what the same call on [`passthrough`](crate::passthrough) does, with the same
//! result, and before it returns the operation stands in the journal: lock, system call, append,
//! unlock. So if one call returned before another began, they stand in the journal in this order
//! (whatever files they are about), and two calls on one inode or one directory stand in it in the
//! order in which they took effect.
//!
//! # Invariants
//! - Locks: the directory-rename mutex first, then inode stripes in ascending order, all in
//!   [`order`](Capture::lock); nobody else takes them. A record about inodes is appended only by who
//!   holds their stripes.
//! - Operations on inodes without any name left are not recorded: no replica can show them.
//! - A record carries the attributes that the inode has after the call, read under the lock.
//! - The result of the file system below is what the application gets. No state of the journal
//!   changes it.
//!
//! # Failure
//! An operation that took effect and could not be recorded is a *gap*: durable flag first, then the
//! reply. The next record is `Gap` with the files in doubt, and a mirror images exactly these. A full
//! queue is given up as a whole; the operation that found it full is recorded.
//!
//! # Assumptions
//! Nobody changes the tree below beside the mount while it is mounted. What was changed while it was
//! not mounted shows in `ctime`, which nobody can set.

mod attributes;
mod content;
mod core;
mod gap;
mod image;
mod namespace;
mod order;
mod rename;
mod takeover;

pub use attributes::{AttrChange, TimeChange};
pub use content::{Extent, Written};
pub use core::{Call, Capture, Observer, Options, SetId, Uncovered};
pub use image::{ImageError, ImageOutcome};
pub use namespace::{Created, NewNode, OpenMode};
pub use order::{Locked, Stillness};
pub use takeover::TakenOver;
