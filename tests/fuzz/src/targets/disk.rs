//! Files of ours on a disk that lies: the activity log and the journal.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use doppelfs::activity::{Activity, Survived, read_log};
use doppelfs::codec::{Draft, Frame};
use doppelfs::journal::{Journal, Options};
use doppelfs::types::{Body, Op, Seq};

use super::draw::Draw;
use super::frame::{self, Sealed};
use super::tree::Scratch;

const OPTIONS: Options = Options {
    segment_bytes: 16 << 10,
    disk_bytes_max: None,
    free_bytes_min: 0,
};
const INSTANCE: u128 = 7;
const SEGMENT_HEADER_BYTES: usize = 4096;

/// Either, on files made of these bytes.
pub fn disk(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let scratch = Scratch::new();
    match draw.byte() % 2 {
        0 => log(&mut draw, &scratch),
        _ => journal(&mut draw, &scratch),
    }
}

fn put_crc(bytes: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Epochs of the activity log: headers, marks, holes and rubbish.
fn log(draw: &mut Draw<'_>, scratch: &Scratch) {
    let mut last = 0;
    for _ in 0..=draw.below(3) {
        let epoch = draw.number();
        last = epoch.max(last);
        let path = scratch.0.join(format!("{epoch:016x}"));
        let file = std::fs::File::create(&path).expect("make a file");
        let mut bytes = log_header(draw, epoch, file.metadata().expect("stat").ino());
        for _ in 0..draw.below(24) {
            match draw.byte() {
                0..200 => bytes.extend_from_slice(&mark(draw, epoch)),
                200..230 => bytes.extend_from_slice(&[0; 32]),
                _ => bytes.extend_from_slice(draw.bytes(64)),
            }
        }
        if draw.one_in(8) {
            bytes.truncate(usize::from(draw.byte()));
        }
        file.write_all_at(&bytes, 0).expect("write a file");
    }
    if let Survived::Marks(marks) = read_log(&scratch.0, INSTANCE) {
        assert!(marks.ids.is_sorted());
    }
    let Ok(Some(activity)) = Activity::resume(&scratch.0, INSTANCE) else {
        return;
    };
    drop(activity.enter(&[draw.id(), draw.id()]));
    drop(activity.settle(|| Ok(())));
    let found = read_log(&scratch.0, INSTANCE);
    // Where nobody gets by counting, nothing is believed.
    let is_reached = last < 1 << 62;
    assert!(
        !is_reached || matches!(found, Survived::Marks(_)),
        "it was settled"
    );
}

fn log_header(draw: &mut Draw<'_>, epoch: u64, own: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(b"DFA1");
    bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
    bytes[16..24].copy_from_slice(&draw.number().to_le_bytes());
    bytes[24..40].copy_from_slice(&INSTANCE.to_le_bytes());
    bytes[40..48].copy_from_slice(&own.to_le_bytes());
    if draw.one_in(16) {
        bytes[draw.below(60)] ^= draw.byte();
    }
    put_crc(&mut bytes, 60);
    bytes
}

fn mark(draw: &mut Draw<'_>, epoch: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    let id = draw.id();
    bytes[..8].copy_from_slice(&id.ino.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.generation.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&epoch.to_le_bytes());
    bytes[24..26].copy_from_slice(&id.root.0.to_le_bytes());
    bytes[26] = u8::from(!draw.one_in(16));
    if draw.one_in(16) {
        bytes[draw.below(28)] ^= draw.byte();
    }
    put_crc(&mut bytes, 28);
    bytes
}

/// A journal of the segments drawn, opened, read, written to, and opened again.
fn journal(draw: &mut Draw<'_>, scratch: &Scratch) {
    let template = template();
    let seg_dir = scratch.make("seg");
    let mut last = draw.seq();
    for _ in 0..=draw.below(3) {
        last = segment(draw, template, &seg_dir, last);
    }
    if draw.one_in(3) {
        std::fs::write(scratch.0.join("cursors"), cursors(draw)).expect("write a file");
    }
    for _ in 0..2 {
        let Ok((journal, _)) = Journal::open(&scratch.0, OPTIONS) else {
            return;
        };
        let journal = Arc::new(journal);
        read_all(&journal);
        drop(journal.register("a", draw.seq()));
        extend(draw, &journal);
        drop(journal.sync());
        journal.advance("a", draw.seq());
        drop(journal.trim());
        read_all(&journal);
        assert!(journal.durable() <= journal.end());
        if draw.one_in(4) {
            drop(journal.give_up());
        }
        if draw.one_in(4) {
            drop(journal.reset(draw.seq()));
        }
    }
}

/// The header of a segment of this boot and mount, as the journal itself writes it.
fn template() -> &'static [u8] {
    static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let scratch = Scratch::new();
        drop(Journal::open(&scratch.0, OPTIONS).expect("open an empty journal"));
        let mut entries = std::fs::read_dir(scratch.0.join("seg")).expect("list segments");
        let entry = entries.next().expect("a segment").expect("a segment");
        let mut bytes = std::fs::read(entry.path()).expect("read a segment");
        bytes.truncate(SEGMENT_HEADER_BYTES);
        bytes
    })
}

