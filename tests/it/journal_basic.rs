//! The journal in normal running: order, groups, cursors, trimming, limits, waiting.
//! Method: small segments, plain sequences.

use std::sync::Arc;
use std::time::Duration;

use crate::journal_support::{
    Scratch, append, body, contents, filled, flip, frame, frame_offsets, open, read_all,
    segment_files, small,
};
use doppelfs::codec::Draft;
use doppelfs::journal::{Error, Journal, Options};
use doppelfs::types::Seq;

#[test]
fn records_come_back_in_order_across_segments_and_restart() {
    let scratch = Scratch::new("order");
    let mut wanted = Vec::new();
    for round in 0..3u64 {
        let (journal, recovery) = open(&scratch.queue());
        assert_eq!(recovery.letters, if round == 0 { "A" } else { "B" });
        if round == 0 {
            journal.register("one", Seq(0)).unwrap();
        }
        for i in 0..50u64 {
            let payload = vec![(round * 50 + i) as u8; 1000 + i as usize];
            let seq = append(&journal, &payload);
            assert_eq!(seq, Seq(round * 50 + i + 1));
            wanted.push((seq.0, payload));
        }
        assert!(journal.catalogue().len() > 1);
        assert_eq!(contents(&journal, Seq(0)), wanted);
        assert_eq!(contents(&journal, Seq(37)), wanted[37..]);
    }
}

#[test]
fn appends_of_many_threads_are_each_read_once_and_in_order() {
    let scratch = Scratch::new("threads");
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(0)).unwrap();
    const EACH: u64 = 300;
    let reader = {
        let journal = Arc::clone(&journal);
        std::thread::spawn(move || {
            let mut reader = journal.reader(Seq(0)).unwrap();
            let mut seen = [0u64; 4];
            while reader.seq() < Seq(4 * EACH) {
                let Some(frame) = reader.next().unwrap() else {
                    journal.wait_beyond(reader.seq(), Duration::from_secs(60));
                    continue;
                };
                assert_eq!(frame.header().prev_seq.next(), frame.header().seq);
                let writer = usize::from(frame.payload()[0]);
                let number = frame.payload()[1..9].try_into().unwrap();
                assert_eq!(
                    u64::from_le_bytes(number),
                    seen[writer],
                    "order of one thread"
                );
                seen[writer] += 1;
                journal.advance("one", frame.header().seq);
            }
            seen
        })
    };
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut payload = vec![writer];
                    payload.extend_from_slice(&number.to_le_bytes());
                    payload.resize(100 + (number as usize * 37) % 3000, writer);
                    append(journal, &payload);
                }
            });
        }
    });
    assert_eq!(reader.join().unwrap(), [EACH; 4]);
    assert_eq!(journal.cursor("one"), Some(Seq(4 * EACH)));
    assert_eq!(
        journal.catalogue().len(),
        1,
        "all sealed segments are trimmed"
    );
}

#[test]
fn group_becomes_visible_with_its_last_frame_and_stays_in_one_segment() {
    let scratch = Scratch::new("group");
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(0)).unwrap();
    append(&journal, &[1; 30_000]);
    for part in 0..3u64 {
        let sent = frame(1 + part, 2 + part, part < 2, &[2; 20_000]);
        journal.append_frame(&sent).unwrap();
        assert_eq!(journal.end(), Seq(if part < 2 { 1 } else { 4 }));
        assert_eq!(journal.sync().unwrap(), journal.end());
    }
    assert_eq!(journal.catalogue().len(), 2);
    assert_eq!(contents(&journal, Seq(1)).len(), 3);
}

#[test]
fn frame_after_the_published_end_discards_an_unfinished_group() {
    let scratch = Scratch::new("unfinished");
    let (journal, _) = open(&scratch.queue());
    journal.append_frame(&frame(0, 1, false, b"a")).unwrap();
    journal.append_frame(&frame(1, 2, true, b"b")).unwrap();
    journal.append_frame(&frame(1, 5, false, b"c")).unwrap();
    assert_eq!(
        contents(&journal, Seq(0)),
        [(1, b"a".to_vec()), (5, b"c".to_vec())]
    );
}

