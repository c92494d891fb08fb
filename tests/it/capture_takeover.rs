//! Goal: what a dead worker left half done happens exactly once, though nobody asks for it again.
//! Method: requests are left in the table of requests under way at each moment of their lives; the
//! next worker decides about them, and the journal is read back.

use std::fs::{self, File};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use doppelfs::capture::{Call, Capture, NewNode, Observer, Options, SetId, TakenOver};
use doppelfs::codec::Frame;
use doppelfs::journal::{self, Journal};
use doppelfs::live::{Answer, Intent, Live};
use doppelfs::passthrough::{Keeper, Tree};
use doppelfs::stats::SetCounters;
use doppelfs::sys;
use doppelfs::types::{Caller, Dentry, FileId, Kind, Name, Node, Op, Seq};

use crate::scratch::Scratch;

/// The kernel's number of the request that is left, and its mark when it is sent again.
const UNIQUE: u64 = 8;
const RESENT: u64 = 1 << 63;

struct Nobody;

impl Observer for Nobody {
    fn gap_recorded(&self) {}
    fn backlog_given_up(&self, _cursors: Vec<String>, _why: String) {}
    fn record_lost(&self, _why: String) {}
}

/// Serves in a thread of its own, as each worker does.
fn in_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// What outlives a worker: the directory, the queue, the table of requests.
struct Bed {
    scratch: Scratch,
    journal: Arc<Journal>,
}

impl Bed {
    fn new(label: &str) -> Bed {
        let scratch = Scratch::new(label);
        fs::create_dir(scratch.path().join("data")).unwrap();
        let queue = scratch.path().join("queue");
        let (journal, _) = Journal::open(&queue, journal::Options::default()).unwrap();
        drop(Live::begin(&scratch.path().join("live"), 42).unwrap());
        Bed {
            scratch,
            journal: Arc::new(journal),
        }
    }

    fn path(&self, text: &str) -> PathBuf {
        self.scratch.path().join("data").join(text)
    }

    fn worker_with(&self, prepare: impl FnOnce(&mut Tree)) -> Capture {
        let below = sys::clone_tree(&self.path(""), sys::Unstamped::AsBelow).unwrap();
        let mut tree = Tree::new(below, 64).unwrap();
        prepare(&mut tree);
        let options = Options {
            atime: false,
            writes_back: false,
            gap_file: self.scratch.path().join("gap"),
            counters: Arc::new(SetCounters::default()),
            live: Live::open(&self.scratch.path().join("live")).unwrap(),
            activity: None,
            records: true,
        };
        let (capture, _) =
            Capture::new(tree, self.journal.clone(), options, Arc::new(Nobody)).unwrap();
        capture
    }

    fn worker(&self) -> Capture {
        self.worker_with(|_| ())
    }

    fn frames(&self) -> Vec<Frame> {
        let mut reader = self.journal.reader(Seq::ZERO).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        self.frames().iter().map(|f| f.header().kind).collect()
    }

    /// A worker says what it is about to change, gets as far as `act`, and dies.
    fn dies(&self, capture: Capture, unique: u64, intent: &Intent, act: impl FnOnce() + Send) {
        let end = self.journal.end();
        in_thread(|| {
            let flight = capture.live().flight();
            flight.begin(unique);
            assert!(flight.intend(intent, end));
            act();
        });
    }
}

fn root(capture: &Capture) -> FileId {
    capture.tree().root_id()
}

fn at(capture: &Capture, text: &str) -> Dentry {
    Dentry {
        parent: root(capture),
        name: name(text),
    }
}

fn id(capture: &Capture, text: &str) -> FileId {
    capture.tree().entry_id(root(capture), &name(text)).unwrap()
}

fn request() -> Call {
    Call {
        caller: Caller::default(),
        unique: UNIQUE,
        set_id: SetId::Keep,
    }
}

/// A request: what it says beforehand, what it does below, and how capture does it.
struct Case {
    what: &'static str,
    kind: Kind,
    intent: fn(&Capture) -> Intent,
    act: fn(&Path),
    whole: fn(&Capture, &Call),
}

fn made(capture: &Capture, text: &str) -> Intent {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    Intent::Make {
        at: at(capture, text),
        began_ns: u64::try_from(since.as_nanos()).unwrap(),
    }
}

fn renamed(capture: &Capture, from: &str, to: &str, flags: u32) -> Intent {
    let entry = |text: &str| {
        let found = capture.tree().entry_id(root(capture), &name(text));
        found.ok()
    };
    Intent::Rename {
        id: id(capture, from),
        from: at(capture, from),
        to: at(capture, to),
        replaced: entry(to),
        flags,
    }
}

fn make(capture: &Capture, call: &Call, text: &str, node: Node) {
    let new = NewNode {
        node,
        mode: 0o755,
        umask: 0o022,
    };
    capture
        .make(call, root(capture), &name(text), &new)
        .unwrap();
}

