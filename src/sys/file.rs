//! What is said about a whole open file: advice, locks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// posix_fadvise(2) `POSIX_FADV_DONTNEED`: the clean pages of this range may leave the cache.
pub fn fadvise_dontneed(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    fadvise(fd, offset, length, libc::POSIX_FADV_DONTNEED)
}

/// posix_fadvise(2) `POSIX_FADV_WILLNEED`: this range is to be read into the cache, without a wait for the disk as
/// far as its queue has room.
pub fn fadvise_willneed(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    fadvise(fd, offset, length, libc::POSIX_FADV_WILLNEED)
}

fn fadvise(fd: BorrowedFd<'_>, offset: u64, length: u64, advice: i32) -> io::Result<()> {
    let range = |n: u64| i64::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let (offset, length) = (range(offset)?, range(length)?);
    // SAFETY: plain call on an open descriptor.
    let rc = unsafe { libc::posix_fadvise(fd.as_raw_fd(), offset, length, advice) };
    // This call returns the error number itself.
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(rc))
    }
}

/// flock(2), exclusive, however long it takes. The lock goes with the last descriptor of this open file.
pub fn flock_wait(fd: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: plain call on an open descriptor.
        if unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// flock(2), exclusive, without waiting; false when another open file has it. The lock goes with
/// the last descriptor of this open file.
pub fn flock_exclusive(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: plain call on an open descriptor.
    let rc = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if rc == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(false)
    } else {
        Err(error)
    }
}
