//! Goal: files with several names stay one file on the replica, as far as their names lie in the
//! set, and every name tells the truth at once. Method: each case of where the names lie, made
//! through the mount or below it before the mount, against the replica's inodes.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use doppelfs::sys;

use crate::support::{Fixture, has_programs, is_ready, program};

fn meta(path: impl AsRef<Path>) -> Metadata {
    let path = path.as_ref();
    let meta = path.symlink_metadata();
    meta.unwrap_or_else(|e| panic!("stat {}: {e}", path.display()))
}

fn link(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    std::fs::hard_link(from, to).expect("link");
}

fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::write(path, text).expect("write");
}

/// On the replica these names are one file, which has no other name and this content.
#[track_caller]
fn assert_linked(fixture: &Fixture, names: &[&str], content: &str) {
    fixture.assert_equal();
    let first = meta(fixture.replica(names[0]));
    for name in names {
        let replica = fixture.replica(name);
        let now = meta(&replica);
        assert_eq!(
            (now.ino(), now.nlink()),
            (first.ino(), names.len() as u64),
            "{name}"
        );
        assert_eq!(
            std::fs::read_to_string(&replica).expect("read"),
            content,
            "{name}"
        );
    }
}

/// Through the mount these names are one inode with `nlink` names and one change time.
#[track_caller]
fn assert_agree(fixture: &Fixture, names: &[&str], nlink: u64) -> (i64, i64) {
    let first = meta(fixture.path(names[0]));
    let ctime = (first.ctime(), first.ctime_nsec());
    for name in names {
        let now = meta(fixture.path(name));
        assert_eq!((now.ino(), now.nlink()), (first.ino(), nlink), "{name}");
        assert_eq!((now.ctime(), now.ctime_nsec()), ctime, "{name}");
    }
    ctime
}

#[test]
fn links_inside_the_set_that_were_there_before_the_mount_are_linked() {
    if !is_ready("links_inside_the_set_that_were_there_before_the_mount_are_linked") {
        return;
    }
    let mut fixture = Fixture::new("links-inside");
    std::fs::create_dir_all(fixture.path("deep/er")).expect("mkdir");
    write(fixture.path("first"), "one file");
    link(fixture.path("first"), fixture.path("second"));
    link(fixture.path("first"), fixture.path("deep/er/third"));
    fixture.start();
    assert_linked(&fixture, &["first", "second", "deep/er/third"], "one file");
    fixture.finish();
}

#[test]
fn a_file_with_a_name_outside_the_set_keeps_its_links_inside() {
    if !is_ready("a_file_with_a_name_outside_the_set_keeps_its_links_inside") {
        return;
    }
    let mut fixture = Fixture::new("links-crossing");
    write(fixture.path("first"), "crosses");
    link(fixture.path("first"), fixture.path("second"));
    link(fixture.path("first"), fixture.outside("beyond"));
    fixture.start();
    assert_agree(&fixture, &["first", "second"], 3);
    assert_linked(&fixture, &["first", "second"], "crosses");
    // A name that comes later joins them.
    link(fixture.path("second"), fixture.path("later"));
    assert_linked(&fixture, &["first", "second", "later"], "crosses");
    fixture.finish();
}

#[test]
fn a_link_to_a_file_outside_made_while_unmounted_is_a_file_on_the_replica() {
    if !is_ready("a_link_to_a_file_outside_made_while_unmounted_is_a_file_on_the_replica") {
        return;
    }
    let fixture = Fixture::started("links-unmounted");
    fixture.umount();
    write(fixture.outside("beyond"), "from outside");
    link(fixture.outside("beyond"), fixture.path("one"));
    fixture.mount();
    assert_linked(&fixture, &["one"], "from outside");
    // The file is there already when another of its names is linked into the set.
    fixture.umount();
    link(fixture.outside("beyond"), fixture.path("two"));
    fixture.mount();
    assert_linked(&fixture, &["one", "two"], "from outside");
    fixture.finish();
}

