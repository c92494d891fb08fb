//! The thread that makes durable below what was captured, so that a loss of power leaves few files in
//! doubt.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::activity::{Activity, Covered, Past};
use crate::capture::Capture;
use crate::passthrough::Tree;
use crate::sync::{self, Mutex, Rank};
use crate::sys;
use crate::types::Time;

use super::stand_in;
use super::start::{self, nanoseconds};

/// Between two times, at most: what was changed in two of these may be compared after a loss of power.
const INTERVAL_NS: u64 = 15_000_000_000;
/// And after so much was captured: what is written at once is waited for by others on the same disk, such as a
/// database that commits.
const INTERVAL_BYTES: u64 = 128 << 20;
/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a mount waits for what was changed before it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the log is.
pub(super) fn log_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("activity")
}

/// Opens the log of a set before anything of it is served. `takes_over`: the set was served until now.
/// `unlooked_since`: changes from then on are still to be looked for.
///
/// `None`: it cannot be kept, and is taken away; a loss of power puts everything in doubt.
///
/// # Errors
/// When the log cannot be kept and not be taken away either, or at the beginning of a mount.
pub(super) fn open_log(
    state_dir: &Path,
    instance: u128,
    tree: &Tree,
    takes_over: bool,
    unlooked_since: Option<Time>,
) -> io::Result<Option<Arc<Activity>>> {
    let dir = log_dir(state_dir);
    if takes_over && let Ok(Some(activity)) = Activity::resume(&dir, instance) {
        return Ok(Some(Arc::new(activity)));
    }
    let past = Past {
        is_durable: takes_over || is_durable(tree)?,
        unlooked_since_ns: unlooked_since.map(nanoseconds),
    };
    match Activity::begin(&dir, instance, past) {
        Ok(activity) => Ok(Some(Arc::new(activity))),
        Err(error) if takes_over => {
            tracing::error!(%error, "no activity log can be kept");
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(None),
            }
        }
        Err(error) => Err(error),
    }
}

/// Makes what lies below durable, if that is done in little time.
fn is_durable(tree: &Tree) -> io::Result<bool> {
    let root = reopened(tree)?;
    let (done, outcome) = mpsc::channel();
    sync::spawn("dfs-sync", move || {
        // Nobody listens any more when it took too long.
        let _ = done.send(sys::syncfs(root.as_fd()));
    })?;
    match outcome.recv_timeout(PATIENCE) {
        Ok(synced) => synced.map(|()| true),
        Err(_) => Ok(false),
    }
}

fn reopened(tree: &Tree) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    sys::openat(tree.root(), c".", flags, 0)
}

/// The file system below, as something to be made durable.
pub(super) struct Below {
    /// One descriptor all the time: it is told each error of writing once, also those between two calls.
    root: OwnedFd,
    /// The first error. What could not be written is not written again, though a later call succeeds.
    failed: Mutex<Option<String>>,
}

impl Below {
    /// Opens it.
    ///
    /// # Errors
    /// What openat(2) says.
    pub(super) fn open(tree: &Tree) -> io::Result<Below> {
        Ok(Below {
            root: reopened(tree)?,
            failed: Mutex::new(Rank::Leaf, None),
        })
    }

    /// Makes durable what was changed below: after a clean end nobody looks for what a loss of power
    /// took, and the targets have it.
    ///
    /// # Errors
    /// What syncfs(2) says, or said before.
    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some(error) = self.trouble() {
            return Err(io::Error::other(error));
        }
        let synced = sys::syncfs(self.root.as_fd());
        if let Err(error) = &synced {
            tracing::error!(%error, "the file system below cannot write what programs wrote");
            *self.failed.lock() = Some(error.to_string());
        }
        synced
    }

    /// Why it could not be made durable.
    pub(super) fn trouble(&self) -> Option<String> {
        self.failed.lock().clone()
    }
}

/// How long operations may go unrecorded over a disk that fails, before memory stands in for it.
const FAILING_NS: u64 = 10_000_000_000;

/// Why only another worker can go on.
#[derive(Debug)]
pub(super) enum Why {
    /// There is another queue in the queue's place than this worker writes: it was removed, or its disk
    /// failed, and was repaired and mounted anew.
    Displaced,
    /// Its disk fails.
    Failing(io::Error),
}

