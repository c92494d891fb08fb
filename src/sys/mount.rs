//! Mounts: the way below, the FUSE mount made by hand, the table of mounts.
//!
//! The mount is made with fsopen(2), fsmount(2) and move_mount(2), never with `fuser::mount`: that
//! one, after somebody else's umount, unmounts the file system *below*.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const OPEN_TREE_CLONE: u32 = 1;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_BENEATH: u32 = 0x200;
const MOUNT_ATTR_RDONLY: u64 = 0x01;
const MOUNT_ATTR_NOSUID: u64 = 0x02;
const MOUNT_ATTR_NODEV: u64 = 0x04;
const MOUNT_ATTR_NOEXEC: u64 = 0x08;
const MOUNT_ATTR_NOATIME: u64 = 0x10;
const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
/// The bits of which one kind of access times is made.
const MOUNT_ATTR__ATIME: u64 = 0x70;

fn fd_of(rc: libc::c_long) -> io::Result<OwnedFd> {
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a call just returned this new descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(rc as i32) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of the mount at `dir`, without the mounts
/// below it. What is mounted over `dir` later does not show in it. Returns a readable descriptor of
/// its root (the clone itself is `O_PATH`, which open_by_handle_at refuses). Reading through the copy
/// leaves access times alone as `unstamped` says, or as the mount at `dir` has it.
pub fn clone_tree(dir: &Path, unstamped: Unstamped) -> io::Result<OwnedFd> {
    let path = c_path(dir)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    // SAFETY: the path ends with NUL.
    let tree =
        fd_of(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    let tree = std::os::fd::AsFd::as_fd(&tree);
    unstamped.apply(tree)?;
    super::openat(tree, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// As [`clone_tree`], of what lies below the mounts of `fs_type` on `dir`: those of workers that died,
/// through which nothing can be reached. Looked at in a mount namespace of a thread of our own, so that
/// nothing changes for anybody else.
pub fn clone_tree_beneath(
    dir: &Path,
    fs_type: &'static str,
    unstamped: Unstamped,
) -> io::Result<OwnedFd> {
    let dir = dir.to_path_buf();
    let look = move || {
        // SAFETY: plain call; it concerns this thread alone, which ends here.
        let rc = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        let none = std::ptr::null();
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: the path ends with NUL; the other arguments may be null for a change of propagation.
        let rc = unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        let is_there = || -> io::Result<bool> {
            let mounts = read_mounts_of(Path::new("/proc/thread-self"))?;
            let top = mounts
                .into_iter()
                .rev()
                .find(|mount| mount.mountpoint == dir);
            Ok(top.is_some_and(|mount| mount.fs_type == fs_type))
        };
        while is_there()? {
            umount(&dir, true)?;
        }
        clone_tree(&dir, unstamped)
    };
    let thread = crate::sync::spawn("dfs-beneath", look)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)))
}

/// Is the FUSE connection of what is mounted at `mountpoint` gone? Only to be asked of a mount that no
/// process serves or holds: else it waits for an answer.
pub fn is_dead_mount(mountpoint: &Path) -> bool {
    let Ok(path) = CString::new(mountpoint.as_os_str().as_bytes()) else {
        return false;
    };
    let mut st = MaybeUninit::<libc::statx>::zeroed();
    // What the kernel remembers of a directory outlives who told it.
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_FORCE_SYNC;
    // SAFETY: the path ends with NUL and the pointer is to writable memory of the right size.
    let rc = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            libc::STATX_BASIC_STATS,
            st.as_mut_ptr(),
        )
    };
    rc < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN)
}

/// Whose access times reading leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstamped {
    /// As the mount below has it.
    AsBelow,
    /// Those of directories (`nodiratime`).
    Directories,
    /// All (`noatime`).
    Everything,
}

