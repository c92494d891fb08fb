//! Marks, pauses, and what else an administrator wants of the connections.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::capture::Capture;
use crate::control::status::MarkStatus;
use crate::control::{Refusal, RefusalCode, Reply};
use crate::journal;
use crate::receiver::Target;
use crate::sender::{PausePoint, Sender, Wish};
use crate::sync::{self, Mutex, MutexGuard, Rank};
use crate::sys;
use crate::types::{MarkName, Op, Seq};

use super::source::Source;

/// The longest that programs may be held for a point that several sets share.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// What is done while everything is held.
type Job = Box<dyn FnOnce() + Send>;

/// Everything is held.
struct Hold {
    number: u64,
    /// It ends then by itself.
    until: Instant,
    jobs: mpsc::Sender<Job>,
}

/// Marks and holds of a set.
pub(super) struct Pauses {
    /// Guards the hold under way, at most one.
    hold: Mutex<Option<Hold>>,
    /// Guards the last mark that was set.
    mark: Mutex<Option<MarkStatus>>,
    /// Guards nothing: one change of what is wanted at a time.
    turn: Mutex<()>,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses {
            hold: Mutex::new(Rank::Leaf, None),
            mark: Mutex::new(Rank::Leaf, None),
            turn: Mutex::new(Rank::Daemon, ()),
        }
    }
}

impl Pauses {
    /// The hold of this number, which ends with what is returned.
    fn take_hold(&self, number: u64) -> Option<Hold> {
        let mut hold = self.hold.lock();
        hold.take_if(|hold| hold.number == number)
    }

    /// Nobody else changes what is wanted, or begins a mirror by hand, meanwhile.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// The last mark that this worker set.
    pub(super) fn last_mark(&self) -> Option<MarkStatus> {
        self.mark.lock().clone()
    }
}

fn no(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::State, text)
}

/// Waits until nothing is under way, and holds what would begin, until a mark is set or the time is over.
pub(super) fn hold(source: &Arc<Source>, milliseconds: u64) -> Result<Reply, Refusal> {
    let patience = Duration::from_millis(milliseconds);
    if patience.is_zero() || patience > HOLD_MAX {
        let most = HOLD_MAX.as_millis();
        let text = format!("programs can be held for 1 to {most} ms, not for {milliseconds}");
        return Err(Refusal::new(RefusalCode::Malformed, text));
    }
    let random = sys::random_u128().map_err(|e| no(format!("no random number: {e}")))?;
    // As many bits as every reader of JSON has for a number.
    let number = (random >> 75) as u64;
    let (jobs, queue) = mpsc::channel::<Job>();
    let (ready, is_ready) = mpsc::channel();
    let until = Instant::now() + patience;
    {
        let mut hold = source.pauses.hold.lock();
        if hold
            .as_ref()
            .is_some_and(|hold| Instant::now() < hold.until)
        {
            return Err(no(
                "somebody else holds this set just now; try again in a moment",
            ));
        }
        *hold = Some(Hold {
            number,
            until,
            jobs,
        });
    }
    let capture = Arc::clone(&source.capture);
    let thread = sync::spawn("dfs-hold", move || {
        let Some(still) = capture.hold_still(until) else {
            return;
        };
        // Nobody waits for it any more: what is held is let go below.
        let _ = ready.send(());
        let left = until.saturating_duration_since(Instant::now());
        if let Ok(job) = queue.recv_timeout(left) {
            job();
        }
        drop(still);
    });
    let held = match thread {
        Ok(_) => is_ready.recv().map_err(|_| {
            no(format!(
                "operations of this set are under way for longer than {milliseconds} ms"
            ))
        }),
        Err(error) => Err(no(format!("no thread: {error}"))),
    };
    if held.is_err() {
        source.pauses.take_hold(number);
    }
    held.map(|()| Reply::Held { hold: number })
}

/// Appends a mark, within the hold if one is named.
fn append(source: &Source, name: &MarkName, hold: Option<u64>) -> Result<Seq, Refusal> {
    let op = Op::Mark { name: name.clone() };
    let seq = match hold {
        None => source.capture.append_job(op),
        Some(number) => append_held(source, op, number)?,
    };
    let seq = seq.map_err(|e| no(format!("the mark cannot be recorded: {e}")))?;
    tracing::info!(%name, %seq, "mark");
    *source.pauses.mark.lock() = Some(MarkStatus {
        name: name.to_string(),
        seq: seq.0,
        time: u64::try_from(sys::now().secs).unwrap_or(0),
    });
    Ok(seq)
}

fn append_held(
    source: &Source,
    op: Op,
    number: u64,
) -> Result<Result<Seq, journal::Error>, Refusal> {
    let over = || no("the hold is over already: the machine is too busy for a common point");
    let held = source.pauses.take_hold(number).ok_or_else(over)?;
    let (done, outcome) = mpsc::channel();
    let capture: Arc<Capture> = Arc::clone(&source.capture);
    let job: Job = Box::new(move || {
        // Who asked waits for it.
        let _ = done.send(capture.append_job(op));
    });
    held.jobs.send(job).map_err(|_| over())?;
    outcome.recv().map_err(|_| over())
}

/// Gives this point a name.
pub(super) fn mark(source: &Source, name: MarkName, hold: Option<u64>) -> Result<Reply, Refusal> {
    let seq = append(source, &name, hold)?;
    Ok(Reply::Marked { seq: seq.0 })
}

