//! What survives a worker: tables opened again, requests left over.

use doppelfs::live::{Answer, Intent, Live, Offer, OpenCheck};
use doppelfs::types::{Dentry, FileId, Generation, Ino, Name, ROOT_ID, Seq};

use super::scratch::Scratch;

fn id(ino: u64) -> FileId {
    FileId {
        root: ROOT_ID,
        ino: Ino(ino),
        generation: Generation(7),
    }
}

fn unlink(name: &[u8]) -> Intent {
    Intent::Unlink {
        id: id(12),
        at: Dentry {
            parent: id(2),
            name: Name::new(name).unwrap(),
        },
        is_dir: false,
    }
}

/// The mark of a request that is sent again.
const RESENT: u64 = 1 << 63;

/// Serves in a thread of its own, as each worker does.
fn in_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn what_is_noted_is_there_for_the_next() {
    let scratch = Scratch::new("live-noted");
    let dir = scratch.path().join("live");
    assert!(Live::open(&dir).is_err(), "nothing is there yet");
    let live = Live::begin(&dir, 42).unwrap();
    assert!(!live.is_taken_over() && live.is_whole());
    let offer = Offer {
        flags: 1 << 36 | 5,
        minor: 45,
        max_readahead: 1 << 17,
    };
    let check = OpenCheck {
        after_ns: 5,
        until_ns: 9,
    };
    live.note_offer(offer);
    live.note_check(Some(check));
    live.note_handle(17);
    drop(live);
    let next = Live::open(&dir).unwrap();
    assert!(next.is_taken_over());
    assert_eq!(next.incarnation(), 42);
    assert_eq!(next.offer(), Some(offer));
    assert_eq!(next.open_check(), Some(check));
    assert_eq!(next.next_handle(), 18);
    next.note_check(None);
    assert_eq!(next.open_check(), None);
    next.end();
    assert!(!dir.exists());
}

#[test]
fn what_is_garbled_or_of_another_boot_is_not_taken_over() {
    let scratch = Scratch::new("live-garbled");
    let dir = scratch.path().join("live");
    for (word, value) in [(0, 1u64), (1, 3), (8, 1)] {
        drop(Live::begin(&dir, 1).unwrap());
        let words = doppelfs::sys::SharedWords::open(&dir.join("mount"), 16).unwrap();
        words.store(word, value);
        drop(words);
        assert!(Live::open(&dir).is_err(), "word {word}");
    }
}

#[test]
fn records_are_found_again_after_growth_removal_and_a_rebuild() {
    let scratch = Scratch::new("live-slab");
    let live = Live::begin(&scratch.path().join("live"), 1).unwrap();
    let (mut slab, found) = live.slab("things", 3);
    assert_eq!(found, []);
    let slots: Vec<u32> = (1..=5000u64)
        .map(|n| slab.insert(&[n, n * 2, n * 3]).unwrap())
        .collect();
    for (n, slot) in (1..=5000u64).zip(&slots) {
        match n % 3 {
            0 => slab.remove(*slot),
            1 => slab.set(*slot, 2, 0),
            _ => {}
        }
    }
    let wanted: Vec<Vec<u64>> = (1..=5000u64)
        .filter(|n| n % 3 != 0)
        .map(|n| vec![n, n * 2, if n % 3 == 1 { 0 } else { n * 3 }])
        .collect();
    let sorted = |live: &Live| {
        let (_, found) = live.slab("things", 3);
        let mut words: Vec<Vec<u64>> = found.into_iter().map(|found| found.words).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(sorted(&live), wanted);
    assert!(slab.is_sparse(3) && !slab.is_sparse(5000));
    slab.rebuild(wanted[..5].iter().cloned()).unwrap();
    assert_eq!(sorted(&live), wanted[..5]);
    // Slots that were freed are used again, and the rebuilt table goes on.
    let slot = slab.insert(&[9000, 1, 1]).unwrap();
    assert_eq!(slot, 5);
    assert_eq!(sorted(&live).len(), 6);
}

#[test]
fn a_request_under_way_is_left_over_with_all_that_was_noted() {
    let scratch = Scratch::new("live-left");
    let dir = scratch.path().join("live");
    let live = Live::begin(&dir, 1).unwrap();
    in_thread(|| {
        let flight = live.flight();
        assert_eq!(flight.begin(10), None);
        flight.end();
        assert_eq!(flight.begin(12), None);
        assert!(flight.intend(&unlink(b"x"), Seq(99)));
        flight.note_node(5);
        flight.note_node(6);
        flight.note_file(3);
    });
    drop(live);
    let next = Live::open(&dir).unwrap();
    let left = next.flight().take_left(true);
    assert_eq!(left.len(), 1);
    let one = &left[0];
    assert_eq!((one.unique, one.deaths, one.end), (12, 1, Seq(99)));
    assert_eq!(one.intent, Some(unlink(b"x")));
    assert_eq!(
        (one.nodes.as_slice(), one.file, one.dir),
        (&[5, 6][..], 3, 0)
    );
    // Sent again, it is served; what was counted for it is handed out once.
    in_thread(|| {
        let flight = next.flight();
        assert_eq!(flight.begin(14), None);
        flight.end();
        let again = flight.begin(12 | RESENT).unwrap();
        assert_eq!(again.nodes, [5, 6]);
    });
    drop(next);
    let third = Live::open(&dir).unwrap();
    let left = third.flight().take_left(true);
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].deaths, left[0].nodes.len()), (2, 0));
    assert_eq!(left[0].intent, Some(unlink(b"x")), "it noted no other");
    in_thread(|| {
        assert!(third.flight().begin(12 | RESENT).is_some());
        third.flight().end();
        assert_eq!(third.flight().begin(12 | RESENT), None, "it is answered");
        third.flight().end();
    });
    drop(third);
    assert_eq!(Live::open(&dir).unwrap().flight().take_left(true), []);
}

