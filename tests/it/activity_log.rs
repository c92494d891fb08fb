//! Goal: after a loss of power the activity log names every file that was changed since the last time
//! that everything was made durable, or says that it cannot. Method: a log in a directory, read back as a
//! start does, whole and damaged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use doppelfs::activity::{Activity, Past, Survived, read_log};
use doppelfs::types::FileId;

use crate::journal_support::Scratch;

const INSTANCE: u128 = 77;
const HEADER: u64 = 64;
const MARK: u64 = 32;
const DURABLE: Past = Past {
    is_durable: true,
    unlooked_since_ns: None,
};

fn id(number: u64) -> FileId {
    FileId::new(number, number * 3)
}

fn begin(dir: &Path) -> Activity {
    Activity::begin(dir, INSTANCE, DURABLE).expect("begin a log")
}

/// `None`: everything is in doubt, or there is no log.
fn named(dir: &Path) -> Option<Vec<FileId>> {
    match read_log(dir, INSTANCE) {
        Survived::Marks(marks) => Some(marks.ids),
        Survived::Everything(_) | Survived::Nothing => None,
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("list");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

fn overwrite(dir: &Path, offset: u64, bytes: &[u8]) {
    let file = files(dir).pop().expect("a file");
    let file = File::options().write(true).open(file).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}

#[test]
fn what_was_entered_is_named_by_the_time_enter_returns() {
    let scratch = Scratch::new("activity");
    let log = begin(scratch.path());
    assert_eq!(named(scratch.path()), Some(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (log, dir) = (&log, scratch.path());
            scope.spawn(move || {
                for number in 0..25 {
                    let own = id(1000 * thread + number + 10);
                    let _underway = log.enter(&[own, id(1)]);
                    let ids = named(dir).expect("a log that can be believed");
                    assert!(ids.contains(&own) && ids.contains(&id(1)));
                }
            });
        }
    });
    assert_eq!(named(scratch.path()).map(|ids| ids.len()), Some(101));
    assert_eq!(log.marked(), 101);
}

#[test]
fn marks_go_when_all_is_durable_and_not_before() {
    let scratch = Scratch::new("activity");
    let log = begin(scratch.path());
    assert!(
        !log.settle(|| panic!("nothing is to be done"))
            .expect("settle")
    );
    drop(log.enter(&[id(1)]));
    let failed = log.settle(|| Err(std::io::Error::other("no")));
    assert!(failed.is_err());
    drop(log.enter(&[id(2)]));
    assert_eq!(named(scratch.path()), Some(vec![id(1), id(2)]));
    // While it is being made durable the marks are there.
    let seen = Mutex::new(Vec::new());
    let settled = log.settle(|| {
        seen.lock().expect("lock").push(named(scratch.path()));
        Ok(())
    });
    let seen = seen.into_inner().expect("lock");
    assert_eq!(seen, [Some(vec![id(1), id(2)]), Some(vec![id(2)])]);
    assert!(settled.expect("settle"));
    assert_eq!(named(scratch.path()), Some(Vec::new()));
    // In the new epoch it is marked again.
    drop(log.enter(&[id(1)]));
    assert_eq!(named(scratch.path()), Some(vec![id(1)]));
    assert_eq!(files(scratch.path()).len(), 1);
}

#[test]
fn an_epoch_does_not_end_before_what_is_under_way() {
    let scratch = Scratch::new("activity");
    let log = begin(scratch.path());
    let underway = log.enter(&[id(1)]);
    let is_durable = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let settling = scope.spawn(|| {
            log.settle(|| {
                is_durable.store(true, Ordering::SeqCst);
                Ok(())
            })
        });
        // The new epoch has begun once a mark goes into another file.
        while files(scratch.path()).len() < 2 {
            std::thread::yield_now();
        }
        // Who comes meanwhile does not wait for it.
        drop(log.enter(&[id(2)]));
        assert!(!is_durable.load(Ordering::SeqCst));
        assert_eq!(named(scratch.path()), Some(vec![id(1), id(2)]));
        drop(underway);
        assert!(settling.join().expect("join").expect("settle"));
    });
    assert!(is_durable.load(Ordering::SeqCst));
}

#[test]
fn what_is_made_in_a_marked_directory_needs_no_mark_in_that_epoch() {
    let scratch = Scratch::new("activity");
    let log = begin(scratch.path());
    let underway = log.enter(&[id(1)]);
    log.note_new(id(9), &underway);
    drop(underway);
    drop(log.enter(&[id(9)]));
    assert_eq!(named(scratch.path()), Some(vec![id(1)]));
    assert!(log.settle(|| Ok(())).expect("settle"));
    drop(log.enter(&[id(9)]));
    assert_eq!(named(scratch.path()), Some(vec![id(9)]));
}

