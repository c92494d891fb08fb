//! Goal: a target whose host loses its power in a full mirror, of which the queue holds nothing durable, is
//! mirrored anew and exact. Method: the target's disk is shut down in the middle of a mirror under load, its
//! process killed, the disk mounted anew.

use crate::power_cuts::{disk, plant_ballast};
use crate::support::Fixture;
use crate::support::{plant_source_tree, seed, until};
use crate::takeover::load_all;

const ROUNDS: u64 = 3;
const BALLAST_BYTES: u64 = 256 << 20;

fn cut_in_mirror(test: &str, kind: &str) {
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
        let wanted = before + (round + 1) * BALLAST_BYTES / 8;
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

#[test]
fn a_target_on_ext4_that_loses_power_in_a_mirror_is_mirrored_anew() {
    cut_in_mirror(
        "a_target_on_ext4_that_loses_power_in_a_mirror_is_mirrored_anew",
        "ext4",
    );
}

#[test]
fn a_target_on_xfs_that_loses_power_in_a_mirror_is_mirrored_anew() {
    cut_in_mirror(
        "a_target_on_xfs_that_loses_power_in_a_mirror_is_mirrored_anew",
        "xfs",
    );
}
