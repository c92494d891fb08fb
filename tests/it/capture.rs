//! Goal: what happens is recorded, once, in the order it happened, with what it led to.
//! Method: capture over a real directory, without a mount; the journal is read back.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use doppelfs::capture::{
    AttrChange, Call, Capture, Extent, NewNode, Observer, OpenMode, Options, Uncovered,
};
use doppelfs::codec::Frame;
use doppelfs::journal::{self, Journal};
use doppelfs::passthrough::Tree;
use doppelfs::stats::SetCounters;
use doppelfs::sys;
use doppelfs::types::{Body, FileId, Kind, Name, Node, Op, RenameMode, Seq, Time};

use crate::scratch::Scratch;

#[derive(Default)]
struct Heard {
    gaps: AtomicU64,
    given_up: AtomicU64,
}

impl Observer for Heard {
    fn gap_recorded(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }
    fn backlog_given_up(&self, _cursors: Vec<String>, _why: String) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }
    fn record_lost(&self, _why: String) {}
}

pub(crate) struct Bed {
    pub(crate) scratch: Scratch,
    pub(crate) capture: Arc<Capture>,
    pub(crate) journal: Arc<Journal>,
    heard: Arc<Heard>,
}

fn bed(label: &str, journal_options: journal::Options) -> Bed {
    let scratch = Scratch::new(label);
    let data = scratch.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let tree = Tree::new(sys::clone_tree(&data, sys::Unstamped::AsBelow).unwrap(), 64).unwrap();
    let (journal, _) = Journal::open(&scratch.path().join("queue"), journal_options).unwrap();
    let journal = Arc::new(journal);
    let heard = Arc::new(Heard::default());
    let options = Options {
        atime: false,
        writes_back: false,
        gap_file: scratch.path().join("gap"),
        counters: Arc::new(SetCounters::default()),
        live: doppelfs::live::Live::none(),
        activity: None,
        records: true,
    };
    let (capture, was_set) = Capture::new(tree, journal.clone(), options, heard.clone()).unwrap();
    assert!(!was_set);
    Bed {
        scratch,
        capture: Arc::new(capture),
        journal,
        heard,
    }
}