#[test]
fn a_name_moved_in_from_outside_while_unmounted_joins_its_links() {
    if !is_ready("a_name_moved_in_from_outside_while_unmounted_joins_its_links") {
        return;
    }
    let mut fixture = Fixture::new("links-moved-in-below");
    write(fixture.path("inside"), "two places");
    link(fixture.path("inside"), fixture.outside("beyond"));
    fixture.start();
    fixture.umount();
    std::fs::rename(fixture.outside("beyond"), fixture.path("came")).expect("rename");
    fixture.mount();
    assert_linked(&fixture, &["inside", "came"], "two places");
    fixture.finish();
}

#[test]
fn a_name_moved_in_from_outside_through_the_mount_is_a_file_of_its_own() {
    let test = "a_name_moved_in_from_outside_through_the_mount_is_a_file_of_its_own";
    if !is_ready(test) || !has_programs(test, &["mv"]) {
        return;
    }
    let mut fixture = Fixture::new("links-moved-in");
    write(fixture.path("inside"), "two places");
    link(fixture.path("inside"), fixture.outside("beyond"));
    fixture.start();
    let (from, to) = (fixture.outside("beyond"), fixture.path("came"));
    let refused = std::fs::rename(&from, &to).expect_err("another file system");
    assert_eq!(refused.kind(), ErrorKind::CrossesDevices);
    program("mv").arg(&from).arg(&to).succeed();
    assert!(!from.exists());
    assert_linked(&fixture, &["came"], "two places");
    assert_linked(&fixture, &["inside"], "two places");
    // The last name outside went past the mount, and still the count is right.
    assert_agree(&fixture, &["inside"], 1);
    fixture.finish();
}

#[test]
fn names_moved_within_the_set_stay_linked() {
    if !is_ready("names_moved_within_the_set_stay_linked") {
        return;
    }
    let fixture = Fixture::started("links-moved");
    std::fs::create_dir_all(fixture.path("a/b")).expect("mkdir");
    std::fs::create_dir(fixture.path("c")).expect("mkdir");
    write(fixture.path("a/b/first"), "moves");
    link(fixture.path("a/b/first"), fixture.path("second"));
    std::fs::rename(fixture.path("second"), fixture.path("c/second")).expect("rename");
    assert_linked(&fixture, &["a/b/first", "c/second"], "moves");
    std::fs::rename(fixture.path("a"), fixture.path("c/a")).expect("rename");
    assert_linked(&fixture, &["c/a/b/first", "c/second"], "moves");
    // Over a file of two names: the other name of that one stays.
    write(fixture.path("victim"), "replaced");
    link(fixture.path("victim"), fixture.path("survivor"));
    std::fs::rename(fixture.path("c/second"), fixture.path("victim")).expect("rename");
    assert_linked(&fixture, &["c/a/b/first", "victim"], "moves");
    assert_linked(&fixture, &["survivor"], "replaced");
    assert_agree(&fixture, &["survivor"], 1);
    fixture.finish();
}

#[test]
fn names_are_not_moved_or_linked_out_of_the_set() {
    let test = "names_are_not_moved_or_linked_out_of_the_set";
    if !is_ready(test) || !has_programs(test, &["mv"]) {
        return;
    }
    let fixture = Fixture::started("links-out");
    write(fixture.path("first"), "goes");
    link(fixture.path("first"), fixture.path("second"));
    let (from, to) = (fixture.path("second"), fixture.outside("out"));
    let beyond = fixture.outside("beyond");
    write(&beyond, "stays out");
    let refusals = fixture.captured_by(|| {
        let link = std::fs::hard_link(&from, &to).expect_err("link");
        let back = std::fs::hard_link(&beyond, fixture.path("in")).expect_err("link");
        let rename = std::fs::rename(&from, &to).expect_err("rename");
        for error in [link, back, rename] {
            assert_eq!(error.kind(), ErrorKind::CrossesDevices);
        }
    });
    assert_eq!(refusals, 0, "what is refused is no operation");
    program("mv").arg(&from).arg(&to).succeed();
    assert!(!from.exists());
    assert_eq!(std::fs::read_to_string(&to).expect("read"), "goes");
    assert_agree(&fixture, &["first"], 1);
    assert_linked(&fixture, &["first"], "goes");
    assert!(!fixture.replica("second").exists());
    fixture.finish();
}

