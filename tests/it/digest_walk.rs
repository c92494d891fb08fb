//! Goal: the walk copes with any tree, and says so when it cannot. Method: deep chains, big
//! directories, mount points, moving directories.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doppelfs::digest::{Error, OPEN_LEVELS_MAX, Options, Side, What, compare};
use doppelfs::sys;
use doppelfs::types::Time;

use crate::trees::{Trees, handle, is_root, set_mtime, stat};

const DEPTH: usize = 5000;
const TIME: Time = Time { secs: 3, nanos: 4 };

/// Makes a chain of directories below `root` and a file at its end; every time is [`TIME`].
fn plant_chain(root: &Path, name: &str, depth: usize, bytes: &[u8]) {
    let name = CString::new(name).expect("no NUL");
    let mut dir = handle(root);
    let mut all = Vec::new();
    for _ in 0..depth {
        sys::mkdirat(dir.as_fd(), &name, 0o755).expect("mkdirat");
        let below = sys::openat(dir.as_fd(), &name, libc::O_RDONLY, 0).expect("openat");
        let above = std::mem::replace(&mut dir, below);
        // A directory's time stands once nothing is made in it any more.
        all.push(above);
        if all.len() > 2 {
            stamp(&all.remove(0));
        }
    }
    let flags = libc::O_WRONLY | libc::O_CREAT;
    let file = sys::openat(dir.as_fd(), c"end", flags, 0o644).expect("create");
    sys::pwrite(file.as_fd(), bytes, 0).expect("write");
    stamp(&file);
    stamp(&dir);
    all.iter().for_each(stamp);
    set_mtime(root, TIME);
}

fn stamp(fd: &OwnedFd) {
    sys::utimens_fd(fd.as_fd(), None, Some(TIME)).expect("set the time");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("list descriptors")
        .count()
}

#[test]
fn a_path_longer_than_path_max_is_compared_to_its_end() {
    let trees = Trees::empty("deep");
    plant_chain(&trees.left(""), "level", DEPTH, b"same");
    plant_chain(&trees.right(""), "level", DEPTH, b"same");
    let report = trees.report();
    assert!(report.is_equal(), "{report}");
    assert_eq!(report.counts.dirs, DEPTH as u64 + 1);
    assert_eq!(report.counts.files, 1);
}

#[test]
fn a_difference_at_the_end_of_a_long_path_is_caught() {
    let trees = Trees::empty("deep-differs");
    plant_chain(&trees.left(""), &"n".repeat(255), 40, b"same");
    plant_chain(&trees.right(""), &"n".repeat(255), 40, b"sane");
    let report = trees.report();
    assert_eq!(report.difference_count, 1, "{report}");
    assert_eq!(report.differences[0].what, What::Content);
    assert_eq!(report.differences[0].path.len(), 40 * 256 + 3);
}

#[test]
fn names_beside_a_deep_chain_are_found_again_on_the_way_up() {
    let trees = Trees::empty("way-up");
    for root in [trees.left(""), trees.right("")] {
        plant_chain(&root, "m", OPEN_LEVELS_MAX * 3, b"same");
        let mut dir = root.clone();
        for level in 0..OPEN_LEVELS_MAX * 2 {
            std::fs::create_dir(dir.join("z")).expect("mkdir");
            let text = if root == trees.left("") {
                level
            } else {
                level / 20 * 20
            };
            std::fs::write(dir.join("z/f"), format!("{text:03}")).expect("write");
            set_mtime(&dir.join("z/f"), TIME);
            set_mtime(&dir.join("z"), TIME);
            set_mtime(&dir, TIME);
            dir = dir.join("m");
        }
    }
    let report = trees.report_with(&Options {
        differences_kept_max: 1000,
        ..Options::default()
    });
    let expected = OPEN_LEVELS_MAX * 2 - (OPEN_LEVELS_MAX * 2).div_ceil(20);
    assert_eq!(report.difference_count, expected as u64, "{report}");
    assert_eq!(report.counts.files, OPEN_LEVELS_MAX as u64 * 2 + 1);
}

#[test]
fn no_descriptor_is_left_open() {
    let trees = Trees::empty("descriptors");
    plant_chain(&trees.left(""), "d", OPEN_LEVELS_MAX * 2, b"same");
    plant_chain(&trees.right(""), "d", OPEN_LEVELS_MAX * 2, b"same");
    // Other tests open descriptors too: what leaks grows with every round, theirs do not.
    let rounds = 2000;
    let before = open_descriptors();
    for _ in 0..20 {
        assert!(trees.report().is_equal());
    }
    assert!(open_descriptors() < before + rounds, "descriptors leak");
}

