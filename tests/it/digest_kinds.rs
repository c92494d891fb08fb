//! Goal: every kind of difference is caught, alone. Method: one of everything, a copy, one change.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use doppelfs::digest::What;
use doppelfs::sys;
use doppelfs::types::Time;

use crate::trees::{
    SPARSE_BYTES, Trees, acl, handle, is_root, keeping_times, make_node, remove_xattr, set_mtime,
    set_xattr, stat,
};

/// Copies one of everything, changes the copy at `path`, keeps its and its directory's times, and
/// asserts that exactly `what` is found there.
#[track_caller]
fn assert_caught(path: &str, what: What, change: impl FnOnce(&Path)) {
    let caller = std::panic::Location::caller();
    if !is_root(&caller.to_string()) {
        return;
    }
    let trees = Trees::new("kind");
    let full = trees.right(path);
    let mtime = stat(&full).mtime;
    let dir = full.parent().expect("a parent").to_path_buf();
    keeping_times(&dir, || change(&full));
    if what != What::Mtime && full.symlink_metadata().is_ok() {
        set_mtime(&full, mtime);
    }
    trees.assert_differs(&[(path.as_bytes(), what)]);
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    let file = std::fs::File::options()
        .write(true)
        .open(path)
        .expect("open");
    file.write_all_at(bytes, offset).expect("write");
    file.sync_all().expect("sync");
}

fn make_anew(path: &Path, mode: u32, rdev: u64) {
    std::fs::remove_file(path).expect("remove");
    make_node(path, mode, rdev);
    sys::chmod_fd(handle(path).as_fd(), mode).expect("chmod");
}

#[test]
fn a_missing_file_is_caught() {
    assert_caught("dir/file", What::Missing, |p| {
        std::fs::remove_file(p).expect("remove")
    });
}

#[test]
fn a_missing_directory_is_one_difference() {
    if !is_root("a_missing_directory_is_one_difference") {
        return;
    }
    let trees = Trees::new("missing-dir");
    // Its hard link leaves too: the partner of `one` outside of the directory stays alone.
    keeping_times(&trees.right(""), || {
        std::fs::remove_dir_all(trees.right("dir")).expect("remove");
    });
    trees.assert_differs(&[(b"dir", What::Missing)]);
}

#[test]
fn a_surplus_name_is_caught_wherever_it_sorts() {
    if !is_root("a_surplus_name_is_caught_wherever_it_sorts") {
        return;
    }
    let trees = Trees::new("surplus");
    let names: [&[u8]; 4] = [b"\x01", b"big.", b"\xff\xff", b"holes "];
    keeping_times(&trees.right(""), || {
        for name in names {
            std::fs::write(trees.right(OsStr::from_bytes(name)), b"").expect("write");
        }
    });
    trees.assert_differs(&names.map(|name| (name, What::Missing)));
}

#[test]
fn names_that_differ_in_one_odd_byte_are_caught() {
    if !is_root("names_that_differ_in_one_odd_byte_are_caught") {
        return;
    }
    let trees = Trees::new("odd-byte");
    let (old, new) = (&b"not utf-8 \xff\xfe"[..], &b"not utf-8 \xff\xfd"[..]);
    keeping_times(&trees.right(""), || {
        let (old, new) = (OsStr::from_bytes(old), OsStr::from_bytes(new));
        std::fs::rename(trees.right(old), trees.right(new)).expect("rename");
    });
    trees.assert_differs(&[(old, What::Missing), (new, What::Missing)]);
}

#[test]
fn a_newline_in_a_name_is_escaped_in_the_report() {
    if !is_root("a_newline_in_a_name_is_escaped_in_the_report") {
        return;
    }
    let trees = Trees::new("newline");
    set_mtime(&trees.right("new\nline"), Time { secs: 1, nanos: 1 });
    trees.assert_differs(&[(b"new\nline", What::Mtime)]);
    let report = trees.report();
    assert!(
        report.to_string().starts_with("new\\nline: mtime: "),
        "{report}"
    );
    assert_eq!(report.to_string().lines().count(), 2, "{report}");
}

