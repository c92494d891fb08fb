//! Captured renames.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::live::Intent;
use crate::passthrough::Error;
use crate::sys::{self, FileStat};
use crate::types::{Body, FileId, Name, Op, RenameMode, Replaced, Time};

use super::core::{Call, Capture, c_name, joined};
use super::namespace::dentry;
use super::order::Locked;

/// Who takes part in a rename.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parties<'a> {
    pub(super) from: (FileId, &'a Name),
    pub(super) to: (FileId, &'a Name),
    pub(super) moved: (FileId, FileStat),
    pub(super) replaced: Option<(FileId, FileStat)>,
    /// What was replaced, open.
    pub(super) over: Option<&'a Arc<OwnedFd>>,
    pub(super) flags: u32,
}

impl Capture {
    /// renameat2(2) with `NOREPLACE`, `EXCHANGE` or `WHITEOUT` or none.
    ///
    /// # Errors
    /// What renameat2(2) says below.
    pub fn rename(
        &self,
        call: &Call,
        from: (FileId, &Name),
        to: (FileId, &Name),
        flags: u32,
    ) -> Result<(), Error> {
        let (locked, moved, replaced) = self.lock_rename(from, to)?;
        self.act_as(call)?;
        let id = moved.0;
        let fail = |source| Error {
            op: "rename",
            id: Some(id),
            source,
        };
        let (from_dir, to_dir) = (self.tree.node(from.0)?, self.tree.node(to.0)?);
        let over = replaced.map(|(id, _)| self.tree.node(id)).transpose()?;
        let mut path = joined(&self.tree, (from.0, &from_dir), from.1);
        path.push(0);
        path.extend(joined(&self.tree, (to.0, &to_dir), to.1));
        self.intend(call, || Intent::Rename {
            id,
            from: dentry(from),
            to: dentry(to),
            replaced: replaced.map(|(id, _)| id),
            flags,
        });
        let prepared = match (replaced, &over) {
            (Some((over, was)), Some(fd)) if flags & libc::RENAME_EXCHANGE == 0 => self
                .tree
                .prepare_removal(over, fd, was.is_dir())
                .then_some(over),
            _ => None,
        };
        let began = sys::coarse_now();
        let done = sys::renameat2(
            from_dir.as_fd(),
            &c_name(from.1),
            to_dir.as_fd(),
            &c_name(to.1),
            flags,
        );
        if done.is_err() && flags & libc::RENAME_WHITEOUT != 0 {
            self.record_touched(&locked, call, &[from.0, to.0], began);
        }
        if done.is_ok() {
            let parties = Parties {
                from,
                to,
                moved,
                replaced,
                over: over.as_ref(),
                flags,
            };
            self.renamed(&locked, call, &parties, path);
        }
        if let Some(over) = prepared {
            self.tree.settle_removal(over);
        }
        done.map_err(fail)
    }

    /// Records a rename that just took effect. One that cannot be described leaves its inodes in doubt.
    pub(super) fn renamed(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        parties: &Parties<'_>,
        path: Vec<u8>,
    ) {
        let Parties {
            from,
            to,
            moved,
            replaced,
            over,
            flags,
        } = *parties;
        let id = moved.0;
        self.tree.note_rename();
        self.note_names(moved, replaced, flags);
        if from.0 != to.0 {
            let dirs = [Some(moved), replaced].into_iter().flatten();
            for (dir, _) in dirs.filter(|(_, stat)| stat.is_dir()) {
                self.note_moved(dir);
            }
        }
        if replaced.is_some_and(|(over, _)| over == id) {
            // Two names of one inode: rename(2) leaves both, exchanging them changes nothing.
            return;
        }
        let result: Result<Body, Error> = (|| {
            let (from_dir, to_dir) = (self.tree.node(from.0)?, self.tree.node(to.0)?);
            let node = self.tree.node(id)?;
            let stat = self.stat_after(node.as_fd(), id)?;
            let kind = self.tree.kind_of(node.as_fd(), id, &stat)?;
            let replaced = match (replaced, over) {
                (Some((over_id, was)), Some(fd)) => {
                    let over_stat = self.stat_after(fd.as_fd(), over_id)?;
                    let node = self.tree.kind_of(fd.as_fd(), over_id, &was)?;
                    let is_exchanged = flags & libc::RENAME_EXCHANGE != 0;
                    // A directory that was replaced is gone, whatever count it keeps while open.
                    let gone = was.is_dir() && !is_exchanged;
                    let nlink = if gone { 0 } else { over_stat.nlink };
                    if nlink == 0 {
                        self.tree.note_removed(over_id, fd, was.is_dir());
                    }
                    Some(Replaced {
                        id: over_id,
                        nlink,
                        node,
                        mtime: (was.is_dir() && is_exchanged).then_some(over_stat.mtime),
                    })
                }
                _ => None,
            };
            let mode = if flags & libc::RENAME_EXCHANGE != 0 {
                RenameMode::Exchange
            } else if flags & libc::RENAME_WHITEOUT != 0 {
                let left = self.tree.lookup(from.0, from.1)?;
                self.tree.members().note_linked(left.0);
                RenameMode::Whiteout {
                    id: left.0,
                    after: left.1.attrs(),
                }
            } else {
                RenameMode::Plain
            };
            let op = Op::Rename {
                id,
                node: kind,
                from: dentry(from),
                to: dentry(to),
                replaced,
                mode,
            };
            let mut body = self.body(call, op, path);
            body.after = Some(stat.attrs());
            body.dir_mtime = Some(self.stat_after(from_dir.as_fd(), from.0)?.mtime);
            body.to_mtime = Some(self.stat_after(to_dir.as_fd(), to.0)?.mtime);
            Ok(body)
        })();
        match result {
            Ok(body) => self.record(locked, &body, &[], &[from.0, to.0, id]),
            Err(error) => {
                tracing::error!(%error, "a rename took effect and cannot be described");
                self.doubt(&[from.0, to.0, id], false);
            }
        }
    }

    /// A rename that failed may have stamped its directories all the same: ext4 makes the whiteout
    /// before it finds that it must not.
    fn record_touched(&self, locked: &Locked<'_>, call: &Call, dirs: &[FileId], began: Time) {
        for &dir in dirs {
            let node = self.tree.node(dir);
            let stat = node.and_then(|node| self.tree.stat_fd(node.as_fd(), dir));
            if let Ok(stat) = stat
                && stat.ctime >= began
                && stat.nlink > 0
            {
                let mut body = self.body(
                    call,
                    Op::SetAttr {
                        id: dir,
                        atime: None,
                    },
                    Vec::new(),
                );
                body.after = Some(stat.attrs());
                self.record(locked, &body, &[], &[dir]);
            }
        }
    }

    /// Tells who counts the names of files that they moved.
    fn note_names(
        &self,
        (id, stat): (FileId, FileStat),
        replaced: Option<(FileId, FileStat)>,
        flags: u32,
    ) {
        let members = self.tree.members();
        if !stat.is_dir() {
            members.note_renamed(id);
        }
        match replaced {
            Some((over, stat)) if over != id && !stat.is_dir() => {
                if flags & libc::RENAME_EXCHANGE == 0 {
                    members.note_unlinked(over);
                } else {
                    members.note_renamed(over);
                }
            }
            _ => {}
        }
    }

    /// Takes all the locks of a rename: both directories, the inode that moves and the one in its way.
    #[allow(
        clippy::type_complexity,
        reason = "three results of one step, used in one place"
    )]
    fn lock_rename(
        &self,
        from: (FileId, &Name),
        to: (FileId, &Name),
    ) -> Result<(Locked<'_>, (FileId, FileStat), Option<(FileId, FileStat)>), Error> {
        let look = || -> Result<_, Error> {
            let moved = self.tree.lookup(from.0, from.1)?;
            let replaced = match self.tree.lookup(to.0, to.1) {
                Ok(found) => Some(found),
                Err(e) if e.errno() == libc::ENOENT => None,
                Err(e) => return Err(e),
            };
            Ok((moved, replaced))
        };
        let (mut moved, mut replaced) = look()?;
        loop {
            let dirs = [from.0, to.0];
            let mut inodes = vec![moved.0];
            inodes.extend(replaced.map(|(id, _)| id));
            let dir_moves = moved.1.is_dir() || replaced.is_some_and(|(_, s)| s.is_dir());
            let locked = if dir_moves && from.0 != to.0 {
                self.lock_for_dir_move(&dirs, &inodes)
            } else {
                self.lock_names(&dirs, &inodes)
            };
            let (moved_now, replaced_now) = look()?;
            let same = moved_now.0 == moved.0
                && replaced_now.map(|(id, _)| id) == replaced.map(|(id, _)| id);
            if same {
                return Ok((locked, moved_now, replaced_now));
            }
            (moved, replaced) = (moved_now, replaced_now);
        }
    }
}
