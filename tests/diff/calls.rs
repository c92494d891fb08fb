//! The system calls under test, raw: what they return, an error as a negative errno. The only file of
//! the tests with unsafe code, since what is compared is what the kernel says to exactly these
//! arguments, also to those that no safe wrapper lets through.
#![allow(unsafe_code, reason = "raw system calls are what is tested")]

use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::op::{LockKind, Stat, Who};

/// Makes one call. Every string given ends with NUL, every buffer is valid for the length beside it.
macro_rules! call {
    ($call:expr) => {{
        // SAFETY: one call of libc whose strings end with NUL and whose buffers are as long as said.
        let rc = unsafe { $call } as i64;
        if rc < 0 { failed() } else { rc }
    }};
}

/// The errno of the call before, negative.
fn failed() -> i64 {
    -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL in a path of the harness")
}

/// A descriptor and a path that name an inode; `flags` for the `*at` calls.
struct Place {
    fd: RawFd,
    path: CString,
    flags: i32,
}

/// What this side of an actor works with.
pub(crate) struct Hands<'a> {
    pub(crate) root: RawFd,
    pub(crate) slots: &'a [RawFd],
}

impl Hands<'_> {
    pub(crate) fn fd(&self, slot: usize) -> RawFd {
        self.slots[slot]
    }

    fn place(&self, who: &Who) -> Place {
        match who {
            Who::Path(path) => Place {
                fd: self.root,
                path: c(path),
                flags: 0,
            },
            Who::Link(path) => Place {
                fd: self.root,
                path: c(path),
                flags: libc::AT_SYMLINK_NOFOLLOW,
            },
            Who::Slot(slot) => Place {
                fd: self.fd(*slot),
                path: c(""),
                flags: libc::AT_EMPTY_PATH,
            },
        }
    }

    pub(crate) fn stat(&self, who: &Who) -> Result<Stat, i64> {
        let place = self.place(who);
        stat_at(place.fd, &place.path, place.flags)
    }

    pub(crate) fn open(&self, path: &str, flags: i32, mode: u32) -> i64 {
        call!(libc::openat(
            self.root,
            c(path).as_ptr(),
            flags | libc::O_CLOEXEC,
            mode
        ))
    }

    pub(crate) fn truncate(&self, who: &Who, len: i64) -> i64 {
        match who {
            Who::Slot(slot) => call!(libc::ftruncate(self.fd(*slot), len)),
            Who::Path(path) | Who::Link(path) => {
                // There is no truncateat(2): the root's descriptor leads there.
                let whole = format!("/proc/self/fd/{}/{path}", self.root);
                call!(libc::truncate(c(&whole).as_ptr(), len))
            }
        }
    }

    pub(crate) fn chmod(&self, who: &Who, mode: u32) -> i64 {
        match who {
            Who::Slot(slot) => call!(libc::fchmod(self.fd(*slot), mode)),
            Who::Path(path) => call!(libc::syscall(
                libc::SYS_fchmodat,
                self.root,
                c(path).as_ptr(),
                mode
            )),
            Who::Link(path) => {
                let flags = libc::AT_SYMLINK_NOFOLLOW;
                call!(libc::syscall(
                    SYS_FCHMODAT2,
                    self.root,
                    c(path).as_ptr(),
                    mode,
                    flags
                ))
            }
        }
    }

    pub(crate) fn chown(&self, who: &Who, uid: u32, gid: u32) -> i64 {
        let place = self.place(who);
        match who {
            Who::Slot(slot) => call!(libc::fchown(self.fd(*slot), uid, gid)),
            _ => call!(libc::fchownat(
                place.fd,
                place.path.as_ptr(),
                uid,
                gid,
                place.flags
            )),
        }
    }

    pub(crate) fn utimens(&self, who: &Who, atime: (i64, i64), mtime: (i64, i64)) -> i64 {
        let spec = |(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec };
        let times = [spec(atime), spec(mtime)];
        let place = self.place(who);
        match who {
            Who::Slot(slot) => call!(libc::futimens(self.fd(*slot), times.as_ptr())),
            _ => call!(libc::utimensat(
                place.fd,
                place.path.as_ptr(),
                times.as_ptr(),
                place.flags
            )),
        }
    }

    fn whole(&self, path: &str) -> CString {
        c(&format!("/proc/self/fd/{}/{path}", self.root))
    }

    pub(crate) fn set_xattr(&self, who: &Who, name: &str, value: &[u8], flags: i32) -> i64 {
        let (name, at, len) = (c(name), value.as_ptr().cast(), value.len());
        match who {
            Who::Slot(slot) => call!(libc::fsetxattr(
                self.fd(*slot),
                name.as_ptr(),
                at,
                len,
                flags
            )),
            Who::Path(path) => call!(libc::setxattr(
                self.whole(path).as_ptr(),
                name.as_ptr(),
                at,
                len,
                flags
            )),
            Who::Link(path) => call!(libc::lsetxattr(
                self.whole(path).as_ptr(),
                name.as_ptr(),
                at,
                len,
                flags
            )),
        }
    }

    pub(crate) fn get_xattr(&self, who: &Who, name: &str, size: usize) -> (i64, Vec<u8>) {
        let mut buf = vec![0u8; size];
        let (name, at) = (c(name), buf.as_mut_ptr().cast());
        let got = match who {
            Who::Slot(slot) => call!(libc::fgetxattr(self.fd(*slot), name.as_ptr(), at, size)),
            Who::Path(path) => call!(libc::getxattr(
                self.whole(path).as_ptr(),
                name.as_ptr(),
                at,
                size
            )),
            Who::Link(path) => call!(libc::lgetxattr(
                self.whole(path).as_ptr(),
                name.as_ptr(),
                at,
                size
            )),
        };
        buf.truncate(usize::try_from(got).unwrap_or(0).min(size));
        (got, buf)
    }

    /// The names come sorted: their order is the file system's own affair.
    pub(crate) fn list_xattr(&self, who: &Who, size: usize) -> (i64, Vec<u8>) {
        let mut buf = vec![0u8; size];
        let at = buf.as_mut_ptr().cast();
        let got = match who {
            Who::Slot(slot) => call!(libc::flistxattr(self.fd(*slot), at, size)),
            Who::Path(path) => call!(libc::listxattr(self.whole(path).as_ptr(), at, size)),
            Who::Link(path) => call!(libc::llistxattr(self.whole(path).as_ptr(), at, size)),
        };
        buf.truncate(usize::try_from(got).unwrap_or(0).min(size));
        let mut names: Vec<&[u8]> = buf.split_inclusive(|&b| b == 0).collect();
        names.sort_unstable();
        (got, names.concat())
    }

    pub(crate) fn remove_xattr(&self, who: &Who, name: &str) -> i64 {
        let name = c(name);
        match who {
            Who::Slot(slot) => call!(libc::fremovexattr(self.fd(*slot), name.as_ptr())),
            Who::Path(path) => call!(libc::removexattr(self.whole(path).as_ptr(), name.as_ptr())),
            Who::Link(path) => call!(libc::lremovexattr(self.whole(path).as_ptr(), name.as_ptr())),
        }
    }

    pub(crate) fn mkdir(&self, path: &str, mode: u32) -> i64 {
        call!(libc::mkdirat(self.root, c(path).as_ptr(), mode))
    }

    pub(crate) fn mknod(&self, path: &str, mode: u32, rdev: u64) -> i64 {
        call!(libc::mknodat(self.root, c(path).as_ptr(), mode, rdev))
    }

    pub(crate) fn symlink(&self, target: &str, path: &str) -> i64 {
        call!(libc::symlinkat(
            c(target).as_ptr(),
            self.root,
            c(path).as_ptr()
        ))
    }

    pub(crate) fn link(&self, old: &str, new: &str, follow: bool) -> i64 {
        let flags = if follow { libc::AT_SYMLINK_FOLLOW } else { 0 };
        call!(libc::linkat(
            self.root,
            c(old).as_ptr(),
            self.root,
            c(new).as_ptr(),
            flags
        ))
    }

    pub(crate) fn link_open(&self, slot: usize, new: &str, by_proc: bool) -> i64 {
        let (new, root) = (c(new), self.root);
        if by_proc {
            let old = c(&format!("/proc/self/fd/{}", self.fd(slot)));
            let flags = libc::AT_SYMLINK_FOLLOW;
            return call!(libc::linkat(
                libc::AT_FDCWD,
                old.as_ptr(),
                root,
                new.as_ptr(),
                flags
            ));
        }
        let flags = libc::AT_EMPTY_PATH;
        call!(libc::linkat(
            self.fd(slot),
            c"".as_ptr(),
            root,
            new.as_ptr(),
            flags
        ))
    }

    pub(crate) fn rename(&self, old: &str, new: &str, flags: u32) -> i64 {
        let (old, new) = (c(old), c(new));
        call!(libc::syscall(
            libc::SYS_renameat2,
            self.root,
            old.as_ptr(),
            self.root,
            new.as_ptr(),
            flags
        ))
    }

    pub(crate) fn unlink(&self, path: &str, flags: i32) -> i64 {
        call!(libc::unlinkat(self.root, c(path).as_ptr(), flags))
    }

    pub(crate) fn access(&self, path: &str, mode: i32, flags: i32) -> i64 {
        call!(libc::syscall(
            SYS_FACCESSAT2,
            self.root,
            c(path).as_ptr(),
            mode,
            flags
        ))
    }

    pub(crate) fn readlink(&self, path: &str, size: usize) -> (i64, Vec<u8>) {
        let mut buf = vec![0u8; size];
        let got = call!(libc::readlinkat(
            self.root,
            c(path).as_ptr(),
            buf.as_mut_ptr().cast(),
            size
        ));
        buf.truncate(usize::try_from(got).unwrap_or(0));
        (got, buf)
    }

    /// f_type, free space and f_flags are not compared: only what must be the same.
    pub(crate) fn statfs(&self, path: &str) -> (i64, Vec<u8>) {
        let mut st = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        let rc = call!(libc::statvfs(self.whole(path).as_ptr(), st.as_mut_ptr()));
        if rc < 0 {
            return (rc, Vec::new());
        }
        // SAFETY: zeroed, and then filled by the call that succeeded.
        let st = unsafe { st.assume_init() };
        let text = format!(
            "{} {} {} {}",
            st.f_bsize, st.f_frsize, st.f_blocks, st.f_namemax
        );
        (rc, text.into_bytes())
    }
}

