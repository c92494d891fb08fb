//! Who could change the tree beside the mount: mounts that show it elsewhere, and processes that had
//! it open before.
//!
//! Everything is told from /proc alone. No path of the tree is looked up: it may lead to a file system
//! that does not answer.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::ways::{Namespaces, Spot, mapped, nearest};
use crate::sys::{self, MountLine};

/// A way to the directory without the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bypass {
    /// Another mount shows it.
    Mount {
        /// What of it is shown there.
        shown: PathBuf,
    },
    /// A mount in another namespace shows it.
    Elsewhere {
        /// A process in that namespace.
        process: Process,
        /// Where it is shown there.
        shown: PathBuf,
    },
    /// A process has it open.
    Open {
        /// Which.
        process: Process,
        /// By what.
        how: &'static str,
        /// What it has open.
        path: PathBuf,
    },
    /// There were too many open files to look at all.
    Unfinished,
    /// It cannot be told which mount the directory lies on, and so nothing of the others.
    Unknown(String),
}

/// A process, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bypass::Mount { shown } => write!(
                f,
                "{} leads to the directory beside the mount (the same file system is mounted \
                 there): what is changed through it is not replicated before the next mount; \
                 unmount it or mount it read-only",
                shown.display()
            ),
            Bypass::Elsewhere { process, shown } => write!(
                f,
                "{process} reaches {} beside the mount (another mount namespace): what it changes \
                 is not replicated; restart it",
                shown.display()
            ),
            Bypass::Open { process, how, path } => write!(
                f,
                "{process} reaches {} beside the mount ({how}): what it changes is not replicated; \
                 restart it",
                path.display()
            ),
            Bypass::Unfinished => write!(
                f,
                "more than {FILES_MAX} files are open on this machine; not all were looked at for \
                 some that lead beside the mount"
            ),
            Bypass::Unknown(reason) => write!(
                f,
                "cannot tell which mount the directory lies on ({reason}): whether somebody reaches \
                 it beside the mount is not known; is /proc mounted?"
            ),
        }
    }
}

/// At most so many ways are named.
const FOUND_MAX: usize = 16;

/// At most so many open files are looked at.
const FILES_MAX: usize = 500_000;

/// Looks through /proc for mounts, open files, working directories, roots and mappings that lead to
/// `dir` or below; at most 16 are named. `is_over`: the mount will lie over `dir` itself, so that the
/// path `dir`, and wherever the kernel propagates it to, does not lead beside it.
pub(super) fn find(dir: &Path, is_over: bool) -> Vec<Bypass> {
    let spot = match Spot::of(dir) {
        Ok(spot) => spot,
        Err(e) => return vec![Bypass::Unknown(e.to_string())],
    };
    let mut search = Search {
        spot,
        ways: HashMap::new(),
        files_left: FILES_MAX,
        found: Vec::new(),
    };
    let mut namespaces = Namespaces::default();
    let processes = processes();
    for (_, proc) in &processes {
        let _ = namespaces.table(proc);
    }
    search.look_at_mounts(&mut namespaces, &processes, is_over);
    let me = std::process::id();
    for (pid, proc) in &processes {
        if *pid == me || search.is_full() {
            continue;
        }
        let table = namespaces.table(proc).unwrap_or_default();
        if let Some((how, path)) = search.reach(proc, table) {
            let process = named(*pid, proc);
            search.found.push(Bypass::Open { process, how, path });
        }
    }
    if search.files_left == 0 {
        search.found.push(Bypass::Unfinished);
    }
    search.found
}

/// Every process with a program: a kernel thread opens no files of ours. Those that end meanwhile are
/// none.
fn processes() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    });
    let mut found: Vec<(u32, PathBuf)> = numbered
        .filter(|(_, proc)| fs::read_link(proc.join("exe")).is_ok())
        .collect();
    found.sort_unstable();
    found
}