pub(crate) fn plain(label: &str) -> Bed {
    bed(label, journal::Options::default())
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn new(node: Node) -> NewNode {
    NewNode {
        node,
        mode: 0o644,
        umask: 0o022,
    }
}

impl Bed {
    pub(crate) fn root(&self) -> FileId {
        self.capture.tree().root_id()
    }

    pub(crate) fn make(&self, dir: FileId, text: &str, node: Node) -> FileId {
        self.capture
            .make(&Call::OURS, dir, &name(text), &new(node))
            .unwrap()
            .id
    }

    fn frames(&self) -> Vec<Frame> {
        let mut reader = self.journal.reader(Seq::ZERO).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    fn bodies(&self) -> Vec<Body> {
        self.frames()
            .iter()
            .map(|frame| frame.body().unwrap())
            .collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        self.frames()
            .iter()
            .map(|frame| frame.header().kind)
            .collect()
    }
}

#[test]
fn each_change_is_one_record_with_what_it_led_to() {
    let bed = plain("one-record");
    let root = bed.root();
    let dir = bed.make(root, "d", Node::Dir);
    let open = OpenMode {
        flags: libc::O_RDWR,
    };
    let (created, file) = bed
        .capture
        .create(&Call::OURS, dir, &name("f"), &new(Node::File), open)
        .unwrap();
    bed.capture.write(&Call::OURS, &file, 5, b"hello").unwrap();
    bed.capture
        .truncate(&Call::OURS, created.id, Some(&file), 3)
        .unwrap();
    let change = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    bed.capture
        .set_attrs(&Call::OURS, created.id, None, &change, |_| {})
        .unwrap();
    bed.capture
        .set_xattr(&Call::OURS, created.id, c"user.k", b"v", 0)
        .unwrap();
    bed.capture
        .remove_xattr(&Call::OURS, created.id, c"user.k")
        .unwrap();
    let extent = Extent {
        offset: 0,
        length: 8192,
    };
    bed.capture
        .fallocate(&Call::OURS, &file, extent, 0)
        .unwrap();
    bed.capture
        .link(&Call::OURS, created.id, root, &name("g"))
        .unwrap();
    bed.capture
        .rename(&Call::OURS, (root, &name("g")), (dir, &name("h")), 0)
        .unwrap();
    bed.capture.unlink(&Call::OURS, dir, &name("h")).unwrap();
    bed.capture.unlink(&Call::OURS, dir, &name("f")).unwrap();
    bed.capture.rmdir(&Call::OURS, root, &name("d")).unwrap();
    use Kind::{
        Create, Fallocate, Link, RemoveXattr, Rename, Rmdir, SetAttr, SetXattr, Truncate, Unlink,
        Write,
    };
    let expected = [
        Create,
        Create,
        Write,
        Truncate,
        SetAttr,
        SetXattr,
        RemoveXattr,
        Fallocate,
        Link,
        Rename,
        Unlink,
        Unlink,
        Rmdir,
    ];
    assert_eq!(bed.kinds(), expected);
    let bodies = bed.bodies();
    let after = |index: usize| bodies[index].after.unwrap();
    assert_eq!(after(2).size, 10);
    assert_eq!(after(3).size, 3);
    assert_eq!(after(4).mode & 0o7777, 0o600);
    assert_eq!(after(7).size, 8192);
    assert_eq!((after(10).nlink, after(11).nlink), (1, 0));
    assert_eq!(bodies[1].path, b"d/f");
    assert_eq!(bed.frames()[2].payload(), b"hello");
}

#[test]
fn the_umask_and_the_caller_make_the_new_file() {
    let bed = plain("umask");
    let caller = Call {
        caller: doppelfs::types::Caller {
            uid: 1234,
            gid: 2345,
            pid: 9,
        },
        ..Call::OURS
    };
    let wanted = NewNode {
        node: Node::File,
        mode: 0o666,
        umask: 0o027,
    };
    let made = bed
        .capture
        .make(&caller, bed.root(), &name("f"), &wanted)
        .unwrap();
    let stat = std::fs::metadata(bed.scratch.path().join("data/f")).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (1234, 2345, 0o640)
    );
    assert_eq!((made.stat.uid, made.stat.gid), (1234, 2345));
    assert_eq!(bed.bodies()[0].caller, caller.caller);
}

#[test]
fn what_has_no_name_any_more_is_not_recorded() {
    let bed = plain("nameless");
    let open = OpenMode {
        flags: libc::O_RDWR,
    };
    let (created, file) = bed
        .capture
        .create(&Call::OURS, bed.root(), &name("f"), &new(Node::File), open)
        .unwrap();
    bed.capture
        .unlink(&Call::OURS, bed.root(), &name("f"))
        .unwrap();
    let before = bed.journal.end();
    bed.capture
        .write(&Call::OURS, &file, 0, b"into the void")
        .unwrap();
    bed.capture
        .truncate(&Call::OURS, created.id, Some(&file), 1)
        .unwrap();
    assert_eq!(bed.journal.end(), before);
    let mut back = [0u8; 1];
    sys::pread(file.fd.as_fd(), &mut back, 0).unwrap();
    assert_eq!(&back, b"i");
}

#[test]
fn renaming_between_two_names_of_one_inode_is_no_record() {
    let bed = plain("same-inode");
    let root = bed.root();
    let id = bed.make(root, "a", Node::File);
    bed.capture.link(&Call::OURS, id, root, &name("b")).unwrap();
    let before = bed.journal.end();
    bed.capture
        .rename(&Call::OURS, (root, &name("a")), (root, &name("b")), 0)
        .unwrap();
    assert_eq!(bed.journal.end(), before);
    assert!(bed.scratch.path().join("data/a").exists());
}

#[test]
fn a_rename_names_whom_it_replaced_and_how() {
    let bed = plain("rename");
    let root = bed.root();
    let (a, b) = (
        bed.make(root, "a", Node::File),
        bed.make(root, "b", Node::File),
    );
    let exchange = libc::RENAME_EXCHANGE;
    let (na, nb) = (name("a"), name("b"));
    bed.capture
        .rename(&Call::OURS, (root, &na), (root, &nb), exchange)
        .unwrap();
    bed.capture
        .rename(&Call::OURS, (root, &na), (root, &nb), 0)
        .unwrap();
    let noreplace = bed.capture.rename(
        &Call::OURS,
        (root, &nb),
        (root, &nb),
        libc::RENAME_NOREPLACE,
    );
    assert_eq!(noreplace.unwrap_err().errno(), libc::EEXIST);
    let bodies = bed.bodies();
    assert_eq!(bodies.len(), 4);
    let Op::Rename {
        id,
        replaced: Some(over),
        mode,
        ..
    } = &bodies[2].op
    else {
        panic!()
    };
    assert_eq!(
        (*id, over.id, over.nlink, *mode),
        (a, b, 1, RenameMode::Exchange)
    );
    let Op::Rename {
        id,
        replaced: Some(over),
        mode,
        ..
    } = &bodies[3].op
    else {
        panic!()
    };
    assert_eq!(
        (*id, over.id, over.nlink, *mode),
        (b, a, 0, RenameMode::Plain)
    );
}

#[test]
fn records_tell_where_a_file_is_after_a_directory_above_it_was_renamed() {
    let bed = plain("hints");
    let root = bed.root();
    let above = bed.make(root, "a", Node::Dir);
    let dir = bed.make(above, "d", Node::Dir);
    let file = bed.make(dir, "f", Node::File);
    let change = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    // Each path is looked up by the first of two records and known to the second.
    let touch = |names: [&str; 2]| {
        let before = bed.bodies().len();
        for text in names {
            bed.capture
                .set_attrs(&Call::OURS, file, None, &change, |_| {})
                .unwrap();
            bed.make(dir, text, Node::File);
        }
        let paths = bed.bodies().split_off(before).into_iter();
        paths
            .map(|body| String::from_utf8(body.path).unwrap())
            .collect::<Vec<_>>()
    };
    let expected = ["a/d/f", "a/d/1", "a/d/f", "a/d/2"];
    assert_eq!(touch(["1", "2"]), expected);
    bed.capture
        .rename(&Call::OURS, (root, &name("a")), (root, &name("z")), 0)
        .unwrap();
    let expected = ["z/d/f", "z/d/3", "z/d/f", "z/d/4"];
    assert_eq!(touch(["3", "4"]), expected);
}

#[test]
fn concurrent_writers_of_one_file_are_recorded_in_the_order_of_effect() {
    let bed = plain("order");
    let open = OpenMode {
        flags: libc::O_RDWR,
    };
    let (_, file) = bed
        .capture
        .create(&Call::OURS, bed.root(), &name("f"), &new(Node::File), open)
        .unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let (capture, file) = (&bed.capture, &file);
            scope.spawn(move || {
                for round in 0..400u64 {
                    let bytes = [writer.wrapping_mul(61).wrapping_add(round as u8); 300];
                    let offset = (round * 7 + u64::from(writer) * 3) % 1000;
                    capture.write(&Call::OURS, file, offset, &bytes).unwrap();
                }
            });
        }
    });
    let mut replay = Vec::new();
    for frame in bed.frames() {
        let body = frame.body().unwrap();
        if let Op::Write { offset, .. } = body.op {
            let (from, len) = (offset as usize, frame.payload().len());
            replay.resize(replay.len().max(from + len), 0);
            replay[from..from + len].copy_from_slice(frame.payload());
        }
    }
    let content = std::fs::read(bed.scratch.path().join("data/f")).unwrap();
    assert_eq!(replay, content);
}