#[test]
fn a_decision_stands_until_the_request_changes_something_anew() {
    let scratch = Scratch::new("live-decided");
    let dir = scratch.path().join("live");
    let reopen = || Live::open(&dir).unwrap();
    let live = Live::begin(&dir, 1).unwrap();
    in_thread(|| {
        live.flight().begin(2);
        live.flight().intend(&unlink(b"x"), Seq(1));
    });
    let second = reopen();
    assert_eq!(second.flight().take_left(true)[0].answer, None);
    second.flight().note_answer(2, Answer::Entry(id(9)));
    // Killed while it answers: the decision is the same.
    in_thread(|| {
        let left = second.flight().begin(2 | RESENT).unwrap();
        assert_eq!(left.answer, Some(Answer::Entry(id(9))));
    });
    let third = reopen();
    let left = third.flight().take_left(true);
    assert_eq!(left[0].answer, Some(Answer::Entry(id(9))));
    // Another one is decided as not done, and served: what it notes then counts.
    in_thread(|| {
        third.flight().begin(4);
        third.flight().intend(&unlink(b"y"), Seq(1));
    });
    let fourth = reopen();
    fourth.flight().take_left(true);
    fourth.flight().note_settled(4);
    in_thread(|| {
        fourth.flight().begin(4 | RESENT);
        fourth.flight().intend(&unlink(b"z"), Seq(5));
    });
    let fifth = reopen();
    let left = fifth.flight().take_left(true);
    let four = left.iter().find(|left| left.unique == 4).unwrap();
    assert_eq!((&four.intent, four.answer), (&Some(unlink(b"z")), None));
    assert_eq!((four.end, four.deaths), (Seq(5), 2));
}

#[test]
fn more_requests_than_there_is_room_for_lose_the_oldest() {
    let scratch = Scratch::new("live-many");
    let dir = scratch.path().join("live");
    drop(Live::begin(&dir, 1).unwrap());
    for number in 1..=100u64 {
        let live = Live::open(&dir).unwrap();
        live.flight().take_left(true);
        in_thread(|| live.flight().begin(number * 2));
    }
    let left = Live::open(&dir).unwrap().flight().take_left(true);
    let mut numbers: Vec<u64> = left.iter().map(|left| left.unique / 2).collect();
    numbers.sort_unstable();
    assert!(numbers.len() >= 40, "{numbers:?}");
    assert_eq!(numbers, Vec::from_iter(101 - numbers.len() as u64..=100));
}

#[test]
fn without_a_directory_nothing_is_kept_and_everything_works() {
    let live = Live::none();
    let (mut slab, found) = live.slab("things", 2);
    assert!(found.is_empty() && !live.is_kept());
    assert_eq!(slab.insert(&[1, 2]).unwrap(), 0);
    slab.remove(0);
    in_thread(|| {
        assert_eq!(live.flight().begin(2 | RESENT), None);
        assert!(live.flight().intend(&unlink(b"x"), Seq(1)));
        live.flight().end();
    });
    assert_eq!(live.flight().take_left(true), []);
}

#[test]
fn tables_that_are_made_anew_do_not_disturb_each_other() {
    let scratch = Scratch::new("live-apart");
    let live = Live::begin(&scratch.path().join("live"), 1).unwrap();
    let (mut one, _) = live.slab("nodes.1", 2);
    let (mut two, _) = live.slab("nodes.2", 2);
    one.insert(&[1, 1]).unwrap();
    two.insert(&[2, 2]).unwrap();
    // The one is in the middle of it when the other begins and ends.
    let records = std::iter::once_with(|| {
        two.rebuild([vec![2u64, 2]].into_iter()).unwrap();
        vec![1u64, 1]
    });
    one.rebuild(records).unwrap();
    for (name, word) in [("nodes.1", 1u64), ("nodes.2", 2)] {
        let (_, found) = live.slab(name, 2);
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0].words, [word, word], "{name}");
    }
}

#[test]
fn kills_from_outside_do_not_count_against_a_request() {
    let scratch = Scratch::new("live-kills");
    let dir = scratch.path().join("live");
    let live = Live::begin(&dir, 1).unwrap();
    in_thread(|| live.flight().begin(2));
    for (crashed, deaths) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        let next = Live::open(&dir).unwrap();
        let left = next.flight().take_left(crashed);
        assert_eq!(left[0].deaths, deaths);
        in_thread(|| next.flight().begin(2 | RESENT));
    }
}
