//! Goal: one disk of a source that fails, that of the data or that of the queue, stops nobody who does not
//! work on it, and the replica is exact again. Method: the disk is shut down under load, the processes die,
//! it is mounted anew with what had reached it.

use nix::sys::signal::Signal;

use crate::power_cuts::{Programs, disk, epochs, plant_ballast, plant_old};
use crate::support::{Fixture, Image, seed, until};
use crate::takeover::{kill_worker, load_all};

/// The queue has all that was captured; the disk of the data has not. `waits`: the worker hears of it.
fn data_cut(test: &str, waits: bool) {
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let seed = seed(test);
    let mut fixture = Fixture::with_data_on(test, image.path());
    plant_ballast(&fixture.path("ballast"), seed, 64 << 20);
    plant_old(&fixture.path("old"), seed);
    fixture.start();
    until("the activity log to be small", || epochs(&fixture) == 1);
    let mut programs = Programs::start(&fixture.path("round"), &fixture.path("old"));
    until("every program to work", || {
        programs.counts().iter().all(|&count| count > 3)
    });
    programs.before_cut = programs.counts();
    image.cut();
    if waits {
        until("status to tell of the disk", || {
            let warnings = fixture.set().warnings();
            warnings
                .iter()
                .any(|warning| warning.contains("could not write"))
        });
    }
    fixture.lose_source();
    programs.end();
    image.come_back();
    fixture.mount();
    let resync = fixture.set().resync();
    assert!(resync.suspects > 0, "the activity log was not believed");
    programs.check();
    let report = fixture.assert_equal();
    let resync = fixture.set().resync();
    assert!(resync.resent_bytes < 32 << 20, "{resync:?}");
    eprintln!("{test}: {resync:?}; {report}");
    fixture.finish();
}

#[test]
fn a_disk_of_data_that_loses_power_alone_is_compared_by_name() {
    data_cut(
        "a_disk_of_data_that_loses_power_alone_is_compared_by_name",
        false,
    );
}

#[test]
fn a_disk_of_data_that_fails_is_told_and_compared_by_name() {
    data_cut(
        "a_disk_of_data_that_fails_is_told_and_compared_by_name",
        true,
    );
}

/// Whoever works on the set does not hear of the queue's disk.
fn state_cut(test: &str, kind: &str) {
    let Some(image) = disk(test, kind) else {
        return;
    };
    let seed = seed(test);
    let mut fixture = Fixture::with_state_on(test, image.path());
    fixture.start();
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let load = load_all(&dir, seed);
    load.advance(10);
    image.cut();
    until("status to tell of the queue", || {
        let warnings = fixture.set().warnings();
        warnings.iter().any(|warning| warning.contains("recorded"))
    });
    load.advance(200);
    let steps = load.end();
    fixture.lose_source();
    image.come_back();
    fixture.mount();
    let report = fixture.assert_equal();
    eprintln!("{test}: {steps} steps of the load, none failed; {report}");
    fixture.finish();
}

#[test]
fn a_disk_of_the_queue_on_ext4_that_fails_stops_nobody() {
    state_cut(
        "a_disk_of_the_queue_on_ext4_that_fails_stops_nobody",
        "ext4",
    );
}

#[test]
fn a_disk_of_the_queue_on_xfs_that_fails_stops_nobody() {
    state_cut("a_disk_of_the_queue_on_xfs_that_fails_stops_nobody", "xfs");
}

/// Does memory stand in for the state? `None` while no worker answers.
fn is_stood_in(fixture: &Fixture) -> Option<bool> {
    let set = fixture.find_set().filter(|set| set.worker_pid() > 0)?;
    Some(set.warnings().iter().any(|told| told.contains("stands in")))
}

/// The disk is repaired, which nobody may use for that, and the queue lies there again.
fn repair(fixture: &Fixture, image: &Image) {
    let dir = fixture.path("again");
    std::fs::create_dir(&dir).expect("mkdir");
    let load = load_all(&dir, 2);
    image.come_back();
    until("the queue to lie on its disk again", || {
        is_stood_in(fixture) == Some(false)
    });
    load.advance(50);
    kill_worker(fixture, Signal::SIGKILL);
    let steps = load.end();
    assert_eq!(is_stood_in(fixture), Some(false));
    let report = fixture.assert_equal();
    eprintln!("{steps} steps of the load while the disk comes back, none failed; {report}");
    fixture.umount();
    fixture.mount();
}

/// A worker that dies while the disk of its queue fails has a successor, which serves and replicates; and
/// when the disk is repaired the queue lies there again.
fn state_cut_and_death(test: &str, kind: &str) {
    let Some(image) = disk(test, kind) else {
        return;
    };
    let mut fixture = Fixture::with_state_on(test, image.path());
    fixture.start();
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let load = load_all(&dir, seed(test));
    load.advance(10);
    image.cut();
    load.advance(10);
    for _ in 0..3 {
        kill_worker(&fixture, Signal::SIGKILL);
        load.advance(50);
        until("memory to stand in for the state", || {
            is_stood_in(&fixture) == Some(true)
        });
    }
    let steps = load.end();
    let report = fixture.assert_equal();
    eprintln!("{test}: {steps} steps of the load without the disk, none failed; {report}");
    repair(&fixture, &image);
    fixture.finish();
}

#[test]
fn a_worker_that_dies_while_its_queue_on_ext4_fails_has_a_successor() {
    state_cut_and_death(
        "a_worker_that_dies_while_its_queue_on_ext4_fails_has_a_successor",
        "ext4",
    );
}

#[test]
fn a_worker_that_dies_while_its_queue_on_xfs_fails_has_a_successor() {
    state_cut_and_death(
        "a_worker_that_dies_while_its_queue_on_xfs_fails_has_a_successor",
        "xfs",
    );
}

#[test]
fn a_queue_whose_disk_fails_lies_in_memory_until_it_is_repaired() {
    let test = "a_queue_whose_disk_fails_lies_in_memory_until_it_is_repaired";
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let mut fixture = Fixture::with_state_on(test, image.path());
    fixture.start();
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let load = load_all(&dir, seed(test));
    load.advance(10);
    image.cut();
    until("memory to stand in for the state", || {
        is_stood_in(&fixture) == Some(true)
    });
    let steps = load.end();
    let report = fixture.assert_equal();
    eprintln!("{test}: {steps} steps of the load, none failed; {report}");
    repair(&fixture, &image);
    // The mount ends while memory stands in, too.
    image.cut();
    std::fs::write(fixture.path("late"), "late").expect("write");
    kill_worker(&fixture, Signal::SIGKILL);
    std::fs::write(fixture.path("later"), "later").expect("write");
    let report = fixture.assert_equal();
    fixture.umount();
    image.come_back();
    fixture.mount();
    eprintln!("{test}: unmounted in memory, mounted on disk; {report}");
    fixture.finish();
}
