//! A stream: what its threads and tasks share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::applier::Lease;
use crate::journal::Journal;
use crate::stats::StreamCounters;
use crate::sync::{Condvar, Mutex, MutexGuard, Rank};
use crate::sys;
use crate::types::{FileId, History, Position, Remap, Seq};
use crate::wire::{Ack, DataState, MirrorProgress, TargetState};

use super::error::{Error, state as failed};
use super::position::{Gate, Standing};
use super::registry::{self, Marked, Pause, StreamRecord};
use super::replay::Unwritten;
use super::session::Current;

/// Where a stream keeps what is its own.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Its directory in the state directory.
    pub(super) state: PathBuf,
    /// Its directory on the tmpfs.
    pub(super) table: PathBuf,
    /// The target's root.
    pub(super) root: PathBuf,
    /// The name of its hidden directory.
    pub(super) hidden: String,
    /// What its source may take, and what is withheld from it.
    pub(super) lease: Lease,
}

/// One replica and everything about it.
pub(super) struct Stream {
    pub(super) number: u32,
    pub(super) places: Places,
    pub(super) journal: Arc<Journal>,
    /// What came and was applied since the target was started.
    pub(super) counters: StreamCounters,
    /// Guards the stream's description; its file is written under it.
    record: Mutex<StreamRecord>,
    /// Guards what the threads tell each other. No I/O, no other lock under it.
    board: Mutex<Board>,
    changed: Condvar,
    /// There is something to tell the source.
    pub(super) news: Notify,
    /// The session under way; held while one takes over from another.
    pub(super) current: tokio::sync::Mutex<Option<Current>>,
}

/// What a full mirror, or a history that goes on from another, begins with.
#[derive(Debug, Clone)]
pub(super) struct Anew {
    pub(super) position: Position,
    /// The replica stands at this position, or a little beyond, which the next records put right.
    pub(super) is_fork: bool,
    /// How absolute links into the set are made from there on.
    pub(super) remap: Option<Remap>,
}

/// A change of position, from the receiver to the applier.
#[derive(Debug, Default)]
pub(super) enum Jump {
    /// None.
    #[default]
    None,
    /// Wanted.
    Asked(Anew),
    /// Carried out.
    Done,
    /// Not carried out, and why.
    Failed(String),
}

/// What the threads of a stream tell each other.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// The applier is open.
    pub(super) opened: bool,
    /// The line of positions; `None`: a full mirror must come.
    pub(super) history: Option<History>,
    pub(super) received: Seq,
    pub(super) applied: Seq,
    pub(super) durable: Seq,
    pub(super) data: DataState,
    /// The position holds only for the full mirror that is to come next.
    pub(super) is_before_mirror: bool,
    pub(super) apply_error: Option<String>,
    pub(super) intake_error: Option<String>,
    pub(super) last_path: Option<String>,
    pub(super) mirror: Option<MirrorProgress>,
    /// Somebody waits until this is durable.
    pub(super) checkpoint_upto: Seq,
    pub(super) checkpoint_end: Option<Result<Seq, Unwritten>>,
    pub(super) jump: Jump,
    /// Sessions so far; the current one's number.
    pub(super) session: u64,
    pub(super) gate: Gate,
    /// The session's marks are those of this stream: answers may be sent.
    pub(super) speaks: bool,
    /// Ids to be asked for.
    pub(super) wants: Vec<FileId>,
    /// A mirror to be reported as done.
    pub(super) done: Option<u64>,
    /// What was received is held until a mirror is here in whole.
    pub(super) is_staged: bool,
    /// And all that was received has been looked at.
    pub(super) stage_rests: bool,
    /// Bytes that the source of the last session can keep meanwhile; `None`: there was none yet.
    pub(super) staged_bytes_max: Option<u64>,
    /// Nothing is to be applied.
    pub(super) pause: Option<Pause>,
    /// The last mark that was applied.
    pub(super) mark: Option<Marked>,
    pub(super) stopping: bool,
    /// The applier's thread has ended.
    pub(super) ended: bool,
}

impl Board {
    /// Where the stream stands.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            history: self.history,
            received: self.received,
            applied: self.applied,
            data: self.data,
            is_before_mirror: self.is_before_mirror,
            stage_rests: self.stage_rests,
        }
    }

    /// What the applier does.
    pub(super) fn target_state(&self) -> TargetState {
        if self.pause == Some(Pause::Held) && self.opened {
            // Whatever fails meanwhile: it stands.
            TargetState::Paused
        } else if self.apply_error.is_some() || self.intake_error.is_some() {
            TargetState::Retrying
        } else if !self.opened {
            TargetState::NotLoaded
        } else {
            match self.pause {
                None => TargetState::Ok,
                Some(Pause::Held) => TargetState::Paused,
                Some(Pause::Now | Pause::WhenWhole) => TargetState::PausePending,
            }
        }
    }

    /// What the source is told.
    pub(super) fn ack(&self) -> Ack {
        Ack {
            received: self.received,
            applied: self.applied,
            durable: self.durable,
            data: self.data,
            state: self.target_state(),
            error: self.intake_error.clone().or(self.apply_error.clone()),
            last_path: self.last_path.clone(),
            mirror: self.mirror,
            is_staged: self.is_staged,
        }
    }
}

