//! The target of the simulation: the real applier over a simulated disk, a model of its queue, and what a
//! stream does, in the order of `receiver/welcome.rs`, `intake.rs` and `replay.rs`. What is decided about
//! positions is decided by the real code (`receiver/position.rs`).

use doppelfs::applier::{DataState, Stage, Staged, Start as Recovery};
use doppelfs::codec::Frame;
use doppelfs::receiver::{Gate, Standing, ToldDone, Way, data_state, opened_at};
use doppelfs::sys::SharedWords;
use doppelfs::types::{FileId, History, Kind, Position, Seq};
use doppelfs::wire::{Ack, MirrorProgress, PROTOCOL, Start, TargetState, Welcome};
use rand::Rng;
use rand::rngs::StdRng;

use super::applier_kills::sim;
use super::applier_rig::Rig;
use super::applier_world::{Depth, LIMBO, SimReplica, World, difference};
use super::simulation_planted::Planted;

/// What a source is told later.
#[derive(Debug, Clone)]
pub enum Answer {
    Ack(Ack),
    Want(Vec<FileId>),
    Done(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Marks {
    pub history: Option<History>,
    pub received: Seq,
    pub applied: Seq,
    pub durable: Seq,
}

pub struct Target {
    pub rig: Rig<SimReplica>,
    /// How far the queue survives a loss of power.
    synced: Seq,
    /// The parts of a group whose end has not come.
    open: Vec<Frame>,
    /// Queue and map belong together; durable.
    settled: bool,
    pub up: bool,
    pub marks: Marks,
    /// The applier follows the queue, and has read so far.
    read: Option<Seq>,
    gate: Gate,
    pub session: u64,
    speaks: bool,
    jump_due: Option<(Start, Way)>,
    told_done: ToldDone,
    /// What is held until a mirror is there in whole, and how far it was looked at.
    stage: Option<(Stage, Seq)>,
    /// The gap up to here is applied as it comes.
    unstaged: Seq,
    /// Is there room to hold so many records?
    pub stage_max: usize,
    answers: Vec<Answer>,
    planted: Planted,
    is_held: bool,
    /// Where the last death came: after so many steps of setting the position anew.
    pub stop_jump_after: Option<u32>,
}

/// Did it come through?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    Through,
    /// The process died.
    Died,
    /// It is to be tried again.
    Held,
}

impl Target {
    pub fn new(planted: Planted) -> Target {
        let mut rig = Rig::new(sim());
        rig.applier = None;
        rig.history = None;
        Target {
            rig,
            synced: Seq::ZERO,
            open: Vec::new(),
            settled: true,
            up: false,
            marks: Marks {
                history: None,
                received: Seq::ZERO,
                applied: Seq::ZERO,
                durable: Seq::ZERO,
            },
            read: None,
            gate: Gate::Closed,
            session: 0,
            speaks: false,
            jump_due: None,
            told_done: ToldDone::default(),
            stage: None,
            unstaged: Seq::ZERO,
            stage_max: usize::MAX,
            answers: Vec::new(),
            planted,
            is_held: false,
            stop_jump_after: None,
        }
    }

    pub fn data(&self) -> DataState {
        if self.stage.is_some() && self.marks.history.is_some() {
            return DataState::Ok;
        }
        self.applied_data()
    }

    fn applied_data(&self) -> DataState {
        match (&self.rig.applier, self.marks.history) {
            (Some(applier), Some(_)) => applier.data_state(),
            _ => DataState::MirrorRequired,
        }
    }

    pub fn position(&self) -> Option<Position> {
        self.rig.applier.as_ref().and_then(|a| a.position())
    }

    pub fn is_jump_due(&self) -> bool {
        self.jump_due.is_some()
    }

    /// A position was being set anew when it died.
    pub fn is_unsettled(&self) -> bool {
        !self.settled
    }

    /// A mirror is due or under way: whoever is in another history has to begin it anew.
    pub fn is_lenient(&self) -> bool {
        !matches!(self.applied_data(), DataState::Ok)
    }

    fn looked_at(&self) -> Seq {
        match &self.stage {
            Some((_, scouted)) => *scouted,
            None => self.rig.applier.as_ref().unwrap().applied(),
        }
    }

    /// An operation failed half-way and is tried again.
    pub fn is_half_done(&self) -> bool {
        self.is_held
    }

    /// The first difference of the replica to a tree.
    pub fn difference_to(&self, tree: &World) -> Option<String> {
        let disk = self.rig.replica.disk.lock().unwrap();
        difference(tree, &disk.live, Depth::All)
    }

