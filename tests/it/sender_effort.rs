//! The choice of a compression level, against links, targets and processors that are played.

use std::time::Duration;

use doppelfs::sender::{Batch, Effort};

/// Bytes a second at each level, and what is left of the bytes; as measured with logs.
const PACKS: [(i32, f64, f64); 5] = [
    (-5, 900e6, 0.45),
    (1, 450e6, 0.30),
    (3, 250e6, 0.26),
    (6, 90e6, 0.22),
    (9, 45e6, 0.20),
];
const BATCH: u64 = 1 << 20;

/// A link of so many bytes a second before a target that takes so many bytes of records.
struct World {
    link: f64,
    target: f64,
    compresses: bool,
    /// The part of a processor that the sender gets.
    processor: f64,
    seconds: f64,
}

impl World {
    fn new(link: f64, target: f64) -> World {
        World {
            link,
            target,
            compresses: true,
            processor: 1.0,
            seconds: 0.0,
        }
    }

    /// One batch at the effort's level: packing and sending go on side by side.
    fn send(&mut self, effort: &mut Effort, is_behind: bool) {
        let level = effort.level();
        let (_, speed, left) = PACKS
            .into_iter()
            .find(|&(other, ..)| other == level)
            .expect("a known level");
        let left = if self.compresses { left } else { 1.0 };
        let processor = BATCH as f64 / speed;
        let packed = processor / self.processor;
        let onwards = (BATCH as f64 * left / self.link).max(BATCH as f64 / self.target);
        let waited = (onwards - packed).max(0.0);
        self.seconds += packed + waited;
        effort.note(&Batch {
            raw_bytes: BATCH,
            is_smaller: self.compresses,
            is_behind,
            packed: Duration::from_secs_f64(packed),
            processor: Duration::from_secs_f64(processor),
            waited: Duration::from_secs_f64(waited),
        });
    }

    /// Bytes of records a second over many batches.
    fn rate(&mut self, effort: &mut Effort, batches: u64) -> f64 {
        let began = self.seconds;
        for _ in 0..batches {
            self.send(effort, true);
        }
        (batches * BATCH) as f64 / (self.seconds - began)
    }

    /// What a level that never changes would reach.
    fn fixed(&self, level: i32) -> f64 {
        let (_, speed, left) = PACKS
            .into_iter()
            .find(|&(other, ..)| other == level)
            .expect("a known level");
        let left = if self.compresses { left } else { 1.0 };
        (speed * self.processor)
            .min(self.link / left)
            .min(self.target)
    }
}

#[test]
fn a_backlog_goes_nearly_as_fast_as_at_the_best_level() {
    for link in [1e6, 5e6, 12.5e6, 50e6, 125e6, 500e6, 1.25e9, 5e9] {
        for target in [100e6, 400e6, 2e9] {
            let mut world = World::new(link, target);
            let mut effort = Effort::new();
            // It has some batches to find out.
            world.rate(&mut effort, 512);
            let reached = world.rate(&mut effort, 4096);
            let best = PACKS
                .iter()
                .map(|&(level, ..)| world.fixed(level))
                .fold(0.0, f64::max);
            assert!(
                reached > 0.8 * best,
                "link {link}, target {target}: {reached:.0} of {best:.0}"
            );
        }
    }
}

#[test]
fn without_a_backlog_the_level_is_the_usual_one() {
    let mut effort = Effort::new();
    let usual = effort.level();
    let mut slow = World::new(1e6, 2e9);
    slow.rate(&mut effort, 256);
    assert!(effort.level() > usual, "a slow link wants more");
    slow.send(&mut effort, false);
    assert_eq!(effort.level(), usual);
    let mut fast = World::new(1e10, 1e10);
    fast.rate(&mut effort, 256);
    assert!(
        effort.level() < usual,
        "a link that waits for us wants less"
    );
    fast.send(&mut effort, false);
    assert_eq!(effort.level(), usual);
}

#[test]
fn what_does_not_compress_is_not_tried_at_higher_levels() {
    let mut world = World::new(5e6, 2e9);
    world.compresses = false;
    let mut effort = Effort::new();
    let usual = effort.level();
    world.rate(&mut effort, 1024);
    assert_eq!(effort.level(), usual);
}

#[test]
fn who_gets_no_processor_takes_no_higher_level() {
    let mut world = World::new(5e6, 2e9);
    world.processor = 0.3;
    let mut effort = Effort::new();
    let usual = effort.level();
    world.rate(&mut effort, 1024);
    assert_eq!(effort.level(), usual);
}

#[test]
fn a_link_that_gets_slower_is_noticed() {
    let mut effort = Effort::new();
    let mut world = World::new(5e9, 5e9);
    world.rate(&mut effort, 1024);
    assert!(effort.level() < 1, "{}", effort.level());
    world.link = 2e6;
    world.rate(&mut effort, 1024);
    assert!(effort.level() > 1, "{}", effort.level());
}