fn named(pid: u32, proc: &Path) -> Process {
    let command = fs::read_to_string(proc.join("comm")).unwrap_or_default();
    let command = command.trim().to_owned();
    Process { pid, command }
}

struct Search {
    spot: Spot,
    /// Every mount that shows some of the directory, by its number.
    ways: HashMap<u64, MountLine>,
    files_left: usize,
    found: Vec<Bypass>,
}

impl Search {
    fn is_full(&self) -> bool {
        self.found.len() >= FOUND_MAX || self.files_left == 0
    }

    /// Mounts that show the directory and will not show what is mounted over it.
    fn look_at_mounts(
        &mut self,
        namespaces: &mut Namespaces,
        processes: &[(u32, PathBuf)],
        is_over: bool,
    ) {
        let ours = sys::read_mounts().unwrap_or_default();
        let groups = {
            let shown = ours.iter().chain(namespaces.all());
            for mount in shown.clone().filter(|mount| self.spot.is_shown_by(mount)) {
                self.ways.entry(mount.id).or_insert_with(|| mount.clone());
            }
            if is_over {
                self.spot.groups(shown)
            } else {
                HashSet::new()
            }
        };
        // A directory that is served elsewhere stays in reach where it is: that is how it was asked
        // for, and documented.
        let mut known: HashSet<u64> = HashSet::from([self.spot.mount.id]);
        for mount in &ours {
            if self.is_way(mount, &groups, &known) && known.insert(mount.id) {
                let shown = self.spot.shown_at(mount);
                self.found.push(Bypass::Mount { shown });
            }
        }
        known.extend(ours.iter().map(|mount| mount.id));
        for (pid, proc) in processes {
            let table = namespaces.table(proc).unwrap_or_default();
            let ways = table.iter().filter(|m| self.is_way(m, &groups, &known));
            let ways: Vec<&MountLine> = ways.collect();
            // The one mount that stands for the namespace; the others are as well known by it.
            if let Some(way) = ways.first() {
                let shown = self.spot.shown_at(way);
                let process = named(*pid, proc);
                self.found.push(Bypass::Elsewhere { process, shown });
            }
            known.extend(ways.iter().map(|mount| mount.id));
        }
        self.found.truncate(FOUND_MAX);
    }

    fn is_way(&self, mount: &MountLine, groups: &HashSet<u64>, known: &HashSet<u64>) -> bool {
        self.spot.is_shown_by(mount)
            && !known.contains(&mount.id)
            && !self.spot.is_covered(mount, groups)
    }

    /// The first thing by which the process has some of the directory open.
    fn reach(&mut self, proc: &Path, table: &[MountLine]) -> Option<(&'static str, PathBuf)> {
        // These have no number of their mount: it is told by the path.
        for (link, how) in [("cwd", "working directory"), ("root", "root directory")] {
            let path = fs::read_link(proc.join(link)).unwrap_or_default();
            if self.is_below(table, &path) {
                return Some((how, path));
            }
        }
        let files = fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        for file in files {
            self.files_left = self.files_left.saturating_sub(1);
            if self.files_left == 0 {
                return None;
            }
            let path = fs::read_link(file.path()).unwrap_or_default();
            let mut ways = self.ways.values();
            if !ways.any(|way| path.starts_with(&way.mountpoint)) {
                continue;
            }
            let info = fs::read(proc.join("fdinfo").join(file.file_name())).unwrap_or_default();
            let way = sys::mount_id_in(&info).and_then(|id| self.ways.get(&id));
            if way.is_some_and(|way| self.spot.holds(way, &path)) {
                return Some(("open file", path));
            }
        }
        let maps = fs::read(proc.join("maps")).unwrap_or_default();
        let mut files = mapped(&maps).into_iter();
        let path = files.find(|path| self.is_below(table, path))?;
        Some(("mapped file", path))
    }

    fn is_below(&self, table: &[MountLine], path: &Path) -> bool {
        nearest(table, path).is_some_and(|mount| self.spot.holds(mount, path))
    }
}
