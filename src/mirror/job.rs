//! The thread that answers wants.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::capture::{Capture, ImageError, ImageOutcome};
use crate::sync;
use crate::sys;
use crate::types::{FileId, Op, Scope, Seq};

use super::ahead::{AHEAD_MAX, Ahead};

/// What the thread is told.
#[derive(Debug)]
pub enum Event {
    /// A target wants these.
    Wanted {
        /// The connection.
        connection: u32,
        /// What it wants.
        ids: Vec<FileId>,
    },
    /// A connection's session ended: what it wanted it will ask for again.
    Reset {
        /// The connection.
        connection: u32,
    },
    /// A target has all it wanted.
    Done {
        /// The mirror's number.
        mirror: u64,
    },
    /// Files were put in doubt.
    Doubt,
    /// The walk over what was changed unseen has ended.
    Checked,
    /// The end.
    Stop,
}

/// How the thread keeps from running ahead of the link; implemented above.
pub trait Pace: Send + Sync {
    /// Waits until the connection has room for images; false when it is gone (then its wants are
    /// dropped; it asks again).
    fn wait_for_room(&self, connection: u32) -> bool;
}

/// Counters of the thread.
#[derive(Debug, Default)]
pub struct MirrorState {
    /// Inodes imaged.
    pub imaged: AtomicU64,
    /// Bytes of content in the images.
    pub bytes: AtomicU64,
    /// Inodes that were gone when their turn came.
    pub gone: AtomicU64,
    /// Tries that failed and are repeated.
    pub failed: AtomicU64,
    /// Inodes asked for and not answered yet.
    asked: AtomicU64,
}

/// So many may be asked for at a time without another look: 32 MiB.
const ASKED_ALWAYS: u64 = 1 << 20;

impl MirrorState {
    /// Takes note of so many inodes that a target asks for, before the thread is told. False, and nothing is
    /// noted: they would be more than a million and than `files`, which is all there are. A target in
    /// order asks for a file once.
    pub fn ask(&self, count: u64, files: impl FnOnce() -> u64) -> bool {
        let asked = self.asked.fetch_add(count, Ordering::Relaxed) + count;
        let is_fine = asked <= ASKED_ALWAYS || asked <= files().saturating_add(ASKED_ALWAYS);
        if !is_fine {
            self.answered(count);
        }
        is_fine
    }

    /// They are not waited for any more.
    fn answered(&self, count: u64) {
        self.asked.fetch_sub(count, Ordering::Relaxed);
    }

    /// Inodes asked for and not answered yet.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The mirror thread of a set.
#[derive(Debug)]
pub struct Mirror {
    events: mpsc::Sender<Event>,
    state: Arc<MirrorState>,
    thread: Option<JoinHandle<()>>,
}

/// After a failure the thread waits this long before it goes on, unless it is told something.
const RETRY: Duration = Duration::from_secs(1);

/// Appends the beginning of a mirror; returns its number and its position.
fn begin(capture: &Capture, scope: Scope) -> Result<(u64, Seq), crate::journal::Error> {
    // Rising also over restarts and lost state, as long as the clock does.
    let mirror = sys::realtime_ns();
    let root = capture.tree().root_id();
    tracing::info!(mirror, ?scope, "mirror begins");
    let seq = capture.append_job(Op::MirrorBegin {
        mirror,
        scope,
        root,
    })?;
    Ok((mirror, seq))
}

impl Mirror {
    /// Starts the thread on a channel's two ends (capture needs the one before the thread can be).
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        capture: Arc<Capture>,
        pace: Arc<dyn Pace>,
        (events, inbox): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    ) -> std::io::Result<Mirror> {
        let state = Arc::new(MirrorState::default());
        let ahead = Ahead::new(Arc::clone(&capture));
        let work = Work {
            capture,
            pace,
            inbox,
            state: state.clone(),
            queues: BTreeMap::new(),
            ahead,
            partial_wanted: false,
            unended: BTreeSet::new(),
        };
        let thread = sync::spawn("dfs-mirror", move || work.run())?;
        Ok(Mirror {
            events,
            state,
            thread: Some(thread),
        })
    }

    /// Counters.
    pub fn state(&self) -> Arc<MirrorState> {
        self.state.clone()
    }

    /// Begins a full mirror in the stream; returns its number and the position of its first record.
    ///
    /// # Errors
    /// What the journal says.
    pub fn begin_full(capture: &Capture) -> Result<(u64, Seq), crate::journal::Error> {
        begin(capture, Scope::Full)
    }

