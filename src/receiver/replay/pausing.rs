//! Standing still because somebody said so, and marks.

use tracing::{info, warn};

use crate::codec::Frame;
use crate::types::{Op, Seq};
use crate::wire::DataState;

use super::super::registry::{Marked, Pause};
use super::super::stream::Board;
use super::Replay;

impl Replay {
    /// Does the replica stand where it may stay? Not in the middle of an operation that failed and is tried
    /// again.
    pub(super) fn may_rest(&self, pause: Option<Pause>) -> bool {
        let is_between = self.apply_retry.pause_ns == 0;
        match pause {
            None => false,
            Some(Pause::Held) => true,
            Some(Pause::Now) => is_between,
            // What is collected and not applied yet does not count: the replica is as it was before it.
            Some(Pause::WhenWhole) => {
                let is_whole = self.staging.is_some() || self.data() == DataState::Ok;
                is_between && self.reader.is_some() && is_whole
            }
        }
    }

    /// Has it just come to a stand, all of it durable?
    pub(super) fn is_held_now(&self, board: &Board) -> bool {
        let is_pending = matches!(board.pause, Some(Pause::Now | Pause::WhenWhole));
        let is_saved = !self.is_unsaved() && !self.saver.is_busy && board.durable >= board.applied;
        is_pending && self.rests && is_saved && self.save_retry.is_due()
    }

    /// When something is to be done although nothing comes: the next checkpoint, or the next attempt to write
    /// down that the replica stands.
    pub(super) fn next_look(&self, board: &Board, received: Seq, upto: Seq) -> Option<u64> {
        let deadline = self.next_deadline(received, upto);
        let is_pending = matches!(board.pause, Some(Pause::Now | Pause::WhenWhole));
        let retry = Some(self.save_retry.at_ns).filter(|at| is_pending && self.rests && *at > 0);
        match (deadline, retry) {
            (Some(deadline), Some(retry)) => Some(deadline.min(retry)),
            (deadline, retry) => deadline.or(retry),
        }
    }

    /// Writes down that nothing is applied any more, whatever comes, until somebody says so.
    pub(super) fn hold(&mut self) {
        let stream = self.stream.number;
        // Somebody may have ended it meanwhile.
        match self.stream.change_pause(|pause| pause.map(|_| Pause::Held)) {
            Ok(()) => {
                self.save_retry.succeeded();
                let applied = self.applier.applied();
                info!(stream, %applied, "the replica is paused");
            }
            Err(error) => {
                warn!(stream, %error, "the pause cannot be written down");
                self.save_retry.failed();
            }
        }
    }

    /// Tells of a mark that was applied.
    pub(super) fn note_mark(&self, frame: &Frame) {
        let Ok(Op::Mark { name }) = frame.body().map(|body| body.op) else {
            return;
        };
        let header = frame.header();
        let mark = Marked {
            name,
            seq: header.seq,
            time_ns: header.time_ns,
        };
        let stream = self.stream.number;
        info!(stream, name = %mark.name, seq = %mark.seq, "mark applied");
        let noted = self
            .stream
            .update_record(|record| record.mark = Some(mark.clone()));
        if let Err(error) = noted {
            // It is for those who look; the replica is right all the same.
            warn!(stream, %error, "the mark is not remembered over a restart");
        }
        self.stream.post(|board| board.mark = Some(mark));
    }
}
