//! Captured changes of names.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::live::Intent;
use crate::passthrough::{Error, Open, OpenFile};
use crate::sys::{self, FileStat};
use crate::types::{Body, Dentry, FileId, Name, Node, Op, Xattr};

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

pub(super) fn dentry((parent, name): (FileId, &Name)) -> Dentry {
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
        let made = (&made, new.node.clone());
        let (created, _) = self.born(&locked, call, dir, &parent, name, made)?;
        Ok(created)
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
                let made = (&fd, Node::File);
                let (created, path) = self.born(&locked, call, dir, &parent, name, made)?;
                let id = created.id;
                self.tree.note_open(id);
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

    /// Records the birth of an entry that was just made. Returns it, and where it is.
    pub(super) fn born(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        dir: FileId,
        parent: &OwnedFd,
        name: &Name,
        (fd, node): (&OwnedFd, Node),
    ) -> Result<(Created, Vec<u8>), Error> {
        let seen = self.seen(fd, parent, dir);
        let (id, stat, dir_stat, xattrs) = self.or_doubt(seen, dir)?;
        let at = Dentry {
            parent: dir,
            name: name.clone(),
        };
        let path = joined(&self.tree, (dir, &parent), name);
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
        self.note_new(locked, id);
        self.record(locked, &body, &[], &[dir, id]);
        Ok((Created { id, stat }, body.path))
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
        let locked = self.lock_names(&[dir], &[id]);
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
        let path = joined(&self.tree, (dir, &parent), name);
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
            let locked = self.lock_names(&[dir], &[id]);
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
        let path = joined(&self.tree, (dir, &parent), name);
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
        let path = joined(&self.tree, (dir, &parent), name);
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
}