    pub fn limbo_count(&self) -> usize {
        let disk = self.rig.replica.disk.lock().unwrap();
        disk.live.things[&LIMBO].entries.len()
    }

    pub fn die(&mut self, rng: &mut StdRng) {
        self.rig.applier = None;
        self.rig.job = None;
        self.up = false;
        self.session = 0;
        self.is_held = false;
        self.jump_due = None;
        self.gate = Gate::Closed;
        self.stage = None;
        self.unstaged = Seq::ZERO;
        self.open.clear();
        self.answers.clear();
        if matches!(self.planted, Planted::AppliedTwice | Planted::DoubtIgnored) {
            self.sabotage(rng);
        }
    }

    fn sabotage(&mut self, rng: &mut StdRng) {
        let Ok(words) = SharedWords::open(&self.rig.table.0.join("applied"), 11) else {
            return;
        };
        let (intent, done) = (words.load(6), words.load(7));
        if self.planted == Planted::DoubtIgnored {
            words.store(6, done);
        } else if done > 0 && intent > 0 {
            let before = self.rig.journal.iter().map(|f| f.header().seq.0);
            let before: Vec<u64> = before.filter(|seq| *seq < done).collect();
            let back = rng.random_range(1..4);
            if let Some(at) = before.len().checked_sub(back) {
                words.store(7, before[at]);
            }
        }
    }

    pub fn lose_power(&mut self, rng: &mut StdRng) {
        self.die(rng);
        self.rig.lose_table();
        self.rig.replica.disk.lock().unwrap().cut(rng);
        let synced = self.synced;
        let durable = self
            .rig
            .journal
            .partition_point(|f| f.header().seq <= synced);
        let kept = rng.random_range(durable..=self.rig.journal.len());
        self.rig.journal.truncate(kept);
        while self
            .rig
            .journal
            .last()
            .is_some_and(|f| f.header().has_more())
        {
            self.rig.journal.pop();
        }
        self.synced = self.rig.end();
    }

    /// A new process; how it came up, where it came up.
    pub fn start(&mut self) -> Result<Option<Recovery>, String> {
        let known = self.rig.history;
        self.rig.history = known.filter(|_| self.settled);
        let opened = self.rig.open_with_fuse();
        self.rig.history = known;
        let recovered = match opened {
            Ok(recovered) => recovered,
            Err(_) if self.rig.is_dead() => return Ok(None),
            Err(e) => return Err(format!("the target cannot be opened: {e}")),
        };
        self.sync();
        let applier = self.rig.applier.as_ref().unwrap();
        let (received, durable) = (self.rig.end(), applier.durable());
        let position = opened_at(recovered.position, self.settled, self.rig.base, received);
        let seq = position.map_or(Seq::ZERO, |p| p.seq);
        self.read = position.map(|p| p.seq);
        self.marks = Marks {
            history: position.map(|p| p.history),
            received: position.map_or(Seq::ZERO, |_| received),
            applied: seq,
            durable: durable.min(seq),
        };
        self.up = true;
        Ok(Some(recovered.start))
    }

    fn sync(&mut self) {
        self.synced = self.rig.end();
    }

    fn standing(&self) -> Standing {
        let applier = self.rig.applier.as_ref();
        Standing {
            history: self.marks.history,
            received: self.marks.received,
            applied: self.marks.applied,
            data: data_state(self.data()),
            is_before_mirror: applier.is_some_and(|applier| applier.awaits_mirror()),
            stage_rests: self
                .stage
                .as_ref()
                .is_some_and(|(_, scouted)| *scouted >= self.marks.received),
        }
    }

    /// As `position` of `receiver/welcome.rs`; `None`: not now.
    pub fn welcome(&mut self, forks: &[History]) -> Option<Welcome> {
        self.sync();
        if self.marks.history.is_some() {
            self.marks.received = self.marks.received.max(self.synced);
        }
        let standing = self.standing();
        if standing.is_awaited(forks) {
            return None;
        }
        Some(Welcome {
            protocol: PROTOCOL,
            history: standing.history_told(forks, true),
            received: standing.received_told(forks),
            applied: self.marks.applied,
            durable: self.marks.durable,
            mirror: None,
            replica_path: String::new(),
            state: TargetState::Ok,
            remap: None,
            next_key: None,
        })
    }

    /// As `begin` of `receiver/welcome.rs`; the session's number.
    pub fn begin(&mut self, welcome: &Welcome, start: &Start, end: Seq) -> Result<u64, String> {
        let Some(way) = Way::of(welcome, start) else {
            return Err(format!("refused: {start:?} after {welcome:?}"));
        };
        self.gate = way.gate(start, end);
        self.session += 1;
        self.speaks = !way.is_anew();
        self.jump_due = way.is_anew().then(|| (start.clone(), way));
        self.open.clear();
        self.answers.clear();
        Ok(self.session)
    }