/// `fchmodat2(2)`; libc has no name for it on every target.
const SYS_FCHMODAT2: i64 = 452;
/// `faccessat2(2)`.
const SYS_FACCESSAT2: i64 = 439;

/// fstatat(2).
pub(crate) fn stat_at(fd: RawFd, path: &CString, flags: i32) -> Result<Stat, i64> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::zeroed();
    let rc = call!(libc::fstatat(fd, path.as_ptr(), st.as_mut_ptr(), flags));
    if rc < 0 {
        return Err(rc);
    }
    // SAFETY: zeroed, and then filled by the call that succeeded.
    let st = unsafe { st.assume_init() };
    Ok(Stat {
        ino: st.st_ino,
        mode: st.st_mode,
        nlink: st.st_nlink,
        uid: st.st_uid,
        gid: st.st_gid,
        rdev: st.st_rdev,
        size: st.st_size,
        blocks: st.st_blocks,
        atime: (st.st_atime, st.st_atime_nsec),
        mtime: (st.st_mtime, st.st_mtime_nsec),
        ctime: (st.st_ctime, st.st_ctime_nsec),
    })
}

/// Takes over a descriptor that [`Hands::open`] just returned; `None` for an error.
pub(crate) fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the call that made it gave it to nobody else.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn close(fd: RawFd) -> i64 {
    call!(libc::close(fd))
}

