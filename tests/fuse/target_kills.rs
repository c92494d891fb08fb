//! Goal: the target, and both sides by turns, may die at any moment, and the replica is exact without a
//! mirror. Method: the load of `takeover`, which checks every result, while processes are killed;
//! `mirror_bytes` must not grow. `DOPPELFS_KILLS` says how often.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Fixture, is_ready, seed, target_kills, until};
use crate::takeover::{kill_worker, load_all};

/// Longest time between two kills.
const LIFE_US_MAX: u64 = 300_000;

/// A worker that takes over copies at most the few files that calls under way left in doubt; the load's
/// largest has not much more than 200,000 bytes.
const IN_DOUBT_BYTES_MAX: u64 = 300_000;

/// What was mirrored so far, once the target is connected.
fn mirrored(fixture: &Fixture) -> u64 {
    until("a connection", || fixture.connection().is_connected());
    fixture.connection().mirror_bytes()
}

/// Kills the target, and every second time the worker instead where `both`.
fn goes_on(test: &str, both: bool) {
    if !is_ready(test) {
        return;
    }
    let seed = seed(test);
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::started(test);
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let load = load_all(&dir, seed);
    let (start, count) = (Instant::now(), target_kills());
    let before = fixture.connection().mirror_bytes();
    // A worker counts from its own start on.
    let is_fine = |now: u64| now == before || both && now <= IN_DOUBT_BYTES_MAX;
    let mut longest = Duration::ZERO;
    for number in 0..count {
        // Not a synchronisation: the moment is to be a random one.
        std::thread::sleep(Duration::from_micros(random.random_range(0..LIFE_US_MAX)));
        if both && number % 2 == 1 {
            kill_worker(&fixture, Signal::SIGKILL);
            continue;
        }
        fixture.target.kill();
        let dead = Instant::now();
        fixture.target.start();
        longest = longest.max(dead.elapsed());
        let now = mirrored(&fixture);
        assert!(is_fine(now), "mirrored {now} bytes after kill {number}");
    }
    let took = start.elapsed();
    let steps = load.end();
    fixture.caught_up();
    let now = mirrored(&fixture);
    assert!(is_fine(now), "mirrored {now} bytes at the end");
    let set = fixture.set();
    assert_eq!(set.connection().marks(), [set.captured_seq(); 4]);
    eprintln!(
        "{test}: {count} kills in {took:?}, {steps} steps of the load, {} operations, the target away \
         for {longest:?} at most, mirrored {before} bytes before, {now} now",
        set.captured_seq()
    );
    fixture.finish();
}

#[test]
fn a_target_killed_again_and_again_resumes() {
    goes_on("a_target_killed_again_and_again_resumes", false);
}

#[test]
fn target_and_worker_killed_by_turns_resume() {
    goes_on("target_and_worker_killed_by_turns_resume", true);
}

/// sled writes a snapshot to `snap.N.generating` and renames it; when it opens, it takes one that was not
/// renamed for a damaged snapshot.
#[test]
fn a_snapshot_of_the_map_that_was_not_finished_is_passed_over() {
    let test = "a_snapshot_of_the_map_that_was_not_finished_is_passed_over";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::started(test);
    std::fs::write(fixture.path("before"), b"content").expect("write");
    fixture.caught_up();
    fixture.target.kill();
    let map = fixture.outside("target-state/streams/1/applier/map");
    let unfinished = map.join("snap.7FFFFFFFFFFFFFFF.generating");
    std::fs::write(unfinished, b"").expect("write");
    fixture.target.start();
    std::fs::write(fixture.path("after"), b"content").expect("write");
    fixture.finish();
}

#[test]
fn a_map_that_is_damaged_is_made_anew_with_a_mirror() {
    let test = "a_map_that_is_damaged_is_made_anew_with_a_mirror";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::started(test);
    for number in 0..20 {
        let path = fixture.path(number.to_string());
        std::fs::write(path, number.to_string()).expect("write");
    }
    fixture.caught_up();
    fixture.target.kill();
    let map = fixture.outside("target-state/streams/1/applier/map");
    for entry in std::fs::read_dir(&map).expect("list the map") {
        let path = entry.expect("entry").path();
        if path.is_file() {
            let length = std::fs::metadata(&path).expect("stat").len() as usize;
            std::fs::write(path, vec![0xA5; length]).expect("damage");
        }
    }
    fixture.target.start();
    std::fs::write(fixture.path("after"), b"content").expect("write");
    fixture.finish();
}
