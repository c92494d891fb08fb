//! Two file systems of one kind, a mount over the second, and everybody who acts on both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use doppelfs::sys;

use super::actor::{Actor, CAST};
use super::calls::{self, Hands};
use super::explained::Explained;
use super::op::{Lie, Op, Order, Report, SLOTS, Stat, Who};
use super::support::{Image, Scratch, Target, doppelfs};

/// Which comparison found a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// The reference and the mount.
    Trees,
    /// The mount and the directory below it.
    Layers,
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) between: Between,
    /// Which path or open file.
    pub(crate) what: String,
    /// Which part of it.
    pub(crate) field: &'static str,
    /// The reference; between layers, what lies below.
    pub(crate) expected: String,
    /// What the mount shows.
    pub(crate) seen: String,
    /// Its type bits, where it is an inode.
    pub(crate) kind: u32,
    /// Its number on the reference, where it is an inode.
    pub(crate) ino: u64,
}

/// How often a call was made and what it said.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) successes: u64,
    pub(crate) errnos: BTreeSet<i64>,
}

/// One mount beside its directory.
struct Served {
    run_dir: PathBuf,
    mountpoint: PathBuf,
    target: Option<Target>,
}

/// The set under test.
const SET: &str = "diff";

impl Served {
    fn mount(scratch: &Path, lower: &Path, target: Option<Target>) -> Served {
        let served = Served {
            run_dir: scratch.join("run"),
            mountpoint: scratch.join("mount"),
            target,
        };
        std::fs::create_dir_all(&served.mountpoint).expect("make the mount point");
        let command = doppelfs(&served.run_dir)
            .arg("mount")
            .arg(lower)
            .arg(&served.mountpoint)
            .args(["--set", SET, "--queue-disk-max", "512M", "--state"])
            .arg(scratch.join("state"));
        let command = match &served.target {
            Some(target) => {
                let address = format!("127.0.0.1:{}:replica", target.port());
                command.args(["--target", &address, "--insecure-loopback"])
            }
            None => command,
        };
        command.succeed();
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let umount = doppelfs(&self.run_dir).arg("umount").arg(&self.mountpoint);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| umount.run()));
        if ended.as_ref().map_or(true, |ended| ended.code != Some(0)) {
            eprintln!("umount: {ended:?}");
            let _ = sys::umount(&self.mountpoint, true);
        }
    }
}

/// Everything of one comparison. Fields are dropped in this order: actors before the mount, the
/// mount before the images.
pub(crate) struct Rig {
    pub(crate) kind: &'static str,
    actors: Vec<Actor>,
    /// What each actor's slots are below, opened by path when they were opened.
    below: Vec<[Option<OwnedFd>; SLOTS]>,
    roots: [File; 3],
    /// The last calls, for who has to explain a failure.
    history: VecDeque<String>,
    pub(crate) tallies: BTreeMap<&'static str, Tally>,
    pub(crate) explained: Explained,
    calls: u64,
    served: Served,
    lower: PathBuf,
    _images: [Image; 2],
    _scratch: Scratch,
}

/// How many calls are shown when something differs.
const HISTORY: usize = 60;

/// Places in [`Rig::roots`].
const REFERENCE: usize = 0;
const MOUNT: usize = 1;
const LOWER: usize = 2;

/// Attributes of one thing in each tree.
type Triple = [Result<Stat, i64>; 3];

fn parent(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((dir, _)) if !dir.is_empty() => dir.to_owned(),
        _ => ".".to_owned(),
    }
}

