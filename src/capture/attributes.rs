//! Captured changes of attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::live::Intent;
use crate::passthrough::{Error, OpenFile};
use crate::sys::{self, Credentials, FileStat};
use crate::types::{FileId, Op, Time};

use super::core::{Call, Capture};

/// What a timestamp becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChange {
    /// The file system's idea of now.
    Now,
    /// This.
    To(Time),
}

/// What is to be done for a chown(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chown {
    /// It.
    Full,
    /// The change time alone; the mode stays this.
    Stamp(u32),
    /// Nothing.
    Nothing,
    /// It is not permitted.
    Refused,
}

/// The attributes that one request changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeChange>,
    /// Modification time.
    pub mtime: Option<TimeChange>,
}

impl AttrChange {
    /// Nothing but the modification time?
    pub fn is_modified_time_alone(&self) -> bool {
        let rest = AttrChange {
            mtime: None,
            ..*self
        };
        self.mtime.is_some() && rest.is_nothing()
    }

    fn is_nothing(&self) -> bool {
        self.is_plain_size() && self.size.is_none()
    }

    fn is_plain_size(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }
}

pub(super) fn has_xattr(node: &impl AsFd, name: &CStr) -> bool {
    sys::getxattr(node.as_fd(), name, &mut []).is_ok()
}

impl Capture {
    /// Changes attributes of an inode; returns them as they are afterwards. Where nothing but the record is left to
    /// do, `answer` is called with them before that is made ([`Capture::write_answering`]).
    ///
    /// # Errors
    /// What the calls below say; then nobody was answered. A request may hold several changes; those before the
    /// one that failed stay and are recorded.
    pub fn set_attrs(
        &self,
        call: &Call,
        id: FileId,
        file: Option<&OpenFile>,
        change: &AttrChange,
        answer: impl FnOnce(&FileStat),
    ) -> Result<FileStat, Error> {
        let locked = self.lock(&[id]);
        if let (Some(size), true) = (change.size, change.is_plain_size()) {
            return self.truncate_locked(&locked, call, id, file, size);
        }
        if let Some(size) = change.size {
            self.truncate_locked(&locked, call, id, file, size)?;
        }
        let node = self.tree.node(id)?;
        self.intend(call, || Intent::Attrs {
            id,
            atime: change.atime.is_some(),
        });
        let done = self.change_below(call, id, &node, change);
        let stat = self.or_doubt(self.stat_after(node.as_fd(), id), id)?;
        if stat.nlink > 0 {
            let wants_atime = self.options.atime && change.atime.is_some();
            let op = Op::SetAttr {
                id,
                atime: wants_atime.then_some(stat.atime),
            };
            let mut body = self.body(call, op, self.path_hint(file, id, &node));
            body.after = Some(stat.attrs());
            self.record_answering(&locked, &body, &[], &[id], || {
                if done.is_ok() {
                    answer(&stat);
                }
            });
        }
        done.map(|()| stat)
    }

    fn change_below(
        &self,
        call: &Call,
        id: FileId,
        node: &impl AsFd,
        change: &AttrChange,
    ) -> Result<(), Error> {
        let fd = node.as_fd();
        let fail = |op| {
            move |source| Error {
                op,
                id: Some(id),
                source,
            }
        };
        let is_chown = change.uid.is_some() || change.gid.is_some();
        if is_chown || change.is_nothing() {
            match self.judge_chown(call, fd, id, change)? {
                Chown::Full => sys::chown_fd(fd, change.uid, change.gid).map_err(fail("chown"))?,
                Chown::Stamp(mode) => sys::chmod_fd(fd, mode).map_err(fail("chmod"))?,
                Chown::Nothing => {}
                Chown::Refused => {
                    return Err(fail("chown")(io::Error::from_raw_os_error(libc::EPERM)));
                }
            }
        }
        self.act_as_root()?;
        if let Some(mode) = change.mode {
            sys::chmod_fd(fd, mode).map_err(fail("chmod"))?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let now = Time {
                secs: 0,
                nanos: sys::UTIME_NOW,
            };
            let spec = |time: Option<TimeChange>| {
                time.map(|time| match time {
                    TimeChange::Now => now,
                    TimeChange::To(time) => time,
                })
            };
            sys::utimens_fd(fd, spec(change.atime), spec(change.mtime))
                .map_err(fail("utimensat"))?;
        }
        Ok(())
    }