#[test]
fn copies_of_linked_files_are_files_of_their_own() {
    let test = "copies_of_linked_files_are_files_of_their_own";
    if !is_ready(test) || !has_programs(test, &["cp"]) {
        return;
    }
    let mut fixture = Fixture::new("links-copied");
    write(fixture.path("first"), "copied");
    link(fixture.path("first"), fixture.path("second"));
    write(fixture.outside("beyond"), "from outside");
    link(fixture.outside("beyond"), fixture.path("crossing"));
    fixture.start();
    let cp = |from: &Path, to: &str| program("cp").arg(from).arg(fixture.path(to)).succeed();
    cp(&fixture.path("second"), "copy");
    cp(&fixture.path("crossing"), "copy-of-crossing");
    cp(&fixture.outside("beyond"), "copy-from-outside");
    write(fixture.path("copy"), "changed");
    assert_linked(&fixture, &["first", "second"], "copied");
    assert_linked(&fixture, &["copy"], "changed");
    for name in ["crossing", "copy-of-crossing", "copy-from-outside"] {
        assert_linked(&fixture, &[name], "from outside");
    }
    // A copy that keeps links makes links.
    let (first, second) = (fixture.path("first"), fixture.path("second"));
    std::fs::create_dir(fixture.path("kept")).expect("mkdir");
    program("cp")
        .arg("-a")
        .arg(first)
        .arg(second)
        .arg(fixture.path("kept"))
        .succeed();
    assert_linked(&fixture, &["kept/first", "kept/second"], "copied");
    fixture.finish();
}

#[test]
fn changes_through_any_name_are_those_of_the_file() {
    if !is_ready("changes_through_any_name_are_those_of_the_file") {
        return;
    }
    let mut fixture = Fixture::new("links-changed");
    write(fixture.path("first"), "before");
    link(fixture.path("first"), fixture.path("second"));
    link(fixture.path("first"), fixture.outside("beyond"));
    fixture.start();
    link(fixture.path("second"), fixture.path("third"));
    let names = ["first", "second", "third"];
    for (round, name) in names.iter().enumerate() {
        let path = fixture.path(name);
        let mode = 0o640 | u32::try_from(round).expect("small");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        let owner = 4_000 + u32::try_from(round).expect("small");
        chown(&path, Some(owner), Some(owner + 1)).expect("chown");
        write(&path, name);
        let file = File::options().read(true).open(&path).expect("open");
        sys::setxattr(
            std::os::fd::AsFd::as_fd(&file),
            c"user.by",
            name.as_bytes(),
            0,
        )
        .expect("setxattr");
        assert_agree(&fixture, &names, 4);
        assert_linked(&fixture, &names, name);
        let replica = meta(fixture.replica("first"));
        assert_eq!(
            (replica.mode() & 0o7777, replica.uid()),
            (mode, owner),
            "by {name}"
        );
    }
    fixture.finish();
}

