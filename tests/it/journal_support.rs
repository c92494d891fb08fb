//! Setup for the journal's tests: directories, records, raw access to segments.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use doppelfs::codec::{Draft, Frame};
use doppelfs::journal::{Error, Journal, Options, Reader, Recovery};
use doppelfs::types::{Body, FileId, Generation, Ino, Op, ROOT_ID, Seq};

const FILE: FileId = FileId {
    root: ROOT_ID,
    ino: Ino(12),
    generation: Generation(1),
};

/// A directory that goes with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    /// In memory where that is possible: what is tested here does not depend on the disk.
    pub fn new(name: &str) -> Scratch {
        let memory = Path::new("/dev/shm");
        let is_writable = std::fs::write(memory.join("doppelfs-probe"), b"").is_ok();
        if is_writable {
            Scratch::below(memory, name)
        } else {
            Scratch::on_disk(name)
        }
    }

    pub fn on_disk(name: &str) -> Scratch {
        Scratch::below(&std::env::temp_dir(), name)
    }

    fn below(parent: &Path, name: &str) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("doppelfs-journal-{}-{count}-{name}", std::process::id());
        let path = parent.join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn queue(&self) -> PathBuf {
        self.0.join("queue")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn small() -> Options {
    Options {
        segment_bytes: 32 << 10,
        disk_bytes_max: None,
        free_bytes_min: 0,
    }
}

pub fn open(dir: &Path) -> (Arc<Journal>, Recovery) {
    let (journal, recovery) = Journal::open(dir, small()).unwrap();
    (Arc::new(journal), recovery)
}

pub fn body(offset: u64) -> Body {
    Body::of(Op::Write { id: FILE, offset })
}

/// Appends one record with this payload.
pub fn append(journal: &Journal, payload: &[u8]) -> Seq {
    journal.append(&Draft::new(&body(1), payload)).unwrap()
}

/// A sealed frame as a sender would deliver it.
pub fn frame(prev: u64, seq: u64, more: bool, payload: &[u8]) -> Frame {
    let mut draft = Draft::new(&body(seq), payload);
    if more {
        draft = draft.with_more();
    }
    let mut bytes = draft.seal(Seq(seq), Seq(prev), 1_000 + seq).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes.extend_from_slice(payload);
    Frame::from_vec(bytes).unwrap()
}

/// Everything a reader delivers, and why it ended otherwise than at the end.
pub fn read_all(reader: &mut Reader) -> (Vec<Frame>, Option<Error>) {
    let mut frames = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// Sequence numbers and payloads of everything kept after `after`.
pub fn contents(journal: &Arc<Journal>, after: Seq) -> Vec<(u64, Vec<u8>)> {
    let mut reader = journal.reader(after).unwrap();
    let (frames, error) = read_all(&mut reader);
    assert!(error.is_none(), "unexpected: {error:?}");
    let pairs = frames.iter();
    pairs
        .map(|f| (f.header().seq.0, f.payload().to_vec()))
        .collect()
}

/// The segments' files, oldest first.
pub fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("seg")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// First byte of a segment's frames.
pub const FRAMES_AT: usize = 4096;

/// Offsets of the frames of a segment's file, with the file's end (or the first unsound byte) last.
pub fn frame_offsets(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = vec![FRAMES_AT];
    let mut at = FRAMES_AT;
    while let Some(Ok(frame)) = bytes.get(at..).map(Frame::parse) {
        at += frame.bytes().len();
        offsets.push(at);
    }
    offsets
}

/// Lets every segment look as if an earlier boot had made it.
pub fn change_boot(dir: &Path) {
    for path in segment_files(dir) {
        let mut bytes = std::fs::read(&path).unwrap();
        let is_sound = bytes.len() >= FRAMES_AT
            && bytes[4092..4096] == crc32c::crc32c(&bytes[..4092]).to_le_bytes();
        if !is_sound {
            continue;
        }
        bytes[56..64].copy_from_slice(b"earlier-");
        seal_header(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    }
}

/// The position of the synced mark that a closed journal has left in its cursor file.
pub fn stored_mark(dir: &Path) -> u64 {
    let bytes = std::fs::read(dir.join("cursors")).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let slots = [0, 128]
        .into_iter()
        .filter(|at| &bytes[*at..at + 4] == b"DPC1");
    let newest = slots.max_by_key(|at| number(at + 8));
    newest.map_or(0, |at| number(at + 24))
}

/// Makes the checksum of a segment's header right again.
pub fn seal_header(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
}

/// Turns one byte of a file around.
pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x55;
    std::fs::write(path, bytes).unwrap();
}

/// What the index holds, read by sled itself.
pub fn index_content(dir: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    // sled's threads hold its lock for a moment after it was dropped.
    let db = loop {
        match sled::open(dir.join("index")) {
            Ok(db) => break db,
            Err(e) if e.to_string().contains("could not acquire lock") => {
                std::thread::yield_now();
            }
            Err(e) => panic!("{e}"),
        }
    };
    let pairs = db.iter().map(|pair| pair.unwrap());
    pairs.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

/// A journal closed again, with this many records of about a kilobyte, all kept for cursor `one`.
pub fn filled(scratch: &Scratch, count: u64) -> Vec<(u64, Vec<u8>)> {
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(0)).unwrap();
    (1..=count)
        .map(|i| {
            let payload = vec![i as u8; 900 + i as usize];
            (append(&journal, &payload).0, payload)
        })
        .collect()
}

/// Like [`filled`], made durable after the first `synced` records.
pub fn filled_synced(scratch: &Scratch, synced: u64, count: u64) -> Vec<(u64, Vec<u8>)> {
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(0)).unwrap();
    let mut wanted = Vec::new();
    for i in 1..=count {
        let payload = vec![i as u8; 900 + i as usize];
        wanted.push((append(&journal, &payload).0, payload));
        if i == synced {
            assert_eq!(journal.sync().unwrap(), Seq(i));
        }
    }
    wanted
}