impl Rig {
    /// `None`, said loudly, where this host cannot.
    pub(crate) fn new(test: &str, kind: &'static str, mib: u64, with_target: bool) -> Option<Rig> {
        if !super::support::is_ready(test) || !super::support::has_programs(test, &["setpriv"]) {
            return None;
        }
        let images = [Image::new(test, kind, mib)?, Image::new(test, kind, mib)?];
        let scratch = Scratch::new("diff");
        std::fs::create_dir(scratch.path().join("run")).expect("make the run directory");
        let reference = images[0].path().join("tree");
        let lower = images[1].path().join("tree");
        for dir in [&reference, &lower] {
            std::fs::create_dir(dir).expect("make a tree");
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).expect("chmod");
        }
        let target = with_target.then(|| {
            let mut target = Target::new(&scratch.path().join("run"), images[1].path());
            target.start();
            target
        });
        let served = Served::mount(scratch.path(), &lower, target);
        // Other users may not be able to reach the place where the tests are built.
        let binary = scratch.path().join("actor");
        let own = std::env::current_exe().expect("the path of this test");
        std::fs::copy(own, &binary).expect("copy this test");
        let start = |persona| Actor::start(persona, &binary, &reference, &served.mountpoint);
        let actors: Vec<Actor> = CAST.iter().map(start).collect();
        let open = |path: &Path| File::open(path).expect("open a root");
        Some(Rig {
            kind,
            below: actors.iter().map(|_| Default::default()).collect(),
            actors,
            roots: [open(&reference), open(&served.mountpoint), open(&lower)],
            history: VecDeque::new(),
            tallies: BTreeMap::new(),
            explained: Explained::default(),
            calls: 0,
            served,
            lower,
            _images: images,
            _scratch: scratch,
        })
    }

    fn hands(&self, tree: usize) -> Hands<'_> {
        Hands {
            root: self.roots[tree].as_raw_fd(),
            slots: &[],
        }
    }

    fn stat(&self, tree: usize, key: &(String, bool)) -> Result<Stat, i64> {
        let (path, follow) = key;
        let who = if *follow {
            Who::Path(path.clone())
        } else {
            Who::Link(path.clone())
        };
        self.hands(tree).stat(&who)
    }

    /// What to look at before and after a call: its paths, what links lead to, parents.
    fn keys(&self, op: &Op) -> Vec<(String, bool)> {
        let mut keys = Vec::new();
        for path in op.paths() {
            keys.push((path.to_owned(), false));
            let key = (path.to_owned(), false);
            let is_link = |st: Stat| st.mode & libc::S_IFMT == libc::S_IFLNK;
            if self.stat(REFERENCE, &key).is_ok_and(is_link) {
                keys.push((path.to_owned(), true));
            }
            keys.push((parent(path), true));
        }
        keys.dedup();
        keys
    }

    /// Makes a call as an actor and compares everything; what is left is not explained.
    pub(crate) fn run(&mut self, actor: usize, op: &Op) -> Vec<Difference> {
        self.run_with(actor, op, Lie::None).1
    }

    /// As [`Rig::run`], with what the reference returned.
    pub(crate) fn run_with(&mut self, actor: usize, op: &Op, lie: Lie) -> (i64, Vec<Difference>) {
        self.calls += 1;
        let keys = self.keys(op);
        let before: Vec<[Result<Stat, i64>; 2]> = keys
            .iter()
            .map(|key| [self.stat(REFERENCE, key), self.stat(MOUNT, key)])
            .collect();
        let report = self.actors[actor].ask(&Order {
            op: op.clone(),
            lie,
        });
        self.note(actor, op, &report);
        self.follow_slots(actor, op, &report);
        let mut found = Vec::new();
        self.compare_answers(&report, &mut found);
        if report.is_whole {
            self.compare_slots(actor, op, &report, &mut found);
        }
        for (key, before) in keys.iter().zip(&before) {
            let what = format!("{}{}", key.0, if key.1 { " (followed)" } else { "" });
            // Below comes last: it says what is, the others what they think.
            let after = [REFERENCE, MOUNT, LOWER].map(|tree| self.stat(tree, key));
            self.compare_stats(&what, Some(before), &after, &mut found);
        }
        if op.concerns_xattrs() || self.calls.is_multiple_of(16) {
            for key in keys.iter().filter(|key| !key.1) {
                self.compare_xattrs(&key.0, &mut found);
            }
        }
        let unexplained = found
            .into_iter()
            .filter(|found| !self.explained.covers(op, report.seen[0].ret, found))
            .collect();
        (report.seen[0].ret, unexplained)
    }

    /// As [`Rig::run`]; stops the test at a difference.
    #[track_caller]
    pub(crate) fn must(&mut self, actor: usize, op: &Op) -> i64 {
        let (ret, found) = self.run_with(actor, op, Lie::None);
        self.stop_at(&found, "");
        ret
    }

    /// Stops the test, with the calls before, if there is any difference.
    #[track_caller]
    pub(crate) fn stop_at(&self, found: &[Difference], hint: &str) {
        if found.is_empty() {
            return;
        }
        let history: Vec<&str> = self.history.iter().map(String::as_str).collect();
        let shown: Vec<String> = found.iter().map(|found| format!("{found:?}")).collect();
        panic!(
            "{} differs after call {} {hint}\n{}\n\n{}",
            self.kind,
            self.calls,
            history.join("\n"),
            shown.join("\n")
        );
    }

    fn note(&mut self, actor: usize, op: &Op, report: &Report) {
        let ret = report.seen[0].ret;
        let tally = self.tallies.entry(op.kind()).or_default();
        tally.count += 1;
        if report.is_whole && ret >= 0 {
            tally.successes += 1;
        } else if ret < 0 {
            tally.errnos.insert(-ret);
        }
        if !report.is_whole {
            self.explained.refused(op.kind());
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let [reference, mount] = &report.seen;
        let mut line = format!(
            "{:>8} {:<16} {op:?} -> {}",
            self.calls, CAST[actor].name, reference.ret
        );
        if mount.ret != reference.ret {
            line.push_str(&format!(" / {}", mount.ret));
        }
        line.truncate(400);
        self.history.push_back(line);
    }

    /// Keeps the inodes below of open files at hand.
    fn follow_slots(&mut self, actor: usize, op: &Op, report: &Report) {
        match op {
            Op::Open {
                slot, path, flags, ..
            } => {
                let flags = libc::O_PATH | (flags & libc::O_NOFOLLOW);
                let fd = if report.is_whole && report.seen[1].ret >= 0 {
                    self.hands(LOWER).open(path, flags, 0)
                } else {
                    -1
                };
                let fd = RawFd::try_from(fd).unwrap_or(-1);
                self.below[actor][*slot] = calls::own(fd);
            }
            Op::Close { slot } => self.below[actor][*slot] = None,
            Op::Limited { op, .. } => self.follow_slots(actor, op, report),
            _ => {}
        }
    }

    fn compare_answers(&self, report: &Report, found: &mut Vec<Difference>) {
        let [reference, mount] = &report.seen;
        let mut differ = |field, expected: String, seen: String| {
            if expected != seen {
                let between = Between::Trees;
                found.push(Difference {
                    between,
                    what: "the call".into(),
                    field,
                    expected,
                    seen,
                    kind: 0,
                    ino: 0,
                });
            }
        };
        differ("returned", reference.ret.to_string(), mount.ret.to_string());
        differ("gave", show(&reference.data), show(&mount.data));
        differ(
            "SIGXFSZ",
            reference.signalled.to_string(),
            mount.signalled.to_string(),
        );
    }

    fn compare_slots(&self, actor: usize, op: &Op, report: &Report, found: &mut Vec<Difference>) {
        let pairs = report.before.iter().zip(&report.after);
        for (slot, (before, after)) in op.slots().into_iter().zip(pairs) {
            let known = |st: Option<Stat>| st.ok_or(-i64::from(libc::EBADF));
            let before = match op {
                // What was open before is another file.
                Op::Open { .. } => None,
                _ => Some(before.map(known)),
            };
            let lower = match &self.below[actor][slot] {
                Some(fd) => {
                    calls::stat_at(fd.as_raw_fd(), &CString::default(), libc::AT_EMPTY_PATH)
                }
                None => known(after[1]),
            };
            let after = [known(after[0]), known(after[1]), lower];
            self.compare_stats(&format!("open file {slot}"), before.as_ref(), &after, found);
        }
    }

    fn compare_stats(
        &self,
        what: &str,
        before: Option<&[Result<Stat, i64>; 2]>,
        after: &Triple,
        found: &mut Vec<Difference>,
    ) {
        let (kind, ino) = after[0].map_or((0, 0), |st| (st.mode & libc::S_IFMT, st.ino));
        let mut differ = |between, field, expected: String, seen: String| {
            if expected != seen {
                found.push(Difference {
                    between,
                    what: what.to_owned(),
                    field,
                    expected,
                    seen,
                    kind,
                    ino,
                });
            }
        };
        match (&after[0], &after[1]) {
            (Ok(reference), Ok(mount)) => {
                let was = |side: usize| before.and_then(|before| before[side].ok());
                let pairs = shown_fields(reference, was(0))
                    .into_iter()
                    .zip(shown_fields(mount, was(1)));
                for ((field, expected), (_, seen)) in pairs {
                    if expected == seen {
                        self.explained.agree(ino, field);
                    }
                    differ(Between::Trees, field, expected, seen);
                }
            }
            (reference, mount) => {
                let shown = |st: &Result<Stat, i64>| format!("{:?}", st.map(|_| ()));
                differ(Between::Trees, "stat", shown(reference), shown(mount));
            }
        }
        match (&after[2], &after[1]) {
            (Ok(lower), Ok(mount)) => {
                for ((field, expected), (_, seen)) in
                    exact_fields(lower).into_iter().zip(exact_fields(mount))
                {
                    differ(Between::Layers, field, expected, seen);
                }
            }
            (lower, mount) => differ(
                Between::Layers,
                "stat",
                format!("{lower:?}"),
                format!("{mount:?}"),
            ),
        }
    }

    fn xattrs(&self, tree: usize, path: &str) -> BTreeMap<String, Vec<u8>> {
        let (hands, who) = (self.hands(tree), Who::Link(path.to_owned()));
        let (_, names) = hands.list_xattr(&who, 64 << 10);
        let names = names.split(|&b| b == 0).filter(|name| !name.is_empty());
        names
            .map(|name| {
                let name = String::from_utf8_lossy(name).into_owned();
                let (rc, value) = hands.get_xattr(&who, &name, 64 << 10);
                let value = if rc < 0 {
                    rc.to_string().into_bytes()
                } else {
                    value
                };
                (name, value)
            })
            .collect()
    }

    fn compare_xattrs(&self, path: &str, found: &mut Vec<Difference>) {
        let [reference, mount, lower] =
            [REFERENCE, MOUNT, LOWER].map(|tree| self.xattrs(tree, path));
        let mut differ = |between, expected: &BTreeMap<String, Vec<u8>>| {
            if *expected != mount {
                found.push(Difference {
                    between,
                    what: path.to_owned(),
                    field: "xattrs",
                    expected: show_xattrs(expected),
                    seen: show_xattrs(&mount),
                    kind: 0,
                    ino: 0,
                });
            }
        };
        differ(Between::Trees, &reference);
        differ(Between::Layers, &lower);
    }

    /// Compares both trees and both layers whole.
    pub(crate) fn sweep(&mut self) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut pending = vec![".".to_owned()];
        while let Some(dir) = pending.pop() {
            let lists = [REFERENCE, MOUNT, LOWER].map(|tree| self.entries(tree, &dir));
            let names = |list: &[calls::Entry]| {
                let mut names: Vec<_> = list.iter().map(|e| (e.name.clone(), e.kind)).collect();
                names.sort_unstable();
                names
            };
            let listing = |between, expected: String, seen: String| Difference {
                between,
                what: dir.clone(),
                field: "listing",
                expected,
                seen,
                kind: libc::S_IFDIR,
                ino: 0,
            };
            if names(&lists[REFERENCE]) != names(&lists[MOUNT]) {
                let shown = |list: &[calls::Entry]| format!("{:?}", names(list));
                found.push(listing(
                    Between::Trees,
                    shown(&lists[REFERENCE]),
                    shown(&lists[MOUNT]),
                ));
            }
            // The numbers of `.` and `..` of the root are those of the mount.
            let inside = |list: &[calls::Entry]| -> Vec<calls::Entry> {
                list.iter()
                    .filter(|e| !e.name.starts_with(b"."))
                    .cloned()
                    .collect()
            };
            if inside(&lists[LOWER]) != inside(&lists[MOUNT]) {
                found.push(listing(
                    Between::Layers,
                    format!("{:?}", lists[LOWER]),
                    format!("{:?}", lists[MOUNT]),
                ));
            }
            for entry in lists[LOWER]
                .iter()
                .filter(|e| e.name != b"." && e.name != b"..")
            {
                let path = format!("{dir}/{}", String::from_utf8_lossy(&entry.name));
                self.sweep_entry(&path, &mut found);
                if entry.kind == libc::DT_DIR {
                    pending.push(path);
                }
            }
        }
        let sweep = Op::Statfs {
            path: "sweep".into(),
        };
        found.retain(|found| !self.explained.covers(&sweep, 0, found));
        found
    }

    fn sweep_entry(&self, path: &str, found: &mut Vec<Difference>) {
        let key = (path.to_owned(), false);
        let stats = [REFERENCE, MOUNT, LOWER].map(|tree| self.stat(tree, &key));
        self.compare_stats(path, None, &stats, found);
        self.compare_xattrs(path, found);
        let is_file = |st: &Stat| st.mode & libc::S_IFMT == libc::S_IFREG;
        if stats[0].as_ref().is_ok_and(is_file) {
            let hashes = [REFERENCE, MOUNT, LOWER].map(|tree| self.content(tree, path));
            for (between, other) in [(Between::Trees, REFERENCE), (Between::Layers, LOWER)] {
                if hashes[other] != hashes[MOUNT] {
                    found.push(Difference {
                        between,
                        what: path.to_owned(),
                        field: "content",
                        expected: hashes[other].clone(),
                        seen: hashes[MOUNT].clone(),
                        kind: libc::S_IFREG,
                        ino: 0,
                    });
                }
            }
        }
    }

    fn entries(&self, tree: usize, dir: &str) -> Vec<calls::Entry> {
        // Reading the reference and the mount counts as reading; looking below must not.
        let quiet = if tree == LOWER { libc::O_NOATIME } else { 0 };
        let fd = self
            .hands(tree)
            .open(dir, libc::O_RDONLY | libc::O_DIRECTORY | quiet, 0);
        let Some(fd) = calls::own(RawFd::try_from(fd).unwrap_or(-1)) else {
            return Vec::new();
        };
        super::listing::entries(fd.as_raw_fd(), 32 << 10).1
    }

    fn content(&self, tree: usize, path: &str) -> String {
        let fd =
            self.hands(tree)
                .open(path, libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW, 0);
        let Some(fd) = calls::own(RawFd::try_from(fd).unwrap_or(-1)) else {
            return format!("open: {fd}");
        };
        let mut hasher = blake3::Hasher::new();
        let mut buf = vec![0u8; 1 << 20];
        loop {
            let got = calls::read(fd.as_raw_fd(), &mut buf);
            if got <= 0 {
                return format!("{got} {}", hasher.finalize());
            }
            hasher.update(&buf[..usize::try_from(got).unwrap_or(0)]);
        }
    }

    /// Waits until the replica has everything and compares it with what lies below.
    pub(crate) fn assert_replica_equal(&self) {
        let target = self.served.target.as_ref().expect("a target");
        let waited = doppelfs(&self.served.run_dir)
            .args(["wait", SET, "--caught-up", "--timeout", "120"])
            .run();
        assert_eq!(waited.code, Some(0), "{waited:?}\ntarget: {}", target.log());
        let replica = target.root().join("replica");
        let report =
            doppelfs::digest::compare(&self.lower, &replica, &Default::default()).expect("compare");
        assert!(report.is_equal(), "{report}");
    }

    /// What was called how often, and what was explained how often.
    pub(crate) fn print(&self) {
        let mut text = format!(
            "{}: {} calls\n{:<22} {:>9} {:>9}  errnos\n",
            self.kind, self.calls, "operation", "count", "succeeded"
        );
        for (kind, tally) in &self.tallies {
            let errnos: Vec<String> = tally
                .errnos
                .iter()
                .map(|&errno| errno_name(errno))
                .collect();
            text.push_str(&format!(
                "{kind:<22} {:>9} {:>9}  {}\n",
                tally.count,
                tally.successes,
                errnos.join(" ")
            ));
        }
        eprintln!("{text}{}", self.explained);
    }
}

