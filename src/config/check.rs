//! May this directory be protected like this, here and now?

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::MountOptions;
use crate::control::{self, Service};
use crate::sys;
use crate::types::SetName;

/// Why a directory is not protected. Nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MountRefusal {
    /// The root directory.
    #[error("/ cannot be protected as a whole; name the directories that matter")]
    RootDirectory,
    /// No such directory.
    #[error("{0}: no such directory; create it first")]
    Missing(PathBuf),
    /// Something else than a directory.
    #[error("{0} is not a directory; only directories can be protected")]
    NotDirectory(PathBuf),
    /// A call of the system failed.
    #[error("cannot examine {path}: {reason}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A doppelfs is mounted there.
    #[error(
        "{0} is protected already (a fuse.doppelfs is mounted there); `doppelfs status` shows it, \
         `doppelfs umount {0}` ends it, also when its worker is dead"
    )]
    Protected(PathBuf),
    /// It lies in another protected directory.
    #[error(
        "{dir} lies inside {outer}, which is protected already; its changes are captured there"
    )]
    InsideProtected {
        /// The directory.
        dir: PathBuf,
        /// The mount around it.
        outer: PathBuf,
    },
    /// Our own files would be in the set.
    #[error("the {what} directory {path} lies inside {dir}, which is to be protected; {remedy}")]
    OwnInside {
        /// `state`, `run` or `queue`.
        what: &'static str,
        /// It.
        path: PathBuf,
        /// The directory to protect.
        dir: PathBuf,
        /// Which flag moves it.
        remedy: &'static str,
    },
    /// Our own files would be in another set, which would record our records.
    #[error(
        "the {what} directory {path} lies inside {outer}, which is protected already, and whatever \
         is recorded would be recorded there again; {remedy}"
    )]
    OwnProtected {
        /// `state`, `run` or `queue`.
        what: &'static str,
        /// It.
        path: PathBuf,
        /// The mount around it.
        outer: PathBuf,
        /// Which flag moves it.
        remedy: &'static str,
    },
    /// A mount there would take away what we run on.
    #[error(
        "a mount over {0} would hide what this program and the system run on; name a directory \
         that holds data, or mount elsewhere"
    )]
    SystemDirectory(PathBuf),
    /// A mount point below the directory.
    #[error(
        "mount point {mountpoint} lies inside {dir}; mount over the directory itself (leave the \
         mount point out) or outside of it"
    )]
    MountpointInside {
        /// The mount point.
        mountpoint: PathBuf,
        /// The directory to protect.
        dir: PathBuf,
    },
    /// A mount point above the directory would hide it.
    #[error("mount point {mountpoint} contains {dir} and would hide it; mount elsewhere")]
    MountpointAround {
        /// The mount point.
        mountpoint: PathBuf,
        /// The directory to protect.
        dir: PathBuf,
    },
    /// A protected directory lies inside of it, and would be hidden or written beside its mount.
    #[error(
        "{inner} inside of {dir} is protected already, and a file cannot belong to two sets; unmount \
         it first (`doppelfs umount {inner}`): its files are part of {dir}"
    )]
    AroundProtected {
        /// The directory to protect, or the mount point.
        dir: PathBuf,
        /// The mount inside of it.
        inner: PathBuf,
    },
    /// A path that the program's records cannot hold.
    #[error("the {what} {path:?} is not UTF-8; rename it (names of files inside may be anything)")]
    NotText {
        /// Which one.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Another worker has the name.
    #[error(
        "a set named {set:?} is mounted already (run directory {run_dir}); give another name with \
         --set NAME"
    )]
    NameInUse {
        /// The name.
        set: String,
        /// Where it is unique.
        run_dir: PathBuf,
    },
    /// Not root.
    #[error("mounting needs root; run it as root or with sudo")]
    NotRoot,
    /// No FUSE.
    #[error(
        "there is no /dev/fuse: load the kernel's module with `modprobe fuse`; in a container give \
         it the device (--device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoFuse,
}

