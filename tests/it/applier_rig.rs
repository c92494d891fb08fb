//! An applier on a disk that can be killed and cut: support for the property tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use doppelfs::applier::{
    Applier, Backlog, Change, CheckpointJob, Error, Held, Inode, Ledger, Marker, Meta, Moving,
    Object, Place, Range, Recovered, Replica, Syncer,
};
use doppelfs::codec::Frame;
use doppelfs::sys::SharedWords;
use doppelfs::types::{Attrs, FileId, History, Name, Node, Remap, Seq, Time, Xattr};
use rand::Rng;
use rand::rngs::StdRng;

pub const HISTORY: History = History(0xfeed);

/// Seed of a case: `DOPPELFS_SEED` runs just that one.
pub fn seeds(base: u64, default: u64) -> Vec<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|v: String| v.parse().ok())
    };
    match number("DOPPELFS_SEED") {
        Some(seed) => vec![seed],
        None => {
            let cases = number("DOPPELFS_CASES").unwrap_or(default);
            (0..cases).map(|case| base * 1_000_000 + case).collect()
        }
    }
}

/// Runs a case for every seed, on all processors; says which seed failed.
pub fn for_seeds(base: u64, default: u64, case: impl Fn(u64) + Sync) {
    let seeds = seeds(base, default);
    let next = AtomicU64::new(0);
    let failed: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while failed.lock().unwrap().is_empty() {
                    let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(seed) = seeds.get(index) else { break };
                    let run = std::panic::AssertUnwindSafe(|| case(*seed));
                    if std::panic::catch_unwind(run).is_err() {
                        eprintln!("failed with DOPPELFS_SEED={seed}");
                        failed.lock().unwrap().push(*seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed with DOPPELFS_SEED={failed:?}");
}

/// How many of these seeds fail: a planted bug must be found.
pub fn count_failures(seeds: std::ops::Range<u64>, case: impl Fn(u64)) -> usize {
    // Panics are expected on this thread, and only here.
    thread_local! {
        static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |what| {
            if !QUIET.get() {
                loud(what);
            }
        }));
    });
    QUIET.set(true);
    let failures = seeds
        .filter(|seed| {
            let run = std::panic::AssertUnwindSafe(|| case(*seed));
            std::panic::catch_unwind(run).is_err()
        })
        .count();
    QUIET.set(false);
    failures
}

