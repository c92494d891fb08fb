//! Who could change the tree beside the mount: processes that had it open before.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process that reaches the directory without the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bypass {
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) how: &'static str,
    pub(super) path: PathBuf,
}

const FOUND_MAX: usize = 16;

/// Looks through /proc for open files, working directories, roots and mappings below `dir`, and for
/// other mount namespaces. Processes that end meanwhile are none; at most 16 are named.
pub(super) fn find(dir: &Path) -> Vec<Bypass> {
    let mut found = Vec::new();
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    let me = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    let mut namespaces = Vec::new();
    for entry in processes.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == me || found.len() >= FOUND_MAX {
            continue;
        }
        let proc = entry.path();
        // A kernel thread has no program, and opens no files of ours.
        if fs::read_link(proc.join("exe")).is_err() {
            continue;
        }
        let namespace = fs::read_link(proc.join("ns/mnt")).ok();
        let hit = reach(&proc, dir).or_else(|| {
            let other =
                namespace.is_some() && namespace != ours && !namespaces.contains(&namespace);
            let private = other && sees_without_us(&proc, dir);
            namespaces.push(namespace.clone());
            private.then(|| ("another mount namespace", dir.to_path_buf()))
        });
        if let Some((how, path)) = hit {
            let command = fs::read_to_string(proc.join("comm")).unwrap_or_default();
            found.push(Bypass {
                pid,
                command: command.trim().to_owned(),
                how,
                path,
            });
        }
    }
    found
}

fn reach(proc: &Path, dir: &Path) -> Option<(&'static str, PathBuf)> {
    let below = |link: PathBuf| {
        fs::read_link(link)
            .ok()
            .filter(|path| path.starts_with(dir) && path.is_absolute())
    };
    if let Some(path) = below(proc.join("cwd")) {
        return Some(("working directory", path));
    }
    if let Some(path) = below(proc.join("root")) {
        return Some(("root directory", path));
    }
    for fd in fs::read_dir(proc.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Some(path) = below(fd.path()) {
            return Some(("open file", path));
        }
    }
    let maps = fs::read(proc.join("maps")).unwrap_or_default();
    let mut prefix = dir.as_os_str().as_bytes().to_vec();
    prefix.push(b'/');
    for line in maps.split(|&b| b == b'\n') {
        let path = line.iter().position(|&b| b == b'/').map(|at| &line[at..]);
        if let Some(path) = path.filter(|path| path.starts_with(&prefix)) {
            return Some(("mapped file", std::ffi::OsStr::from_bytes(path).into()));
        }
    }
    None
}

/// Mounts are propagated to namespaces that share the peer group; without a `shared:` or `master:`
/// tag on any mount above the directory there, ours will not show.
fn sees_without_us(proc: &Path, dir: &Path) -> bool {
    let Ok(table) = fs::read_to_string(proc.join("mountinfo")) else {
        return false;
    };
    let mut nearest: Option<(usize, bool)> = None;
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(point) = fields.get(4) else { continue };
        if !dir.starts_with(point) {
            continue;
        }
        let tagged = fields
            .iter()
            .skip(6)
            .take_while(|field| **field != "-")
            .any(|field| field.starts_with("master:") || field.starts_with("shared:"));
        if nearest.is_none_or(|(length, _)| point.len() >= length) {
            nearest = Some((point.len(), tagged));
        }
    }
    nearest.is_some_and(|(_, tagged)| !tagged)
}
