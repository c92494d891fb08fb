//! After a crash of the host (row K of the table in `recovery.rs`): names replayed in memory, the
//! one operation in doubt decided, data and attributes redone.

use std::collections::HashMap;

use crate::codec::Frame;
use crate::types::{Body, Dentry, FileId, Node, Op, Position, RenameMode, Replaced, Seq};

use super::engine::{Applier, Record};
use super::error::{At, Error, Fault};
use super::map::Trust;
use super::namespace::{WHITEOUT_RDEV, place};
use super::recovery::Backlog;
use super::replica::{Inode, InodeKind, Object, Replica};

/// Why only a mirror helps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocked {
    pub(super) row: char,
    pub(super) reason: &'static str,
}

impl Blocked {
    pub(super) fn of(row: char, reason: &'static str) -> Blocked {
        Blocked { row, reason }
    }
}

/// Names of the files made after the checkpoint: their objects are found by walking.
#[derive(Debug, Default)]
struct Newborn {
    names: HashMap<Dentry, FileId>,
    nodes: HashMap<FileId, Node>,
}

impl Newborn {
    fn born(&mut self, at: &Dentry, id: FileId, node: &Node) {
        self.nodes.insert(id, node.clone());
        self.names.insert(at.clone(), id);
    }

    fn named(&mut self, at: &Dentry, id: FileId) {
        // Whoever had the name has it no more.
        self.names.remove(at);
        if self.nodes.contains_key(&id) {
            self.names.insert(at.clone(), id);
        }
    }

    fn renamed(&mut self, id: FileId, from: &Dentry, to: &Dentry, other: Option<FileId>) {
        self.names.remove(from);
        self.named(to, id);
        if let Some(other) = other {
            self.named(from, other);
        }
    }
}

/// The names that an operation changes.
fn own_names(op: &Op) -> Vec<&Dentry> {
    match op {
        Op::Create { at, .. }
        | Op::Link { at, .. }
        | Op::Unlink { at, .. }
        | Op::Rmdir { at, .. } => vec![at],
        Op::Rename { from, to, .. } => vec![from, to],
        _ => Vec::new(),
    }
}

fn is_marked(body: &Body) -> bool {
    match &body.op {
        Op::Fallocate { mode, .. } => super::replica::Range {
            mode: *mode,
            offset: 0,
            length: 0,
        }
        .shifts(),
        op => op.kind().is_namespace(),
    }
}

/// Outcome of a step that may find that only a mirror helps.
type Outcome<T> = Result<Result<T, Blocked>, Error>;

/// What the first pass over the journal found.
struct Replayed {
    newborn: Newborn,
    /// The first namespace operation after the marker: it may have survived too.
    doubtful: Option<Frame>,
    mirror: bool,
}

impl<R: Replica> Applier<R> {
    /// Brings map and replica from the checkpoint to what the marker names.
    pub(super) fn redo(
        &mut self,
        checkpoint: Position,
        mut backlog: Backlog<'_>,
    ) -> Outcome<Position> {
        let (marked, moving) = match self.replica.marked() {
            Ok(Some(marker)) => (marker.position, marker.moving),
            _ => return Ok(Err(Blocked::of('G', "no position is found on the replica"))),
        };
        if marked.history != checkpoint.history || marked.seq < checkpoint.seq {
            let reason = "the replica's own position does not fit the checkpoint";
            return Ok(Err(Blocked::of('G', reason)));
        }
        let covered = backlog.history == Some(marked.history) && backlog.end >= marked.seq;
        if !covered {
            return Ok(Err(Blocked::of('H', "the records to be redone are gone")));
        }
        let mut replayed = match self.replay(checkpoint.seq, marked.seq, &mut backlog)? {
            Ok(replayed) => replayed,
            Err(blocked) => return Ok(Err(blocked)),
        };
        if replayed.mirror {
            return Ok(Err(Blocked::of(
                'I',
                "a mirror or a gap follows the checkpoint",
            )));
        }
        let unfound = Blocked::of('J', "a file is not where the records say");
        let mut reached = marked.seq;
        if let Some(frame) = replayed.doubtful.take() {
            let body = decode(&frame)?;
            // Its own names may be as before or as after it; the rest is found without them.
            if !self.find_newborn(&replayed.newborn, Some(&body.op))? {
                return Ok(Err(unfound));
            }
            let seq = frame.header().seq;
            if self.has_survived(seq, &body, moving)? {
                self.follow_names(&mut replayed.newborn, &body);
                reached = seq;
            }
        }
        if !self.find_newborn(&replayed.newborn, None)? {
            return Ok(Err(unfound));
        }
        self.redo_content(checkpoint.seq, reached, &mut backlog)?;
        self.recovering_until = backlog.end;
        let history = checkpoint.history;
        Ok(Ok(Position {
            history,
            seq: reached,
        }))
    }

