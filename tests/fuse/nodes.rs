//! Goal: every kind of inode, name and attribute change follows. Method: syscalls through the mount.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use doppelfs::sys;
use doppelfs::types::Time;

use crate::support::{Fixture, is_ready, open_dir, plant_everything};

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

fn rename(fixture: &Fixture, old: &CStr, new: &CStr, flags: u32) -> Result<(), i32> {
    let dir = open_dir(&fixture.path(""));
    let renamed = sys::renameat2(dir.as_fd(), old, dir.as_fd(), new, flags);
    renamed.map_err(|e| e.raw_os_error().expect("an errno"))
}

#[test]
fn one_of_everything_follows() {
    if !is_ready("one_of_everything_follows") {
        return;
    }
    let fixture = Fixture::started("everything");
    plant_everything(&fixture.path(""));
    fixture.finish();
}

#[test]
fn pipes_sockets_and_devices_follow() {
    if !is_ready("pipes_sockets_and_devices_follow") {
        return;
    }
    let fixture = Fixture::started("nodes");
    let dir = open_dir(&fixture.path(""));
    let nodes = [
        (c"pipe", libc::S_IFIFO | 0o600, 0),
        (c"socket", libc::S_IFSOCK | 0o777, 0),
        (c"char", libc::S_IFCHR | 0o644, libc::makedev(1, 5)),
        (c"block", libc::S_IFBLK | 0o660, libc::makedev(259, 70_000)),
        (c"file", libc::S_IFREG | 0o4711, 0),
    ];
    for (name, mode, rdev) in nodes {
        sys::mknodat(dir.as_fd(), name, mode, rdev).expect("mknod");
    }
    fixture.assert_equal();
    let block = fixture.replica("block").symlink_metadata().expect("stat");
    assert_eq!(block.rdev(), libc::makedev(259, 70_000));
    for (name, ..) in nodes {
        sys::unlinkat(dir.as_fd(), name, 0).expect("unlink");
    }
    drop(dir);
    fixture.finish();
}

#[test]
fn rename_exchange_swaps_files_and_directories() {
    if !is_ready("rename_exchange_swaps_files_and_directories") {
        return;
    }
    let fixture = Fixture::started("exchange");
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    std::fs::write(fixture.path("dir/inside"), b"inside").expect("write");
    std::fs::write(fixture.path("file"), b"file").expect("write");
    std::fs::write(fixture.path("other"), b"other").expect("write");
    rename(&fixture, c"file", c"dir", RENAME_EXCHANGE).expect("exchange");
    rename(&fixture, c"dir", c"other", RENAME_EXCHANGE).expect("exchange");
    assert_eq!(
        rename(&fixture, c"file", c"absent", RENAME_EXCHANGE),
        Err(libc::ENOENT)
    );
    fixture.assert_equal();
    assert_eq!(
        std::fs::read(fixture.replica("file/inside")).expect("read"),
        b"inside"
    );
    assert_eq!(
        std::fs::read(fixture.replica("other")).expect("read"),
        b"file"
    );
    fixture.finish();
}

#[test]
fn rename_noreplace_replaces_nothing() {
    if !is_ready("rename_noreplace_replaces_nothing") {
        return;
    }
    let fixture = Fixture::started("noreplace");
    std::fs::write(fixture.path("one"), b"one").expect("write");
    std::fs::write(fixture.path("two"), b"two").expect("write");
    let refused = fixture.captured_by(|| {
        assert_eq!(
            rename(&fixture, c"one", c"two", RENAME_NOREPLACE),
            Err(libc::EEXIST)
        );
    });
    assert_eq!(refused, 0, "what fails is no operation");
    rename(&fixture, c"one", c"three", RENAME_NOREPLACE).expect("rename");
    fixture.finish();
}

