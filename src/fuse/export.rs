//! Nodes by number: what NFS servers and open_by_handle_at(2) lead to.
//!
//! A file handle of the mount holds a node's number and its generation. For a node that the kernel has
//! forgotten it sends LOOKUP of `.` in that number, with no generation: we answer with the inode that
//! has the number *now* and its real generation, and the kernel, which compares, says `ESTALE` when
//! the number was given to another file. So handles outlive the kernel's cache, a restart and a
//! remount, and never lead to another file. What does not lie in the tree is answered `ESTALE`.

use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fuser::{Generation, INodeNo, ReplyEntry};

use crate::capture::{Capture, Created};
use crate::passthrough::{Error, Found};
use crate::sync;
use crate::types::FileId;

use super::adapter::Adapter;
use super::errno::{errno, unknown_node};
use super::nodes::Nodes;
use super::reply::{self, TTL};

/// An inode of which only a walk can tell whether it lies in the tree, and who waits to hear.
pub(super) struct Unproven {
    found: Created,
    reply: ReplyEntry,
}

/// Tells the kernel of a node, which counts as a lookup of it.
pub(super) fn reply_entry(nodes: &Nodes, reply: ReplyEntry, created: &Created) {
    nodes.remember(created.id);
    let attr = reply::attr(&created.stat, nodes.number(created.id));
    reply.entry(&TTL, &attr, Generation(created.id.generation.0));
}

/// The root's number is not its inode number, and a reply has room for one: its attributes are not to
/// be kept, so that the kernel asks for them. Its generation is 0 by the protocol.
fn reply_root(reply: ReplyEntry, created: &Created) {
    let attr = reply::attr(&created.stat, INodeNo::ROOT.0);
    reply.entry_with_ttls(&Duration::ZERO, &TTL, &attr, Generation(0));
}

/// Starts the thread that walks through the tree for who asks: requests of others do not wait for it.
/// It ends with the adapter.
pub(super) fn start(
    capture: Arc<Capture>,
    nodes: Arc<Nodes>,
    questions: mpsc::Receiver<Unproven>,
) -> io::Result<()> {
    let answer = move || {
        for Unproven { found, reply } in questions {
            let tree = capture.tree();
            match tree.members().find(tree, found.id.ino) {
                Ok(true) => reply_entry(&nodes, reply, &found),
                Ok(false) => reply.error(unknown_node()),
                Err(error) => {
                    tracing::warn!(%error, "cannot tell where a file handle leads");
                    reply.error(errno(&error));
                }
            }
        }
    };
    sync::spawn("dfs-export", answer).map(drop)
}

impl Adapter {
    /// LOOKUP of `.`: the node itself. The number may be that of a file, too, and unknown.
    pub(super) fn look_up_number(&self, node: INodeNo, reply: ReplyEntry) {
        match self.find_number(node.0) {
            Ok(Found {
                id,
                stat,
                is_inside,
            }) => {
                let found = Created { id, stat };
                match is_inside {
                    Some(true) => self.reply_found(reply, &found),
                    Some(false) => reply.error(unknown_node()),
                    // The thread lives as long as we do.
                    None => drop(self.unproven.send(Unproven { found, reply })),
                }
            }
            Err(e) if matches!(e.errno(), libc::ENOENT | libc::EINVAL) => {
                reply.error(unknown_node());
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn find_number(&self, node: u64) -> Result<Found, Error> {
        let tree = self.capture.tree();
        match self.nodes.id(node) {
            Some(id) => Ok(Found {
                id,
                stat: tree.stat(id)?,
                is_inside: Some(true),
            }),
            None => tree.find(self.nodes.ino(node)),
        }
    }

    /// LOOKUP of `..`: the directory that holds a directory.
    pub(super) fn look_up_parent(&self, node: INodeNo, reply: ReplyEntry) {
        let parent = self
            .id(node)
            .and_then(|dir: FileId| self.capture.tree().parent(dir));
        match parent {
            Ok((id, stat)) => self.reply_found(reply, &Created { id, stat }),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn reply_found(&self, reply: ReplyEntry, found: &Created) {
        if found.id == self.capture.tree().root_id() {
            reply_root(reply, found);
        } else {
            reply_entry(&self.nodes, reply, found);
        }
    }
}
