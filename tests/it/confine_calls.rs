//! Raw system calls for the tests of confinement: what no safe wrapper lets through is what is to be
//! refused.
#![allow(
    unsafe_code,
    reason = "calls with arguments that are wrong on purpose are the point"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn result(rc: libc::c_long) -> io::Result<libc::c_long> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// The call with arguments that no call of ours takes: -1 everywhere.
pub fn nonsense(number: libc::c_long) -> io::Result<libc::c_long> {
    // SAFETY: no memory lies at -1, so that the kernel reads and writes nothing.
    result(unsafe { libc::syscall(number, -1, -1, -1, -1, -1, -1) })
}

/// A new process by clone(2) with these flags; it ends at once. `Ok` when there was one.
pub fn clone_process(flags: i32) -> io::Result<()> {
    let flags = flags | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has a copy of everything, and all that it does is to end.
    let pid = result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    if pid == 0 {
        // SAFETY: ends the copy without running anything.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
    Ok(())
}

/// A page of memory with this protection, that is made executable afterwards where `later`.
pub fn map_page(protection: i32, later: bool) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping of its own.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    let changed = if later {
        // SAFETY: the page just mapped.
        result(unsafe { libc::mprotect(page, 4096, protection) }.into())
    } else {
        Ok(0)
    };
    // SAFETY: the page just mapped.
    unsafe { libc::munmap(page, 4096) };
    changed.map(drop)
}

/// socket(2).
pub fn socket(family: i32, kind: i32) -> io::Result<()> {
    // SAFETY: plain call without pointers.
    let fd = result(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: the descriptor just made.
    unsafe { libc::close(fd as i32) };
    Ok(())
}

/// ioctl(2) whose argument is 0.
pub fn ioctl(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<()> {
    // SAFETY: no memory lies at 0: the kernel reads and writes nothing.
    result(unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) }.into()).map(drop)
}

/// getpid(2) as 32-bit programs of this machine do it.
#[cfg(target_arch = "x86_64")]
pub fn call_of_i386() {
    // SAFETY: the call takes no arguments and changes no register but rax (and r8 to r11).
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") 20_i64 => _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _);
    }
}

/// getpid(2) by the number that x32 programs use.
#[cfg(target_arch = "x86_64")]
pub fn call_of_x32() {
    // SAFETY: the call takes no arguments.
    unsafe { libc::syscall(0x4000_0000 + libc::SYS_getpid) };
}

/// kill(2) with signal 0: may we?
pub fn may_signal(pid: u32) -> io::Result<()> {
    // SAFETY: plain call; signal 0 is none.
    result(unsafe { libc::kill(pid as i32, 0) }.into()).map(drop)
}