#[test]
fn rename_whiteout_leaves_a_whiteout() {
    if !is_ready("rename_whiteout_leaves_a_whiteout") {
        return;
    }
    let fixture = Fixture::started("whiteout");
    std::fs::write(fixture.path("one"), b"one").expect("write");
    rename(&fixture, c"one", c"two", RENAME_WHITEOUT).expect("rename");
    fixture.assert_equal();
    let left = fixture.replica("one").symlink_metadata().expect("stat");
    assert_eq!(
        (left.mode() & libc::S_IFMT, left.rdev()),
        (libc::S_IFCHR, 0)
    );
    fixture.finish();
}

#[test]
fn a_directory_of_10000_files_is_renamed_by_one_record() {
    if !is_ready("a_directory_of_10000_files_is_renamed_by_one_record") {
        return;
    }
    let fixture = Fixture::started("big-rename");
    std::fs::create_dir(fixture.path("old")).expect("mkdir");
    let dir = open_dir(&fixture.path("old"));
    for number in 0..10_000 {
        let name = CString::new(format!("file-{number}")).expect("no NUL");
        sys::mknodat(dir.as_fd(), &name, libc::S_IFREG | 0o644, 0).expect("mknod");
    }
    drop(dir);
    fixture.caught_up();
    let (old, new) = (fixture.path("old"), fixture.path("new"));
    let records = fixture.captured_by(|| std::fs::rename(old, new).expect("rename"));
    assert_eq!(records, 1);
    let counts = fixture.finish().counts;
    assert_eq!(counts.files, 10_000);
}

#[test]
fn queue_tail_shows_each_write_rename_and_unlink_as_one_line() {
    if !is_ready("queue_tail_shows_each_write_rename_and_unlink_as_one_line") {
        return;
    }
    let fixture = Fixture::started("tail");
    std::fs::write(fixture.path("one"), b"12345").expect("write");
    std::fs::rename(fixture.path("one"), fixture.path("two")).expect("rename");
    std::fs::remove_file(fixture.path("two")).expect("unlink");
    let tail = fixture
        .doppelfs()
        .args(["queue", "tail", "data", "--json", "--count", "20"])
        .succeed()
        .stdout;
    let lines: Vec<serde_json::Value> = tail
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let with = |op: &str| lines.iter().filter(|line| line["op"] == op).count();
    assert_eq!(
        (with("write"), with("rename"), with("unlink")),
        (1, 1, 1),
        "{tail}"
    );
    let write = lines
        .iter()
        .find(|line| line["op"] == "write")
        .expect("a write");
    assert_eq!(
        (&write["path"], &write["size"]),
        (&"one".into(), &5.into()),
        "{tail}"
    );
    // The kernel names the thread that called.
    let caller = u64::from(nix::unistd::gettid().as_raw().unsigned_abs());
    assert_eq!(write["pid"].as_u64(), Some(caller), "{tail}");
    fixture.finish();
}

#[test]
fn hard_links_across_directories_follow() {
    if !is_ready("hard_links_across_directories_follow") {
        return;
    }
    let fixture = Fixture::started("links");
    for dir in ["a", "b", "b/c"] {
        std::fs::create_dir(fixture.path(dir)).expect("mkdir");
    }
    let paths = ["a/file", "b/link", "b/c/link", "top"].map(|name| fixture.path(name));
    std::fs::write(&paths[0], b"first").expect("write");
    for path in &paths[1..] {
        std::fs::hard_link(&paths[0], path).expect("link");
    }
    std::fs::write(&paths[2], b"through the third name").expect("write");
    std::fs::remove_file(&paths[0]).expect("unlink");
    // Renaming one name of a file over another name of it does nothing at all (rename(2)).
    std::fs::rename(&paths[1], &paths[3]).expect("rename");
    assert!(paths[1].exists());
    std::fs::rename(fixture.path("b/c"), fixture.path("a/moved")).expect("rename");
    std::fs::hard_link(fixture.path("top"), fixture.path("a/again")).expect("link");
    fixture.assert_equal();
    let replica = fixture.replica("a/moved/link").metadata().expect("stat");
    assert_eq!(replica.nlink(), 4);
    fixture.finish();
}