#[test]
fn another_type_is_caught() {
    assert_caught("empty", What::Type, |p| {
        make_anew(p, libc::S_IFIFO | 0o644, 0)
    });
}

#[test]
fn a_socket_instead_of_a_pipe_is_caught() {
    assert_caught("pipe", What::Type, |p| {
        make_anew(p, libc::S_IFSOCK | 0o640, 0)
    });
}

#[test]
fn another_permission_bit_is_caught() {
    assert_caught("three", What::Mode, |p| {
        sys::chmod_fd(handle(p).as_fd(), 0o645).expect("chmod");
    });
}

#[test]
fn a_lost_suid_bit_is_caught() {
    assert_caught("big", What::Mode, |p| {
        sys::chmod_fd(handle(p).as_fd(), 0o0755).expect("chmod");
    });
}

#[test]
fn another_owner_is_caught() {
    assert_caught("three", What::Owner, |p| {
        sys::chown_fd(handle(p).as_fd(), Some(77), None).expect("chown");
    });
}

#[test]
fn another_group_of_a_symbolic_link_is_caught() {
    assert_caught("symlink", What::Group, |p| {
        sys::chown_fd(handle(p).as_fd(), None, Some(77)).expect("chown");
    });
}

#[test]
fn another_size_is_caught() {
    assert_caught("three", What::Size, |p| write_at(p, b"!", 5));
}

#[test]
fn one_changed_byte_is_caught_and_shown() {
    if !is_root("one_changed_byte_is_caught_and_shown") {
        return;
    }
    let trees = Trees::new("byte");
    let path = trees.right("big");
    let last = stat(&path).size - 1;
    let before = stat(&path);
    write_at(&path, b"\x55", last);
    // The kernel takes suid away from a file that is written.
    sys::chmod_fd(handle(&path).as_fd(), before.mode).expect("chmod");
    set_mtime(&path, before.mtime);
    trees.assert_differs(&[(b"big", What::Content)]);
    let report = trees.report();
    assert_eq!(report.differences[0].left, format!("0x00 at {last}"));
    assert_eq!(report.differences[0].right, format!("0x55 at {last}"));
}

#[test]
fn one_byte_in_a_large_hole_is_caught() {
    assert_caught("holes", What::Content, |p| {
        write_at(p, b"x", SPARSE_BYTES - 4097)
    });
}

#[test]
fn a_file_time_off_by_a_nanosecond_is_caught() {
    assert_caught("big", What::Mtime, |p| {
        set_mtime(
            p,
            Time {
                secs: -5,
                nanos: 123_456_788,
            },
        );
    });
}

#[test]
fn a_symbolic_link_time_off_by_a_nanosecond_is_caught() {
    assert_caught("symlink", What::Mtime, |p| {
        set_mtime(p, Time { secs: 7, nanos: 2 })
    });
}

#[test]
fn a_directory_time_off_by_a_nanosecond_is_caught() {
    assert_caught("dir", What::Mtime, |p| {
        let mut time = stat(p).mtime;
        time.nanos ^= 1;
        set_mtime(p, time);
    });
}

#[test]
fn another_link_target_is_caught() {
    assert_caught("symlink", What::Target, |p| {
        std::fs::remove_file(p).expect("remove");
        std::os::unix::fs::symlink("dir/../nowhere/", p).expect("symlink");
        set_xattr(p, "trusted.of_a_link", b"yes");
    });
}

#[test]
fn another_character_device_number_is_caught() {
    assert_caught("char", What::Device, |p| {
        make_anew(p, libc::S_IFCHR | 0o600, libc::makedev(1, 5));
    });
}

#[test]
fn another_block_device_number_is_caught() {
    assert_caught("block", What::Device, |p| {
        make_anew(p, libc::S_IFBLK | 0o600, libc::makedev(8, 200));
    });
}

#[test]
fn another_user_attribute_is_caught() {
    assert_caught("dir/file", What::Xattr, |p| {
        set_xattr(p, "user.colour", b"blux")
    });
}

