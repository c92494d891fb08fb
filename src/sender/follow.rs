//! The thread of a connection: session after session, frames from the journal into batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::codec::Frame;
use crate::journal;
use crate::journal::Reader;
use crate::sys;
use crate::types::{Kind, Seq, limits};
use crate::wire::{Connector, Message, Packer, Start, Welcome, write_message};

use super::beginning::Beginning;
use super::connect::{Greeted, greet};
use super::effort::{Batch, Effort};
use super::error::Error;
use super::progress::Note;
use super::session::{Outgoing, read_task, write_task};
use super::shared::{Handed, SILENCE_MAX, Shared};
use super::wish::{PausePoint, Wish};

/// Pauses between attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Batches between the thread and the socket.
const BATCHES_READY: usize = 2;
/// The journal wakes the thread; this bounds a wake-up that came just before the wait.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// After a batch of less than this, so long the next one gathers. Who appends meanwhile need not wake this thread, which
/// would cost a program more than its record does, and a batch holds many records instead of one.
const GATHER_BYTES: usize = 256 << 10;
const GATHER: Duration = Duration::from_millis(5);
/// Smallest limit of a batch, for links that break before a large one is through.
const BATCH_BYTES_MIN: usize = 4 << 10;
/// A session that lasted so long was a good one.
const GOOD_SESSION_NS: u64 = 5_000_000_000;
/// A full batch that was through sooner may be followed by one of twice the size: what a link takes in this time
/// is not much to lose when it breaks.
const QUICK_BATCH: Duration = Duration::from_millis(250);

/// Runs until the sender is stopped. A panic stops this connection, visibly, and no other.
pub(super) fn run(shared: &Arc<Shared>) {
    let body = std::panic::AssertUnwindSafe(|| run_sessions(shared));
    if std::panic::catch_unwind(body).is_err() {
        shared.end_session(Error::Panicked);
        shared.stop();
        shared.close_session(false);
    }
}