#[test]
fn the_file_goes_with_its_last_name() {
    if !is_ready("the_file_goes_with_its_last_name") {
        return;
    }
    let fixture = Fixture::started("links-deleted");
    let names = ["first", "second", "third"];
    write(fixture.path(names[0]), "stays");
    link(fixture.path(names[0]), fixture.path(names[1]));
    link(fixture.path(names[0]), fixture.path(names[2]));
    fixture.assert_equal();
    for gone in 0..names.len() {
        std::fs::remove_file(fixture.path(names[gone])).expect("unlink");
        fixture.assert_equal();
        assert!(!fixture.replica(names[gone]).exists());
        let left = &names[gone + 1..];
        if !left.is_empty() {
            assert_agree(&fixture, left, left.len() as u64);
            assert_linked(&fixture, left, "stays");
        }
    }
    let left = std::fs::read_dir(fixture.replica(""))
        .expect("list")
        .count();
    assert_eq!(left, 0, "the replica still has something");
    fixture.finish();
}

#[test]
fn every_name_shows_link_count_and_change_time_at_once() {
    if !is_ready("every_name_shows_link_count_and_change_time_at_once") {
        return;
    }
    let fixture = Fixture::started("links-at-once");
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    let names = ["one", "dir/two", "three"];
    let path = |name: &str| fixture.path(name);
    write(path("one"), "1");
    let mut before = assert_agree(&fixture, &names[..1], 1);
    // All names are known to the kernel, with their attributes, before each change.
    let mut then = |what: &str, names: &[&str], nlink: u64, change: &mut dyn FnMut()| {
        // Change times have the grain of the kernel's clock tick.
        let start = doppelfs::sys::realtime_ns();
        while doppelfs::sys::realtime_ns() < start + 20_000_000 {
            std::hint::spin_loop();
        }
        change();
        let now = assert_agree(&fixture, names, nlink);
        assert!(now > before, "{what}: the change time stood still");
        before = now;
    };
    then("link", &names[..2], 2, &mut || {
        link(path("one"), path("dir/two"))
    });
    then("link", &names, 3, &mut || {
        link(path("dir/two"), path("three"))
    });
    then("chmod", &names, 3, &mut || {
        std::fs::set_permissions(path("three"), PermissionsExt::from_mode(0o600)).expect("chmod");
    });
    then("chown", &names, 3, &mut || {
        chown(path("dir/two"), Some(5), None).expect("chown");
    });
    let open = File::options().write(true).open(path("one")).expect("open");
    then("write", &names, 3, &mut || {
        open.write_all_at(b"22", 0).expect("write")
    });
    assert!(names.iter().all(|name| meta(path(name)).len() == 2));
    then("truncate", &names, 3, &mut || {
        open.set_len(9).expect("truncate")
    });
    assert!(names.iter().all(|name| meta(path(name)).len() == 9));
    let renamed = ["one", "dir/two", "dir/four"];
    then("rename", &renamed, 3, &mut || {
        std::fs::rename(path("three"), path("dir/four")).expect("rename");
    });
    then("unlink", &renamed[1..], 2, &mut || {
        std::fs::remove_file(path("one")).expect("unlink");
    });
    write(path("other"), "other");
    then("rename over", &renamed[2..], 1, &mut || {
        std::fs::rename(path("other"), path("dir/two")).expect("rename");
    });
    assert_eq!(open.metadata().expect("fstat").nlink(), 1);
    drop(open);
    fixture.finish();
}

#[test]
fn a_change_through_a_name_outside_is_found_at_the_next_mount() {
    if !is_ready("a_change_through_a_name_outside_is_found_at_the_next_mount") {
        return;
    }
    let mut fixture = Fixture::new("links-past-the-mount");
    write(fixture.path("first"), "before");
    link(fixture.path("first"), fixture.path("second"));
    link(fixture.path("first"), fixture.outside("beyond"));
    fixture.start();
    fixture.assert_equal();
    let captured = fixture.captured_by(|| write(fixture.outside("beyond"), "AFTER!"));
    assert_eq!(captured, 0, "it went past the mount");
    fixture.caught_up();
    let replica = std::fs::read_to_string(fixture.replica("second")).expect("read");
    assert_eq!(replica, "before");
    fixture.umount();
    fixture.mount();
    assert_linked(&fixture, &["first", "second"], "AFTER!");
    fixture.finish();
}
