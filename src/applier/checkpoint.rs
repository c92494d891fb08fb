//! Checkpoints: what is durable, and how it becomes so.
//!
//! A position S is chosen with all operations up to it applied; the changed entries are copied;
//! *then* the replica is synced, *then* entries and S are committed in one batch. Later operations
//! may become durable with it, which recovery expects.

use std::collections::HashSet;
use std::sync::Arc;

use crate::sync::{Mutex, Rank};
use crate::types::{FileId, Position, Seq};

use super::engine::Applier;
use super::error::Error;
use super::ledger::{Ledger, Meta};
use super::map::Change;
use super::replica::{Marker, Replica, Syncer};

/// What jobs have achieved. A job covers every change since the last one that *succeeded*, so one
/// that is overtaken has nothing left to do.
pub(super) struct Achieved {
    /// One sync at a time, until it is known what came of it. Rank flush; the sync happens under it.
    syncing: Mutex<()>,
    /// Rank leaf; the commit of one batch happens under it, so that commits never change order.
    state: Mutex<State>,
}

/// See [`Achieved`].
#[derive(Clone, Copy)]
struct State {
    /// The last job committed, and its position.
    number: u64,
    durable: Seq,
    /// Syncs that failed.
    failures: u64,
}

impl Achieved {
    pub(super) fn new(durable: Seq) -> Achieved {
        let state = State {
            number: 0,
            durable,
            failures: 0,
        };
        Achieved {
            syncing: Mutex::new(Rank::Flush, ()),
            state: Mutex::new(Rank::Leaf, state),
        }
    }

    /// The last job committed and its position.
    pub(super) fn get(&self) -> (u64, Seq) {
        let state = *self.state.lock();
        (state.number, state.durable)
    }

    /// How many syncs failed.
    pub(super) fn failures(&self) -> u64 {
        self.state.lock().failures
    }
}

/// A checkpoint to be carried out, on any thread, while operations go on.
pub struct CheckpointJob {
    pub(super) number: u64,
    pub(super) seq: Seq,
    pub(super) syncer: Syncer,
    pub(super) changes: Vec<Change>,
    pub(super) meta: Meta,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) achieved: Arc<Achieved>,
    /// Failed syncs whose doubt it has among its changes.
    pub(super) failures_known: u64,
}

impl CheckpointJob {
    /// The position that will be durable.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Syncs the replica and commits. Returns the durable position: of this job, or a later one's.
    ///
    /// # Errors
    /// [`Error::Sync`], also where another job's sync failed and this one was begun without knowing of it: the kernel
    /// tells of an error once. [`Error::Ledger`]. The last checkpoint stays valid; the next one covers what this one
    /// should have.
    pub fn run(self) -> Result<Seq, Error> {
        let _one = self.achieved.syncing.lock();
        let synced = (self.syncer)();
        let mut state = self.achieved.state.lock();
        state.failures += u64::from(synced.is_err());
        synced.map_err(|source| Error::Sync { source })?;
        if state.failures != self.failures_known {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(Error::Sync { source });
        }
        if state.number < self.number {
            self.ledger.commit(&self.changes, &self.meta)?;
            (state.number, state.durable) = (self.number, self.seq);
        }
        Ok(state.durable)
    }
}

/// Changed ids handed to jobs of which no success is known yet.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flying: Vec<(u64, HashSet<FileId>)>,
    last: u64,
}

impl Flights {
    /// The number of a new job and the ids it has to cover: `fresh` and what earlier jobs have not
    /// committed.
    pub(super) fn launch(
        &mut self,
        fresh: HashSet<FileId>,
        committed: u64,
    ) -> (u64, &HashSet<FileId>) {
        self.flying.retain(|(number, _)| *number > committed);
        let mut ids = fresh;
        for (_, earlier) in self.flying.drain(..) {
            ids.extend(earlier);
        }
        self.last += 1;
        self.flying.push((self.last, ids));
        let (number, ids) = &self.flying[0];
        (*number, ids)
    }

    /// Is something handed out that no job has committed?
    pub(super) fn has_uncommitted(&self, committed: u64) -> bool {
        self.flying.iter().any(|(number, _)| *number > committed)
    }
}

impl<R: Replica> Applier<R> {
    /// A checkpoint of everything applied, to be run on any thread. `None`: nothing to do, or the
    /// last operation failed half-way and must be completed first.
    ///
    /// # Errors
    /// [`Error::Sync`] when the replica cannot be prepared for it.
    pub fn begin_checkpoint(&mut self) -> Result<Option<CheckpointJob>, Error> {
        let (committed, durable) = self.achieved.get();
        if let Err(error) = self.table.rotate(self.applied(), durable) {
            tracing::warn!(%error, "changes stay in one file");
        }
        let idle = self.checkpointed == self.applied()
            && !self.map.is_dirty()
            && !self.flights.has_uncommitted(committed);
        if idle || self.doubt || self.meta.position.is_none() {
            return Ok(None);
        }
        self.make_job().map(Some)
    }

