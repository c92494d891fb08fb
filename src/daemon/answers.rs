//! What a set answers on its control socket.

use std::sync::Arc;
use std::time::Duration;

use crate::control::{
    Answer, Handler, Items, MirrorKind, QueueFilter, Refusal, RefusalCode, Reply, Request,
};
use crate::mirror::Mirror;
use crate::sender::Wish;
use crate::sys;
use crate::types::Seq;
use crate::wire::TargetState;

use super::believe::time_of;
use super::pauses;
use super::source::Source;
use super::tail::tail;

/// No wait is over sooner: who gives it no time at all asks whether all is there now, and what that would
/// be is found out by another thread.
const GOAL_PATIENCE: Duration = Duration::from_millis(50);

/// Answers for one set.
pub(super) struct Answers {
    pub(super) source: Arc<Source>,
}

impl Handler for Answers {
    fn handle(self: Arc<Self>, request: Request, items: Items) -> Answer {
        let source = self.source.clone();
        Box::pin(async move {
            match request {
                Request::Status => Ok(Reply::Set(Box::new(source.status()))),
                Request::Stats => Ok(Reply::Stats(Box::new(source.snapshot()))),
                Request::QueueShow => blocking(move || Ok(queue_show(&source))).await,
                Request::QueueTail { follow, count } => {
                    let all = QueueFilter::default();
                    blocking(move || tail(&source, &items, (follow, count), &all)).await
                }
                Request::QueueFind {
                    follow,
                    count,
                    filter,
                } => blocking(move || tail(&source, &items, (follow, count), &filter)).await,
                Request::Wait { timeout_ms, .. } => Ok(wait(&source, timeout_ms).await),
                Request::MirrorStart {
                    kind: MirrorKind::Full,
                } => blocking(move || start_mirror(&source)).await,
                Request::MirrorStart {
                    kind: MirrorKind::Difference,
                } => Err(Refusal::new(
                    RefusalCode::State,
                    "a difference mirror is not built yet; `doppelfs mirror start --full` is",
                )),
                Request::PrepareUmount => {
                    blocking(move || {
                        let captured = time_of(source.capture.last_ctime_ns());
                        // What is changed beside the mount from now on has a later ctime.
                        while sys::coarse_now() <= captured {
                            std::thread::yield_now();
                        }
                        Ok(Reply::Prepared {
                            worker_pid: std::process::id(),
                        })
                    })
                    .await
                }
                Request::AbandonUmount => Ok(Reply::Done),
                Request::Stop => Err(Refusal::new(
                    RefusalCode::State,
                    "a set ends with its mount: use `doppelfs umount`",
                )),
                Request::Hold { milliseconds } => {
                    blocking(move || pauses::hold(&source, milliseconds)).await
                }
                Request::Mark { name, hold } => {
                    blocking(move || pauses::mark(&source, name, hold)).await
                }
                Request::Pause { name, hold } => {
                    blocking(move || pauses::pause(&source, name, hold)).await
                }
                Request::Resume => blocking(move || pauses::resume(&source)).await,
                Request::Disconnect { forget } => {
                    blocking(move || pauses::end(&source, &Wish::Disconnect { forget })).await
                }
                Request::Connect | Request::StartReplication => {
                    blocking(move || pauses::start(&source)).await
                }
                Request::StopReplication => {
                    blocking(move || pauses::end(&source, &Wish::Stop)).await
                }
                Request::PauseReplicas { .. }
                | Request::ResumeReplicas { .. }
                | Request::Invite { .. }
                | Request::Peers
                | Request::RevokePeer { .. }
                | Request::SetPeer { .. }
                | Request::RotateKey { .. } => Err(Refusal::new(
                    RefusalCode::State,
                    "this is the worker of a set; ask a target",
                )),
            }
        })
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<Reply, Refusal> + Send + 'static,
) -> Result<Reply, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(RefusalCode::State, "the worker is ending")))
}

