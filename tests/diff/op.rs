//! The calls that are compared, as values that travel from the coordinator to an actor.

use serde::{Deserialize, Serialize};

/// Open files that an actor keeps, by number.
pub(crate) const SLOTS: usize = 5;

/// What a call on an inode names it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Who {
    /// A path, its last symbolic link followed.
    Path(String),
    /// A path, its last symbolic link itself.
    Link(String),
    /// An open file.
    Slot(usize),
}

/// How bytes are written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// At the file's offset.
    Plain,
    /// At an offset.
    At(i64),
    /// At the file's offset, from three pieces.
    Vector,
}

/// Which kind of advisory lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LockKind {
    /// flock(2).
    Flock,
    /// `F_SETLK`.
    Posix,
    /// `F_OFD_SETLK`.
    Ofd,
    /// `F_GETLK`.
    Ask,
    /// `F_SETLEASE`.
    Lease,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Op {
    Open {
        slot: usize,
        path: String,
        flags: i32,
        mode: u32,
        umask: u32,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        way: Way,
        len: usize,
        fill: u8,
    },
    Read {
        slot: usize,
        way: Way,
        len: usize,
    },
    MapWrite {
        slot: usize,
        at: usize,
        len: usize,
        fill: u8,
    },
    MapRead {
        slot: usize,
        len: usize,
    },
    Fallocate {
        slot: usize,
        mode: i32,
        at: i64,
        len: i64,
    },
    Truncate {
        who: Who,
        len: i64,
    },
    CopyRange {
        from: usize,
        to: usize,
        at: i64,
        into: i64,
        len: usize,
    },
    Sendfile {
        from: usize,
        to: usize,
        len: usize,
    },
    Splice {
        from: usize,
        to: usize,
        len: usize,
    },
    Mkdir {
        path: String,
        mode: u32,
        umask: u32,
    },
    Mknod {
        path: String,
        mode: u32,
        rdev: u64,
        umask: u32,
    },
    Symlink {
        target: String,
        path: String,
    },
    Link {
        old: String,
        new: String,
        follow: bool,
    },
    LinkOpen {
        slot: usize,
        new: String,
        by_proc: bool,
    },
    Rename {
        old: String,
        new: String,
        flags: u32,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Chmod {
        who: Who,
        mode: u32,
    },
    Chown {
        who: Who,
        uid: u32,
        gid: u32,
    },
    Utimens {
        who: Who,
        atime: (i64, i64),
        mtime: (i64, i64),
    },
    SetXattr {
        who: Who,
        name: String,
        value: Vec<u8>,
        flags: i32,
    },
    GetXattr {
        who: Who,
        name: String,
        size: usize,
    },
    ListXattr {
        who: Who,
        size: usize,
    },
    RemoveXattr {
        who: Who,
        name: String,
    },
    Access {
        path: String,
        mode: i32,
        flags: i32,
    },
    Stat {
        who: Who,
    },
    Readlink {
        path: String,
        size: usize,
    },
    List {
        path: String,
        size: usize,
    },
    Seekdir {
        path: String,
        size: usize,
        skip: usize,
    },
    Lseek {
        slot: usize,
        at: i64,
        whence: i32,
    },
    Fsync {
        slot: usize,
        data_only: bool,
    },
    Syncfs {
        slot: usize,
    },
    Lock {
        slot: usize,
        kind: LockKind,
        mode: i32,
        at: i64,
        len: i64,
    },
    Getfl {
        slot: usize,
    },
    Statfs {
        path: String,
    },
    GetFlags {
        slot: usize,
    },
    Clone {
        from: usize,
        to: usize,
    },
    Exec {
        path: String,
    },
    /// With `RLIMIT_FSIZE` at `bytes`.
    Limited {
        bytes: u64,
        op: Box<Op>,
    },
}

impl Op {
    /// Under what it is counted.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Op::Open { flags, .. } if flags & libc::O_TMPFILE == libc::O_TMPFILE => "open tmpfile",
            Op::Open { flags, .. } if flags & libc::O_PATH != 0 => "open path",
            Op::Open { flags, .. } if flags & libc::O_CREAT != 0 => "open create",
            Op::Open { flags, .. } if flags & libc::O_TRUNC != 0 => "open truncate",
            Op::Open { flags, .. } if flags & libc::O_DIRECT != 0 => "open direct",
            Op::Open { flags, .. } if flags & libc::O_DIRECTORY != 0 => "open directory",
            Op::Open { .. } => "open",
            Op::Close { .. } => "close",
            Op::Write {
                way: Way::Plain, ..
            } => "write",
            Op::Write {
                way: Way::At(_), ..
            } => "pwrite",
            Op::Write {
                way: Way::Vector, ..
            } => "writev",
            Op::Read { .. } => "read",
            Op::MapWrite { .. } => "mmap write",
            Op::MapRead { .. } => "mmap read",
            Op::Fallocate { mode, .. } => match mode & 0x7e {
                0x02 => "fallocate punch",
                0x10 => "fallocate zero",
                0 => "fallocate",
                _ => "fallocate other",
            },
            Op::Truncate {
                who: Who::Slot(_), ..
            } => "ftruncate",
            Op::Truncate { .. } => "truncate",
            Op::CopyRange { .. } => "copy_file_range",
            Op::Sendfile { .. } => "sendfile",
            Op::Splice { .. } => "splice",
            Op::Mkdir { .. } => "mkdir",
            Op::Mknod { mode, .. } => match mode & libc::S_IFMT {
                libc::S_IFIFO => "mknod fifo",
                libc::S_IFSOCK => "mknod socket",
                libc::S_IFCHR | libc::S_IFBLK => "mknod device",
                _ => "mknod",
            },
            Op::Symlink { .. } => "symlink",
            Op::Link { .. } => "link",
            Op::LinkOpen { .. } => "link of open file",
            Op::Rename { flags, .. } => match flags {
                0 => "rename",
                1 => "rename noreplace",
                2 => "rename exchange",
                4 => "rename whiteout",
                _ => "rename other flags",
            },
            Op::Unlink { .. } => "unlink",
            Op::Rmdir { .. } => "rmdir",
            Op::Chmod {
                who: Who::Slot(_), ..
            } => "fchmod",
            Op::Chmod { .. } => "chmod",
            Op::Chown {
                who: Who::Slot(_), ..
            } => "fchown",
            Op::Chown {
                who: Who::Link(_), ..
            } => "lchown",
            Op::Chown { .. } => "chown",
            Op::Utimens {
                who: Who::Slot(_), ..
            } => "futimens",
            Op::Utimens { .. } => "utimensat",
            Op::SetXattr { name, .. } if name.starts_with("system.posix_acl") => "set acl",
            Op::SetXattr { .. } => "setxattr",
            Op::GetXattr { .. } => "getxattr",
            Op::ListXattr { .. } => "listxattr",
            Op::RemoveXattr { name, .. } if name.starts_with("system.posix_acl") => "remove acl",
            Op::RemoveXattr { .. } => "removexattr",
            Op::Access { .. } => "faccessat2",
            Op::Stat { .. } => "stat",
            Op::Readlink { .. } => "readlink",
            Op::List { .. } => "getdents",
            Op::Seekdir { .. } => "seekdir",
            Op::Lseek { .. } => "lseek",
            Op::Fsync {
                data_only: true, ..
            } => "fdatasync",
            Op::Fsync { .. } => "fsync",
            Op::Syncfs { .. } => "syncfs",
            Op::Lock { kind, .. } => match kind {
                LockKind::Flock => "flock",
                LockKind::Posix => "fcntl lock",
                LockKind::Ofd => "fcntl ofd lock",
                LockKind::Ask => "fcntl getlk",
                LockKind::Lease => "fcntl lease",
            },
            Op::Getfl { .. } => "fcntl getfl",
            Op::Statfs { .. } => "statfs",
            Op::GetFlags { .. } => "ioctl getflags",
            Op::Clone { .. } => "ioctl ficlone",
            Op::Exec { .. } => "exec access",
            Op::Limited { .. } => "with file size limit",
        }
    }

    /// Calls that this mount refuses whatever the file system below says: where it does, they are not
    /// made on the reference, so that both trees stay the same.
    pub(crate) fn is_refused_with(&self) -> Option<i32> {
        let shifting = libc::FALLOC_FL_COLLAPSE_RANGE
            | libc::FALLOC_FL_INSERT_RANGE
            | libc::FALLOC_FL_UNSHARE_RANGE;
        match self {
            Op::Open { flags, .. } if flags & libc::O_TMPFILE == libc::O_TMPFILE => {
                Some(libc::EOPNOTSUPP)
            }
            Op::Fallocate { mode, .. } if mode & shifting != 0 => Some(libc::EOPNOTSUPP),
            Op::Clone { .. } => Some(libc::EOPNOTSUPP),
            Op::GetFlags { .. } => Some(libc::ENOTTY),
            Op::Limited { op, .. } => op.is_refused_with(),
            _ => None,
        }
    }

    /// The paths that it touches, last symbolic links not followed.
    pub(crate) fn paths(&self) -> Vec<&str> {
        match self {
            Op::Open { path, .. }
            | Op::Mkdir { path, .. }
            | Op::Mknod { path, .. }
            | Op::Symlink { path, .. }
            | Op::Unlink { path }
            | Op::Rmdir { path }
            | Op::Access { path, .. }
            | Op::Readlink { path, .. }
            | Op::List { path, .. }
            | Op::Seekdir { path, .. }
            | Op::Exec { path }
            | Op::Statfs { path } => vec![path],
            Op::Link { old, new, .. } | Op::Rename { old, new, .. } => vec![old, new],
            Op::LinkOpen { new, .. } => vec![new],
            Op::Truncate { who, .. }
            | Op::Chmod { who, .. }
            | Op::Chown { who, .. }
            | Op::Utimens { who, .. }
            | Op::SetXattr { who, .. }
            | Op::GetXattr { who, .. }
            | Op::ListXattr { who, .. }
            | Op::RemoveXattr { who, .. }
            | Op::Stat { who } => match who {
                Who::Path(path) | Who::Link(path) => vec![path],
                Who::Slot(_) => vec![],
            },
            Op::Limited { op, .. } => op.paths(),
            _ => vec![],
        }
    }

    /// The open files that it touches.
    pub(crate) fn slots(&self) -> Vec<usize> {
        match self {
            Op::Open { slot, .. }
            | Op::Write { slot, .. }
            | Op::Read { slot, .. }
            | Op::MapWrite { slot, .. }
            | Op::MapRead { slot, .. }
            | Op::Fallocate { slot, .. }
            | Op::LinkOpen { slot, .. }
            | Op::Lseek { slot, .. }
            | Op::Fsync { slot, .. }
            | Op::Syncfs { slot }
            | Op::Lock { slot, .. }
            | Op::Getfl { slot }
            | Op::GetFlags { slot } => vec![*slot],
            Op::CopyRange { from, to, .. }
            | Op::Sendfile { from, to, .. }
            | Op::Splice { from, to, .. }
            | Op::Clone { from, to } => vec![*from, *to],
            Op::Truncate {
                who: Who::Slot(slot),
                ..
            }
            | Op::Chmod {
                who: Who::Slot(slot),
                ..
            }
            | Op::Chown {
                who: Who::Slot(slot),
                ..
            }
            | Op::Utimens {
                who: Who::Slot(slot),
                ..
            }
            | Op::SetXattr {
                who: Who::Slot(slot),
                ..
            }
            | Op::GetXattr {
                who: Who::Slot(slot),
                ..
            }
            | Op::ListXattr {
                who: Who::Slot(slot),
                ..
            }
            | Op::RemoveXattr {
                who: Who::Slot(slot),
                ..
            }
            | Op::Stat {
                who: Who::Slot(slot),
            } => vec![*slot],
            Op::Limited { op, .. } => op.slots(),
            _ => vec![],
        }
    }

    /// May it change extended attributes?
    pub(crate) fn concerns_xattrs(&self) -> bool {
        match self {
            Op::SetXattr { .. } | Op::RemoveXattr { .. } | Op::Chmod { .. } | Op::Chown { .. } => {
                true
            }
            Op::Mkdir { .. } | Op::Mknod { .. } => true,
            Op::Open { flags, .. } => flags & (libc::O_CREAT | libc::O_TRUNC) != 0,
            Op::Limited { op, .. } => op.concerns_xattrs(),
            _ => false,
        }
    }
}

/// Attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stat {
    pub(crate) ino: u64,
    pub(crate) mode: u32,
    pub(crate) nlink: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    pub(crate) size: i64,
    pub(crate) blocks: i64,
    pub(crate) atime: (i64, i64),
    pub(crate) mtime: (i64, i64),
    pub(crate) ctime: (i64, i64),
}

/// What one side of a call was seen to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// What it returned; an error as a negative errno. Descriptors are 0.
    pub(crate) ret: i64,
    /// What it gave.
    pub(crate) data: Vec<u8>,
    /// Was SIGXFSZ sent?
    pub(crate) signalled: bool,
}

/// A lie that an actor is to tell about the mount, to see whether it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lie {
    None,
    Errno,
    Mode,
    Mtime,
}

/// A request to an actor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) op: Op,
    pub(crate) lie: Lie,
}

/// Attributes of an open file on both sides.
pub(crate) type StatPair = [Option<Stat>; 2];

/// What an actor saw: reference first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seen: [Seen; 2],
    /// False where the mount refused what it always refuses, so that the reference was not asked.
    pub(crate) is_whole: bool,
    /// Of each open file that the call touches.
    pub(crate) before: Vec<StatPair>,
    pub(crate) after: Vec<StatPair>,
}
