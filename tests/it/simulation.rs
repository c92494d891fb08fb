//! Goal: whoever dies, whenever, however often: the replica is a prefix whenever it says so, and equal
//! to the source once all is at rest. Method: the whole stream in one thread, from seeds: a source
//! whose power can fail, its real activity log, a link that is cut, and the real applier on a disk
//! whose power can fail. Bugs are planted in the driver, and each must be found.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::applier_rig::count_failures;
use super::simulation_driver::Sim;
use super::simulation_planted::Planted;

/// Runs by default; `DOPPELFS_SIM_SEEDS` runs another number.
const SEEDS: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_faults_end_where_the_source_is() {
    let count = number("DOPPELFS_SIM_SEEDS").unwrap_or(SEEDS);
    let seeds = match number("DOPPELFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    };
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while failed.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let run = || Sim::new(seed, Planted::Nothing).run();
                    if std::panic::catch_unwind(run).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed with DOPPELFS_SEED={failed:?}");
}

#[test]
fn a_seed_is_the_same_run_again() {
    for seed in 0..40 {
        let (mut one, mut two) = (
            Sim::new(seed, Planted::Nothing),
            Sim::new(seed, Planted::Nothing),
        );
        one.run();
        two.run();
        assert_eq!(one.trace(), two.trace(), "seed {seed}");
    }
}

/// Within so many seeds a planted bug is found.
fn is_found(planted: Planted, seeds: u64) {
    let first = (0..seeds)
        .find(|seed| count_failures(*seed..seed + 1, |seed| Sim::new(seed, planted).run()) > 0);
    println!("{planted:?} is found by seed {first:?}");
    assert!(first.is_some(), "{planted:?} is not found in {seeds} seeds");
}

#[test]
fn planted_acknowledgement_before_durable_is_found() {
    is_found(Planted::AckBeforeDurable, 400);
}

#[test]
fn planted_checkpoint_without_sync_is_found() {
    is_found(Planted::CheckpointWithoutSync, 400);
}

#[test]
fn planted_second_application_is_found() {
    is_found(Planted::AppliedTwice, 400);
}

#[test]
fn planted_early_trim_is_found() {
    is_found(Planted::TrimmedEarly, 400);
}

#[test]
fn planted_mark_after_the_change_is_found() {
    is_found(Planted::MarkAfterChange, 400);
}

#[test]
fn planted_history_that_goes_on_is_found() {
    is_found(Planted::HistoryKept, 400);
}

#[test]
fn planted_disregard_of_doubt_is_found() {
    is_found(Planted::DoubtIgnored, 400);
}
