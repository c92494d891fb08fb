//! What a partial mirror needs, found out before any of it is applied.
//!
//! Applied as it comes, a mirror makes the replica a mixture until its end; and a source that is lost for
//! good in between leaves that mixture behind, where there was a replica of some moment before. So the
//! records from a gap on are held, and looked at: a [`Stage`] says what is to be asked for, by the same
//! rules as the applier in its lenient state, on the map alone. When the end of the mirror is among the
//! records that are here, all of them are applied in one go, which needs nobody else.
//!
//! It need not be exact. What it asks for in vain is ignored when it is applied, and what it misses the
//! applier finds wanting then, and asks for, as ever.

use std::collections::{HashMap, HashSet};

use crate::codec::Frame;
use crate::types::{Dentry, Entry, FileId, Node, Op, RenameMode, Scope, Seq};

use super::engine::Applier;
use super::error::Error;
use super::replica::{InodeKind, Replica};
use super::wants::Wants;

const COLLAPSE: i32 = libc::FALLOC_FL_COLLAPSE_RANGE;
const INSERT: i32 = libc::FALLOC_FL_INSERT_RANGE;

/// More files than this are not followed.
const FILES_MAX: usize = 1 << 20;

/// A file, as it will be once what was looked at is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Exact.
    Live(InodeKind),
    /// In doubt.
    Stale(InodeKind),
    /// Gone, or not there yet.
    Dead,
}

impl Known {
    /// Is it there, and of this kind? Answers for anything else are passed over.
    fn is(self, kind: InodeKind) -> bool {
        matches!(self, Known::Live(known) | Known::Stale(known) if known == kind)
    }
}

/// What became of the stage with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// It goes on.
    On,
    /// The mirror is here in whole.
    Whole,
    /// It cannot be followed: what was held is to be applied as it comes.
    Over,
}

/// A partial mirror that is collected.
#[derive(Debug, Default)]
pub struct Stage {
    mirror: Option<u64>,
    wants: Wants,
    /// Where it differs from the applier's map.
    files: HashMap<FileId, Known>,
    /// Large files whose image is under way.
    imaging: HashSet<FileId>,
    done_items: u64,
}

impl Stage {
    /// Can a stage begin with this record?
    pub fn can_begin(op: &Op) -> bool {
        matches!(
            op,
            Op::Gap {
                everything: false,
                ..
            }
        )
    }

    /// The mirror's number, once its beginning was seen.
    pub fn mirror(&self) -> Option<u64> {
        self.mirror
    }

    /// Files whose image is wanted.
    pub fn pending(&self) -> usize {
        self.wants.len()
    }

    /// Of these, asked for.
    pub fn outstanding(&self) -> usize {
        self.wants.outstanding()
    }

    /// Listings and images seen.
    pub fn done_items(&self) -> u64 {
        self.done_items
    }

    /// Is everything wanted here? Then the source is told, and answers with the mirror's end.
    pub fn is_done(&self) -> bool {
        self.mirror.is_some() && self.wants.len() == 0
    }

    /// Ids to ask the source for, as [`Applier::take_wants`].
    pub fn take_wants(&mut self, max: usize) -> Vec<FileId> {
        match self.mirror {
            Some(_) => self.wants.take(max),
            None => Vec::new(),
        }
    }

    fn want(&mut self, id: FileId, kind: InodeKind) {
        self.files.insert(id, Known::Stale(kind));
        self.wants.add(id, kind);
    }

    fn is_dead(&mut self, id: FileId) {
        self.files.insert(id, Known::Dead);
        self.wants.remove(id);
        self.imaging.remove(&id);
    }

    fn is_live(&mut self, id: FileId, kind: InodeKind) {
        self.files.insert(id, Known::Live(kind));
        self.wants.remove(id);
        self.imaging.remove(&id);
    }

    fn imaged(&mut self, id: FileId, kind: InodeKind) {
        self.is_live(id, kind);
        self.done_items += 1;
    }
}

impl<R: Replica> Applier<R> {
    /// Nothing has been asked for, as [`Applier::reset_wants`].
    pub fn reset_staged_wants(&self, stage: &mut Stage) {
        let (files, map) = (&stage.files, &self.map);
        stage.wants.reset(|id| match files.get(&id) {
            Some(Known::Live(kind) | Known::Stale(kind)) => Some(*kind),
            Some(Known::Dead) => None,
            None => map.get(id).map(|inode| inode.kind),
        });
    }