/// Memory that direct I/O takes: page-aligned, whatever its length.
pub(crate) struct Aligned {
    store: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Aligned {
        let store = vec![0u8; len + 4096];
        let from = store.as_ptr().align_offset(4096);
        Aligned { store, from, len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.store[self.from..self.from + self.len]
    }
}

pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> i64 {
    call!(libc::write(fd, bytes.as_ptr().cast(), bytes.len()))
}

pub(crate) fn pwrite(fd: RawFd, bytes: &[u8], at: i64) -> i64 {
    call!(libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), at))
}

pub(crate) fn writev(fd: RawFd, bytes: &[u8]) -> i64 {
    let third = bytes.len() / 3;
    let (a, rest) = bytes.split_at(third);
    let (b, rest) = rest.split_at(third);
    let part = |part: &[u8]| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    };
    let parts = [part(a), part(b), part(rest)];
    call!(libc::writev(fd, parts.as_ptr(), 3))
}

pub(crate) fn read(fd: RawFd, buf: &mut [u8]) -> i64 {
    call!(libc::read(fd, buf.as_mut_ptr().cast(), buf.len()))
}

pub(crate) fn pread(fd: RawFd, buf: &mut [u8], at: i64) -> i64 {
    call!(libc::pread(fd, buf.as_mut_ptr().cast(), buf.len(), at))
}

