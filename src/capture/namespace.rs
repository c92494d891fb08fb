//! Captured changes of names.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::live::Intent;
use crate::passthrough::{Error, Open, OpenFile};
use crate::sys::{self, FileStat};
use crate::types::{Body, Dentry, FileId, Name, Node, Op, RenameMode, Replaced, Time, Xattr};

use super::core::{Call, Capture, SetId, c_name, joined};
use super::order::Locked;

/// A new inode: what it is and with which permission bits it is asked for.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// What.
    pub node: Node,
    /// Permission bits, before the umask.
    pub mode: u32,
    /// The caller's umask; below a default ACL takes its place where there is one.
    pub umask: u32,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenMode {
    /// `O_*` as the application gave them.
    pub flags: i32,
}

impl OpenMode {
    /// Can it be written through this handle?
    pub fn writes(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// Flags that open an existing file below like this, also once more.
    pub fn again(self) -> i32 {
        self.below() | libc::O_NOFOLLOW
    }

    /// Flags for the descriptor below: without what only concerns names, without `O_APPEND` (pwrite
    /// would ignore its offset) and `O_DIRECT` (our buffers are not aligned), and readable, since
    /// what was written may have to be read back.
    fn below(self) -> i32 {
        let kept = libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;
        let access = if self.writes() {
            libc::O_RDWR
        } else {
            libc::O_RDONLY
        };
        (self.flags & kept) | access
    }
}

/// A new entry as the kernel wants to know it.
#[derive(Debug)]
pub struct Created {
    /// Its inode.
    pub id: FileId,
    /// Its attributes.
    pub stat: FileStat,
}

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

fn dentry((parent, name): (FileId, &Name)) -> Dentry {
    Dentry {
        parent,
        name: name.clone(),
    }
}

thread_local! {
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Sets this thread's umask; the first time it gets one of its own.
fn adopt_umask(mask: u32) -> io::Result<()> {
    UMASK.with(|current| {
        if current.get().is_none() {
            sys::unshare_fs_state()?;
        }
        if current.get() != Some(mask) {
            sys::set_umask(mask);
            current.set(Some(mask));
        }
        Ok(())
    })
}

impl Capture {
    /// mkdir, mknod, symlink, and mknod of a regular file.
    ///
    /// # Errors
    /// What the call says below.
    pub fn make(
        &self,
        call: &Call,
        dir: FileId,
        name: &Name,
        new: &NewNode,
    ) -> Result<Created, Error> {
        let fail = |op| {
            move |source| Error {
                op,
                id: Some(dir),
                source,
            }
        };
        let locked = self.lock(&[dir]);
        self.act_as(call)?;
        adopt_umask(new.umask).map_err(fail("umask"))?;
        let parent = self.tree.node(dir)?;
        let (at, entry) = (parent.as_fd(), c_name(name));
        self.intend_new(call, dir, name);
        let done = self.make_below(at, &entry, dir, new);
        done.inspect_err(|_| self.retract())?;
        let made = sys::openat(at, &entry, libc::O_PATH, 0).map_err(fail("open of the new entry"));
        let made = self.or_doubt(made, dir)?;
        self.born(&locked, call, dir, &parent, name, (&made, new.node.clone()))
    }

    fn make_below(
        &self,
        at: BorrowedFd<'_>,
        entry: &CStr,
        dir: FileId,
        new: &NewNode,
    ) -> Result<(), Error> {
        let fail = |op| {
            move |source| Error {
                op,
                id: Some(dir),
                source,
            }
        };
        let mode = new.mode & 0o7777;
        match &new.node {
            Node::Dir => sys::mkdirat(at, entry, mode).map_err(fail("mkdir"))?,
            Node::Symlink(target) => {
                let target = CString::new(target.as_slice())
                    .map_err(|_| fail("symlink")(io::Error::from_raw_os_error(libc::EINVAL)))?;
                sys::symlinkat(&target, at, entry).map_err(fail("symlink"))?;
            }
            Node::File => {
                sys::mknodat(at, entry, libc::S_IFREG | mode, 0).map_err(fail("mknod"))?;
            }
            Node::Fifo => {
                sys::mknodat(at, entry, libc::S_IFIFO | mode, 0).map_err(fail("mknod"))?;
            }
            Node::Socket => {
                sys::mknodat(at, entry, libc::S_IFSOCK | mode, 0).map_err(fail("mknod"))?;
            }
            Node::Char(rdev) => {
                sys::mknodat(at, entry, libc::S_IFCHR | mode, *rdev).map_err(fail("mknod"))?;
            }
            Node::Block(rdev) => {
                sys::mknodat(at, entry, libc::S_IFBLK | mode, *rdev).map_err(fail("mknod"))?;
            }
        }
        Ok(())
    }

    /// Creates a regular file and opens it; opens the existing one where that is allowed. The flag
    /// says which: true when it is new.
    ///
    /// # Errors
    /// What open(2) says below.
    pub fn create(
        &self,
        call: &Call,
        dir: FileId,
        name: &Name,
        new: &NewNode,
        mode: OpenMode,
    ) -> Result<(Created, OpenFile), Error> {
        let fail = |source| Error {
            op: "create",
            id: Some(dir),
            source,
        };
        let locked = self.lock(&[dir]);
        self.act_as(call)?;
        adopt_umask(new.umask).map_err(fail)?;
        let parent = self.tree.node(dir)?;
        let flags = mode.below() | libc::O_CREAT | libc::O_EXCL;
        // O_NOATIME is only for owners; the caller may not be one yet.
        let flags = flags & !libc::O_NOATIME;
        self.intend_new(call, dir, name);
        match sys::openat(parent.as_fd(), &c_name(name), flags, new.mode & 0o7777) {
            Ok(fd) => {
                let created = self.born(&locked, call, dir, &parent, name, (&fd, Node::File))?;
                let id = created.id;
                self.tree.note_open(id);
                let path = joined(&self.tree, parent.as_fd(), name);
                Ok((created, OpenFile::new(id, fd, call.caller, path)))
            }
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) && mode.flags & libc::O_EXCL == 0 => {
                self.retract();
                drop(locked);
                let (id, stat) = self.tree.lookup(dir, name)?;
                if stat.is_symlink() {
                    return Err(fail(io::Error::from_raw_os_error(libc::ELOOP)));
                }
                let (file, stat) = self.open(call, id, mode)?;
                Ok((Created { id, stat }, file))
            }
            Err(e) => {
                self.retract();
                Err(fail(e))
            }
        }
    }

    /// Opens an inode; returns the attributes it then has.
    ///
    /// # Errors
    /// What open(2) says below.
    pub fn open(
        &self,
        call: &Call,
        id: FileId,
        mode: OpenMode,
    ) -> Result<(OpenFile, FileStat), Error> {
        self.act_as(call)?;
        self.tree.note_open(id);
        let opened = self.open_noted(call, id, mode);
        opened.inspect_err(|_| self.tree.note_closed(id))
    }

    fn open_noted(
        &self,
        call: &Call,
        id: FileId,
        mode: OpenMode,
    ) -> Result<(OpenFile, FileStat), Error> {
        let fd = self.tree.open(id, mode.again())?;
        let file = OpenFile::of(&self.tree, id, fd, call.caller);
        if mode.flags & libc::O_TRUNC == 0 {
            let stat = self.tree.stat_fd(file.fd.as_fd(), id)?;
            return Ok((file, stat));
        }
        let call = Call {
            set_id: SetId::AsCaller,
            ..*call
        };
        let writable = mode.writes().then_some(&file);
        let stat = self.truncate(&call, id, writable, 0)?;
        Ok((file, stat))
    }

    fn intend_new(&self, call: &Call, dir: FileId, name: &Name) {
        self.intend(call, || Intent::Make {
            at: dentry((dir, name)),
            began_ns: sys::realtime_ns(),
        });
    }

    /// Records the birth of an entry that was just made.
    pub(super) fn born(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        dir: FileId,
        parent: &OwnedFd,
        name: &Name,
        (fd, node): (&OwnedFd, Node),
    ) -> Result<Created, Error> {
        let seen = self.seen(fd, parent, dir);
        let (id, stat, dir_stat, xattrs) = self.or_doubt(seen, dir)?;
        let at = Dentry {
            parent: dir,
            name: name.clone(),
        };
        let path = joined(&self.tree, parent.as_fd(), name);
        let mut body = self.body(
            call,
            Op::Create {
                at,
                id,
                node,
                xattrs,
            },
            path,
        );
        body.after = Some(stat.attrs());
        body.dir_mtime = Some(dir_stat.mtime);
        if !stat.is_dir() {
            self.tree.members().note_linked(id);
        }
        self.record(locked, &body, &[], &[dir, id]);
        Ok(Created { id, stat })
    }

    fn seen(
        &self,
        fd: &OwnedFd,
        parent: &OwnedFd,
        dir: FileId,
    ) -> Result<(FileId, FileStat, FileStat, Vec<Xattr>), Error> {
        let id = self.tree.id_of(fd.as_fd())?;
        let stat = self.stat_after(fd.as_fd(), id)?;
        let xattrs = sys::list_all_xattrs(fd.as_fd()).map_err(|source| Error {
            op: "listxattr",
            id: Some(id),
            source,
        })?;
        Ok((id, stat, self.stat_after(parent.as_fd(), dir)?, xattrs))
    }

    /// Something changed and what it became cannot be read: the inode is in doubt.
    pub(super) fn or_doubt<T>(&self, result: Result<T, Error>, id: FileId) -> Result<T, Error> {
        if result.is_err() {
            self.doubt(&[id], false);
        }
        result
    }

    /// Gives an inode one more name.
    ///
    /// # Errors
    /// What linkat(2) says below.
    pub fn link(
        &self,
        call: &Call,
        id: FileId,
        dir: FileId,
        name: &Name,
    ) -> Result<Created, Error> {
        let locked = self.lock(&[id, dir]);
        self.act_as(call)?;
        let fail = |source| Error {
            op: "link",
            id: Some(id),
            source,
        };
        let (node, parent) = (self.tree.node(id)?, self.tree.node(dir)?);
        self.intend(call, || Intent::Link {
            id,
            at: dentry((dir, name)),
        });
        let done = sys::linkat_fd(node.as_fd(), parent.as_fd(), &c_name(name));
        done.inspect_err(|_| self.retract()).map_err(fail)?;
        self.linked(&locked, call, (id, &node), (dir, &parent), name)
    }

    /// Records one more name that was just made.
    pub(super) fn linked(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        (id, node): (FileId, &OwnedFd),
        (dir, parent): (FileId, &OwnedFd),
        name: &Name,
    ) -> Result<Created, Error> {
        let stat = self.or_doubt(self.stat_after(node.as_fd(), id), dir)?;
        let dir_stat = self.or_doubt(self.stat_after(parent.as_fd(), dir), dir)?;
        let kind = self.or_doubt(self.tree.kind_of(node.as_fd(), id, &stat), dir)?;
        let at = dentry((dir, name));
        let path = joined(&self.tree, parent.as_fd(), name);
        let mut body = self.body(call, Op::Link { id, at, node: kind }, path);
        body.after = Some(stat.attrs());
        body.dir_mtime = Some(dir_stat.mtime);
        self.tree.members().note_linked(id);
        self.record(locked, &body, &[], &[id, dir]);
        Ok(Created { id, stat })
    }

    /// Takes the locks of a directory and of the inode that one of its entries names. The name is
    /// looked up, locked, and looked up again: the locks are of what is there *then*.
    fn lock_entry(&self, dir: FileId, name: &Name) -> Result<(FileId, Locked<'_>), Error> {
        let mut id = self.tree.entry_id(dir, name)?;
        loop {
            let locked = self.lock(&[dir, id]);
            let now = self.tree.entry_id(dir, name)?;
            if now == id {
                return Ok((id, locked));
            }
            id = now;
        }
    }

    /// Removes a name of something that is no directory.
    ///
    /// # Errors
    /// What unlinkat(2) says below.
    pub fn unlink(&self, call: &Call, dir: FileId, name: &Name) -> Result<(), Error> {
        let (id, locked) = self.lock_entry(dir, name)?;
        self.act_as(call)?;
        let (parent, node) = (self.tree.node(dir)?, self.tree.node(id)?);
        self.intend(call, || Intent::Unlink {
            id,
            at: dentry((dir, name)),
            is_dir: false,
        });
        let prepared = self.tree.prepare_removal(id, &node, false);
        let path = joined(&self.tree, parent.as_fd(), name);
        let done = sys::unlinkat(parent.as_fd(), &c_name(name), 0).map_err(|source| Error {
            op: "unlink",
            id: Some(id),
            source,
        });
        let recorded = done
            .and_then(|()| self.unlinked(&locked, call, (id, &node), (dir, &parent), (name, path)));
        if prepared {
            self.tree.settle_removal(id);
        }
        recorded
    }

    /// Records that a name just went.
    pub(super) fn unlinked(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        (id, node): (FileId, &Arc<OwnedFd>),
        (dir, parent): (FileId, &OwnedFd),
        (name, path): (&Name, Vec<u8>),
    ) -> Result<(), Error> {
        let stat = self.or_doubt(self.stat_after(node.as_fd(), id), dir)?;
        let at = dentry((dir, name));
        self.tree.members().note_unlinked(id);
        let mut body = self.body(call, Op::Unlink { at, id }, path);
        body.after = Some(stat.attrs());
        self.removed(locked, body, dir, parent, id)?;
        if stat.nlink == 0 {
            self.tree.note_removed(id, node, false);
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What unlinkat(2) says below.
    pub fn rmdir(&self, call: &Call, dir: FileId, name: &Name) -> Result<(), Error> {
        let (id, locked) = self.lock_entry(dir, name)?;
        self.act_as(call)?;
        let (parent, node) = (self.tree.node(dir)?, self.tree.node(id)?);
        self.intend(call, || Intent::Unlink {
            id,
            at: dentry((dir, name)),
            is_dir: true,
        });
        let prepared = self.tree.prepare_removal(id, &node, true);
        let path = joined(&self.tree, parent.as_fd(), name);
        let done = sys::unlinkat(parent.as_fd(), &c_name(name), libc::AT_REMOVEDIR);
        let done = done.map_err(|source| Error {
            op: "rmdir",
            id: Some(id),
            source,
        });
        let recorded = done.and_then(|()| {
            let op = Op::Rmdir {
                at: dentry((dir, name)),
                id,
            };
            let body = self.body(call, op, path);
            self.tree.note_removed(id, &node, true);
            self.removed(&locked, body, dir, &parent, id)
        });
        if prepared {
            self.tree.settle_removal(id);
        }
        recorded
    }

    pub(super) fn removed(
        &self,
        locked: &Locked<'_>,
        mut body: Body,
        dir: FileId,
        parent: &OwnedFd,
        id: FileId,
    ) -> Result<(), Error> {
        let dir_stat = self.or_doubt(self.stat_after(parent.as_fd(), dir), dir)?;
        body.dir_mtime = Some(dir_stat.mtime);
        self.record(locked, &body, &[], &[dir, id]);
        Ok(())
    }

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
        let mut path = joined(&self.tree, from_dir.as_fd(), from.1);
        path.push(0);
        path.extend(joined(&self.tree, to_dir.as_fd(), to.1));
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
                    // A directory that was replaced is gone, whatever count it keeps while open.
                    let gone = was.is_dir() && flags & libc::RENAME_EXCHANGE == 0;
                    let nlink = if gone { 0 } else { over_stat.nlink };
                    if nlink == 0 {
                        self.tree.note_removed(over_id, fd, was.is_dir());
                    }
                    Some(Replaced {
                        id: over_id,
                        nlink,
                        node,
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
            let mut ids = vec![from.0, to.0, moved.0];
            ids.extend(replaced.map(|(id, _)| id));
            let dir_moves = moved.1.is_dir() || replaced.is_some_and(|(_, s)| s.is_dir());
            let locked = if dir_moves && from.0 != to.0 {
                self.lock_for_dir_move(&ids)
            } else {
                self.lock(&ids)
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
