//! The driver of the simulation: a source, a link and a target in one thread, step by step, and what
//! must hold after each step.

use std::collections::VecDeque;

use doppelfs::applier::{DataState, Start as Recovery};
use doppelfs::codec::Frame;
use doppelfs::sender::{Why, is_mirror_due, is_possible, marks_after, marks_at};
use doppelfs::types::{History, Marks as Told, Seq};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::simulation_planted::Planted;
use super::simulation_source::{Event, Host, Stop};
use super::simulation_target::{Answer, Came, Marks, Target};
use super::simulation_taste::{Step, Taste};

/// One connection. It may be over at one end and not yet at the other.
struct Session {
    number: u64,
    to_target: VecDeque<Vec<Frame>>,
    to_source: VecDeque<Answer>,
    is_source_open: bool,
    is_target_open: bool,
    /// The source's reader.
    read: Seq,
}

pub struct Sim {
    seed: u64,
    rng: StdRng,
    pub host: Host,
    pub target: Target,
    session: Option<Session>,
    /// What the source knows of the connection; it outlives a session.
    marks: Told,
    jump_required: bool,
    /// The highest position that the source was told is received, in which history.
    told: (History, Seq),
    /// The target has lost its position in a way that it may.
    may_jump: bool,
    planted: Planted,
    /// The replica may be another than when it was last looked at.
    is_changed: bool,
    trace: Vec<String>,
    /// What stood in the last line of it.
    noted: Option<(Seq, Marks, DataState)>,
    /// Steps come through unless a fault is one of them.
    pub is_steady: bool,
    pub operations: u32,
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() && self.planted == Planted::Nothing {
            eprintln!("{}", self.shown());
        }
    }
}

impl Sim {
    pub fn new(seed: u64, planted: Planted) -> Sim {
        Sim {
            seed,
            rng: StdRng::seed_from_u64(seed ^ 0x51a),
            host: Host::new(seed, planted),
            target: Target::new(planted),
            session: None,
            marks: Told::default(),
            jump_required: false,
            told: (History(0), Seq::ZERO),
            may_jump: true,
            planted,
            is_changed: true,
            trace: Vec::new(),
            noted: None,
            is_steady: false,
            operations: 0,
        }
    }

