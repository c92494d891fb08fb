//! Goal: a clean stop and start of source, target or both, with operations queued, loses nothing,
//! doubles nothing and needs no mirror. Method: a log that is appended to, counted on the replica.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::support::{Fixture, Scratch, is_ready, program, until};

const LINES: u64 = 2_000;

fn append(path: &Path, from: u64, to: u64) {
    let mut log = std::fs::File::options();
    let mut log = log.create(true).append(true).open(path).expect("open");
    for number in from..to {
        writeln!(log, "{number}").expect("append");
    }
}

/// Every line from 0 to `count` stands in the log exactly once, in order.
#[track_caller]
fn assert_lines(path: &Path, count: u64) {
    let text = std::fs::read_to_string(path).expect("read");
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for line in text.lines() {
        *seen.entry(line.parse().expect("a number")).or_default() += 1;
    }
    let lost: Vec<u64> = (0..count).filter(|n| !seen.contains_key(n)).collect();
    let doubled: Vec<&u64> = seen
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(n, _)| n)
        .collect();
    assert!(
        lost.is_empty() && doubled.is_empty(),
        "lost {lost:?}, doubled {doubled:?}"
    );
    let expected: String = (0..count).map(|n| format!("{n}\n")).collect();
    assert!(text == expected, "the order of lines changed");
}

/// The end of each scenario: all lines are there, nothing was mirrored since the last start.
#[track_caller]
fn assert_continued(fixture: Fixture, count: u64) {
    fixture.caught_up();
    assert_lines(&fixture.replica("log"), count);
    fixture.assert_nothing_mirrored();
    println!("{count} lines, none lost, none doubled");
    fixture.finish();
}

#[test]
fn a_source_stopped_with_operations_queued_goes_on_without_a_mirror() {
    if !is_ready("a_source_stopped_with_operations_queued_goes_on_without_a_mirror") {
        return;
    }
    let fixture = Fixture::started("source-stop");
    append(&fixture.path("log"), 0, LINES);
    fixture.proxy.cut();
    append(&fixture.path("log"), LINES, 2 * LINES);
    let queued = fixture.set().queue_ops();
    assert!(queued >= LINES, "{queued} queued");
    fixture.umount();
    fixture.mount();
    assert!(
        fixture.set().queue_ops() >= queued,
        "the queue became shorter by itself"
    );
    append(&fixture.path("log"), 2 * LINES, 3 * LINES);
    fixture.proxy.mend();
    assert_continued(fixture, 3 * LINES);
}

#[test]
fn a_target_stopped_and_started_goes_on_without_a_mirror() {
    if !is_ready("a_target_stopped_and_started_goes_on_without_a_mirror") {
        return;
    }
    let mut fixture = Fixture::started("target-stop");
    append(&fixture.path("log"), 0, LINES);
    fixture.target.stop();
    append(&fixture.path("log"), LINES, 2 * LINES);
    let before = fixture.connection().mirror_bytes();
    fixture.target.start();
    append(&fixture.path("log"), 2 * LINES, 3 * LINES);
    fixture.caught_up();
    assert_eq!(
        fixture.connection().mirror_bytes(),
        before,
        "mirrored after the restart"
    );
    assert_lines(&fixture.replica("log"), 3 * LINES);
    fixture.finish();
}

#[test]
fn both_stopped_with_operations_queued_go_on_without_a_mirror() {
    if !is_ready("both_stopped_with_operations_queued_go_on_without_a_mirror") {
        return;
    }
    let mut fixture = Fixture::started("both-stop");
    append(&fixture.path("log"), 0, LINES);
    fixture.target.stop();
    append(&fixture.path("log"), LINES, 2 * LINES);
    fixture.umount();
    fixture.mount();
    append(&fixture.path("log"), 2 * LINES, 3 * LINES);
    fixture.umount();
    fixture.target.start();
    fixture.mount();
    assert_continued(fixture, 3 * LINES);
}

