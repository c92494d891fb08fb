//! A full disk and failing writes. Method: a small tmpfs, and files made immutable; both need root,
//! without it the tests say so and pass.

use std::path::Path;
use std::process::Command;

use crate::journal_support::{Scratch, append, body, contents, index_content, open, small};
use doppelfs::codec::Draft;
use doppelfs::journal::{Error, Journal, Options};
use doppelfs::sys;
use doppelfs::types::Seq;

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).status();
    status.is_ok_and(|s| s.success())
}

struct Tmpfs(Scratch);

impl Tmpfs {
    fn mount(name: &str, size: &str) -> Option<Tmpfs> {
        let scratch = Scratch::on_disk(name);
        let path = scratch.path().to_str().unwrap().to_owned();
        let option = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", &option, "doppelfs-test", &path];
        if sys::is_root() && run("mount", &arguments) {
            return Some(Tmpfs(scratch));
        }
        eprintln!("SKIPPED: a tmpfs cannot be mounted without root");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &[self.path().to_str().unwrap()]);
    }
}

fn fill(dir: &Path) {
    let file = std::fs::File::create(dir.join("filler")).unwrap();
    let mut chunk = 1u64 << 20;
    let mut at = 0;
    while chunk >= 4096 {
        match sys::fallocate(std::os::fd::AsFd::as_fd(&file), 0, at, chunk) {
            Ok(()) => at += chunk,
            Err(_) => chunk /= 2,
        }
    }
}

