//! What only xfs answers: inodes by number (`linux` `fs/xfs/libxfs/xfs_fs.h`, ioctl_xfs_bulkstat(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct xfs_bulkstat_req` for one inode: the header of 64 bytes and one `struct xfs_bulkstat` of 192.
#[repr(C)]
struct Request {
    ino: u64,
    flags: u32,
    wanted: u32,
    got: u32,
    group: u32,
    reserved: [u64; 5],
    found_ino: u64,
    /// Size, blocks, extended flags and four times.
    skipped: [u64; 7],
    generation: u32,
    rest: [u32; 31],
}

const _: () = assert!(size_of::<Request>() == 64 + 192);

/// `XFS_IOC_BULKSTAT`: `_IOR('X', 127, struct xfs_bulkstat_req)`.
const XFS_IOC_BULKSTAT: libc::Ioctl = 0x8040_587f_u32 as libc::Ioctl;
/// `XFS_BULK_IREQ_SPECIAL`: the number names something instead of an inode.
const SPECIAL: u32 = 1 << 1;
/// `XFS_BULK_IREQ_SPECIAL_ROOT`.
const SPECIAL_ROOT: u64 = 1;

fn bulkstat(fd: BorrowedFd<'_>, ino: u64, flags: u32) -> io::Result<Option<(u64, u32)>> {
    let mut request = Request {
        ino,
        flags,
        wanted: 1,
        got: 0,
        group: 0,
        reserved: [0; 5],
        found_ino: 0,
        skipped: [0; 7],
        generation: 0,
        rest: [0; 31],
    };
    // SAFETY: the request has the kernel's layout with room for the one inode it asks for.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), XFS_IOC_BULKSTAT, &raw mut request) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((request.got > 0).then_some((request.found_ino, request.generation)))
}

/// The generation of an inode in use; `None` when the number is of none. Needs `CAP_SYS_ADMIN`.
pub fn xfs_generation(fd: BorrowedFd<'_>, ino: u64) -> io::Result<Option<u32>> {
    // The answer is the first inode at or after the number asked for.
    let found = bulkstat(fd, ino, 0)?;
    Ok(found.and_then(|(number, generation)| (number == ino).then_some(generation)))
}

/// The inode number of the file system's root directory (Linux 5.3).
pub fn xfs_root(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    Ok(bulkstat(fd, SPECIAL_ROOT, SPECIAL)?.map(|(number, _)| number))
}
