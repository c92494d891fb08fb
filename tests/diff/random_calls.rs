//! Goal: nobody can tell the mount from the file system below. Method: random calls of everybody, on
//! both, compared one by one; every now and then the whole trees.

use super::actor::{ALICE, BOB, OTHER, ROOT, USER};
use super::op::{Lie, Op, Who};
use super::random::Generator;
use super::rig::Rig;
use super::support::seed;

/// Calls between two comparisons of everything.
const SWEEP: u64 = 4_000;

/// What the features promise to capture, and what must therefore have been seen to work.
const CAPTURED: [&str; 34] = [
    "write",
    "pwrite",
    "writev",
    "mmap write",
    "copy_file_range",
    "fallocate",
    "fallocate punch",
    "fallocate zero",
    "truncate",
    "ftruncate",
    "open create",
    "open truncate",
    "mkdir",
    "mknod",
    "mknod fifo",
    "mknod socket",
    "mknod device",
    "symlink",
    "link",
    "rename",
    "rename noreplace",
    "rename exchange",
    "rename whiteout",
    "unlink",
    "rmdir",
    "chmod",
    "fchmod",
    "chown",
    "utimensat",
    "futimens",
    "setxattr",
    "removexattr",
    "set acl",
    "remove acl",
];

/// Errors that must have been seen, being what these calls promise.
const REFUSED: [(&str, &[i32]); 27] = [
    (
        "open",
        &[
            libc::ENOENT,
            libc::EACCES,
            libc::ELOOP,
            libc::ENXIO,
            libc::EISDIR,
        ],
    ),
    (
        "open create",
        &[
            libc::EEXIST,
            libc::EISDIR,
            libc::ENOTDIR,
            libc::ENAMETOOLONG,
        ],
    ),
    ("open truncate", &[libc::EISDIR, libc::EACCES]),
    ("open directory", &[libc::ENOTDIR, libc::EACCES]),
    (
        "mkdir",
        &[libc::EEXIST, libc::ENOENT, libc::ENOTDIR, libc::EACCES],
    ),
    ("mknod device", &[libc::EPERM, libc::EEXIST]),
    ("symlink", &[libc::EEXIST, libc::EACCES]),
    ("link", &[libc::EPERM, libc::EEXIST, libc::EACCES]),
    (
        "rename",
        &[
            libc::EISDIR,
            libc::ENOTDIR,
            libc::ENOTEMPTY,
            libc::EINVAL,
            libc::EACCES,
        ],
    ),
    ("rename noreplace", &[libc::EEXIST]),
    ("rename exchange", &[libc::ENOENT, libc::EINVAL]),
    ("unlink", &[libc::EISDIR, libc::EPERM, libc::EACCES]),
    ("rmdir", &[libc::ENOTEMPTY, libc::ENOTDIR]),
    ("chmod", &[libc::EPERM, libc::ENOENT]),
    ("chown", &[libc::EPERM, libc::EACCES]),
    ("utimensat", &[libc::EPERM, libc::EACCES]),
    (
        "setxattr",
        &[libc::EPERM, libc::EEXIST, libc::ENODATA, libc::EOPNOTSUPP],
    ),
    ("removexattr", &[libc::ENODATA, libc::EPERM]),
    ("getxattr", &[libc::ERANGE, libc::ENODATA]),
    ("listxattr", &[libc::ERANGE]),
    ("set acl", &[libc::EPERM, libc::EINVAL]),
    ("truncate", &[libc::EISDIR, libc::EINVAL, libc::EACCES]),
    ("ftruncate", &[libc::EINVAL, libc::EBADF]),
    ("fallocate", &[libc::EINVAL, libc::EBADF]),
    ("lseek", &[libc::ENXIO, libc::EINVAL, libc::ESPIPE]),
    ("read", &[libc::EISDIR, libc::EBADF]),
    ("with file size limit", &[libc::EFBIG]),
];