#[test]
fn full_disk_takes_nothing_half_and_goes_on_after_giving_up() {
    let Some(disk) = Tmpfs::mount("full", "64m") else {
        return;
    };
    let queue = disk.path().join("queue");
    let options = Options {
        segment_bytes: 4 << 20,
        ..small()
    };
    let journal = std::sync::Arc::new(Journal::open(&queue, options).unwrap().0);
    journal.register("one", Seq(0)).unwrap();
    assert!(queue.join("ballast").exists());
    let payload = vec![7u8; 100_003];
    let attributes = body(1);
    let draft = Draft::new(&attributes, &payload);
    let mut fulls = 0;
    // The first time the ballast is thrown off, so there is room again for a while.
    while fulls < 2 {
        match journal.append(&draft) {
            Ok(_) => {}
            Err(Error::Full { .. }) => fulls += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let end = journal.end();
    assert!(end > Seq(500));
    assert_eq!(
        contents(&journal, Seq(0)).len() as u64,
        end.0,
        "all that was said to be there is"
    );
    journal.advance("one", Seq(2));
    assert_eq!(journal.give_up().unwrap(), ["one"]);
    assert_eq!(journal.append(&draft).unwrap(), end.next());
    drop(journal);
    let (journal, recovery) = open(&queue);
    assert_eq!((recovery.last, recovery.records_lost), (end.next(), false));
    assert_eq!(journal.cursors(), []);
}

#[test]
fn nobody_is_told_of_a_place_when_there_is_no_room() {
    let scratch = Scratch::on_disk("told");
    let payload = vec![7u8; 100_003];
    let attributes = body(1);
    let draft = Draft::new(&attributes, &payload);
    let told = |journal: &Journal| {
        let (mut is_first, mut has_failed) = (false, false);
        let appended = journal.append_after(&draft, || is_first = true, || has_failed = true);
        (appended, is_first, has_failed)
    };
    let share = Options {
        disk_bytes_max: Some(1 << 20),
        ..Options::default()
    };
    let reserve = Options {
        free_bytes_min: u64::MAX / 2,
        ..Options::default()
    };
    for (label, options, room) in [("share", share, 1..=10), ("reserve", reserve, 0..=0)] {
        let journal = Journal::open(&scratch.path().join(label), options);
        let journal = journal.unwrap().0;
        journal.register("one", Seq(0)).unwrap();
        let mut count = 0;
        let (error, is_first, has_failed) = loop {
            match told(&journal) {
                (Ok(seq), is_first, has_failed) => {
                    count += 1;
                    assert_eq!((seq, is_first, has_failed), (Seq(count), true, false));
                }
                (Err(error), is_first, has_failed) => break (error, is_first, has_failed),
            }
        };
        assert!(matches!(error, Error::Full { .. }), "{label}: {error}");
        assert!(room.contains(&count), "{label}: {count} records");
        assert!(!is_first, "{label}: told of a place that there is not");
        assert!(has_failed, "{label}: not told of the failure");
        assert_eq!(journal.end(), Seq(count));
    }
}

#[test]
fn write_cut_short_by_a_full_disk_is_taken_back() {
    let Some(disk) = Tmpfs::mount("short", "16m") else {
        return;
    };
    let queue = disk.path().join("queue");
    // Nothing is looked at before the write: the room is gone after the budget was taken.
    let (journal, _) = open(&queue);
    journal.register("one", Seq(0)).unwrap();
    append(&journal, b"before");
    fill(disk.path());
    let payload = vec![7u8; 9000];
    let error = loop {
        if let Err(error) = journal.append(&Draft::new(&body(1), &payload)) {
            break error;
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    let end = journal.end();
    let group = [
        Draft::new(&body(1), &payload).with_more(),
        Draft::new(&body(1), &payload),
    ];
    assert!(matches!(
        journal.append_group(&group),
        Err(Error::Full { .. })
    ));
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    assert_eq!(append(&journal, b"after"), end.next());
    assert_eq!(contents(&journal, end), [(end.0 + 1, b"after".to_vec())]);
}

#[test]
fn journal_opens_on_a_full_disk_and_its_index_comes_back_later() {
    let Some(disk) = Tmpfs::mount("reopen", "64m") else {
        return;
    };
    let queue = disk.path().join("queue");
    {
        let (journal, _) = open(&queue);
        journal.register("one", Seq(0)).unwrap();
        (0..50).for_each(|_| assert!(append(&journal, &[1; 1000]) > Seq(0)));
        journal.advance("one", Seq(20));
    }
    fill(disk.path());
    {
        let (journal, recovery) = open(&queue);
        assert_eq!((recovery.letters.as_str(), recovery.last), ("B", Seq(50)));
        assert_eq!(journal.cursor("one"), Some(Seq(20)));
        assert!(
            !queue.join("ballast").exists(),
            "its room went to the index"
        );
        journal.advance("one", Seq(30));
        journal.put("history", b"x").unwrap();
    }
    // Without any ballast left, not even sled opens.
    fill(disk.path());
    {
        let (journal, _) = open(&queue);
        assert_eq!(journal.cursor("one"), Some(Seq(30)));
        assert_eq!(journal.end(), Seq(50));
        journal.advance("one", Seq(40));
    }
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    let (journal, recovery) = open(&queue);
    assert!(!recovery.records_lost);
    assert_eq!(journal.cursor("one"), Some(Seq(40)));
    drop(journal);
    assert!(index_content(&queue).iter().any(|(key, _)| key == b"c/one"));
}

#[test]
fn write_that_fails_and_cannot_be_taken_back_seals_the_segment_or_poisons() {
    let scratch = Scratch::on_disk("immutable");
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(0)).unwrap();
    append(&journal, b"before");
    let seg_dir = scratch.queue().join("seg");
    let active = |journal: &Journal| {
        let first = journal.catalogue().last().unwrap().first.0;
        seg_dir.join(format!("{first:020}.seg"))
    };
    let first = active(&journal);
    if !sys::is_root() || !run("chattr", &["+i", first.to_str().unwrap()]) {
        eprintln!("SKIPPED: files cannot be made immutable here");
        return;
    }
    let error = journal.append(&Draft::new(&body(1), b"lost")).unwrap_err();
    run("chattr", &["-i", first.to_str().unwrap()]);
    assert!(
        matches!(
            error,
            Error::Io {
                operation: "write",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(append(&journal, b"after"), Seq(2));
    assert_eq!(journal.catalogue().len(), 2);
    let second = active(&journal);
    let both = [second.to_str().unwrap(), seg_dir.to_str().unwrap()];
    assert!(run("chattr", &["+i", both[0], both[1]]));
    let failed = journal.append(&Draft::new(&body(1), b"lost"));
    let poisoned = journal.append(&Draft::new(&body(1), b"lost"));
    let unsynced = journal.sync();
    run("chattr", &["-i", both[0], both[1]]);
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert!(
        matches!(poisoned, Err(Error::Poisoned { .. })),
        "{poisoned:?}"
    );
    assert!(
        matches!(unsynced, Err(Error::Poisoned { .. })),
        "{unsynced:?}"
    );
    let wanted = [(1, b"before".to_vec()), (2, b"after".to_vec())];
    assert_eq!(contents(&journal, Seq(0)), wanted, "reading goes on");
    drop(journal);
    let (journal, recovery) = open(&scratch.queue());
    assert_eq!(recovery.letters, "B");
    assert_eq!(append(&journal, b"again"), Seq(3));
}
