//! The source of the simulation: a file system whose power can fail, its activity log (the real one), a
//! model of its queue, and what a start does, in the order of `daemon/start.rs` and `daemon/prepare.rs`.
//! What a start believes and where a session begins is decided by the real code (`daemon/believe.rs`,
//! `sender/beginning.rs`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use doppelfs::activity::{Activity, Clean, Covered, Marks, Mounts, Now, Past, Survived, read_log};
use doppelfs::codec::Frame;
use doppelfs::daemon::{Belief, Doubt, believe, unfinished};
use doppelfs::sender::{Beginning, Line, Why};
use doppelfs::types::{Body, FileId, Fork, History, Node, Op, Scope, Seq, Time};
use doppelfs::wire::{Start, Welcome};
use rand::Rng;
use rand::rngs::StdRng;

use super::applier_model::{Made, Source, Taste, frame, id_of, ino_of};
use super::applier_rig::Scratch;
use super::applier_world::{ROOT, World, torn};
use super::simulation_log::Log;
use super::simulation_planted::Planted;

const SECOND_NS: u64 = 1_000_000_000;

/// The tree at one moment, with the times of change that a walk looks at.
#[derive(Debug, Clone)]
pub struct Moment {
    pub world: World,
    ctimes: BTreeMap<u64, i64>,
}

/// Where a source may stop in the middle of what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Never.
    Never,
    /// The marks are durable, nothing is changed.
    Marked,
    /// The change is made, no record says so.
    Changed,
    /// So many parts of a start, or of the end of an epoch, are done.
    After(u32),
}

/// The walk after a time in which nobody watched.
pub struct Check {
    pub after_ns: u64,
    pub until_ns: u64,
    pub in_doubt: HashSet<FileId>,
    pub dirs: Vec<u64>,
    pub moved: Vec<u64>,
    pub suspects: BTreeSet<FileId>,
}

/// What the mirror thread is told.
pub enum Event {
    Wanted(Vec<FileId>),
    Reset,
    Done(u64),
    /// A mirror of what is in doubt is due.
    Doubt,
}

/// A process that serves the set.
pub struct Run {
    activity: Arc<Activity>,
    pub check: Option<Check>,
    pub events: VecDeque<Event>,
    pub wants: VecDeque<FileId>,
    pub partial_wanted: bool,
    /// Mirrors that are complete, but for what the walk may still find.
    pub unended: Vec<u64>,
    pub imaging: Option<(u64, usize, u64)>,
    /// Marks that come too late; only of a planted bug.
    late: Vec<FileId>,
}

pub struct Host {
    pub source: Source,
    pub ctimes: BTreeMap<u64, i64>,
    /// What the tree was since it was last made durable; the last is what it is.
    below: Vec<Rc<Moment>>,
    pub journal: Log,
    log: Scratch,
    /// When the epochs of the log that are there began.
    epochs: BTreeMap<u64, u64>,
    covered: Option<Covered>,
    pub run: Option<Run>,
    boot: u64,
    histories: u128,
    pub mirrors: u64,
    pub shifts: u64,
    /// The tree holds changes that the stream neither tells nor doubts yet.
    pub is_unwatched: bool,
    /// The tree at each position of each history.
    pub past: HashMap<(History, Seq), Rc<Moment>>,
    pub planted: Planted,
    /// Last records of histories whose backlog became void.
    pub voided: bool,
    /// What the last start found, for the trace.
    pub verdict: String,
}

impl Host {
    pub fn new(seed: u64, planted: Planted) -> Host {
        let mut source = Source::new(seed);
        source.taste = Taste {
            things_max: 14,
            ..Taste::default()
        };
        let ctimes = BTreeMap::from([(ROOT, source.world.clock)]);
        let world = source.world.clone();
        let moment = Moment {
            world,
            ctimes: ctimes.clone(),
        };
        Host {
            source,
            ctimes,
            below: vec![Rc::new(moment)],
            journal: Log::default(),
            log: Scratch::new(),
            epochs: BTreeMap::new(),
            covered: None,
            run: None,
            boot: 1,
            histories: 0,
            mirrors: 0,
            shifts: 0,
            is_unwatched: false,
            past: HashMap::new(),
            planted,
            voided: false,
            verdict: String::new(),
        }
    }

    pub fn history(&self) -> History {
        self.covered.as_ref().map_or(History(0), |c| c.history)
    }

    fn forks(&self) -> &[Fork] {
        self.covered.as_ref().map_or(&[], |c| &c.forks)
    }

    fn now_ns(&self) -> u64 {
        self.source.world.clock as u64 * SECOND_NS
    }

