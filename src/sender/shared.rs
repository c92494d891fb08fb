//! What the thread, its tasks and those who look at the state share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::stats::{Lag, Lags, Latencies, Latency, OpCounters};
use crate::sync::{Condvar, Mutex, Rank};
use crate::sys;
use crate::types::{Marks, Seq, Time};
use crate::wire::{Ack, DataState, MirrorProgress, Start, TargetState, Welcome};

use super::beginning::{marks_after, marks_at};
use super::error::Error;
use super::events::SenderOptions;
use super::progress::{Note, Progress};
use super::state::{Link, SenderState};
use super::wish::Wish;

/// Bytes of frames that may be on their way to the target's journal.
pub const WINDOW_BYTES: u64 = 64 << 20;

/// A peer that is not heard for so long is dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Everything about a connection but its thread.
pub(super) struct Shared {
    pub(super) options: SenderOptions,
    /// Guards the connection's state. No I/O, no other lock under it.
    inner: Mutex<Inner>,
    /// Told when a session ends, the window opens, or the sender stops.
    changed: Condvar,
    /// Counts changes, for who waits for one.
    version: watch::Sender<u64>,
    /// True from the end of one session to the beginning of the next.
    over: watch::Sender<bool>,
    /// A checkpoint is to be asked for.
    pub(super) urgent: Notify,
    sent_bytes: AtomicU64,
    wire_bytes: AtomicU64,
    mirror_bytes: AtomicU64,
    /// From capture to the answers of the target.
    applied_latency: Latency,
    durable_latency: Latency,
    /// Records handed to the link, by what they do.
    pub(super) sent_ops: OpCounters,
}

/// How long what was read of the journal is good enough while the marks rise.
const OLDEST_GOOD_NS: u64 = 1_000_000_000;

/// When the first record after a mark was captured, as the journal says.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    /// The mark.
    seq: Seq,
    /// When that was, since 1970.
    time_ns: u64,
    /// When it was read, on the monotonic clock.
    read_ns: u64,
}

#[derive(Default)]
struct Inner {
    link: Link,
    connected_since: Option<Time>,
    sessions: u64,
    protection: Option<String>,
    replica_path: Option<String>,
    data: DataState,
    target_state: TargetState,
    marks: Marks,
    handed_bytes: u64,
    progress: Progress,
    checkpoint_upto: Seq,
    last_path: Option<String>,
    mirror: Option<MirrorProgress>,
    is_staged: bool,
    /// The target has said how it is, to this worker.
    is_heard: bool,
    error: Option<String>,
    stopping: bool,
    mirror_asked: bool,
    end: Option<Error>,
    oldest: Option<Oldest>,
    wish: Wish,
    /// Nothing is handed over, until it is said up to where.
    frozen: bool,
}

/// What became of records that were to be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// They go out.
    Yes,
    /// None does: some lie behind the point of a pause.
    TooFar,
    /// None does: the session is over.
    Over,
}

impl Inner {
    /// The last record that may be sent.
    fn limit(&self) -> Seq {
        match &self.wish {
            Wish::Pause(point) => point.seq,
            Wish::Run => Seq(u64::MAX),
            Wish::Disconnect { .. } | Wish::Stop => Seq::ZERO,
        }
    }
}

impl Shared {
    pub(super) fn new(options: SenderOptions) -> Shared {
        let inner = Inner {
            wish: Wish::load(&options),
            ..Inner::default()
        };
        Shared {
            options,
            inner: Mutex::new(Rank::Leaf, inner),
            changed: Condvar::new(),
            version: watch::Sender::new(0),
            over: watch::Sender::new(true),
            urgent: Notify::new(),
            sent_bytes: AtomicU64::new(0),
            wire_bytes: AtomicU64::new(0),
            mirror_bytes: AtomicU64::new(0),
            applied_latency: Latency::default(),
            durable_latency: Latency::default(),
            sent_ops: OpCounters::default(),
        }
    }

