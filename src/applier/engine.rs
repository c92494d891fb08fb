//! The applier: one operation after the other, each exactly once.

use std::path::Path;
use std::sync::Arc;

use crate::codec::Frame;
use crate::types::{Body, Entry, FileId, Node, Op, Position, Scope, Seq, limits};

use super::checkpoint::{Achieved, Flights};
use super::error::{Error, Fault, tells_divergence};
use super::fit;
use super::ledger::{Ledger, Meta, SledLedger};
use super::map::{Map, Trust};
use super::recovery::{Backlog, Recovered};
use super::replica::{Inode, InodeKind, Marker, Object, Replica};
use super::table::{Identity, Table};
use super::wants::Wants;

/// What the replica is, compared with a prefix of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataState {
    /// A prefix.
    Ok,
    /// A mirror is under way.
    Mirroring,
    /// A mirror must come.
    MirrorRequired,
    /// What a crash left is being redone; a prefix again when it is.
    Recovering,
}

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorState {
    /// Its number.
    pub id: u64,
    /// What it covers.
    pub scope: Scope,
    /// Files whose image is wanted.
    pub pending: usize,
    /// Of these, asked for.
    pub outstanding: usize,
    /// Listings and images applied.
    pub done_items: u64,
}

/// A record being applied.
pub(super) struct Record<'a> {
    pub(super) seq: Seq,
    pub(super) body: &'a Body,
    pub(super) payload: &'a [u8],
}

/// The parts of a listing that have come so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    dir: Option<FileId>,
    entries: Vec<Entry>,
    last: Seq,
    /// That they take here, or their frames, which is more: an entry can be a tenth of its size there.
    bytes: u64,
}

/// About so much memory do entries take.
fn kept_bytes(entries: &[Entry]) -> u64 {
    const EACH: usize = size_of::<Entry>() + 2 * size_of::<usize>();
    let texts = entries.iter().map(|entry| {
        let link = match &entry.node {
            Node::Symlink(to) => to.len(),
            _ => 0,
        };
        EACH + entry.name.as_bytes().len() + link
    });
    texts.sum::<usize>() as u64
}

/// Replays one stream onto one replica. See the room's doc.
pub struct Applier<R: Replica> {
    pub(super) replica: R,
    pub(super) map: Map,
    pub(super) meta: Meta,
    pub(super) meta_changed: bool,
    pub(super) wants: Wants,
    pub(super) table: Table,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) achieved: Arc<Achieved>,
    /// Failed syncs after which everything was put in doubt.
    pub(super) failures_known: u64,
    pub(super) flights: Flights,
    pub(super) parts: Option<Parts>,
    /// The next operation may be done in part or whole (crash, or an error half-way).
    pub(super) doubt: bool,
    /// A checkpoint must be committed before anything else is applied.
    pub(super) barrier: bool,
    /// Until this is applied the replica may hold effects of later operations.
    pub(super) recovering_until: Seq,
    pub(super) keeps_order: bool,
    pub(super) checkpointed: Seq,
    /// The checkpoint that the last marker of an operation came after.
    pub(super) marked_since: Option<Seq>,
}

impl<R: Replica> Applier<R> {
    /// Opens the stream's state and brings the replica to a position: see [`Recovered`].
    /// `state_dir` is durable, `table_dir` on a tmpfs; both belong to this stream alone.
    ///
    /// # Errors
    /// [`Error::Ledger`], [`Error::Table`], [`Error::Backlog`], and while redoing the ones of
    /// [`Applier::apply`]. Opening again is safe.
    pub fn open(
        replica: R,
        state_dir: &Path,
        table_dir: &Path,
        backlog: Backlog<'_>,
    ) -> Result<(Applier<R>, Recovered), Error> {
        let ledger = Arc::new(SledLedger::open(&state_dir.join("map"))?);
        Applier::open_with(replica, ledger, table_dir, backlog)
    }

    pub(super) fn assemble(
        replica: R,
        ledger: Arc<dyn Ledger>,
        table: Table,
        meta: Meta,
        map: Map,
    ) -> Applier<R> {
        let durable = meta.position.map_or(Seq::ZERO, |p| p.seq);
        let keeps_order = replica.keeps_order();
        Applier {
            replica,
            map,
            meta,
            meta_changed: false,
            wants: Wants::default(),
            table,
            ledger,
            achieved: Arc::new(Achieved::new(durable)),
            failures_known: 0,
            flights: Flights::default(),
            parts: None,
            doubt: false,
            barrier: false,
            recovering_until: Seq::ZERO,
            keeps_order,
            checkpointed: durable,
            marked_since: None,
        }
    }