    /// The tree at a position, where it is known exactly; positions before a fork are the old history's.
    pub fn at(&self, history: History, seq: Seq) -> Option<&World> {
        let mut found = self.past.get(&(history, seq));
        for fork in self.forks().iter().rev() {
            if found.is_none() && seq <= fork.end && history == self.history() {
                found = self.past.get(&(fork.history, seq));
            }
        }
        found.map(|moment| &moment.world)
    }

    /// The tree changed: it is so in memory, and may become so on the disk.
    fn changed(&mut self) {
        self.below.push(Rc::new(Moment {
            world: self.source.world.clone(),
            ctimes: self.ctimes.clone(),
        }));
    }

    fn sync_below(&mut self) {
        self.below.drain(..self.below.len() - 1);
    }

    pub fn append(&mut self, parts: &[Made]) {
        let last = parts.len() - 1;
        for (index, (body, payload)) in parts.iter().enumerate() {
            let end = self.journal.end();
            let made: Frame = frame(body, payload, end, end.next(), index < last);
            self.journal.push(made, self.source.world.clock);
        }
        let at = (self.history(), self.journal.end());
        match (self.is_unwatched, self.below.last()) {
            (false, Some(now)) => self.past.insert(at, Rc::clone(now)),
            _ => self.past.remove(&at),
        };
    }

    pub fn doubt(&mut self, ids: Vec<FileId>, everything: bool) {
        if !ids.is_empty() || everything {
            self.append_gap(ids, everything);
        }
    }

    fn append_gap(&mut self, ids: Vec<FileId>, everything: bool) {
        let op = Op::Gap { ids, everything };
        self.append(&[(Body::of(op), Vec::new())]);
        if let Some(run) = &mut self.run {
            run.partial_wanted = true;
        }
    }

    /// The process is gone; what it had below and in the queue stays.
    pub fn die(&mut self) {
        self.run = None;
    }

    /// The power is gone.
    pub fn lose_power(&mut self, rng: &mut StdRng) {
        self.run = None;
        self.boot += 1;
        self.journal.lose_power(rng);
        let kept = rng.random_range(0..self.below.len());
        let (mut moment, clock) = ((*self.below[kept]).clone(), self.source.world.clock);
        for (ino, thing) in &mut moment.world.things {
            let mut versions: Vec<&Vec<u8>> = Vec::new();
            for then in &self.below {
                let data = then.world.things.get(ino).map(|thing| &thing.data);
                versions.extend(data.filter(|data| versions.last() != Some(data)));
            }
            if versions.len() > 1 && thing.node == Node::File {
                thing.data = torn(&versions, rng);
            }
        }
        let next = self.source.world.next;
        self.source.world = moment.world;
        self.ctimes = moment.ctimes;
        self.source.world.clock = clock + 1000;
        // xfs gives lost numbers and generations again, ext4 other ones.
        let last = self.source.world.things.keys().next_back();
        self.source.world.next = match rng.random_bool(0.7) {
            true => last.map_or(next, |last| last + 1),
            false => next,
        };
        self.below.clear();
        self.is_unwatched = true;
        self.changed();
    }

    /// Ends in order, and somebody may change the tree while nobody watches.
    pub fn end_clean(&mut self, unwatched: u32, clock_goes_back: bool) {
        self.stop_mirror();
        let Some(run) = &self.run else { return };
        // A walk that has not ended leads the next start to where it began.
        let last_ctime_ns = match &run.check {
            Some(check) => check.after_ns,
            None => self.now_ns(),
        };
        self.journal.sync();
        self.sync_below();
        let ended_ns = match clock_goes_back {
            true => u64::MAX,
            false => self.now_ns(),
        };
        let end = self.journal.end();
        if let Some(covered) = &mut self.covered {
            covered.clean = Some(Clean {
                last_ctime_ns,
                ended_ns,
                end,
            });
        }
        self.run = None;
        for _ in 0..unwatched {
            self.is_unwatched = true;
            self.source.step();
            self.stamp();
            self.changed();
        }
        // A loss of power in this time is not simulated: data may then change without a time of change.
        self.sync_below();
    }

    /// The last operation's inodes get its time of change.
    fn stamp(&mut self) {
        // No two changes have the same.
        let clock = self.source.world.now().secs;
        for id in &self.source.touched {
            self.ctimes.insert(ino_of(*id), clock);
        }
        let things = &self.source.world.things;
        self.ctimes.retain(|ino, _| things.contains_key(ino));
    }

