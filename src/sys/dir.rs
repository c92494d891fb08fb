//! getdents64(2): a directory's entries with their cookies.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Type of an entry as the directory itself tells (`d_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the DT_* of readdir(3)")]
pub enum EntryType {
    Unknown,
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Char,
    Block,
}

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Inode number; the one below a mount point, where one is mounted on it.
    pub ino: u64,
    /// Where the next entry begins: what [`seek_dir`] takes.
    pub next: i64,
    /// Type.
    pub kind: EntryType,
    /// Name without its NUL; `.` and `..` included.
    pub name: &'a [u8],
}

/// lseek(2) of a directory to a cookie; 0 rewinds.
pub fn seek_dir(dir: BorrowedFd<'_>, cookie: i64) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    let rc = unsafe { libc::lseek(dir.as_raw_fd(), cookie, libc::SEEK_SET) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// getdents64(2): reads what fits into `buf` and hands each entry to `each` until it says false.
/// Returns how many bytes were read; 0 is the end of the directory. Where `each` stopped early the
/// caller seeks to the `next` of the last entry it took.
pub fn read_entries(
    dir: BorrowedFd<'_>,
    buf: &mut [u8],
    mut each: impl FnMut(DirEntry<'_>) -> bool,
) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_raw_fd(),
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    let read = usize::try_from(rc).map_err(|_| io::Error::last_os_error())?;
    let mut at = 0;
    // struct linux_dirent64: u64 ino, i64 off, u16 reclen, u8 type, name with NUL.
    while at + 19 <= read {
        let word = |from: usize| -> u64 {
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&buf[at + from..at + from + 8]);
            u64::from_ne_bytes(eight)
        };
        let reclen = usize::from(u16::from_ne_bytes([buf[at + 16], buf[at + 17]]));
        let name = &buf[at + 19..at + reclen];
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let kind = match buf[at + 18] {
            libc::DT_REG => EntryType::File,
            libc::DT_DIR => EntryType::Dir,
            libc::DT_LNK => EntryType::Symlink,
            libc::DT_FIFO => EntryType::Fifo,
            libc::DT_SOCK => EntryType::Socket,
            libc::DT_CHR => EntryType::Char,
            libc::DT_BLK => EntryType::Block,
            _ => EntryType::Unknown,
        };
        if !each(DirEntry {
            ino: word(0),
            next: word(8) as i64,
            kind,
            name,
        }) {
            break;
        }
        at += reclen;
    }
    Ok(read)
}
