//! Goal: one disk of a source that fails, that of the data or that of the queue, stops nobody who does not
//! work on it, and the replica is exact again. Method: the disk is shut down under load, the processes die,
//! it is mounted anew with what had reached it.

use crate::power_cuts::{Programs, disk, epochs, plant_ballast, plant_old};
use crate::support::{Fixture, seed, until};
use crate::takeover::load_all;

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