fn rename(capture: &Capture, call: &Call, from: &str, to: &str, flags: u32) {
    let dir = root(capture);
    capture
        .rename(call, (dir, &name(from)), (dir, &name(to)), flags)
        .unwrap();
}

fn exchange(dir: &Path) {
    let dir = File::open(dir).unwrap();
    sys::renameat2(
        std::os::fd::AsFd::as_fd(&dir),
        c"one",
        std::os::fd::AsFd::as_fd(&dir),
        c"two",
        libc::RENAME_EXCHANGE,
    )
    .unwrap();
}

/// There are the files `one` and `two`, `two` also as `again`, and the directory `dir`.
const CASES: [Case; 9] = [
    Case {
        what: "mkdir",
        kind: Kind::Create,
        intent: |c| made(c, "new"),
        act: |d| fs::create_dir(d.join("new")).unwrap(),
        whole: |c, call| make(c, call, "new", Node::Dir),
    },
    Case {
        what: "symlink",
        kind: Kind::Create,
        intent: |c| made(c, "new"),
        act: |d| symlink("there", d.join("new")).unwrap(),
        whole: |c, call| make(c, call, "new", Node::Symlink(b"there".to_vec())),
    },
    Case {
        what: "link",
        kind: Kind::Link,
        intent: |c| Intent::Link {
            id: id(c, "one"),
            at: at(c, "new"),
        },
        act: |d| fs::hard_link(d.join("one"), d.join("new")).unwrap(),
        whole: |c, call| {
            c.link(call, id(c, "one"), root(c), &name("new")).unwrap();
        },
    },
    Case {
        what: "unlink of the last name",
        kind: Kind::Unlink,
        intent: |c| Intent::Unlink {
            id: id(c, "one"),
            at: at(c, "one"),
            is_dir: false,
        },
        act: |d| fs::remove_file(d.join("one")).unwrap(),
        whole: |c, call| c.unlink(call, root(c), &name("one")).unwrap(),
    },
    Case {
        what: "unlink of one name of two",
        kind: Kind::Unlink,
        intent: |c| Intent::Unlink {
            id: id(c, "two"),
            at: at(c, "two"),
            is_dir: false,
        },
        act: |d| fs::remove_file(d.join("two")).unwrap(),
        whole: |c, call| c.unlink(call, root(c), &name("two")).unwrap(),
    },
    Case {
        what: "rmdir",
        kind: Kind::Rmdir,
        intent: |c| Intent::Unlink {
            id: id(c, "dir"),
            at: at(c, "dir"),
            is_dir: true,
        },
        act: |d| fs::remove_dir(d.join("dir")).unwrap(),
        whole: |c, call| c.rmdir(call, root(c), &name("dir")).unwrap(),
    },
    Case {
        what: "rename",
        kind: Kind::Rename,
        intent: |c| renamed(c, "one", "new", 0),
        act: |d| fs::rename(d.join("one"), d.join("new")).unwrap(),
        whole: |c, call| rename(c, call, "one", "new", 0),
    },
    Case {
        what: "rename over another name",
        kind: Kind::Rename,
        intent: |c| renamed(c, "one", "two", 0),
        act: |d| fs::rename(d.join("one"), d.join("two")).unwrap(),
        whole: |c, call| rename(c, call, "one", "two", 0),
    },
    Case {
        what: "exchange",
        kind: Kind::Rename,
        intent: |c| renamed(c, "one", "two", libc::RENAME_EXCHANGE),
        act: exchange,
        whole: |c, call| rename(c, call, "one", "two", libc::RENAME_EXCHANGE),
    },
];

/// How far the dead worker got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reached {
    /// It had said what it was about to do.
    Intent,
    /// It had done it.
    Effect,
    /// It had recorded it.
    Record,
}

/// Runs a case with two deaths of workers, and says what is wrong with the journal afterwards.
/// `looks`: the next worker looks at what was left.
fn wrong(case: &Case, reached: Reached, looks: bool) -> Option<String> {
    let bed = Bed::new("takeover-case");
    fs::write(bed.path("one"), "1").unwrap();
    fs::write(bed.path("two"), "2").unwrap();
    fs::hard_link(bed.path("two"), bed.path("again")).unwrap();
    fs::create_dir(bed.path("dir")).unwrap();
    let first = bed.worker();
    if reached == Reached::Record {
        in_thread(|| {
            first.live().flight().begin(UNIQUE);
            (case.whole)(&first, &request());
        });
        drop(first);
    } else {
        let intent = (case.intent)(&first);
        bed.dies(first, UNIQUE, &intent, || {
            if reached == Reached::Effect {
                (case.act)(&bed.path(""));
            }
        });
    }
    let second = bed.worker();
    let mut taken = TakenOver::default();
    if looks {
        taken = second.take_over(true);
    }
    drop(second);
    // It dies before it has answered anything; nothing may be recorded a second time.
    let third = bed.worker();
    if looks {
        third.take_over(true);
    }
    let wanted = TakenOver {
        requests: 1,
        recorded: usize::from(reached == Reached::Record),
        found: usize::from(reached == Reached::Effect),
        refused: 0,
        // What may have changed is another test's.
        touched: taken.touched.clone(),
        rewritten: taken.rewritten.clone(),
    };
    let frames = bed.frames();
    let is_there = match frames.as_slice() {
        [] => reached == Reached::Intent,
        [frame] => {
            let body = frame.body().unwrap();
            let is_its = frame.header().kind == case.kind
                && (body.request.incarnation, body.request.unique) == (42, UNIQUE);
            reached != Reached::Intent && is_its
        }
        _ => false,
    };
    let is_another = looks && taken != wanted;
    let what = (case.what, reached, bed.kinds(), taken);
    (!is_there || is_another).then(|| format!("{what:?}"))
}

