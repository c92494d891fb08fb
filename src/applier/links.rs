//! Symbolic links: what the replica's are, where they are not simply the source's.
//!
//! Records keep what the source said. With a [`Remap`] an absolute link into the set gets another
//! target here, and beside it, as an extended attribute, the one that it has on the source.
//!
//! [`Remap`]: crate::types::Remap

use std::borrow::Cow;

use crate::types::{Node, Remap, Xattr};

use super::engine::Applier;
use super::error::{At, Fault};
use super::fit::without_own;
use super::replica::{Inode, Place, Replica};

impl<R: Replica> Applier<R> {
    /// Another way of making links; what stands already is made right by the full mirror that has
    /// to follow.
    pub fn set_remap(&mut self, remap: Option<Remap>) {
        self.replica.set_remap(remap);
    }

    /// The target that a node's link has here, when it is another than on the source.
    fn rewritten(&self, node: &Node) -> Option<Vec<u8>> {
        match node {
            Node::Symlink(target) => self.replica.remap()?.rewritten(target),
            Node::File | Node::Dir | Node::Fifo | Node::Socket | Node::Char(_) | Node::Block(_) => {
                None
            }
        }
    }

    /// Makes an inode, as it is here.
    pub(super) fn make(&mut self, at: Place<'_>, node: &Node) -> Result<Inode, Fault> {
        let here = match self.rewritten(node) {
            Some(target) => Cow::Owned(Node::Symlink(target)),
            None => Cow::Borrowed(node),
        };
        self.replica.create(at, &here).at_name(at.dir, at.name)
    }

    /// The extended attributes that a new inode or one of an image has here.
    pub(super) fn xattrs_here<'a>(&self, node: &Node, xattrs: &'a [Xattr]) -> Cow<'a, [Xattr]> {
        match (node, self.replica.remap()) {
            (Node::Symlink(target), Some(remap)) => Cow::Owned(remap.xattrs(target, xattrs)),
            _ => without_own(xattrs),
        }
    }

    /// Is this object what the node is here? A file or directory can be made so; a link, a fifo, a
    /// socket or a device cannot be changed.
    pub(super) fn can_be(&mut self, inode: Inode, node: &Node) -> Result<bool, Fault> {
        let wanted = match node {
            Node::File | Node::Dir | Node::Symlink(_) => None,
            Node::Fifo => Some((libc::S_IFIFO, 0)),
            Node::Socket => Some((libc::S_IFSOCK, 0)),
            Node::Char(rdev) => Some((libc::S_IFCHR, *rdev)),
            Node::Block(rdev) => Some((libc::S_IFBLK, *rdev)),
        };
        if let Some(wanted) = wanted {
            return match self.replica.special(inode) {
                Ok(found) => Ok(found == wanted),
                // It is gone, which is found out when it is brought to its place.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => Ok(true),
                Err(e) => Err(e).at(inode),
            };
        }
        let Node::Symlink(target) = node else {
            return Ok(true);
        };
        match self.replica.read_link(inode) {
            Ok(found) => Ok(found == self.rewritten(node).as_deref().unwrap_or(target)),
            // Another kind of inode stands for it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            // It is gone, which is found out when it is brought to its place.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => Ok(true),
            Err(e) => Err(e).at(inode),
        }
    }
}
