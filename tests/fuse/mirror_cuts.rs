//! Goal: a target whose host loses its power in a full mirror, of which the queue holds nothing durable, is
//! mirrored anew and exact. Method: the target's disk is shut down in the middle of a mirror under load, its
//! process killed, the disk mounted anew.

use crate::power_cuts::{disk, plant_ballast};
use crate::support::Fixture;
use crate::support::{plant_source_tree, seed, until};
use crate::takeover::load_all;

const ROUNDS: u64 = 3;
const BALLAST_BYTES: u64 = 256 << 20;
const STEP_BYTES: u64 = BALLAST_BYTES / 8;

/// `step`: of the mirror, so much is sent before the first cut, twice as much before the second.
fn cut_in_mirror(test: &str, kind: &str, step: u64) {
    let Some(image) = disk(test, kind) else {
        return;
    };
    let seed = seed(test);
    let mut fixture = Fixture::apart(test, None, Some(image.path()));
    plant_source_tree(&fixture.path("tree"), seed, 300);
    plant_ballast(&fixture.path("ballast"), seed, BALLAST_BYTES);
    fixture.target.start();
    fixture.pair();
    fixture.mount();
    for round in 0..ROUNDS {
        let dir = fixture.path(format!("load-{round}"));
        std::fs::create_dir(&dir).expect("mkdir");
        let load = load_all(&dir, seed + round);
        let before = fixture.connection().mirror_bytes();
        if round > 0 {
            fixture
                .doppelfs()
                .args(["mirror", "start", "data", "--full"])
                .succeed();
        }
        // Another part of it each time.
        let wanted = before + (round + 1) * step;
        until("the mirror to be under way", || {
            fixture.connection().mirror_bytes() > wanted
        });
        assert_ne!(
            fixture.connection().data_state(),
            "ok",
            "round {round}: the mirror is over already"
        );
        image.cut();
        load.end();
        fixture.target.kill();
        image.come_back();
        fixture.target.start();
        until("a connection", || fixture.connection().is_connected());
        let report = fixture.assert_equal();
        eprintln!("{test}: round {round}: {report}");
    }
    fixture.finish();
}

/// What comes before the loss of power.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// The target is stopped in order, in the middle of the mirror.
    Stop,
    /// The source disconnects, in the middle of the mirror.
    Disconnect,
    /// The mirror's end, just now.
    End,
}

fn cut_after(test: &str, before: Before) {
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let seed = seed(test);
    let mut fixture = Fixture::apart(test, None, Some(image.path()));
    plant_source_tree(&fixture.path("tree"), seed, 300);
    plant_ballast(&fixture.path("ballast"), seed, BALLAST_BYTES / 2);
    fixture.target.start();
    fixture.pair();
    fixture.mount();
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let load = load_all(&dir, seed);
    match before {
        Before::Stop | Before::Disconnect => until("the mirror to be under way", || {
            fixture.connection().mirror_bytes() > BALLAST_BYTES / 8
        }),
        Before::End => until("the mirror's end", || {
            fixture.connection().data_state() == "ok"
        }),
    }
    match before {
        Before::Stop => fixture.target.stop(),
        Before::Disconnect => {
            fixture.doppelfs().args(["disconnect", "data"]).succeed();
        }
        Before::End => {}
    }
    image.cut();
    load.end();
    fixture.target.kill();
    image.come_back();
    fixture.target.start();
    if let Before::Disconnect = before {
        fixture.doppelfs().args(["connect", "data"]).succeed();
    }
    until("a connection", || fixture.connection().is_connected());
    let report = fixture.assert_equal();
    eprintln!("{test}: {report}");
    fixture.finish();
}

#[test]
fn a_target_that_is_stopped_in_a_mirror_and_loses_power_is_exact_in_the_end() {
    cut_after(
        "a_target_that_is_stopped_in_a_mirror_and_loses_power_is_exact_in_the_end",
        Before::Stop,
    );
}

#[test]
fn a_target_that_loses_power_while_a_mirror_is_disconnected_is_exact_in_the_end() {
    cut_after(
        "a_target_that_loses_power_while_a_mirror_is_disconnected_is_exact_in_the_end",
        Before::Disconnect,
    );
}

#[test]
fn a_target_that_loses_power_at_the_end_of_its_mirror_is_exact_in_the_end() {
    cut_after(
        "a_target_that_loses_power_at_the_end_of_its_mirror_is_exact_in_the_end",
        Before::End,
    );
}

#[test]
fn a_target_on_ext4_that_loses_power_in_a_mirror_is_mirrored_anew() {
    cut_in_mirror(
        "a_target_on_ext4_that_loses_power_in_a_mirror_is_mirrored_anew",
        "ext4",
        STEP_BYTES,
    );
}

#[test]
fn a_target_on_xfs_that_loses_power_in_a_mirror_is_mirrored_anew() {
    cut_in_mirror(
        "a_target_on_xfs_that_loses_power_in_a_mirror_is_mirrored_anew",
        "xfs",
        STEP_BYTES,
    );
}

/// Of a mirror that begins in the middle of the stream no checkpoint knows yet: the queue has to have what follows
/// the last one.
#[test]
fn a_target_that_loses_power_just_after_a_mirror_began_is_mirrored_anew() {
    cut_in_mirror(
        "a_target_that_loses_power_just_after_a_mirror_began_is_mirrored_anew",
        "ext4",
        12 << 20,
    );
}