    /// Ends the thread after the image it is at.
    pub fn stop(&mut self) {
        // An ended thread needs no telling.
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mirror thread panicked");
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a connection wants.
#[derive(Default)]
struct Queue {
    ids: VecDeque<FileId>,
    /// So many at the front are read ahead.
    ahead: usize,
}

struct Work {
    capture: Arc<Capture>,
    pace: Arc<dyn Pace>,
    inbox: mpsc::Receiver<Event>,
    state: Arc<MirrorState>,
    queues: BTreeMap<u32, Queue>,
    ahead: Ahead,
    partial_wanted: bool,
    /// Mirrors that are complete, but for what a walk may still find.
    unended: BTreeSet<u64>,
}

/// Does the thread go on?
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

impl Work {
    fn run(mut self) {
        let mut pause = false;
        loop {
            let next = self.take_events(pause);
            // Also at the end: only its beginning in the stream leads a mirror to its end.
            pause = self.partial_wanted && !self.begin_partial();
            if next == Next::Stop {
                return;
            }
            let Some((connection, id)) = self.next_wanted() else {
                continue;
            };
            pause |= !self.answer(connection, id);
        }
    }

    /// False: it cannot be begun now.
    fn begin_partial(&mut self) -> bool {
        // The records that put files in doubt stand before this one.
        match begin(&self.capture, Scope::Partial) {
            Ok(_) => self.partial_wanted = false,
            Err(error) => tracing::error!(%error, "a mirror cannot be begun"),
        }
        !self.partial_wanted
    }

    fn next_wanted(&mut self) -> Option<(u32, FileId)> {
        let (&connection, queue) = self
            .queues
            .iter_mut()
            .find(|(_, queue)| !queue.ids.is_empty())?;
        while self.ahead.is_due() && queue.ahead < AHEAD_MAX {
            let Some(id) = queue.ids.get(queue.ahead) else {
                break;
            };
            self.ahead.read(*id);
            queue.ahead += 1;
        }
        let wanted = queue.ids.pop_front().map(|id| (connection, id));
        queue.ahead = queue.ahead.saturating_sub(1);
        self.state.answered(u64::from(wanted.is_some()));
        wanted
    }

    /// Takes all events there are; waits for one when there is nothing to do.
    fn take_events(&mut self, pause: bool) -> Next {
        let is_wanted = |queue: &Queue| !queue.ids.is_empty();
        let idle = !self.queues.values().any(is_wanted) && !self.partial_wanted;
        let first = if pause {
            match self.inbox.recv_timeout(RETRY) {
                Ok(event) => Some(event),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Next::Stop,
            }
        } else if idle {
            match self.inbox.recv() {
                Ok(event) => Some(event),
                Err(mpsc::RecvError) => return Next::Stop,
            }
        } else {
            None
        };
        let mut events: Vec<Event> = first.into_iter().collect();
        events.extend(self.inbox.try_iter());
        for event in events {
            if self.take(event) == Next::Stop {
                return Next::Stop;
            }
        }
        Next::Go
    }

    fn take(&mut self, event: Event) -> Next {
        match event {
            Event::Wanted { connection, ids } => {
                let queue = self.queues.entry(connection).or_default();
                queue.ids.extend(ids);
            }
            Event::Reset { connection } => {
                self.forget(connection);
            }
            Event::Done { mirror } => {
                if self.capture.is_checking() {
                    // More may be found: until then the replica is not what the source was.
                    self.unended.insert(mirror);
                } else {
                    self.end(mirror);
                }
            }
            Event::Checked => {
                for mirror in std::mem::take(&mut self.unended) {
                    self.end(mirror);
                }
            }
            Event::Doubt => self.partial_wanted = true,
            Event::Stop => return Next::Stop,
        }
        Next::Go
    }

    /// What a connection wants is dropped: it asks again.
    fn forget(&mut self, connection: u32) {
        let wanted = self.queues.remove(&connection).unwrap_or_default();
        self.state.answered(wanted.ids.len() as u64);
    }

    fn end(&self, mirror: u64) {
        tracing::info!(mirror, "mirror is complete");
        if let Err(error) = self.capture.append_job(Op::MirrorEnd { mirror }) {
            tracing::error!(%error, "the end of a mirror cannot be recorded");
        }
    }

    /// Images one inode; false when that failed and is to be tried again later.
    fn answer(&mut self, connection: u32, id: FileId) -> bool {
        if !self.pace.wait_for_room(connection) {
            self.forget(connection);
            return true;
        }
        let pace = self.pace.clone();
        let mut room = move |_sent: u64| pace.wait_for_room(connection);
        let outcome = self.capture.image(id, &mut room);
        self.ahead.note_image();
        match outcome {
            Ok(ImageOutcome::Imaged(bytes)) => {
                self.state.imaged.fetch_add(1, Ordering::Relaxed);
                self.state.bytes.fetch_add(bytes, Ordering::Relaxed);
                true
            }
            Ok(ImageOutcome::Interrupted) => true,
            Ok(ImageOutcome::Gone) => {
                self.state.gone.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.state.failed.fetch_add(1, Ordering::Relaxed);
                let reason: &dyn std::error::Error = &error;
                tracing::warn!(error = reason, %id, "an image failed; trying again");
                // A journal's failure passes with its disk's; a file's comes round again.
                self.state.asked.fetch_add(1, Ordering::Relaxed);
                let ids = &mut self.queues.entry(connection).or_default().ids;
                match error {
                    ImageError::Journal(_) => ids.push_front(id),
                    ImageError::Below(_) => ids.push_back(id),
                }
                false
            }
        }
    }
}
