//! Which file system, and which mount of it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `STATX_MNT_ID` and `STATX_MNT_ID_UNIQUE` (`linux/stat.h`).
const STATX_MNT_ID: u32 = 0x1000;
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// A number of the mount that a descriptor was opened through: never used twice in one boot where
/// the kernel gives such (6.8), else the one that /proc/self/mountinfo shows.
pub fn mount_instance(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut st = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the empty name ends with NUL and the pointer is to writable memory of the right size.
    let rc = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_MNT_ID | STATX_MNT_ID_UNIQUE,
            st.as_mut_ptr(),
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed and then filled by the call; every bit pattern is valid.
    Ok(unsafe { st.assume_init() }.stx_mnt_id)
}

/// `STATX_DIOALIGN` (`linux/stat.h`).
const STATX_DIOALIGN: u32 = 0x2000;

/// The alignment of offset and length that the file system wants of direct I/O on this file, in bytes;
/// `None` where it does not say, or takes any.
pub fn direct_alignment(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut st = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the empty name ends with NUL and the pointer is to writable memory of the right size.
    let rc = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_DIOALIGN,
            st.as_mut_ptr(),
        )
    };
    if rc < 0 {
        return None;
    }
    // SAFETY: zeroed and then filled by the call; every bit pattern is valid.
    let st = unsafe { st.assume_init() };
    let known = st.stx_mask & STATX_DIOALIGN != 0 && st.stx_dio_offset_align > 1;
    known.then(|| u64::from(st.stx_dio_offset_align))
}

/// The magic number of the file system (`f_type` of fstatfs(2)).
pub fn file_system_magic(fd: BorrowedFd<'_>) -> io::Result<i64> {
    let mut st = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the pointer is to writable memory of the right size.
    let rc = unsafe { libc::fstatfs(fd.as_raw_fd(), st.as_mut_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and so filled it.
    Ok(unsafe { st.assume_init() }.f_type)
}
