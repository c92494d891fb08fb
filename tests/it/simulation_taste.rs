//! The steps of the simulation, and how often a run takes each.

use rand::Rng;
use rand::rngs::StdRng;

/// How a run goes: what happens often, what seldom.
#[derive(Debug, Clone)]
pub struct Taste {
    weights: [u32; STEPS.len()],
}

impl Taste {
    /// Some runs are calm, some are all faults, some have a target far behind.
    pub fn of(rng: &mut StdRng) -> Taste {
        let mut weights = WEIGHTS;
        let faults = [1, 1, 2, 2, 2, 2, 4, 12][rng.random_range(0..8)];
        for (index, weight) in weights.iter_mut().enumerate() {
            if FAULTS.contains(&index) {
                *weight = *weight * faults / 2;
            }
            *weight = match rng.random_range(0..8) {
                0 => *weight / 8,
                1 => *weight * 3,
                _ => *weight,
            };
        }
        Taste { weights }
    }

    pub fn choose(&self, rng: &mut StdRng) -> Step {
        let total: u32 = self.weights.iter().sum();
        let mut left = rng.random_range(0..total);
        for (step, weight) in STEPS.iter().zip(self.weights) {
            if left < weight {
                return *step;
            }
            left -= weight;
        }
        Step::Operate
    }
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

const STEPS: [Step; 21] = [
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
const WEIGHTS: [u32; STEPS.len()] = [
    240, 20, 24, 60, 60, 30, 120, 120, 140, 50, 60, 40, 8, 3, 4, 3, 6, 3, 8, 80, 80,
];
const FAULTS: std::ops::Range<usize> = 12..19;
