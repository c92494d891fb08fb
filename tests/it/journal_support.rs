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
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("doppelfs-journal-{}-{count}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
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