/// Writes one segment that begins after `last`; its last record.
fn segment(draw: &mut Draw<'_>, template: &[u8], dir: &Path, last: Seq) -> Seq {
    let first = match draw.one_in(8) {
        true => draw.number(),
        false => last.0.saturating_add(1),
    };
    let mut bytes = template.to_vec();
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    let mut put = |at: usize, number: u64| bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    if draw.one_in(4) {
        put(24, draw.number());
    }
    if draw.one_in(4) {
        put(32, draw.number());
        put(40, draw.number());
        put(48, draw.number());
    }
    if draw.one_in(8) {
        bytes[12 + draw.below(100)] ^= draw.byte();
    }
    put_crc(&mut bytes, SEGMENT_HEADER_BYTES - 4);
    let mut last = Seq(first.saturating_sub(1));
    for _ in 0..draw.below(6) {
        if let Some(frame) = next(draw, last) {
            bytes.extend_from_slice(frame.bytes());
            last = frame.header().seq;
        }
    }
    if draw.one_in(4) {
        let at = usize::from(draw.byte()) * 4 % bytes.len();
        let from = bytes.len() - at;
        bytes[from..]
            .iter_mut()
            .take(3)
            .for_each(|byte| *byte ^= draw.byte());
    }
    if draw.one_in(4) {
        bytes.truncate(bytes.len().saturating_sub(draw.byte().into()));
    }
    if draw.one_in(8) {
        bytes.extend_from_slice(draw.bytes(200));
    }
    std::fs::write(dir.join(format!("{first:020}.seg")), bytes).expect("write a segment");
    last
}

/// A record that follows `last`, mostly; none where no number is left for one.
fn next(draw: &mut Draw<'_>, last: Seq) -> Option<Frame> {
    let body = Body::of(Op::MirrorEnd {
        mirror: draw.number(),
    });
    let payload = draw.bytes(100);
    let draft = Draft::new(&body, payload);
    let (seq, prev_seq) = match draw.one_in(6) {
        true => (draw.number(), draw.number()),
        false => (last.0.saturating_add(1), last.0),
    };
    let sealed = Sealed {
        kind: draft.kind().number(),
        meta: draft.meta(),
        payload,
        seq: seq.max(prev_seq),
        prev_seq: prev_seq.min(seq),
        time_ns: draw.number(),
        flags: u32::from(draw.one_in(6)),
    };
    Frame::from_vec(sealed.bytes()).ok()
}

/// Slots with any content and right checksums.
fn cursors(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut file = vec![0; 128 * 128];
    for slot in file.chunks_exact_mut(128).take(draw.below(6)) {
        slot[..4].copy_from_slice(b"DPC1");
        slot[4..8].copy_from_slice(&draw.word().to_le_bytes());
        for at in (8..112).step_by(8) {
            let number = if at < 64 { draw.number() } else { 0 };
            slot[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        put_crc(slot, 124);
    }
    file
}

fn read_all(journal: &Arc<Journal>) {
    let first = Seq(journal.first().0.saturating_sub(1));
    for after in [first, Seq::ZERO, journal.end()] {
        let Ok(mut reader) = journal.reader(after) else {
            continue;
        };
        let mut last = after;
        while let Ok(Some(frame)) = reader.next() {
            assert!(frame.header().seq > last, "records rise");
            last = frame.header().seq;
            frame::check(&frame);
        }
    }
}

/// Frames from a peer, and records of ours.
fn extend(draw: &mut Draw<'_>, journal: &Journal) {
    for _ in 0..draw.below(5) {
        let Some(frame) = next(draw, journal.end()) else {
            continue;
        };
        let before = journal.end();
        if journal.append_frame(&frame).is_err() {
            assert_eq!(journal.end(), before, "an error advances nothing");
        }
    }
    if draw.one_in(2) {
        let body = Body::of(Op::MirrorEnd { mirror: 1 });
        drop(journal.append(&Draft::new(&body, b"")));
    }
}