#[test]
fn an_empty_attribute_instead_of_none_is_caught() {
    assert_caught("big", What::Xattr, |p| set_xattr(p, "user.nothing", b""));
}

#[test]
fn a_lost_trusted_attribute_is_caught() {
    assert_caught("dir/file", What::Xattr, |p| {
        remove_xattr(p, "trusted.colour")
    });
}

#[test]
fn a_lost_security_attribute_is_caught() {
    assert_caught("dir/file", What::Xattr, |p| {
        remove_xattr(p, "security.colour")
    });
}

#[test]
fn a_lost_attribute_of_a_symbolic_link_is_caught() {
    assert_caught("symlink", What::Xattr, |p| {
        remove_xattr(p, "trusted.of_a_link")
    });
}

#[test]
fn another_access_acl_is_caught() {
    assert_caught("dir/file", What::Xattr, |p| {
        set_xattr(p, "system.posix_acl_access", &acl(4));
    });
}

#[test]
fn another_default_acl_is_caught() {
    assert_caught("dir", What::Xattr, |p| {
        set_xattr(p, "system.posix_acl_default", &acl(4));
    });
}

#[test]
fn a_hard_link_split_in_two_files_is_caught() {
    if !is_root("a_hard_link_split_in_two_files_is_caught") {
        return;
    }
    let trees = Trees::new("split");
    let mtime = stat(&trees.right("one")).mtime;
    keeping_times(&trees.right(""), || {
        std::fs::remove_file(trees.right("one")).expect("remove");
        std::fs::copy(trees.right("dir/two"), trees.right("one")).expect("copy");
    });
    set_mtime(&trees.right("one"), mtime);
    trees.assert_differs(&[(b"dir/two", What::HardLinks)]);
}

#[test]
fn two_files_joined_to_one_are_caught() {
    if !is_root("two_files_joined_to_one_are_caught") {
        return;
    }
    let trees = Trees::empty("joined");
    for name in ["a", "b"] {
        std::fs::write(trees.left(name), b"same").expect("write");
        set_mtime(&trees.left(name), Time { secs: 9, nanos: 9 });
    }
    let root = stat(&trees.left("")).mtime;
    std::fs::write(trees.right("a"), b"same").expect("write");
    set_mtime(&trees.right("a"), Time { secs: 9, nanos: 9 });
    std::fs::hard_link(trees.right("a"), trees.right("b")).expect("link");
    set_mtime(&trees.right(""), root);
    trees.assert_differs(&[(b"b", What::HardLinks)]);
}

#[test]
fn links_of_equal_counts_but_other_partners_are_caught() {
    if !is_root("links_of_equal_counts_but_other_partners_are_caught") {
        return;
    }
    let trees = Trees::empty("partners");
    let time = Time { secs: 9, nanos: 9 };
    let plant = |root: &Path, pairs: [(&str, &str); 2]| {
        for (first, second) in pairs {
            std::fs::write(root.join(first), b"same").expect("write");
            std::fs::hard_link(root.join(first), root.join(second)).expect("link");
            set_mtime(&root.join(first), time);
        }
        set_mtime(root, time);
    };
    plant(&trees.left(""), [("a", "b"), ("c", "d")]);
    plant(&trees.right(""), [("a", "c"), ("b", "d")]);
    let report = trees.report();
    assert!(!report.is_equal(), "{report}");
    assert!(
        report.differences.iter().all(|d| d.what == What::HardLinks),
        "{report}"
    );
}

#[test]
fn a_filled_hole_is_caught() {
    assert_caught("holes", What::Holes, |p| {
        write_at(p, &vec![0; 1 << 20], 1 << 20)
    });
}

#[test]
fn attributes_of_the_roots_are_compared() {
    if !is_root("attributes_of_the_roots_are_compared") {
        return;
    }
    let trees = Trees::new("roots");
    sys::chmod_fd(handle(&trees.right("")).as_fd(), 0o700).expect("chmod");
    trees.assert_differs(&[(b"", What::Mode)]);
    assert!(
        trees
            .report()
            .to_string()
            .starts_with(".: mode: 0755 | 0700")
    );
}
