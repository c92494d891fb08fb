//! The applier thread: from records that are durable here to the replica.

mod checkpoint;
mod pausing;
mod staging;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::codec::Frame;
use crate::journal::Reader;
use crate::sync;
use crate::sys;
use crate::types::{Kind, Seq, limits};
use crate::wire::{DataState, MirrorProgress};

use super::error::Error;
use super::opening::{self, Opened};
use super::position::{Gate, ToldDone, data_state, opened_at};
use super::stream::{Anew, Jump, Stream};
pub(super) use checkpoint::Unwritten;
use checkpoint::{Saver, Unsaved};
use staging::Staging;

/// The journal's cursor of the applier.
pub(super) const CURSOR: &str = "applier";

/// Pauses between attempts at what failed.
const PAUSE_MIN_NS: u64 = 50_000_000;
const PAUSE_MAX_NS: u64 = 5_000_000_000;

/// Between two looks at the board.
const SLICE_RECORDS: u64 = 256;
const SLICE_NS: u64 = 5_000_000;

/// Something failed and is tried again.
#[derive(Debug, Clone, Copy, Default)]
struct Retry {
    /// The next attempt; 0: now.
    at_ns: u64,
    pause_ns: u64,
}

impl Retry {
    fn failed(&mut self) {
        self.pause_ns = (self.pause_ns * 2).clamp(PAUSE_MIN_NS, PAUSE_MAX_NS);
        self.at_ns = sys::monotonic_ns() + self.pause_ns;
    }

    fn succeeded(&mut self) {
        *self = Retry::default();
    }

    fn is_due(&self) -> bool {
        self.at_ns == 0 || sys::monotonic_ns() >= self.at_ns
    }
}

/// The thread's own state.
struct Replay {
    stream: Arc<Stream>,
    applier: opening::StreamApplier,
    reader: Option<Reader>,
    /// Read and not applied yet.
    held: Option<Frame>,
    apply_retry: Retry,
    save_retry: Retry,
    unsaved: Unsaved,
    /// The last checkpoint known; the applier's own answer may wait for one under way.
    durable: Seq,
    saver: Saver,
    told_done: ToldDone,
    /// What is held until a mirror is here in whole; `held` is its first record.
    staging: Option<Staging>,
    /// The gap up to here is applied as it comes.
    unstaged: Seq,
    /// The full mirror under way, and where it was seen first.
    mirrors_from: Option<(u64, Seq)>,
    /// Somebody paused it, and the replica stands where it may.
    rests: bool,
}

/// Runs until the stream stops.
fn run(stream: &Arc<Stream>) {
    let body = std::panic::AssertUnwindSafe(|| open_and_run(stream));
    // A panic takes this stream out of service, visibly, and no other.
    let panicked = std::panic::catch_unwind(body).is_err();
    stream.post(|board| {
        if panicked {
            let text =
                "the applier has stopped on an internal error (see the log); restart the target";
            board.apply_error = Some(text.into());
            board.opened = false;
        }
        board.ended = true;
    });
}

fn open_and_run(stream: &Arc<Stream>) {
    let mut retry = Retry::default();
    while let Some(attempt) = attempt_open(stream, &mut retry) {
        if let Ok(mut replay) = attempt {
            replay.run();
            replay.close();
            break;
        }
    }
}

/// `None`: the stream stops.
fn attempt_open(stream: &Arc<Stream>, retry: &mut Retry) -> Option<Result<Replay, ()>> {
    {
        let mut board = stream.board();
        while !board.stopping && !retry.is_due() {
            stream.wait_until(&mut board, retry.at_ns);
        }
        if board.stopping {
            return None;
        }
    }
    stream.post(|board| board.data = DataState::Recovering);
    match Replay::open(stream) {
        Ok(replay) => Some(Ok(replay)),
        Err(e) => {
            let text = e.to_string();
            warn!(stream = stream.number, error = %text, "stream cannot be opened");
            stream.post(|board| board.apply_error = Some(text));
            retry.failed();
            Some(Err(()))
        }
    }
}

impl Replay {
    fn open(stream: &Arc<Stream>) -> Result<Replay, Error> {
        let Opened { applier, settled } = opening::open(stream)?;
        let saver = Saver::start(stream).map_err(|source| Error::Thread {
            name: format!("dfs-sync-{}", stream.number),
            source,
        })?;
        let mut replay = Replay {
            stream: Arc::clone(stream),
            applier,
            reader: None,
            held: None,
            apply_retry: Retry::default(),
            save_retry: Retry::default(),
            unsaved: Unsaved::default(),
            durable: Seq::ZERO,
            saver,
            told_done: ToldDone::default(),
            staging: None,
            unstaged: Seq::ZERO,
            mirrors_from: None,
            rests: false,
        };
        replay.take_position(settled)?;
        Ok(replay)
    }