#[test]
fn moves_that_naive_redo_cannot_follow_are_followed() {
    if !is_ready("moves_that_naive_redo_cannot_follow_are_followed") {
        return;
    }
    let fixture = Fixture::started("moves");
    let path = |name: &str| fixture.path(name);
    std::fs::write(path("a"), b"linked").expect("write");
    std::fs::hard_link(path("a"), path("b")).expect("link");
    std::fs::rename(path("a"), path("c")).expect("rename");
    std::fs::remove_file(path("c")).expect("unlink");
    std::fs::rename(path("b"), path("a")).expect("rename");
    std::fs::create_dir(path("d1")).expect("mkdir");
    std::fs::create_dir(path("d2")).expect("mkdir");
    std::fs::rename(path("d1"), path("d2/d1")).expect("rename");
    std::fs::rename(path("d2/d1"), path("d1")).expect("rename");
    std::fs::rename(path("d2"), path("d1/d2")).expect("rename");
    fixture.finish();
}

#[test]
fn owners_modes_times_and_attributes_follow() {
    if !is_ready("owners_modes_times_and_attributes_follow") {
        return;
    }
    let fixture = Fixture::started("attributes");
    std::fs::write(fixture.path("file"), b"x").expect("write");
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    std::os::unix::fs::symlink("file", fixture.path("link")).expect("symlink");
    for name in ["file", "dir"] {
        let it = open_dir(&fixture.path(name));
        sys::chown_fd(it.as_fd(), Some(12_345), Some(54_321)).expect("chown");
        sys::chmod_fd(it.as_fd(), 0o7705).expect("chmod");
        sys::setxattr(it.as_fd(), c"user.one", b"1", 0).expect("setxattr");
        sys::setxattr(it.as_fd(), c"user.two", &[7; 2000], 0).expect("setxattr");
        sys::removexattr(it.as_fd(), c"user.one").expect("removexattr");
        sys::setxattr(it.as_fd(), c"trusted.three", b"", 0).expect("setxattr");
        let far = Time {
            secs: 4_000_000_000,
            nanos: 999_999_999,
        };
        sys::utimens_fd(it.as_fd(), None, Some(far)).expect("utimens");
    }
    std::os::unix::fs::lchown(fixture.path("link"), Some(7), Some(8)).expect("lchown");
    fixture.finish();
}

#[test]
fn suid_is_lost_on_both_sides_when_a_user_writes() {
    let test = "suid_is_lost_on_both_sides_when_a_user_writes";
    if !is_ready(test) || !crate::support::has_programs(test, &["setpriv"]) {
        return;
    }
    let fixture = Fixture::started("suid");
    let path = fixture.path("program");
    std::fs::write(&path, b"#!/bin/true\n").expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6777)).expect("chmod");
    crate::support::program("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sh",
            "-c",
        ])
        .args(["echo more >> \"$0\""])
        .arg(&path)
        .succeed();
    let mode = path.metadata().expect("stat").mode() & 0o7777;
    assert_eq!(mode & 0o4000, 0, "suid survived a user's write: {mode:o}");
    fixture.finish();
}

#[test]
fn access_lists_follow_and_are_inherited() {
    let test = "access_lists_follow_and_are_inherited";
    if !is_ready(test) || !crate::support::has_programs(test, &["setfacl"]) {
        return;
    }
    let fixture = Fixture::started("acl");
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    let setfacl = |args: &[&str], name: &str| {
        crate::support::program("setfacl")
            .args(args)
            .arg(fixture.path(name))
            .succeed();
    };
    setfacl(&["-m", "u:1234:rwx,g:4321:r,m::rx"], "dir");
    setfacl(&["-d", "-m", "u:1234:rw,o::-"], "dir");
    std::fs::write(fixture.path("dir/inherits"), b"").expect("write");
    std::fs::create_dir(fixture.path("dir/below")).expect("mkdir");
    std::fs::write(fixture.path("dir/below/too"), b"").expect("write");
    setfacl(&["-x", "u:1234"], "dir");
    setfacl(&["-b"], "dir/inherits");
    fixture.finish();
}
