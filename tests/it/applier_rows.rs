//! Goal: each row of the recovery table, by its letter, and each error. Method: one test a row.

use std::sync::Arc;

use doppelfs::applier::{Applier, Backlog, DataState, Error, SledLedger, Start};
use doppelfs::types::{Body, History, Op, Position, Scope, Seq};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::applier_kills::{check, sim, strict_rig};
use super::applier_model::{Source, frame, name};
use super::applier_rig::{HISTORY, Rig, Scratch};
use super::applier_world::{Depth, ROOT, SimReplica};

fn at(seq: u64) -> Position {
    Position {
        history: HISTORY,
        seq: Seq(seq),
    }
}

fn step(source: &mut Source, rig: &mut Rig<SimReplica>, count: usize) {
    for _ in 0..count {
        let made = source.step();
        let frame = source.seal(&made, false);
        rig.journal.push(frame);
    }
    rig.catch_up().unwrap();
}

/// A strict replica with a checkpoint and ten operations after it.
fn ten_after_checkpoint() -> (Source, Rig<SimReplica>) {
    let mut source = Source::new(3);
    source.taste.shifts = false;
    let mut rig = strict_rig(&mut source);
    step(&mut source, &mut rig, 10);
    rig.applier().checkpoint_now().unwrap();
    step(&mut source, &mut rig, 10);
    (source, rig)
}

fn needs_mirror(rig: &mut Rig<SimReplica>, letter: char) {
    let recovered = rig.open().unwrap();
    let fine = matches!(recovered.start, Start::NeedsMirror { row, .. } if row == letter);
    assert!(fine, "{recovered:?}");
    assert_eq!(recovered.position, None);
    assert_eq!(rig.applier().data_state(), DataState::MirrorRequired);
    // It stays so until there is one.
    assert_eq!(rig.open().unwrap().start, Start::Fresh);
    let some = rig.journal.last().unwrap().clone();
    assert!(matches!(rig.applier().apply(&some), Err(Error::NoPosition)));
}

#[test]
fn row_a_nothing_known_has_no_position() {
    let mut rig = Rig::new(sim());
    let recovered = rig.open().unwrap();
    assert_eq!(recovered.start, Start::Fresh);
    assert_eq!(recovered.position, None);
    assert_eq!(rig.applier().data_state(), DataState::MirrorRequired);
}

#[test]
fn row_b_table_of_this_boot_resumes() {
    let (source, mut rig) = ten_after_checkpoint();
    let end = rig.end();
    let recovered = rig.open().unwrap();
    assert_eq!(recovered.start, Start::Resumed { doubt: false });
    assert_eq!(recovered.position, Some(at(end.0)));
    check(&source, &rig, Depth::All, "row b");
}

#[test]
fn row_c_closed_in_order_needs_nothing() {
    let (mut source, mut rig) = ten_after_checkpoint();
    rig.applier.take().unwrap().close().unwrap();
    rig.lose_table();
    rig.replica.keeps_order = false;
    assert_eq!(rig.open().unwrap().start, Start::Clean);
    step(&mut source, &mut rig, 10);
    check(&source, &rig, Depth::All, "row c");
    // Only once: now operations have been applied.
    rig.lose_table();
    needs_mirror(&mut rig, 'F');
}

#[test]
fn row_b_a_restored_older_map_is_not_completed_by_a_table_that_went_on() {
    let (mut source, mut rig) = ten_after_checkpoint();
    rig.applier().checkpoint_now().unwrap();
    let old = rig.ledger.state.lock().unwrap().clone();
    for _ in 0..3 {
        step(&mut source, &mut rig, 10);
        rig.applier().checkpoint_now().unwrap();
    }
    step(&mut source, &mut rig, 5);
    // The process is killed, its table stays, and the map is put back from a copy.
    rig.applier = None;
    *rig.ledger.state.lock().unwrap() = old;
    let recovered = rig.open().unwrap();
    let is_redone = matches!(recovered.start, Start::Redone { .. });
    assert!(is_redone, "{recovered:?}");
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "restored");
}

