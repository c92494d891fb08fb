//! The syscalls that read and change a tree, by descriptors.

use std::ffi::{CStr, CString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use crate::types::Time;

fn check(rc: i32) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: a call just returned this new descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn count(rc: isize) -> io::Result<usize> {
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// `/proc/self/fd/N`: a path that leads to the inode behind any descriptor, `O_PATH` included.
pub fn proc_path(fd: BorrowedFd<'_>) -> CString {
    let text = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
    CString::from_vec_with_nul(text.into_bytes()).unwrap_or_default()
}

/// openat(2), never following a symbolic link at the end; `mode` for `O_CREAT`.
pub fn openat(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NOCTTY;
    // SAFETY: the name ends with NUL.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode) })
}

/// Opens an `O_PATH` descriptor's inode again with other flags, through `/proc/self/fd`.
pub fn access_anyhow(fd: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    let path = proc_path(fd);
    // SAFETY: the path ends with NUL.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOCTTY) })
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_BENEATH: u64 = 0x08;

/// openat2(2) of a path that cannot leave `dir`: no symbolic link, no magic link, no other mount, no
/// `..` out of it.
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
) -> io::Result<OwnedFd> {
    let creates = flags & (libc::O_CREAT | libc::O_TMPFILE) != 0;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC | libc::O_NOCTTY) as u64,
        mode: if creates { u64::from(mode) } else { 0 },
        resolve: RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
    };
    // SAFETY: the path ends with NUL and `how` has the kernel's layout and length.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    };
    owned(fd as i32)
}

/// preadv2(2) with `RWF_NOWAIT`, once: what is in the cache; `None` where that would mean to wait for the disk, or the
/// file system cannot tell.
pub fn pread_cached(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    match preadv2(fd, buf, offset, libc::RWF_NOWAIT) {
        Ok(n) => Ok(Some(n)),
        Err(e) => match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR) => Ok(None),
            _ => Err(e),
        },
    }
}

fn preadv2(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64, flags: i32) -> io::Result<usize> {
    let at = signed(offset)?;
    let part = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: the buffer is writable for its length.
    count(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, at, flags) })
}

/// Can the kernel do I/O that leaves nothing new in the page cache, and is it to be trusted with it? `RWF_DONTCACHE`
/// came with Linux 6.14, could lose what was written (mended by "mm/filemap: gate dropbehind invalidate on folio
/// !dirty && !writeback"), and was out of use in 6.15.
fn is_uncached_sound() -> bool {
    static SOUND: OnceLock<bool> = OnceLock::new();
    *SOUND.get_or_init(|| {
        let named = nix::sys::utsname::uname();
        named.is_ok_and(|name| is_from(&name.release().to_string_lossy(), (6, 16)))
    })
}

/// Is a kernel of this release, such as `6.18.2-cloud`, of this version or a later one?
pub fn is_from(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

/// Does the file system know nothing of `RWF_DONTCACHE`?
fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)
    )
}

/// As [`pread`], and what had to be read for it leaves the page cache again, where the kernel can do that.
pub fn pread_uncached(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while is_uncached_sound() && done < buf.len() {
        match preadv2(
            fd,
            &mut buf[done..],
            offset + done as u64,
            libc::RWF_DONTCACHE,
        ) {
            Ok(0) => return Ok(done),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_unknown(&e) => break,
            Err(_) if done > 0 => return Ok(done),
            Err(e) => return Err(e),
        }
    }
    Ok(done + pread(fd, &mut buf[done..], offset + done as u64)?)
}

/// As [`pwrite`]; the disk gets it at once, though nobody waits for that, and then it leaves the page cache, where the
/// kernel can do that. What was in the cache before stays there.
pub fn pwrite_uncached(fd: BorrowedFd<'_>, buf: &[u8], offset: u64) -> io::Result<usize> {
    let at = signed(offset)?;
    let part = libc::iovec {
        iov_base: buf.as_ptr().cast_mut().cast(),
        iov_len: buf.len(),
    };
    while is_uncached_sound() {
        // SAFETY: the buffer is readable for its length.
        let rc =
            unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, at, libc::RWF_DONTCACHE) };
        match count(rc) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_unknown(&e) => break,
            other => return other,
        }
    }
    pwrite(fd, buf, offset)
}