fn queue_show(source: &Source) -> Reply {
    Reply::Queue(Box::new(source.queue_report()))
}

fn start_mirror(source: &Source) -> Result<Reply, Refusal> {
    let senders = source.senders.lock().clone();
    let _turn = source.pauses.turn();
    if let Some(text) = pauses::why_still(&senders, source.options.set.as_str()) {
        return Err(Refusal::new(RefusalCode::State, text));
    }
    match Mirror::begin_full(&source.capture) {
        Ok((mirror, _)) => {
            // Behind a record that cannot be applied the mirror would wait for ever: those
            // connections begin anew with it.
            for sender in &senders {
                if sender.state().target_state == TargetState::Retrying {
                    sender.require_mirror();
                }
            }
            Ok(Reply::MirrorStarted { mirror })
        }
        Err(error) => Err(Refusal::new(
            RefusalCode::State,
            format!("the queue failed: {error}"),
        )),
    }
}

/// Why the set is not caught up with `seq`; `None` when it is.
fn missing(source: &Source, seq: Seq) -> Option<String> {
    if source.capture.is_checking() {
        return Some("what was changed while it was not mounted is being looked for".to_owned());
    }
    if source.capture.has_open_gap() {
        return Some("operations could not be recorded and wait for the queue's disk".to_owned());
    }
    let senders = source.senders.lock();
    if senders.is_empty() {
        return Some("the set has no target".to_owned());
    }
    if let Some(text) = pauses::why_still(&senders, source.options.set.as_str()) {
        return Some(text);
    }
    let behind = senders
        .iter()
        .find(|sender| !sender.state().is_caught_up(seq))?;
    let state = behind.state();
    Some(match &state.error {
        Some(error) => format!("{}: {error}", state.target),
        None => format!(
            "{}: {:?}, {} of {} records are durable there",
            state.target, state.data, state.marks.durable, seq
        ),
    })
}

/// What has to be durable for everything up to now to be.
struct Goal {
    seq: Seq,
    /// Is nothing looked for any more? What is found then is said in the stream behind what was captured
    /// meanwhile.
    is_final: bool,
}

/// Who appends to a queue whose disk is stuck has the lock of its end. A thread of the runtime that waited
/// for it could answer nothing else, not even `status`, so another one does.
async fn find_goal(source: &Arc<Source>) -> Result<Goal, tokio::task::JoinError> {
    let source = Arc::clone(source);
    let look = move || {
        // Before the end: what ended the search has been said in front of it.
        let is_final = !(source.capture.is_checking() || source.capture.has_open_gap());
        let seq = source.journal.settled_end();
        Goal { seq, is_final }
    };
    tokio::task::spawn_blocking(look).await
}

async fn wait(source: &Arc<Source>, timeout_ms: Option<u64>) -> Reply {
    let mut known = None;
    let mut changes = source.changes.subscribe();
    let done = async {
        loop {
            changes.mark_unchanged();
            let seq = match known {
                Some(seq) => seq,
                None => {
                    let Ok(goal) = find_goal(source).await else {
                        return Some("the worker is ending".to_owned());
                    };
                    known = goal.is_final.then_some(goal.seq);
                    goal.seq
                }
            };
            let reason = missing(source, seq)?;
            if source.senders.lock().is_empty() {
                return Some(reason);
            }
            for sender in source.senders.lock().iter() {
                sender.request_checkpoint();
            }
            if changes.changed().await.is_err() {
                return Some("the worker is ending".to_owned());
            }
        }
    };
    let limit = timeout_ms.map_or(Duration::MAX, Duration::from_millis);
    let limit = limit.max(GOAL_PATIENCE);
    let reason = match tokio::time::timeout(limit, done).await {
        Ok(reason) => reason,
        Err(_) => {
            missing(source, source.journal.end()).or_else(|| Some("the time is over".to_owned()))
        }
    };
    Reply::Waited {
        caught_up: reason.is_none(),
        reason,
    }
}