    /// Where the replica stands; `None`: unknown, only a full mirror helps ([`Applier::reset_to`]).
    pub fn position(&self) -> Option<Position> {
        self.meta.position
    }

    /// The last record whose effect the replica shows; 0 without a position.
    pub fn applied(&self) -> Seq {
        self.meta.position.map_or(Seq::ZERO, |p| p.seq)
    }

    /// The last record that survives a power cut of this host.
    pub fn durable(&self) -> Seq {
        self.achieved.get().1
    }

    /// Is the beginning of a full mirror the only record that it takes next?
    pub fn awaits_mirror(&self) -> bool {
        self.meta.jump
    }

    /// What the replica is now.
    pub fn data_state(&self) -> DataState {
        if self.meta.position.is_none() {
            DataState::MirrorRequired
        } else if self.meta.lenient {
            match self.meta.mirror {
                Some(_) => DataState::Mirroring,
                None => DataState::MirrorRequired,
            }
        } else if self.recovering_until > self.applied() {
            DataState::Recovering
        } else {
            DataState::Ok
        }
    }

    /// Is the replica what the source was at one moment? So it is also where it stands beyond its position, in
    /// a history that ended: the gap that tells what is wrong with that is still to be applied.
    pub fn is_whole(&self) -> bool {
        let is_ahead = self.data_state() == DataState::MirrorRequired
            && self.meta.position.is_some()
            && !self.meta.jump
            && self.wants.len() == 0;
        is_ahead || self.data_state() == DataState::Ok
    }

    /// The mirror under way.
    pub fn mirror(&self) -> Option<MirrorState> {
        let mirror = self.meta.mirror?;
        Some(MirrorState {
            id: mirror.number,
            scope: mirror.scope,
            pending: self.wants.len(),
            outstanding: self.wants.outstanding(),
            done_items: mirror.done_items,
        })
    }

    /// Ids to ask the source for, at most `max`; each is handed out once until
    /// [`Applier::reset_wants`]. Empty without a mirror.
    pub fn take_wants(&mut self, max: usize) -> Vec<FileId> {
        if self.meta.mirror.is_none() {
            return Vec::new();
        }
        self.wants.take(max)
    }

    /// Nothing has been asked for: for a new connection, once the stream is applied up to what the
    /// source had when it was made.
    pub fn reset_wants(&mut self) {
        let map = &self.map;
        self.wants.reset(|id| map.get(id).map(|inode| inode.kind));
    }

    /// Is everything wanted there? Then the source is told, and answers with the mirror's end.
    pub fn mirror_done(&self) -> bool {
        self.meta.mirror.is_some() && self.wants.len() == 0
    }

    /// How many files are known.
    pub fn file_count(&self) -> usize {
        self.map.len()
    }

