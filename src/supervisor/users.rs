//! Who uses a directory tree, as /proc tells.

use std::fs;
use std::path::{Path, PathBuf};

/// A process that keeps a mount busy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// Process id.
    pub pid: u32,
    /// Its command's name.
    pub name: String,
    /// `open`, `cwd`, `root`, `program`, `mapped`, or that its mount namespace has the mount.
    pub how: &'static str,
    /// What of the tree it uses.
    pub path: PathBuf,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = crate::control::escape(self.path.as_os_str().as_encoded_bytes());
        write!(f, "{} ({}): {} {path}", self.pid, self.name, self.how)
    }
}

/// Processes, other than `except`, that use something at or below `dir`: one line for each process
/// and way of using. Only links of /proc are read, nothing below `dir` is touched. Processes of
/// other users show nothing to who is not root.
pub fn users_of(dir: &Path, except: &[u32]) -> Vec<User> {
    let mut users = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return users;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if !except.contains(&pid) {
            uses_of(pid, &process.path(), dir, &mut users);
        }
    }
    users.sort();
    users.dedup_by(|a, b| (a.pid, a.how) == (b.pid, b.how));
    users
}

/// Processes that still see a file system, by its device, in a mount namespace of their own: it lives
/// on there after the umount here. One process for each such namespace.
pub fn holders_of(device: &str) -> Vec<User> {
    let mut users = Vec::new();
    let mut seen = vec![fs::read_link("/proc/self/ns/mnt").ok()];
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let file_name = process.file_name();
        let Some(pid) = file_name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let namespace = fs::read_link(process.path().join("ns/mnt")).ok();
        if namespace.is_none() || seen.contains(&namespace) {
            continue;
        }
        seen.push(namespace);
        let mounts = crate::sys::read_mounts_of(&process.path()).unwrap_or_default();
        if let Some(mount) = mounts.into_iter().find(|m| m.device == device) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(User {
                pid,
                name: name.trim_end().to_owned(),
                how: "mounted in its mount namespace",
                path: mount.mountpoint,
            });
        }
    }
    users
}

fn uses_of(pid: u32, proc_dir: &Path, dir: &Path, users: &mut Vec<User>) {
    let name = fs::read_to_string(proc_dir.join("comm")).unwrap_or_default();
    let mut put = |how, path: PathBuf| {
        if path.starts_with(dir) {
            users.push(User {
                pid,
                name: name.trim_end().to_owned(),
                how,
                path,
            });
        }
    };
    for (how, link) in [("cwd", "cwd"), ("root", "root"), ("program", "exe")] {
        if let Ok(path) = fs::read_link(proc_dir.join(link)) {
            put(how, path);
        }
    }
    for fd in fs::read_dir(proc_dir.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Ok(path) = fs::read_link(fd.path()) {
            put("open", path);
        }
    }
    let maps = fs::read(proc_dir.join("maps")).unwrap_or_default();
    for line in maps.split(|&b| b == b'\n') {
        if let Some(slash) = line.iter().position(|&b| b == b'/') {
            let path = line.get(slash..).unwrap_or_default();
            use std::os::unix::ffi::OsStrExt;
            put("mapped", PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        }
    }
}
