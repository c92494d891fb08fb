//! Extended attributes of any inode, through `/proc/self/fd` where the descriptor is `O_PATH`
//! (`fgetxattr` refuses those; the magic link ends at the inode itself, symbolic links included).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::fs::proc_path;
use crate::types::{Xattr, limits};

fn length(rc: isize) -> io::Result<usize> {
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// getxattr(2) into `buf`; with an empty `buf` the value's length.
pub fn getxattr(fd: BorrowedFd<'_>, name: &CStr, buf: &mut [u8]) -> io::Result<usize> {
    let path = proc_path(fd);
    // SAFETY: both strings end with NUL; the buffer is writable for its length.
    length(unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    })
}

/// listxattr(2) into `buf`; with an empty `buf` the list's length.
pub fn listxattr(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    let path = proc_path(fd);
    // SAFETY: the path ends with NUL; the buffer is writable for its length.
    length(unsafe { libc::listxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) })
}

/// As [`listxattr`], without a walk over `/proc` where the descriptor is not `O_PATH`.
fn list_names(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    let rc = unsafe { libc::flistxattr(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    match length(rc) {
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => listxattr(fd, buf),
        done => done,
    }
}

/// setxattr(2) with `XATTR_CREATE`, `XATTR_REPLACE` or 0.
pub fn setxattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    let path = proc_path(fd);
    // SAFETY: both strings end with NUL; the value is readable for its length.
    let rc = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// removexattr(2).
pub fn removexattr(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let path = proc_path(fd);
    // SAFETY: both strings end with NUL.
    let rc = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How xfs shows root its access control lists a second time; they are `system.posix_acl_*` everywhere. To
/// remove one removes the list, and another file system would keep it as an attribute that says nothing.
const ACLS_OF_XFS: [&CStr; 2] = [c"trusted.SGI_ACL_FILE", c"trusted.SGI_ACL_DEFAULT"];

/// All extended attributes with their values, sorted by name, each once. Empty where the file system has
/// none.
pub fn list_all_xattrs(fd: BorrowedFd<'_>) -> io::Result<Vec<Xattr>> {
    let mut names = vec![0u8; 1024];
    let used = loop {
        match list_names(fd, &mut names) {
            Ok(used) => break used,
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => names.resize(names.len() * 4, 0),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    };
    const CAPABILITY: &CStr = c"security.capability";
    let mut all = Vec::new();
    let mut value = Vec::new();
    for name in names[..used].split_inclusive(|&b| b == 0) {
        let Ok(text) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if ACLS_OF_XFS.contains(&text) {
            continue;
        }
        value.resize(limits::XATTR_BYTES_MAX, 0);
        match getxattr(fd, text, &mut value) {
            Ok(n) => all.push(Xattr {
                name: text.to_bytes().to_vec(),
                value: value[..n].to_vec(),
            }),
            // Removed in between, or listed by a module that gives no value.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {}
            // Capabilities that the kernel does not understand: listed, and nobody can read them.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && text == CAPABILITY => {}
            Err(e) => return Err(e),
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}
