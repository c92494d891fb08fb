//! The sled index: a copy of what the files say, kept by one thread that owns the database.
//!
//! Nothing waits for it and nothing depends on it: the wanted content stands in memory, the thread
//! carries it over. When sled fails, its thread tries to open it anew and brings it up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::error::{Error, io};
use crate::sync::{Condvar, Mutex, Rank};
use crate::sys;

const CACHE_BYTES: u64 = 16 << 20;
/// Pause between two visits to sled.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to open sled again, and between two looks at the disk.
const TICK: Duration = Duration::from_secs(1);
/// sled is not worth a slower start than this; a fresh index is made then.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Keys and values.
pub(super) type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the thread does besides, given by the journal.
pub(super) trait Chores: Send + 'static {
    /// Something asked for a visit; returns entries to set.
    fn visit(&mut self, index: &Index);
    /// Once in a while.
    fn tick(&mut self, index: &Index);
}

#[derive(Debug, Default)]
struct Wanted {
    content: Content,
    changed: BTreeSet<Vec<u8>>,
    is_visit_due: bool,
    is_ending: bool,
}

/// The handle of the index: cheap to call, never waits for sled.
#[derive(Debug)]
pub(super) struct Index {
    /// Rank: leaf; no I/O under it.
    wanted: Mutex<Wanted>,
    changed: Condvar,
    dir: PathBuf,
}

/// The thread that owns the database.
#[derive(Debug)]
pub(super) struct Owner {
    index: Arc<Index>,
    chores: Option<mpsc::Sender<Box<dyn Chores>>>,
    thread: Option<JoinHandle<()>>,
}

/// What opening the index found.
pub(super) struct Opened {
    pub(super) owner: Owner,
    pub(super) index: Arc<Index>,
    pub(super) content: Content,
    /// It had to be made anew, or was not there.
    pub(super) is_rebuilt: bool,
}

impl Index {
    /// Sets one entry.
    pub(super) fn set(&self, key: Vec<u8>, value: Vec<u8>) {
        let mut wanted = self.wanted.lock();
        if wanted.content.get(&key) != Some(&value) {
            wanted.content.insert(key.clone(), value);
            wanted.changed.insert(key);
            self.changed.notify_all();
        }
    }

    /// Removes one entry.
    pub(super) fn remove(&self, key: &[u8]) {
        let mut wanted = self.wanted.lock();
        if wanted.content.remove(key).is_some() {
            wanted.changed.insert(key.to_vec());
            self.changed.notify_all();
        }
    }

    /// Makes the whole content this, whatever it was.
    pub(super) fn replace(&self, found: &Content, content: Content) {
        let mut wanted = self.wanted.lock();
        let keys: BTreeSet<Vec<u8>> = found.keys().chain(content.keys()).cloned().collect();
        let differs = |key: &Vec<u8>| found.get(key) != content.get(key);
        wanted.changed = keys.into_iter().filter(differs).collect();
        wanted.content = content;
        self.changed.notify_all();
    }

    /// Asks for a visit of the chores.
    pub(super) fn call(&self) {
        self.wanted.lock().is_visit_due = true;
        self.changed.notify_all();
    }
}

impl Owner {
    /// Gives the thread its chores; before this it waits.
    pub(super) fn employ(&mut self, chores: Box<dyn Chores>) {
        if let Some(sender) = self.chores.take() {
            let _ = sender.send(chores);
        }
    }

    /// Ends the thread: everything set is carried over and flushed first.
    fn join(&mut self) {
        // Without chores it ends at once.
        self.chores = None;
        self.index.wanted.lock().is_ending = true;
        self.index.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!(dir = %self.index.dir.display(), "index thread panicked");
        }
    }
}

impl Drop for Owner {
    /// Ends the thread and waits for it.
    fn drop(&mut self) {
        self.join();
    }
}