impl Unstamped {
    /// mount_setattr(2) on a mount that nobody else sees.
    fn apply(self, mount: BorrowedFd<'_>) -> io::Result<()> {
        let (attr_set, attr_clr) = match self {
            Unstamped::AsBelow => return Ok(()),
            Unstamped::Directories => (MOUNT_ATTR_NODIRATIME, 0),
            Unstamped::Everything => (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
        };
        let attributes = libc::mount_attr {
            attr_set,
            attr_clr,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the path ends with NUL, the attributes are readable for their size.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if rc < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// Opens `/dev/fuse`.
pub fn fuse_open() -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the path ends with NUL.
    fd_of(unsafe { libc::open(c"/dev/fuse".as_ptr(), flags) }.into())
}

/// How a FUSE file system is mounted.
#[derive(Debug, Clone, Default)]
pub struct FuseMount {
    /// What the mount table shows as the source.
    pub source: String,
    /// Read-only.
    pub read_only: bool,
    /// `nosuid`, `nodev`, `noexec`, `noatime`, `nodiratime`, `nosymfollow`, in this order.
    pub restrictions: [bool; 6],
    /// Largest read in bytes.
    pub max_read: u32,
    /// Beneath what is mounted there already (Linux 6.5), which is taken away by who asked for that.
    pub is_beneath: bool,
    /// The device number (`st_dev`) that it is to have where that is free: the one of last time.
    pub device: Option<u64>,
}

fn fsconfig(
    context: BorrowedFd<'_>,
    command: u32,
    key: &CStr,
    value: Option<&CStr>,
) -> io::Result<()> {
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    let key = if key.is_empty() {
        std::ptr::null()
    } else {
        key.as_ptr()
    };
    // SAFETY: key and value are null or end with NUL, as the command wants them.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            0,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// fsopen(2).
fn open_context(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with NUL.
    fd_of(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

/// fsmount(2).
fn mount_context(context: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let flags = FSMOUNT_CLOEXEC;
    // SAFETY: plain call on an open descriptor.
    fd_of(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), flags, attributes) })
}

/// An empty tmpfs that is mounted nowhere and ends with the descriptor.
pub(super) fn detached_tmpfs() -> io::Result<OwnedFd> {
    let context = open_context(c"tmpfs")?;
    let context = std::os::fd::AsFd::as_fd(&context);
    fsconfig(context, FSCONFIG_CMD_CREATE, c"", None)?;
    mount_context(context, 0)
}

/// Mounts the FUSE connection of `device` on `mountpoint`, type `fuse.doppelfs`, for all users,
/// permissions judged by the kernel.
pub fn mount_fuse(device: BorrowedFd<'_>, mountpoint: &Path, how: &FuseMount) -> io::Result<()> {
    let point = c_path(mountpoint)?;
    let context = open_context(c"fuse")?;
    let context = std::os::fd::AsFd::as_fd(&context);
    let text =
        |value: String| CString::new(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let strings = [
        (c"source", text(how.source.clone())?),
        (c"subtype", text("doppelfs".into())?),
        (c"fd", text(device.as_raw_fd().to_string())?),
        (c"rootmode", text("40000".into())?),
        (c"user_id", text("0".into())?),
        (c"group_id", text("0".into())?),
        (c"max_read", text(how.max_read.to_string())?),
    ];
    for (key, value) in &strings {
        fsconfig(context, FSCONFIG_SET_STRING, key, Some(value))?;
    }
    for flag in [c"allow_other", c"default_permissions"] {
        fsconfig(context, FSCONFIG_SET_FLAG, flag, None)?;
    }
    if how.read_only {
        fsconfig(context, FSCONFIG_SET_FLAG, c"ro", None)?;
    }
    let turn = super::volume::take_turn();
    let others = how.device.map(super::volume::occupy_below);
    fsconfig(context, FSCONFIG_CMD_CREATE, c"", None)?;
    drop((others, turn));
    let bits = [
        MOUNT_ATTR_NOSUID,
        MOUNT_ATTR_NODEV,
        MOUNT_ATTR_NOEXEC,
        MOUNT_ATTR_NOATIME,
        MOUNT_ATTR_NODIRATIME,
        MOUNT_ATTR_NOSYMFOLLOW,
    ];
    let mut attributes = if how.read_only { MOUNT_ATTR_RDONLY } else { 0 };
    for (bit, wanted) in bits.iter().zip(how.restrictions) {
        if wanted {
            attributes |= bit;
        }
    }
    let mount = mount_context(context, attributes)?;
    let beneath = if how.is_beneath {
        MOVE_MOUNT_BENEATH
    } else {
        0
    };
    // SAFETY: both paths end with NUL.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            point.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | beneath,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A file of fusectl that counts the requests to a FUSE connection (by the minor number of its device)
/// that wait or are under way. It is reached through a mount of fusectl that nobody else sees.
pub fn fuse_requests(minor: &str) -> io::Result<std::fs::File> {
    let name = CString::new(format!("{minor}/waiting"))
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the name ends with NUL.
    let context = fd_of(unsafe { libc::syscall(libc::SYS_fsopen, c"fusectl".as_ptr(), 1) })?;
    let context = std::os::fd::AsFd::as_fd(&context);
    fsconfig(context, FSCONFIG_CMD_CREATE, c"", None)?;
    // SAFETY: plain call on an open descriptor.
    let mount = fd_of(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    let file = super::openat(std::os::fd::AsFd::as_fd(&mount), &name, libc::O_RDONLY, 0)?;
    Ok(file.into())
}

/// umount2(2) with `UMOUNT_NOFOLLOW`; `lazy` detaches at once (`MNT_DETACH`).
pub fn umount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let path = c_path(mountpoint)?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path ends with NUL.
    let rc = unsafe { libc::umount2(path.as_ptr(), flags) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// The kernel's number of the mount, unique among all mounts of all namespaces.
    pub id: u64,
    /// Number of the file system, `major:minor`.
    pub device: String,
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// The group of mounts that it shares new mounts with.
    pub shared: Option<u64>,
    /// The group of mounts that it receives new mounts from.
    pub master: Option<u64>,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Type with subtype.
    pub fs_type: String,
    /// Source as given at mount.
    pub source: String,
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let value = octal.and_then(|o| {
            o.iter().try_fold(0u32, |v, &b| {
                (b'0'..=b'7')
                    .contains(&b)
                    .then(|| v * 8 + u32::from(b - b'0'))
            })
        });
        match value.and_then(|v| u8::try_from(v).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

/// The mounts of this process's namespace, oldest first.
pub fn read_mounts() -> io::Result<Vec<MountLine>> {
    read_mounts_of(Path::new("/proc/self"))
}

/// The mounts that a process sees, given as its directory in /proc, oldest first.
pub fn read_mounts_of(process: &Path) -> io::Result<Vec<MountLine>> {
    Ok(parse_mounts(&std::fs::read(process.join("mountinfo"))?))
}

/// The mounts in the text of a `/proc/PID/mountinfo`; lines of another form are passed over.
pub fn parse_mounts(table: &[u8]) -> Vec<MountLine> {
    table
        .split(|&b| b == b'\n')
        .filter_map(parse_mount)
        .collect()
}

fn parse_mount(line: &[u8]) -> Option<MountLine> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let text = |at: usize| fields.get(at).map(|f| String::from_utf8_lossy(f));
    let path = |at: usize| -> Option<PathBuf> {
        Some(std::ffi::OsString::from_vec(unescape(fields.get(at)?)).into())
    };
    let group = |kind: &str| {
        (6..dash).find_map(|at| text(at)?.strip_prefix(kind).and_then(|n| n.parse().ok()))
    };
    Some(MountLine {
        id: text(0)?.parse().ok()?,
        device: text(2)?.into_owned(),
        root: path(3)?,
        shared: group("shared:"),
        master: group("master:"),
        mountpoint: path(4)?,
        fs_type: text(dash + 1)?.into_owned(),
        source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
    })
}

/// The mount that an open file of this process was opened through, by its number.
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    mount_id_in(&info).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))
}

/// The number of the mount in the text of a `/proc/PID/fdinfo/N`.
pub fn mount_id_in(info: &[u8]) -> Option<u64> {
    let info = String::from_utf8_lossy(info);
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// Waits until the table of mounts, opened as `/proc/self/mountinfo`, has changed since it was last
/// read or waited for, at most so long; false when the time ran out (proc_pid_mountinfo(5)).
pub fn wait_mounts_changed(table: BorrowedFd<'_>, patience_ms: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: table.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: one writable struct pollfd.
    match unsafe { libc::poll(&raw mut poll, 1, patience_ms) } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mount points strictly below `dir`.
pub fn beneath_mounts(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = read_mounts()?.into_iter().map(|m| m.mountpoint);
    Ok(mounts.filter(|p| p != dir && p.starts_with(dir)).collect())
}
