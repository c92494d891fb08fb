//! Goal: order and prefix. Whenever the link is cut and the applier stands still, the replica shows
//! no effect without its cause. Method: writers whose every effect has a cause elsewhere
//! (`support::Causes`), a proxy that cuts the link at random instants, a look at the replica at each
//! cut. `DOPPELFS_CUTS` says how often.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Causes, Fixture, Scratch, check_causes, cuts, is_ready, seed, until};

/// Longest time between a connect and the next cut.
const FLIGHT_MS_MAX: u64 = 150;

#[test]
fn at_no_cut_of_the_link_is_there_an_effect_without_its_cause() {
    let test = "at_no_cut_of_the_link_is_there_an_effect_without_its_cause";
    if !is_ready(test) {
        return;
    }
    let mut random = StdRng::seed_from_u64(seed(test));
    let fixture = Fixture::started("cuts");
    let causes = Causes::start(&fixture.path(""));
    let mut in_flight = 0;
    let count = cuts();
    for cut in 1..=count {
        let (link, target) = (fixture.proxy.accepted(), fixture.proxy.forwarded_bytes());
        let flight = Duration::from_millis(random.random_range(0..FLIGHT_MS_MAX));
        let start = Instant::now();
        until("operations on the wire", || {
            let is_new = fixture.proxy.forwarded_bytes() > target;
            is_new && start.elapsed() >= flight
        });
        let captured = fixture.set().captured_seq();
        fixture.proxy.cut();
        fixture.stands_still();
        let stream = fixture.find_stream().expect("a stream");
        let (_, applied) = stream.positions();
        let [sent, acknowledged, ..] = fixture.connection().marks();
        in_flight += u64::from(applied < captured || acknowledged < sent);
        let wrong = check_causes(&fixture.replica(""));
        assert!(wrong.is_empty(), "cut {cut}, applied {applied}: {wrong:#?}");
        fixture.proxy.mend();
        until("a new connection", || fixture.proxy.accepted() > link);
    }
    let steps = causes.stop();
    println!("{count} cuts, {in_flight} of them with operations in flight, pairs: {steps:?}");
    assert!(
        in_flight * 2 > count,
        "only {in_flight} of {count} cuts met operations in flight"
    );
    for (writer, pairs) in steps {
        assert!(pairs > 0, "writer {writer} did nothing");
    }
    fixture.finish();
}

/// The check can fail: in a copy of a replica each kind of effect is done without its cause.
#[test]
fn the_check_of_causes_sees_every_planted_swap() {
    let test = "the_check_of_causes_sees_every_planted_swap";
    let scratch = Scratch::new("planted");
    let root = scratch.path().join("tree");
    let causes = Causes::start(&root);
    until("every writer to have done some pairs", || {
        causes.counts().iter().all(|(_, pairs)| *pairs > 60)
    });
    let steps = causes.stop();
    assert_eq!(
        check_causes(&root),
        Vec::<String>::new(),
        "{test}: the source itself"
    );
    type Swap = fn(&std::path::Path, u64);
    let swaps: [(&str, Swap); 6] = [
        ("write", |dir, next| {
            std::fs::write(dir.join("effect/counter"), next.to_le_bytes()).expect("write");
        }),
        ("rename", |dir, next| {
            let effect = dir.join("effect");
            let old = effect.join((next - 1).to_string());
            std::fs::rename(old, effect.join(next.to_string())).expect("rename");
        }),
        ("link", |dir, next| {
            let name = dir.join("effect").join(next.to_string());
            std::fs::hard_link(dir.join("base"), name).expect("link");
        }),
        ("unlink", |dir, next| {
            std::fs::remove_file(dir.join("effect").join((next - 1).to_string())).expect("unlink");
        }),
        ("directory", |dir, next| {
            std::fs::create_dir(dir.join("effect").join(next.to_string())).expect("mkdir");
        }),
        ("publish", |dir, _| {
            let file = std::fs::File::options()
                .write(true)
                .open(dir.join("effect/file"));
            file.expect("open").set_len(5_000).expect("truncate");
        }),
    ];
    for (name, swap) in swaps {
        let (_, done) = steps
            .iter()
            .find(|(writer, _)| *writer == name)
            .expect("a writer");
        swap(&root.join(name), done + 1);
        let wrong = check_causes(&root);
        assert!(
            wrong.iter().any(|line| line.starts_with(name)),
            "{name} unseen: {wrong:?}"
        );
    }
    assert_eq!(check_causes(&root).len(), swaps.len());
}

#[test]
fn nothing_is_lost_when_the_target_is_killed_again_and_again() {
    let test = "nothing_is_lost_when_the_target_is_killed_again_and_again";
    if !is_ready(test) {
        return;
    }
    let mut random = StdRng::seed_from_u64(seed(test));
    let mut fixture = Fixture::started("target-kills");
    let causes = Causes::start(&fixture.path(""));
    let kills = (cuts() / 5).max(3);
    for kill in 1..=kills {
        let before = fixture.proxy.forwarded_bytes();
        let enough = random.random_range(1_000..200_000);
        until("operations on the wire", || {
            fixture.proxy.forwarded_bytes() > before + enough
        });
        fixture.target.kill();
        fixture.target.start();
        println!("kill {kill} of {kills}");
    }
    println!("{kills} kills, pairs: {:?}", causes.stop());
    fixture.finish();
}

#[test]
fn watermarks_stand_in_order_at_every_look() {
    let test = "watermarks_stand_in_order_at_every_look";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started("marks");
    let causes = Causes::start(&fixture.path(""));
    let mut last = 0;
    for look in 0..60 {
        let set = fixture.set();
        let connection = set.connection();
        let marks = connection.marks();
        assert!(marks.is_sorted_by(|a, b| a >= b), "look {look}: {marks:?}");
        assert!(
            set.captured_seq() >= marks[0],
            "look {look}: sent before captured: {set:?}"
        );
        assert!(
            marks[3] >= last,
            "look {look}: durable went back from {last} to {marks:?}"
        );
        last = marks[3];
        if look == 30 {
            fixture.proxy.cut();
            until("the link to be down", || {
                !fixture.connection().is_connected()
            });
            fixture.proxy.mend();
        }
    }
    causes.stop();
    fixture.caught_up();
    let set = fixture.set();
    assert_eq!(set.connection().marks(), [set.captured_seq(); 4]);
    fixture.finish();
}