    pub fn end_session(&mut self) {
        self.gate = Gate::Closed;
        self.speaks = false;
        self.jump_due = None;
        self.open.clear();
        self.answers.clear();
    }

    /// A batch comes; `is_durable`: it gets as far as being made so.
    pub fn accept(&mut self, batch: &[Frame], is_durable: bool) -> Result<Came, String> {
        for frame in batch {
            if let Some((start, way)) = self.jump_due.clone() {
                match self.jump(frame, &start, way)? {
                    Came::Through => self.jump_due = None,
                    other => return Ok(other),
                }
            }
            self.store(frame)?;
        }
        if is_durable {
            if self.planted != Planted::AckBeforeDurable {
                self.sync();
            }
            self.marks.received = self.rig.end();
        }
        Ok(Came::Through)
    }

    fn store(&mut self, frame: &Frame) -> Result<(), String> {
        let prev = frame.header().prev_seq;
        if prev == self.rig.end() {
            self.open.clear();
        }
        let end = self.open.last().map_or(self.rig.end(), |f| f.header().seq);
        if prev != end {
            return Err(format!("a record after {prev} comes to a queue at {end}"));
        }
        self.open.push(frame.clone());
        if !frame.header().has_more() {
            self.rig.journal.append(&mut self.open);
        }
        Ok(())
    }

    /// As `jump` of `receiver/intake.rs` and `jump_to` of `replay.rs`.
    fn jump(&mut self, frame: &Frame, start: &Start, way: Way) -> Result<Came, String> {
        if !way.is_set_by(start, frame) {
            return Err(format!(
                "no jump to {start:?} with {:?}",
                frame.header().kind
            ));
        }
        if let Some(job) = self.rig.job.take() {
            let _ = job.run();
        }
        let (history, seq) = (start.history, start.after);
        self.read = None;
        self.stage = None;
        self.unstaged = Seq::ZERO;
        self.told_done = ToldDone::default();
        self.settled = false;
        if self.stop_jump_after == Some(0) {
            return Ok(Came::Died);
        }
        self.rig.journal.clear();
        self.rig.base = seq;
        self.synced = seq;
        self.open.clear();
        if self.stop_jump_after == Some(1) {
            return Ok(Came::Died);
        }
        let position = Position { history, seq };
        let applier = self.rig.applier();
        let reset = match way == Way::Forks {
            true => applier.continue_in(position),
            false => applier.reset_to(position),
        };
        if self.rig.is_dead() {
            return Ok(Came::Died);
        }
        if reset.is_err() {
            self.marks.history = None;
            return Ok(Came::Held);
        }
        if self.stop_jump_after == Some(2) {
            return Ok(Came::Died);
        }
        self.settled = true;
        self.rig.history = Some(history);
        self.read = Some(seq);
        self.marks = Marks {
            history: Some(history),
            received: seq,
            applied: seq,
            durable: seq,
        };
        self.answers.clear();
        self.speaks = true;
        Ok(Came::Through)
    }

    /// Applies records that are durable here, at most so many, and says so.
    pub fn apply(&mut self, max: usize, wants_max: usize) -> Result<Came, String> {
        let mut came = Came::Through;
        for _ in 0..max {
            let Some(read) = self.read else { break };
            let read = self.stage.as_ref().map_or(read, |(_, scouted)| *scouted);
            let next = self.rig.journal.partition_point(|f| f.header().seq <= read);
            let Some(frame) = self.rig.journal.get(next).cloned() else {
                break;
            };
            if frame.header().seq > self.marks.received {
                break;
            }
            if self.stage.is_none() && self.is_to_be_staged(&frame) {
                self.stage = Some((Stage::default(), self.rig.applier().applied()));
            }
            if self.stage.is_some() {
                self.look_at(&frame);
                continue;
            }
            if let Err(error) = self.rig.applier().apply(&frame) {
                if self.rig.is_dead() {
                    return Ok(Came::Died);
                }
                if !error_is_full(&error) {
                    return Err(format!("the replica is held: {error}"));
                }
                came = Came::Held;
                self.is_held = true;
                break;
            }
            self.is_held = false;
            self.read = Some(frame.header().seq);
        }
        if self.rig.is_dead() {
            return Ok(Came::Died);
        }
        self.publish(wants_max);
        Ok(came)
    }