/// The state as it was at a clean end, after which the replica went on.
fn restored_after_going_on() -> (Source, Rig<SimReplica>) {
    let (mut source, mut rig) = ten_after_checkpoint();
    rig.applier.take().unwrap().close().unwrap();
    let old = rig.ledger.state.lock().unwrap().clone();
    rig.lose_table();
    assert_eq!(rig.open().unwrap().start, Start::Clean);
    step(&mut source, &mut rig, 30);
    rig.applier.take().unwrap().close().unwrap();
    rig.lose_table();
    *rig.ledger.state.lock().unwrap() = old;
    (source, rig)
}

#[test]
fn row_c_a_restored_older_map_does_not_begin_again_on_a_replica_that_went_on() {
    let (source, mut rig) = restored_after_going_on();
    let recovered = rig.open().unwrap();
    let is_redone = matches!(recovered.start, Start::Redone { .. });
    assert!(is_redone, "{recovered:?}");
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "restored");
    // The queue was restored, too, and does not have what the replica has.
    let (_, mut rig) = restored_after_going_on();
    rig.journal.truncate(20);
    needs_mirror(&mut rig, 'H');
}

#[test]
fn row_d_just_after_a_jump_waits_for_the_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.applier().reset_to(at(500)).unwrap();
    rig.lose_table();
    let recovered = rig.open().unwrap();
    assert_eq!(recovered.start, Start::Jumped);
    assert_eq!(recovered.position, Some(at(500)));
    let end = frame(
        &Body::of(Op::MirrorEnd { mirror: 1 }),
        &[],
        Seq(500),
        Seq(501),
        false,
    );
    let refused = rig.applier().apply(&end);
    assert!(
        matches!(refused, Err(Error::NoMirror { .. })),
        "{refused:?}"
    );
}

#[test]
fn row_e_host_crash_in_a_mirror_needs_a_mirror() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let made = source.mirror_begin(2, Scope::Full);
    rig.journal.push(source.seal(&made, false));
    rig.catch_up().unwrap();
    rig.applier().checkpoint_now().unwrap();
    rig.lose_table();
    needs_mirror(&mut rig, 'E');
}

#[test]
fn row_f_file_system_without_order_needs_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.lose_table();
    rig.replica.keeps_order = false;
    needs_mirror(&mut rig, 'F');
}

#[test]
fn row_f_another_mount_of_the_replica_is_a_host_crash() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.replica.instance = 2;
    rig.replica.keeps_order = false;
    needs_mirror(&mut rig, 'F');
}

#[test]
fn row_g_missing_marker_needs_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.lose_table();
    rig.replica.disk.lock().unwrap().live.marker = None;
    needs_mirror(&mut rig, 'G');
}

#[test]
fn row_g_marker_before_the_checkpoint_needs_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.lose_table();
    let mut disk = rig.replica.disk.lock().unwrap();
    disk.live.marker.as_mut().unwrap().position.seq = Seq(1);
    drop(disk);
    needs_mirror(&mut rig, 'G');
}

#[test]
fn row_g_marker_of_another_history_needs_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.lose_table();
    let mut disk = rig.replica.disk.lock().unwrap();
    disk.live.marker.as_mut().unwrap().position.history = History(7);
    drop(disk);
    needs_mirror(&mut rig, 'G');
}

#[test]
fn row_g_replica_put_back_under_a_table_needs_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    let mut disk = rig.replica.disk.lock().unwrap();
    disk.live.marker.as_mut().unwrap().position.seq = Seq(1);
    drop(disk);
    needs_mirror(&mut rig, 'G');
}

#[test]
fn row_g_replica_put_back_after_a_close_in_order_needs_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.applier.take().unwrap().close().unwrap();
    rig.lose_table();
    rig.replica.disk.lock().unwrap().live.marker = None;
    needs_mirror(&mut rig, 'G');
}

#[test]
fn row_h_trimmed_records_need_a_mirror() {
    let (_, mut rig) = ten_after_checkpoint();
    rig.lose_table();
    let half = rig.journal.len() - 5;
    rig.journal.drain(..half);
    needs_mirror(&mut rig, 'H');
}

#[test]
fn row_i_gap_after_the_checkpoint_needs_a_mirror() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let gap = Body::of(Op::Gap {
        ids: Vec::new(),
        everything: true,
    });
    rig.journal.push(source.seal(&(gap, Vec::new()), false));
    rig.catch_up().unwrap();
    rig.lose_table();
    needs_mirror(&mut rig, 'I');
}

