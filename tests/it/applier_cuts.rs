//! Goal: a power cut of the target's host anywhere ends at a prefix, and going on from there ends
//! where the source is. Method: the simulated disk keeps a random prefix of its metadata operations
//! and of each file's data anything; the applier is opened without its tmpfs; names are compared
//! with the source's at the position that it says, everything once it has caught up.

use std::collections::VecDeque;

use doppelfs::applier::{DataState, Start};
use doppelfs::types::{Remap, Seq};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::applier_kills::{OPS, check, sim, strict_rig_on};
use super::applier_model::Source;
use super::applier_rig::{Rig, count_failures, for_seeds};
use super::applier_world::{Depth, Planted, SimReplica, World, difference};

/// The source's trees of the last positions.
struct Past(VecDeque<(Seq, World)>);

const PAST_MAX: usize = 120;

impl Past {
    fn keep(&mut self, source: &Source) {
        self.0.push_back((source.seq, source.world.clone()));
        if self.0.len() > PAST_MAX {
            self.0.pop_front();
        }
    }

    fn at(&self, seq: Seq) -> Option<&World> {
        self.0
            .iter()
            .find(|(at, _)| *at == seq)
            .map(|(_, world)| world)
    }
}

fn cut(rig: &mut Rig<SimReplica>, rng: &mut StdRng) {
    rig.lose_table();
    rig.replica.disk.lock().unwrap().cut(rng);
}

/// Opens after a cut; the process may die, or the power fail again, while it recovers.
fn come_up(rig: &mut Rig<SimReplica>, rng: &mut StdRng, when: &str) {
    loop {
        if rng.random_bool(0.3) {
            rig.light(rng.random_range(0..20), rng.random_bool(0.5));
        } else {
            rig.unlight();
        }
        match rig.open_with_fuse() {
            Ok(recovered) if !rig.is_dead() => {
                let fine = match recovered.start {
                    Start::Redone { .. } => true,
                    // Died after the table was begun anew.
                    Start::Resumed { doubt } => !doubt,
                    _ => false,
                };
                assert!(fine, "{when}: {recovered:?}");
                rig.unlight();
                return;
            }
            Err(error) if !rig.is_dead() => panic!("{when}: {error}"),
            _ if rng.random_bool(0.5) => cut(rig, rng),
            _ => {}
        }
    }
}

/// Rewrites half of the model's links.
fn remap() -> Remap {
    Remap {
        from: vec!["/srv/set".into()],
        to: "/replicas/set".into(),
    }
}

fn cut_everywhere(seed: u64, planted: Planted, remap: Option<Remap>) {
    let mut source = Source::new(seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0xc07);
    let replica = SimReplica { remap, ..sim() };
    let mut rig = strict_rig_on(&mut source, replica);
    rig.applier().checkpoint_now().unwrap();
    rig.replica.disk.lock().unwrap().planted = planted;
    let mut past = Past(VecDeque::new());
    past.keep(&source);
    for index in 0..OPS {
        let made = source.step();
        let frame = source.seal(&made, false);
        rig.journal.push(frame);
        past.keep(&source);
        let when = format!("seed {seed} op {index} {:?}", made.0.op);
        // In the middle of the operation, or after it.
        let middle = rng.random_bool(0.5);
        if middle {
            rig.light(rng.random_range(0..5), rng.random_bool(0.5));
        }
        if rig.catch_up().is_err() {
            assert!(rig.is_dead(), "{when}");
        }
        cut(&mut rig, &mut rng);
        come_up(&mut rig, &mut rng, &when);
        let applied = rig.applier().applied();
        let then = past
            .at(applied)
            .unwrap_or_else(|| panic!("{when}: no prefix {applied}"))
            .remapped(rig.replica.remap.as_ref());
        let disk = rig.replica.disk.lock().unwrap().clone();
        if let Some(what) = difference(&then, &disk.live, Depth::Names) {
            panic!("{when}: replica is not prefix {applied}: {what}");
        }
        let state = rig.applier().data_state();
        if state == DataState::Ok
            && let Some(what) = difference(&then, &disk.live, Depth::All)
        {
            panic!("{when}: replica says ok and is not prefix {applied}: {what}");
        }
        if let Err(error) = rig.catch_up() {
            panic!("{when}: going on from {applied}: {error}");
        }
        assert_eq!(rig.applier().data_state(), DataState::Ok, "{when}");
        check(&source, &rig, Depth::All, &when);
        rig.checkpoint_sometimes(&mut rng);
    }
}

#[test]
fn host_cut_at_every_operation_recovers_a_prefix() {
    for_seeds(3, 40, |seed| cut_everywhere(seed, Planted::Nothing, None));
}

#[test]
fn host_cut_at_every_operation_recovers_a_prefix_of_remapped_links() {
    for_seeds(5, 20, |seed| {
        cut_everywhere(seed, Planted::Nothing, Some(remap()));
    });
}

/// As above with longer ways between cuts, so that more is redone.
fn cut_rarely(seed: u64, planted: Planted, remap: Option<Remap>) {
    let mut source = Source::new(seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0xc08);
    let replica = SimReplica { remap, ..sim() };
    let mut rig = strict_rig_on(&mut source, replica);
    rig.applier().checkpoint_now().unwrap();
    rig.replica.disk.lock().unwrap().planted = planted;
    for index in 0..OPS {
        let made = source.step();
        let frame = source.seal(&made, false);
        rig.journal.push(frame);
        rig.catch_up().unwrap();
        let when = format!("seed {seed} op {index} {:?}", made.0.op);
        if rng.random_range(0..40) == 0 {
            rig.checkpoint_sometimes(&mut rng);
        }
        if rng.random_range(0..25) == 0 {
            cut(&mut rig, &mut rng);
            come_up(&mut rig, &mut rng, &when);
            if let Err(error) = rig.catch_up() {
                panic!("{when}: {error}");
            }
            check(&source, &rig, Depth::All, &when);
        }
    }
}

#[test]
fn host_cut_long_after_a_checkpoint_recovers_a_prefix() {
    for_seeds(4, 60, |seed| cut_rarely(seed, Planted::Nothing, None));
}

#[test]
fn host_cut_long_after_a_checkpoint_redoes_remapped_links() {
    for_seeds(6, 30, |seed| {
        cut_rarely(seed, Planted::Nothing, Some(remap()));
    });
}

#[test]
fn planted_sync_that_does_nothing_is_found() {
    let found = count_failures(0..10, |seed| {
        cut_everywhere(seed, Planted::SyncIsALie, None)
    });
    assert!(found >= 9, "found in {found} of 10");
}

#[test]
fn planted_loss_in_the_middle_of_the_prefix_is_found() {
    let found = count_failures(0..10, |seed| {
        cut_everywhere(seed, Planted::CutLosesTheMiddle, None)
    });
    assert!(found >= 9, "found in {found} of 10");
}
