//! The steps of the simulation, and how often a run takes each.

/// How a run goes: what happens often, what seldom.
#[derive(Debug, Clone)]
pub struct Taste {
    pub weights: [u32; STEPS.len()],
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Operate,
    Settle,
    SyncQueue,
    Check,
    Mirror,
    Connect,
    Send,
    Deliver,
    Apply,
    Checkpoint,
    Answer,
    /// All of these a few times, as far as there is something to do.
    GoOn,
    Cut,
    SourceDies,
    SourceLosesPower,
    SourceEnds,
    TargetDies,
    TargetLosesPower,
    TargetIsFull,
    SourceStarts,
    TargetStarts,
}

pub const STEPS: [Step; 21] = [
    Step::Operate,
    Step::Settle,
    Step::SyncQueue,
    Step::Check,
    Step::Mirror,
    Step::Connect,
    Step::Send,
    Step::Deliver,
    Step::Apply,
    Step::Checkpoint,
    Step::Answer,
    Step::GoOn,
    Step::Cut,
    Step::SourceDies,
    Step::SourceLosesPower,
    Step::SourceEnds,
    Step::TargetDies,
    Step::TargetLosesPower,
    Step::TargetIsFull,
    Step::SourceStarts,
    Step::TargetStarts,
];

/// How often each step is taken, before a run changes it to its taste; faults from `Cut` on.
pub const WEIGHTS: [u32; STEPS.len()] = [
    240, 20, 24, 60, 60, 30, 120, 120, 140, 50, 60, 40, 8, 3, 4, 3, 6, 3, 8, 80, 80,
];
pub const FAULTS: std::ops::Range<usize> = 12..19;