#[test]
fn a_full_queue_is_given_up_and_the_operation_is_recorded() {
    let options = journal::Options {
        segment_bytes: 1 << 20,
        disk_bytes_max: Some(4 << 20),
        ..journal::Options::default()
    };
    let bed = bed("full", options);
    bed.journal.register("conn-1", Seq::ZERO).unwrap();
    let open = OpenMode {
        flags: libc::O_RDWR,
    };
    let (_, file) = bed
        .capture
        .create(&Call::OURS, bed.root(), &name("f"), &new(Node::File), open)
        .unwrap();
    let chunk = vec![1u8; 256 << 10];
    for round in 0..40u64 {
        let end = bed.journal.end();
        bed.capture
            .write(&Call::OURS, &file, round << 18, &chunk)
            .unwrap();
        assert!(bed.journal.end() > end, "every write is recorded");
    }
    assert!(bed.heard.given_up.load(Ordering::Relaxed) >= 1);
    assert_eq!(
        bed.journal.cursor("conn-1"),
        None,
        "the cursor lost its records"
    );
    assert_eq!(bed.heard.gaps.load(Ordering::Relaxed), 0);
}

#[test]
fn what_was_changed_unwatched_is_in_doubt_before_an_operation_touches_it() {
    let bed = plain("uncovered");
    let root = bed.root();
    let path = bed.scratch.path().join("data/f");
    std::fs::write(&path, b"changed while nobody watched").unwrap();
    let (id, stat) = bed.capture.tree().lookup(root, &name("f")).unwrap();
    bed.capture.begin_check(Uncovered {
        after: Time { secs: 1, nanos: 0 },
        until: stat.ctime,
    });
    let change = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    // Its ctime moves past the interval: the doubt must have been noted before.
    while sys::coarse_now() <= stat.ctime {
        std::thread::yield_now();
    }
    bed.capture
        .set_attrs(&Call::OURS, id, None, &change, |_| {})
        .unwrap();
    let bodies = bed.bodies();
    assert!(
        matches!(&bodies[0].op, Op::Gap { ids, .. } if ids == &[id]),
        "{:?}",
        bodies[0]
    );
    assert!(matches!(bodies[1].op, Op::SetAttr { .. }));
    bed.capture
        .set_attrs(&Call::OURS, id, None, &change, |_| {})
        .unwrap();
    assert_eq!(bed.bodies().len(), 3, "covered now, so no second doubt");
}