    /// Publishes where the applier stands, and follows the journal from there.
    fn take_position(&mut self, settled: bool) -> Result<(), Error> {
        let number = self.stream.number;
        let journal = &self.stream.journal;
        let journal_failed = |source| Error::Journal {
            stream: number,
            source,
        };
        let received = journal.sync().map_err(journal_failed)?;
        let before_first = Seq(journal.first().0.saturating_sub(1));
        let position = opened_at(self.applier.position(), settled, before_first, received);
        if let Some(position) = position {
            let durable = self.applier.durable();
            // After a full mirror's beginning, what is applied may be gone.
            let kept = durable.max(before_first).min(position.seq);
            journal.register(CURSOR, kept).map_err(journal_failed)?;
            if position.seq > durable {
                // Applied before a restart: a checkpoint is due although nothing comes.
                let now = sys::monotonic_ns();
                self.unsaved = Unsaved {
                    bytes: 1,
                    since_ns: now,
                    last_ns: now,
                };
            }
            self.reader = Some(journal.reader(position.seq).map_err(journal_failed)?);
        }
        let durable = self.applier.durable();
        self.durable = durable;
        let data = self.data();
        let is_before_mirror = self.applier.awaits_mirror();
        let mirror = self.mirror_progress();
        self.stream.post(|board| {
            board.opened = true;
            board.apply_error = None;
            board.history = position.map(|p| p.history);
            board.received = position.map_or(Seq::ZERO, |_| received);
            board.applied = position.map_or(Seq::ZERO, |p| p.seq);
            board.durable = position.map_or(Seq::ZERO, |p| durable.min(p.seq));
            board.data = match position {
                Some(_) => data,
                None => DataState::MirrorRequired,
            };
            board.is_before_mirror = is_before_mirror;
            board.mirror = mirror;
        });
        info!(stream = number, ?position, %received, "applier ready");
        Ok(())
    }

    fn data(&self) -> DataState {
        if self.staging.is_some() {
            // Whatever comes is held.
            return DataState::Ok;
        }
        data_state(self.applier.data_state())
    }

    fn mirror_progress(&self) -> Option<MirrorProgress> {
        if let Some(staging) = &self.staging {
            return staging.progress();
        }
        self.applier.mirror().map(|mirror| MirrorProgress {
            mirror: mirror.id,
            pending: mirror.pending as u64,
            done: mirror.done_items,
        })
    }

    fn run(&mut self) {
        loop {
            let ask = {
                let mut board = self.stream.board();
                loop {
                    if board.stopping {
                        return;
                    }
                    if matches!(board.jump, Jump::Asked(_)) {
                        let Jump::Asked(anew) = std::mem::take(&mut board.jump) else {
                            return;
                        };
                        break Ask::Jump(anew);
                    }
                    if let Some(outcome) = board.checkpoint_end.take() {
                        break Ask::Saved(outcome);
                    }
                    let (received, upto) = (board.received, board.checkpoint_upto);
                    if self.gate_opens(board.gate) {
                        board.gate = Gate::Open;
                        break Ask::OpenGate;
                    }
                    if self.is_too_much(&board) {
                        break Ask::Unstage;
                    }
                    self.rests = self.may_rest(board.pause);
                    if self.is_held_now(&board) {
                        break Ask::Hold;
                    }
                    if self.has_work(received) && self.apply_retry.is_due() {
                        break Ask::Apply(received, upto);
                    }
                    let Some(until_ns) = self.next_look(&board, received, upto) else {
                        self.stream.wait(&mut board);
                        continue;
                    };
                    if sys::monotonic_ns() >= until_ns {
                        break Ask::Save;
                    }
                    self.stream.wait_until(&mut board, until_ns);
                }
            };
            self.serve(ask);
        }
    }

    fn serve(&mut self, ask: Ask) {
        match ask {
            Ask::Jump(anew) => self.jump(anew),
            Ask::Saved(outcome) => self.saved(outcome),
            Ask::OpenGate => {
                match &mut self.staging {
                    Some(staging) => self.applier.reset_staged_wants(&mut staging.stage),
                    None => self.applier.reset_wants(),
                }
                self.told_done = ToldDone::default();
                self.publish(None, None);
            }
            Ask::Apply(received, upto) => {
                self.apply_slice(received);
                self.drop_applied();
                if self.save_is_due(received, upto) {
                    self.save();
                }
            }
            Ask::Save => self.save(),
            Ask::Hold => self.hold(),
            Ask::Unstage => {
                info!(
                    stream = self.stream.number,
                    "a mirror is too much to be collected, and is applied as it comes"
                );
                self.unstage();
                self.publish(None, None);
            }
        }
    }

