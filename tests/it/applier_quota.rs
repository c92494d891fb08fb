//! Goal: a source takes no more of a target than its quota; the stream waits, and goes on when it is raised.
//! Method: real directories, usage compared with a count from the beginning. Needs root.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use doppelfs::applier::{
    Applier, Backlog, Error, FsReplica, Limits, Metered, Terms, Usage, Withholding,
};
use doppelfs::types::{Body, Node, Op, Position, Scope, Seq};

use super::applier_model::{Source, ino_of};
use super::applier_stream::{Dirs, HISTORY, Stream, at, attrs, create, id, with_after};
use crate::trees::is_root;

const MIB: usize = 1 << 20;

fn files(max: u64) -> Limits {
    Limits {
        files_max: Some(max),
        ..Limits::default()
    }
}

fn bytes(max: usize) -> Limits {
    Limits {
        bytes_max: Some(max as u64),
        ..Limits::default()
    }
}

#[track_caller]
fn assert_held(held: Result<(), Error>, text: &str) {
    let held = held.unwrap_err();
    assert!(
        matches!(&held, Error::Replica { source, .. }
            if source.kind() == std::io::ErrorKind::QuotaExceeded),
        "{held:?}"
    );
    assert!(held.to_string().contains(text), "{held}");
}

#[test]
fn files_beyond_the_quota_wait_until_it_is_raised() {
    if !is_root("applier_quota") {
        return;
    }
    let mut stream = Stream::new("files", files(3));
    stream.file("one", 10, b"x");
    stream
        .apply(&create("dir", 11, Node::Dir, 0o040_755))
        .unwrap();
    stream
        .apply(&create(
            "link",
            12,
            Node::Symlink(b"one".to_vec()),
            0o120_777,
        ))
        .unwrap();
    let link = Op::Link {
        id: id(10),
        at: at("again"),
        node: Node::File,
    };
    stream.apply(&with_after(link, attrs(0o100_644))).unwrap();
    assert_eq!(
        stream.terms.usage().files,
        3,
        "a link is no file of its own"
    );
    let fourth = create("four", 13, Node::Fifo, 0o010_644);
    let text = "quota of 3 files for source web1 is reached (3 files in use); raise it with \
                `doppelfs peers set`, or free space";
    assert_held(stream.apply(&fourth), text);
    assert_held(stream.apply(&fourth), text);
    assert!(!stream.is_there("four"));
    stream.terms.set(files(4));
    stream.apply(&fourth).unwrap();
    assert_eq!(stream.terms.usage().files, 4);
    // The file stays under its other name.
    let op = Op::Unlink {
        at: at("one"),
        id: id(10),
    };
    stream.apply(&with_after(op, attrs(0o100_644))).unwrap();
    assert_eq!(stream.terms.usage().files, 4);
    stream.unlink("again", 10).unwrap();
    let op = Op::Rmdir {
        at: at("dir"),
        id: id(11),
    };
    stream.apply(&Body::of(op)).unwrap();
    assert_eq!(stream.terms.usage().files, 2);
}

#[test]
fn bytes_beyond_the_quota_wait_and_what_is_freed_counts() {
    if !is_root("applier_quota") {
        return;
    }
    let mut stream = Stream::new("bytes", bytes(4 * MIB));
    stream.file("file", 10, b"x");
    let data = vec![7; MIB];
    for number in 0..4 {
        stream.write(10, number * MIB as u64, &data).unwrap();
    }
    let used = stream.terms.usage().bytes;
    let held = stream.write(10, 4 * MIB as u64, &data);
    assert_held(
        held,
        "quota of 4.0 MiB for source web1 is reached (4.0 MiB in use)",
    );
    assert_eq!(stream.terms.usage().bytes, used);
    let size = std::fs::metadata(stream.dirs.path("mirror/file"))
        .unwrap()
        .size();
    assert_eq!(size, 4 * MIB as u64, "nothing was begun");
    assert_held(
        stream.apply(&create("more", 11, Node::File, 0o100_644)),
        "is reached",
    );
    let op = Op::Truncate {
        id: id(10),
        size: 0,
    };
    stream.apply(&with_after(op, attrs(0o100_644))).unwrap();
    assert!(stream.terms.usage().bytes < MIB as u64);
    let reserve = |length: usize| {
        let op = Op::Fallocate {
            id: id(10),
            mode: 0,
            offset: 0,
            length: length as u64,
        };
        let mut after = attrs(0o100_644);
        after.size = length as u64;
        with_after(op, after)
    };
    assert_held(
        stream.apply(&reserve(5 * MIB)),
        "has no room for 5.0 MiB more",
    );
    stream.apply(&reserve(3 * MIB)).unwrap();
    let used = stream.terms.usage().bytes;
    assert!((3 * MIB as u64..4 * MIB as u64).contains(&used), "{used}");
    let op = Op::Fallocate {
        id: id(10),
        mode: 0x03,
        offset: 0,
        length: 2 * MIB as u64,
    };
    let mut after = attrs(0o100_644);
    after.size = 3 * MIB as u64;
    stream.apply(&with_after(op, after)).unwrap();
    let used = stream.terms.usage().bytes;
    assert!((MIB as u64..2 * MIB as u64).contains(&used), "{used}");
    stream.unlink("file", 10).unwrap();
    assert!(stream.terms.usage().bytes < MIB as u64);
}

