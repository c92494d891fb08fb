//! fallocate(2), and what stands in for it where the file system has it not.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

use super::open::FsReplica;
use crate::applier::replica::{Inode, Range};

const COPY_BYTES: usize = 1 << 20;
const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;
const COLLAPSE_RANGE: i32 = libc::FALLOC_FL_COLLAPSE_RANGE;

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

fn write_all(fd: BorrowedFd<'_>, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let written = sys::pwrite(fd, data, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data = &data[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Makes a range read as zeroes, at best without blocks.
fn clear(fd: BorrowedFd<'_>, offset: u64, end: u64) -> io::Result<()> {
    if end <= offset {
        return Ok(());
    }
    match sys::fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, end - offset) {
        Err(e) if is_unsupported(&e) => write_zeroes(fd, offset, end),
        done => done,
    }
}

fn write_zeroes(fd: BorrowedFd<'_>, offset: u64, end: u64) -> io::Result<()> {
    let zeroes = vec![0u8; COPY_BYTES];
    let mut at = offset;
    while at < end {
        let length = (end - at).min(COPY_BYTES as u64);
        write_all(fd, &zeroes[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

/// The bytes of one file from an offset to its end, to another that has only holes there: what is a hole is
/// left one, as a file of a few bytes can have any size. Returns the length.
fn copy_tail(from: (BorrowedFd<'_>, u64), to: (BorrowedFd<'_>, u64)) -> io::Result<u64> {
    let (source, start) = from;
    let size = sys::fstat(source)?.size;
    let mut buffer = vec![0u8; COPY_BYTES];
    let mut at = start;
    while let Some((data, end)) = sys::data_segment(source, at)?.filter(|_| at < size) {
        at = data;
        while at < end {
            let length = (end - at).min(COPY_BYTES as u64) as usize;
            let read = sys::pread(source, &mut buffer[..length], at)?;
            if read == 0 {
                return Ok(size.saturating_sub(start));
            }
            let place = to.1.checked_add(at - start).ok_or_else(too_big)?;
            write_all(to.0, &buffer[..read], place)?;
            at += read as u64;
        }
    }
    Ok(size.saturating_sub(start))
}

fn too_big() -> io::Error {
    io::Error::from_raw_os_error(libc::EFBIG)
}

fn scratch_name(seq: u64) -> io::Result<CString> {
    CString::new(format!("shift.{seq}")).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Would fallocate(2) do it, but for blocks of another size? What it refuses is not to be emulated.
fn can_shift(size: u64, range: Range) -> io::Result<()> {
    let end = range.offset.checked_add(range.length);
    let end = end.ok_or_else(too_big)?;
    let fits = match range.mode & COLLAPSE_RANGE != 0 {
        true => end < size,
        false => range.offset < size,
    };
    if !fits {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let grown = size.checked_add(range.length).map(i64::try_from);
    match grown {
        Some(Ok(_)) => Ok(()),
        _ => Err(too_big()),
    }
}

impl FsReplica {
    pub(super) fn change_range(&mut self, file: Inode, range: Range, seq: u64) -> io::Result<()> {
        let fd = self.fd(file)?;
        let fd = fd.as_fd();
        if range.shifts() {
            return self.shift(fd, range, seq);
        }
        match sys::fallocate(fd, range.mode, range.offset, range.length) {
            Err(e) if is_unsupported(&e) => {}
            done => return done,
        }
        let size = sys::fstat(fd)?.size;
        let end = range.offset.saturating_add(range.length);
        if range.mode & PUNCH_HOLE != 0 {
            return write_zeroes(fd, range.offset, end.min(size));
        }
        if range.mode & ZERO_RANGE != 0 {
            clear(fd, range.offset, end.min(size))?;
        }
        // Space cannot be promised here; the size can.
        if range.mode & KEEP_SIZE == 0 && end > size {
            sys::ftruncate(fd, end)?;
        }
        Ok(())
    }

    /// Collapse or insert. Where the file system refuses (none there, or blocks of another size),
    /// what stands behind the range is first copied aside, durably, so that an interruption is
    /// made good by doing it again from the copy.
    fn shift(&mut self, fd: BorrowedFd<'_>, range: Range, seq: u64) -> io::Result<()> {
        let scratch = match self.shift_scratch(seq)? {
            Some(scratch) => scratch,
            None => {
                match sys::fallocate(fd, range.mode, range.offset, range.length) {
                    Err(e) if is_unsupported(&e) || e.raw_os_error() == Some(libc::EINVAL) => {}
                    done => return done,
                }
                can_shift(sys::fstat(fd)?.size, range)?;
                self.save_tail(fd, range, seq)?
            }
        };
        let tail = sys::fstat(scratch.as_fd())?.size;
        let behind = range.offset.checked_add(range.length);
        let behind = behind.ok_or_else(too_big)?;
        let collapses = range.mode & COLLAPSE_RANGE != 0;
        let start = if collapses { range.offset } else { behind };
        let end = start.checked_add(tail).ok_or_else(too_big)?;
        // Holes of the copy are holes of the file; what an inserted range covers is cleared too. Beyond
        // what the file had there is nothing to clear.
        let size = sys::fstat(fd)?.size;
        clear(fd, range.offset, size.min(end))?;
        copy_tail((scratch.as_fd(), 0), (fd, start))?;
        sys::ftruncate(fd, end)?;
        sys::fsync(fd)?;
        sys::unlinkat(self.hidden_fd.as_fd(), &scratch_name(seq)?, 0)?;
        sys::fsync(self.hidden_fd.as_fd())
    }

    fn save_tail(&self, fd: BorrowedFd<'_>, range: Range, seq: u64) -> io::Result<OwnedFd> {
        let hidden = self.hidden_fd.as_fd();
        let start = match range.mode & COLLAPSE_RANGE != 0 {
            true => range.offset.checked_add(range.length),
            false => Some(range.offset),
        };
        let start = start.ok_or_else(too_big)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
        let scratch = sys::openat(hidden, c"shift.part", flags, 0o600)?;
        let length = copy_tail((fd, start), (scratch.as_fd(), 0))?;
        sys::ftruncate(scratch.as_fd(), length)?;
        sys::fsync(scratch.as_fd())?;
        let name = scratch_name(seq)?;
        sys::renameat2(hidden, c"shift.part", hidden, &name, 0)?;
        sys::fsync(hidden)?;
        Ok(scratch)
    }

    pub(super) fn shift_scratch(&self, seq: u64) -> io::Result<Option<OwnedFd>> {
        match sys::openat(self.hidden_fd.as_fd(), &scratch_name(seq)?, libc::O_RDWR, 0) {
            Ok(scratch) => Ok(Some(scratch)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