    fn publish(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Returns when the session under way ends.
    pub(super) async fn until_over(&self) {
        let mut over = self.over.subscribe();
        // The other end lives as long as `self`.
        let _ = over.wait_for(|over| *over).await;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.inner.lock().stopping
    }

    /// Tells the thread and its tasks to end.
    pub(super) fn stop(&self) {
        let mut inner = self.inner.lock();
        inner.stopping = true;
        if !matches!(inner.end, Some(Error::Panicked)) {
            inner.end = Some(Error::Stopped);
        }
        drop(inner);
        self.end_session(Error::Stopped);
    }

    /// The next session begins with a full mirror; the one under way ends.
    pub(super) fn ask_mirror(&self) {
        self.inner.lock().mirror_asked = true;
        self.end_session(Error::MirrorAsked);
    }

    /// What is wanted of the connection.
    pub(super) fn wish(&self) -> Wish {
        self.inner.lock().wish.clone()
    }

    /// From now on nothing more is handed to the link, until [`Shared::take_wish`].
    pub(super) fn freeze(&self) {
        self.inner.lock().frozen = true;
    }

    /// Acts on what is wanted from now on. Written down already.
    pub(super) fn take_wish(&self, wish: Wish) {
        let mut inner = self.inner.lock();
        inner.frozen = false;
        // What was not kept is missing there.
        inner.mirror_asked |= !inner.wish.is_kept() && wish.is_kept();
        let is_connected = wish.is_connected();
        inner.wish = wish;
        drop(inner);
        self.changed.notify_all();
        self.options.journal.wake();
        if !is_connected {
            self.end_session(Error::Disconnected);
        }
        self.publish();
    }

    /// What is wanted, once it is known: while all is frozen it is about to change. `None`: the session is over.
    pub(super) fn settled_wish(&self) -> Option<Wish> {
        let mut inner = self.inner.lock();
        while inner.frozen && !*self.over.borrow() {
            self.changed.wait(&mut inner);
        }
        (!*self.over.borrow()).then(|| inner.wish.clone())
    }

    /// Waits until a session is wanted; false when the sender stops.
    pub(super) fn await_wish(&self) -> bool {
        let mut inner = self.inner.lock();
        while !inner.stopping && !inner.wish.is_connected() {
            self.changed.wait(&mut inner);
        }
        !inner.stopping
    }

    /// Waits until more may be sent than up to `limit`, or the session is over.
    pub(super) fn await_limit_above(&self, limit: Seq) {
        let mut inner = self.inner.lock();
        while inner.limit() <= limit && !*self.over.borrow() {
            self.changed.wait(&mut inner);
        }
    }

    /// The last record that may be sent now.
    pub(super) fn limit(&self) -> Seq {
        self.inner.lock().limit()
    }

    pub(super) fn take_mirror_request(&self) -> bool {
        std::mem::take(&mut self.inner.lock().mirror_asked)
    }

    /// What is known before the first session: the cursor, if the target was met in this history.
    /// `lost`: nothing was kept for it meanwhile.
    pub(super) fn resume(&self, durable: Seq, bytes: u64, met: bool, lost: bool) {
        let mut inner = self.inner.lock();
        inner.marks = Marks {
            sent: durable,
            received: durable,
            applied: durable,
            durable,
        };
        inner.progress.restart(durable, bytes);
        if !met {
            inner.data = DataState::MirrorRequired;
        }
        inner.mirror_asked |= lost;
    }

    /// A session may be tried: nothing is over yet.
    pub(super) fn arm(&self) {
        let mut inner = self.inner.lock();
        if !inner.stopping && inner.wish.is_connected() {
            inner.end = None;
            self.over.send_replace(false);
        }
    }

    /// A session begins at `start`, whose bytes on the journal's scale are `bytes`.
    pub(super) fn begin_session(
        &self,
        welcome: &Welcome,
        start: &Start,
        bytes: u64,
        protection: String,
    ) {
        let after = start.after;
        let mut inner = self.inner.lock();
        inner.link = Link::Connected;
        inner.connected_since = Some(sys::now());
        inner.sessions += 1;
        inner.protection = Some(protection);
        inner.replica_path = Some(welcome.replica_path.clone());
        inner.target_state = welcome.state;
        inner.error = None;
        inner.marks = marks_at(inner.marks, welcome, start);
        if start.jump || welcome.mirror.is_some() {
            inner.data = DataState::Mirroring;
        }
        inner.handed_bytes = bytes;
        inner.progress.restart(after, bytes);
        inner.oldest = None;
        drop(inner);
        self.publish();
    }

    /// Ends the session under way; the first reason counts, but a refusal says more than a broken
    /// connection.
    pub(super) fn end_session(&self, error: Error) {
        let mut inner = self.inner.lock();
        let told = matches!(error, Error::Refused { .. });
        if inner.end.is_none() || told {
            inner.end = Some(error);
        }
        // Under the lock: who looks at it under the lock and then waits is surely told.
        self.over.send_replace(true);
        drop(inner);
        self.changed.notify_all();
        self.options.journal.wake();
    }

    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Why the session ended; shown until the next one begins.
    pub(super) fn close_session(&self, required: bool) -> Option<Error> {
        let mut inner = self.inner.lock();
        inner.link = if inner.stopping {
            Link::Stopped
        } else {
            Link::Connecting
        };
        inner.connected_since = None;
        inner.protection = None;
        if required {
            inner.data = DataState::MirrorRequired;
        }
        let end = inner.end.take();
        match &end {
            // It is as it was wanted.
            Some(Error::Disconnected) => inner.error = None,
            Some(error) => inner.error = Some(error.to_string()),
            None => {}
        }
        drop(inner);
        self.publish();
        end
    }

    /// Waits before the next attempt; false when the sender stops.
    pub(super) fn pause(&self, patience: Duration) -> bool {
        let until = sys::monotonic_ns() + u64::try_from(patience.as_nanos()).unwrap_or(0);
        let mut inner = self.inner.lock();
        loop {
            let left = until.saturating_sub(sys::monotonic_ns());
            if inner.stopping || left == 0 {
                return !inner.stopping;
            }
            self.changed
                .wait_for(&mut inner, Duration::from_nanos(left));
        }
    }

    /// Notes records that go into the next batch, and waits until the window has room for them.
    pub(super) fn hand_over(&self, notes: &[Note]) -> Handed {
        let mut inner = self.inner.lock();
        while inner.frozen && !*self.over.borrow() {
            self.changed.wait(&mut inner);
        }
        if *self.over.borrow() {
            return Handed::Over;
        }
        let limit = inner.limit();
        if notes.last().is_some_and(|last| last.seq > limit) {
            return Handed::TooFar;
        }
        for note in notes {
            inner.progress.push(*note);
            inner.handed_bytes = note.bytes_end;
        }
        loop {
            if *self.over.borrow() {
                return Handed::Over;
            }
            let received = inner.progress.bytes_at(inner.marks.received);
            if inner.handed_bytes.saturating_sub(received) <= WINDOW_BYTES {
                return Handed::Yes;
            }
            self.changed.wait(&mut inner);
        }
    }

    /// A batch that ends with `seq` goes to the socket.
    pub(super) fn sending(&self, seq: Seq) {
        let mut inner = self.inner.lock();
        inner.marks.sent = inner.marks.sent.max(seq);
    }

    /// A batch went to the socket.
    pub(super) fn sent(&self, raw_bytes: u64, mirror_bytes: u64) {
        self.sent_bytes.fetch_add(raw_bytes, Ordering::Relaxed);
        self.mirror_bytes.fetch_add(mirror_bytes, Ordering::Relaxed);
        self.publish();
    }

    /// Bytes went to the socket.
    pub(super) fn wrote(&self, bytes: u64) {
        self.wire_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes an answer; the record durable on the target. [`Shared::announce`] follows.
    pub(super) fn acknowledge(&self, ack: Ack) -> Result<Seq, Error> {
        let mut inner = self.inner.lock();
        let marks = inner.marks;
        let Some(fresh) = marks_after(marks, &ack) else {
            return Err(Error::Protocol {
                endpoint: self.options.target.endpoint(),
                what: format!(
                    "acknowledges received {} applied {} durable {} when {marks:?}",
                    ack.received, ack.applied, ack.durable
                ),
            });
        };
        let before = std::mem::replace(&mut inner.marks, fresh);
        let now_ns = sys::realtime_ns();
        for (latency, from, to) in [
            (&self.applied_latency, before.applied, inner.marks.applied),
            (&self.durable_latency, before.durable, inner.marks.durable),
        ] {
            for (captured_ns, count) in inner.progress.times_between(from, to) {
                latency.note_many(now_ns.saturating_sub(captured_ns), count);
            }
        }
        assert!(inner.marks.durable <= inner.marks.applied, "marks in order");
        assert!(
            inner.marks.applied <= inner.marks.received,
            "marks in order"
        );
        assert!(inner.marks.received <= inner.marks.sent, "marks in order");
        inner.progress.forget_before(ack.durable);
        inner.data = ack.data;
        inner.target_state = ack.state;
        inner.error = ack.error;
        inner.mirror = ack.mirror;
        inner.is_staged = ack.is_staged;
        inner.is_heard = true;
        if ack.last_path.is_some() {
            inner.last_path = ack.last_path;
        }
        Ok(ack.durable)
    }

    /// The answer taken is complete, cursor included: wakes who waits for it.
    pub(super) fn announce(&self) {
        self.changed.notify_all();
        self.publish();
    }

    /// Somebody waits until everything up to `upto` is durable.
    pub(super) fn want_checkpoint(&self, upto: Seq) {
        let mut inner = self.inner.lock();
        inner.checkpoint_upto = inner.checkpoint_upto.max(upto);
        drop(inner);
        self.urgent.notify_one();
    }

    /// Up to where a checkpoint is waited for and not there yet.
    pub(super) fn checkpoint_wanted(&self) -> Option<Seq> {
        let inner = self.inner.lock();
        (inner.checkpoint_upto > inner.marks.durable).then_some(inner.checkpoint_upto)
    }

    pub(super) fn received(&self) -> Seq {
        self.inner.lock().marks.received
    }

    /// The connection at this moment.
    pub(super) fn state(&self) -> SenderState {
        let options = &self.options;
        let lost = options.journal.cursor(&options.cursor()).is_none();
        let inner = self.inner.lock();
        let marks = inner.marks;
        let at = [marks.sent, marks.received, marks.applied, marks.durable];
        let stages = at.map(|seq| {
            let is_forgotten = inner.progress.is_before(seq);
            let oldest = inner.progress.time_after(seq).filter(|_| !is_forgotten);
            ((seq, inner.progress.bytes_at(seq), oldest), is_forgotten)
        });
        let remembered = inner.oldest;
        let unlinked = inner.link != Link::Connected;
        let mut state = SenderState {
            id: options.id,
            target: options.target.clone(),
            replica_path: inner.replica_path.clone(),
            link: inner.link,
            connected_since: inner.connected_since,
            sessions: inner.sessions,
            protection: inner.protection.clone(),
            data: if unlinked && lost || !inner.wish.is_kept() || inner.mirror_asked {
                DataState::MirrorRequired
            } else {
                inner.data
            },
            target_state: inner.target_state,
            marks,
            end: Seq::ZERO,
            lags: Lags::default(),
            sent: self.sent_ops.get(),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            wire_bytes: self.wire_bytes.load(Ordering::Relaxed),
            mirror_bytes: self.mirror_bytes.load(Ordering::Relaxed),
            last_path: inner.last_path.clone(),
            mirror: inner.mirror,
            is_staged: inner.is_staged,
            error: inner.error.clone(),
            wish: inner.wish.clone(),
            is_heard: inner.is_heard,
            latencies: Latencies {
                applied: self.applied_latency.percentiles(),
                durable: self.durable_latency.percentiles(),
            },
        };
        drop(inner);
        // After the marks, so that the end is never before them.
        state.end = options.journal.end();
        let [sent, received, applied, durable] = stages.map(|(stage, is_forgotten)| {
            let is_read = unlinked || is_forgotten;
            self.lag(stage, state.end, is_read.then_some(remembered))
        });
        state.lags = Lags {
            sent,
            received,
            applied,
            durable,
        };
        state
    }

    /// How far a mark is behind the end: its position, the bytes up to it, and when the first record
    /// after it was captured, as far as that is remembered.
    fn lag(
        &self,
        (seq, bytes, oldest_ns): (Seq, u64, Option<u64>),
        end: Seq,
        to_read: Option<Option<Oldest>>,
    ) -> Lag {
        let ops = end.0.saturating_sub(seq.0);
        if ops == 0 {
            return Lag::default();
        }
        let read = || self.oldest_pending(seq, to_read?);
        let behind = oldest_ns
            .or_else(read)
            .map_or(0, |then| sys::realtime_ns().saturating_sub(then));
        Lag {
            ops,
            bytes: self.options.journal.end_bytes().saturating_sub(bytes),
            seconds: Duration::from_nanos(behind).as_secs_f64(),
        }
    }

    /// When the first record after `applied` was captured, read from the journal. While it rises, and many
    /// look, what was read a moment ago will do: the age is a little too high then.
    fn oldest_pending(&self, applied: Seq, remembered: Option<Oldest>) -> Option<u64> {
        let now_ns = sys::monotonic_ns();
        let still_good = |known: &Oldest| {
            let is_recent = now_ns.saturating_sub(known.read_ns) < OLDEST_GOOD_NS;
            known.seq == applied || known.seq < applied && is_recent
        };
        if let Some(known) = remembered.filter(still_good) {
            return Some(known.time_ns);
        }
        let journal = &self.options.journal;
        let first = || journal.reader(applied).ok()?.next().ok()?;
        let then = first().map(|frame| frame.header().time_ns);
        let then = then.or_else(|| journal.usage().oldest_time_ns)?;
        self.inner.lock().oldest = Some(Oldest {
            seq: applied,
            time_ns: then,
            read_ns: now_ns,
        });
        Some(then)
    }
}