    /// Looks at the next record, which is not applied.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn look_at(&self, stage: &mut Stage, frame: &Frame) -> Result<Staged, Error> {
        let seq: Seq = frame.header().seq;
        let body = frame.body();
        let body = body.map_err(|source| Error::Record { seq, source })?;
        let is_gone = body.after.is_some_and(|after| after.nlink == 0);
        match &body.op {
            Op::Gap {
                everything: true, ..
            }
            | Op::MirrorBegin {
                scope: Scope::Full, ..
            } => return Ok(Staged::Over),
            Op::Gap { ids, .. } => {
                for id in ids {
                    if let Known::Live(kind) | Known::Stale(kind) = self.staged(stage, *id) {
                        stage.files.insert(*id, Known::Stale(kind));
                        stage.imaging.remove(id);
                        stage.wants.add_anew(*id, kind);
                    }
                }
            }
            Op::MirrorBegin { mirror, .. } => stage.mirror = Some(*mirror),
            Op::MirrorEnd { mirror } if stage.mirror == Some(*mirror) && stage.is_done() => {
                return Ok(Staged::Whole);
            }
            Op::MirrorEnd { .. } => {}
            Op::Listing { id, .. } | Op::Image { id, .. } if is_gone => stage.is_dead(*id),
            Op::Listing { id, entries, .. } => {
                self.look_at_listing(stage, *id, entries, frame.header().has_more());
            }
            Op::Image { id, node, .. } if self.staged(stage, *id).is(InodeKind::of(node)) => {
                stage.imaged(*id, InodeKind::of(node));
            }
            Op::ImageBegin { id } if self.staged(stage, *id).is(InodeKind::File) => {
                stage.imaging.insert(*id);
                stage.wants.add_asked(*id);
            }
            Op::ImageEnd { id, .. } if stage.imaging.contains(id) => {
                stage.imaged(*id, InodeKind::File);
            }
            Op::Fallocate { id, mode, .. }
                if mode & (COLLAPSE | INSERT) != 0 && stage.imaging.remove(id) =>
            {
                stage.wants.add_anew(*id, InodeKind::File);
            }
            Op::Create { at, id, node, .. } => match self.is_live_dir(stage, at) {
                true => stage.is_live(*id, InodeKind::of(node)),
                false => stage.is_dead(*id),
            },
            Op::Link { id, at, node } => self.arrives(stage, at, (*id, node)),
            Op::Unlink { id, .. } if is_gone => stage.is_dead(*id),
            Op::Rmdir { id, .. } => stage.is_dead(*id),
            Op::Rename {
                id,
                node,
                from,
                to,
                replaced,
                mode,
            } => {
                self.arrives(stage, to, (*id, node));
                if let Some(replaced) = replaced {
                    match mode {
                        RenameMode::Exchange => {
                            self.arrives(stage, from, (replaced.id, &replaced.node));
                        }
                        _ if replaced.nlink == 0 || replaced.node.is_dir() => {
                            stage.is_dead(replaced.id);
                        }
                        _ => {}
                    }
                }
                if let RenameMode::Whiteout { id, .. } = mode {
                    match self.is_live_dir(stage, from) {
                        true => stage.is_live(*id, InodeKind::Other),
                        false => stage.is_dead(*id),
                    }
                }
            }
            _ => {}
        }
        Ok(match stage.files.len() > FILES_MAX {
            true => Staged::Over,
            false => Staged::On,
        })
    }

    fn staged(&self, stage: &Stage, id: FileId) -> Known {
        let known = stage.files.get(&id).copied();
        known.unwrap_or_else(|| match self.map.get(id) {
            Some(inode) if self.map.is_of_epoch(id) => Known::Live(inode.kind),
            _ => Known::Dead,
        })
    }

    fn is_live_dir(&self, stage: &Stage, at: &Dentry) -> bool {
        self.staged(stage, at.parent) == Known::Live(InodeKind::Dir)
    }

    /// A name in a directory leads to this file.
    fn arrives(&self, stage: &mut Stage, at: &Dentry, guest: (FileId, &Node)) {
        if self.is_live_dir(stage, at) {
            self.settles(stage, guest);
        }
    }

    fn settles(&self, stage: &mut Stage, (id, node): (FileId, &Node)) {
        let kind = InodeKind::of(node);
        match self.staged(stage, id) {
            Known::Live(known) if known == kind => {}
            Known::Stale(known) if known == kind => stage.want(id, kind),
            // An answer to the question for what it was before was passed over, or will be.
            Known::Live(_) | Known::Stale(_) | Known::Dead => {
                stage.wants.remove(id);
                stage.want(id, kind);
            }
        }
    }

    fn look_at_listing(&self, stage: &mut Stage, id: FileId, entries: &[Entry], has_more: bool) {
        if !self.staged(stage, id).is(InodeKind::Dir) {
            return;
        }
        for entry in entries {
            self.settles(stage, (entry.id, &entry.node));
        }
        if !has_more {
            stage.imaged(id, InodeKind::Dir);
        }
    }
}