#[test]
fn row_j_file_that_is_not_where_it_must_be_needs_a_mirror() {
    let mut source = Source::new(9);
    let mut rig = strict_rig(&mut source);
    rig.applier().checkpoint_now().unwrap();
    // Something is made after the checkpoint.
    while source.world.things[&ROOT].entries.is_empty() {
        step(&mut source, &mut rig, 1);
    }
    rig.lose_table();
    let mut disk = rig.replica.disk.lock().unwrap();
    let names: Vec<_> = disk.live.things[&ROOT].entries.keys().cloned().collect();
    for name in names {
        disk.live
            .things
            .get_mut(&ROOT)
            .unwrap()
            .entries
            .remove(&name);
    }
    drop(disk);
    needs_mirror(&mut rig, 'J');
}

#[test]
fn row_k_host_crash_is_redone() {
    let (source, mut rig) = ten_after_checkpoint();
    rig.lose_table();
    let mut rng = StdRng::seed_from_u64(1);
    rig.replica.disk.lock().unwrap().cut(&mut rng);
    let recovered = rig.open().unwrap();
    assert!(
        matches!(recovered.start, Start::Redone { .. }),
        "{recovered:?}"
    );
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "row k");
}

#[test]
fn what_is_applied_after_a_checkpoint_was_chosen_is_not_covered_by_it() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let chosen = rig.applier().applied();
    let job = rig.applier().begin_checkpoint().unwrap().unwrap();
    step(&mut source, &mut rig, 10);
    assert_eq!(job.run().unwrap(), chosen);
    assert_eq!(rig.applier().durable(), chosen);
    step(&mut source, &mut rig, 10);
    rig.lose_table();
    let mut rng = StdRng::seed_from_u64(1);
    rig.replica.disk.lock().unwrap().cut(&mut rng);
    let recovered = rig.open().unwrap();
    assert_eq!(recovered.start, Start::Redone { from: chosen });
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "chosen");
}

#[test]
fn frame_out_of_order_is_refused() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let (one, two) = (source.step(), source.step());
    let (_, later) = (source.seal(&one, false), source.seal(&two, false));
    let refused = rig.applier().apply(&later);
    assert!(
        matches!(refused, Err(Error::OutOfOrder { .. })),
        "{refused:?}"
    );
}

#[test]
fn frame_applied_before_is_passed_over() {
    let (source, mut rig) = ten_after_checkpoint();
    let again = rig.journal.last().unwrap().clone();
    rig.applier().apply(&again).unwrap();
    check(&source, &rig, Depth::All, "again");
}

#[test]
fn replica_changed_by_hand_holds_the_stream_until_it_is_put_back() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let by_hand = name("by-hand");
    let made = loop {
        let made = source.step();
        if let Op::Create { at, .. } = &made.0.op {
            break (made.clone(), at.clone());
        }
        rig.journal.push(source.seal(&made, false));
        rig.catch_up().unwrap();
    };
    let (made, at) = made;
    // Somebody took the name.
    let path = find(&rig, &source, at.parent);
    let mut disk = rig.replica.disk.lock().unwrap();
    disk.live
        .create(path, &at.name, &doppelfs::types::Node::File)
        .unwrap();
    drop(disk);
    rig.journal.push(source.seal(&made, false));
    for _ in 0..3 {
        let held = rig.catch_up();
        assert!(matches!(held, Err(Error::Diverged { .. })), "{held:?}");
    }
    let mut disk = rig.replica.disk.lock().unwrap();
    disk.live
        .rename(
            (path, &at.name),
            (path, &by_hand),
            doppelfs::applier::Moving::ToFree,
        )
        .unwrap();
    disk.live.unlink(path, &by_hand).unwrap();
    drop(disk);
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "put back");
}

/// The replica's inode of a source's directory, by its path.
fn find(rig: &Rig<SimReplica>, source: &Source, id: doppelfs::types::FileId) -> u64 {
    let ino = super::applier_model::ino_of(id);
    let mut names = Vec::new();
    let mut at = ino;
    while at != ROOT {
        let parent = source.world.things[&at].parent;
        let entries = &source.world.things[&parent].entries;
        names.push(
            entries
                .iter()
                .find(|(_, child)| **child == at)
                .unwrap()
                .0
                .clone(),
        );
        at = parent;
    }
    let disk = rig.replica.disk.lock().unwrap();
    let below = names.iter().rev();
    below.fold(ROOT, |dir, name| {
        disk.live.lookup(dir, name).unwrap().unwrap()
    })
}