    fn note_epochs(&mut self, since_ns: u64) {
        let names = std::fs::read_dir(&self.log.0).unwrap();
        let there: BTreeSet<u64> = names
            .filter_map(|entry| u64::from_str_radix(entry.unwrap().file_name().to_str()?, 16).ok())
            .collect();
        self.epochs.retain(|epoch, _| there.contains(epoch));
        for epoch in there {
            self.epochs.entry(epoch).or_insert(since_ns);
        }
    }

    /// What is believed of the last run.
    fn believe(&self, boot: &str) -> Belief {
        let last = self.covered.as_ref();
        let survived = last.map(|last| read_log(&self.log.0, last.instance));
        let survived = match survived {
            // By the clock of the simulation: the log's own is the real one.
            Some(Survived::Marks(marks)) => Survived::Marks(Marks {
                since_ns: self.epochs.values().min().copied().unwrap_or(0),
                ..marks
            }),
            _ => Survived::Nothing,
        };
        let last_clock = self.journal.last_clock();
        let now = Now {
            root: id_of(ROOT),
            boot,
            mounts: Mounts::default(),
            now_ns: self.now_ns(),
            last_record_ns: last_clock.map(|at| at as u64 * SECOND_NS),
            end: self.journal.end(),
            records_lost: false,
        };
        let mut belief = believe(last, &now, &survived, false);
        if let (Planted::HistoryKept, Doubt::Marked { .. }, Some(last)) =
            (self.planted, &belief.doubt, last)
        {
            belief.history = Some(last.history);
            belief.forks.clone_from(&last.forks);
        }
        belief
    }

    /// A new process; false: it stopped on the way.
    pub fn start(&mut self, rng: &mut StdRng, stop: Stop) -> bool {
        let boot = format!("boot {}", self.boot);
        let belief = self.believe(&boot);
        let marked = match &belief.doubt {
            Doubt::Marked { ids, .. } => Some(ids.len()),
            _ => None,
        };
        self.verdict = format!("{:?} marks {marked:?}", belief.verdict);
        let history = belief.history.unwrap_or_else(|| {
            self.histories += 1;
            History(self.histories)
        });
        if belief.is_queue_void {
            self.voided = true;
            let end = self.journal.end();
            if end > Seq::ZERO {
                self.journal.reset(end);
            }
        }
        let after_ns = match &belief.doubt {
            Doubt::After(after) | Doubt::Marked { after, .. } => Some(ns(*after)),
            Doubt::Nothing | Doubt::Everything => None,
        };
        let is_durable = rng.random_bool(0.9);
        if is_durable {
            self.sync_below();
        }
        let activity = Activity::begin(
            &self.log.0,
            7,
            Past {
                is_durable,
                unlooked_since_ns: after_ns.map(|_| 1),
            },
        );
        let activity = Arc::new(activity.unwrap());
        let now_ns = self.now_ns();
        self.note_epochs(after_ns.map_or(now_ns, |after| after.min(now_ns)));
        let covered = Covered {
            instance: 7,
            history,
            root: id_of(ROOT),
            directory: "/srv".into(),
            boot,
            mounts: Mounts::default(),
            began_ns: now_ns,
            bypassed: false,
            clean: None,
            forks: belief.forks,
        };
        self.run = Some(Run {
            activity,
            check: None,
            events: VecDeque::new(),
            wants: VecDeque::new(),
            partial_wanted: false,
            unended: Vec::new(),
            imaging: None,
            late: Vec::new(),
        });
        if stop == Stop::After(0) {
            return false;
        }
        if marked.is_some() {
            // Before the first record of the new history.
            self.covered = Some(unfinished(&covered));
        }
        if !self.begin_doubt(belief.doubt, stop) {
            return false;
        }
        self.covered = Some(covered);
        true
    }

    /// As `begin_doubt` of `daemon/prepare.rs`, and the beginning of the walk.
    fn begin_doubt(&mut self, doubt: Doubt, stop: Stop) -> bool {
        if stop == Stop::After(1) {
            return false;
        }
        let (said, after) = match doubt {
            Doubt::Nothing => (None, None),
            Doubt::Everything => (Some((Vec::new(), true)), None),
            Doubt::After(after) => (None, Some((after, Vec::new()))),
            Doubt::Marked { ids, after } => (Some((ids.clone(), false)), Some((after, ids))),
        };
        if let Some((ids, everything)) = said {
            self.append_gap(ids, everything);
            if stop == Stop::After(2) {
                return false;
            }
            self.journal.sync();
        }
        if stop == Stop::After(3) {
            return false;
        }
        let until_ns = self.now_ns();
        match (after, &mut self.run) {
            (Some((after, ids)), Some(run)) => {
                let after_ns = ns(after);
                let in_doubt: HashSet<FileId> = ids.into_iter().collect();
                let covers = ns_of(&self.ctimes, ROOT).is_some_and(|at| at > after_ns);
                let root = Some(id_of(ROOT)).filter(|id| covers && !in_doubt.contains(id));
                run.check = Some(Check {
                    after_ns,
                    until_ns,
                    in_doubt,
                    dirs: vec![ROOT],
                    moved: Vec::new(),
                    suspects: root.into_iter().collect(),
                });
            }
            // All is in doubt, or new.
            _ => self.is_unwatched = false,
        }
        true
    }