    /// Takes the identity for a chown(2) of this file and says what is to be done. It may take set-id
    /// bits away that only the owner may take (`setattr_prepare` in `fs/attr.c`; our kernel leaves the
    /// bits to us).
    ///
    /// A change of nothing is a chown to nobody and nowhere, or comes when the kernel is about to write
    /// and takes privileges first (`FUSE_HANDLE_KILLPRIV_V2`). The two look the same. The write below
    /// takes the bits that have to go; so from who may keep them they stay here, and from a stranger
    /// nothing happens.
    fn judge_chown(
        &self,
        call: &Call,
        fd: BorrowedFd<'_>,
        id: FileId,
        change: &AttrChange,
    ) -> Result<Chown, Error> {
        let stat = self.tree.stat_fd(fd, id)?;
        self.act_changing(call, fd, id, change.gid)?;
        let set_id = stat.mode & (libc::S_ISUID | libc::S_ISGID);
        if stat.is_dir() || set_id == 0 {
            return Ok(Chown::Full);
        }
        let rights = Credentials::of(call.caller.pid);
        if change.is_nothing() && rights.keeps_set_id() {
            return Ok(Chown::Stamp(stat.mode));
        }
        let member = stat.gid == call.caller.gid || rights.is_in_group(stat.gid);
        let keeps_group = member || rights.keeps_set_id();
        let group_goes = stat.mode & libc::S_IXGRP != 0 || !keeps_group;
        let some_go = set_id & libc::S_ISUID != 0 || group_goes;
        let is_owner = stat.uid == call.caller.uid || rights.acts_as_owner();
        Ok(match (!some_go || is_owner, change.is_nothing()) {
            (true, _) => Chown::Full,
            (false, true) => Chown::Nothing,
            (false, false) => Chown::Refused,
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// What setxattr(2) says below.
    pub fn set_xattr(
        &self,
        call: &Call,
        id: FileId,
        name: &CStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Error> {
        let locked = self.lock(&[id]);
        self.act_as_root()?;
        let node = self.tree.node(id)?;
        self.intend(call, || Intent::Xattr {
            id,
            name: name.to_bytes().to_vec(),
            was: (flags & libc::XATTR_CREATE != 0).then(|| has_xattr(&node, name)),
        });
        sys::setxattr(node.as_fd(), name, value, flags).map_err(|source| Error {
            op: "setxattr",
            id: Some(id),
            source,
        })?;
        if name == c"system.posix_acl_access" {
            let judged = self.judge_sgid(call, id, &node);
            self.or_doubt(judged, id)?;
        }
        let stat = self.or_doubt(self.stat_after(node.as_fd(), id), id)?;
        if stat.nlink > 0 {
            let op = Op::SetXattr {
                id,
                name: name.to_bytes().to_vec(),
            };
            let mut body = self.body(call, op, self.path_hint(None, id, &node));
            body.after = Some(stat.attrs());
            self.record(&locked, &body, value, &[id]);
        }
        Ok(())
    }

    /// Who sets an access ACL on a file of a group that is not theirs takes its sgid bit away
    /// (posix_acl_update_mode in the kernel); we set it as root, and so have to do that ourselves.
    fn judge_sgid(&self, call: &Call, id: FileId, node: &impl AsFd) -> Result<(), Error> {
        let stat = self.tree.stat_fd(node.as_fd(), id)?;
        let may_keep = || {
            let rights = Credentials::of(call.caller.pid);
            stat.gid == call.caller.gid || rights.is_in_group(stat.gid) || rights.keeps_set_id()
        };
        if stat.mode & libc::S_ISGID == 0 || may_keep() {
            return Ok(());
        }
        sys::chmod_fd(node.as_fd(), stat.mode & !libc::S_ISGID).map_err(|source| Error {
            op: "chmod",
            id: Some(id),
            source,
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// What removexattr(2) says below.
    pub fn remove_xattr(&self, call: &Call, id: FileId, name: &CStr) -> Result<(), Error> {
        let locked = self.lock(&[id]);
        self.act_as_root()?;
        let node = self.tree.node(id)?;
        self.intend(call, || Intent::Xattr {
            id,
            name: name.to_bytes().to_vec(),
            was: Some(has_xattr(&node, name)),
        });
        sys::removexattr(node.as_fd(), name).map_err(|source| Error {
            op: "removexattr",
            id: Some(id),
            source,
        })?;
        let stat = self.or_doubt(self.stat_after(node.as_fd(), id), id)?;
        if stat.nlink > 0 {
            let op = Op::RemoveXattr {
                id,
                name: name.to_bytes().to_vec(),
            };
            let mut body = self.body(call, op, self.path_hint(None, id, &node));
            body.after = Some(stat.attrs());
            self.record(&locked, &body, &[], &[id]);
        }
        Ok(())
    }
}