/// Opens the index, or makes a new one; without sled the journal works as well.
pub(super) fn open(dir: &Path) -> Result<Opened, Error> {
    let existed = dir.exists();
    match start(dir)? {
        Start::Running(mut opened) => {
            opened.is_rebuilt = !existed;
            Ok(*opened)
        }
        Start::Failed(cause) => {
            tracing::warn!(dir = %dir.display(), %cause, "index cannot be opened, making it anew");
            set_aside(dir)?;
            match start(dir)? {
                Start::Running(opened) => Ok(*opened),
                Start::Failed(cause) => {
                    tracing::warn!(dir = %dir.display(), %cause, "working without the index");
                    start_without(dir)
                }
            }
        }
    }
}

enum Start {
    Running(Box<Opened>),
    Failed(String),
}

fn new_index(dir: &Path) -> Arc<Index> {
    Arc::new(Index {
        wanted: Mutex::new(Rank::Leaf, Wanted::default()),
        changed: Condvar::new(),
        dir: dir.to_path_buf(),
    })
}

fn start(dir: &Path) -> Result<Start, Error> {
    let index = new_index(dir);
    let (found_tx, found_rx) = mpsc::channel();
    let (chores_tx, chores_rx) = mpsc::channel();
    let theirs = Arc::clone(&index);
    let thread = crate::sync::spawn("dfs-index", move || {
        match open_sled(&theirs.dir) {
            Ok((db, content)) => {
                if found_tx.send(Ok(content)).is_ok() {
                    run(&theirs, Some(db), &chores_rx);
                }
            }
            Err(cause) => drop(found_tx.send(Err(cause))),
        };
    })
    .map_err(io("start the index thread of", dir))?;
    match found_rx.recv_timeout(OPEN_PATIENCE) {
        Ok(Ok(content)) => Ok(Start::Running(Box::new(Opened {
            owner: Owner {
                index: Arc::clone(&index),
                chores: Some(chores_tx),
                thread: Some(thread),
            },
            index,
            content,
            is_rebuilt: true,
        }))),
        Ok(Err(cause)) => {
            let _ = thread.join();
            Ok(Start::Failed(cause))
        }
        // The thread is left to itself: it ends when sled lets it, and finds nobody to tell.
        Err(_) => Ok(Start::Failed("sled does not answer".into())),
    }
}

fn start_without(dir: &Path) -> Result<Opened, Error> {
    let index = new_index(dir);
    let (chores_tx, chores_rx) = mpsc::channel();
    let theirs = Arc::clone(&index);
    let thread = crate::sync::spawn("dfs-index", move || run(&theirs, None, &chores_rx))
        .map_err(io("start the index thread of", dir))?;
    Ok(Opened {
        owner: Owner {
            index: Arc::clone(&index),
            chores: Some(chores_tx),
            thread: Some(thread),
        },
        index,
        content: Content::new(),
        is_rebuilt: true,
    })
}

/// Renames the directory so that a new one can be made; the newest of these is kept.
fn set_aside(dir: &Path) -> Result<(), Error> {
    let aside = dir.with_extension("aside");
    if aside.is_dir() {
        std::fs::remove_dir_all(&aside).map_err(io("remove", &aside))?;
    } else if aside.exists() {
        std::fs::remove_file(&aside).map_err(io("remove", &aside))?;
    }
    match std::fs::rename(dir, &aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("rename", dir)(e)),
        _ => Ok(()),
    }
}

/// sled's threads hold its lock for a moment after its value was dropped, and nobody tells when
/// they let go. The journal's own lock says that no other process has it.
fn open_sled(dir: &Path) -> Result<(sled::Db, Content), String> {
    let mut opened = try_open_sled(dir);
    for _ in 0..LOCK_ATTEMPTS {
        match &opened {
            Err(cause) if cause.contains("could not acquire lock") => {}
            _ => break,
        }
        std::thread::park_timeout(LOCK_PAUSE);
        opened = try_open_sled(dir);
    }
    opened
}

fn try_open_sled(dir: &Path) -> Result<(sled::Db, Content), String> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    // sled panics on some damages.
    let opened = catch_unwind(AssertUnwindSafe(|| -> sled::Result<(sled::Db, Content)> {
        let db = config.open()?;
        let mut content = Content::new();
        for entry in db.iter() {
            let (key, value) = entry?;
            content.insert(key.to_vec(), value.to_vec());
        }
        Ok((db, content))
    }));
    match opened {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("sled panicked".into()),
    }
}