    /// First pass: names up to `until` in memory; what follows is only looked at.
    fn replay(&mut self, after: Seq, until: Seq, backlog: &mut Backlog<'_>) -> Outcome<Replayed> {
        let mut replayed = Replayed {
            newborn: Newborn::default(),
            doubtful: None,
            mirror: false,
        };
        let mut last = after;
        for frame in frames(backlog, after)? {
            let frame = frame.map_err(|source| Error::Backlog { after, source })?;
            let (seq, prev) = (frame.header().seq, frame.header().prev_seq);
            if prev != last {
                return Ok(Err(Blocked::of('H', "the records to be redone are gone")));
            }
            last = seq;
            let body = decode(&frame)?;
            replayed.mirror |= matches!(body.op, Op::MirrorBegin { .. } | Op::Gap { .. });
            if seq <= until {
                self.follow_names(&mut replayed.newborn, &body);
            } else if replayed.doubtful.is_none() && is_marked(&body) {
                replayed.doubtful = Some(frame);
            }
        }
        if last < until {
            return Ok(Err(Blocked::of('H', "the records to be redone are gone")));
        }
        Ok(Ok(replayed))
    }

    /// An operation's effect on the map and on the names of newborn files.
    fn follow_names(&mut self, newborn: &mut Newborn, body: &Body) {
        match &body.op {
            Op::Create { at, id, node, .. } => self.give_birth(newborn, at, *id, node),
            Op::Link { id, at, .. } => newborn.named(at, *id),
            Op::Unlink { at, id } => {
                newborn.names.remove(at);
                if body.after.is_some_and(|after| after.nlink == 0) {
                    self.bury(newborn, *id);
                }
            }
            Op::Rmdir { at, id } => {
                newborn.names.remove(at);
                self.bury(newborn, *id);
            }
            Op::Rename {
                id,
                from,
                to,
                replaced,
                mode,
                ..
            } => {
                let other = replaced.as_ref().map(|replaced| replaced.id);
                let swapped = other.filter(|_| *mode == RenameMode::Exchange);
                newborn.renamed(*id, from, to, swapped);
                if let RenameMode::Whiteout { id: whiteout, .. } = mode {
                    self.give_birth(newborn, from, *whiteout, &Node::Char(WHITEOUT_RDEV));
                }
                if *mode != RenameMode::Exchange {
                    self.bury_replaced(newborn, replaced);
                }
            }
            _ => {}
        }
    }

    /// Whoever is known by the id of a new file was made in a history that was lost, and is not it.
    fn give_birth(&mut self, newborn: &mut Newborn, at: &Dentry, id: FileId, node: &Node) {
        self.map.remove(id);
        newborn.born(at, id, node);
    }

    fn bury_replaced(&mut self, newborn: &mut Newborn, replaced: &Option<Replaced>) {
        if let Some(replaced) = replaced
            && (replaced.nlink == 0 || replaced.node.is_dir())
        {
            self.bury(newborn, replaced.id);
        }
    }