fn errno_name(errno: i64) -> String {
    let errno = nix::errno::Errno::from_raw(i32::try_from(errno).unwrap_or(0));
    format!("{errno:?}")
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned()
}

fn show_xattrs(all: &BTreeMap<String, Vec<u8>>) -> String {
    let shown = all.iter().map(|(name, value)| {
        let hex: String = value
            .iter()
            .take(48)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{name}={hex}({})", value.len())
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Times that are this far from now were set by a call that said which.
const RECENT: i64 = 100_000;

/// A time as far as two trees can agree on it: exactly where it was set, else only whether it was
/// touched now.
fn shown_time(time: (i64, i64), before: Option<(i64, i64)>) -> String {
    let now = sys::now().secs;
    if (time.0 - now).abs() > RECENT {
        return format!("{}.{:09}", time.0, time.1);
    }
    match before {
        Some(before) if before == time => "recent, as before".to_owned(),
        _ => "recent".to_owned(),
    }
}

/// What two trees must agree on.
fn shown_fields(st: &Stat, before: Option<Stat>) -> [(&'static str, String); 9] {
    let before = before.filter(|before| before.ino == st.ino);
    [
        ("mode", format!("{:o}", st.mode)),
        ("uid", st.uid.to_string()),
        ("gid", st.gid.to_string()),
        ("nlink", st.nlink.to_string()),
        ("size", st.size.to_string()),
        ("rdev", st.rdev.to_string()),
        // Reading within one tick of the clock may or may not count.
        ("atime", shown_time(st.atime, None)),
        ("mtime", shown_time(st.mtime, before.map(|b| b.mtime))),
        ("ctime", shown_time(st.ctime, before.map(|b| b.ctime))),
    ]
}

/// What two layers must agree on.
fn exact_fields(st: &Stat) -> [(&'static str, String); 11] {
    let time = |(secs, nanos): (i64, i64)| format!("{secs}.{nanos:09}");
    [
        ("mode", format!("{:o}", st.mode)),
        ("uid", st.uid.to_string()),
        ("gid", st.gid.to_string()),
        ("nlink", st.nlink.to_string()),
        ("size", st.size.to_string()),
        ("rdev", st.rdev.to_string()),
        ("ino", st.ino.to_string()),
        ("blocks", st.blocks.to_string()),
        ("atime", time(st.atime)),
        ("mtime", time(st.mtime)),
        ("ctime", time(st.ctime)),
    ]
}
