//! The receiver thread: from a batch on the wire to records that are durable here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::codec::Frame;
use crate::journal;
use crate::sys;
use crate::types::{Kind, Position, Remap, limits};
use crate::wire::{RefuseCode, Start, Unpacker};

use super::error::Error;
use super::position::Way;
use super::stream::{Anew, Jump, Stream};

/// Bytes stored before they are made durable together, at most, where several batches wait.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// What may wait in the queue for a source with a quota, beside as much as the quota: some segments, as they
/// are freed as a whole.
const QUEUE_BYTES_BEYOND_QUOTA: u64 = 4 * limits::SEGMENT_BYTES_MAX;

/// Pauses between attempts to store on a full disk.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whether a session is to end, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Ending {
    /// It goes on.
    #[default]
    No,
    /// The source is gone: what has come is still taken, but nothing is waited for.
    Drain,
    /// A newer connection takes over.
    Fenced,
    /// The source is not known any more, or by another key.
    Revoked,
    /// The target stops.
    Stopping,
}

/// What a source is told whose key is not known any more.
pub(super) fn revoked() -> Error {
    Error::refuse(
        RefuseCode::Unpaired,
        "this source was revoked on the target, or has another key there now",
    )
}

/// One session's way into the stream's journal.
pub(super) struct Intake {
    pub(super) stream: Arc<Stream>,
    start: Start,
    way: Way,
    /// How absolute links into the set are made after a jump.
    remap: Option<Remap>,
    /// Whether the session is to end, and how.
    pub(super) ending: watch::Receiver<Ending>,
    /// The position is still to be set anew.
    jump_due: bool,
    /// A full mirror began in this session, and its end has not come.
    in_full_mirror: bool,
    unpacker: Unpacker,
}

impl Intake {
    pub(super) fn new(
        stream: Arc<Stream>,
        (start, way): (Start, Way),
        remap: Option<Remap>,
        ending: watch::Receiver<Ending>,
    ) -> Intake {
        let jump_due = way.is_anew();
        Intake {
            stream,
            start,
            way,
            remap,
            ending,
            jump_due,
            in_full_mirror: false,
            unpacker: Unpacker::new(),
        }
    }

    /// Takes batches until there are no more.
    pub(super) fn run(mut self, mut batches: mpsc::Receiver<Vec<u8>>) -> Result<(), Error> {
        let mut group = Vec::new();
        while let Some(batch) = batches.blocking_recv() {
            let mut bytes = batch.len();
            group.push(batch);
            while bytes < GROUP_BYTES_MAX {
                let Ok(batch) = batches.try_recv() else { break };
                bytes += batch.len();
                group.push(batch);
            }
            self.accept_batch(&group)?;
            group.clear();
        }
        Ok(())
    }

    /// The whole way in, in this order: fence, open, check the sequence and the checksums, store,
    /// make durable, publish, acknowledge.
    fn accept_batch(&mut self, batches: &[Vec<u8>]) -> Result<(), Error> {
        for batch in batches {
            self.check_fence()?;
            self.await_room()?;
            // Out of `self`, so that frames can be stored while it is borrowed.
            let mut unpacker = std::mem::take(&mut self.unpacker);
            let frames = unpacker.open(batch);
            for frame in frames.map_err(|source| Error::Wire { source })? {
                let after = self.stream.journal.end();
                let frame = frame.map_err(|source| Error::Frame { after, source })?;
                if self.jump_due {
                    self.jump(&frame)?;
                }
                self.store(&frame)?;
            }
            self.unpacker = unpacker;
        }
        self.publish()
    }

    fn check_fence(&self) -> Result<(), Error> {
        match *self.ending.borrow() {
            Ending::No | Ending::Drain => Ok(()),
            Ending::Fenced => Err(Error::Fenced),
            Ending::Revoked => Err(revoked()),
            Ending::Stopping => Err(Error::Stopping),
        }
    }