/// Writes through a shared mapping and msyncs it; only inside of the file (beyond it is SIGBUS).
pub(crate) fn map_write(fd: RawFd, at: usize, len: usize, fill: u8) -> i64 {
    let size = stat_at(fd, &c(""), libc::AT_EMPTY_PATH)
        .map_or(0, |st| usize::try_from(st.size).unwrap_or(0));
    let (end, prot) = (at + len.max(1), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), end, prot, libc::MAP_SHARED, fd, 0) };
    if base == libc::MAP_FAILED {
        return failed();
    }
    let wrote = len.min(size.saturating_sub(at));
    if wrote > 0 {
        // SAFETY: inside the mapping and inside the file, which nobody cuts meanwhile.
        unsafe { std::ptr::write_bytes(base.cast::<u8>().add(at), fill, wrote) };
    }
    let rc = call!(libc::msync(base, end, libc::MS_SYNC));
    call!(libc::munmap(base, end));
    if rc < 0 { rc } else { wrote as i64 }
}

pub(crate) fn map_read(fd: RawFd, len: usize) -> (i64, Vec<u8>) {
    let size = stat_at(fd, &c(""), libc::AT_EMPTY_PATH)
        .map_or(0, |st| usize::try_from(st.size).unwrap_or(0));
    let mapped = len.max(1);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            mapped,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return (failed(), Vec::new());
    }
    let inside = len.min(size);
    // SAFETY: inside the mapping and inside the file, which nobody cuts meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(base.cast::<u8>(), inside) }.to_vec();
    call!(libc::munmap(base, mapped));
    (inside as i64, bytes)
}

pub(crate) fn fallocate(fd: RawFd, mode: i32, at: i64, len: i64) -> i64 {
    call!(libc::fallocate(fd, mode, at, len))
}

pub(crate) fn copy_file_range(from: RawFd, to: RawFd, at: i64, into: i64, len: usize) -> i64 {
    let (mut at, mut into) = (at, into);
    call!(libc::copy_file_range(
        from,
        &raw mut at,
        to,
        &raw mut into,
        len,
        0
    ))
}

pub(crate) fn sendfile(from: RawFd, to: RawFd, len: usize) -> i64 {
    call!(libc::sendfile(to, from, std::ptr::null_mut(), len))
}

/// Through a pipe, as splice(2) wants it; what the second half takes.
pub(crate) fn splice(from: RawFd, to: RawFd, len: usize) -> i64 {
    let mut pipe = [0; 2];
    call!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC));
    let none = std::ptr::null_mut();
    let got = call!(libc::splice(from, none, pipe[1], none, len.min(60_000), 0));
    let put = if got > 0 {
        call!(libc::splice(
            pipe[0],
            none,
            to,
            none,
            usize::try_from(got).unwrap_or(0),
            0
        ))
    } else {
        got
    };
    close(pipe[0]);
    close(pipe[1]);
    put
}

pub(crate) fn lseek(fd: RawFd, at: i64, whence: i32) -> i64 {
    call!(libc::lseek(fd, at, whence))
}

pub(crate) fn is_dir(fd: RawFd) -> bool {
    // SAFETY: all bits zero are a valid struct stat, which the call fills.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::fstat(fd, &raw mut st)) == 0 && st.st_mode & libc::S_IFMT == libc::S_IFDIR
}

pub(crate) fn is_direct(fd: RawFd) -> bool {
    let flags = call!(libc::fcntl(fd, libc::F_GETFL));
    flags >= 0 && flags & i64::from(libc::O_DIRECT) != 0
}

/// Moves a descriptor's position down to a multiple of `unit`; false where appending writes would
/// not begin at one.
pub(crate) fn align_position(fd: RawFd, unit: i64) -> bool {
    let appends = call!(libc::fcntl(fd, libc::F_GETFL)) & i64::from(libc::O_APPEND) != 0;
    if is_dir(fd) {
        // Where a directory ends means nothing; nothing is copied from or to one anyway.
        return true;
    }
    if appends {
        return lseek(fd, 0, libc::SEEK_END) % unit == 0;
    }
    let at = lseek(fd, 0, libc::SEEK_CUR);
    at < 0 || lseek(fd, at - at % unit, libc::SEEK_SET) >= 0
}

pub(crate) fn fsync(fd: RawFd, data_only: bool) -> i64 {
    if data_only {
        call!(libc::fdatasync(fd))
    } else {
        call!(libc::fsync(fd))
    }
}