    pub(super) fn make_job(&mut self) -> Result<CheckpointJob, Error> {
        let (committed, _) = self.achieved.get();
        let seq = self.applied();
        if let Some(position) = self.meta.position.filter(|_| self.keeps_order) {
            let marked = self.replica.mark(Marker {
                position,
                moving: None,
            });
            marked.map_err(|source| Error::Sync { source })?;
        }
        self.replica.rest();
        let syncer = self.replica.syncer();
        let syncer = syncer.map_err(|source| Error::Sync { source })?;
        let fresh = self.map.take_dirty();
        let (number, ids) = self.flights.launch(fresh, committed);
        self.meta.epoch = self.map.epoch();
        self.checkpointed = seq;
        Ok(CheckpointJob {
            number,
            seq,
            syncer,
            changes: self.map.snapshot(ids),
            meta: self.meta.clone(),
            ledger: Arc::clone(&self.ledger),
            achieved: Arc::clone(&self.achieved),
            failures_known: self.failures_known,
        })
    }

    /// Everything applied is durable when it returns.
    ///
    /// # Errors
    /// As [`CheckpointJob::run`]; what a failed sync puts in doubt is in doubt already.
    pub fn checkpoint_now(&mut self) -> Result<Seq, Error> {
        let (_, durable) = self.achieved.get();
        if let Err(error) = self.table.rotate(self.applied(), durable) {
            tracing::warn!(%error, "changes stay in one file");
        }
        self.save_now()
    }

    fn save_now(&mut self) -> Result<Seq, Error> {
        let saved = self.make_job()?.run();
        if let Err(Error::Sync { .. }) = &saved {
            self.distrust()?;
        }
        saved
    }

    /// After [`CheckpointJob::run`] with [`Error::Sync`]: what the disk could not write is unknown, and a sync that
    /// succeeds later says nothing of it, as the kernel takes pages whose write failed for clean (fsync(2), `EIO`). So
    /// everything is in doubt, and wanted from the source, also by the next process.
    ///
    /// # Errors
    /// [`Error::Table`]: the next process does not know of it.
    pub fn distrust(&mut self) -> Result<(), Error> {
        self.failures_known = self.achieved.failures();
        self.meta.clean = false;
        // Where a full mirror comes next, nothing is believed anyway.
        if self.meta.position.is_none() || self.meta.jump {
            return Ok(());
        }
        self.gap(&[], true);
        self.meta.epoch = self.map.epoch();
        self.note_now()
    }

    /// Closes in order: a last checkpoint that says so, so that the next start has nothing to redo
    /// whatever becomes of the host.
    ///
    /// # Errors
    /// As [`CheckpointJob::run`]; what was applied stays applied.
    pub fn close(mut self) -> Result<(), Error> {
        if self.meta.position.is_none() || self.doubt {
            return Ok(());
        }
        self.meta.clean = true;
        self.save_now().map(drop)
    }

    /// The replica's position in a history that goes on from the one it stands in: legal where every
    /// operation up to the old position is applied. `position` may be an earlier one: then what was
    /// applied beyond is to be put in doubt by the next operation.
    ///
    /// # Errors
    /// As [`CheckpointJob::run`], [`Error::Table`]; call it again.
    pub fn continue_in(&mut self, position: Position) -> Result<(), Error> {
        self.meta.lenient |= self.applied() > position.seq;
        self.stand_at(position)
    }

    /// Stands at another position: legal only directly before a full mirror, whatever the replica
    /// holds.
    ///
    /// # Errors
    /// As [`CheckpointJob::run`], [`Error::Table`]; call it again.
    pub fn reset_to(&mut self, position: Position) -> Result<(), Error> {
        self.doubt = false;
        self.barrier = false;
        self.meta.jump = true;
        self.meta.lenient = true;
        self.meta.mirror = None;
        self.wants.clear();
        self.stand_at(position)
    }

    fn stand_at(&mut self, position: Position) -> Result<(), Error> {
        // Where this fails there is no position, and a full mirror comes.
        self.failures_known = self.achieved.failures();
        self.table.invalidate();
        self.parts = None;
        self.recovering_until = Seq::ZERO;
        self.meta.position = Some(position);
        self.map.settle();
        self.meta_changed = false;
        self.make_job()?.run()?;
        let identity = self.identity();
        let at = (position.history, position.seq);
        self.table.begin(identity, at, Seq::ZERO)
    }
}
