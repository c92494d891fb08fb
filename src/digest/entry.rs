//! One inode of a tree, and how it differs from the other tree's.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::report::{What, name_text};
use crate::sys;
use crate::sys::FileStat;
use crate::types::{
    CAPABILITY_XATTR, Time, WITHHELD_CAPABILITY_XATTR, WITHHELD_XATTR, Withheld, Xattr,
};

/// Allocated bytes may differ by this much, or by a tenth, before it is a difference: xfs allocates ahead of
/// what grows, and keeps it in a file that grows by leaps.
const HOLES_BYTES_MIN: u64 = 128 << 10;

/// Extended attribute values are shown up to this length.
const VALUE_BYTES_SHOWN: usize = 32;

const RECORD: &CStr = c"trusted.doppelfs.withheld";
const CAPABILITY_RECORD: &CStr = c"trusted.doppelfs.capability";
const RECORD_BYTES_MAX: usize = 128;

/// What a replica has recorded of an inode, instead of making it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// It is a device.
    Device,
    /// It has set-id bits or capabilities.
    Rights,
}

/// Extended attributes of a replica as its source has them: what is recorded counts as the real one.
pub(super) fn xattrs_as_recorded(xattrs: &mut Vec<Xattr>) {
    xattrs.retain(|xattr| xattr.name != WITHHELD_XATTR);
    let recorded = xattrs
        .iter()
        .position(|xattr| xattr.name == WITHHELD_CAPABILITY_XATTR);
    if let Some(index) = recorded {
        let value = xattrs.remove(index).value;
        xattrs.retain(|xattr| xattr.name != CAPABILITY_XATTR);
        xattrs.push(Xattr {
            name: CAPABILITY_XATTR.to_vec(),
            value,
        });
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// An inode held by an `O_PATH` descriptor, with what stat says of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) fd: OwnedFd,
    pub(super) stat: FileStat,
}

impl Entry {
    /// The entry `name` of `dir`, never followed and never opened; `None` when there is none.
    pub(super) fn find(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Entry>> {
        let name = CString::new(name)?;
        let fd = match sys::openat(dir, &name, libc::O_PATH, 0) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let stat = sys::fstat(fd.as_fd())?;
        Ok(Some(Entry { fd, stat }))
    }

    /// Who it is within its tree.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.stat.dev, self.stat.ino)
    }

    /// Opens it for reading, without stamping its access time where that is allowed.
    pub(super) fn open(&self, flags: i32) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | flags;
        match sys::access_anyhow(self.fd.as_fd(), flags | libc::O_NOATIME) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                sys::access_anyhow(self.fd.as_fd(), flags)
            }
            other => other,
        }
    }

    pub(super) fn xattrs(&self) -> io::Result<Vec<Xattr>> {
        sys::list_all_xattrs(self.fd.as_fd())
    }

    /// Takes it for what it is on the source, where the replica only records that. What is withheld: a
    /// device, or rights.
    pub(super) fn as_recorded(&mut self) -> io::Result<Option<Record>> {
        if !self.stat.is_file() {
            return Ok(None);
        }
        let read = |name, value: &mut [u8]| match sys::getxattr(self.fd.as_fd(), name, value) {
            Ok(length) => Ok(Some(length)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                Ok(None)
            }
            // Longer than any record is.
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => Ok(None),
            Err(e) => Err(e),
        };
        let mut text = [0; RECORD_BYTES_MAX];
        let length = read(RECORD, &mut text)?;
        let has_capability = read(CAPABILITY_RECORD, &mut [])?.is_some();
        let withheld = length.and_then(|length| Withheld::decode(&text[..length]));
        // What has content stands for no device.
        let withheld = withheld.filter(|it| it.device.is_none() || self.stat.size == 0);
        let Some(withheld) = withheld else {
            return Ok(has_capability.then_some(Record::Rights));
        };
        self.stat.mode = withheld.mode(self.stat.mode);
        match withheld.device {
            Some(device) => {
                self.stat.rdev = device.rdev;
                Ok(Some(Record::Device))
            }
            None => Ok(Some(Record::Rights)),
        }
    }

    pub(super) fn target(&self) -> io::Result<Vec<u8>> {
        sys::readlink_fd(self.fd.as_fd())
    }
}