/// The thread.
pub(super) struct Settler {
    activity: Arc<Activity>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Settler {
    /// Starts it. `give_way` is called, once, when only another worker can go on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        activity: Arc<Activity>,
        capture: Arc<Capture>,
        below: Arc<Below>,
        covered: Covered,
        give_way: impl FnOnce(Why) + Send + 'static,
    ) -> io::Result<Settler> {
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopping) = (activity.clone(), stop.clone());
        let thread = sync::spawn("dfs-settle", move || {
            run(&log, &capture, (&below, &covered), &stopping, give_way)
        })?;
        Ok(Settler {
            activity,
            stop,
            thread,
        })
    }

    /// Ends it, after what it is at.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.activity.nudge();
        if self.thread.join().is_err() {
            tracing::error!("the thread that makes changes durable panicked");
        }
    }
}

/// What programs wrote may be lost below: the next start does what it does after a loss of power.
pub(super) fn note_lost(capture: &Capture, covered: &Covered) {
    if let Err(error) = start::store_unfinished(capture.journal(), covered) {
        tracing::error!(%error, "cannot note that changes may be lost below: mirror the set after the next mount");
    }
}

/// Operations that cannot be recorded for a while.
#[derive(Debug, Default)]
struct Failing {
    since_ns: Option<u64>,
}

impl Failing {
    /// What the disk says when it fails; a full one does not.
    fn look(&mut self, capture: &Capture) -> Option<io::Error> {
        if !capture.has_open_gap() {
            self.since_ns = None;
            return None;
        }
        let now = sys::monotonic_ns();
        if now - *self.since_ns.get_or_insert(now) < FAILING_NS {
            return None;
        }
        self.since_ns = Some(now);
        let failed = stand_in::is_writable(capture.journal().dir()).err();
        failed.filter(|e| {
            matches!(
                e.raw_os_error(),
                Some(libc::EIO | libc::EROFS | libc::ENODEV)
            )
        })
    }
}

/// Is there another queue in the queue's place than this worker writes? It may have been removed. Or its
/// disk failed, and was repaired and mounted anew, which this worker's files do not notice.
fn is_displaced(capture: &Capture, covered: &Covered) -> bool {
    let journal = capture.journal();
    let is_elsewhere =
        || start::mount_of(journal.dir()).is_ok_and(|mount| mount != covered.mounts.queue);
    !journal.is_in_place() || capture.has_open_gap() && is_elsewhere()
}

fn run(
    activity: &Activity,
    capture: &Capture,
    (below, covered): (&Below, &Covered),
    stop: &AtomicBool,
    give_way: impl FnOnce(Why),
) {
    let (mut due_ns, mut settled_bytes) = (0, capture.captured_bytes());
    let mut is_failing = false;
    let (mut failing, mut give_way) = (Failing::default(), Some(give_way));
    while !stop.load(Ordering::Acquire) {
        // What is found by looking for changes stands in the queue only when that is done; until then
        // the log leads there.
        let captured = capture.captured_bytes();
        let is_due = sys::monotonic_ns() >= due_ns
            || captured.saturating_sub(settled_bytes) >= INTERVAL_BYTES
            || activity.is_large();
        if is_due && !capture.is_checking() {
            let settled = activity.settle(|| {
                // What could not be recorded is told by the marks alone, until it is.
                if !capture.try_close_gap() {
                    return Err(io::Error::other("operations cannot be recorded"));
                }
                let queue = capture.journal().sync();
                queue.map_err(|error| io::Error::other(format!("the queue: {error}")))?;
                below.sync()
            });
            match settled {
                Ok(_) => is_failing = false,
                Err(error) if !is_failing => {
                    tracing::error!(%error, "what was changed cannot be made durable; a loss of power puts more and more files in doubt");
                    is_failing = true;
                    if below.trouble().is_some() {
                        note_lost(capture, covered);
                    }
                }
                Err(_) => {}
            }
            due_ns = sys::monotonic_ns() + INTERVAL_NS;
            settled_bytes = captured;
        }
        activity.watch_clock();
        let why = match is_displaced(capture, covered) {
            true => Some(Why::Displaced),
            false => failing.look(capture).map(Why::Failing),
        };
        if !stop.load(Ordering::Acquire)
            && let Some(why) = why
            && let Some(give_way) = give_way.take()
        {
            give_way(why);
        }
        activity.wait(TICK);
    }
}