#[test]
fn a_directory_of_100_000_names_is_compared() {
    let trees = Trees::empty("wide");
    for root in [trees.left(""), trees.right("")] {
        let dir = handle(&root);
        for number in 0..100_000 {
            let name = CString::new(format!("name-{number}")).expect("no NUL");
            sys::mknodat(dir.as_fd(), &name, libc::S_IFREG | 0o644, 0).expect("mknod");
        }
        set_mtime(&root, TIME);
    }
    let options = Options {
        differences_kept_max: 10,
        ..Options::default()
    };
    let report = trees.report_with(&options);
    assert_eq!(report.counts.files, 100_000);
    // All were made at other times: every one differs, ten are kept.
    let times = report.differences.iter().all(|d| d.what == What::Mtime);
    assert!(times, "{report}");
    assert!(report.difference_count > 10, "{report}");
    assert_eq!(report.differences.len(), 10);
    assert!(report.to_string().contains(" more\n"), "{report}");
}

#[test]
fn ignored_names_are_skipped_at_the_top_only() {
    let trees = Trees::empty("ignored");
    std::fs::create_dir_all(trees.left("lost+found")).expect("mkdir");
    for root in [trees.left(""), trees.right("")] {
        std::fs::create_dir_all(root.join("dir")).expect("mkdir");
    }
    std::fs::write(trees.left("dir/lost+found"), b"").expect("write");
    for path in ["", "dir"] {
        set_mtime(&trees.left(path), TIME);
        set_mtime(&trees.right(path), TIME);
    }
    let report = trees.report_with(&Options {
        names_ignored: vec![b"lost+found".to_vec()],
        ..Options::default()
    });
    assert_eq!(report.difference_count, 1, "{report}");
    assert_eq!(report.differences[0].path, b"dir/lost+found");
}

#[test]
fn metadata_only_reads_no_content() {
    let trees = Trees::empty("metadata");
    for (root, bytes) in [(trees.left(""), b"left "), (trees.right(""), b"right")] {
        std::fs::write(root.join("file"), bytes).expect("write");
        set_mtime(&root.join("file"), TIME);
        set_mtime(&root, TIME);
    }
    assert_eq!(trees.report().difference_count, 1);
    let report = trees.report_with(&Options {
        contents: false,
        ..Options::default()
    });
    assert!(report.is_equal(), "{report}");
    assert_eq!(report.counts.bytes, 0);
}

#[test]
fn root_attributes_can_be_left_out() {
    let trees = Trees::empty("rootless");
    set_mtime(&trees.right(""), TIME);
    assert_eq!(trees.report().difference_count, 1);
    let report = trees.report_with(&Options {
        roots: false,
        ..Options::default()
    });
    assert!(report.is_equal(), "{report}");
}

#[test]
fn a_mount_point_is_reported_and_not_entered() {
    if !is_root("a_mount_point_is_reported_and_not_entered") {
        return;
    }
    let trees = Trees::empty("mounted");
    for root in [trees.left(""), trees.right("")] {
        std::fs::create_dir(root.join("point")).expect("mkdir");
        set_mtime(&root, TIME);
    }
    let point = trees.right("point");
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&point)
        .status();
    assert!(mount.expect("run mount").success(), "mount a tmpfs");
    std::fs::write(point.join("inside"), b"").expect("write");
    let report = trees.report();
    sys::umount(&point, true).expect("umount");
    assert!(
        report
            .differences
            .iter()
            .any(|d| d.what == What::OtherMount),
        "{report}"
    );
    assert!(
        report.differences.iter().all(|d| d.path == b"point"),
        "{report}"
    );
}

#[test]
fn a_root_that_does_not_exist_is_an_error_with_its_side_and_path() {
    let trees = Trees::empty("no-root");
    let missing = trees.right("missing");
    let error = compare(&trees.left(""), &missing, &Options::default()).expect_err("no root");
    assert!(
        matches!(
            &error,
            Error::Io {
                side: Side::Right,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("missing of the right tree"),
        "{error}"
    );
}

#[test]
fn a_file_as_root_is_an_error() {
    let trees = Trees::empty("file-root");
    std::fs::write(trees.left("file"), b"").expect("write");
    let file = trees.left("file");
    let error = compare(&file, &trees.right(""), &Options::default()).expect_err("no directory");
    assert!(
        matches!(
            &error,
            Error::Io {
                side: Side::Left,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_directory_moved_away_under_the_walk_is_an_error() {
    let trees = Trees::empty("moved");
    for root in [trees.left(""), trees.right("")] {
        std::fs::create_dir_all(root.join("x")).expect("mkdir");
        std::fs::create_dir_all(root.join("y")).expect("mkdir");
        plant_chain(&root.join("x"), "c", OPEN_LEVELS_MAX * 4, b"same");
    }
    let stop = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (here, there) = (trees.right("x/c"), trees.right("y/c"));
            while !stop.load(Ordering::Relaxed) {
                std::fs::rename(&here, &there).expect("move away");
                std::fs::rename(&there, &here).expect("move back");
            }
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut moved = false;
        while !moved && Instant::now() < deadline {
            let result = compare(&trees.left(""), &trees.right(""), &Options::default());
            moved = matches!(
                result,
                Err(Error::Moved {
                    side: Side::Right,
                    ..
                })
            );
        }
        stop.store(true, Ordering::Relaxed);
        moved
    });
    assert!(moved, "no walk met the moving directory");
    assert_eq!(stat(&trees.left("x")).nlink, 3);
}