#[test]
fn the_next_worker_adds_to_what_the_last_one_marked() {
    let scratch = Scratch::new("activity");
    drop(begin(scratch.path()).enter(&[id(1)]));
    let log = begin(scratch.path());
    drop(log.enter(&[id(2)]));
    assert_eq!(named(scratch.path()), Some(vec![id(1), id(2)]));
    assert!(log.settle(|| Ok(())).expect("settle"));
    assert_eq!(named(scratch.path()), Some(Vec::new()));
}

#[test]
fn too_many_marks_or_an_unknown_past_put_everything_in_doubt() {
    let scratch = Scratch::new("activity");
    let log = begin(scratch.path());
    let many: Vec<FileId> = (1..=65_000).map(id).collect();
    drop(log.enter(&many));
    assert_eq!(named(scratch.path()).map(|ids| ids.len()), Some(65_000));
    let more: Vec<FileId> = (70_000..71_000).map(id).collect();
    drop(log.enter(&more));
    assert_eq!(named(scratch.path()), None);
    assert!(log.settle(|| Ok(())).expect("settle"));
    assert_eq!(named(scratch.path()), Some(Vec::new()));
    drop(log);
    let unknown = Past {
        is_durable: false,
        ..DURABLE
    };
    let log = Activity::begin(scratch.path(), INSTANCE, unknown).expect("begin");
    assert_eq!(named(scratch.path()), None);
    assert!(log.settle(|| Ok(())).expect("settle"));
    assert_eq!(named(scratch.path()), Some(Vec::new()));
}

#[test]
fn a_torn_mark_was_never_acknowledged_and_a_hole_is_damage() {
    let scratch = Scratch::new("activity");
    let log = begin(scratch.path());
    drop(log.enter(&[id(1)]));
    drop(log.enter(&[id(2)]));
    drop(log.enter(&[id(3)]));
    overwrite(scratch.path(), HEADER + 2 * MARK + 5, b"x");
    assert_eq!(named(scratch.path()), Some(vec![id(1), id(2)]));
    overwrite(scratch.path(), HEADER + MARK + 5, b"x");
    assert_eq!(named(scratch.path()), Some(vec![id(1)]));
    drop(log.enter(&[id(4)]));
    let found = read_log(scratch.path(), INSTANCE);
    assert!(
        matches!(found, Survived::Everything(_)),
        "a mark behind a hole"
    );
}

#[test]
fn a_log_that_is_missing_damaged_copied_or_of_another_set_is_not_believed() {
    let scratch = Scratch::new("activity");
    assert_eq!(named(&scratch.path().join("none")), None);
    assert_eq!(
        read_log(scratch.path(), INSTANCE),
        Survived::Nothing,
        "no file"
    );
    let log = begin(scratch.path());
    drop(log.enter(&[id(1)]));
    assert_eq!(named(scratch.path()), Some(vec![id(1)]));
    assert_eq!(read_log(scratch.path(), INSTANCE + 1), Survived::Nothing);
    let copy = Scratch::new("activity-copy");
    let file = files(scratch.path()).pop().expect("a file");
    let name = file.file_name().expect("a name");
    std::fs::copy(&file, copy.path().join(name)).expect("copy");
    assert_eq!(
        read_log(copy.path(), INSTANCE),
        Survived::Nothing,
        "restored"
    );
    for byte in [0, 8, 17, 40, 61] {
        let bytes = std::fs::read(&file).expect("read");
        overwrite(scratch.path(), byte, &[bytes[byte as usize] ^ 1]);
        assert_eq!(named(scratch.path()), None, "byte {byte} of the header");
        overwrite(scratch.path(), byte, &[bytes[byte as usize]]);
    }
    assert_eq!(named(scratch.path()), Some(vec![id(1)]));
}

#[test]
fn changes_that_are_still_looked_for_are_not_forgotten() {
    let scratch = Scratch::new("activity");
    let past = Past {
        unlooked_since_ns: Some(12_345),
        ..DURABLE
    };
    let log = Activity::begin(scratch.path(), INSTANCE, past).expect("begin");
    let since = || match read_log(scratch.path(), INSTANCE) {
        Survived::Marks(marks) => Some(marks.since_ns),
        other => panic!("{other:?}"),
    };
    assert_eq!(since(), Some(12_345));
    drop(log);
    let log = begin(scratch.path());
    assert_eq!(since(), Some(12_345), "the next worker goes on looking");
    assert!(log.settle(|| Ok(())).expect("settle"));
    assert!(since() > Some(12_345));
    drop(log);
    let log = Activity::begin(scratch.path(), INSTANCE, past).expect("begin");
    assert_eq!(since(), Some(12_345));
    assert!(log.settle(|| Ok(())).expect("settle"));
    assert!(since() > Some(12_345), "also without a mark");
}
