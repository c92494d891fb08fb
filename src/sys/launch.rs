//! Starting a process and waiting for one: sessions, standard input, pidfds, file locks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// setsid(2): a session of our own, so that the terminal's hang-up and `^C` do not reach us.
pub fn setsid() -> io::Result<()> {
    // SAFETY: plain call without arguments.
    done(unsafe { libc::setsid() }).map(drop)
}

/// Takes over what standard input is; `/dev/null` stands there afterwards.
pub fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: plain call; a descriptor that is not open gives EBADF.
    let copy = done(unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the call just returned this new descriptor, nobody else owns it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both are open; nothing in Rust owns the number of standard input.
    done(unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) })?;
    Ok(copy)
}

/// pidfd_open(2): readable when the process has ended, and never another process of that number.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: plain call without pointers.
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(rc).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    done(fd)?;
    // SAFETY: the call just returned this new descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// poll(2) for one descriptor: true when it can be read, false when `patience` ran out first.
pub fn poll_readable(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let mut one = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is to one writable struct pollfd.
    Ok(done(unsafe { libc::poll(&raw mut one, 1, milliseconds) })? > 0)
}

fn whole_file() -> libc::flock {
    // SAFETY: the struct is plain numbers, for which 0 is a value: from the first byte to the last.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// fcntl(2) with `F_OFD_SETLK`: takes the write lock of a file without waiting; false when somebody
/// else has it. Freed with the last descriptor of this open, so also when the process dies.
pub fn lock_file(file: BorrowedFd<'_>) -> io::Result<bool> {
    let lock = whole_file();
    // SAFETY: the pointer is to a readable struct flock, as the command wants it.
    match done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// fcntl(2) with `F_OFD_GETLK`: has somebody else the lock? Takes nothing, not even for a moment.
pub fn is_file_locked(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut lock = whole_file();
    // SAFETY: the pointer is to a writable struct flock, as the command wants it.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}