    /// Waits while more is kept for a source than its quota lets it have: what cannot be applied fills no disk.
    fn await_room(&self) -> Result<(), Error> {
        let mut pause = PAUSE_MIN;
        loop {
            let quota = self.stream.places.lease.terms().get().bytes_max;
            let most = quota.map(|quota| quota.saturating_add(QUEUE_BYTES_BEYOND_QUOTA));
            let kept = self.stream.journal.usage().disk_bytes;
            let Some(most) = most.filter(|most| kept >= *most) else {
                break;
            };
            self.publish()?;
            let text = format!(
                "{kept} bytes that came are not applied yet, and a source with this quota may have {most} waiting"
            );
            self.stream.post(|board| board.intake_error = Some(text));
            self.pause(pause)?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        if pause > PAUSE_MIN {
            self.stream.post(|board| board.intake_error = None);
        }
        Ok(())
    }

    fn journal_failed(&self, source: journal::Error) -> Error {
        let stream = self.stream.number;
        Error::Journal { stream, source }
    }

    /// Appends a frame; the journal refuses one that does not follow its last. On a full disk it
    /// waits, and so, when the channel is full, does the source.
    fn store(&mut self, frame: &Frame) -> Result<(), Error> {
        let mut pause = PAUSE_MIN;
        let mut held = false;
        loop {
            match self.stream.journal.append_frame(frame) {
                Ok(()) => break,
                Err(e @ journal::Error::Full { .. }) => {
                    // What is stored may be applied meanwhile, which makes room.
                    self.publish()?;
                    held = true;
                    let text = format!("{e}; free space on the target's state directory");
                    self.stream.post(|board| board.intake_error = Some(text));
                    self.pause(pause)?;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(e) => return Err(self.journal_failed(e)),
            }
        }
        if frame.header().kind == Kind::MirrorEnd {
            self.in_full_mirror = false;
        }
        let counters = &self.stream.counters;
        counters.received.note(frame.header().kind);
        counters.received_bytes.add(frame.bytes().len() as u64);
        if held {
            self.stream.post(|board| board.intake_error = None);
        }
        Ok(())
    }

    fn pause(&self, patience: Duration) -> Result<(), Error> {
        let until = sys::monotonic_ns() + u64::try_from(patience.as_nanos()).unwrap_or(0);
        let mut board = self.stream.board();
        loop {
            if *self.ending.borrow() != Ending::No {
                // Whoever comes next begins here again.
                return Err(Error::Stopping);
            }
            if sys::monotonic_ns() >= until {
                return Ok(());
            }
            self.stream.wait_until(&mut board, until);
        }
    }

    /// Makes what was stored durable, and lets it be applied.
    ///
    /// In a full mirror it need not be durable: the replica is no prefix before the mirror's end, a crash of this
    /// host is followed by another mirror whatever the queue holds, and the source lets go of nothing before the
    /// replica has it on disk. Most of what is stored is then applied and removed before it is ever written. With the
    /// end of the mirror all that came is made durable.
    fn publish(&self) -> Result<(), Error> {
        let journal = &self.stream.journal;
        let received = match self.in_full_mirror {
            true => Ok(journal.end()),
            false => journal.sync(),
        };
        let received = received.map_err(|e| self.journal_failed(e))?;
        self.stream.post(|board| board.received = received);
        Ok(())
    }

    /// Sets the position anew before the first frame, which must begin a full mirror, or go on from the
    /// history that the replica stands in.
    fn jump(&mut self, frame: &Frame) -> Result<(), Error> {
        if !self.way.is_set_by(&self.start, frame) {
            return Err(Error::refuse(
                RefuseCode::Position,
                "a jump must begin with a full mirror",
            ));
        }
        let position = Position {
            history: self.start.history,
            seq: self.start.after,
        };
        info!(stream = self.stream.number, ?position, "position set anew");
        let anew = Anew {
            position,
            is_fork: self.way == Way::Forks,
            remap: self.remap.clone(),
        };
        self.stream.post(|board| board.jump = Jump::Asked(anew));
        let mut board = self.stream.board();
        loop {
            match std::mem::take(&mut board.jump) {
                Jump::Done => break,
                Jump::Failed(text) => {
                    return Err(Error::refuse(RefuseCode::Failed, text));
                }
                asked @ Jump::Asked(_) => board.jump = asked,
                Jump::None => {}
            }
            if board.ended {
                return Err(Error::Stopping);
            }
            self.stream.wait(&mut board);
        }
        board.speaks = true;
        drop(board);
        self.jump_due = false;
        self.in_full_mirror = self.way == Way::Jumps;
        Ok(())
    }
}