/// pread(2) until the buffer is full or the file ends.
pub fn pread(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        let at = signed(offset + done as u64)?;
        // SAFETY: the buffer is writable for its length.
        let rc = unsafe { libc::pread(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
        match count(rc) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// pwrite(2), once: how many bytes were written.
pub fn pwrite(fd: BorrowedFd<'_>, buf: &[u8], offset: u64) -> io::Result<usize> {
    let at = signed(offset)?;
    loop {
        // SAFETY: the buffer is readable for its length.
        let rc = unsafe { libc::pwrite(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), at) };
        match count(rc) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The most that is written to a new part of a file at once.
///
/// For a larger write the page cache takes folios of half a megabyte and more, which come from memory that a
/// hypervisor has taken back and has to give anew: measured on ext4 in a virtual machine (Linux 6.18), 0.35 GB/s in
/// writes of 1 MiB and 2.7 GB/s in writes of 256 KiB.
pub const WRITE_BYTES_MAX: usize = 256 << 10;

/// pwritev(2) of all slices, at once where they are not larger than [`WRITE_BYTES_MAX`]; a short write is an error,
/// with what was written left behind.
pub fn pwritev_all(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let need: usize = slices.iter().map(|s| s.len()).sum();
    if need <= WRITE_BYTES_MAX {
        return pwritev_whole(fd, slices, offset);
    }
    let mut at = offset;
    for piece in slices.iter().flat_map(|s| s.chunks(WRITE_BYTES_MAX)) {
        pwritev_whole(fd, &[IoSlice::new(piece)], at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn pwritev_whole(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let need: usize = slices.iter().map(|s| s.len()).sum();
    let at = signed(offset)?;
    let slice_count = i32::try_from(slices.len()).unwrap_or(i32::MAX);
    loop {
        // SAFETY: IoSlice has the layout of struct iovec; each is readable for its length.
        let rc = unsafe { libc::pwritev(fd.as_raw_fd(), slices.as_ptr().cast(), slice_count, at) };
        match count(rc) {
            Ok(n) if n == need => return Ok(()),
            // The kernel reports the reason only with the next byte; a full disk is the usual one.
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// fallocate(2).
pub fn fallocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let (offset, length) = (signed(offset)?, signed(length)?);
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, length) })
}

/// ftruncate(2).
pub fn ftruncate(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let size = signed(size)?;
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })
}

/// truncate(2) of an `O_PATH` descriptor's file.
pub fn truncate_fd(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let path = proc_path(fd);
    let size = signed(size)?;
    // SAFETY: the path ends with NUL.
    check(unsafe { libc::truncate(path.as_ptr(), size) })
}

/// lseek(2) with any `SEEK_*`.
pub fn lseek(fd: BorrowedFd<'_>, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: plain call on an open descriptor.
    let rc = unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// The first run of data at or after `offset`, as (start, end); `None` when only a hole follows.
/// Moves the descriptor's offset.
pub fn data_segment(fd: BorrowedFd<'_>, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match lseek(fd, signed(offset)?, libc::SEEK_DATA) {
        Ok(at) => at,
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        Err(e) => return Err(e),
    };
    let end = lseek(fd, start, libc::SEEK_HOLE)?;
    Ok(Some((start as u64, end as u64)))
}

/// A range to copy inside the file system.
#[derive(Debug, Clone, Copy)]
pub struct CopyRange {
    /// Where it is read.
    pub from: u64,
    /// Where it is written.
    pub to: u64,
    /// How long.
    pub length: usize,
}

/// copy_file_range(2); may copy less.
pub fn copy_file_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    range: CopyRange,
) -> io::Result<usize> {
    let (mut from, mut to) = (signed(range.from)?, signed(range.to)?);
    // SAFETY: both offsets are valid pointers for the call.
    count(unsafe {
        libc::copy_file_range(
            source.as_raw_fd(),
            &raw mut from,
            target.as_raw_fd(),
            &raw mut to,
            range.length,
            0,
        )
    })
}

/// fsync(2).
pub fn fsync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::fsync(fd.as_raw_fd()) })
}

/// fdatasync(2).
pub fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) })
}