fn run(index: &Index, mut db: Option<sled::Db>, chores: &mpsc::Receiver<Box<dyn Chores>>) {
    // The journal ends without giving chores when its opening failed.
    let Ok(mut chores) = chores.recv() else {
        return;
    };
    let mut ticked_ns = 0;
    let mut is_flushed = true;
    loop {
        let mut due = wait_for_work(index);
        let now_ns = sys::monotonic_ns();
        due.tick = now_ns.saturating_sub(ticked_ns) >= TICK.as_nanos() as u64;
        if due.tick {
            ticked_ns = now_ns;
        }
        if due.visit || due.ending {
            chores.visit(index);
        }
        if due.tick {
            chores.tick(index);
        }
        if db.is_none() && due.tick {
            db = reopen(index);
        }
        let is_flush = due.tick || due.ending;
        db = db.and_then(|db| carry_over(index, db, &mut is_flushed, is_flush));
        if db.is_none() {
            // All that differs is found when sled is opened again.
            index.wanted.lock().changed.clear();
        }
        if due.ending {
            // sled flushes when it is dropped, and may panic on a full disk.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
            return;
        }
        pause(index);
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Due {
    visit: bool,
    ending: bool,
    tick: bool,
}

fn wait_for_work(index: &Index) -> Due {
    let mut wanted = index.wanted.lock();
    let mut is_tick = false;
    while wanted.changed.is_empty() && !wanted.is_visit_due {
        if wanted.is_ending || is_tick {
            break;
        }
        is_tick = !index.changed.wait_for(&mut wanted, TICK);
    }
    let due = Due {
        visit: wanted.is_visit_due,
        ending: wanted.is_ending,
        tick: false,
    };
    wanted.is_visit_due = false;
    due
}

/// Lets changes gather, unless somebody waits.
fn pause(index: &Index) {
    let deadline_ns = sys::monotonic_ns() + PAUSE.as_nanos() as u64;
    let mut wanted = index.wanted.lock();
    while !wanted.is_ending {
        let rest_ns = deadline_ns.saturating_sub(sys::monotonic_ns());
        if rest_ns == 0 {
            break;
        }
        index
            .changed
            .wait_for(&mut wanted, Duration::from_nanos(rest_ns));
    }
}

/// Writes what has changed; `None` when sled failed, which is then opened anew later.
fn carry_over(
    index: &Index,
    db: sled::Db,
    is_flushed: &mut bool,
    is_flush: bool,
) -> Option<sled::Db> {
    let mut batch = sled::Batch::default();
    {
        let mut wanted = index.wanted.lock();
        for key in std::mem::take(&mut wanted.changed) {
            *is_flushed = false;
            match wanted.content.get(&key) {
                Some(value) => batch.insert(key, value.as_slice()),
                None => batch.remove(key),
            }
        }
    }
    if *is_flushed {
        return Some(db);
    }
    let done = catch_unwind(AssertUnwindSafe(|| {
        db.apply_batch(batch)?;
        if is_flush {
            db.flush().map(drop)
        } else {
            Ok(())
        }
    }));
    let cause = match done {
        Ok(Ok(())) => {
            *is_flushed = is_flush;
            return Some(db);
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "sled panicked".into(),
    };
    tracing::warn!(dir = %index.dir.display(), %cause, "index is out of service");
    let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
    None
}

fn reopen(index: &Index) -> Option<sled::Db> {
    let (db, found) = open_sled(&index.dir).ok()?;
    let mut wanted = index.wanted.lock();
    let keys = found.keys().chain(wanted.content.keys());
    let differs = |key: &&Vec<u8>| found.get(*key) != wanted.content.get(*key);
    wanted.changed = keys.filter(differs).cloned().collect();
    tracing::info!(dir = %index.dir.display(), "index is in service again");
    Some(db)
}
