//! The process and its host: identity, clocks, randomness, limits.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::types::Time;

fn clock(which: libc::clockid_t) -> libc::timespec {
    let mut at = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to writable memory of the right size; these clocks always exist.
    unsafe {
        libc::clock_gettime(which, at.as_mut_ptr());
        at.assume_init()
    }
}

/// Wall-clock time in nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    let at = clock(libc::CLOCK_REALTIME);
    u64::try_from(at.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0)
}

/// Time since boot in nanoseconds; never goes back.
pub fn monotonic_ns() -> u64 {
    let at = clock(libc::CLOCK_MONOTONIC);
    u64::try_from(at.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0)
}

/// Processor time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let at = clock(libc::CLOCK_THREAD_CPUTIME_ID);
    u64::try_from(at.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0)
}

/// Wall-clock time.
pub fn now() -> Time {
    let at = clock(libc::CLOCK_REALTIME);
    Time {
        secs: at.tv_sec,
        nanos: u32::try_from(at.tv_nsec).unwrap_or(0),
    }
}

/// The clock that file systems stamp inodes with: a few milliseconds behind [`now`].
pub fn coarse_now() -> Time {
    let at = clock(libc::CLOCK_REALTIME_COARSE);
    Time {
        secs: at.tv_sec,
        nanos: u32::try_from(at.tv_nsec).unwrap_or(0),
    }
}

/// The calling thread leaves the processors to others: it gets about a third of what a thread of the usual
/// priority does where there are not enough of them, and all of one that is free (nice 5, setpriority(2)).
pub fn lower_priority() {
    // SAFETY: plain calls; on Linux the priority is of the one thread (its id is taken as PRIO_PROCESS).
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid);
        // It goes on at the usual priority where that is refused.
        libc::setpriority(libc::PRIO_PROCESS, u32::try_from(thread).unwrap_or(0), 5);
    }
}

/// geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: plain call without arguments.
    unsafe { libc::geteuid() }
}

/// Is the effective user root?
pub fn is_root() -> bool {
    effective_uid() == 0
}

/// The kernel's id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Random bits from the kernel, for ids.
pub fn random_u128() -> io::Result<u128> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(u128::from_le_bytes(bytes))
}

/// umask(2) of this thread (after [`super::unshare_fs_state`]) or process; returns the old one.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: plain call; it cannot fail.
    unsafe { libc::umask(mask) }
}

/// `CAP_FOWNER`, `CAP_FSETID` and `CAP_SYS_ADMIN` (`linux/capability.h`).
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SYS_ADMIN: u32 = 21;

/// Groups and capabilities of a thread; none of either when it cannot be looked at (it has ended, or
/// lives in another pid namespace).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    groups: Vec<u32>,
    effective: u64,
}

impl Credentials {
    /// Of a thread, from /proc. It costs some microseconds. A thread that waits for an answer cannot
    /// change them meanwhile.
    pub fn of(pid: u32) -> Credentials {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let groups = field("Groups:").unwrap_or_default().split_whitespace();
        let effective = field("CapEff:").unwrap_or_default().trim();
        Credentials {
            groups: groups.filter_map(|group| group.parse().ok()).collect(),
            effective: u64::from_str_radix(effective, 16).unwrap_or(0),
        }
    }

    /// Is this among the supplementary groups?
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.groups.contains(&gid)
    }

    fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }

    /// May it keep set-id bits that others lose?
    pub fn keeps_set_id(&self) -> bool {
        self.has(CAP_FSETID)
    }

    /// May it do what only a file's owner may?
    pub fn acts_as_owner(&self) -> bool {
        self.has(CAP_FOWNER)
    }

    /// Does it see `trusted.*` attributes?
    pub fn sees_trusted(&self) -> bool {
        self.has(CAP_SYS_ADMIN)
    }
}

/// Takes from this process what it would otherwise put upon those that it acts for: its own
/// supplementary groups, and its own limit of file sizes, as far as that may be raised. A file that is
/// too large all the same is an error and no signal.
pub fn act_without_own_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SigHandler, Signal, signal};
    if let Err(error) = nix::unistd::setgroups(&[]) {
        tracing::warn!(%error, "cannot give up the supplementary groups of this process");
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_FSIZE) {
        // The hard limit may always be asked for.
        let _ = setrlimit(Resource::RLIMIT_FSIZE, hard, hard);
    }
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// prctl(2) with `PR_SET_IO_FLUSHER`, for this thread and those that it starts: they do the I/O that
/// write-back waits for. So they do not wait for write-back themselves when they need memory, and when
/// they write are slowed down for the disk that they write to only, not for what they are to write.
pub fn serve_write_back() -> io::Result<()> {
    // SAFETY: plain call without pointers.
    let rc = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How many descriptors this process may have; raises the soft limit to the hard one first.
pub fn open_files_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a writable struct rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return 1024;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            rlim_max: limit.rlim_max,
        };
        // SAFETY: the pointer is to a readable struct rlimit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    limit.rlim_cur
}

/// Gives memory that was freed back to the system, where the allocator would keep it (glibc).
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain call; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Opens `path` and syncs the whole file system it is on; for a FUSE mount this writes back the
/// kernel's dirty pages.
pub fn sync_file_system_of(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor just opened, closed here and nowhere else.
    let rc = unsafe {
        let rc = libc::syncfs(fd);
        libc::close(fd);
        rc
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// sd_notify(3): tells the service manager `state`, where there is one (`NOTIFY_SOCKET`).
pub fn ready_notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let bytes = path.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        // Nobody listens: then nobody waits for it either.
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}

/// This host's name; `localhost` where it has none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
