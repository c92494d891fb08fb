//! When the replica's state is made durable, and the thread that does it.
//!
//! The applier thread begins a checkpoint and goes on applying; a thread of its own syncs and stores
//! it, and puts the outcome onto the board. At most one is under way.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tracing::warn;

use crate::applier::{self, CheckpointJob};
use crate::sync;
use crate::sys;
use crate::types::{Scope, Seq};

use super::super::stream::Stream;
use super::{CURSOR, Replay};

/// Under load a checkpoint begins after so much, or so long.
const CHECKPOINT_BYTES: u64 = 32 << 20;
const CHECKPOINT_NS: u64 = 2_000_000_000;
/// In a full mirror each flush writes what of the queue is not applied, too; and a crash of the host costs no less
/// for an earlier checkpoint, as it is followed by another mirror.
const MIRROR_CHECKPOINT_BYTES: u64 = 256 << 20;
/// Segments of the queue in a full mirror: what is applied is removed before it is written.
const MIRROR_SEGMENT_BYTES: u64 = 8 << 20;
/// With nothing left to apply it begins after so long.
const IDLE_NS: u64 = 30_000_000;

/// What is applied and in no checkpoint yet.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    pub(super) bytes: u64,
    pub(super) since_ns: u64,
    pub(super) last_ns: u64,
}

/// A checkpoint that failed.
#[derive(Debug)]
pub(in crate::receiver) struct Unwritten {
    /// For people.
    text: String,
    /// The disk could not write, and nobody knows what.
    is_lost: bool,
}

/// The thread that carries out checkpoints.
pub(super) struct Saver {
    jobs: Option<mpsc::Sender<CheckpointJob>>,
    thread: Option<JoinHandle<()>>,
    pub(super) is_busy: bool,
}

impl Saver {
    pub(super) fn start(stream: &Arc<Stream>) -> std::io::Result<Saver> {
        let (jobs, queue) = mpsc::channel::<CheckpointJob>();
        let name = format!("dfs-sync-{}", stream.number);
        let stream = Arc::clone(stream);
        let thread = sync::spawn(&name, move || {
            while let Ok(job) = queue.recv() {
                let run = std::panic::AssertUnwindSafe(|| job.run());
                // The applier's thread waits for an outcome, also for that of a panic.
                let outcome = match std::panic::catch_unwind(run) {
                    Ok(outcome) => outcome.map_err(|error| Unwritten {
                        text: error.to_string(),
                        is_lost: matches!(error, applier::Error::Sync { .. }),
                    }),
                    Err(_) => Err(Unwritten {
                        text: "stopped on an internal error (see the log)".to_owned(),
                        is_lost: false,
                    }),
                };
                stream.post(|board| board.checkpoint_end = Some(outcome));
            }
        })?;
        Ok(Saver {
            jobs: Some(jobs),
            thread: Some(thread),
            is_busy: false,
        })
    }

    pub(super) fn stop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its last outcome is on the board, or it panicked and nothing became durable.
            let _ = thread.join();
        }
    }
}

impl Replay {
    /// Is there something that no checkpoint holds?
    pub(super) fn is_unsaved(&self) -> bool {
        self.reader.is_some() && self.unsaved.bytes > 0
    }

    fn full_mirror(&self) -> Option<u64> {
        let mirror = self.applier.mirror();
        let full = mirror.filter(|mirror| mirror.scope == Scope::Full);
        full.map(|mirror| mirror.id)
    }

    /// In a full mirror the queue lets go of what is applied, before it is durable in the replica: where this process
    /// ends, the applier's table says what was applied; where the host does, another mirror follows, as soon as a
    /// checkpoint says that this one was under way. What is removed so soon is never written to the disk.
    pub(super) fn drop_applied(&mut self) {
        let full = self.full_mirror().filter(|_| self.staging.is_none());
        let Some(mirror) = full else {
            self.mirrors_from = None;
            return;
        };
        let applied = self.applier.applied();
        let seen = self.mirrors_from.filter(|(number, _)| *number == mirror);
        let (_, from) = *self.mirrors_from.insert(seen.unwrap_or((mirror, applied)));
        if self.durable >= from {
            let journal = &self.stream.journal;
            journal.advance(CURSOR, applied);
            journal.seal_beyond(MIRROR_SEGMENT_BYTES);
        }
    }

    /// After so much a checkpoint begins under load.
    fn checkpoint_bytes(&self) -> u64 {
        match self.full_mirror() {
            Some(_) => MIRROR_CHECKPOINT_BYTES,
            None => CHECKPOINT_BYTES,
        }
    }