    fn bury(&mut self, newborn: &mut Newborn, id: FileId) {
        newborn.nodes.remove(&id);
        self.map.remove(id);
    }

    /// Finds the objects of newborn files by their names, parents first. The names of an operation in doubt
    /// are not looked at, nor what is below them. False: a file is not there.
    fn find_newborn(&mut self, newborn: &Newborn, doubtful: Option<&Op>) -> Result<bool, Error> {
        let except = doubtful.map(own_names).unwrap_or_default();
        let names = newborn.names.iter().map(|(at, id)| (at, *id));
        let mut waiting: Vec<(&Dentry, FileId)> =
            names.filter(|(at, _)| !except.contains(at)).collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut blocked = Vec::new();
            for (at, id) in waiting {
                match self.map.get(at.parent) {
                    Some(_) if self.map.get(id).is_some() => {}
                    Some(dir) => {
                        let found = self.replica.inspect(place(dir, &at.name));
                        let found = found.map_err(|source| Error::Replica {
                            seq: Seq::ZERO,
                            op: "walk",
                            path: at.name.as_os_str().display().to_string(),
                            source,
                        })?;
                        let kind = newborn.nodes.get(&id).map(InodeKind::of);
                        match found.filter(|inode| Some(inode.kind) == kind) {
                            Some(inode) if self.is_newborn(newborn, (id, inode), doubtful)? => {
                                self.map.bind(id, inode, Trust::Live);
                            }
                            _ => return Ok(false),
                        }
                    }
                    None => blocked.push((at, id)),
                }
            }
            if blocked.len() == before {
                return Ok(!except.is_empty());
            }
            waiting = blocked;
        }
        Ok(true)
    }

    /// Can what stands at a newborn file's name be it? One with more names than the records say may be a
    /// file of somebody else, linked there since the crash, and would be written to.
    fn is_newborn(
        &mut self,
        newborn: &Newborn,
        (id, found): (FileId, Inode),
        doubtful: Option<&Op>,
    ) -> Result<bool, Error> {
        if found.kind == InodeKind::Dir {
            return Ok(true);
        }
        let attrs = self.replica.attrs(found).map_err(|source| Error::Replica {
            seq: Seq::ZERO,
            op: "walk",
            path: self.replica.path_of(found),
            source,
        })?;
        let names = newborn.names.values().filter(|named| **named == id);
        // An operation in doubt may have made one more.
        let more = matches!(doubtful, Some(Op::Link { id: linked, .. }) if *linked == id);
        Ok(attrs.nlink as usize <= names.count() + usize::from(more))
    }

    fn object_at(&mut self, at: &Dentry) -> Result<Option<Object>, Fault> {
        match self.map.get(at.parent) {
            Some(dir) => self.look(place(dir, &at.name)),
            None => Ok(None),
        }
    }

    /// Was the operation in doubt done? Decided by what stands at its names, which are known
    /// exactly without it.
    fn has_survived(
        &mut self,
        seq: Seq,
        body: &Body,
        moving: Option<Object>,
    ) -> Result<bool, Error> {
        let record = Record {
            seq,
            body,
            payload: &[],
        };
        let decided = self.decide(&record, moving);
        decided.map_err(|fault| self.complete(&record, fault))
    }

    fn decide(&mut self, record: &Record<'_>, moving: Option<Object>) -> Result<bool, Fault> {
        let body = record.body;
        match &body.op {
            Op::Create { at, .. } | Op::Link { at, .. } => Ok(self.object_at(at)?.is_some()),
            Op::Unlink { at, .. } | Op::Rmdir { at, .. } => Ok(self.object_at(at)?.is_none()),
            Op::Rename {
                from,
                to,
                replaced,
                mode,
                ..
            } => {
                let (at_from, at_to) = (self.object_at(from)?, self.object_at(to)?);
                match mode {
                    RenameMode::Plain if replaced.is_some() => Ok(at_from.is_none()),
                    RenameMode::Plain => Ok(at_to.is_some()),
                    RenameMode::Exchange => Ok(moving.is_some() && at_to == moving),
                    RenameMode::Whiteout { .. } => {
                        let done = moving.is_some() && at_to == moving;
                        if done && at_from.is_none() {
                            // Its second half did not survive.
                            self.make_whiteout(from)?;
                        }
                        Ok(done)
                    }
                }
            }
            Op::Fallocate { id, .. } => match (self.map.get(*id), body.after) {
                (Some(inode), Some(after)) => self.shift_is_done(record, inode, &after),
                _ => Ok(false),
            },
            _ => Ok(false),
        }
    }

    fn make_whiteout(&mut self, from: &Dentry) -> Result<(), Fault> {
        let Some(dir) = self.map.get(from.parent) else {
            return Ok(());
        };
        let node = Node::Char(WHITEOUT_RDEV);
        let made = self.replica.create(place(dir, &from.name), &node);
        made.map(drop).at_name(dir, &from.name)
    }

    /// Second pass: everything that is physical and idempotent, for the files alive at `until`.
    fn redo_content(
        &mut self,
        after: Seq,
        until: Seq,
        backlog: &mut Backlog<'_>,
    ) -> Result<(), Error> {
        for frame in frames(backlog, after)? {
            let frame = frame.map_err(|source| Error::Backlog { after, source })?;
            if frame.header().seq > until {
                break;
            }
            let body = decode(&frame)?;
            let record = Record {
                seq: frame.header().seq,
                body: &body,
                payload: frame.payload(),
            };
            if let Err(fault) = self.redo_one(&record) {
                return Err(self.complete(&record, fault));
            }
        }
        self.map.settle();
        Ok(())
    }

    fn redo_one(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let body = record.body;
        let parents: [Option<FileId>; 2] = match &body.op {
            Op::Write { id, .. }
            | Op::Truncate { id, .. }
            | Op::SetAttr { id, .. }
            | Op::SetXattr { id, .. }
            | Op::RemoveXattr { id, .. }
            | Op::Fallocate { id, .. } => {
                return match self.map.get(*id) {
                    Some(inode) if !is_marked(body) => self.content_of(record, *id, inode),
                    Some(inode) => match &body.after {
                        Some(after) => self.match_attrs(inode, after, None),
                        None => Ok(()),
                    },
                    None => Ok(()),
                };
            }
            Op::Create {
                at,
                id,
                node,
                xattrs,
            } => {
                if let Some(inode) = self.map.get(*id) {
                    self.finish_new(inode, node, xattrs, body.after.as_ref())?;
                }
                [Some(at.parent), None]
            }
            Op::Link { at, .. } | Op::Unlink { at, .. } | Op::Rmdir { at, .. } => {
                [Some(at.parent), None]
            }
            Op::Rename { from, to, mode, .. } => {
                if let RenameMode::Whiteout { id, after } = mode
                    && let Some(inode) = self.map.get(*id)
                {
                    self.match_attrs(inode, after, None)?;
                }
                self.exchanged_times(body)?;
                [Some(from.parent), Some(to.parent)]
            }
            _ => [None, None],
        };
        for (parent, mtime) in parents.into_iter().zip([body.dir_mtime, body.to_mtime]) {
            if let Some(dir) = parent.and_then(|parent| self.map.get(parent)) {
                self.dir_time(dir, mtime)?;
            }
        }
        Ok(())
    }
}

fn decode(frame: &Frame) -> Result<Body, Error> {
    let seq = frame.header().seq;
    frame.body().map_err(|source| Error::Record { seq, source })
}

fn frames<'b>(
    backlog: &'b mut Backlog<'_>,
    after: Seq,
) -> Result<super::recovery::Frames<'b>, Error> {
    (backlog.after)(after).map_err(|source| Error::Backlog { after, source })
}