    /// One operation of a program; what it was.
    pub fn operate(&mut self, rng: &mut StdRng, stop: Stop) -> String {
        let before = self.source.world.clone();
        let made = self.source.step();
        let shown = format!("{:?}", made.0.op);
        let after = std::mem::replace(&mut self.source.world, before);
        let touched = self.source.touched.clone();
        let is_old = |id: &FileId| self.source.world.things.contains_key(&ino_of(*id));
        let (old, new): (Vec<FileId>, Vec<FileId>) = touched.iter().partition(|id| is_old(id));
        let Some(run) = &mut self.run else {
            return shown;
        };
        let activity = Arc::clone(&run.activity);
        let marked: &[FileId] = match self.planted == Planted::MarkAfterChange {
            true => {
                run.late.extend(&old);
                &[]
            }
            false => &old,
        };
        let underway = activity.enter(marked);
        if stop == Stop::Marked {
            return shown;
        }
        self.check_doubts(&old);
        self.source.world = after;
        self.stamp();
        self.changed();
        if stop == Stop::Changed {
            self.is_unwatched = true;
            return shown;
        }
        for id in new {
            activity.note_new(id, &underway);
        }
        drop(underway);
        self.append(std::slice::from_ref(&made));
        self.note(&made.0.op);
        let run = self.run.as_mut();
        let late = run
            .filter(|_| rng.random_bool(0.3))
            .map(|run| &mut run.late);
        if let Some(late) = late {
            drop(activity.enter(&std::mem::take(late)));
        }
        shown
    }

    /// Ends the epoch of the log, with operations in between; false: it stopped on the way.
    pub fn settle(&mut self, rng: &mut StdRng, stop: Stop) -> bool {
        if self.is_checking() {
            return true;
        }
        let Some(run) = &self.run else { return true };
        let (activity, since_ns) = (Arc::clone(&run.activity), self.now_ns());
        let cell = RefCell::new((self, rng));
        let settled = activity.settle(|| {
            let (host, rng) = &mut *cell.borrow_mut();
            host.note_epochs(since_ns);
            host.between(rng, stop)
        });
        let (host, _) = cell.into_inner();
        let now_ns = host.now_ns();
        host.note_epochs(now_ns);
        settled.is_ok()
    }

    fn between(&mut self, rng: &mut StdRng, stop: Stop) -> io::Result<()> {
        let mut parts = 0;
        let mut is_over = |host: &mut Host, rng: &mut StdRng| {
            if stop == Stop::After(parts) {
                return Err(io::Error::other("stopped"));
            }
            parts += 1;
            if rng.random_bool(0.3) {
                host.operate(rng, Stop::Never);
            }
            Ok(())
        };
        is_over(self, rng)?;
        self.journal.sync();
        is_over(self, rng)?;
        self.sync_below();
        is_over(self, rng)
    }

    fn line(&self) -> Line<'_> {
        Line {
            history: self.history(),
            forks: self.forks(),
            before_first: self.journal.base,
            end: self.journal.end(),
        }
    }

    /// What a target is told first: the histories that this one goes on from.
    pub fn forks_told(&self, jumps: bool) -> Vec<History> {
        self.line().forks_told(jumps)
    }

    /// As `choose_start` of `sender/follow.rs`: where a session begins, and why by a jump.
    pub fn choose_start(&mut self, welcome: &Welcome, required: bool) -> (Start, Option<Why>) {
        match self.line().beginning(welcome, required) {
            Beginning::GoesOn { start, .. } => (start, None),
            Beginning::Mirror(why) => {
                let begin = self.begin_mirror(Scope::Full);
                (self.line().jump_to(begin), Some(why))
            }
        }
    }
}

fn ns(time: Time) -> u64 {
    time.secs as u64 * SECOND_NS + u64::from(time.nanos)
}

pub fn ns_of(ctimes: &BTreeMap<u64, i64>, ino: u64) -> Option<u64> {
    ctimes.get(&ino).map(|clock| *clock as u64 * SECOND_NS)
}
