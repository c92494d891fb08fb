//! Where a directory lies in its file system, and which mounts lead there without ours.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::sys::{self, MountLine};

/// A directory's place, told by the mount that it lies on.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    /// The mount that it lies on.
    pub(super) mount: MountLine,
    /// Its path inside of the file system.
    inner: PathBuf,
}

impl Spot {
    /// Where `dir`, a path without symbolic links, lies.
    pub(super) fn of(dir: &Path) -> io::Result<Spot> {
        let id = sys::mount_id(File::open(dir)?.as_fd())?;
        let mounts = sys::read_mounts()?;
        let mount = mounts.into_iter().find(|mount| mount.id == id);
        let mount = mount.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let inner = inside(&mount, dir).unwrap_or_else(|| mount.root.clone());
        Ok(Spot { mount, inner })
    }

    /// Its path inside of the file system.
    pub(super) fn inner(&self) -> &Path {
        &self.inner
    }

    /// Is what lies at `path` of the mount the directory or below it?
    pub(super) fn holds(&self, mount: &MountLine, path: &Path) -> bool {
        mount.device == self.mount.device
            && inside(mount, path).is_some_and(|inner| inner.starts_with(&self.inner))
    }

    /// Does the mount show the directory, one above it, or one below it?
    pub(super) fn is_shown_by(&self, mount: &MountLine) -> bool {
        mount.device == self.mount.device
            && (self.inner.starts_with(&mount.root) || mount.root.starts_with(&self.inner))
    }

    /// Where the mount shows the directory, or what it shows of it.
    pub(super) fn shown_at(&self, mount: &MountLine) -> PathBuf {
        match self.inner.strip_prefix(&mount.root) {
            Ok(rest) if !rest.as_os_str().is_empty() => mount.mountpoint.join(rest),
            _ => mount.mountpoint.clone(),
        }
    }

    /// Will a mount made over the directory show there, too? The kernel makes it in all mounts of the
    /// same group and of those that receive from it, as far as they show the directory itself.
    pub(super) fn is_covered(&self, mount: &MountLine, groups: &HashSet<u64>) -> bool {
        let receives = [mount.shared, mount.master].into_iter().flatten();
        mount.id == self.mount.id
            || self.inner.starts_with(&mount.root)
                && receives.into_iter().any(|g| groups.contains(&g))
    }

    /// The groups that a mount made over the directory reaches.
    pub(super) fn groups<'a>(
        &self,
        mounts: impl Iterator<Item = &'a MountLine> + Clone,
    ) -> HashSet<u64> {
        let mut groups: HashSet<u64> = self.mount.shared.into_iter().collect();
        loop {
            let slaves = mounts
                .clone()
                .filter(|m| m.master.is_some_and(|g| groups.contains(&g)));
            let more: Vec<u64> = slaves
                .filter_map(|m| m.shared)
                .filter(|group| !groups.contains(group))
                .collect();
            if more.is_empty() {
                return groups;
            }
            groups.extend(more);
        }
    }
}

fn inside(mount: &MountLine, path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(&mount.mountpoint).ok()?;
    Some(mount.root.join(rest).components().collect())
}

/// The mounts that a process sees, with mount points as links in /proc have them.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    tables: HashMap<(PathBuf, PathBuf), Vec<MountLine>>,
}

impl Namespaces {
    /// The table of the process behind `proc`; `None` when it cannot be read.
    pub(super) fn table(&mut self, proc: &Path) -> Option<&[MountLine]> {
        let namespace = std::fs::read_link(proc.join("ns/mnt")).ok()?;
        let root = std::fs::read_link(proc.join("root")).ok()?;
        let key = (namespace, root);
        if !self.tables.contains_key(&key) {
            let mut table = sys::parse_mounts(&std::fs::read(proc.join("mountinfo")).ok()?);
            for mount in &mut table {
                // The table speaks of paths below the root of the process, links do not.
                let rest = mount.mountpoint.strip_prefix("/").unwrap_or(Path::new(""));
                mount.mountpoint = key.1.join(rest).components().collect();
            }
            self.tables.insert(key.clone(), table);
        }
        self.tables.get(&key).map(Vec::as_slice)
    }

    /// All mounts seen so far; those of several processes come several times.
    pub(super) fn all(&self) -> impl Iterator<Item = &MountLine> + Clone {
        self.tables.values().flatten()
    }
}

/// The mount of the table that `path` lies on: the one nearest to it, of several the last.
pub(super) fn nearest<'a>(table: &'a [MountLine], path: &Path) -> Option<&'a MountLine> {
    let around = table
        .iter()
        .filter(|mount| path.starts_with(&mount.mountpoint));
    around.max_by_key(|mount| mount.mountpoint.as_os_str().len())
}

/// The file names in the text of a `/proc/PID/maps`. A newline in a name is `\\012` there, and so is a
/// backslash followed by these digits (proc_pid_maps(5)): such a name is given both ways.
pub(super) fn mapped(maps: &[u8]) -> HashSet<PathBuf> {
    let lines = maps.split(|&b| b == b'\n');
    lines
        .filter_map(|line| {
            let at = line.iter().position(|&b| b == b'/')?;
            Some(&line[at..])
        })
        .flat_map(|name| [name.to_vec(), with_newlines(name)])
        .map(|name| PathBuf::from(OsString::from_vec(name)))
        .collect()
}

fn with_newlines(name: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let newline = rest.strip_prefix(NEWLINE);
        plain.push(if newline.is_some() { b'\n' } else { byte });
        rest = newline.unwrap_or(after);
    }
    plain
}
