//! Where a replica stands: the mirror path beneath the root, and its hidden neighbour.
//!
//! # Why not one openat2 of the whole path?
//! It forbids other mounts on the way, and a file system mounted below the root is a usual place for
//! replicas. Each component is opened alone and never through a symbolic link; a single component
//! that is neither `.` nor `..` cannot lead out.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::sys;
use crate::types::{Name, SetName};
use crate::wire::{DirectoryId, Place, RefuseCode, ancestors};

use super::error::Error;

/// Our own directory beside the replicas.
pub(super) const HIDDEN: &str = ".doppelfs";

/// Components of a mirror path, at most.
const DEPTH_MAX: usize = 64;

/// Where a replica stands.
#[derive(Debug)]
pub(super) struct Site {
    /// The replica's root directory.
    pub(super) replica: OwnedFd,
    /// Limbo and marker: on the same file system, outside of every mirror path.
    pub(super) hidden: OwnedFd,
}

fn bad_path(text: String) -> Error {
    Error::refuse(RefuseCode::Path, text)
}

/// The mirror path asked for, checked: components below the root.
pub(super) fn components(
    source: &str,
    set: &SetName,
    path: Option<&str>,
) -> Result<Vec<Name>, Error> {
    let default = format!("{source}/{set}");
    if path.is_none() && source.contains('/') {
        return Err(bad_path(format!("source name {source:?} is no file name")));
    }
    let path = path.unwrap_or(&default);
    if path.starts_with('/') {
        return Err(bad_path(format!(
            "mirror path {path:?} is absolute; paths are relative to the target's root"
        )));
    }
    let mut names = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let name = Name::new(part.as_bytes());
        let name = name.map_err(|e| bad_path(format!("mirror path {path:?}: {e}")))?;
        if part == HIDDEN {
            return Err(bad_path(format!(
                "mirror path {path:?}: {HIDDEN} is the target's own"
            )));
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(bad_path(
            "the target's root itself cannot be the mirror path; name a directory below it".into(),
        ));
    }
    if names.len() > DEPTH_MAX {
        return Err(bad_path(format!("mirror path {path:?} is too deep")));
    }
    Ok(names)
}

/// The components as one text, for the registry.
pub(super) fn joined(names: &[Name]) -> String {
    let parts: Vec<_> = names
        .iter()
        .map(|n| String::from_utf8_lossy(n.as_bytes()))
        .collect();
    parts.join("/")
}

fn c_name(name: &Name) -> CString {
    // A name holds no NUL.
    CString::new(name.as_bytes()).unwrap_or_default()
}

const OPEN_DIR: i32 = libc::O_RDONLY | libc::O_DIRECTORY;

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    sys::openat(dir, name, OPEN_DIR, 0)
}

