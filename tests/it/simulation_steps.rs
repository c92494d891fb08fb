//! Goal: as in `simulation.rs`, for short stories, with a death or a loss of power after every single
//! step. Method: a story is a list of steps without chance between them; it is run once for each place
//! in it and each fault, and again with a second fault after the first.

use std::collections::BTreeSet;

use super::applier_rig::count_failures;
use super::simulation_driver::Sim;
use super::simulation_planted::Planted;
use super::simulation_taste::Step;

use Step::{
    Answer, Apply, Check, Checkpoint, Connect, Deliver, Mirror, Operate, Send, Settle, SourceDies,
    SourceEnds, SourceLosesPower, SourceStarts, SyncQueue, TargetDies, TargetLosesPower,
    TargetStarts,
};

/// From nothing to a replica that is exact.
const BEGINNING: [Step; 4] = [SourceStarts, TargetStarts, Operate, Operate];

/// A few operations on their way: written, synced, sent, stored, applied, saved, acknowledged.
const STORY: [Step; 24] = [
    Operate, Operate, SyncQueue, Send, Deliver, Apply, Answer, Checkpoint, Operate, Send, Operate,
    Deliver, Checkpoint, Settle, Apply, Operate, Checkpoint, Send, Deliver, Answer, Apply,
    Checkpoint, Checkpoint, Answer,
];

/// What a source does after a loss of power, until all is as it was.
const RETURN: [Step; 22] = [
    SourceStarts,
    Connect,
    Send,
    Deliver,
    Apply,
    Check,
    Mirror,
    Operate,
    Send,
    Deliver,
    Apply,
    Answer,
    Check,
    Mirror,
    Settle,
    Send,
    Deliver,
    Apply,
    Answer,
    Mirror,
    Checkpoint,
    Checkpoint,
];

const FAULTS: [Step; 5] = [
    SourceDies,
    SourceEnds,
    SourceLosesPower,
    TargetDies,
    TargetLosesPower,
];

fn told(seed: u64, story: &[Step], fault: Step, at: usize) {
    let mut sim = Sim::new(seed, Planted::Nothing);
    sim.is_steady = true;
    for step in BEGINNING {
        sim.step(step);
    }
    sim.rest();
    for (index, step) in story.iter().enumerate() {
        if index == at {
            sim.step(fault);
            sim.check();
        }
        sim.step(*step);
        sim.check();
    }
    sim.rest();
}

fn told_with_each_fault(story: &[Step]) {
    for seed in 0..8 {
        for fault in FAULTS {
            for at in 0..=story.len() {
                told(seed, story, fault, at);
            }
        }
    }
}

#[test]
fn a_fault_after_any_step_of_writing_sending_and_saving_does_no_harm() {
    told_with_each_fault(&STORY);
}

#[test]
fn a_fault_after_any_step_of_a_return_from_a_loss_of_power_does_no_harm() {
    let mut story = STORY[..12].to_vec();
    story.push(SourceLosesPower);
    story.extend(RETURN);
    told_with_each_fault(&story);
}

#[test]
fn a_fault_after_any_step_of_a_return_from_the_targets_loss_of_power_does_no_harm() {
    let mut story = STORY[..16].to_vec();
    story.push(TargetLosesPower);
    story.extend([
        TargetStarts,
        Connect,
        Send,
        Deliver,
        Apply,
        Answer,
        Checkpoint,
        Checkpoint,
    ]);
    told_with_each_fault(&story);
}

#[test]
fn a_mirror_that_is_due_when_the_source_ends_begins_all_the_same() {
    let mut story = STORY[..12].to_vec();
    story.extend([SourceLosesPower, SourceStarts, Connect]);
    story.extend([Check; 12]);
    story.extend([Send, Deliver, Apply, Mirror]);
    told_with_each_fault(&story);
}

/// Was the target ahead of what the source had kept, and were inode numbers of lost files given again?
struct Again {
    is_ahead: bool,
    has_reused: bool,
}

/// The target has what the source loses with its power, and other operations and files get the
/// numbers of those.
fn numbers_are_used_again(seed: u64, planted: Planted) -> Again {
    let mut sim = Sim::new(seed, planted);
    sim.is_steady = true;
    for step in BEGINNING {
        sim.step(step);
    }
    sim.rest();
    for step in [SyncQueue, Operate, Operate, Operate, Operate] {
        sim.step(step);
    }
    sim.rest();
    let theirs = sim.target.marks.applied;
    let replicated: BTreeSet<u64> = sim.host.source.world.things.keys().copied().collect();
    sim.step(SourceLosesPower);
    let is_ahead = sim.host.journal.end() < theirs;
    let inodes = |sim: &Sim| BTreeSet::from_iter(sim.host.source.world.things.keys().copied());
    let kept = inodes(&sim);
    for step in [SourceStarts, Operate, Operate, Operate, Operate, Operate] {
        sim.step(step);
        sim.check();
    }
    let has_reused = (&inodes(&sim) - &kept).intersection(&replicated).count() > 0;
    sim.rest();
    Again {
        is_ahead,
        has_reused,
    }
}

#[test]
fn numbers_used_again_after_a_loss_of_power_hide_no_operation() {
    let ahead = (0..60)
        .filter(|seed| numbers_are_used_again(*seed, Planted::Nothing).is_ahead)
        .count();
    assert!(ahead > 20, "the target was ahead in {ahead} of 60 runs");
    let found = count_failures(0..60, |seed| {
        numbers_are_used_again(seed, Planted::HistoryKept);
    });
    assert!(
        found > 20,
        "the same history is found in {found} of 60 runs"
    );
}

#[test]
fn inode_numbers_of_lost_files_are_those_of_others_afterwards() {
    let reused = (100..400)
        .filter(|seed| numbers_are_used_again(*seed, Planted::Nothing).has_reused)
        .count();
    assert!(
        reused > 20,
        "inode numbers came again in {reused} of 300 runs"
    );
}