#[test]
fn frame_that_does_not_follow_is_refused() {
    let scratch = Scratch::new("notnext");
    let (journal, _) = open(&scratch.queue());
    journal.reset(Seq(10)).unwrap();
    let error = journal
        .append_frame(&frame(9, 11, false, b"x"))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotNext {
                last: Seq(10),
                prev_seq: Seq(9),
                ..
            }
        ),
        "{error}"
    );
    journal.append_frame(&frame(10, 14, false, b"x")).unwrap();
    assert_eq!((journal.first(), journal.end()), (Seq(11), Seq(14)));
}

#[test]
fn largest_record_and_an_empty_one_are_read_back() {
    let scratch = Scratch::new("sizes");
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(0)).unwrap();
    let large: Vec<u8> = (0..1usize << 20).map(|i| (i * 7) as u8).collect();
    append(&journal, &large);
    append(&journal, b"");
    append(&journal, &large);
    let wanted = [(1, large.clone()), (2, Vec::new()), (3, large)];
    assert_eq!(contents(&journal, Seq(0)), wanted);
}

#[test]
fn slowest_cursor_keeps_records_and_forgetting_it_lets_them_go() {
    let scratch = Scratch::new("cursors");
    filled(&scratch, 100);
    let (journal, _) = open(&scratch.queue());
    journal.register("two", Seq(0)).unwrap();
    journal.advance("one", Seq(100));
    journal.advance("nobody", Seq(100));
    assert_eq!(journal.first(), Seq(1));
    let before = journal.usage();
    journal.unregister("two");
    assert!(journal.trim().unwrap() > 50_000);
    assert!(journal.first() > Seq(50));
    assert!(journal.usage().disk_bytes < before.disk_bytes);
    let error = journal.reader(Seq(3)).unwrap_err();
    assert!(
        matches!(error, Error::Trimmed { first } if first == journal.first()),
        "{error}"
    );
    let error = journal.reader(Seq(101)).unwrap_err();
    assert!(
        matches!(error, Error::Beyond { end: Seq(100), .. }),
        "{error}"
    );
}

#[test]
fn without_cursors_segments_go_as_they_are_sealed() {
    let scratch = Scratch::new("nocursor");
    let (journal, _) = open(&scratch.queue());
    (0..200).for_each(|_| assert!(append(&journal, &[1; 1000]) > Seq(0)));
    assert_eq!(journal.catalogue().len(), 1);
    assert!(journal.first() > Seq(150));
}

#[test]
fn large_consumed_segment_gives_its_room_back_when_idle() {
    let scratch = Scratch::new("idle");
    let options = Options {
        free_bytes_min: 0,
        ..Options::default()
    };
    let (journal, _) = Journal::open(&scratch.queue(), options).unwrap();
    journal.register("one", Seq(0)).unwrap();
    (0..9).for_each(|_| assert!(append(&journal, &vec![1; 1 << 20]) > Seq(0)));
    assert!(journal.usage().disk_bytes > 9 << 20);
    journal.advance("one", Seq(9));
    assert!(journal.usage().disk_bytes < 1 << 20);
    assert_eq!((journal.first(), journal.end()), (Seq(10), Seq(9)));
    assert_eq!(append(&journal, b"x"), Seq(10));
}

#[test]
fn a_segment_that_is_ended_early_is_freed_as_soon_as_it_is_passed() {
    let scratch = Scratch::new("ended-early");
    let (journal, _) = Journal::open(&scratch.queue(), Options::default()).unwrap();
    let journal = Arc::new(journal);
    journal.register("one", Seq(0)).unwrap();
    let first = append(&journal, &[1; 30_000]);
    journal.seal_beyond(40_000);
    assert_eq!(journal.catalogue().len(), 1, "not so large yet");
    append(&journal, &[2; 30_000]);
    journal.advance("one", first);
    journal.seal_beyond(40_000);
    journal.seal_beyond(40_000);
    assert_eq!(
        journal.catalogue().len(),
        2,
        "one with records, one without"
    );
    let last = append(&journal, &[3; 100]);
    assert_eq!(
        contents(&journal, first).len(),
        2,
        "what is behind the cursor is there"
    );
    journal.advance("one", Seq(2));
    assert_eq!(journal.catalogue().len(), 1);
    assert!(journal.usage().disk_bytes < 10_000);
    assert_eq!(contents(&journal, Seq(2)), [(last.0, vec![3; 100])]);
}