fn open_or_create(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<OwnedFd> {
    match sys::mkdirat(dir, name, mode) {
        Ok(()) => {
            // This process has a umask for its own files.
            let made = open_dir(dir, name)?;
            sys::fchmod(made.as_fd(), mode)?;
            return Ok(made);
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    open_dir(dir, name)
}

/// Whether missing directories are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// A new stream: made.
    Create,
    /// A known stream: its file system may not be mounted.
    Fail,
}

/// What a mirror path is resolved with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    /// The target's root.
    pub(super) root: &'a Path,
    /// Where the source's own directory is.
    pub(super) place: Option<&'a Place>,
    /// Whether missing directories are made.
    pub(super) missing: Missing,
    /// The name of the hidden directory.
    pub(super) hidden: &'a str,
}

/// Finds or makes the mirror path and its hidden neighbour.
pub(super) fn settle(names: &[Name], ask: Ask<'_>) -> Result<Site, Error> {
    let root = open_root(ask.root)?;
    let mut chain: Vec<OwnedFd> = vec![root.into()];
    let mut replica = ask.root.to_owned();
    for (depth, name) in names.iter().enumerate() {
        let here = chain[chain.len() - 1].as_fd();
        replica.push(name.as_os_str());
        let c_name = c_name(name);
        let mut opened = open_dir(here, &c_name);
        if is_missing(&opened) && ask.missing == Missing::Create {
            // Nothing is made before it is known that this is not inside the source.
            check_inside(here, ask.place, &replica)?;
            let last = depth + 1 == names.len();
            opened = open_or_create(here, &c_name, if last { 0o700 } else { 0o755 });
        }
        chain.push(opened.map_err(|e| unusable(&replica, &e))?);
    }
    let Some((itself, parents)) = chain.split_last() else {
        return Err(bad_path("mirror path is empty".into()));
    };
    check_inside(itself.as_fd(), ask.place, &replica)?;
    check_around(itself.as_fd(), ask.place, &replica)?;
    let dev_of = |fd: &OwnedFd| sys::fstat(fd.as_fd()).map(|s| s.dev);
    let stat = |e: io::Error| unusable(&replica, &e);
    let dev = dev_of(itself).map_err(stat)?;
    let mut base = None;
    for candidate in [parents.first(), parents.last()].into_iter().flatten() {
        if base.is_none() && dev_of(candidate).map_err(stat)? == dev {
            base = Some(candidate);
        }
    }
    let base = base.ok_or_else(|| {
        bad_path(format!(
            "mirror path {} is the top of a file system, which leaves no room beside it; name a directory below it",
            replica.display()
        ))
    })?;
    let shown = Path::new(HIDDEN).join(ask.hidden);
    let failed = |e: io::Error| unusable(&shown, &e);
    let ours = open_or_create(base.as_fd(), c".doppelfs", 0o700).map_err(failed)?;
    let own_name = CString::new(ask.hidden).unwrap_or_default();
    let hidden = open_or_create(ours.as_fd(), &own_name, 0o700).map_err(failed)?;
    let itself = chain
        .pop()
        .ok_or_else(|| bad_path("mirror path is empty".into()))?;
    Ok(Site {
        replica: itself,
        hidden,
    })
}

fn is_missing(opened: &io::Result<OwnedFd>) -> bool {
    matches!(opened, Err(e) if e.kind() == io::ErrorKind::NotFound)
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let why = match error.raw_os_error() {
        Some(libc::ELOOP) => "is a symbolic link; replicas are never reached through one".into(),
        Some(libc::ENOTDIR) => "is no directory, or a symbolic link".into(),
        Some(libc::ENOENT) => {
            "is missing; mount its file system, or create it empty to have it mirrored anew".into()
        }
        _ => error.to_string(),
    };
    bad_path(format!("mirror path: {} {why}", path.display()))
}

/// Opens the target's root, refusing what cannot be one.
pub(super) fn open_root(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Root {
        path: path.to_owned(),
        source,
    };
    let root = File::open(path).map_err(failed)?;
    if !root.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    Ok(root)
}

/// Makes our directory in the root, which also shows that the root can be written.
pub(super) fn prepare_root(path: &Path) -> Result<(), Error> {
    let root = open_root(path)?;
    let read_only = || Error::RootReadOnly {
        path: path.to_owned(),
    };
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EROFS) => read_only(),
        _ => Error::Root {
            path: path.to_owned(),
            source,
        },
    };
    let volume = sys::statvfs(root.as_fd()).map_err(failed)?;
    if volume.f_flag & libc::ST_RDONLY != 0 {
        return Err(read_only());
    }
    open_or_create(root.as_fd(), c".doppelfs", 0o700).map_err(failed)?;
    Ok(())
}

fn is_this_host(place: &Place) -> bool {
    sys::boot_id().ok().as_deref() == Some(place.boot_id.as_str())
}

/// Refuses a directory inside the source's own, where both are on this host.
pub(super) fn check_inside(
    dir: BorrowedFd<'_>,
    place: Option<&Place>,
    path: &Path,
) -> Result<(), Error> {
    let Some(place) = place.filter(|place| is_this_host(place)) else {
        return Ok(());
    };
    let chain = ancestors(dir).map_err(|e| unusable(path, &e))?;
    let in_mount = |id: &DirectoryId| place.mount_dev == Some(id.dev);
    let inside = place.chain.first().is_some_and(|own| chain.contains(own));
    if !inside && !chain.iter().any(in_mount) {
        return Ok(());
    }
    let path = path.display();
    Err(Error::refuse(
        RefuseCode::OwnSource,
        format!(
            "{path} lies in the source's own directory, which would be replicated into itself; choose a target root and state directory outside of it"
        ),
    ))
}

/// Refuses a mirror path that the source's own directory lies in.
fn check_around(dir: BorrowedFd<'_>, place: Option<&Place>, path: &Path) -> Result<(), Error> {
    let Some(place) = place.filter(|place| is_this_host(place)) else {
        return Ok(());
    };
    let stat = sys::fstat(dir).map_err(|e| unusable(path, &e))?;
    let own = DirectoryId {
        dev: stat.dev,
        ino: stat.ino,
    };
    if !place.chain.iter().skip(1).any(|parent| *parent == own) {
        return Ok(());
    }
    let path = path.display();
    Err(Error::refuse(
        RefuseCode::OwnSource,
        format!(
            "the source's own directory lies in mirror path {path} and would be overwritten; choose a path beside it"
        ),
    ))
}