fn run_sessions(shared: &Arc<Shared>) {
    let mut pause = BACKOFF_MIN;
    let mut jump_required = false;
    let mut batch_bytes = limits::BATCH_BYTES_MAX;
    let mut connector = None;
    loop {
        if !shared.wish().is_kept() {
            // A session that began meanwhile may have entered it again.
            let options = &shared.options;
            options.journal.unregister(&options.cursor());
        }
        if !shared.await_wish() {
            break;
        }
        let (began, before) = (sys::monotonic_ns(), shared.received());
        shared.arm();
        if shared.is_stopping() {
            break;
        }
        jump_required |= shared.take_mirror_request();
        let session = one_session(shared, &mut connector, &mut jump_required, &mut batch_bytes);
        let had_session = session.is_ok();
        if let Err(e) = session {
            jump_required |= needs_jump(&e);
            shared.end_session(e);
        }
        let required = jump_required;
        shared.options.events.wants_reset(shared.options.id);
        if let Some(error) = shared.close_session(required) {
            report(shared, &error);
        }
        let lasted = sys::monotonic_ns() - began;
        if lasted > GOOD_SESSION_NS || shared.received() > before {
            pause = BACKOFF_MIN;
        } else if had_session {
            // Perhaps the link breaks before a batch is through.
            batch_bytes = (batch_bytes / 4).max(BATCH_BYTES_MIN);
        }
        if !shared.pause(jittered(pause)) {
            break;
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
    shared.close_session(false);
}

fn report(shared: &Shared, error: &Error) {
    let (set, id) = (&shared.options.set, shared.options.id);
    match error {
        Error::Stopped => info!(%set, id, "connection stopped"),
        Error::Disconnected => info!(%set, id, "disconnected by hand"),
        other => warn!(%set, id, error = %other, "no session with the target"),
    }
}

/// Can the journal not be followed from where the target stands?
fn needs_jump(error: &Error) -> bool {
    match error {
        Error::Journal { source } => matches!(
            source,
            journal::Error::Trimmed { .. } | journal::Error::Corrupt { .. }
        ),
        Error::Resolve { .. }
        | Error::Connect { .. }
        | Error::ConnectTimeout { .. }
        | Error::Keys { .. }
        | Error::NotLoopback { .. }
        | Error::Wire { .. }
        | Error::Refused { .. }
        | Error::Protocol { .. }
        | Error::Mirror { .. }
        | Error::Thread { .. }
        | Error::Panicked
        | Error::MirrorAsked
        | Error::Disconnected
        | Error::PausedApart
        | Error::Stopped => false,
    }
}

/// Between half of it and all of it, so that many sources do not knock together.
fn jittered(pause: Duration) -> Duration {
    let random = sys::random_u128().unwrap_or(0);
    let part = u32::try_from(random % 1024).unwrap_or(0);
    pause / 2 + pause / 2 * part / 1024
}

fn journal_failed(source: journal::Error) -> Error {
    Error::Journal { source }
}

/// Takes up what the journal remembers of this connection; a new one holds back all there is.
pub(super) fn resume(shared: &Shared) {
    let options = &shared.options;
    let (journal, cursor) = (&options.journal, options.cursor());
    let met = journal.get(&options.met_fact()).ok().flatten();
    let histories = options.forks.iter().map(|fork| fork.history);
    let met = met.is_some_and(|fact| {
        let mut known = histories.chain([options.history]);
        known.any(|history| fact == history.0.to_le_bytes())
    });
    let is_kept = shared.wish().is_kept();
    let durable = match journal.cursor(&cursor) {
        Some(seq) => seq,
        None if !is_kept => journal.end(),
        None => {
            let seq = Seq(journal.first().0.saturating_sub(1));
            if let Err(e) = journal.register(&cursor, seq) {
                warn!(set = %options.set, id = options.id, error = %e, "no cursor in the queue");
            }
            seq
        }
    };
    let bytes = match journal.reader(durable) {
        Ok(reader) => reader.bytes(),
        Err(_) => journal.end_bytes(),
    };
    shared.resume(durable, bytes, met, !is_kept);
}

/// One session, from the connection attempt to its end. An error says that none began.
fn one_session(
    shared: &Arc<Shared>,
    connector: &mut Option<Connector>,
    jump_required: &mut bool,
    batch_bytes: &mut usize,
) -> Result<(), Error> {
    let options = &shared.options;
    let runtime = &options.runtime;
    let greeted = runtime.block_on(async {
        tokio::select! {
            greeted = greet(options, connector, *jump_required) => greeted,
            () = shared.until_over() => Err(Error::Stopped),
        }
    })?;
    let Greeted {
        mut reader,
        mut writer,
        welcome,
        wrote,
        protection,
        next_key,
    } = greeted;
    shared.wrote(wrote);
    if let Wish::Pause(point) = shared.settled_wish().ok_or(Error::Stopped)? {
        stay_paused(shared, &point, &welcome, *jump_required)?;
    }
    let start = Start {
        next_key,
        ..choose_start(shared, &welcome, *jump_required)?
    };
    // Who paused meanwhile has looked for a mirror that begins before the mark.
    if let Wish::Pause(point) = shared.settled_wish().ok_or(Error::Stopped)?
        && !keeps_still(&start, &point)
    {
        return Err(Error::PausedApart);
    }
    let frames = options
        .journal
        .reader(start.after)
        .map_err(journal_failed)?;
    let message = Message::Start(start.clone());
    let wrote = runtime.block_on(write_message(&mut writer, &message));
    let endpoint = options.target.endpoint();
    shared.wrote(wrote.map_err(|source| Error::Wire { endpoint, source })?);
    *jump_required = false;
    remember_met(shared);
    info!(set = %options.set, id = options.id, after = %start.after, jump = start.jump, protection, "session");
    shared.begin_session(&welcome, &start, frames.bytes(), protection);
    reader.set_patience(SILENCE_MAX);
    let (batches, ready) = mpsc::channel(BATCHES_READY);
    let writing = runtime.spawn(write_task(Arc::clone(shared), writer, ready));
    let reading = runtime.spawn(read_task(Arc::clone(shared), reader));
    let followed = follow(shared, frames, &batches, batch_bytes);
    if let Err(e) = followed {
        *jump_required |= needs_jump(&e);
        shared.end_session(e);
    }
    drop(batches);
    runtime.block_on(async {
        // A task that panicked has ended its session by dropping the socket.
        let _ = writing.await;
        let _ = reading.await;
    });
    Ok(())
}

/// Where the session begins; for a jump the beginning of a full mirror is appended first.
fn choose_start(shared: &Shared, welcome: &Welcome, required: bool) -> Result<Start, Error> {
    let options = &shared.options;
    let (journal, cursor) = (&options.journal, options.cursor());
    let received = welcome.received;
    let why = match options.line().beginning(welcome, required) {
        Beginning::GoesOn { start, durable } => {
            journal.register(&cursor, durable).map_err(journal_failed)?;
            if let Some(theirs) = start.fork {
                info!(set = %options.set, id = options.id, %theirs, %received, after = %start.after, "goes on from a history that ended");
            }
            return Ok(start);
        }
        Beginning::Mirror(why) => why,
    };
    // Held back before it is written, so that nobody trims it in between.
    journal
        .register(&cursor, journal.end())
        .map_err(journal_failed)?;
    let begin = options
        .events
        .begin_full_mirror(options.id)
        .map_err(|source| Error::Mirror { source })?;
    let start = options.line().jump_to(begin);
    journal
        .register(&cursor, start.after)
        .map_err(journal_failed)?;
    info!(set = %options.set, id = options.id, theirs = ?welcome.history, %received, ?why, %begin, "full mirror");
    Ok(start)
}

/// Does this beginning send nothing but records up to the point?
fn keeps_still(start: &Start, point: &PausePoint) -> bool {
    !start.jump && start.fork.is_none() && start.after <= point.seq
}

/// Can the session begin without changing what the replica is to stay?
fn stay_paused(
    shared: &Shared,
    point: &PausePoint,
    welcome: &Welcome,
    required: bool,
) -> Result<(), Error> {
    let options = &shared.options;
    let goes_on = match options.line().beginning(welcome, required) {
        Beginning::GoesOn { start, .. } => keeps_still(&start, point),
        Beginning::Mirror(_) => false,
    };
    match goes_on && point.history == options.history {
        true => Ok(()),
        false => Err(Error::PausedApart),
    }
}

fn remember_met(shared: &Shared) {
    let options = &shared.options;
    let fact = options.history.0.to_le_bytes();
    let known = options.journal.get(&options.met_fact()).ok().flatten();
    if known.is_some_and(|known| known == fact) {
        return;
    }
    if let Err(e) = options.journal.put(&options.met_fact(), &fact) {
        // Only what `status` shows before the first session of the next start depends on it.
        warn!(set = %options.set, id = options.id, error = %e, "not remembered");
    }
}

/// A batch being filled.
#[derive(Default)]
struct Filling {
    raw: Vec<u8>,
    notes: Vec<Note>,
    kinds: Vec<Kind>,
    mirror_bytes: u64,
}

impl Filling {
    fn clear(&mut self) {
        self.raw.clear();
        self.notes.clear();
        self.kinds.clear();
        self.mirror_bytes = 0;
    }

    /// Adds frames as long as they fit and are not beyond the limit; returns the first that is not added.
    fn fill(
        &mut self,
        mut carried: Option<Frame>,
        reader: &mut Reader,
        limit: Seq,
        batch_bytes: usize,
    ) -> Result<Option<Frame>, Error> {
        loop {
            let next = match carried.take() {
                Some(frame) => Some(frame),
                None => reader.next().map_err(journal_failed)?,
            };
            let Some(frame) = next else { return Ok(None) };
            if frame.header().seq > limit || !self.add(&frame, reader.bytes(), batch_bytes) {
                return Ok(Some(frame));
            }
        }
    }

    /// Adds a frame; false when it does not fit any more.
    fn add(&mut self, frame: &Frame, bytes_end: u64, batch_bytes: usize) -> bool {
        let bytes = frame.bytes();
        if !self.raw.is_empty() && self.raw.len() + bytes.len() > batch_bytes {
            return false;
        }
        self.raw.extend_from_slice(bytes);
        let header = frame.header();
        self.notes.push(Note {
            seq: header.seq,
            bytes_end,
            time_ns: header.time_ns,
            captured: u64::from(!header.kind.is_mirror()),
        });
        self.kinds.push(header.kind);
        if header.kind.is_mirror() {
            self.mirror_bytes += bytes.len() as u64;
        }
        true
    }
}

/// Reads frames and hands batches to the writing task until the session is over. Limits of batches that were made small
/// for a bad link rise step by step: one that is slow would not get a batch of the largest size through, or break before.
fn follow(
    shared: &Shared,
    mut reader: Reader,
    batches: &mpsc::Sender<Outgoing>,
    batch_bytes: &mut usize,
) -> Result<(), Error> {
    let journal = &shared.options.journal;
    let mut packer = Packer::new();
    let mut filling = Filling::default();
    let mut carried = None;
    let mut handed = reader.seq();
    let mut effort = Effort::new();
    let began = sys::monotonic_ns();
    loop {
        filling.clear();
        let limit = shared.limit();
        let (read_from, cpu_from) = (sys::monotonic_ns(), sys::thread_cpu_ns());
        carried = filling.fill(carried.take(), &mut reader, limit, *batch_bytes)?;
        if shared.is_over() {
            return Ok(());
        }
        let Some(last) = filling.notes.last() else {
            match carried.is_some() {
                true => shared.await_limit_above(limit),
                false => drop(journal.wait_beyond(reader.seq(), WAIT_MAX)),
            }
            continue;
        };
        let seq = last.seq;
        let read_at = sys::monotonic_ns();
        match shared.hand_over(&filling.notes) {
            Handed::Yes => {}
            Handed::Over => return Ok(()),
            Handed::TooFar => {
                reader = journal.reader(handed).map_err(journal_failed)?;
                carried = None;
                continue;
            }
        }
        handed = seq;
        for kind in &filling.kinds {
            shared.sent_ops.note(*kind);
        }
        let is_small = filling.raw.len() < GATHER_BYTES;
        let let_at = sys::monotonic_ns();
        packer.set_level(effort.level());
        let packed = packer.pack(&filling.raw);
        let (packed_at, cpu_at) = (sys::monotonic_ns(), sys::thread_cpu_ns());
        let mut batch = Batch {
            raw_bytes: packed.raw_bytes as u64,
            is_smaller: packed.is_compressed,
            is_behind: carried.is_some(),
            packed: Duration::from_nanos(read_at - read_from + packed_at - let_at),
            processor: Duration::from_nanos(cpu_at - cpu_from),
            waited: Duration::ZERO,
        };
        let outgoing = Outgoing {
            packed,
            seq,
            mirror_bytes: filling.mirror_bytes,
        };
        if batches.blocking_send(outgoing).is_err() {
            return Ok(());
        }
        let handed_at = sys::monotonic_ns();
        batch.waited = Duration::from_nanos(let_at - read_at + handed_at - packed_at);
        effort.note(&batch);
        let is_good = handed_at - began > GOOD_SESSION_NS;
        if is_good && batch.is_behind && batch.waited < QUICK_BATCH {
            *batch_bytes = (*batch_bytes * 2).min(limits::BATCH_BYTES_MAX);
        }
        // With more in the queue there is nothing to wait for.
        if is_small && carried.is_none() {
            std::thread::sleep(GATHER);
        }
    }
}