    pub(super) fn save_is_due(&self, received: Seq, upto: Seq) -> bool {
        let deadline = self.next_deadline(received, upto);
        let bulky = self.is_unsaved() && self.unsaved.bytes >= self.checkpoint_bytes();
        let free = !self.saver.is_busy && self.save_retry.is_due();
        free && (bulky || deadline.is_some_and(|at| sys::monotonic_ns() >= at))
    }

    /// When the next checkpoint or the next attempt at what failed is due.
    pub(super) fn next_deadline(&self, received: Seq, upto: Seq) -> Option<u64> {
        let retry = Some(self.apply_retry.at_ns).filter(|at| *at > 0);
        let working = self.has_work(received);
        let mut save = None;
        if self.is_unsaved() && !self.saver.is_busy {
            let applied = self.applier.applied();
            let asked = upto <= applied && upto > self.durable;
            let idle = !working || self.apply_retry.at_ns > 0;
            let at = if asked {
                self.unsaved.since_ns
            } else if idle {
                self.unsaved.last_ns + IDLE_NS
            } else {
                self.unsaved.since_ns + CHECKPOINT_NS
            };
            save = Some(at.max(self.save_retry.at_ns));
        }
        // Only what `Ask::Save` can do something about, or what ends the wait for an attempt.
        match (save, retry.filter(|_| working)) {
            (Some(save), Some(retry)) => Some(save.min(retry)),
            (save, retry) => save.or(retry),
        }
    }

    pub(super) fn save(&mut self) {
        if self.saver.is_busy || !self.is_unsaved() || !self.save_retry.is_due() {
            return;
        }
        match self.applier.begin_checkpoint() {
            Ok(Some(job)) => {
                self.unsaved = Unsaved::default();
                if let Some(jobs) = &self.saver.jobs {
                    self.saver.is_busy = jobs.send(job).is_ok();
                }
            }
            Ok(None) => {
                if self.apply_retry.at_ns > 0 {
                    // The last operation is half done and must be completed first.
                    self.save_retry.failed();
                } else {
                    self.unsaved = Unsaved::default();
                    self.note_durable(self.applier.durable());
                }
            }
            Err(e) => self.save_failed(&e.to_string()),
        }
    }

    pub(super) fn save_failed(&mut self, text: &str) {
        warn!(
            stream = self.stream.number,
            error = text,
            "checkpoint failed"
        );
        self.save_retry.failed();
        let now = sys::monotonic_ns();
        // What it should have held is still to be saved.
        self.unsaved.bytes = self.unsaved.bytes.max(1);
        self.unsaved.since_ns = now;
        self.unsaved.last_ns = now;
        let text = format!("checkpoint of the replica: {text}");
        self.stream.post(|board| board.apply_error = Some(text));
    }

    /// The disk could not write: the source is to send everything again.
    fn distrust(&mut self) {
        let stream = self.stream.number;
        warn!(
            stream,
            "the disk could not write; what it has of the replica is in doubt, and is mirrored again"
        );
        if let Err(error) = self.applier.distrust() {
            warn!(stream, %error, "a target that is restarted now does not know of that");
        }
        // What is held is not a whole one's any more.
        if self.staging.is_some() {
            self.unstage();
        }
        self.publish(None, None);
    }

    pub(super) fn saved(&mut self, outcome: Result<Seq, Unwritten>) {
        self.saver.is_busy = false;
        match outcome {
            Ok(durable) => {
                let failed_before = self.save_retry.at_ns > 0;
                self.save_retry.succeeded();
                self.note_durable(durable);
                if failed_before && self.apply_retry.at_ns == 0 {
                    self.stream.post(|board| board.apply_error = None);
                }
            }
            Err(Unwritten { text, is_lost }) => {
                if is_lost {
                    self.distrust();
                }
                self.save_failed(&text);
            }
        }
    }

    pub(super) fn note_durable(&mut self, durable: Seq) {
        if self.reader.is_none() {
            return;
        }
        self.durable = self.durable.max(durable);
        self.stream.journal.advance(CURSOR, durable);
        self.stream
            .post(|board| board.durable = board.durable.max(durable));
    }

    /// Waits for the checkpoint under way.
    pub(super) fn settle_saver(&mut self) {
        while self.saver.is_busy {
            let mut board = self.stream.board();
            let outcome = loop {
                if let Some(outcome) = board.checkpoint_end.take() {
                    break outcome;
                }
                self.stream.wait(&mut board);
            };
            drop(board);
            self.saved(outcome);
        }
    }
}
