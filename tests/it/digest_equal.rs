//! Goal: trees that hold the same are equal. Method: `cp -a` of one of everything.

use crate::trees::{Trees, is_root, set_mtime, stat};
use doppelfs::digest::Options;
use doppelfs::types::Time;

#[test]
fn a_copy_with_all_attributes_is_equal() {
    if !is_root("a_copy_with_all_attributes_is_equal") {
        return;
    }
    let trees = Trees::new("equal");
    let report = trees.report();
    assert!(report.is_equal(), "{report}");
    let counts = report.counts;
    assert_eq!(
        (counts.files, counts.dirs, counts.others, counts.links),
        (12, 2, 5, 1)
    );
    assert!(counts.bytes > super::trees::SPARSE_BYTES, "{report}");
}

#[test]
fn two_empty_directories_are_equal() {
    let trees = Trees::empty("empty");
    let report = trees.report();
    assert!(report.is_equal(), "{report}");
    assert_eq!(report.counts.dirs, 1);
}

#[test]
fn a_tree_is_equal_to_itself() {
    if !is_root("a_tree_is_equal_to_itself") {
        return;
    }
    let trees = Trees::new("itself");
    let left = trees.left("");
    let report = doppelfs::digest::compare(&left, &left, &Options::default()).expect("compare");
    assert!(report.is_equal(), "{report}");
}

#[test]
fn access_times_are_neither_compared_nor_changed() {
    if !is_root("access_times_are_neither_compared_nor_changed") {
        return;
    }
    let trees = Trees::new("atime");
    let old = Time {
        secs: 1000,
        nanos: 5,
    };
    for path in ["dir", "dir/file", "big", "holes"] {
        for full in [trees.left(path), trees.right(path)] {
            let mtime = stat(&full).mtime;
            let handle = super::trees::handle(&full);
            let handle = std::os::fd::AsFd::as_fd(&handle);
            doppelfs::sys::utimens_fd(handle, Some(old), Some(mtime)).expect("set atime");
        }
    }
    set_mtime(&trees.left("dir"), stat(&trees.right("dir")).mtime);
    assert!(trees.report().is_equal(), "{}", trees.report());
    for path in ["dir", "dir/file", "big", "holes"] {
        assert_eq!(stat(&trees.left(path)).atime, old, "{path}");
    }
}

#[test]
fn holes_of_equal_allocation_within_tolerance_are_equal() {
    if !is_root("holes_of_equal_allocation_within_tolerance_are_equal") {
        return;
    }
    let trees = Trees::new("tolerance");
    let file = std::fs::File::options()
        .write(true)
        .open(trees.right("holes"))
        .expect("open");
    let mtime = stat(&trees.right("holes")).mtime;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 32 << 10], 0).expect("write zeroes");
    file.sync_all().expect("sync");
    set_mtime(&trees.right("holes"), mtime);
    assert!(trees.report().is_equal(), "{}", trees.report());
}