/// What stat tells apart, handed to `differ` one by one.
pub(super) fn compare_stats(
    left: &FileStat,
    right: &FileStat,
    mut differ: impl FnMut(What, String, String),
) {
    if left.kind() != right.kind() {
        differ(What::Type, kind_text(left), kind_text(right));
        return;
    }
    let mode = |s: &FileStat| format!("{:04o}", s.mode & 0o7777);
    if mode(left) != mode(right) {
        differ(What::Mode, mode(left), mode(right));
    }
    if left.uid != right.uid {
        differ(What::Owner, left.uid.to_string(), right.uid.to_string());
    }
    if left.gid != right.gid {
        differ(What::Group, left.gid.to_string(), right.gid.to_string());
    }
    if left.mtime != right.mtime {
        differ(What::Mtime, time_text(&left.mtime), time_text(&right.mtime));
    }
    if left.is_file() && left.size != right.size {
        differ(What::Size, left.size.to_string(), right.size.to_string());
    }
    let is_device = matches!(left.kind(), libc::S_IFCHR | libc::S_IFBLK);
    if is_device && left.rdev != right.rdev {
        differ(What::Device, device_text(left), device_text(right));
    }
}

/// Compares how much of two files of one size is allocated. Blocks beyond the end (preallocation)
/// do not count: xfs adds and drops them as it likes.
pub(super) fn compare_holes(
    left: &FileStat,
    right: &FileStat,
    differ: impl FnOnce(What, String, String),
) {
    let allocated = |s: &FileStat| (s.blocks * 512).min(s.size.next_multiple_of(4096));
    let (left, right) = (allocated(left), allocated(right));
    let tolerance = HOLES_BYTES_MIN.max(left.max(right) / 10);
    if left.abs_diff(right) > tolerance {
        let text = |bytes: u64| format!("{bytes} bytes allocated");
        differ(What::Holes, text(left), text(right));
    }
}

/// Compares two sorted lists of extended attributes.
pub(super) fn compare_xattrs(
    left: &[Xattr],
    right: &[Xattr],
    mut differ: impl FnMut(What, String, String),
) {
    if left == right {
        return;
    }
    let find = |all: &[Xattr], name: &[u8]| -> Option<Vec<u8>> {
        all.iter().find(|x| x.name == name).map(|x| x.value.clone())
    };
    let names = left.iter().chain(right).map(|x| &x.name);
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let (l, r) = (find(left, name), find(right, name));
        if l != r {
            differ(What::Xattr, xattr_text(name, l), xattr_text(name, r));
        }
    }
}

pub(super) fn kind_text(stat: &FileStat) -> String {
    let text = match stat.kind() {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFLNK => "symbolic link",
        libc::S_IFIFO => "pipe",
        libc::S_IFSOCK => "socket",
        libc::S_IFCHR => "character device",
        libc::S_IFBLK => "block device",
        _ => "unknown",
    };
    text.to_owned()
}

fn time_text(time: &Time) -> String {
    format!("{}.{:09}", time.secs, time.nanos)
}

fn device_text(stat: &FileStat) -> String {
    format!("{}:{}", libc::major(stat.rdev), libc::minor(stat.rdev))
}

fn xattr_text(name: &[u8], value: Option<Vec<u8>>) -> String {
    let name = name_text(name);
    let Some(value) = value else {
        return format!("no {name}");
    };
    let shown: String = value
        .iter()
        .take(VALUE_BYTES_SHOWN)
        .map(|b| format!("{b:02x}"))
        .collect();
    let rest = if value.len() > VALUE_BYTES_SHOWN {
        format!("... ({} bytes)", value.len())
    } else {
        String::new()
    };
    format!("{name}=0x{shown}{rest}")
}
