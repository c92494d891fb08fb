//! Goal: a file system that is full is full for the same callers and at the same byte through the
//! mount. Method: an ext4 with a reserve for root and few inodes, filled by a user and by root, in two
//! copies of which one is mounted over. Blocks are allocated as they are written: with delayed allocation
//! the last byte depends on when the kernel wrote back, and is not even the same below twice.

use std::time::Duration;

use crate::support::{LIMITED, Pair, USER, is_ready, program, said_in};

const AT_ONCE: &str = "loop,nodelalloc";
const RESERVED: (&str, &[&str]) = ("ext4", &["-m", "20", "-N", "64", "-O", "^has_journal"]);

#[test]
fn a_user_stops_at_the_reserve_where_root_goes_on() {
    let test = "a_user_stops_at_the_reserve_where_root_goes_on";
    if !is_ready(test) {
        return;
    }
    let Some(pair) = Pair::new(test, RESERVED, 64, AT_ONCE, |_| {}) else {
        return;
    };
    let said: Vec<String> = LIMITED
        .iter()
        .map(|(user, script)| pair.same(user, script))
        .collect();
    let full = |said: &&String| said.contains("No space left on device");
    assert!(said.iter().filter(full).count() >= 7, "{said:?}");
    assert!(!full(&&said[2]), "root has a reserve: {}", said[2]);
    pair.finish();
}

#[test]
fn a_disk_that_is_full_for_root_goes_on_when_there_is_space() {
    let test = "a_disk_that_is_full_for_root_goes_on_when_there_is_space";
    if !is_ready(test) {
        return;
    }
    for make in [RESERVED, ("xfs", &[])] {
        let (mib, options) = if make.0 == "xfs" {
            (300, "loop")
        } else {
            (64, AT_ONCE)
        };
        // An xfs cannot be small: most of it is taken without being written, which costs this host nothing.
        let prepare = |dir: &std::path::Path| {
            if make.0 == "xfs" {
                let taken = ["-f", "-c", "falloc 0 200m", "taken"];
                program("xfs_io").args(taken).current_dir(dir).succeed();
            }
        };
        let Some(pair) = Pair::new(test, make, mib, options, prepare) else {
            continue;
        };
        let fill = r#"xfs_io -f -c "pwrite -q -b 64k 0 400m" a 2>&1 | sort -u"#;
        let said = pair.same("0", fill);
        assert!(said.contains("No space left on device"), "{said}");
        // Which byte is the last one depends on how xfs allocates.
        if make.0 == "ext4" {
            pair.same("0", r#"stat -c %s a"#);
        }
        pair.same("0", r#"xfs_io -f -c "pwrite -q 0 4m" b; rm b"#);
        pair.same(
            "0",
            "truncate -s 1m a; head -c 3M /dev/zero > c; stat -c %s c a",
        );
        pair.same("0", "mkdir d && mv c d && ln d/c e && rm a && ls d");
        // A mirror makes holes of what nobody wrote (docs/differences.md).
        pair.same("0", "rm -f taken");
        pair.finish();
    }
}

/// Stores in a mapping of a file of holes, then asks whether they arrived.
const MAPPED: &str =
    r#"xfs_io -f -c "truncate 4m" -c "mmap -rw 0 4m" -c "mwrite 0 4m" -c fsync mapped 2>&1"#;

#[test]
fn pages_of_a_mapping_leave_the_reserve_to_root_and_fsync_tells() {
    let test = "pages_of_a_mapping_leave_the_reserve_to_root_and_fsync_tells";
    if !is_ready(test) {
        return;
    }
    let Some(pair) = Pair::new(test, RESERVED, 64, AT_ONCE, |_| {}) else {
        return;
    };
    pair.same(USER, r#"xfs_io -f -c "pwrite -q -b 64k 0 200m" a 2>&1"#);
    pair.same(USER, "truncate -s -1m a; stat -f -c %a .");
    // Below, the store itself finds no space and is a SIGBUS; a mount hears of it at the write-back.
    let below = said_in(pair.plain.path(), USER, MAPPED);
    assert!(below.contains("None") || below.contains("135"), "{below}");
    let through = said_in(pair.over.path(), USER, MAPPED);
    assert!(through.contains("No space left on device"), "{through}");
    let free = "stat -f -c %f .";
    let (below, through) = (
        said_in(pair.plain.path(), USER, free),
        said_in(pair.over.path(), USER, free),
    );
    assert_eq!(through, below, "the reserve stays");
    // Root's mapping gets what the user's did not.
    pair.same("0", "rm mapped");
    pair.same("0", &MAPPED.replace("mapped", "roots"));
    pair.same(USER, r#"rm -f a; stat -c %s roots"#);
    pair.same(USER, MAPPED);
    // Pages were lost, which a wait that writes back says, once.
    let waited = pair.fixture.wait(Duration::from_secs(60));
    waited.expect_code(2).expect_words(&["no space left"]);
    pair.same(USER, r#"stat -c %s mapped; sync; cksum < mapped"#);
    pair.finish();
}