fn assert_right(reached: Reached) {
    let wrong: Vec<_> = CASES
        .iter()
        .filter_map(|case| wrong(case, reached, true))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_took_effect_unrecorded_is_recorded_once_though_its_caller_was_killed() {
    assert_right(Reached::Effect);
}

#[test]
fn what_did_not_take_effect_before_a_death_is_not_recorded() {
    assert_right(Reached::Intent);
}

#[test]
fn what_stands_in_the_journals_tail_is_not_recorded_again() {
    assert_right(Reached::Record);
}

#[test]
fn planted_disregard_of_an_intent_is_found() {
    for case in &CASES {
        let found = wrong(case, Reached::Effect, false);
        assert!(found.is_some(), "{}", case.what);
    }
}

#[test]
fn a_range_that_a_death_left_half_written_is_read_back() {
    let bed = Bed::new("takeover-range");
    fs::write(bed.path("f"), "0123456789").unwrap();
    let first = bed.worker();
    let file = id(&first, "f");
    let intent = Intent::Range {
        id: file,
        offset: 2,
        length: 6,
        capabilities: Vec::new(),
    };
    let below = File::options().write(true).open(bed.path("f")).unwrap();
    bed.dies(first, UNIQUE, &intent, || {
        below.write_all_at(b"abc", 2).unwrap();
    });
    bed.worker().take_over(true);
    assert_eq!(bed.kinds(), [Kind::Truncate, Kind::Write]);
    let write = &bed.frames()[1];
    let Op::Write { id, offset } = write.body().unwrap().op else {
        panic!("no write");
    };
    assert_eq!((id, offset, write.payload()), (file, 2, &b"abc567"[..]));
}

#[test]
fn a_request_that_three_workers_died_over_is_refused_and_its_file_in_doubt() {
    let bed = Bed::new("takeover-poison");
    fs::write(bed.path("f"), "x").unwrap();
    let mut worker = bed.worker();
    let file = id(&worker, "f");
    let intent = Intent::Attrs {
        id: file,
        atime: false,
    };
    for deaths in 1..=3 {
        let again = if deaths > 1 { RESENT } else { 0 };
        bed.dies(worker, UNIQUE | again, &intent, || ());
        worker = bed.worker();
        let refused = worker.take_over(true).refused;
        assert_eq!(refused, usize::from(deaths == 3), "{deaths} deaths");
    }
    let left = in_thread(|| worker.live().flight().begin(UNIQUE | RESENT));
    assert_eq!(left.unwrap().answer, Some(Answer::Poison));
    let last = bed.frames().pop().unwrap().body().unwrap().op;
    assert!(
        matches!(&last, Op::Gap { ids, everything: false } if ids.contains(&file)),
        "{last:?}"
    );
}

/// What was given to the keeper, and whether it had its name then.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    had_a_name: Mutex<Vec<(FileId, bool)>>,
}

impl Keeper for Kept {
    fn keep(&self, id: FileId, _fd: BorrowedFd<'_>) {
        let has = fs::read(&self.path).is_ok_and(|bytes| bytes == b"used");
        self.had_a_name.lock().unwrap().push((id, has));
    }
    fn release(&self, _id: FileId) {}
}

#[test]
fn a_used_inode_goes_to_the_supervisor_before_its_last_name_goes() {
    for is_replaced in [false, true] {
        let bed = Bed::new("takeover-kept");
        fs::write(bed.path("f"), "used").unwrap();
        fs::write(bed.path("g"), "other").unwrap();
        let kept = Arc::new(Kept {
            path: bed.path("f"),
            had_a_name: Mutex::default(),
        });
        let worker = bed.worker_with(|tree| tree.set_keeper(kept.clone(), Vec::new()));
        let file = id(&worker, "f");
        worker.tree().note_open(file);
        match is_replaced {
            true => rename(&worker, &Call::OURS, "g", "f", 0),
            false => worker
                .unlink(&Call::OURS, root(&worker), &name("f"))
                .unwrap(),
        }
        let first = kept.had_a_name.lock().unwrap().first().copied();
        assert_eq!(first, Some((file, true)), "replaced: {is_replaced}");
    }
}
