//! Goal: the flags of the mount can be changed one by one while it is mounted, and say of access times
//! what they say on any mount. Method: each remount on a plain file system and on a mount over one that
//! is alike; what the kernel shows and what programs get must be the same.

use std::fs::File;
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::sys::stat::{UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;

use crate::mount_options::{plant, tried};
use crate::support::{Fixture, Image, has_programs, is_ready, program};

/// How the mount helper, or mount(8) by itself, remounts.
const WAYS: [&str; 2] = ["mount -i", "mount.doppelfs"];

fn remount(way: &str, options: &str, dir: &Path) {
    let options = format!("remount,{options}");
    let helper = concat!(env!("CARGO_MANIFEST_DIR"), "/mount-helpers/mount.doppelfs");
    let command = match way {
        "mount -i" => program("mount").args(["-i", "-o", &options]).arg(dir),
        _ => program(helper).arg("data").arg(dir).args(["-o", &options]),
    };
    command.succeed();
}

/// The flags of the last mount on `dir` as the kernel shows them.
fn flags(dir: &Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    let dir = dir.to_str().expect("a path of this test is text");
    let mut lines = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.rfind(|fields| fields[4] == dir);
    found.expect("it is mounted")[5].to_owned()
}

#[test]
fn remounts_change_one_flag_and_keep_the_others() {
    let test = "remounts_change_one_flag_and_keep_the_others";
    if !is_ready(test) || !has_programs(test, &["mount", "setpriv", "mknod"]) {
        return;
    }
    let (Some(plain), Some(over)) = (Image::new(test, "ext4", 64), Image::new(test, "ext4", 64))
    else {
        return;
    };
    let mut fixture = Fixture::over(test, over.path());
    plant(&fixture);
    fixture.start();
    let first = flags(over.path());
    for way in WAYS {
        for (option, wanted) in [
            ("nosuid", ("65534", [true, true, true])),
            ("noexec", ("", [true, false, true])),
            ("nodev", ("", [false, false, true])),
            ("noatime", ("", [false, false, true])),
            ("ro", ("", [false, false, false])),
            ("exec", ("65534", [false, true, false])),
            ("nodiratime", ("65534", [false, true, false])),
            ("rw", ("65534", [false, true, true])),
            ("strictatime", ("65534", [false, true, true])),
            ("relatime", ("65534", [false, true, true])),
            ("suid", ("0", [false, true, true])),
            ("dev", ("0", [true, true, true])),
            ("diratime", ("0", [true, true, true])),
        ] {
            remount("mount -i", option, plain.path());
            remount(way, option, over.path());
            assert_eq!(flags(over.path()), flags(plain.path()), "{way} {option}");
            let (user, works) = tried(&fixture);
            assert_eq!((user.as_str(), works), wanted, "{way} {option}");
            let is_default = ["exec", "suid", "dev", "diratime", "strictatime"].contains(&option);
            let now = flags(over.path());
            let is_shown = now.split(',').any(|word| word == option);
            assert_eq!(is_shown, !is_default, "{way} {option}: {now}");
        }
        assert_eq!(flags(over.path()), first, "{way}");
    }
    fixture.finish();
}

#[test]
fn a_remount_keeps_what_the_mount_below_forbids() {
    let test = "a_remount_keeps_what_the_mount_below_forbids";
    if !is_ready(test) {
        return;
    }
    let Some(over) = Image::with(test, ("ext4", &[]), 64, "loop,nosuid,nodev,noexec") else {
        return;
    };
    let mut fixture = Fixture::over(test, over.path());
    fixture.start();
    for option in ["noatime", "ro", "rw", "relatime", "nodiratime"] {
        for way in WAYS {
            remount(way, option, over.path());
            let now = flags(over.path());
            assert!(now.contains(",nosuid,nodev,noexec,"), "{option}: {now}");
        }
    }
    fixture.finish();
}

const NAMES: [&str; 2] = ["file", "dir"];
const OLD: TimeSpec = TimeSpec::new(1_000_000_000, 0);

/// Are file and directory stamped below when they are read at `dir`?
fn stamped(below: &File, dir: &Path) -> [bool; 2] {
    std::fs::read(dir.join("file")).expect("read");
    assert_eq!(std::fs::read_dir(dir.join("dir")).expect("list").count(), 1);
    NAMES.map(|name| {
        let stat = fstatat(below, name, AtFlags::AT_SYMLINK_NOFOLLOW).expect("stat below");
        stat.st_atime != OLD.tv_sec()
    })
}

/// Access times older than anything that could leave them alone.
fn age(below: &File) {
    for name in NAMES {
        let follow = UtimensatFlags::NoFollowSymlink;
        utimensat(below, name, &OLD, &OLD, follow).expect("set times below");
    }
}

#[test]
fn reads_stamp_access_times_as_the_options_say() {
    let test = "reads_stamp_access_times_as_the_options_say";
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, "ext4", 64) else {
        return;
    };
    std::fs::write(image.path().join("file"), "content").expect("write");
    std::fs::create_dir(image.path().join("dir")).expect("mkdir");
    std::fs::write(image.path().join("dir/entry"), "").expect("write");
    let below = File::open(image.path()).expect("open the directory below");
    let set = |options: &str| remount("mount -i", options, image.path());
    // One kind of access times does not simply replace another.
    let reset = || ["rw,strictatime,diratime", "relatime"].map(set);
    // Options of the mount below, those of ours, what a plain mount with both would do.
    for (lower, ours, wanted) in [
        ("relatime", "defaults", [true, true]),
        ("strictatime", "defaults", [true, true]),
        ("relatime", "noatime", [false, false]),
        ("strictatime", "noatime", [false, false]),
        ("relatime", "nodiratime", [true, false]),
        ("relatime", "ro", [false, false]),
        ("noatime", "defaults", [false, false]),
        ("nodiratime", "defaults", [true, false]),
    ] {
        reset();
        age(&below);
        set(lower);
        if ours != "defaults" {
            set(ours);
        }
        assert_eq!(
            stamped(&below, image.path()),
            wanted,
            "plain: {lower} {ours}"
        );
        reset();
        age(&below);
        set(lower);
        let label = format!("atime-{lower}-{ours}");
        let fixture = Fixture::over(&label, image.path()).without_target();
        let fixture = fixture.with_flags(&["-o", ours]);
        fixture.mount();
        assert_eq!(
            stamped(&below, image.path()),
            wanted,
            "mount: {lower} {ours}"
        );
        // Also when it is read once more, as a file that the kernel knows by now.
        assert_eq!(
            stamped(&below, image.path()),
            wanted,
            "again: {lower} {ours}"
        );
        fixture.umount();
    }
}