#[test]
fn reader_finishes_a_trimmed_segment_but_not_a_given_up_one() {
    let scratch = Scratch::new("gone");
    filled(&scratch, 100);
    let (journal, _) = open(&scratch.queue());
    let mut patient = journal.reader(Seq(0)).unwrap();
    assert_eq!(patient.next().unwrap().unwrap().header().seq, Seq(1));
    let second = journal.catalogue()[1].first;
    journal.advance("one", Seq(second.0));
    assert_eq!(journal.first(), second);
    while patient.seq().next() < second {
        patient.next().unwrap().unwrap();
    }
    assert_eq!(patient.next().unwrap().unwrap().header().seq, second);
    journal.register("two", Seq(99)).unwrap();
    assert_eq!(journal.give_up().unwrap(), ["one"]);
    let error = patient.next().unwrap_err();
    assert!(matches!(error, Error::Trimmed { .. }), "{error}");
    assert_eq!(journal.cursors(), [("two".to_owned(), Seq(99))]);
    assert_eq!(contents(&journal, Seq(99)).len(), 1);
}

#[test]
fn reset_drops_everything_and_readers_notice() {
    let scratch = Scratch::new("reset");
    filled(&scratch, 40);
    let (journal, _) = open(&scratch.queue());
    let bytes = journal.end_bytes();
    let mut reader = journal.reader(Seq(5)).unwrap();
    journal.reset(Seq(5)).unwrap();
    assert!(matches!(reader.next(), Err(Error::Trimmed { .. })));
    assert_eq!((journal.first(), journal.end()), (Seq(6), Seq(5)));
    assert_eq!(
        (journal.cursors(), journal.end_bytes()),
        (Vec::new(), bytes)
    );
    assert_eq!(append(&journal, b"x"), Seq(6));
    drop((journal, reader));
    let (journal, _) = open(&scratch.queue());
    assert_eq!(contents(&journal, Seq(5)), [(6, b"x".to_vec())]);
    assert_eq!(journal.cursors(), []);
}