pub(crate) fn syncfs(fd: RawFd) -> i64 {
    call!(libc::syncfs(fd))
}

pub(crate) fn getfl(fd: RawFd) -> i64 {
    call!(libc::fcntl(fd, libc::F_GETFL))
}

pub(crate) fn lock(fd: RawFd, kind: LockKind, mode: i32, at: i64, len: i64) -> (i64, Vec<u8>) {
    let mut how = libc::flock {
        l_type: mode as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: at,
        l_len: len,
        l_pid: 0,
    };
    match kind {
        LockKind::Flock => {
            let op = match mode {
                libc::F_RDLCK => libc::LOCK_SH,
                libc::F_WRLCK => libc::LOCK_EX,
                _ => libc::LOCK_UN,
            };
            (call!(libc::flock(fd, op | libc::LOCK_NB)), Vec::new())
        }
        LockKind::Posix => (
            call!(libc::fcntl(fd, libc::F_SETLK, &raw mut how)),
            Vec::new(),
        ),
        LockKind::Ofd => (
            call!(libc::fcntl(fd, libc::F_OFD_SETLK, &raw mut how)),
            Vec::new(),
        ),
        LockKind::Ask => {
            let rc = call!(libc::fcntl(fd, libc::F_GETLK, &raw mut how));
            let text = format!("{} {} {} {}", how.l_type, how.l_start, how.l_len, how.l_pid);
            (rc, text.into_bytes())
        }
        LockKind::Lease => {
            let rc = call!(libc::fcntl(fd, libc::F_SETLEASE, mode));
            if rc == 0 {
                // Nobody is to be kept waiting by it.
                call!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK));
            }
            (rc, Vec::new())
        }
    }
}

/// `FS_IOC_GETFLAGS`.
pub(crate) fn get_flags(fd: RawFd) -> i64 {
    let mut flags = 0i64;
    call!(libc::ioctl(fd, 0x8008_6601, &raw mut flags))
}

/// `FICLONE`.
pub(crate) fn clone(from: RawFd, to: RawFd) -> i64 {
    call!(libc::ioctl(to, 0x4004_9409, from))
}

/// One entry of a directory, with the cookie behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) ino: u64,
    pub(crate) next: i64,
}

/// getdents64(2) once.
pub(crate) fn getdents(fd: RawFd, size: usize, into: &mut Vec<Entry>) -> i64 {
    let mut buf = vec![0u8; size];
    let got = call!(libc::syscall(
        libc::SYS_getdents64,
        fd,
        buf.as_mut_ptr(),
        size
    ));
    let end = usize::try_from(got).unwrap_or(0);
    let word = |at: usize| -> [u8; 8] { buf[at..at + 8].try_into().expect("eight bytes") };
    let mut at = 0;
    while at < end {
        let length = usize::from(u16::from_ne_bytes([buf[at + 16], buf[at + 17]]));
        let name = buf[at + 19..at + length]
            .split(|&b| b == 0)
            .next()
            .unwrap_or_default();
        into.push(Entry {
            name: name.to_vec(),
            kind: buf[at + 18],
            ino: u64::from_ne_bytes(word(at)),
            next: i64::from_ne_bytes(word(at + 8)),
        });
        at += length;
    }
    got
}

pub(crate) fn umask(mask: u32) {
    call!(libc::umask(mask));
}

/// Sets the soft `RLIMIT_FSIZE`; the hard one stays.
pub(crate) fn limit_file_size(bytes: Option<u64>) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    call!(libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit));
    limit.rlim_cur = bytes.unwrap_or(limit.rlim_max);
    call!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit));
}

fn file_size_signal() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    call!(libc::sigemptyset(set.as_mut_ptr()));
    call!(libc::sigaddset(set.as_mut_ptr(), libc::SIGXFSZ));
    // SAFETY: all zeroes is a set, and the calls filled it.
    unsafe { set.assume_init() }
}

/// Holds SIGXFSZ back in this thread, so that it can be asked for.
pub(crate) fn hold_file_size_signal() {
    let set = file_size_signal();
    call!(libc::pthread_sigmask(
        libc::SIG_BLOCK,
        &raw const set,
        std::ptr::null_mut()
    ));
}

/// Was SIGXFSZ sent since this was asked last?
pub(crate) fn take_file_size_signal() -> bool {
    let set = file_size_signal();
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    call!(libc::sigtimedwait(
        &raw const set,
        std::ptr::null_mut(),
        &raw const now
    )) > 0
}
