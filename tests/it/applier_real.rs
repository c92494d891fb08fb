//! Goal: the real replica does what the simulated one does. Method: random sequences through
//! handles and system calls onto a tmpfs (and what /tmp is on), with kills, compared with the
//! source's tree. Needs root, says so when it is skipped.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use doppelfs::applier::{
    Applier, Backlog, DataState, FsReplica, Inode, InodeKind, Object, Place, Range, Replica, Start,
};
use doppelfs::sys;
use doppelfs::types::{Node, Position, Scope, Seq};

use super::applier_model::{Source, name};
use super::applier_rig::{HISTORY, Scratch};
use super::applier_world::{COLLAPSE, INSERT, ROOT, World, file_type};

fn is_root() -> bool {
    let root = sys::is_root();
    if !root {
        eprintln!("skipped: needs root (open_by_handle_at)");
    }
    root
}

struct Base(PathBuf);

impl Base {
    fn new(under: &str) -> Base {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = Path::new(under).join(format!("dpf-real-{}-{number}", std::process::id()));
        for part in ["mirror", "hidden", "state", "table"] {
            std::fs::create_dir_all(path.join(part)).unwrap();
        }
        Base(path)
    }

    fn dir(&self, part: &str) -> OwnedFd {
        File::open(self.0.join(part)).unwrap().into()
    }

    fn replica(&self) -> FsReplica {
        FsReplica::open(self.dir("mirror"), self.dir("hidden")).unwrap()
    }

