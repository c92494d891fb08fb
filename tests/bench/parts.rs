//! What a record costs in the journal, in the codec and in a batch, each by itself. `scripts/bench micro` runs it.
//!
//! Journals lie on a tmpfs where there is one: what is measured is the program, not a disk.

use std::path::{Path, PathBuf};

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use doppelfs::codec::{Draft, Frame};
use doppelfs::journal::{Journal, Options};
use doppelfs::types::{Body, FileId, Op, Seq};
use doppelfs::wire::{Packer, Unpacker};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Payloads of a record.
const SIZES: [usize; 4] = [100, 4 << 10, 128 << 10, 1 << 20];

/// Frames of a batch stand back to back in so many bytes.
const BATCH_BYTES: usize = 256 << 10;

/// After so many bytes a journal is made anew, so that it does not fill the memory.
const JOURNAL_BYTES: u64 = 256 << 20;

fn main() {
    divan::main();
}

fn body(offset: u64) -> Body {
    let id = FileId::new(12, 1);
    Body::of(Op::Write { id, offset })
}

fn random(size: usize) -> Vec<u8> {
    random_by(7, size)
}

fn random_by(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn sealed(payload: &[u8], seq: u64) -> Vec<u8> {
    let draft = Draft::new(&body(seq * 4096), payload);
    let mut bytes = draft.seal(Seq(seq), Seq(seq - 1), 42).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes.extend_from_slice(payload);
    bytes
}

/// Frames of 4 KiB each, back to back.
fn frames(kind: &str) -> Vec<u8> {
    let mut raw = Vec::with_capacity(BATCH_BYTES);
    for seq in 1.. {
        let frame = sealed(&content(kind, seq), seq);
        if raw.len() + frame.len() > BATCH_BYTES {
            break;
        }
        raw.extend_from_slice(&frame);
    }
    raw
}

/// A journal in a directory that goes with it.
struct Queue {
    dir: PathBuf,
    journal: Option<Journal>,
    written: u64,
}

impl Queue {
    fn new() -> Queue {
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let dir = parent.join(format!("doppelfs-bench-{}", std::process::id()));
        let mut queue = Queue {
            dir,
            journal: None,
            written: 0,
        };
        queue.renew();
        queue
    }

    fn renew(&mut self) {
        self.journal = None;
        drop(std::fs::remove_dir_all(&self.dir));
        std::fs::create_dir_all(&self.dir).expect("a directory for the journal");
        let options = Options {
            free_bytes_min: 0,
            ..Options::default()
        };
        let (journal, _) = Journal::open(&self.dir.join("queue"), options).expect("a journal");
        self.journal = Some(journal);
        self.written = 0;
    }

    fn append(&mut self, payload: &[u8]) -> Seq {
        if self.written > JOURNAL_BYTES {
            self.renew();
        }
        self.written += payload.len() as u64;
        let journal = self.journal.as_ref().expect("it is open");
        let draft = Draft::new(&body(self.written), payload);
        journal.append(&draft).expect("there is room")
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.journal = None;
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

#[divan::bench(args = SIZES)]
fn journal_append(bencher: Bencher<'_, '_>, size: usize) {
    let payload = random(size);
    let mut queue = Queue::new();
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| queue.append(black_box(&payload)));
}

#[divan::bench(args = SIZES)]
fn record_encode(bencher: Bencher<'_, '_>, size: usize) {
    let payload = random(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let draft = Draft::new(&body(7), black_box(&payload));
        draft.seal(Seq(2), Seq(1), 42)
    });
}

#[divan::bench(args = SIZES)]
fn record_decode(bencher: Bencher<'_, '_>, size: usize) {
    let bytes = sealed(&random(size), 1);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let frame = Frame::parse(black_box(&bytes)).expect("it was sealed here");
        frame.body().expect("it was encoded here")
    });
}

/// Content of a frame of a batch: text compresses, noise does not, also not from frame to frame.
fn content(kind: &str, seq: u64) -> Vec<u8> {
    match kind {
        "noise" => random_by(seq, 4 << 10),
        _ => b"the quick brown fox jumps over the lazy dog; ".repeat(91),
    }
}

#[divan::bench(args = ["text", "noise"])]
fn batch_pack(bencher: Bencher<'_, '_>, kind: &str) {
    let raw = frames(kind);
    let mut packer = Packer::new();
    bencher
        .counter(BytesCount::new(raw.len()))
        .bench_local(|| packer.pack(black_box(&raw)));
}

#[divan::bench(args = ["text", "noise"])]
fn batch_unpack(bencher: Bencher<'_, '_>, kind: &str) {
    let raw = frames(kind);
    // Length and type of the message come before the body.
    let packed = Packer::new().pack(&raw).bytes[5..].to_vec();
    let mut unpacker = Unpacker::new();
    bencher.counter(BytesCount::new(raw.len())).bench_local(|| {
        let frames = unpacker.open(black_box(&packed)).expect("packed here");
        frames.filter(|frame| frame.is_ok()).count()
    });
}