/// A directory on a tmpfs, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let base = match Path::new("/dev/shm").is_dir() {
            true => PathBuf::from("/dev/shm"),
            false => std::env::temp_dir(),
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("dpf-applier-{}-{number}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// When the process is to die.
#[derive(Debug, Default)]
pub struct Fuse {
    /// Changing calls left; `None`: no end in sight.
    pub left: Option<u64>,
    /// Does the call on which it dies still take effect?
    pub after_effect: bool,
    pub dead: bool,
    /// Changing calls made.
    pub calls: u64,
    /// Changing calls until one finds the disk full, once, and does nothing.
    pub full: Option<u64>,
}

/// A replica whose process dies at a chosen call.
#[derive(Debug, Clone)]
pub struct Mortal<R> {
    pub inner: R,
    pub fuse: Arc<Mutex<Fuse>>,
}

fn death() -> io::Error {
    io::Error::other("killed")
}

impl<R> Mortal<R> {
    fn burn<T>(&mut self, call: impl FnOnce(&mut R) -> io::Result<T>) -> io::Result<T> {
        let mut fuse = self.fuse.lock().unwrap();
        if fuse.dead {
            return Err(death());
        }
        fuse.calls += 1;
        fuse.full = match fuse.full {
            Some(0) => {
                fuse.full = None;
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            left => left.map(|left| left - 1),
        };
        match &mut fuse.left {
            Some(0) => {
                fuse.dead = true;
                if fuse.after_effect {
                    drop(call(&mut self.inner));
                }
                return Err(death());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        drop(fuse);
        call(&mut self.inner)
    }

    fn look<T>(&mut self, call: impl FnOnce(&mut R) -> io::Result<T>) -> io::Result<T> {
        match self.fuse.lock().unwrap().dead {
            true => Err(death()),
            false => call(&mut self.inner),
        }
    }
}

impl<R: Replica> Replica for Mortal<R> {
    fn root(&self) -> Inode {
        self.inner.root()
    }
    fn limbo(&self) -> Inode {
        self.inner.limbo()
    }
    fn instance(&self) -> u64 {
        self.inner.instance()
    }
    fn keeps_order(&self) -> bool {
        self.inner.keeps_order()
    }
    fn remap(&self) -> Option<&Remap> {
        self.inner.remap()
    }
    fn set_remap(&mut self, remap: Option<Remap>) {
        self.inner.set_remap(remap);
    }
    fn lookup(&mut self, at: Place<'_>) -> io::Result<Option<Object>> {
        self.look(|r| r.lookup(at))
    }
    fn inspect(&mut self, at: Place<'_>) -> io::Result<Option<Inode>> {
        self.look(|r| r.inspect(at))
    }
    fn create(&mut self, at: Place<'_>, node: &Node) -> io::Result<Inode> {
        self.burn(|r| r.create(at, node))
    }
    fn read_link(&mut self, inode: Inode) -> io::Result<Vec<u8>> {
        self.look(|r| r.read_link(inode))
    }
    fn special(&mut self, inode: Inode) -> io::Result<(u32, u64)> {
        self.look(|r| r.special(inode))
    }
    fn link(&mut self, inode: Inode, at: Place<'_>) -> io::Result<()> {
        self.burn(|r| r.link(inode, at))
    }
    fn unlink(&mut self, at: Place<'_>) -> io::Result<()> {
        self.burn(|r| r.unlink(at))
    }
    fn rmdir(&mut self, at: Place<'_>) -> io::Result<()> {
        self.burn(|r| r.rmdir(at))
    }
    fn rename(&mut self, from: Place<'_>, to: Place<'_>, moving: Moving) -> io::Result<()> {
        self.burn(|r| r.rename(from, to, moving))
    }
    fn names(&mut self, dir: Inode) -> io::Result<Vec<Name>> {
        self.look(|r| r.names(dir))
    }
    fn place_of_dir(&mut self, dir: Inode) -> io::Result<(Inode, Name)> {
        self.look(|r| r.place_of_dir(dir))
    }
    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> io::Result<()> {
        self.burn(|r| r.write(file, offset, data))
    }
    fn truncate(&mut self, file: Inode, size: u64) -> io::Result<()> {
        self.burn(|r| r.truncate(file, size))
    }
    fn fallocate(&mut self, file: Inode, range: Range, seq: u64) -> io::Result<()> {
        self.burn(|r| r.fallocate(file, range, seq))
    }
    fn shift_pending(&mut self, seq: u64) -> io::Result<bool> {
        self.look(|r| r.shift_pending(seq))
    }
    fn attrs(&mut self, inode: Inode) -> io::Result<Attrs> {
        self.look(|r| r.attrs(inode))
    }
    fn set_owner(&mut self, inode: Inode, uid: u32, gid: u32) -> io::Result<()> {
        self.burn(|r| r.set_owner(inode, uid, gid))
    }
    fn set_mode(&mut self, inode: Inode, mode: u32) -> io::Result<()> {
        self.burn(|r| r.set_mode(inode, mode))
    }
    fn set_times(&mut self, i: Inode, a: Option<Time>, m: Option<Time>) -> io::Result<()> {
        self.burn(|r| r.set_times(i, a, m))
    }
    fn xattrs(&mut self, inode: Inode) -> io::Result<Vec<Xattr>> {
        self.look(|r| r.xattrs(inode))
    }
    fn set_xattr(&mut self, inode: Inode, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.burn(|r| r.set_xattr(inode, name, value))
    }
    fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> io::Result<()> {
        self.burn(|r| r.remove_xattr(inode, name))
    }
    fn forget(&mut self, object: Object) {
        self.inner.forget(object);
    }
    fn mark(&mut self, position: Marker) -> io::Result<()> {
        self.burn(|r| r.mark(position))
    }
    fn marked(&mut self) -> io::Result<Option<Marker>> {
        self.look(|r| r.marked())
    }
    fn syncer(&self) -> io::Result<Syncer> {
        let dead = self.fuse.lock().unwrap().dead;
        let inner = self.inner.syncer()?;
        match dead {
            true => Err(death()),
            false => Ok(inner),
        }
    }
    fn path_of(&mut self, inode: Inode) -> String {
        self.inner.path_of(inode)
    }
}

/// A ledger in memory, as durable as a disk; fails when told.
#[derive(Debug, Default)]
pub struct MemLedger {
    pub state: Mutex<(BTreeMap<FileId, Held>, Option<Meta>)>,
    pub fails: Mutex<bool>,
}

impl Ledger for MemLedger {
    fn load(&self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, Error> {
        let state = self.state.lock().unwrap();
        for (id, held) in &state.0 {
            each((*id, Some(*held)));
        }
        Ok(state.1.clone())
    }

    fn commit(&self, changes: &[Change], meta: &Meta) -> Result<(), Error> {
        if *self.fails.lock().unwrap() {
            return Err(Error::Ledger {
                operation: "write",
                path: "memory".into(),
                source: "told to fail".into(),
            });
        }
        let mut state = self.state.lock().unwrap();
        for (id, held) in changes {
            match held {
                Some(held) => state.0.insert(*id, *held),
                None => state.0.remove(id),
            };
        }
        state.1 = Some(meta.clone());
        Ok(())
    }
}

/// An applier, what outlives it, and the journal that it is fed from.
pub struct Rig<R: Replica> {
    pub replica: R,
    pub fuse: Arc<Mutex<Fuse>>,
    pub ledger: Arc<MemLedger>,
    pub table: Scratch,
    pub journal: Vec<Frame>,
    /// What the journal belongs to, and the position before its first record.
    pub history: Option<History>,
    pub base: Seq,
    pub applier: Option<Applier<Mortal<R>>>,
    pub job: Option<CheckpointJob>,
}

impl<R: Replica + Clone> Rig<R> {
    pub fn new(replica: R) -> Rig<R> {
        let mut rig = Rig {
            replica,
            fuse: Arc::default(),
            ledger: Arc::default(),
            table: Scratch::new(),
            journal: Vec::new(),
            history: Some(HISTORY),
            base: Seq::ZERO,
            applier: None,
            job: None,
        };
        rig.open().unwrap();
        rig
    }

    pub fn applier(&mut self) -> &mut Applier<Mortal<R>> {
        self.applier.as_mut().unwrap()
    }

    /// The position up to which the journal reaches.
    pub fn end(&self) -> Seq {
        self.journal.last().map_or(self.base, |f| f.header().seq)
    }

    fn backlog(&self) -> Backlog<'_> {
        Backlog {
            history: self.history,
            end: self.end(),
            after: Box::new(|after| {
                let later = self.journal.iter().filter(move |f| f.header().seq > after);
                Ok(Box::new(later.map(|frame| Ok(frame.clone()))))
            }),
        }
    }

    /// A new process.
    pub fn open(&mut self) -> Result<Recovered, Error> {
        self.applier = None;
        self.job = None;
        *self.fuse.lock().unwrap() = Fuse::default();
        self.open_with_fuse()
    }

    /// A new process that may die while it recovers.
    pub fn open_with_fuse(&mut self) -> Result<Recovered, Error> {
        self.applier = None;
        self.job = None;
        let replica = Mortal {
            inner: self.replica.clone(),
            fuse: Arc::clone(&self.fuse),
        };
        let ledger: Arc<dyn Ledger> = self.ledger.clone();
        let opened = Applier::open_with(replica, ledger, &self.table.0, self.backlog());
        let (applier, recovered) = opened?;
        self.applier = Some(applier);
        Ok(recovered)
    }

    /// Lets the process die at a call from now.
    pub fn light(&mut self, left: u64, after_effect: bool) {
        *self.fuse.lock().unwrap() = Fuse {
            left: Some(left),
            after_effect,
            ..Fuse::default()
        };
    }

    pub fn unlight(&mut self) {
        *self.fuse.lock().unwrap() = Fuse::default();
    }

    pub fn is_dead(&self) -> bool {
        self.fuse.lock().unwrap().dead
    }

    /// Feeds everything of the journal that is not applied.
    pub fn catch_up(&mut self) -> Result<(), Error> {
        let Some(applier) = &mut self.applier else {
            return Ok(());
        };
        let applied = applier.applied();
        let from = self.journal.partition_point(|f| f.header().seq <= applied);
        for frame in &self.journal[from..] {
            applier.apply(frame)?;
        }
        Ok(())
    }

    /// What dies between noting an operation and saying that it is done.
    pub fn undo_done(&mut self, before: Seq) {
        self.applier = None;
        let words = SharedWords::open(&self.table.0.join("applied"), 11).unwrap();
        words.store(7, before.0);
    }

    /// The host is gone, and with it the tmpfs.
    pub fn lose_table(&mut self) {
        self.applier = None;
        self.job = None;
        for entry in std::fs::read_dir(&self.table.0).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// Checkpoints as a daemon takes them: begun at one time, run at another or never.
    pub fn checkpoint_sometimes(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..20) {
            0 => {
                if let Some(job) = self.applier().begin_checkpoint().unwrap() {
                    job.run().unwrap();
                }
            }
            1 => self.job = self.applier().begin_checkpoint().unwrap(),
            2 | 3 => {
                if let Some(job) = self.job.take() {
                    job.run().unwrap();
                }
            }
            4 => self.job = None,
            5 => {
                *self.ledger.fails.lock().unwrap() = true;
                if let Some(job) = self.applier().begin_checkpoint().unwrap() {
                    assert!(job.run().is_err());
                }
                *self.ledger.fails.lock().unwrap() = false;
            }
            _ => {}
        }
    }
}
