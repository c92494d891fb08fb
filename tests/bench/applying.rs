//! What it costs to apply a record to a replica on a real file system. Needs root; without, it says so and measures
//! nothing. `scripts/bench micro` runs it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use doppelfs::applier::{Applier, Backlog, FsReplica};
use doppelfs::codec::{Draft, Frame};
use doppelfs::sys;
use doppelfs::types::{
    Attrs, Body, Dentry, FileId, History, Name, Node, Op, Position, Scope, Seq, Time,
};

const ROOT: FileId = FileId {
    root: doppelfs::types::ROOT_ID,
    ino: doppelfs::types::Ino(2),
    generation: doppelfs::types::Generation(0),
};

/// The file that is written to.
const FILE: u64 = 10;

/// Its size.
const FILE_BYTES: u64 = 64 << 20;

fn main() {
    if sys::is_root() {
        divan::main();
    } else {
        eprintln!("SKIPPED applying: needs root");
    }
}

fn attrs(mode: u32, size: u64) -> Attrs {
    Attrs {
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        mtime: Time {
            secs: 1_000,
            nanos: 5,
        },
    }
}

/// An applier on an empty replica, in a directory that goes with it.
struct Stream {
    dir: PathBuf,
    applier: Option<Applier<FsReplica>>,
    seq: Seq,
}

impl Stream {
    fn new() -> Stream {
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let dir = parent.join(format!("doppelfs-bench-applying-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        for part in ["mirror", "hidden", "state", "table"] {
            std::fs::create_dir_all(dir.join(part)).expect("a directory for the replica");
        }
        let open = |part: &str| OwnedFd::from(File::open(dir.join(part)).expect("just made"));
        let replica = FsReplica::open(open("mirror"), open("hidden")).expect("a replica");
        let (state, table) = (dir.join("state"), dir.join("table"));
        let opened = Applier::open(replica, &state, &table, Backlog::empty());
        let (mut applier, _) = opened.expect("an applier");
        let position = Position {
            history: History(7),
            seq: Seq::ZERO,
        };
        applier.reset_to(position).expect("it is fresh");
        let mut stream = Stream {
            dir,
            applier: Some(applier),
            seq: Seq::ZERO,
        };
        stream.mirror();
        stream
    }

    /// The mirror of an empty directory: from here on records are applied as they come.
    fn mirror(&mut self) {
        self.apply(Body::of(Op::MirrorBegin {
            mirror: 1,
            scope: Scope::Full,
            root: ROOT,
        }));
        let mut listing = Body::of(Op::Listing {
            id: ROOT,
            entries: Vec::new(),
            xattrs: Vec::new(),
        });
        listing.after = Some(attrs(0o040_755, 0));
        self.apply(listing);
        self.apply(Body::of(Op::MirrorEnd { mirror: 1 }));
    }

    fn apply(&mut self, body: Body) {
        self.apply_with(&body, &[]);
    }

    fn apply_with(&mut self, body: &Body, payload: &[u8]) {
        let draft = Draft::new(body, payload);
        let next = Seq(self.seq.0 + 1);
        let mut bytes = draft.seal(next, self.seq, 0).to_vec();
        bytes.extend_from_slice(draft.meta());
        bytes.extend_from_slice(payload);
        let frame = Frame::from_vec(bytes).expect("sealed here");
        let applier = self.applier.as_mut().expect("it is open");
        applier.apply(&frame).expect("it can be applied");
        self.seq = next;
    }

    fn create(&mut self, number: u64) {
        let name = Name::new(format!("file-{number}").as_bytes()).expect("a name");
        let mut body = Body::of(Op::Create {
            at: Dentry { parent: ROOT, name },
            id: FileId::new(number, 1),
            node: Node::File,
            xattrs: Vec::new(),
        });
        body.after = Some(attrs(0o100_644, 0));
        self.apply(body);
    }

    fn write(&mut self, offset: u64, payload: &[u8]) {
        let id = FileId::new(FILE, 1);
        let mut body = Body::of(Op::Write { id, offset });
        body.after = Some(attrs(0o100_644, FILE_BYTES));
        self.apply_with(&body, payload);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.applier = None;
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Sealing the record is counted, too: `record_encode` tells how much that is.
#[divan::bench(args = [4 << 10, 128 << 10])]
fn apply_write(bencher: Bencher<'_, '_>, size: usize) {
    let mut stream = Stream::new();
    stream.create(FILE);
    let payload = vec![7; size];
    let last = FILE_BYTES - size as u64;
    stream.write(last, &payload);
    let mut offset = 0;
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        stream.write(offset, &payload);
        offset = (offset + size as u64) % last;
    });
}

#[divan::bench]
fn apply_create(bencher: Bencher<'_, '_>) {
    let mut stream = Stream::new();
    let mut number = FILE;
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        number += 1;
        stream.create(number);
    });
}
