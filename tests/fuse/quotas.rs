//! Goal: quotas hold through the mount for whom they hold below, at the same byte and inode, and count
//! the same. Method: one file system in two copies with the same limits, one mounted over; the same
//! calls in both, then both reports.

use std::path::Path;

use crate::support::{Image, LIMITED, Pair, USER, has_programs, is_ready, program};

/// Sets the limit of one kind of quota (a letter of setquota(8)), for the user, its group or project.
fn limit(kind: &str, dir: &Path) {
    if kind == "-P" {
        let project = format!("chproj {USER}");
        let words = ["-c", &project, "-c", "chattr +P"];
        program("xfs_io").args(words).arg(dir).succeed();
    }
    let limits = [kind, USER, "0", "3072", "0", "20"];
    program("setquota").args(limits).arg(dir).succeed();
}

/// What the file system counted, without its own name.
fn usage(kind: &str, image: &Image) -> String {
    let report = program("repquota")
        .args([kind, "-n", "-p"])
        .arg(image.path());
    let report = report.succeed().stdout;
    let lines = report.lines().filter(|line| !line.starts_with("***"));
    lines.collect::<Vec<_>>().join("\n")
}

fn holds(test: &str, kind: &str, make: (&str, &[&str]), options: &str) {
    if !is_ready(test) || !has_programs(test, &["setquota", "repquota", "xfs_io"]) {
        return;
    }
    let Some(pair) = Pair::new(test, make, 512, options, |dir| limit(kind, dir)) else {
        return;
    };
    let mut refused = 0;
    for (user, script) in LIMITED {
        let said = pair.same(user, script);
        refused += usize::from(said.contains("Disk quota exceeded") || said.contains("No space"));
    }
    assert!(refused >= 6, "{refused} calls met the limit");
    let store = r#"xfs_io -f -c "truncate 8m" -c "mmap -rw 0 8m" -c "mwrite 0 8m" -c fsync m 2>&1"#;
    let who = [
        "--reuid",
        USER,
        "--regid",
        USER,
        "--clear-groups",
        "sh",
        "-c",
        store,
    ];
    let stored = program("setpriv")
        .args(who)
        .current_dir(pair.over.path())
        .run();
    let said = stored.stdout;
    assert!(
        said.contains("Disk quota exceeded") || said.contains("No space"),
        "{said}"
    );
    pair.same(
        USER,
        "rm -f m; head -c 100k /dev/zero > last; mkdir -p x/y; ls",
    );
    let (plain, over) = pair.finish();
    program("sync").succeed();
    assert_eq!(usage(kind, &over), usage(kind, &plain), "{kind}");
}

const EXT4: (&str, &[&str]) = (
    "ext4",
    &[
        "-O",
        "quota,project",
        "-E",
        "quotatype=usrquota:grpquota:prjquota",
    ],
);
const EXT4_OPTIONS: &str = "loop,usrquota,grpquota,prjquota";
const XFS: (&str, &[&str]) = ("xfs", &[]);
const XFS_OPTIONS: &str = "loop,uquota,gquota,pquota";

#[test]
fn a_user_quota_of_ext4_holds() {
    holds("a_user_quota_of_ext4_holds", "-u", EXT4, EXT4_OPTIONS);
}

#[test]
fn a_group_quota_of_ext4_holds() {
    holds("a_group_quota_of_ext4_holds", "-g", EXT4, EXT4_OPTIONS);
}

#[test]
fn a_project_quota_of_ext4_holds() {
    holds("a_project_quota_of_ext4_holds", "-P", EXT4, EXT4_OPTIONS);
}

#[test]
fn a_user_quota_of_xfs_holds() {
    holds("a_user_quota_of_xfs_holds", "-u", XFS, XFS_OPTIONS);
}

#[test]
fn a_group_quota_of_xfs_holds() {
    holds("a_group_quota_of_xfs_holds", "-g", XFS, XFS_OPTIONS);
}

#[test]
fn a_project_quota_of_xfs_holds() {
    holds("a_project_quota_of_xfs_holds", "-P", XFS, XFS_OPTIONS);
}

#[test]
fn a_limit_of_btrfs_holds() {
    let test = "a_limit_of_btrfs_holds";
    if !is_ready(test) || !has_programs(test, &["btrfs"]) {
        return;
    }
    let limit = |dir: &Path| {
        program("btrfs")
            .args(["quota", "enable"])
            .arg(dir)
            .succeed();
        let words = ["qgroup", "limit", "4M", "0/5"];
        program("btrfs").args(words).arg(dir).succeed();
    };
    let Some(pair) = Pair::new(test, ("btrfs", &[]), 256, "loop", limit) else {
        return;
    };
    for user in [USER, "0"] {
        let write =
            r#"xfs_io -f -c "pwrite -q -b 64k 0 16m" -c "pwrite -q 16m 64k" a; stat -c %s a"#;
        for script in [write, r#"xfs_io -f -c "falloc 0 16m" b; stat -c %s b"#] {
            let said = pair.same(user, script);
            assert!(said.contains("Disk quota exceeded"), "{said}");
        }
        pair.same(
            user,
            "rm a b; sync; head -c 1M /dev/zero > c; stat -c %s c; rm c; sync",
        );
    }
    pair.finish();
}