impl Stream {
    pub(super) fn new(
        number: u32,
        places: Places,
        record: StreamRecord,
        journal: Arc<Journal>,
    ) -> Stream {
        let board = Board {
            pause: record.pause,
            mark: record.mark.clone(),
            ..Board::default()
        };
        Stream {
            number,
            places,
            journal,
            counters: StreamCounters::default(),
            record: Mutex::new(Rank::Stream, record),
            board: Mutex::new(Rank::Leaf, board),
            changed: Condvar::new(),
            news: Notify::new(),
            current: tokio::sync::Mutex::new(None),
        }
    }

    /// The stream's description.
    pub(super) fn record(&self) -> StreamRecord {
        self.record.lock().clone()
    }

    /// Changes the description durably.
    pub(super) fn update_record(
        &self,
        change: impl FnOnce(&mut StreamRecord),
    ) -> Result<(), Error> {
        let mut record = self.record.lock();
        let mut fresh = record.clone();
        change(&mut fresh);
        if fresh != *record {
            registry::save(&self.places.state, &fresh)?;
            *record = fresh;
        }
        Ok(())
    }

    /// Changes whether anything is applied, durably.
    pub(super) fn change_pause(
        &self,
        change: impl FnOnce(Option<Pause>) -> Option<Pause>,
    ) -> Result<(), Error> {
        // The file first: what is shown holds also after a crash. Under its lock, so that both agree.
        let mut record = self.record.lock();
        let pause = change(record.pause);
        let fresh = StreamRecord {
            pause,
            ..record.clone()
        };
        if fresh != *record {
            registry::save(&self.places.state, &fresh)?;
            *record = fresh;
        }
        self.post(|board| board.pause = pause);
        Ok(())
    }

    /// Looks at the board.
    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock()
    }

    /// Changes the board and tells everybody.
    pub(super) fn post<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let outcome = change(&mut self.board.lock());
        self.changed.notify_all();
        self.news.notify_one();
        outcome
    }

    /// Waits for a change of the board.
    pub(super) fn wait(&self, board: &mut MutexGuard<'_, Board>) {
        self.changed.wait(board);
    }

    /// Waits for a change of the board, at most until `until_ns` of the monotonic clock.
    pub(super) fn wait_until(&self, board: &mut MutexGuard<'_, Board>, until_ns: u64) {
        let left = until_ns.saturating_sub(sys::monotonic_ns());
        if left > 0 {
            self.changed.wait_for(board, Duration::from_nanos(left));
        }
    }

    /// Wakes who waits for a flag that is not on the board.
    pub(super) fn nudge(&self) {
        drop(self.board.lock());
        self.changed.notify_all();
    }

    /// The journal's end made durable and published: before a session begins.
    pub(super) fn settle_received(&self) -> Result<Seq, Error> {
        let stream = self.number;
        let journal_failed = |source| Error::Journal { stream, source };
        let received = self.journal.sync().map_err(journal_failed)?;
        self.post(|board| {
            if board.history.is_some() {
                board.received = board.received.max(received);
            }
            board.received
        });
        Ok(received)
    }

    /// The directory for the applier's own state.
    pub(super) fn applier_dir(&self) -> Result<PathBuf, Error> {
        let dir = self.places.state.join("applier");
        registry::create_private(&dir)?;
        Ok(dir)
    }

    /// The directory for the table, on the tmpfs.
    pub(super) fn table_dir(&self) -> Result<PathBuf, Error> {
        registry::create_private(&self.places.table)?;
        Ok(self.places.table.clone())
    }
}

/// Opens the journal of the stream in `dir`.
pub(super) fn open_journal(
    number: u32,
    dir: &std::path::Path,
    options: crate::journal::Options,
) -> Result<Arc<Journal>, Error> {
    let queue = dir.join("queue");
    registry::create_private(&queue)?;
    std::fs::metadata(&queue).map_err(failed("stat", &queue))?;
    let opened = Journal::open(&queue, options);
    let (journal, recovery) = opened.map_err(|source| Error::Journal {
        stream: number,
        source,
    })?;
    tracing::info!(stream = number, ?recovery, "queue opened");
    Ok(Arc::new(journal))
}
