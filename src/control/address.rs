//! Where the sockets are, and reaching them however long the path is.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::Error;
use crate::types::SetName;

/// Who listens on a control socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The worker of a set.
    Set(SetName),
    /// A target, by the port that it serves.
    Target(u16),
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Service::Set(name) => write!(f, "set {name}"),
            Service::Target(port) => write!(f, "target on port {port}"),
        }
    }
}

impl Service {
    /// File name without extension.
    pub fn stem(&self) -> String {
        match self {
            Service::Set(name) => name.as_str().to_owned(),
            Service::Target(port) => format!("target-{port}"),
        }
    }

    /// The socket's path.
    pub fn socket(&self, run_dir: &Path) -> PathBuf {
        run_dir.join(self.stem() + ".sock")
    }

    /// The path of the lock that owns the name.
    pub fn lock(&self, run_dir: &Path) -> PathBuf {
        run_dir.join(self.stem() + ".lock")
    }

    /// The service of a socket's file name; `None` when it is none of ours.
    pub fn of_file_name(name: &str) -> Option<Service> {
        let stem = name.strip_suffix(".sock")?;
        match target_port(stem) {
            Some(port) => Some(Service::Target(port)),
            None => SetName::new(stem).ok().map(Service::Set),
        }
    }

    /// May a set be called so? Names that look like a target's are taken.
    pub fn is_free_for_sets(name: &SetName) -> bool {
        target_port(name.as_str()).is_none()
    }
}

fn target_port(stem: &str) -> Option<u16> {
    stem.strip_prefix("target-")?.parse().ok()
}

/// Every service that has a socket in `run_dir`, whether or not somebody answers there; sets
/// first, by name. A directory that does not exist has none.
///
/// # Errors
/// [`Error::Denied`], and [`Error::Io`] when the directory cannot be read.
pub fn list_services(run_dir: &Path) -> Result<Vec<Service>, Error> {
    let entries = match std::fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let path = run_dir.to_owned();
            return Err(Error::Denied { path });
        }
        Err(e) => return Err(Error::io("read", run_dir)(e)),
    };
    let mut services = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", run_dir))?;
        services.extend(entry.file_name().to_str().and_then(Service::of_file_name));
    }
    services.sort();
    Ok(services)
}

/// The sets among [`list_services`].
///
/// # Errors
/// As there.
pub fn list_sets(run_dir: &Path) -> Result<Vec<SetName>, Error> {
    let set_of = |service| match service {
        Service::Set(name) => Some(name),
        Service::Target(_) => None,
    };
    Ok(list_services(run_dir)?
        .into_iter()
        .filter_map(set_of)
        .collect())
}

/// A short way to a socket: addresses end at 107 bytes, directories do not. The path is good as
/// long as the returned descriptor lives.
pub(super) fn short_path(socket: &Path) -> Result<(File, PathBuf), Error> {
    let parent = socket.parent().unwrap_or(Path::new("/"));
    let dir = File::open(parent).map_err(Error::io("open", parent))?;
    let name = socket.file_name().unwrap_or_default();
    let path = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    Ok((dir, path))
}
