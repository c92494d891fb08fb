//! What a file system is, whose a file is, and which device a mount has.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// Does the descriptor lead to a tmpfs, whose content does not survive the host?
pub fn is_tmpfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut st = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the pointer is to writable memory of the right size.
    let rc = unsafe { libc::fstatfs(fd.as_raw_fd(), st.as_mut_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and so filled it.
    let magic = unsafe { st.assume_init_ref() }.f_type;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    Ok(magic == libc::TMPFS_MAGIC || magic == RAMFS_MAGIC)
}

/// flock(2), exclusively and without waiting; false when another process holds it. It is freed when
/// the last copy of the descriptor is closed.
pub fn lock_file(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: plain call on an open descriptor.
    let rc = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if rc == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        e => Err(e),
    }
}

/// The device number (`st_dev`) of what is mounted last on `mountpoint`, without touching it.
pub fn mount_device(mountpoint: &Path) -> io::Result<Option<u64>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = mountpoint.to_string_lossy().replace('\\', "\\134");
    let wanted = wanted.replace(' ', "\\040").replace('\t', "\\011");
    let wanted = wanted.replace('\n', "\\012");
    let mut device = None;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (number, point) = (fields.nth(2), fields.nth(1));
        let (Some(number), Some(point)) = (number, point) else {
            continue;
        };
        if point != wanted {
            continue;
        }
        let Some((major, minor)) = number.split_once(':') else {
            continue;
        };
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            device = Some(libc::makedev(major, minor));
        }
    }
    Ok(device)
}
