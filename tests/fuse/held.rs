//! Goal: a target that cannot write holds, says why, and goes on by itself when it can: without a
//! mirror, the source not hindered. Method: its disk is filled, its root made read-only, under load.

use std::fs::File;
use std::io::Write;

use crate::support::{Fixture, Image, is_ready, program, random_bytes, seed, until};

/// Waits until the source says that the target holds, and why.
pub(crate) fn holds(fixture: &Fixture, word: &str) {
    until("status to say why the target holds", || {
        let set = fixture.set();
        set.connection().target_state() == "retrying" && set.complaints().contains(word)
    });
}

#[test]
fn a_target_whose_disk_is_full_holds_also_over_a_kill_and_goes_on() {
    let test = "a_target_whose_disk_is_full_holds_also_over_a_kill_and_goes_on";
    if !is_ready(test) {
        return;
    }
    for (kind, mib) in [("ext4", 128), ("xfs", 320)] {
        let Some(image) = Image::new(test, kind, mib) else {
            continue;
        };
        let mut fixture = Fixture::apart(test, None, Some(image.path()));
        fixture.start();
        let before = fixture.connection().mirror_bytes();
        let ballast = image.path().join("ballast");
        let mut file = File::create(&ballast).expect("create");
        let chunk = random_bytes(1, 64 << 10);
        while file.write_all(&chunk).is_ok() {}
        let _ = file.sync_all();
        drop(file);
        let seed = seed(test);
        for number in 0..40 {
            let bytes = random_bytes(seed + number, 200_000);
            std::fs::write(fixture.path(number.to_string()), bytes).expect("write");
        }
        holds(&fixture, "space");
        fixture.target.kill();
        fixture.target.start();
        holds(&fixture, "space");
        std::fs::write(fixture.path("later"), b"the source serves").expect("write");
        std::fs::remove_file(&ballast).expect("unlink");
        fixture.assert_equal();
        assert_eq!(fixture.connection().mirror_bytes(), before, "mirrored");
        fixture.finish();
    }
}

#[test]
fn a_target_whose_root_becomes_read_only_holds_and_goes_on() {
    let test = "a_target_whose_root_becomes_read_only_holds_and_goes_on";
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, "ext4", 128) else {
        return;
    };
    let mut fixture = Fixture::new(test);
    let root = fixture.target.root().to_path_buf();
    let bind = program("mount").arg("--bind").arg(image.path());
    bind.arg(&root).succeed();
    fixture.start();
    let before = fixture.connection().mirror_bytes();
    let remount = |options: &str| {
        let mount = program("mount").args(["-o", options]);
        mount.arg(image.path()).run().code == Some(0)
    };
    let data = fixture.path("");
    let write = |number: u64| {
        let path = data.join((number % 10).to_string());
        std::fs::write(path, random_bytes(number, 10_000)).expect("write");
    };
    (0..50).for_each(write);
    // The file system is busy until the target rests.
    until("the root to become read-only", || remount("remount,ro"));
    (50..100).for_each(write);
    holds(&fixture, "read-only");
    (100..150).for_each(write);
    assert!(remount("remount,rw"), "writable again");
    fixture.assert_equal();
    assert_eq!(fixture.connection().mirror_bytes(), before, "mirrored");
    fixture.umount();
    fixture.target.stop();
    doppelfs::sys::umount(&root, false).expect("umount");
}