impl MountRefusal {
    /// Does it pass with a process that ends?
    pub fn is_of_a_process(&self) -> bool {
        matches!(
            self,
            MountRefusal::Protected(_)
                | MountRefusal::InsideProtected { .. }
                | MountRefusal::AroundProtected { .. }
                | MountRefusal::NameInUse { .. }
        )
    }
}

/// Where no mount of ours may lie.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What of the machine matters for the answer.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Are we root?
    pub is_root: bool,
    /// Is there a `/dev/fuse`?
    pub has_fuse: bool,
    /// Where a `fuse.doppelfs` is mounted that is served or may be.
    pub mounts: Vec<PathBuf>,
    /// Where one is mounted whose worker and supervisor have died.
    pub dead: Vec<PathBuf>,
}

impl Surroundings {
    /// Looks around. A mount table that cannot be read counts as empty: the mount then fails by
    /// itself.
    pub fn look(run_dir: &Path) -> Surroundings {
        let mounts = sys::read_mounts().unwrap_or_default();
        let ours = mounts.into_iter().filter(|m| m.fs_type == FS_TYPE);
        let (dead, mounts): (Vec<_>, Vec<_>) = ours.partition(|mount| is_dead(mount, run_dir));
        Surroundings {
            is_root: sys::is_root(),
            has_fuse: Path::new("/dev/fuse").exists(),
            mounts: mounts.into_iter().map(|m| m.mountpoint).collect(),
            dead: dead.into_iter().map(|m| m.mountpoint).collect(),
        }
    }
}

/// The type of our mounts.
pub const FS_TYPE: &str = "fuse.doppelfs";

/// Has everybody died who held the mount? It is touched only where nobody does: neither a worker, who
/// has the name's lock, nor a supervisor, who has the one of the directory's claim.
fn is_dead(mount: &sys::MountLine, run_dir: &Path) -> bool {
    let Ok(set) = SetName::new(&mount.source) else {
        return false;
    };
    // Without its claim it is of another run directory, or of nobody known.
    let is_held = is_held(run_dir, &set).unwrap_or(true);
    !is_held && sys::is_dead_mount(&mount.mountpoint)
}

/// Does a process hold the set's name or the claim of its directory? `None`: there is no claim.
pub fn is_held(run_dir: &Path, set: &SetName) -> Option<bool> {
    let claim = std::fs::File::open(run_dir.join(format!("{set}.dir"))).ok()?;
    let is_claimed = sys::is_file_locked(claim.as_fd()).unwrap_or(true);
    Some(is_claimed || control::Server::is_running(run_dir, &Service::Set(set.clone())))
}

/// May the directory be protected with these options? On success all paths in `options` are
/// without symbolic links.
///
/// Nothing below a mounted doppelfs is touched: its worker may be stopped, and would stop us.
///
/// # Errors
/// [`MountRefusal`], the first that applies; those that need no privileges come first.
pub fn check_mount(options: &mut MountOptions, around: &Surroundings) -> Result<(), MountRefusal> {
    options.dir = real_directory(&options.dir, around)?;
    options.dir_is_dead = around.dead.contains(&options.dir);
    if options.dir == Path::new("/") {
        return Err(MountRefusal::RootDirectory);
    }
    options.mountpoint = real_directory(&options.mountpoint, around)?;
    options.mountpoint_is_dead = around.dead.contains(&options.mountpoint);
    if SYSTEM_DIRECTORIES.contains(&options.mountpoint.as_os_str().to_string_lossy().as_ref()) {
        return Err(MountRefusal::SystemDirectory(options.mountpoint.clone()));
    }
    for dir in [&options.dir, &options.mountpoint] {
        if let Some(inner) = around.mounts.iter().find(|inner| inner.starts_with(dir)) {
            return Err(MountRefusal::AroundProtected {
                dir: dir.clone(),
                inner: inner.clone(),
            });
        }
    }
    check_places(options, around)?;
    let texts = [
        ("directory", &options.dir),
        ("mount point", &options.mountpoint),
        ("state directory", &options.state_dir),
        ("queue directory", &options.queue_dir),
        ("keys directory", &options.keys_dir),
    ];
    if let Some((what, path)) = texts.into_iter().find(|(_, path)| path.to_str().is_none()) {
        return Err(MountRefusal::NotText {
            what,
            path: path.clone(),
        });
    }
    let service = Service::Set(options.set.clone());
    if control::Server::is_running(&options.run_dir, &service) {
        return Err(MountRefusal::NameInUse {
            set: options.set.to_string(),
            run_dir: options.run_dir.clone(),
        });
    }
    if !around.is_root {
        return Err(MountRefusal::NotRoot);
    }
    if !around.has_fuse {
        return Err(MountRefusal::NoFuse);
    }
    Ok(())
}