    fn open(&self) -> (Applier<FsReplica>, Start) {
        let (state, table) = (self.0.join("state"), self.0.join("table"));
        let opened = Applier::open(self.replica(), &state, &table, Backlog::empty());
        let (applier, recovered) = opened.unwrap();
        (applier, recovered.start)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The first difference between the source's tree and a real directory.
fn difference(
    world: &World,
    ino: u64,
    path: &Path,
    seen: &mut HashMap<u64, u64>,
) -> Option<String> {
    let thing = &world.things[&ino];
    let here = |what: String| Some(format!("{}: {what}", path.display()));
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return here(error.to_string()),
    };
    if let Some(real) = seen.insert(ino, meta.ino())
        && real != meta.ino()
    {
        return here("linked otherwise".into());
    }
    let want = world.attrs(ino).unwrap();
    let mode = match thing.node {
        Node::Symlink(_) => meta.mode() & libc::S_IFMT | 0o777,
        _ => meta.mode(),
    };
    if mode != thing.mode | file_type(&thing.node) {
        return here(format!("mode {:o}, want {:o}", meta.mode(), want.mode));
    }
    if (meta.uid(), meta.gid()) != (want.uid, want.gid) {
        return here("owner".into());
    }
    let mtime = (meta.mtime(), meta.mtime_nsec());
    if mtime != (want.mtime.secs, i64::from(want.mtime.nanos)) {
        return here(format!("mtime {mtime:?}, want {:?}", want.mtime));
    }
    if !thing.node.is_dir() && meta.nlink() != u64::from(want.nlink) {
        return here(format!("{} links, want {}", meta.nlink(), want.nlink));
    }
    match &thing.node {
        Node::File if std::fs::read(path).unwrap() != thing.data => return here("data".into()),
        Node::Symlink(target)
            if std::fs::read_link(path).unwrap().as_os_str().as_bytes() != target =>
        {
            return here("where it points".into());
        }
        _ => {}
    }
    let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let fd = sys::openat(File::open("/").unwrap().as_fd(), &c_path, libc::O_PATH, 0).unwrap();
    let xattrs = sys::list_all_xattrs(fd.as_fd()).unwrap();
    if xattrs != world.xattr_list(ino).unwrap() {
        return here(format!("xattrs {xattrs:?}"));
    }
    if thing.node.is_dir() {
        let count = std::fs::read_dir(path).unwrap().count();
        if count != thing.entries.len() {
            return here(format!("{count} entries, want {}", thing.entries.len()));
        }
        for (name, child) in &thing.entries {
            let below = difference(world, *child, &path.join(name.as_os_str()), seen);
            if below.is_some() {
                return below;
            }
        }
    }
    None
}

fn check(source: &Source, base: &Base, when: &str) {
    let mut seen = HashMap::new();
    if let Some(what) = difference(&source.world, ROOT, &base.0.join("mirror"), &mut seen) {
        panic!("{when}: {what}");
    }
}

/// Serves every want at once, whole.
fn mirror(source: &mut Source, applier: &mut Applier<FsReplica>, number: u64) {
    let begin = source.mirror_begin(number, Scope::Full);
    applier.apply(&source.seal(&begin, false)).unwrap();
    while !applier.mirror_done() {
        for id in applier.take_wants(100) {
            let ino = super::applier_model::ino_of(id);
            let parts = match source.world.things.get(&ino) {
                Some(thing) if thing.node.is_dir() => source.listing(ino, 3),
                _ => vec![source.image(ino)],
            };
            let last = parts.len() - 1;
            for (index, made) in parts.iter().enumerate() {
                applier.apply(&source.seal(made, index < last)).unwrap();
            }
        }
    }
    applier
        .apply(&source.seal(&Source::mirror_end(number), false))
        .unwrap();
    assert_eq!(applier.data_state(), DataState::Ok);
}

fn random_sequences(under: &str) {
    for seed in 0..12 {
        let base = Base::new(under);
        let mut source = Source::new(seed);
        for _ in 0..60 {
            source.step();
        }
        std::fs::create_dir_all(base.0.join("mirror/n1/garbage/deep")).unwrap();
        std::fs::write(base.0.join("mirror/n1/garbage/file"), "x").unwrap();
        let (mut applier, start) = base.open();
        assert_eq!(start, Start::Fresh);
        let position = Position {
            history: HISTORY,
            seq: Seq::ZERO,
        };
        applier.reset_to(position).unwrap();
        mirror(&mut source, &mut applier, 1);
        check(&source, &base, &format!("seed {seed}: mirror"));
        for index in 0..150 {
            let made = source.step();
            let op = format!("seed {seed} op {index} {:?}", made.0.op);
            let frame = source.seal(&made, false);
            if let Err(error) = applier.apply(&frame) {
                panic!("{op}: {error}");
            }
            if index % 10 == 0 || index > 140 {
                check(&source, &base, &op);
            }
            if index % 40 == 7 {
                drop(applier);
                let start;
                (applier, start) = base.open();
                assert_eq!(start, Start::Resumed { doubt: false });
            }
        }
        mirror(&mut source, &mut applier, 2);
        check(&source, &base, &format!("seed {seed}: second mirror"));
        let limbo = base.0.join("hidden/limbo");
        assert_eq!(std::fs::read_dir(limbo).unwrap().count(), 0);
        applier.close().unwrap();
        std::fs::remove_dir_all(base.0.join("table")).unwrap();
        let (_, start) = base.open();
        assert_eq!(start, Start::Clean);
    }
}

#[test]
fn random_sequences_end_exact_on_a_tmpfs() {
    if is_root() {
        random_sequences("/dev/shm");
    }
}

#[test]
fn random_sequences_end_exact_on_the_disk() {
    if is_root() {
        random_sequences("/var/tmp");
    }
}

/// A shift that was interrupted anywhere is completed from its copy.
#[test]
fn emulated_shift_can_be_done_again() {
    if !is_root() {
        return;
    }
    for mode in [COLLAPSE, INSERT] {
        let base = Base::new("/dev/shm");
        let mut replica = base.replica();
        let dir = replica.root();
        let (file_name, data) = (name("f"), (0..=255u8).collect::<Vec<u8>>());
        let at = Place {
            dir,
            name: &file_name,
        };
        let file = replica.create(at, &Node::File).unwrap();
        replica.write(file, 0, &data).unwrap();
        let range = Range {
            mode,
            offset: 10,
            length: 20,
        };
        let mut want = data.clone();
        match mode {
            COLLAPSE => drop(want.drain(10..30)),
            _ => drop(want.splice(10..10, [0; 20])),
        }
        // As an interrupted one leaves it: the copy is there, the file half overwritten.
        let tail = if mode == COLLAPSE { 30 } else { 10 };
        std::fs::write(base.0.join("hidden/shift.9"), &data[tail..]).unwrap();
        replica.write(file, 12, b"half done").unwrap();
        assert!(replica.shift_pending(9).unwrap());
        replica.fallocate(file, range, 9).unwrap();
        assert!(!replica.shift_pending(9).unwrap());
        assert_eq!(std::fs::read(base.0.join("mirror/f")).unwrap(), want);
        // And without interruption.
        replica.write(file, 0, &data).unwrap();
        replica.truncate(file, 256).unwrap();
        replica.fallocate(file, range, 10).unwrap();
        assert_eq!(std::fs::read(base.0.join("mirror/f")).unwrap(), want);
    }
}

#[test]
fn names_of_directories_with_very_long_paths_are_found() {
    if !is_root() {
        return;
    }
    let base = Base::new("/dev/shm");
    let mut replica = base.replica();
    let long = name(&"d".repeat(250));
    let mut at = replica.root();
    for _ in 0..40 {
        let place = Place {
            dir: at,
            name: &long,
        };
        at = replica.create(place, &Node::Dir).unwrap();
    }
    let (parent, found) = replica.place_of_dir(at).unwrap();
    assert_eq!(found, long);
    assert_ne!(parent.object, at.object);
}

#[test]
fn a_gone_object_is_stale() {
    if !is_root() {
        return;
    }
    let base = Base::new("/dev/shm");
    let mut replica = base.replica();
    let gone = Inode {
        object: Object {
            ino: 999_999,
            generation: 1,
        },
        kind: InodeKind::File,
    };
    let error = replica.attrs(gone).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
}

/// One directory with 100,000 entries is mirrored in time that is linear.
#[test]
fn large_directory_is_mirrored_quickly() {
    if !is_root() {
        return;
    }
    let base = Base::new("/dev/shm");
    let mut source = Source::new(1);
    for index in 0..100_000 {
        let file = name(&format!("file-{index}"));
        source.world.create(ROOT, &file, &Node::File).unwrap();
    }
    let (mut applier, _) = base.open();
    let position = Position {
        history: HISTORY,
        seq: Seq::ZERO,
    };
    applier.reset_to(position).unwrap();
    let begin = source.mirror_begin(1, Scope::Full);
    applier.apply(&source.seal(&begin, false)).unwrap();
    let started = sys::monotonic_ns();
    while !applier.mirror_done() {
        for id in applier.take_wants(4096) {
            let ino = super::applier_model::ino_of(id);
            let parts = match ino {
                ROOT => source.listing(ino, 4000),
                _ => vec![source.image(ino)],
            };
            let last = parts.len() - 1;
            for (index, made) in parts.iter().enumerate() {
                applier.apply(&source.seal(made, index < last)).unwrap();
            }
        }
    }
    applier
        .apply(&source.seal(&Source::mirror_end(1), false))
        .unwrap();
    let listed = sys::monotonic_ns() - started;
    println!("100,000 files mirrored in {} ms", listed / 1_000_000);
    // Again, with everything there and in order.
    let started = sys::monotonic_ns();
    mirror(&mut source, &mut applier, 2);
    println!(
        "again in {} ms",
        (sys::monotonic_ns() - started) / 1_000_000
    );
    let dir = base.0.join("mirror");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 100_000);
    drop(Scratch::new());
}

/// Not a promise: prints what one thread reaches on a tmpfs.
#[test]
#[ignore = "a measurement"]
fn speed_of_small_operations() {
    if !is_root() {
        return;
    }
    const COUNT: usize = 100_000;
    let base = Base::new("/dev/shm");
    let mut source = Source::new(1);
    let (mut applier, _) = base.open();
    let position = Position {
        history: HISTORY,
        seq: Seq::ZERO,
    };
    applier.reset_to(position).unwrap();
    mirror(&mut source, &mut applier, 1);
    source.taste.things_max = 400;
    source.taste.shifts = false;
    for (what, write_only) in [
        ("mixed operations", false),
        ("writes of up to 64 bytes", true),
    ] {
        let frames: Vec<_> = (0..COUNT)
            .map(|_| {
                let made = match write_only {
                    true => source.write().unwrap(),
                    false => source.step(),
                };
                source.seal(&made, false)
            })
            .collect();
        let started = sys::monotonic_ns();
        let mut applied = 0;
        for frame in &frames {
            match applier.apply(frame) {
                Ok(()) => applied += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let seconds = (sys::monotonic_ns() - started) as f64 / 1e9;
        println!("{what}: {:.0} per second", f64::from(applied) / seconds);
    }
}
