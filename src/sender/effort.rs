//! How hard a connection compresses: by what the link, the queue and the processors have to spare.

use std::time::Duration;

/// zstd's levels, from the first step to the last. None of them is none: who pays for what goes over a link wants little
/// of it, however fast the link is. What does not compress is left alone by the packer.
const LEVELS: [i32; 5] = [-5, 1, 3, 6, 9];
/// The step for a connection that keeps up: it saves most of what can be saved, for little.
const USUAL: usize = 1;
/// So many bytes of records tell how fast a step is.
const TRIAL_BYTES: u64 = 32 << 20;
/// What another step reached is believed for so long; links and loads change.
const BELIEVED: Duration = Duration::from_secs(60);

/// How one batch went.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Bytes of records in it.
    pub raw_bytes: u64,
    /// Was it compressed?
    pub is_smaller: bool,
    /// Are there more records in the queue?
    pub is_behind: bool,
    /// The time that it took to read and pack it.
    pub packed: Duration,
    /// The processor time of that: less when others wanted the processors.
    pub processor: Duration,
    /// The time until the link, or the target behind it, took one more.
    pub waited: Duration,
}

/// Chooses the level. While there is a backlog it looks for the one that moves most bytes of records a second: a
/// link that is waited for wants a higher one, one that waits for us a lower one. What was tried lately and was
/// slower is not tried again. Without a backlog it goes back to the usual level.
///
/// A higher level is taken only by who gets a processor when it wants one: programs on the source come first.
#[derive(Debug)]
pub struct Effort {
    step: usize,
    bytes: u64,
    packed: Duration,
    processor: Duration,
    waited: Duration,
    is_smaller: bool,
    /// Bytes a second of each step, and how long ago that was.
    seen: [Option<(f64, Duration)>; LEVELS.len()],
}

impl Default for Effort {
    fn default() -> Effort {
        Effort::new()
    }
}

impl Effort {
    /// At the usual level, with nothing known.
    pub fn new() -> Effort {
        Effort {
            step: USUAL,
            bytes: 0,
            packed: Duration::ZERO,
            processor: Duration::ZERO,
            waited: Duration::ZERO,
            is_smaller: false,
            seen: [None; LEVELS.len()],
        }
    }

    /// zstd's level.
    pub fn level(&self) -> i32 {
        LEVELS[self.step]
    }

    /// A batch is on its way.
    pub fn note(&mut self, batch: &Batch) {
        let took = batch.packed + batch.waited;
        for (_, age) in self.seen.iter_mut().flatten() {
            *age += took;
        }
        if !batch.is_behind {
            self.step = USUAL;
            self.begin_trial();
            return;
        }
        self.bytes += batch.raw_bytes;
        self.packed += batch.packed;
        self.processor += batch.processor;
        self.waited += batch.waited;
        self.is_smaller |= batch.is_smaller;
        if self.bytes >= TRIAL_BYTES {
            self.decide();
            self.begin_trial();
        }
    }

    fn begin_trial(&mut self) {
        self.bytes = 0;
        self.packed = Duration::ZERO;
        self.processor = Duration::ZERO;
        self.waited = Duration::ZERO;
        self.is_smaller = false;
    }

    fn decide(&mut self) {
        let took = (self.packed + self.waited).as_secs_f64().max(1e-9);
        let rate = self.bytes as f64 / took;
        self.seen[self.step] = Some((rate, Duration::ZERO));
        let is_link_slow = self.waited > self.packed;
        let is_link_idle = self.waited < self.packed / 4;
        let has_processor = self.processor > self.packed / 2;
        // What does not compress is not made to by another level.
        let compresses = self.is_smaller;
        if is_link_slow && compresses && has_processor && self.is_worth(self.step + 1, rate) {
            self.step += 1;
        } else if is_link_idle && self.is_smaller && self.step > 0 {
            if self.is_worth(self.step - 1, rate) {
                self.step -= 1;
            }
        } else if let Some(better) = self.best_known(rate) {
            self.step = better;
        }
    }

    /// Is there such a step, and may it be faster than `rate`?
    fn is_worth(&self, step: usize, rate: f64) -> bool {
        let Some(seen) = self.seen.get(step) else {
            return false;
        };
        seen.is_none_or(|(reached, age)| age > BELIEVED || reached > rate)
    }

    /// A neighbour that was clearly faster.
    fn best_known(&self, rate: f64) -> Option<usize> {
        let neighbours = [self.step.checked_sub(1), Some(self.step + 1)];
        neighbours.into_iter().flatten().find(|&step| {
            let seen = self.seen.get(step).copied().flatten();
            seen.is_some_and(|(reached, age)| age <= BELIEVED && reached > rate * 1.1)
        })
    }
}
