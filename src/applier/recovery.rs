//! What a start finds, and what it does about it.
//!
//! | row | found | then |
//! |---|---|---|
//! | A | no ledger, or one without a position | nothing is known: no position, a full mirror |
//! | G | no marker, one of another history, or one before the checkpoint | a full mirror, whatever else is found |
//! | B | table of this ledger, boot and mount, of the ledger's history, that misses nothing since its checkpoint | map = checkpoint + changes noted; position = done; if an operation had begun, it is in doubt |
//! | C | no such table; the ledger was closed in order, and the marker is not beyond it | position = the ledger's |
//! | D | no such table; the ledger says that the position was just set anew | position = the ledger's; a full mirror must follow |
//! | E | no such table; a mirror was under way or required at the checkpoint | a full mirror |
//! | F | no such table; the replica's file system keeps no order | a full mirror |
//! | H | the journal is of another history or does not hold (checkpoint, marker] | a full mirror |
//! | I | records after the checkpoint hold a gap or the begin of a mirror | a full mirror |
//! | J | a file made after the checkpoint is not where replay says | a full mirror |
//! | K | all else | map = checkpoint + names replayed in memory up to the marker; the operation after it is decided by what stands there; data and attributes redone; on from there |
//!
//! Why are naive redos wrong? `mv a c; rm c; mv b a` with `a` and `b` two links of one inode: done
//! twice, the second `rm` takes the last link. `mv D1 D2/D1; mv D2/D1 D1; mv D2 D1/D2`: done twice,
//! the first step would move a directory into itself. Names are never redone, only decided.

use std::path::Path;
use std::sync::Arc;

use crate::codec::Frame;
use crate::sys;
use crate::types::{History, Position, Seq};

use super::engine::Applier;
use super::error::{Cause, Error};
use super::ledger::{Ledger, Meta};
use super::map::Map;
use super::redo::Blocked;
use super::replica::Replica;
use super::table::{Identity, Resume, Table};

/// Frames in the order of the journal.
pub type Frames<'a> = Box<dyn Iterator<Item = Result<Frame, Cause>> + 'a>;

/// The target's journal, as far as a start needs it.
pub struct Backlog<'a> {
    /// The history of its records; `None`: it is empty and was never given one.
    pub history: Option<History>,
    /// The last record in it.
    pub end: Seq,
    /// Frames after a position; an error when that was trimmed.
    #[allow(clippy::type_complexity, reason = "a closure that opens readers")]
    pub after: Box<dyn FnMut(Seq) -> Result<Frames<'a>, Cause> + 'a>,
}

impl Backlog<'_> {
    /// No journal: enough for anything but a crash of the host.
    pub fn empty() -> Backlog<'static> {
        Backlog {
            history: None,
            end: Seq::ZERO,
            after: Box::new(|_| Ok(Box::new(std::iter::empty()))),
        }
    }
}

/// How an applier came up; the letters are rows of the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A: nothing was known.
    Fresh,
    /// B: the process was gone, the host was not.
    Resumed {
        /// Was an operation under way?
        doubt: bool,
    },
    /// C: closed in order.
    Clean,
    /// D: directly after a jump.
    Jumped,
    /// K: the host was gone; the operations up to the position were found or redone.
    Redone {
        /// The checkpoint that the redo began at.
        from: Seq,
    },
    /// E to J: only a full mirror helps.
    NeedsMirror {
        /// The row's letter.
        row: char,
        /// For people.
        reason: &'static str,
    },
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Which way it came up.
    pub start: Start,
    /// Where it stands; `None`: a full mirror must come.
    pub position: Option<Position>,
}

fn random_token() -> Result<u64, Error> {
    let random = sys::random_u128();
    random
        .map(|bits| bits as u64)
        .map_err(|source| Error::Table {
            operation: "take random bits for",
            path: "token".into(),
            source,
        })
}

impl<R: Replica> Applier<R> {
    /// As [`Applier::open`], with a ledger of the caller's.
    ///
    /// # Errors
    /// As [`Applier::open`].
    pub fn open_with(
        replica: R,
        ledger: Arc<dyn Ledger>,
        table_dir: &Path,
        backlog: Backlog<'_>,
    ) -> Result<(Applier<R>, Recovered), Error> {
        let mut map = Map::default();
        let meta = match ledger.load(&mut |change| map.load(change))? {
            Some(meta) => meta,
            None => Meta::fresh(random_token()?),
        };
        map.set_epoch(meta.epoch);
        let identity = Identity {
            token: meta.token,
            instance: replica.instance(),
        };
        let (table, resume) = Table::open(table_dir, identity)?;
        let mut applier = Applier::assemble(replica, ledger, table, meta, map);
        let start = applier.start(resume, backlog)?;
        let position = applier.meta.position;
        let mut wanted: Vec<_> = applier.map.wanted().collect();
        wanted.sort_unstable_by_key(|(id, _)| *id);
        for (id, kind) in wanted {
            applier.want(id, kind);
        }
        Ok((applier, Recovered { start, position }))
    }