#[test]
fn a_directory_that_moves_during_the_check_is_given_to_the_walk() {
    let bed = plain("moved");
    let root = bed.root();
    let (s, t) = (
        bed.make(root, "s", Node::Dir),
        bed.make(root, "t", Node::Dir),
    );
    let dir = bed.make(s, "d", Node::Dir);
    let end_of_time = Time {
        secs: i64::MAX,
        nanos: 0,
    };
    bed.capture.begin_check(Uncovered {
        after: end_of_time,
        until: end_of_time,
    });
    bed.capture
        .rename(&Call::OURS, (s, &name("d")), (t, &name("d")), 0)
        .unwrap();
    assert_eq!(bed.capture.end_check(), [dir]);
    assert!(
        bed.capture.is_checking(),
        "it goes on until nothing is left"
    );
    assert!(bed.capture.end_check().is_empty());
    assert!(!bed.capture.is_checking());
}

#[test]
fn what_a_failed_call_left_behind_is_recorded() {
    let bed = plain("failed");
    let open = OpenMode {
        flags: libc::O_RDWR,
    };
    let (_, file) = bed
        .capture
        .create(&Call::OURS, bed.root(), &name("f"), &new(Node::File), open)
        .unwrap();
    let before = bed.journal.end();
    // Fails without an effect: no record.
    let beyond = Extent {
        offset: 1 << 62,
        length: 1 << 62,
    };
    let done = bed.capture.fallocate(&Call::OURS, &file, beyond, 0);
    assert_eq!(done.unwrap_err().errno(), libc::EFBIG);
    let spare = bed.journal.end().0 - before.0;
    // The file is younger than a clock tick, perhaps: then one harmless record is allowed.
    assert!(spare <= 1, "{spare} records");
}

#[test]
fn everything_is_held_for_a_moment_or_not_at_all() {
    let bed = plain("hold");
    let root = bed.capture.tree().root_id();
    let soon = || Instant::now() + Duration::from_millis(50);
    // One operation is under way for longer.
    let busy = bed.capture.lock(&[root]);
    let capture = Arc::clone(&bed.capture);
    let held = std::thread::spawn(move || capture.hold_still(soon()).is_some());
    assert!(!held.join().unwrap(), "held beside an operation");
    drop(busy);
    // What was taken is free again.
    drop(bed.capture.lock(&[root]));
    let still = bed
        .capture
        .hold_still(soon())
        .expect("nothing is under way");
    let capture = Arc::clone(&bed.capture);
    let (done, is_done) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        drop(capture.lock(&[root]));
        done.send(()).unwrap();
    });
    let early = is_done.recv_timeout(Duration::from_millis(100));
    assert!(early.is_err(), "an operation began beside a hold");
    drop(still);
    is_done
        .recv_timeout(Duration::from_secs(20))
        .expect("it goes on");
    writer.join().unwrap();
}