#[test]
fn share_of_the_disk_is_kept_and_giving_up_makes_room() {
    let scratch = Scratch::new("share");
    let options = Options {
        disk_bytes_max: Some(8 << 20),
        ..small()
    };
    let (journal, _) = Journal::open(&scratch.queue(), options).unwrap();
    journal.register("one", Seq(0)).unwrap();
    let payload = vec![1u8; 10_000];
    let attributes = body(1);
    let draft = Draft::new(&attributes, &payload);
    let error = loop {
        if let Err(error) = journal.append(&draft) {
            break error;
        }
        assert!(journal.usage().disk_bytes <= 8 << 20);
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    let end = journal.end();
    assert!(matches!(journal.append(&draft), Err(Error::Full { .. })));
    assert_eq!(journal.end(), end);
    assert_eq!(journal.give_up().unwrap(), ["one"]);
    assert_eq!(journal.append(&draft).unwrap(), end.next());
}

#[test]
fn free_space_for_others_is_kept() {
    let scratch = Scratch::new("free");
    let options = Options {
        free_bytes_min: 1 << 50,
        ..small()
    };
    let (journal, _) = Journal::open(&scratch.queue(), options).unwrap();
    let error = journal.append(&Draft::new(&body(1), b"x")).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(journal.end(), Seq(0));
}

#[test]
fn waiting_ends_with_a_record_with_a_wake_and_with_patience() {
    let scratch = Scratch::new("wait");
    let (journal, _) = open(&scratch.queue());
    assert_eq!(
        journal.wait_beyond(Seq(0), Duration::from_millis(1)),
        Seq(0)
    );
    let waiter = |seq: u64| {
        let journal = Arc::clone(&journal);
        std::thread::spawn(move || journal.wait_beyond(Seq(seq), Duration::from_secs(600)))
    };
    let first = waiter(0);
    append(&journal, b"x");
    assert_eq!(first.join().unwrap(), Seq(1));
    let second = waiter(1);
    while !second.is_finished() {
        journal.wake();
        std::thread::yield_now();
    }
    assert_eq!(second.join().unwrap(), Seq(1));
}

#[test]
fn damage_is_reported_again_and_again_and_never_skipped() {
    let scratch = Scratch::new("damage");
    let wanted = filled(&scratch, 100);
    let (journal, _) = open(&scratch.queue());
    let path = segment_files(&scratch.queue()).remove(1);
    let first: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let offsets = frame_offsets(&std::fs::read(&path).unwrap());
    flip(&path, offsets[2] + 150);
    let mut reader = journal.reader(Seq(0)).unwrap();
    for _ in 0..3 {
        let (frames, error) = read_all(&mut reader);
        assert!(frames.is_empty() || frames.len() == first - 1 + 2);
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    }
    let behind = first as u64 + 40;
    assert_eq!(contents(&journal, Seq(behind)), wanted[behind as usize..]);
}

#[test]
fn facts_survive_a_restart_and_the_loss_of_either_copy() {
    let scratch = Scratch::new("facts");
    let (journal, _) = open(&scratch.queue());
    journal.put("history", b"one").unwrap();
    journal.put("history", b"two").unwrap();
    journal.put("odd/../key", &[9; 5000]).unwrap();
    assert_eq!(journal.get("nothing").unwrap(), None);
    drop(journal);
    std::fs::remove_dir_all(scratch.queue().join("index")).unwrap();
    let (journal, _) = open(&scratch.queue());
    assert_eq!(
        journal.get("history").unwrap().as_deref(),
        Some(&b"two"[..])
    );
    assert_eq!(journal.get("odd/../key").unwrap(), Some(vec![9; 5000]));
    drop(journal);
    flip(&scratch.queue().join("facts/history"), 9);
    flip(&scratch.queue().join("facts/odd%2F%2E%2E%2Fkey"), 9);
    let (journal, _) = open(&scratch.queue());
    assert_eq!(
        journal.get("history").unwrap().as_deref(),
        Some(&b"two"[..])
    );
    let error = journal.get("odd/../key").unwrap_err();
    assert!(matches!(error, Error::FactDamaged { .. }), "{error}");
}

#[test]
fn facts_and_cursors_beyond_their_limits_are_refused() {
    let scratch = Scratch::new("limits");
    let (journal, _) = open(&scratch.queue());
    assert!(matches!(journal.put("", b""), Err(Error::Fact { .. })));
    assert!(matches!(
        journal.put("k", &vec![0; 70_000]),
        Err(Error::Fact { .. })
    ));
    assert!(matches!(
        journal.register(&"n".repeat(81), Seq(0)),
        Err(Error::Cursor { .. })
    ));
    for i in 0..63 {
        journal.register(&format!("c{i}"), Seq(0)).unwrap();
    }
    assert!(matches!(
        journal.register("c63", Seq(0)),
        Err(Error::Cursor { .. })
    ));
    journal.unregister("c7");
    journal.register("c63", Seq(0)).unwrap();
    drop(journal);
    assert_eq!(open(&scratch.queue()).0.cursors().len(), 63);
}

#[test]
fn directory_that_cannot_be_made_is_an_error_with_its_path() {
    let scratch = Scratch::new("io");
    std::fs::write(scratch.path().join("file"), b"").unwrap();
    let error = Journal::open(&scratch.path().join("file/queue"), small()).unwrap_err();
    assert!(
        matches!(error, Error::Io { .. } | Error::Foreign { .. }),
        "{error}"
    );
}