    fn start(&mut self, resume: Option<Resume>, backlog: Backlog<'_>) -> Result<Start, Error> {
        let Some(position) = self.meta.position else {
            // A. Every start of a ledger without a position writes the token anew.
            self.meta.lenient = true;
            return Ok(Start::Fresh);
        };
        if !self.marker_fits(position)? {
            self.give_up()?;
            return Ok(Start::NeedsMirror {
                row: 'G',
                reason: "the replica is older than what is known of it",
            });
        }
        let resume = resume.filter(|resume| resume.history == position.history);
        // A checkpoint that is older than what the table goes on from was put back from a copy.
        let resume =
            resume.filter(|resume| resume.base <= position.seq && position.seq <= resume.done);
        if let Some(resume) = resume {
            return self.resume(position, resume); // B
        }
        if self.meta.clean && !self.is_replica_beyond(position) {
            self.restart_at(position)?; // C
            return Ok(Start::Clean);
        }
        if self.meta.jump {
            self.restart_at(position)?; // D
            return Ok(Start::Jumped);
        }
        let blocked = if self.meta.lenient {
            Blocked::of('E', "a mirror was under way when the host went down")
        } else if !self.keeps_order {
            let reason = "the file system does not keep the order of operations over a crash";
            Blocked::of('F', reason)
        } else {
            match self.redo(position, backlog)? {
                Ok(reached) => {
                    // Durable before the table is believed: it knows nothing of what was replayed.
                    self.meta.position = Some(reached);
                    self.make_job()?.run()?;
                    self.restart_at(reached)?;
                    return Ok(Start::Redone { from: position.seq });
                }
                Err(blocked) => blocked,
            }
        };
        self.give_up()?;
        Ok(Start::NeedsMirror {
            row: blocked.row,
            reason: blocked.reason,
        })
    }

    /// Each checkpoint begins with a marker. A replica without it was put back from a copy, whether the
    /// host was down or not.
    fn marker_fits(&mut self, checkpoint: Position) -> Result<bool, Error> {
        if !self.keeps_order {
            return Ok(true);
        }
        let marked = self.replica.marked().map_err(|source| Error::Open {
            operation: "read the position beside",
            path: "the replica".into(),
            source,
        })?;
        Ok(marked.is_some_and(|marker| {
            marker.position.history == checkpoint.history && marker.position.seq >= checkpoint.seq
        }))
    }

    /// B.
    fn resume(&mut self, position: Position, resume: Resume) -> Result<Start, Error> {
        let (map, meta) = (&mut self.map, &mut self.meta);
        let mut latest: Option<Meta> = None;
        self.table.read_changes(resume.done, |noted| {
            if noted.seq <= position.seq {
                return;
            }
            for change in noted.changes {
                map.load_dirty(change);
            }
            latest = noted.meta.or(latest.take());
        })?;
        if let Some(latest) = latest {
            *meta = latest;
        }
        map.set_epoch(meta.epoch);
        meta.position = Some(Position {
            history: resume.history,
            seq: resume.done,
        });
        self.doubt = resume.intent > resume.done;
        self.barrier = resume.barrier;
        self.recovering_until = resume.recovering;
        if self.doubt {
            self.recovering_until = resume.recovering.max(resume.intent);
        }
        self.table.resume(resume.done)?;
        self.unclean()?;
        Ok(Start::Resumed { doubt: self.doubt })
    }

    /// Does the replica's own marker say that it went on after the ledger was closed? Then the ledger
    /// is a restored copy of an older one, and done again from there names would be done twice.
    fn is_replica_beyond(&mut self, position: Position) -> bool {
        let marked = self.replica.marked().ok().flatten();
        marked.is_some_and(|marker| {
            let at = marker.position;
            at.history == position.history && at.seq > position.seq
        })
    }

    /// A new table at a position that the ledger and the replica agree on.
    fn restart_at(&mut self, position: Position) -> Result<(), Error> {
        self.meta.position = Some(position);
        self.unclean()?;
        let identity = self.identity();
        let at = (position.history, position.seq);
        self.table.begin(identity, at, self.recovering_until)
    }

    /// From here on operations are applied: the ledger must not say any more that none were.
    fn unclean(&mut self) -> Result<(), Error> {
        if self.meta.clean {
            self.meta.clean = false;
            self.ledger.commit(&[], &self.meta)?;
        }
        Ok(())
    }

    /// E to J: the map is kept (the mirror finds the objects by it), the position is not.
    fn give_up(&mut self) -> Result<(), Error> {
        self.table.invalidate();
        self.meta.position = None;
        self.meta.clean = false;
        self.meta.lenient = true;
        self.meta.mirror = None;
        self.ledger.commit(&[], &self.meta)
    }
}