#[test]
fn streams_of_one_source_share_its_quota() {
    if !is_root("applier_quota") {
        return;
    }
    let terms = Arc::new(Terms::new("web1", files(3)));
    let mut one = Stream::with("share", Arc::clone(&terms));
    let mut two = Stream::with("share", Arc::clone(&terms));
    one.file("a", 10, b"x");
    two.file("a", 10, b"x");
    two.file("b", 11, b"x");
    let more = create("b", 11, Node::File, 0o100_644);
    assert_held(one.apply(&more), "quota of 3 files");
    // A stream that is gone uses nothing.
    drop(two);
    one.apply(&more).unwrap();
    assert_eq!(terms.usage().files, 2);
}

#[test]
fn a_restart_and_a_quota_set_later_count_what_is_there() {
    if !is_root("applier_quota") {
        return;
    }
    let mut stream = Stream::new("restart", Limits::default());
    stream.file("a", 10, &[1; 10_000]);
    stream.file("b", 11, &[1; 10_000]);
    assert_eq!(
        stream.terms.usage(),
        Usage::default(),
        "nothing was counted"
    );
    // What is in limbo counts too.
    std::fs::write(stream.dirs.path("hidden/limbo/1.1"), "x").unwrap();
    stream.terms.set(files(3));
    assert_held(
        stream.apply(&create("c", 12, Node::File, 0o100_644)),
        "quota of 3 files",
    );
    stream.open();
    assert_eq!(stream.terms.usage().files, 3);
    assert!(stream.terms.usage().bytes > 20_000);
    assert_held(
        stream.apply(&create("c", 12, Node::File, 0o100_644)),
        "quota of 3 files",
    );
    stream.terms.set(Limits::default());
    stream
        .apply(&create("c", 12, Node::File, 0o100_644))
        .unwrap();
    assert_eq!(stream.terms.usage(), Usage::default());
}

fn open(dirs: &Dirs, terms: &Arc<Terms>) -> Metered<Withholding<FsReplica>> {
    let replica = Withholding::new(dirs.replica().unwrap(), Arc::clone(terms)).unwrap();
    Metered::new(replica, Arc::clone(terms)).unwrap()
}

/// Random operations, mirrors among them: what was kept is what a count from the beginning finds.
#[test]
fn usage_that_is_kept_is_what_a_count_finds() {
    if !is_root("applier_quota") {
        return;
    }
    for seed in super::applier_rig::seeds(91, 6) {
        let dirs = Dirs::new("usage");
        let mut source = Source::new(seed);
        let limits = Limits {
            bytes_max: Some(1 << 40),
            files_max: Some(1 << 40),
            withholds_devices: seed % 2 == 0,
            withholds_set_id: seed % 2 == 0,
        };
        let terms = Arc::new(Terms::new("web1", limits));
        let (state, table) = (dirs.path("state"), dirs.path("table"));
        let replica = open(&dirs, &terms);
        let (mut applier, _) = Applier::open(replica, &state, &table, Backlog::empty()).unwrap();
        let position = Position {
            history: HISTORY,
            seq: Seq::ZERO,
        };
        applier.reset_to(position).unwrap();
        for round in 1..4 {
            let begin = source.mirror_begin(round, Scope::Full);
            applier.apply(&source.seal(&begin, false)).unwrap();
            while !applier.mirror_done() {
                for id in applier.take_wants(100) {
                    let ino = ino_of(id);
                    let made = match source.world.things.get(&ino) {
                        Some(thing) if thing.node.is_dir() => source.listing(ino, 1000),
                        _ => vec![source.image(ino)],
                    };
                    for made in &made {
                        applier.apply(&source.seal(made, false)).unwrap();
                    }
                }
            }
            let end = Source::mirror_end(round);
            applier.apply(&source.seal(&end, false)).unwrap();
            for _ in 0..150 {
                let made = source.step();
                let frame = source.seal(&made, false);
                applier
                    .apply(&frame)
                    .unwrap_or_else(|e| panic!("seed {seed} {:?}: {e}", made.0.op));
            }
            let again = Arc::new(Terms::new("web1", limits));
            let counted = open(&dirs, &again).usage();
            assert_eq!(
                applier.replica().usage(),
                counted,
                "seed {seed} round {round}"
            );
            assert_eq!(Some(terms.usage()), counted);
        }
    }
}