    /// As in `receiver/replay/staging.rs`.
    fn is_to_be_staged(&mut self, frame: &Frame) -> bool {
        let header = frame.header();
        header.kind == Kind::Gap
            && header.seq > self.unstaged
            && self.stage_max > 0
            && self.rig.applier().is_whole()
            && Stage::can_begin(&frame.body().unwrap().op)
    }

    fn look_at(&mut self, frame: &Frame) {
        let (mut stage, _) = self.stage.take().unwrap();
        let upto = frame.header().seq;
        let looked = self.rig.applier().look_at(&mut stage, frame).unwrap();
        let held = self.rig.journal.iter().map(|f| f.header().seq);
        let read = self.read.unwrap();
        let held = held.filter(|seq| *seq > read && *seq <= upto).count();
        if looked == Staged::On && held <= self.stage_max {
            self.stage = Some((stage, upto));
            return;
        }
        self.unstaged = upto;
        self.told_done = ToldDone::default();
        self.gate = self.gate.after_release(upto);
    }

    fn publish(&mut self, wants_max: usize) {
        let looked_at = self.looked_at();
        let applier = self.rig.applier.as_mut().unwrap();
        if self.gate.opens(self.read.map(|_| looked_at)) {
            self.gate = Gate::Open;
            match &mut self.stage {
                Some((stage, _)) => applier.reset_staged_wants(stage),
                None => applier.reset_wants(),
            }
            self.told_done = ToldDone::default();
        }
        if self.gate == Gate::Open {
            let wants = match &mut self.stage {
                Some((stage, _)) => stage.take_wants(wants_max),
                None => applier.take_wants(wants_max),
            };
            if !wants.is_empty() {
                self.answers.push(Answer::Want(wants));
            }
            let finished = match &self.stage {
                Some((stage, _)) => stage.mirror().filter(|_| stage.is_done()),
                None => {
                    let is_done = applier.mirror_done();
                    let finished = applier.mirror().filter(|_| is_done);
                    finished.map(|mirror| mirror.id)
                }
            };
            if let Some(mirror) = self.told_done.newly(self.session, finished) {
                self.answers.push(Answer::Done(mirror));
            }
        }
        if self.read.is_some() {
            self.marks.applied = self.rig.applier.as_ref().unwrap().applied();
        }
    }

    /// What there is to tell the source.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        if !self.speaks {
            return Vec::new();
        }
        let marks = self.marks;
        let mut answers = vec![Answer::Ack(Ack {
            received: marks.received,
            applied: marks.applied,
            durable: marks.durable,
            data: data_state(self.data()),
            state: TargetState::Ok,
            error: None,
            last_path: None,
            mirror: self.stage.as_ref().and_then(|(stage, _)| {
                let mirror = stage.mirror()?;
                Some(MirrorProgress {
                    mirror,
                    ..MirrorProgress::default()
                })
            }),
            is_staged: self.stage.is_some(),
        })];
        answers.append(&mut self.answers);
        answers
    }

    /// Begins a checkpoint, or carries out the one that was begun.
    pub fn checkpoint(&mut self, rng: &mut StdRng) -> Came {
        let lies = self.planted == Planted::CheckpointWithoutSync;
        let durable = match self.rig.job.take() {
            Some(job) => {
                let live = lies.then(|| self.rig.replica.disk.lock().unwrap().clone());
                let durable = job.run().ok();
                if let Some(live) = live {
                    *self.rig.replica.disk.lock().unwrap() = live;
                }
                durable
            }
            None => {
                self.rig.job = self.rig.applier().begin_checkpoint().ok().flatten();
                None
            }
        };
        if self.rig.is_dead() {
            return Came::Died;
        }
        if let Some(durable) = durable.filter(|_| self.read.is_some()) {
            self.marks.durable = self.marks.durable.max(durable);
            if rng.random_bool(0.5) {
                self.trim(durable);
            }
        }
        Came::Through
    }

    fn trim(&mut self, seq: Seq) {
        let journal = &mut self.rig.journal;
        let count = journal.partition_point(|f| f.header().seq <= seq);
        let Some(last) = (0..count)
            .rev()
            .find(|at| !journal[*at].header().has_more())
        else {
            return;
        };
        self.rig.base = journal[last].header().seq;
        journal.drain(..=last);
        self.synced = self.synced.max(self.rig.base);
    }
}

fn error_is_full(error: &doppelfs::applier::Error) -> bool {
    let mut at: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = at {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|e| e.raw_os_error() == Some(libc::ENOSPC)) {
            return true;
        }
        at = error.source();
    }
    false
}
