//! The nouns everyone shares: identities, positions, operations, limits.
//!
//! No I/O, no locks, no clocks: every room may use these, and they use nobody.
//!
//! # Vocabulary
//! *source* and *target* are roles; *replica* is the tree under the mirror path; an [`Op`] is what
//! happened, a *record* is an [`Op`] with its [`Seq`], identity and time; a [`History`] is the line
//! of positions that a [`Seq`] belongs to; the watermarks are *captured, sent, received, applied,
//! durable*, in this order.

mod attrs;
mod identity;
pub mod limits;
mod name;
mod op;
mod position;
mod remap;
mod withheld;

pub use attrs::{Attrs, Node, Time};
pub use identity::{FileId, Generation, Ino, ROOT_ID, RootId};
pub use name::{MarkName, Name, NameError, SetName};
pub use op::{
    Body, Caller, Dentry, Entry, Kind, Op, RenameMode, Replaced, RequestId, Scope, Xattr,
};
pub use position::{Fork, History, Marks, Position, Seq};
pub use remap::{LINK_XATTR, REMAP_BYTES_MAX, Remap};
pub use withheld::{
    CAPABILITY_XATTR, Device, DeviceKind, OWN_XATTRS, WITHHELD_CAPABILITY_XATTR, WITHHELD_XATTR,
    Withheld, is_own_xattr,
};
