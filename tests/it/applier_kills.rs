//! Goal: a process killed anywhere resumes exactly. Method: every operation of random sequences is
//! interrupted at some call (in the exhaustive test at every call), the applier opened again, the
//! operation given again, and the tree compared with the source's.

use std::sync::{Arc, Mutex};

use doppelfs::applier::{DataState, Start};
use doppelfs::types::{Position, Scope, Seq};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::applier_model::Source;
use super::applier_rig::{HISTORY, Rig, count_failures, for_seeds};
use super::applier_world::{Depth, Disk, Planted, ROOT, SimReplica, World, difference};

pub const OPS: usize = 220;

pub fn sim() -> SimReplica {
    SimReplica {
        disk: Arc::new(Mutex::new(Disk::new(World::new(50_000_000)))),
        instance: 1,
        keeps_order: true,
        remap: None,
    }
}

/// A replica that is exact and strict: the empty tree, mirrored.
pub fn strict_rig(source: &mut Source) -> Rig<SimReplica> {
    strict_rig_on(source, sim())
}

/// As [`strict_rig`], on this disk.
pub fn strict_rig_on(source: &mut Source, replica: SimReplica) -> Rig<SimReplica> {
    let mut rig = Rig::new(replica);
    let position = Position {
        history: HISTORY,
        seq: Seq::ZERO,
    };
    rig.applier().reset_to(position).unwrap();
    let begin = source.mirror_begin(1, Scope::Full);
    let listing = source.listing(ROOT, 10).remove(0);
    for made in [begin, listing, Source::mirror_end(1)] {
        let frame = source.seal(&made, false);
        rig.journal.push(frame);
    }
    rig.catch_up().unwrap();
    assert_eq!(rig.applier().data_state(), DataState::Ok);
    rig
}

pub fn check(source: &Source, rig: &Rig<SimReplica>, depth: Depth, when: &str) {
    let disk = rig.replica.disk.lock().unwrap();
    let wanted = source.world.remapped(rig.replica.remap.as_ref());
    if let Some(what) = difference(&wanted, &disk.live, depth) {
        panic!("{when}: source and replica differ: {what}");
    }
}

fn killed_everywhere(seed: u64, planted: Option<&str>) {
    let mut source = Source::new(seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut rig = strict_rig(&mut source);
    for index in 0..OPS {
        let made = source.step();
        let op = made.0.op.clone();
        let frame = source.seal(&made, false);
        let before = rig.end();
        rig.journal.push(frame);
        rig.light(rng.random_range(0..6), rng.random_bool(0.5));
        // Killed again and again, until it gets through.
        while let Err(error) = rig.catch_up() {
            assert!(rig.is_dead(), "seed {seed} op {index} {op:?}: {error}");
            if planted == Some("position is lost") {
                let earlier = rig.journal[rig.journal.len().saturating_sub(6)]
                    .header()
                    .seq;
                rig.undo_done(earlier);
            }
            let recovered = rig.open().unwrap();
            assert!(
                matches!(recovered.start, Start::Resumed { .. }),
                "seed {seed} op {index}: {recovered:?}"
            );
            if rng.random_bool(0.4) {
                rig.light(rng.random_range(0..6), rng.random_bool(0.5));
            }
        }
        rig.unlight();
        if rng.random_bool(0.1) {
            // Done and noted, but not said.
            rig.undo_done(before);
            rig.open().unwrap();
            if let Err(error) = rig.catch_up() {
                panic!("seed {seed} op {index} {op:?} done twice: {error}");
            }
        }
        check(
            &source,
            &rig,
            Depth::All,
            &format!("seed {seed} op {index} {op:?}"),
        );
        assert_eq!(rig.applier().data_state(), DataState::Ok);
        rig.checkpoint_sometimes(&mut rng);
    }
}

#[test]
fn process_killed_at_every_operation_resumes_exactly() {
    for_seeds(1, 60, |seed| killed_everywhere(seed, None));
}

#[test]
fn planted_loss_of_the_position_is_found() {
    let found = count_failures(0..10, |seed| {
        killed_everywhere(seed, Some("position is lost"))
    });
    assert!(found >= 9, "found in {found} of 10");
}

#[test]
fn process_killed_at_every_call_resumes_exactly() {
    for_seeds(2, 4, |seed| {
        let mut source = Source::new(seed);
        let mut rig = strict_rig(&mut source);
        for index in 0..OPS {
            let made = source.step();
            let frame = source.seal(&made, false);
            let applied = rig.applier().applied();
            let disk = rig.replica.disk.lock().unwrap().clone();
            let ledger = rig.ledger.state.lock().unwrap().clone();
            let files = table_files(&rig);
            rig.journal.push(frame);
            for kill in 0.. {
                let (call, after_effect) = (kill / 2, kill % 2 == 1);
                *rig.replica.disk.lock().unwrap() = disk.clone();
                *rig.ledger.state.lock().unwrap() = ledger.clone();
                rig.lose_table();
                for (path, bytes) in &files {
                    std::fs::write(path, bytes).unwrap();
                }
                rig.open().unwrap();
                assert_eq!(rig.applier().applied(), applied);
                rig.light(call, after_effect);
                let interrupted = rig.catch_up().is_err();
                if interrupted {
                    rig.open().unwrap();
                    if let Err(error) = rig.catch_up() {
                        panic!(
                            "seed {seed} op {index} call {call}: {error}: {:?}",
                            made.0.op
                        );
                    }
                }
                rig.unlight();
                let when = format!("seed {seed} op {index} call {call} {:?}", made.0.op);
                check(&source, &rig, Depth::All, &when);
                if !interrupted {
                    break;
                }
            }
            if index % 17 == 0 {
                rig.applier().checkpoint_now().unwrap();
            }
        }
    });
}

fn table_files(rig: &Rig<SimReplica>) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    std::fs::read_dir(&rig.table.0)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

#[test]
fn planted_copy_instead_of_a_link_is_found() {
    let found = count_failures(0..5, |seed| {
        let mut source = Source::new(seed);
        let mut rig = strict_rig(&mut source);
        rig.replica.disk.lock().unwrap().planted = Planted::LinkIsACopy;
        for _ in 0..OPS {
            let made = source.step();
            let frame = source.seal(&made, false);
            rig.journal.push(frame);
            rig.catch_up().unwrap();
            check(&source, &rig, Depth::All, "planted");
        }
    });
    assert_eq!(found, 5);
}
