//! Goal: the comparison can fail. Method: an actor lies about what it saw through the mount.

use super::actor::{ROOT, USER};
use super::op::{Lie, Op, Way, Who};
use super::rig::{Difference, Rig};

/// Opens a file, writes, and lies about the write; what was found, and what the truth after it says.
fn found_with(test: &str, lie: Lie) -> Option<Vec<Difference>> {
    let mut rig = Rig::new(test, "ext4", 128, false)?;
    let open = Op::Open {
        slot: 0,
        path: "file".into(),
        flags: libc::O_RDWR | libc::O_CREAT,
        mode: 0o640,
        umask: 0,
    };
    rig.must(USER, &open);
    let write = Op::Write {
        slot: 0,
        way: Way::Plain,
        len: 100,
        fill: 1,
    };
    let (_, found) = rig.run_with(USER, &write, lie);
    // Nothing but the lie was wrong.
    rig.must(USER, &write);
    rig.must(
        ROOT,
        &Op::Stat {
            who: Who::Path("file".into()),
        },
    );
    Some(found)
}

fn assert_found(test: &str, lie: Lie, field: &str) {
    let Some(found) = found_with(test, lie) else {
        return;
    };
    assert!(
        found.iter().any(|found| found.field == field),
        "{lie:?} was not found: {found:?}"
    );
}

#[test]
fn a_planted_errno_is_found() {
    assert_found("a_planted_errno_is_found", Lie::Errno, "returned");
}

#[test]
fn a_planted_mode_is_found() {
    assert_found("a_planted_mode_is_found", Lie::Mode, "mode");
}

#[test]
fn a_planted_mtime_is_found() {
    assert_found("a_planted_mtime_is_found", Lie::Mtime, "mtime");
}

#[test]
fn without_a_lie_nothing_is_found() {
    if let Some(found) = found_with("without_a_lie_nothing_is_found", Lie::None) {
        assert_eq!(found, []);
    }
}