#[test]
fn failed_commit_keeps_the_last_checkpoint_and_the_next_covers_it() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let durable = rig.applier().durable();
    *rig.ledger.fails.lock().unwrap() = true;
    let failed = rig.applier().checkpoint_now();
    assert!(matches!(failed, Err(Error::Ledger { .. })));
    *rig.ledger.fails.lock().unwrap() = false;
    assert_eq!(rig.applier().durable(), durable);
    rig.applier().checkpoint_now().unwrap();
    step(&mut source, &mut rig, 3);
    rig.lose_table();
    let mut rng = StdRng::seed_from_u64(2);
    rig.replica.disk.lock().unwrap().cut(&mut rng);
    rig.open().unwrap();
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "next checkpoint");
}

#[test]
fn ledger_in_sled_brings_back_what_was_committed() {
    let scratch = Scratch::new();
    let table = scratch.0.join("table");
    let mut source = Source::new(4);
    let replica = sim();
    let open = || {
        let ledger = Arc::new(SledLedger::open(&scratch.0.join("map")).unwrap());
        let opened = Applier::open_with(replica.clone(), ledger, &table, Backlog::empty());
        opened.unwrap()
    };
    let (mut applier, _) = open();
    applier.reset_to(at(0)).unwrap();
    let parts = [
        source.mirror_begin(1, Scope::Full),
        source.listing(ROOT, 5).remove(0),
        Source::mirror_end(1),
    ];
    for made in parts {
        applier.apply(&source.seal(&made, false)).unwrap();
    }
    for index in 0..300 {
        let made = source.step();
        applier.apply(&source.seal(&made, false)).unwrap();
        if index % 50 == 49 {
            let (applied, files) = (applier.applied(), applier.file_count());
            applier.close().unwrap();
            std::fs::remove_dir_all(&table).unwrap();
            let recovered;
            (applier, recovered) = open();
            assert_eq!(recovered.start, Start::Clean);
            assert_eq!((applier.applied(), applier.file_count()), (applied, files));
        }
    }
}

/// The kernel tells of a write that failed once, and two checkpoints may ask at a time.
#[test]
fn a_checkpoint_beside_one_whose_sync_failed_is_none() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let durable = rig.applier().durable();
    let job = rig.applier().begin_checkpoint().unwrap().unwrap();
    step(&mut source, &mut rig, 10);
    rig.replica.disk.lock().unwrap().lose_a_write();
    let failed = rig.applier().checkpoint_now();
    assert!(matches!(failed, Err(Error::Sync { .. })), "{failed:?}");
    let beside = job.run();
    assert!(matches!(beside, Err(Error::Sync { .. })), "{beside:?}");
    assert_eq!(rig.applier().durable(), durable);
    assert_eq!(rig.applier().data_state(), DataState::MirrorRequired);
    rig.applier().distrust().unwrap();
    rig.applier().checkpoint_now().unwrap();
    rig.lose_table();
    needs_mirror(&mut rig, 'E');
}

#[test]
fn an_end_whose_sync_failed_is_no_clean_one() {
    let (mut source, mut rig) = ten_after_checkpoint();
    let end = rig.end();
    rig.replica.disk.lock().unwrap().lose_a_write();
    let failed = rig.applier.take().unwrap().close();
    assert!(matches!(failed, Err(Error::Sync { .. })), "{failed:?}");
    for _ in 0..2 {
        let recovered = rig.open().unwrap();
        assert_eq!(recovered.start, Start::Resumed { doubt: false });
        assert_eq!(recovered.position, Some(at(end.0)));
        assert_eq!(rig.applier().data_state(), DataState::MirrorRequired);
    }
    let made = source.mirror_begin(2, Scope::Partial);
    rig.journal.push(source.seal(&made, false));
    rig.catch_up().unwrap();
    assert!(!rig.applier().take_wants(5).is_empty(), "the doubt is kept");
}