/// syncfs(2): the whole file system that the descriptor is on.
pub fn syncfs(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::syncfs(fd.as_raw_fd()) })
}

/// mkdirat(2).
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the name ends with NUL.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })
}

/// mknodat(2).
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, rdev: u64) -> io::Result<()> {
    // SAFETY: the name ends with NUL.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, rdev) })
}

/// symlinkat(2).
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with NUL.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })
}

/// linkat(2) of the inode behind a descriptor (`AT_EMPTY_PATH`, needs `CAP_DAC_READ_SEARCH`).
pub fn linkat_fd(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with NUL.
    check(unsafe {
        libc::linkat(
            fd.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
}

/// unlinkat(2) of a non-directory; with `AT_REMOVEDIR` of a directory.
pub fn unlinkat(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: the name ends with NUL.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) })
}

/// renameat2(2) with any `RENAME_*`.
pub fn renameat2(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    flags: u32,
) -> io::Result<()> {
    // SAFETY: both names end with NUL.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.as_raw_fd(),
            name.as_ptr(),
            to.as_raw_fd(),
            new_name.as_ptr(),
            flags,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn readlink_raw(dir: RawFd, name: &CStr) -> io::Result<Vec<u8>> {
    let mut buf = vec![0u8; libc::PATH_MAX as usize + 1];
    // SAFETY: the name ends with NUL; the buffer is writable for its length.
    let rc = unsafe { libc::readlinkat(dir, name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = count(rc)?;
    buf.truncate(n);
    Ok(buf)
}

/// readlinkat(2) of an entry.
pub fn readlinkat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    readlink_raw(dir.as_raw_fd(), name)
}

/// readlinkat(2) of the link behind an `O_PATH` descriptor.
pub fn readlink_fd(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    readlink_raw(fd.as_raw_fd(), c"")
}

/// chmod(2) of any inode but a symbolic link, through `/proc/self/fd`.
pub fn chmod_fd(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let path = proc_path(fd);
    // SAFETY: the path ends with NUL.
    check(unsafe { libc::chmod(path.as_ptr(), mode & 0o7777) })
}

/// fchmod(2); not of `O_PATH` descriptors.
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode & 0o7777) })
}

/// fchownat(2) of any inode; `None` leaves a side as it is.
pub fn chown_fd(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the empty name ends with NUL.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
}

/// utimensat(2) of any inode; `None` leaves a time as it is.
pub fn utimens_fd(fd: BorrowedFd<'_>, atime: Option<Time>, mtime: Option<Time>) -> io::Result<()> {
    let spec = |time: Option<Time>| match time {
        Some(t) => libc::timespec {
            tv_sec: t.secs,
            tv_nsec: i64::from(t.nanos),
        },
        None => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
    };
    let times = [spec(atime), spec(mtime)];
    // SAFETY: the empty name ends with NUL and the two times are readable.
    check(unsafe {
        libc::utimensat(
            fd.as_raw_fd(),
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
}

/// fstatvfs(3).
pub fn statvfs(fd: BorrowedFd<'_>) -> io::Result<libc::statvfs> {
    let mut st = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the pointer is to writable memory of the right size.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), st.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and so filled it.
    Ok(unsafe { st.assume_init() })
}

/// As the nanoseconds of a time for [`utimens_fd`]: the file system's idea of now.
pub const UTIME_NOW: u32 = libc::UTIME_NOW as u32;

/// `FS_IOC_GETFLAGS` and `FS_CASEFOLD_FL` (`linux/fs.h`).
const GET_FLAGS: libc::Ioctl = 0x8008_6601_u32 as libc::Ioctl;
const CASEFOLD: libc::c_int = 0x4000_0000;

/// Does the directory take names that differ in case for the same (`chattr +F`)? False where the file
/// system has no such attribute.
pub fn folds_case(dir: BorrowedFd<'_>) -> bool {
    // As wide as the number of the call says, though the kernel fills an int.
    let mut flags = [0 as libc::c_int; 2];
    // SAFETY: the pointer is to writable memory of at least the size that is written.
    let rc = unsafe { libc::ioctl(dir.as_raw_fd(), GET_FLAGS, flags.as_mut_ptr()) };
    rc == 0 && flags[0] & CASEFOLD != 0
}