fn check_places(options: &mut MountOptions, around: &Surroundings) -> Result<(), MountRefusal> {
    let dir = options.dir.clone();
    if options.mountpoint != dir {
        if options.mountpoint.starts_with(&dir) {
            return Err(MountRefusal::MountpointInside {
                mountpoint: options.mountpoint.clone(),
                dir,
            });
        }
        if dir.starts_with(&options.mountpoint) {
            return Err(MountRefusal::MountpointAround {
                mountpoint: options.mountpoint.clone(),
                dir,
            });
        }
    }
    let own = [
        ("state", &mut options.state_dir, "move it with --state"),
        ("run", &mut options.run_dir, "move it with --run-dir"),
        ("queue", &mut options.queue_dir, "move it with --queue-dir"),
        ("keys", &mut options.keys_dir, "move it with --keys"),
    ];
    for (what, path, remedy) in own {
        // Before links are resolved, too: that would ask whoever serves the mount.
        refuse_recording_twice(what, path, remedy, around)?;
        *path = real_ancestor(path);
        refuse_recording_twice(what, path, remedy, around)?;
        if let Some(place) = [&dir, &options.mountpoint]
            .into_iter()
            .find(|p| path.starts_with(p))
        {
            return Err(MountRefusal::OwnInside {
                what,
                path: path.clone(),
                dir: place.clone(),
                remedy,
            });
        }
    }
    Ok(())
}

fn refuse_recording_twice(
    what: &'static str,
    path: &Path,
    remedy: &'static str,
    around: &Surroundings,
) -> Result<(), MountRefusal> {
    match around.mounts.iter().find(|mount| path.starts_with(mount)) {
        Some(outer) => Err(MountRefusal::OwnProtected {
            what,
            path: path.to_owned(),
            outer: outer.clone(),
            remedy,
        }),
        None => Ok(()),
    }
}

/// The directory without symbolic links.
fn real_directory(path: &Path, around: &Surroundings) -> Result<PathBuf, MountRefusal> {
    refuse_protected(path, around)?;
    if around.dead.iter().any(|dead| dead == path) {
        return Ok(path.to_owned());
    }
    let unreadable = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => MountRefusal::Missing(path.to_owned()),
        ErrorKind::NotADirectory => MountRefusal::NotDirectory(path.to_owned()),
        _ => MountRefusal::Unreadable {
            path: path.to_owned(),
            reason: e.to_string(),
        },
    };
    let real = std::fs::canonicalize(path).map_err(unreadable)?;
    refuse_protected(&real, around)?;
    if around.dead.contains(&real) {
        return Ok(real);
    }
    if std::fs::metadata(&real).map_err(unreadable)?.is_dir() {
        Ok(real)
    } else {
        Err(MountRefusal::NotDirectory(real))
    }
}

fn refuse_protected(path: &Path, around: &Surroundings) -> Result<(), MountRefusal> {
    match around.mounts.iter().find(|mount| path.starts_with(mount)) {
        Some(mount) if mount == path => Err(MountRefusal::Protected(path.to_owned())),
        Some(mount) => Err(MountRefusal::InsideProtected {
            dir: path.to_owned(),
            outer: mount.clone(),
        }),
        None => Ok(()),
    }
}

/// The path with the symbolic links of that part resolved that exists.
pub(super) fn real_ancestor(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = std::fs::canonicalize(ancestor) {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return real.join(rest).components().collect();
        }
    }
    path.to_owned()
}