    /// Bytes kept on the tmpfs since the last checkpoint; take one when they grow.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.table.log_bytes()
    }

    /// Applies the next frame. The parts of a listing are kept until the last, and lost with a
    /// restart: feed from [`Applier::applied`] on. A frame applied before is passed over.
    ///
    /// # Errors
    /// Nothing has advanced, and the same frame may be applied again, for ever.
    pub fn apply(&mut self, frame: &Frame) -> Result<(), Error> {
        let header = frame.header();
        let applied = self.meta.position.ok_or(Error::NoPosition)?.seq;
        if header.seq <= applied {
            return Ok(());
        }
        let starts = header.prev_seq == applied;
        if starts {
            self.parts = None;
        }
        let seq = header.seq;
        let mut body = frame
            .body()
            .map_err(|source| Error::Record { seq, source })?;
        let of_group = match (&self.parts, &body.op) {
            (None, _) => true,
            (Some(parts), Op::Listing { id, .. }) => parts.dir == Some(*id),
            (Some(_), _) => false,
        };
        let expected = self.parts.as_ref().map_or(applied, |parts| parts.last);
        if header.prev_seq != expected || !of_group {
            return Err(Error::OutOfOrder {
                found: seq,
                found_prev: header.prev_seq,
                expected,
            });
        }
        if header.has_more() || self.parts.is_some() {
            return self.apply_part(frame, &mut body);
        }
        self.apply_whole(seq, &body, frame.payload())
    }

    /// Keeps a part of a listing; the last one is applied with all before it.
    fn apply_part(&mut self, frame: &Frame, body: &mut Body) -> Result<(), Error> {
        let seq = frame.header().seq;
        let Op::Listing { id, entries, .. } = &mut body.op else {
            let op = body.op.kind().word();
            return Err(Error::NotAListing { seq, op });
        };
        let parts = self.parts.get_or_insert_default();
        let kept = kept_bytes(entries).max(frame.bytes().len() as u64);
        let bytes = parts.bytes.saturating_add(kept);
        if bytes > limits::LISTING_GROUP_BYTES_MAX {
            return Err(Error::ListingTooLong { seq });
        }
        if frame.header().has_more() {
            parts.bytes = bytes;
            parts.dir = Some(*id);
            parts.entries.append(entries);
            parts.last = seq;
            return Ok(());
        }
        let before = parts.entries.len();
        let mut all = std::mem::take(&mut parts.entries);
        all.append(entries);
        *entries = all;
        let outcome = self.apply_whole(seq, body, frame.payload());
        match (&outcome, &mut body.op, &mut self.parts) {
            // An error must leave the parts as they were.
            (Err(_), Op::Listing { entries, .. }, Some(parts)) => {
                entries.truncate(before);
                parts.entries = std::mem::take(entries);
            }
            _ => self.parts = None,
        }
        outcome
    }

    fn apply_whole(&mut self, seq: Seq, body: &Body, payload: &[u8]) -> Result<(), Error> {
        let record = Record { seq, body, payload };
        let full_mirror = matches!(
            body.op,
            Op::MirrorBegin {
                scope: Scope::Full,
                ..
            }
        );
        if self.meta.jump && !full_mirror {
            let op = body.op.kind().word();
            return Err(Error::NoMirror { seq, op });
        }
        if let Err(what) = fit::check(&record) {
            let op = body.op.kind().word();
            return Err(Error::Unfit { seq, op, what });
        }
        // An operation in doubt stands behind the barrier already, or raised it itself.
        if self.barrier && !self.doubt {
            self.checkpoint_now()?;
            self.lower_barrier();
        }
        self.table.intend(seq);
        let mut outcome = self.carry_out(&record);
        if let Err(Fault::Disbelieved(dirs)) = &outcome {
            self.disbelieve(dirs)?;
            outcome = self.carry_out(&record);
        }
        match outcome {
            Ok(()) => {}
            Err(fault) => {
                // What was refused before anything was done is not in doubt.
                self.doubt |= match &fault {
                    Fault::Io { source, .. } => tells_divergence(source).is_none(),
                    Fault::Diverged { .. } | Fault::Disbelieved(_) => false,
                    Fault::Whole(_) => true,
                };
                return Err(self.complete(&record, fault));
            }
        }
        if let Err(error) = self.settle(seq) {
            self.doubt = true;
            return Err(error);
        }
        self.doubt = false;
        self.after(&record);
        Ok(())
    }

    /// Has these directories listed, before what they hold is moved: whoever comes after a crash finds them
    /// in doubt, and what was moved out of them is not forgotten.
    fn disbelieve(&mut self, dirs: &[Object]) -> Result<(), Error> {
        for id in self.map.ids_of(dirs) {
            self.map.set_trust(id, Trust::Stale);
            self.wants.add_anew(id, InodeKind::Dir);
        }
        self.note_now()
    }

    /// Notes what changed without an operation.
    pub(super) fn note_now(&mut self) -> Result<(), Error> {
        let applied = self.applied();
        let meta = self.meta_changed.then_some(&self.meta);
        self.table.note(applied, meta, self.map.changes())?;
        self.map.settle();
        self.meta_changed = false;
        Ok(())
    }

    /// Notes the operation as done: changes first, then the word.
    pub(super) fn settle(&mut self, seq: Seq) -> Result<(), Error> {
        if self.meta_changed || self.map.has_changes() {
            self.meta.epoch = self.map.epoch();
            let meta = self.meta_changed.then_some(&self.meta);
            self.table.note(seq, meta, self.map.changes())?;
            self.map.settle();
            self.meta_changed = false;
        }
        if let Some(position) = &mut self.meta.position {
            position.seq = seq;
        }
        self.table.done(seq);
        Ok(())
    }

    /// What an operation needs that is not to be done twice: it is applied already.
    fn after(&mut self, record: &Record<'_>) {
        if matches!(record.body.op, Op::MirrorEnd { .. }) && !self.meta.lenient {
            self.barrier = true;
        }
        if self.barrier && self.checkpoint_now().is_ok() {
            self.lower_barrier();
        }
    }

    /// A checkpoint must come before the next operation, also after a crash of the process.
    pub(super) fn raise_barrier(&mut self) {
        self.barrier = true;
        self.table.set_barrier(true);
    }

    fn lower_barrier(&mut self) {
        self.barrier = false;
        self.table.set_barrier(false);
    }

    fn carry_out(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let body = record.body;
        match &body.op {
            Op::Write { .. }
            | Op::Truncate { .. }
            | Op::Fallocate { .. }
            | Op::SetAttr { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. } => return self.content(record),
            Op::Gap { ids, everything } => self.gap(ids, *everything),
            Op::MirrorBegin {
                mirror,
                scope,
                root,
            } => self.mirror_begin(*mirror, *scope, *root),
            Op::MirrorEnd { mirror } => self.mirror_end(*mirror)?,
            // Whoever stops there, or tells of it, looks at the stream.
            Op::Mark { .. } => {}
            Op::Image { .. }
            | Op::ImageBegin { .. }
            | Op::ImageData { .. }
            | Op::ImageHole { .. }
            | Op::ImageEnd { .. } => return self.image(record),
            Op::Listing {
                id,
                entries,
                xattrs,
            } => self.listing(*id, entries, xattrs, body.after)?,
            Op::Create { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. } => {
                if self.meta.lenient {
                    self.namespace_lenient(body)?;
                } else {
                    self.namespace_strict(body)?;
                }
            }
        }
        if body.op.kind().is_namespace() {
            self.mark(record.seq)?;
        }
        Ok(())
    }

    /// Remembers in the file system's own metadata that everything up to `seq` is done.
    pub(super) fn mark(&mut self, seq: Seq) -> Result<(), Fault> {
        use super::error::At;
        // In a mirror no position is read, as a crash of the host is followed by another mirror; that the replica went
        // on after a checkpoint must be seen, and is by the first marker after it.
        let is_told = self.meta.lenient && self.marked_since == Some(self.checkpointed);
        let is_read = self.keeps_order && !is_told;
        let Some(position) = self.meta.position.filter(|_| is_read) else {
            return Ok(());
        };
        let limbo = self.replica.limbo();
        let history = position.history;
        let marker = Marker {
            position: Position { history, seq },
            moving: None,
        };
        self.replica.mark(marker).at(limbo)?;
        self.marked_since = Some(self.checkpointed);
        Ok(())
    }

    /// Before a rename whose two ends cannot tell whether it was done: remembers who moves.
    pub(super) fn mark_moving(&mut self, object: Object) -> Result<(), Fault> {
        use super::error::At;
        let Some(position) = self.meta.position.filter(|_| self.keeps_order) else {
            return Ok(());
        };
        let limbo = self.replica.limbo();
        let marker = Marker {
            position,
            moving: Some(object),
        };
        self.replica.mark(marker).at(limbo)
    }

    pub(super) fn complete(&mut self, record: &Record<'_>, fault: Fault) -> Error {
        let (seq, op) = (record.seq, record.body.op.kind().word());
        let mut path_of = |inode: Option<Inode>, name: Option<crate::types::Name>| {
            let known = inode.map(|inode| self.replica.path_of(inode));
            let known =
                known.unwrap_or_else(|| String::from_utf8_lossy(&record.body.path).into_owned());
            match name {
                Some(name) => format!("{known}/{}", name.as_os_str().display()),
                None => known,
            }
        };
        match fault {
            Fault::Whole(error) => error,
            Fault::Disbelieved(_) => Error::Diverged {
                seq,
                op,
                path: path_of(None, None),
                what: "a directory would be moved below itself",
            },
            Fault::Diverged { inode, name, what } => Error::Diverged {
                seq,
                op,
                path: path_of(inode, name),
                what,
            },
            Fault::Io {
                inode,
                name,
                source,
            } => {
                let path = path_of(Some(inode), name);
                match tells_divergence(&source) {
                    Some(what) => Error::Diverged {
                        seq,
                        op,
                        path,
                        what,
                    },
                    None => Error::Replica {
                        seq,
                        op,
                        path,
                        source,
                    },
                }
            }
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            token: self.meta.token,
            instance: self.replica.instance(),
        }
    }

    /// Wants an image of `id`, which stands in a live directory.
    pub(super) fn want(&mut self, id: FileId, kind: InodeKind) {
        self.wants.add(id, kind);
    }

    /// The id is dead: nothing is known of it any more.
    pub(super) fn drop_id(&mut self, id: FileId) {
        self.wants.remove(id);
        if let Some(inode) = self.map.get(id) {
            self.replica.forget(inode.object);
        }
        self.map.remove(id);
    }

    /// For tests and tools: the replica.
    pub fn replica(&self) -> &R {
        &self.replica
    }

    /// For tests and tools: the replica, to be changed behind the applier's back.
    pub fn replica_mut(&mut self) -> &mut R {
        &mut self.replica
    }
}