    fn shown(&self) -> String {
        let seed = self.seed;
        format!(
            "{}\nreplay: DOPPELFS_SEED={seed} cargo test --test it simulation::random -- --nocapture",
            self.trace.join("\n")
        )
    }

    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    fn note(&mut self, what: String) {
        let (end, marks) = (self.host.journal.end(), self.target.marks);
        let state = (end, marks, self.target.data());
        if what.ends_with(' ') && self.noted == Some(state) {
            return;
        }
        self.noted = Some(state);
        let (history, received, applied) = (self.host.history().0, marks.received, marks.applied);
        let theirs = marks.history.map_or(0, |h| h.0);
        let (durable, data) = (marks.durable, self.target.data());
        self.trace.push(format!(
            "{what} | {history}:{end} > {theirs}:{received} {applied} {durable} {data:?}"
        ));
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}", self.seed);
    }

    /// A whole run: steps by chance, then rest.
    pub fn run(&mut self) {
        let operations = self.rng.random_range(30..=200);
        let taste = Taste::of(&mut self.rng);
        if self.rng.random_bool(0.9) {
            self.rest();
        }
        while self.operations < operations {
            let step = taste.choose(&mut self.rng);
            self.step(step);
            self.check();
        }
        self.rest();
    }

    pub fn step(&mut self, step: Step) {
        let is_up = self.host.run.is_some();
        self.is_changed |= matches!(step, Step::Apply | Step::Deliver | Step::TargetStarts);
        let mut said = String::new();
        match step {
            Step::Operate if is_up => {
                said = self.operate();
            }
            Step::Settle if is_up => self.settle(),
            Step::SyncQueue => drop(self.host.journal.sync()),
            Step::Check if is_up => {
                let end = self.host.journal.end();
                self.host.check_step(&mut self.rng);
                said = self.host.journal.shown_after(end);
            }
            Step::Mirror if is_up => {
                let end = self.host.journal.end();
                self.host.mirror_step(&mut self.rng);
                said = self.host.journal.shown_after(end);
            }
            Step::Connect if is_up => said = self.connect(),
            Step::Send if is_up => self.send(),
            Step::Deliver => self.deliver(),
            Step::Apply if self.target.up => said = self.apply(),
            Step::Checkpoint if self.target.up => {
                let came = self.target.checkpoint(&mut self.rng);
                self.end_unless_alive(&came);
            }
            Step::Answer => self.answer(),
            Step::GoOn => {
                for _ in 0..self.rng.random_range(1..25) {
                    if self.is_quiet() {
                        break;
                    }
                    self.round();
                }
            }
            Step::Cut => self.hang_up(),
            Step::SourceDies => {
                self.host.die();
                self.leave();
            }
            Step::SourceLosesPower => self.source_loses_power(),
            Step::SourceEnds if is_up => {
                let unwatched = match self.is_steady {
                    true => 0,
                    false => self.rng.random_range(0..3),
                };
                let goes_back = !self.is_steady && self.rng.random_bool(0.2);
                self.host.end_clean(unwatched, goes_back);
                self.leave();
            }
            Step::TargetDies => self.target_dies(),
            Step::TargetLosesPower => self.target_loses_power(),
            Step::TargetIsFull if self.target.up => {
                let at = self.rng.random_range(0..6);
                self.target.rig.fuse.lock().unwrap().full = Some(at);
            }
            Step::SourceStarts if !is_up => said = self.source_starts(),
            Step::TargetStarts if !self.target.up => said = self.target_starts(),
            _ => return,
        }
        self.note(format!("{step:?} {said}"));
    }

    fn operate(&mut self) -> String {
        self.operations += 1;
        let stop = match self.rng.random_range(0..100) {
            _ if self.is_steady => Stop::Never,
            0 => Stop::Marked,
            1 => Stop::Changed,
            _ => Stop::Never,
        };
        let said = self.host.operate(&mut self.rng, stop);
        if stop != Stop::Never {
            self.source_goes_down();
        }
        format!("{stop:?} {said}")
    }

    /// In the middle of something: the process, or the power.
    fn source_goes_down(&mut self) {
        match self.rng.random_bool(0.6) {
            true => self.source_loses_power(),
            false => {
                self.host.die();
                self.leave();
            }
        }
    }

    fn source_loses_power(&mut self) {
        self.host.lose_power(&mut self.rng);
        self.leave();
    }

    fn settle(&mut self) {
        let stop = match !self.is_steady && self.rng.random_bool(0.1) {
            true => Stop::After(self.rng.random_range(0..3)),
            false => Stop::Never,
        };
        if !self.host.settle(&mut self.rng, stop) && self.rng.random_bool(0.7) {
            self.source_goes_down();
        }
    }

    fn source_starts(&mut self) -> String {
        let stop = match !self.is_steady && self.rng.random_bool(0.15) {
            true => Stop::After(self.rng.random_range(0..4)),
            false => Stop::Never,
        };
        let through = self.host.start(&mut self.rng, stop);
        self.may_jump |= std::mem::take(&mut self.host.voided);
        if !through {
            self.source_goes_down();
        }
        format!("{stop:?} {}", self.host.verdict)
    }

    fn target_starts(&mut self) -> String {
        self.target.rig.unlight();
        if !self.is_steady && self.rng.random_bool(0.1) {
            let left = self.rng.random_range(0..10);
            self.target.rig.light(left, self.rng.random_bool(0.5));
        }
        match self.target.start() {
            Err(what) => self.fail(&what),
            Ok(None) => {
                self.target_dies();
                "died".into()
            }
            Ok(Some(start)) => {
                // What is no prefix when the power fails, or was not yet settled, needs a mirror.
                let may = match start {
                    Recovery::NeedsMirror { row, .. } => matches!(row, 'E' | 'I'),
                    Recovery::Fresh => true,
                    _ => false,
                };
                self.may_jump |= may || self.target.is_unsettled();
                if self.target.marks.history.is_none() && !self.may_jump {
                    self.fail(&format!("the target has lost its position: {start:?}"));
                }
                format!("{start:?}")
            }
        }
    }

    fn target_dies(&mut self) {
        self.target.die(&mut self.rng);
        if let Some(session) = &mut self.session {
            session.is_target_open = false;
            session.to_target.clear();
        }
    }

    fn target_loses_power(&mut self) {
        self.target.lose_power(&mut self.rng);
        self.target_dies();
    }

    fn target_goes_down(&mut self) {
        match self.rng.random_bool(0.5) {
            true => self.target_dies(),
            false => self.target_loses_power(),
        }
    }

    fn end_unless_alive(&mut self, came: &Came) {
        if *came == Came::Died {
            self.target_goes_down();
        }
    }

    /// The source's end of the session is over; what it has sent may still come.
    fn leave(&mut self) {
        if let Some(session) = &mut self.session {
            session.is_source_open = false;
        }
    }

    /// The link is cut: of what is under way a beginning arrives, or nothing.
    fn hang_up(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let kept = self.rng.random_range(0..=session.to_target.len());
        session.to_target.truncate(kept);
        if let Some(last) = session.to_target.back_mut() {
            let frames = self.rng.random_range(1..=last.len());
            last.truncate(frames);
        }
        session.is_source_open = false;
        if let Some(run) = &mut self.host.run {
            run.events.push_back(Event::Reset);
        }
    }

    /// A new connection; an older one that the target still knows is fenced.
    fn connect(&mut self) -> String {
        let is_open = self
            .session
            .as_ref()
            .is_some_and(|s| s.is_source_open && s.is_target_open);
        if !self.target.up || is_open && self.rng.random_bool(0.9) {
            return String::new();
        }
        self.session = None;
        self.target.end_session();
        if let Some(run) = &mut self.host.run {
            run.events.push_back(Event::Reset);
        }
        let required = self.jump_required;
        let (forks, end) = (self.host.forks_told(required), self.host.journal.end());
        let Some(welcome) = self.target.welcome(&forks) else {
            return "not now".into();
        };
        if !is_possible(&welcome) {
            self.fail(&format!("its position is impossible: {welcome:?}"));
        }
        // What was held in a history that ended is given up.
        let is_ours = welcome.history == Some(self.host.history());
        if is_ours && welcome.history == Some(self.told.0) && welcome.received < self.told.1 {
            self.fail(&format!(
                "{:?} was told as received, now it is {welcome:?}",
                self.told
            ));
        }
        let (start, why) = self.host.choose_start(&welcome, required);
        let may = match why {
            Some(Why::NoPosition) => self.may_jump || self.target.is_lenient(),
            Some(Why::OtherHistory) => self.may_jump,
            Some(Why::Required | Why::Trimmed | Why::BeyondEnd) => false,
            None => true,
        };
        if !may {
            self.fail(&format!("a full mirror without need: {why:?}, {welcome:?}"));
        }
        let number = match self.target.begin(&welcome, &start, end) {
            Ok(number) => number,
            Err(what) => self.fail(&what),
        };
        self.jump_required = false;
        self.target.stage_max = match self.rng.random_range(0..4) {
            0 if !self.is_steady => self.rng.random_range(0..20),
            _ => usize::MAX,
        };
        self.session = Some(Session {
            number,
            to_target: VecDeque::new(),
            to_source: VecDeque::new(),
            is_source_open: true,
            is_target_open: true,
            read: start.after,
        });
        self.marks = marks_at(self.marks, &welcome, &start);
        format!("{start:?} {why:?}")
    }

    fn send(&mut self) {
        let Some(session) = self.session.as_mut().filter(|s| s.is_source_open) else {
            return;
        };
        let max = self.rng.random_range(1..12);
        let Some(batch) = self.host.journal.after(session.read, max) else {
            self.fail("a reader is behind the first record of the queue");
        };
        let Some(last) = batch.last() else { return };
        session.read = last.header().seq;
        self.marks.sent = self.marks.sent.max(session.read);
        if session.is_target_open {
            session.to_target.push_back(batch);
        }
        if self.planted == Planted::TrimmedEarly {
            let read = session.read;
            self.host.journal.trim(read);
        }
    }

    fn deliver(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        if !session.is_target_open || session.number != self.target.session {
            return;
        }
        let Some(batch) = session.to_target.pop_front() else {
            if !session.is_source_open {
                session.is_target_open = false;
                self.target.end_session();
            }
            return;
        };
        let is_jump = self.target.is_jump_due();
        let dies = !self.is_steady && self.rng.random_bool(if is_jump { 0.3 } else { 0.03 });
        self.target.stop_jump_after = (dies && is_jump).then(|| self.rng.random_range(0..4));
        if dies && self.target.stop_jump_after == Some(3) {
            self.target
                .rig
                .light(self.rng.random_range(0..3), self.rng.random_bool(0.5));
        }
        let came = match self.target.accept(&batch, !dies) {
            Ok(came) => came,
            Err(what) => self.fail(&what),
        };
        if came == Came::Held {
            // The target ends the session, which it cannot begin.
            self.target.end_session();
            self.session = None;
        }
        if dies || came == Came::Died {
            self.target_goes_down();
        }
    }

    fn apply(&mut self) -> String {
        let dies = !self.is_steady && self.rng.random_bool(0.06);
        if dies {
            let left = self.rng.random_range(0..4);
            self.target.rig.light(left, self.rng.random_bool(0.5));
        }
        let (max, wants) = (self.rng.random_range(1..20), self.rng.random_range(1..6));
        let came = match self.target.apply(max, wants) {
            Ok(came) => came,
            Err(what) => self.fail(&what),
        };
        if dies && came != Came::Died {
            self.target.rig.unlight();
        }
        self.end_unless_alive(&came);
        format!("{came:?}")
    }

    /// Answers go back: some acknowledgements are lost, which the next makes good.
    fn answer(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        if self.target.up && session.is_target_open && session.number == self.target.session {
            session.to_source.extend(self.target.take_answers());
        }
        let count = self.rng.random_range(0..=session.to_source.len());
        let (history, end) = (self.host.history(), self.host.journal.end());
        let mut said = None;
        for answer in session.to_source.drain(..count) {
            let Some(run) = self.host.run.as_mut().filter(|_| session.is_source_open) else {
                continue;
            };
            match answer {
                Answer::Want(ids) => run.events.push_back(Event::Wanted(ids)),
                Answer::Done(mirror) => run.events.push_back(Event::Done(mirror)),
                Answer::Ack(_) if self.rng.random_bool(0.1) => {}
                Answer::Ack(ack) => {
                    let Some(marks) = marks_after(self.marks, &ack) else {
                        said = Some(ack);
                        break;
                    };
                    self.marks = marks;
                    self.told = (history, marks.received);
                    if is_mirror_due(&ack, end) {
                        run.events.push_back(Event::Doubt);
                    }
                    if self.rng.random_bool(0.5) {
                        self.host.journal.trim(marks.durable);
                    }
                }
            }
        }
        if let Some(ack) = said {
            self.fail(&format!("acknowledges {ack:?} when {:?}", self.marks));
        }
    }

    /// What holds after every step.
    pub fn check(&mut self) {
        let marks = self.target.marks;
        if !(marks.durable <= marks.applied && marks.applied <= marks.received) {
            self.fail(&format!("marks out of order: {marks:?}"));
        }
        if self.session.as_ref().is_some_and(|s| s.is_source_open) {
            let told = self.marks;
            let is_ordered = told.durable <= told.applied && told.applied <= told.received;
            if !is_ordered || told.received > told.sent || told.sent > self.host.journal.end() {
                self.fail(&format!("out of order: {told:?}"));
            }
        }
        let is_changed = std::mem::take(&mut self.is_changed);
        // Where it stands beyond its position, what is wrong with that is held.
        let is_there = self.target.data() == DataState::Ok && !self.target.is_lenient();
        let is_ok = self.target.up && is_there;
        if !is_changed || !is_ok || self.target.is_half_done() {
            return;
        }
        let Some(at) = self.target.position() else {
            return;
        };
        self.may_jump &= at.history != self.host.history();
        if let Some(then) = self.host.at(at.history, at.seq)
            && let Some(what) = self.target.difference_to(then)
        {
            self.fail(&format!(
                "the replica says ok and is not what was at {at:?}: {what}"
            ));
        }
    }

    /// Everything comes up, and nothing happens any more until the target has all.
    pub fn rest(&mut self) {
        self.note("rest".into());
        self.target.rig.fuse.lock().unwrap().full = None;
        for _ in 0..4000 {
            if self.is_quiet() {
                return self.check_equal();
            }
            self.round();
        }
        self.fail("no rest is reached");
    }

    /// Everything goes on by a step.
    fn round(&mut self) {
        if self.rng.random_bool(0.1) {
            self.step(Step::Settle);
        }
        for step in [
            Step::SourceStarts,
            Step::TargetStarts,
            Step::Check,
            Step::Mirror,
            Step::Connect,
            Step::Send,
            Step::Deliver,
            Step::Apply,
            Step::Answer,
        ] {
            self.step(step);
            self.check();
        }
    }

    fn is_quiet(&self) -> bool {
        let end = self.host.journal.end();
        let is_open = self.session.as_ref().is_some_and(|s| {
            s.is_source_open && s.is_target_open && s.to_target.is_empty() && s.to_source.is_empty()
        });
        let marks = self.target.marks;
        is_open
            && self.host.is_idle()
            && self.target.up
            && self.target.data() == DataState::Ok
            && marks.history == Some(self.host.history())
            && marks.applied == end
    }

    fn check_equal(&mut self) {
        if let Some(what) = self.target.difference_to(&self.host.source.world) {
            self.fail(&format!("at rest source and replica differ: {what}"));
        }
        if self.target.limbo_count() > 0 {
            self.fail("at rest something is left in limbo");
        }
    }
}