/// Why a point here and now would not be one at which the replicas are what the source was.
fn why_no_point(source: &Source, senders: &[Arc<Sender>]) -> Option<String> {
    if source.capture.is_checking() {
        return Some("what was changed while it was not mounted is being looked for".to_owned());
    }
    if source.capture.has_open_gap() {
        return Some("operations could not be recorded and wait for the queue's disk".to_owned());
    }
    senders.iter().find_map(|sender| {
        let state = sender.state();
        let target = &state.target;
        match &state.wish {
            Wish::Run => {}
            Wish::Pause(point) => {
                return Some(format!("{target} is paused already, at {}", point.mark));
            }
            Wish::Disconnect { .. } => return Some(format!("{target} is disconnected")),
            Wish::Stop => return Some(format!("replication to {target} is stopped")),
        }
        if !state.is_heard {
            return Some(format!("{target} has not said yet how its replica is"));
        }
        if !state.is_whole() {
            return Some(format!("the replica on {target} is {}", state.data.word()));
        }
        let is_open = state.marks.applied < source.capture.last_doubt();
        is_open.then(|| format!("a mirror to {target} is under way"))
    })
}

/// Everything up to a new mark goes to the targets, and then nothing.
pub(super) fn pause(source: &Source, name: MarkName, hold: Option<u64>) -> Result<Reply, Refusal> {
    let senders = source.senders.lock().clone();
    let _turn = source.pauses.turn.lock();
    if senders.is_empty() {
        return Err(no("the set has no target"));
    }
    if let Some(why) = why_no_point(source, &senders) {
        return Err(no(format!(
            "it cannot be paused at a point that is whole: {why}"
        )));
    }
    // In this order: nothing behind the mark has gone out when the mark is named as the limit.
    let doubt = source.capture.last_doubt();
    senders.iter().for_each(|sender| sender.freeze());
    let marked = append(source, &name, hold).and_then(|seq| match source.capture.last_doubt() {
        now if now == doubt || now > seq => Ok(seq),
        _ => Err(no(
            "a mirror has just become necessary; try again when it is done",
        )),
    });
    let seq = match marked {
        Ok(seq) => seq,
        Err(error) => {
            thaw(&senders);
            return Err(error);
        }
    };
    let point = PausePoint {
        mark: name,
        history: source.covered.history,
        seq,
        since: sys::now(),
    };
    for sender in &senders {
        if let Err(error) = sender.set_wish(Wish::Pause(point.clone())) {
            thaw(&senders);
            return Err(no(format!("the pause cannot be written down: {error}")));
        }
        sender.request_checkpoint_at(seq);
    }
    Ok(Reply::Marked { seq: seq.0 })
}

/// As it was before a pause that came to nothing.
fn thaw(senders: &[Arc<Sender>]) {
    for sender in senders {
        if let Err(error) = sender.set_wish(Wish::Run) {
            tracing::error!(%error, "the end of a pause cannot be written down: `doppelfs resume` tries again");
        }
    }
}

/// Ends a pause.
pub(super) fn resume(source: &Source) -> Result<Reply, Refusal> {
    let senders = source.senders.lock().clone();
    let _turn = source.pauses.turn.lock();
    let is_paused = |sender: &&Arc<Sender>| matches!(sender.wish(), Wish::Pause(_));
    for sender in senders.iter().filter(is_paused) {
        let outcome = sender.set_wish(Wish::Run);
        outcome.map_err(|e| no(format!("the end of the pause cannot be written down: {e}")))?;
    }
    Ok(Reply::Done)
}

/// Ends the connections.
pub(super) fn end(source: &Source, wish: &Wish) -> Result<Reply, Refusal> {
    let senders = source.senders.lock().clone();
    let _turn = source.pauses.turn.lock();
    for sender in &senders {
        let outcome = sender.set_wish(wish.clone());
        outcome.map_err(|e| no(format!("it cannot be written down: {e}")))?;
    }
    Ok(Reply::Done)
}

/// Makes the connections again.
pub(super) fn start(source: &Source) -> Result<Reply, Refusal> {
    let senders = source.senders.lock().clone();
    let _turn = source.pauses.turn.lock();
    let is_ended = |sender: &&Arc<Sender>| !sender.wish().is_connected();
    for sender in senders.iter().filter(is_ended) {
        let outcome = sender.set_wish(Wish::Run);
        outcome.map_err(|e| no(format!("it cannot be written down: {e}")))?;
    }
    Ok(Reply::Done)
}

/// Why nothing goes to some target, because somebody wanted it so.
pub(super) fn why_still(senders: &[Arc<Sender>], set: &str) -> Option<String> {
    senders.iter().find_map(|sender| {
        let target = sender.state().target;
        match sender.wish() {
            Wish::Run => None,
            Wish::Pause(point) => Some(format!(
                "{target} is paused at mark {}; `doppelfs resume {set}` ends that",
                point.mark
            )),
            Wish::Disconnect { .. } => Some(format!(
                "{target} was disconnected; `doppelfs connect {set}` ends that"
            )),
            Wish::Stop => Some(format!(
                "replication to {target} was stopped; `doppelfs replication start {set}` ends that"
            )),
        }
    })
}

/// Pauses replicas of a target.
pub(super) fn pause_replicas(
    target: &Target,
    path: Option<String>,
    now: bool,
) -> Result<Reply, Refusal> {
    let paths = target.pause(path.as_deref(), now);
    let paths = paths.map_err(|e| no(e.to_string()))?;
    Ok(Reply::Replicas { paths })
}

/// Ends pauses of replicas of a target.
pub(super) fn resume_replicas(target: &Target, path: Option<String>) -> Result<Reply, Refusal> {
    let paths = target.resume(path.as_deref());
    let paths = paths.map_err(|e| no(e.to_string()))?;
    Ok(Reply::Replicas { paths })
}