#[test]
fn a_target_killed_in_the_middle_goes_on_without_a_mirror() {
    if !is_ready("a_target_killed_in_the_middle_goes_on_without_a_mirror") {
        return;
    }
    let mut fixture = Fixture::started("target-kill");
    let before = fixture.connection().mirror_bytes();
    for round in 0..5 {
        append(&fixture.path("log"), round * LINES, (round + 1) * LINES);
        fixture.target.kill();
        fixture.target.start();
    }
    fixture.caught_up();
    assert_eq!(
        fixture.connection().mirror_bytes(),
        before,
        "mirrored after a kill"
    );
    assert_lines(&fixture.replica("log"), 5 * LINES);
    fixture.finish();
}

#[test]
fn wait_says_no_in_time_when_the_target_is_away() {
    if !is_ready("wait_says_no_in_time_when_the_target_is_away") {
        return;
    }
    let mut fixture = Fixture::started("wait-no");
    fixture.target.stop();
    std::fs::write(fixture.path("file"), b"queued").expect("write");
    let waited = fixture.wait(std::time::Duration::from_secs(1));
    assert_eq!(waited.code, Some(1), "{waited:?}");
    fixture.target.start();
    fixture.finish();
}

#[test]
fn changes_made_while_unmounted_are_found_at_the_next_mount() {
    if !is_ready("changes_made_while_unmounted_are_found_at_the_next_mount") {
        return;
    }
    let fixture = Fixture::started("uncovered");
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    for name in ["kept", "changed", "removed", "renamed", "dir/moved"] {
        std::fs::write(fixture.path(name), b"before").expect("write");
    }
    fixture.caught_up();
    fixture.umount();
    std::fs::write(fixture.path("changed"), b"AFTER!").expect("write");
    std::fs::remove_file(fixture.path("removed")).expect("unlink");
    std::fs::rename(fixture.path("renamed"), fixture.path("dir/renamed")).expect("rename");
    std::fs::rename(fixture.path("dir/moved"), fixture.path("moved")).expect("rename");
    std::fs::hard_link(fixture.path("kept"), fixture.path("dir/linked")).expect("link");
    std::fs::create_dir_all(fixture.path("new/below")).expect("mkdir");
    std::fs::write(fixture.path("new/below/file"), b"new").expect("write");
    fixture.mount();
    fixture.finish();
}

#[test]
fn the_mount_serves_before_any_target_answers() {
    if !is_ready("the_mount_serves_before_any_target_answers") {
        return;
    }
    let mut fixture = Fixture::new("no-target-yet");
    fixture.mount();
    let file = std::fs::File::create(fixture.path("file")).expect("create");
    file.write_all_at(b"served", 0).expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    until("status to say why", || {
        !fixture.set().complaints().is_empty()
    });
    fixture.target.start();
    fixture.finish();
}

/// Some NFS servers have the device number in their handles, and backup programs compare it.
#[test]
fn the_mount_keeps_its_device_number_while_lower_ones_are_free() {
    let test = "the_mount_keeps_its_device_number_while_lower_ones_are_free";
    if !is_ready(test) {
        return;
    }
    // Several: mounts of other tests take the lowest that is free.
    let (others, place) = (0..8, Scratch::new("other-mount"));
    for _ in others.clone() {
        let mount = program("mount").args(["-t", "tmpfs", "tmpfs"]);
        mount.arg(place.path()).succeed();
    }
    let fixture = Fixture::started(test);
    let device = || std::fs::metadata(fixture.path("")).expect("stat").dev();
    for _ in others {
        doppelfs::sys::umount(place.path(), false).expect("umount");
    }
    // Somebody else may get the number between the two: any mount, also one that nobody sees. Then the
    // next attempt is about the new one. Each counts only while a lower number is free, which a mount
    // that does not care would get.
    let lowest_free = || {
        let mount = program("mount").args(["-t", "tmpfs", "tmpfs"]);
        mount.arg(place.path()).succeed();
        let lowest = std::fs::metadata(place.path()).expect("stat").dev();
        doppelfs::sys::umount(place.path(), false).expect("umount");
        lowest
    };
    let mut kept = 0;
    for _ in 0..20 {
        let (before, free) = (device(), lowest_free());
        fixture.umount();
        fixture.mount();
        kept += u32::from(free < before && device() == before);
        if kept == 3 {
            break;
        }
    }
    assert_eq!(kept, 3, "the number was lost, or no lower one was free");
    fixture.finish();
}