    fn gate_opens(&self, gate: Gate) -> bool {
        gate.opens(self.reader.as_ref().map(|_| self.looked_at()))
    }

    fn has_work(&self, received: Seq) -> bool {
        if let Some(staging) = &self.staging {
            return staging.scout.seq() < received;
        }
        if self.rests {
            return false;
        }
        let reader = self.reader.as_ref();
        self.held.is_some() || reader.is_some_and(|reader| reader.seq() < received)
    }

    /// Applies for a moment, or until nothing is left that is durable here.
    fn apply_slice(&mut self, received: Seq) {
        let began = sys::monotonic_ns();
        let mut last = None;
        let mut failed = None;
        for _ in 0..SLICE_RECORDS {
            if !self.has_work(received) || sys::monotonic_ns() - began > SLICE_NS {
                break;
            }
            if self.staging.is_some() {
                match self.scout() {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                }
            }
            match self.apply_next() {
                Ok(Some(frame)) => last = Some(frame),
                Ok(None) => break,
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        match failed {
            None => self.apply_retry.succeeded(),
            Some(e) => {
                if self.apply_retry.pause_ns == 0 {
                    error!(stream = self.stream.number, error = %e, "replica is held");
                }
                self.stream.counters.failed.add(1);
                self.apply_retry.failed();
                self.publish(last.as_ref(), Some(e.to_string()));
                return;
            }
        }
        self.publish(last.as_ref(), None);
    }

    fn apply_next(&mut self) -> Result<Option<Frame>, Error> {
        let stream = self.stream.number;
        let frame = match (self.held.take(), &mut self.reader) {
            (Some(frame), _) => Some(frame),
            (None, Some(reader)) => reader
                .next()
                .map_err(|source| Error::Journal { stream, source })?,
            (None, None) => None,
        };
        let Some(frame) = frame else { return Ok(None) };
        if self.is_to_be_staged(&frame) {
            self.held = Some(frame);
            self.stage()?;
            return Ok(None);
        }
        if let Err(source) = self.applier.apply(&frame) {
            self.held = Some(frame);
            return Err(Error::Applier { source });
        }
        self.stream.counters.applied.add(1);
        let now = sys::monotonic_ns();
        if self.unsaved.bytes == 0 {
            self.unsaved.since_ns = now;
        }
        self.unsaved.bytes += frame.bytes().len() as u64;
        self.unsaved.last_ns = now;
        if frame.header().kind == Kind::Mark {
            self.note_mark(&frame);
        }
        Ok(Some(frame))
    }

    /// Puts what the applier shows onto the board, hands out wants, tells of a finished mirror.
    fn publish(&mut self, last: Option<&Frame>, error: Option<String>) {
        let path = last
            .and_then(|frame| frame.body().ok())
            .map(|body| body.path);
        let path = path.filter(|path| !path.is_empty());
        let path = path.map(|path| String::from_utf8_lossy(&path).into_owned());
        let (applied, data) = (self.applier.applied(), self.data());
        let is_before_mirror = self.applier.awaits_mirror();
        let mirror = self.mirror_progress();
        let outstanding = match &self.staging {
            Some(staging) => staging.stage.outstanding(),
            None => self.applier.mirror().map_or(0, |m| m.outstanding),
        };
        let (gate, session) = {
            let board = self.stream.board();
            (board.gate, board.session)
        };
        let mut wants = Vec::new();
        let mut done = None;
        if gate == Gate::Open {
            if outstanding < limits::WANT_COUNT_MAX / 2 {
                wants = match &mut self.staging {
                    Some(staging) => staging.stage.take_wants(limits::WANT_COUNT_MAX),
                    None => self.applier.take_wants(limits::WANT_COUNT_MAX),
                };
            }
            done = self.newly_done(session);
        }
        let positioned = self.reader.is_some();
        let scouted = self.staging.as_ref().map(|staging| staging.scout.seq());
        self.stream.post(|board| {
            board.is_staged = scouted.is_some();
            board.stage_rests = scouted.is_some_and(|seq| seq >= board.received);
            board.apply_error = error;
            if positioned {
                board.applied = applied;
                board.data = data;
                board.is_before_mirror = is_before_mirror;
            }
            board.mirror = mirror;
            if path.is_some() {
                board.last_path = path;
            }
            // A session that ended meanwhile asks again.
            if board.session == session {
                board.wants.extend(wants);
                board.done = done.or(board.done);
            }
        });
    }

    fn newly_done(&mut self, session: u64) -> Option<u64> {
        let finished = match &self.staging {
            Some(staging) => staging.stage.mirror().filter(|_| staging.stage.is_done()),
            None => {
                let is_done = self.applier.mirror_done();
                let finished = self.applier.mirror().filter(|_| is_done);
                finished.map(|mirror| mirror.id)
            }
        };
        self.told_done.newly(session, finished)
    }

    /// Sets the position anew. A failure leaves the stream without a position, so that the source
    /// jumps again.
    fn jump(&mut self, anew: Anew) {
        self.settle_saver();
        let position = anew.position;
        let outcome = self.jump_to(anew);
        if let Err(e) = &outcome {
            warn!(stream = self.stream.number, error = %e, "position cannot be set anew");
        }
        let data = self.data();
        let is_before_mirror = self.applier.awaits_mirror();
        let mirror = self.mirror_progress();
        self.stream.post(|board| match outcome {
            Ok(()) => {
                board.is_staged = false;
                board.stage_rests = false;
                board.history = Some(position.history);
                board.received = position.seq;
                board.applied = position.seq;
                board.durable = position.seq;
                board.checkpoint_upto = Seq::ZERO;
                board.data = data;
                board.is_before_mirror = is_before_mirror;
                board.mirror = mirror;
                board.apply_error = None;
                board.wants.clear();
                board.done = None;
                board.jump = Jump::Done;
            }
            Err(e) => {
                board.history = None;
                board.data = DataState::MirrorRequired;
                board.jump = Jump::Failed(e.to_string());
            }
        });
    }

    fn jump_to(&mut self, anew: Anew) -> Result<(), Error> {
        let Anew {
            position,
            is_fork,
            remap,
        } = anew;
        let stream = self.stream.number;
        let journal_failed = |source| Error::Journal { stream, source };
        self.reader = None;
        self.held = None;
        self.staging = None;
        self.unstaged = Seq::ZERO;
        self.mirrors_from = None;
        self.unsaved = Unsaved::default();
        self.apply_retry.succeeded();
        self.save_retry.succeeded();
        self.told_done = ToldDone::default();
        self.durable = position.seq;
        // In one step: whoever finds the new way of making links finds that a full mirror is due.
        self.stream.update_record(|record| {
            record.settled = false;
            record.remap.clone_from(&remap);
        })?;
        self.applier.set_remap(remap);
        let journal = &self.stream.journal;
        journal.reset(position.seq).map_err(journal_failed)?;
        let reset = match is_fork {
            true => self.applier.continue_in(position),
            false => self.applier.reset_to(position),
        };
        reset.map_err(|source| Error::Applier { source })?;
        journal
            .register(CURSOR, position.seq)
            .map_err(journal_failed)?;
        self.stream.update_record(|record| {
            record.settled = true;
            record.history = Some(position.history.0);
        })?;
        self.reader = Some(journal.reader(position.seq).map_err(journal_failed)?);
        Ok(())
    }

    /// Ends in order: the checkpoint under way, a last one, the journal.
    fn close(mut self) {
        self.settle_saver();
        self.saver.stop();
        let (stream, applied) = (Arc::clone(&self.stream), self.applier.applied());
        let positioned = self.reader.is_some();
        drop(self.reader.take());
        match self.applier.close() {
            Ok(()) if positioned => stream.journal.advance(CURSOR, applied),
            Ok(()) => {}
            Err(e) => warn!(stream = stream.number, error = %e, "last checkpoint failed"),
        }
    }
}

/// What the thread does next.
enum Ask {
    Jump(Anew),
    Saved(Result<Seq, Unwritten>),
    OpenGate,
    Apply(Seq, Seq),
    Save,
    Hold,
    Unstage,
}

/// Starts the thread.
pub(super) fn start(stream: &Arc<Stream>) -> Result<JoinHandle<()>, Error> {
    let name = format!("dfs-apply-{}", stream.number);
    let stream = Arc::clone(stream);
    let thread = sync::spawn(&name, move || run(&stream));
    thread.map_err(|source| Error::Thread { name, source })
}

/// How long the rest of the target waits for a stream that is being opened.
pub(super) const OPEN_PATIENCE: Duration = Duration::from_secs(5);