fn calls() -> u64 {
    std::env::var("DOPPELFS_CALLS").map_or(20_000, |text| {
        text.parse().expect("DOPPELFS_CALLS is a number")
    })
}

/// From which call on everything is compared every ten calls: to find what a comparison of everything
/// found too late.
fn close_look() -> Option<u64> {
    let text = std::env::var("DOPPELFS_CLOSE_LOOK").ok()?;
    Some(text.parse().expect("DOPPELFS_CLOSE_LOOK is a number"))
}

/// The directories that everybody meets in.
fn furnish(rig: &mut Rig) {
    let dirs = [
        ("a", 0o777, ALICE, 3003),
        ("b", 0o2775, BOB, 3004),
        ("a/c", 0o755, ALICE, ALICE),
        ("s", 0o1777, 0, 0),
    ];
    for (path, mode, uid, gid) in dirs {
        rig.must(
            ROOT,
            &Op::Mkdir {
                path: path.into(),
                mode: 0o777,
                umask: 0,
            },
        );
        rig.must(
            ROOT,
            &Op::Chown {
                who: Who::Path(path.into()),
                uid,
                gid,
            },
        );
        rig.must(
            ROOT,
            &Op::Chmod {
                who: Who::Path(path.into()),
                mode,
            },
        );
    }
    rig.must(
        USER,
        &Op::Stat {
            who: Who::Path("a".into()),
        },
    );
    rig.must(
        OTHER,
        &Op::Stat {
            who: Who::Path("b".into()),
        },
    );
}

fn random_calls(test: &str, kind: &'static str, calls: u64, with_target: bool) {
    let Some(mut rig) = Rig::new(test, kind, 512, with_target) else {
        return;
    };
    let seed = seed(test);
    let mut generator = Generator::new(seed);
    furnish(&mut rig);
    let close_look = close_look();
    let start = std::time::Instant::now();
    for number in 1..=calls {
        let (actor, op) = generator.next();
        let (ret, found) = rig.run_with(actor, &op, Lie::None);
        generator.note(actor, &op, ret);
        rig.stop_at(&found, &format!("with DOPPELFS_SEED={seed}"));
        let is_close = close_look.is_some_and(|from| number >= from && number % 10 == 0);
        if number % SWEEP == 0 || number == calls || is_close {
            let found = rig.sweep();
            rig.stop_at(&found, &format!("in the sweep with DOPPELFS_SEED={seed}"));
        }
    }
    rig.print();
    eprintln!("{kind}: {calls} calls in {:?}", start.elapsed());
    if calls >= 100_000 {
        let missed = CAPTURED.iter().filter(|kind| {
            rig.tallies
                .get(*kind)
                .is_none_or(|tally| tally.successes == 0)
        });
        let missed: Vec<_> = missed.collect();
        assert!(missed.is_empty(), "never seen to succeed: {missed:?}");
        let seen = |kind: &str, errno: i32| {
            let tally = rig.tallies.get(kind);
            tally.is_some_and(|tally| tally.errnos.contains(&i64::from(errno)))
        };
        for (kind, errnos) in REFUSED {
            let missed: Vec<_> = errnos.iter().filter(|errno| !seen(kind, **errno)).collect();
            assert!(missed.is_empty(), "{kind}: never refused with {missed:?}");
        }
    }
    if with_target {
        rig.assert_replica_equal();
    }
}

#[test]
fn random_calls_on_ext4_are_as_below() {
    random_calls("random_calls_on_ext4_are_as_below", "ext4", calls(), false);
}

#[test]
fn random_calls_on_xfs_are_as_below() {
    random_calls("random_calls_on_xfs_are_as_below", "xfs", calls(), false);
}

#[test]
fn random_calls_on_btrfs_are_as_below() {
    random_calls(
        "random_calls_on_btrfs_are_as_below",
        "btrfs",
        calls(),
        false,
    );
}

#[test]
fn random_calls_follow_to_the_replica() {
    random_calls(
        "random_calls_follow_to_the_replica",
        "ext4",
        calls().min(100_000),
        true,
    );
}
