//! Holding a mirror until it is here in whole: see [`Stage`].

use tracing::info;

use crate::applier::{Stage, Staged};
use crate::codec::Frame;
use crate::journal::Reader;
use crate::types::{Kind, Seq};
use crate::wire::MirrorProgress;

use super::super::error::Error;
use super::super::position::ToldDone;
use super::super::stream::Board;
use super::Replay;

/// What is held.
pub(super) struct Staging {
    pub(super) stage: Stage,
    /// Reads ahead of the applier.
    pub(super) scout: Reader,
    /// Bytes of what it has read.
    bytes: u64,
    /// The most that this host keeps.
    bytes_max: u64,
}

impl Staging {
    pub(super) fn progress(&self) -> Option<MirrorProgress> {
        self.stage.mirror().map(|mirror| MirrorProgress {
            mirror,
            pending: self.stage.pending() as u64,
            done: self.stage.done_items(),
        })
    }
}

impl Replay {
    /// Everything up to here was applied, or looked at and held.
    pub(super) fn looked_at(&self) -> Seq {
        let scouted = self.staging.as_ref().map(|staging| staging.scout.seq());
        scouted.unwrap_or_else(|| self.applier.applied())
    }

    /// Does a mirror begin that can be collected first?
    pub(super) fn is_to_be_staged(&self, frame: &Frame) -> bool {
        let header = frame.header();
        header.kind == Kind::Gap
            && header.seq > self.unstaged
            && self.staging.is_none()
            && self.applier.is_whole()
            && self.stream.board().staged_bytes_max != Some(0)
            && frame.body().is_ok_and(|body| Stage::can_begin(&body.op))
    }

    /// Begins to hold what comes after the applied position.
    pub(super) fn stage(&mut self) -> Result<(), Error> {
        let (stream, journal) = (self.stream.number, &self.stream.journal);
        let scout = journal.reader(self.applier.applied());
        info!(stream, "a mirror is collected before it is applied");
        self.staging = Some(Staging {
            stage: Stage::default(),
            scout: scout.map_err(|source| Error::Journal { stream, source })?,
            bytes: 0,
            bytes_max: journal.room() / 2,
        });
        Ok(())
    }

    /// Looks at the next record that is held; false when there is none, or nothing is held any more.
    pub(super) fn scout(&mut self) -> Result<bool, Error> {
        let stream = self.stream.number;
        let Some(staging) = &mut self.staging else {
            return Ok(false);
        };
        let next = staging.scout.next();
        let Some(frame) = next.map_err(|source| Error::Journal { stream, source })? else {
            return Ok(false);
        };
        staging.bytes += frame.bytes().len() as u64;
        let looked = self.applier.look_at(&mut staging.stage, &frame);
        match looked.map_err(|source| Error::Applier { source })? {
            Staged::On => return Ok(true),
            Staged::Whole => info!(
                stream,
                bytes = staging.bytes,
                "a mirror is here in whole, and applied"
            ),
            Staged::Over => info!(
                stream,
                "a mirror cannot be collected, and is applied as it comes"
            ),
        }
        self.unstage();
        Ok(false)
    }

    /// Is more held than this host or the source can keep? A full disk is given room by applying.
    pub(super) fn is_too_much(&self, board: &Board) -> bool {
        self.staging.as_ref().is_some_and(|staging| {
            let most = board.staged_bytes_max.unwrap_or(u64::MAX);
            staging.bytes > staging.bytes_max.min(most) || board.intake_error.is_some()
        })
    }

    /// What was held is applied. What it still wants is asked for when all of it is.
    pub(super) fn unstage(&mut self) {
        let upto = self.looked_at();
        self.staging = None;
        self.unstaged = upto;
        self.told_done = ToldDone::default();
        self.stream
            .post(|board| board.gate = board.gate.after_release(upto));
    }
}
