//! What the kernel is told about an inode.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::capture::TimeChange;
use crate::sys::FileStat;
use crate::types::Time;

/// Nobody else changes the tree, so what the kernel knows stays true until it changes it itself.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// How long the kernel may believe that a name does not exist.
pub(super) const NEGATIVE_TTL: Duration = Duration::from_secs(3600);

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    match u64::try_from(time.secs) {
        Ok(secs) => SystemTime::UNIX_EPOCH + Duration::from_secs(secs) + nanos,
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(time.secs.unsigned_abs()) + nanos,
    }
}

/// fuser 0.18 decodes a time before 1970 as if the nanoseconds counted down; this undoes it.
fn time_of(time: SystemTime) -> Time {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(d) => Time {
            secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            nanos: d.subsec_nanos(),
        },
        Err(before) => {
            let d = before.duration();
            Time {
                secs: -i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
                nanos: d.subsec_nanos(),
            }
        }
    }
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::To(time_of(time)),
    }
}

pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// glibc's `dev_t` in the kernel's 32-bit form (`new_encode_dev` in `linux/kdev_t.h`).
pub(super) fn kernel_dev(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The kernel's 32-bit device number as a `dev_t`.
pub(super) fn user_dev(rdev: u32) -> u64 {
    let major = (rdev & 0x000f_ff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0x000f_ff00);
    libc::makedev(major, minor)
}

/// Attributes under the number that the kernel uses for the node in this reply.
pub(super) fn attr(stat: &FileStat, number: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(stat.mode),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: kernel_dev(stat.rdev),
        blksize: stat.blksize,
        flags: 0,
    }
}

/// An entry that does not exist: node number 0.
pub(super) fn negative() -> FileAttr {
    gone(0)
}

/// A file that is not there any more.
pub(super) fn gone(number: u64) -> FileAttr {
    let zero = Time::default();
    let stat = FileStat {
        dev: 0,
        ino: 0,
        mode: libc::S_IFREG,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: zero,
        mtime: zero,
        ctime: zero,
    };
    attr(&stat, number)
}
