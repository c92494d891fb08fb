//! One segment: its file's header, and what is known of it while the journal is open.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::error::{Error, io};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::Seq;

/// Bytes before the first frame of a segment.
pub(super) const HEADER_BYTES: u64 = 4096;

/// The format version written; the only one so far.
pub(super) const VERSION: u32 = 1;

/// What counts up from 0 does not get there: neither it nor the sum of two overflows.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 2;

const MAGIC: &[u8; 8] = b"DPFSSEG1";
const CRC_AT: usize = 4092;
const BOOT_BYTES: usize = 40;

/// Bytes between two places that a reader can begin at without reading what is before.
const LANDMARK_BYTES: u64 = 1 << 20;

/// The fixed header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The position after the last record before this segment.
    pub(super) first: Seq,
    /// Rises with each reset; segments of older ones are leftovers.
    pub(super) generation: u64,
    /// Bytes of frames appended before this segment, ever.
    pub(super) start_bytes: u64,
    /// Frames appended before this segment, ever.
    pub(super) start_records: u64,
    /// Known durable when this segment was made.
    pub(super) durable: Seq,
    /// Header checksum of the last frame before this segment, 0 without one.
    pub(super) chain: u32,
    /// The boot and the mount that it was made in.
    pub(super) boot: String,
}

/// Why a header is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// Not what was written; `blank` when nothing was (cut short, or zeroes).
    Damaged { blank: bool },
    /// Sound, but of another version.
    Version(u32),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0u8; HEADER_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| {
            page[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &self.chain.to_le_bytes());
        put(16, &self.first.0.to_le_bytes());
        put(24, &self.generation.to_le_bytes());
        put(32, &self.start_bytes.to_le_bytes());
        put(40, &self.start_records.to_le_bytes());
        put(48, &self.durable.0.to_le_bytes());
        let boot = self.boot.as_bytes();
        put(56, &boot[..boot.len().min(BOOT_BYTES)]);
        let crc = crc32c::crc32c(&page[..CRC_AT]);
        page[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        page
    }

    pub(super) fn decode(page: &[u8]) -> Result<Header, HeaderFault> {
        let Some(page) = page.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(HeaderFault::Damaged { blank: true });
        };
        let crc = crc32c::crc32c(&page[..CRC_AT]);
        if &page[..8] != MAGIC || crc != le_u32(page, CRC_AT) {
            let blank = page.iter().all(|&b| b == 0) || &page[..8] == MAGIC;
            return Err(HeaderFault::Damaged { blank });
        }
        let version = le_u32(page, 8);
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let numbers = (16..56).step_by(8).map(|at| le_u64(page, at));
        // The position after the last one that there can be is one more.
        if numbers.into_iter().any(|number| number > NUMBER_MAX + 1) {
            return Err(HeaderFault::Damaged { blank: false });
        }
        let boot = page[56..56 + BOOT_BYTES].split(|&b| b == 0).next();
        Ok(Header {
            chain: le_u32(page, 12),
            first: Seq(le_u64(page, 16)),
            generation: le_u64(page, 24),
            start_bytes: le_u64(page, 32),
            start_records: le_u64(page, 40),
            durable: Seq(le_u64(page, 48)),
            boot: String::from_utf8_lossy(boot.unwrap_or_default()).into_owned(),
        })
    }
}

/// A little-endian number in bytes that are long enough; 0 where they are not.
pub(super) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|b| b.first_chunk::<4>());
    four.map_or(0, |b| u32::from_le_bytes(*b))
}

/// As [`le_u32`], eight bytes.
pub(super) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..).and_then(|b| b.first_chunk::<8>());
    eight.map_or(0, |b| u64::from_le_bytes(*b))
}

/// The file of the segment that begins at `first`.
pub(super) fn path_of(seg_dir: &Path, first: Seq) -> PathBuf {
    seg_dir.join(format!("{:020}.seg", first.0))
}

/// The first position by a file's name; `None` for other names.
pub(super) fn first_of_name(name: &str) -> Option<Seq> {
    let digits = name.strip_suffix(".seg")?;
    let fine = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    fine.then(|| digits.parse().ok().map(Seq)).flatten()
}

/// Makes the file with its header: written beside, then renamed, so that a segment's name always
/// had a header in the page cache. Nothing is flushed.
pub(super) fn create(seg_dir: &Path, header: &Header) -> Result<File, Error> {
    let path = path_of(seg_dir, header.first);
    let beside = path.with_extension("new");
    let made = create_beside(&beside, header).and_then(|file| {
        std::fs::rename(&beside, &path).map_err(io("rename", &path))?;
        Ok(file)
    });
    if made.is_err() {
        // A leftover is removed at the next opening, too.
        let _ = std::fs::remove_file(&beside);
    }
    made
}

fn create_beside(beside: &Path, header: &Header) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options
        .mode(0o600)
        .open(beside)
        .map_err(io("create", beside))?;
    let page = header.encode();
    sys::pwritev_all(file.as_fd(), &[IoSlice::new(&page)], 0).map_err(io("write", beside))?;
    Ok(file)
}

/// A place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// In the segment's file.
    pub(super) offset: u64,
    /// The last record before.
    pub(super) seq: Seq,
    /// Frames of this segment before.
    pub(super) records: u64,
    /// Header checksum of the last frame before, as [`Header::chain`].
    pub(super) crc: u32,
}

impl Point {
    /// In front of the first frame.
    pub(super) fn start(header: &Header) -> Point {
        Point {
            offset: HEADER_BYTES,
            seq: Seq(header.first.0.saturating_sub(1)),
            records: 0,
            crc: header.chain,
        }
    }
}

/// A segment of an open journal. What readers need is in atomics: they take no lock to read on.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    pub(super) path: PathBuf,
    /// Its header could not be read; `header` holds what could be concluded.
    pub(super) is_damaged: bool,
    /// Published length of the file; grows only.
    len: AtomicU64,
    last: AtomicU64,
    records: AtomicU64,
    crc: AtomicU32,
    is_sealed: AtomicBool,
    /// When it was, on the monotonic clock; for one of an earlier process, when it was found.
    sealed_ns: AtomicU64,
    /// Unlinked although somebody still wanted it.
    is_gone: AtomicBool,
    /// Bytes of the file known to be durable.
    synced: AtomicU64,
    disk_bytes: AtomicU64,
    first_time_ns: AtomicU64,
    /// Kept while something in it is not durable. Rank: leaf; no I/O under it.
    file: Mutex<Option<Arc<File>>>,
    /// Places to begin reading at, rising. Rank: leaf; no I/O under it.
    landmarks: Mutex<Vec<Point>>,
}

impl Segment {
    pub(super) fn new(path: PathBuf, header: Header, end: Point) -> Segment {
        Segment {
            is_damaged: false,
            len: AtomicU64::new(end.offset),
            last: AtomicU64::new(end.seq.0),
            records: AtomicU64::new(end.records),
            crc: AtomicU32::new(end.crc),
            is_sealed: AtomicBool::new(false),
            sealed_ns: AtomicU64::new(0),
            is_gone: AtomicBool::new(false),
            synced: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
            first_time_ns: AtomicU64::new(0),
            file: Mutex::new(Rank::Leaf, None),
            landmarks: Mutex::new(Rank::Leaf, vec![Point::start(&header)]),
            header,
            path,
        }
    }

    /// What readers may see ends here from now on.
    pub(super) fn publish(&self, end: Point) {
        self.last.store(end.seq.0, Ordering::Relaxed);
        self.records.store(end.records, Ordering::Relaxed);
        self.crc.store(end.crc, Ordering::Relaxed);
        self.len.store(end.offset, Ordering::Release);
    }

    /// The published end. Its parts belong together only for who holds the journal's lock, or for a
    /// sealed segment.
    pub(super) fn end(&self) -> Point {
        Point {
            offset: self.len.load(Ordering::Acquire),
            seq: self.last(),
            records: self.records.load(Ordering::Relaxed),
            crc: self.crc.load(Ordering::Relaxed),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn last(&self) -> Seq {
        Seq(self.last.load(Ordering::Acquire))
    }

    /// It gets no more records.
    pub(super) fn seal(&self) {
        self.sealed_ns.store(sys::monotonic_ns(), Ordering::Relaxed);
        self.is_sealed.store(true, Ordering::Release);
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.is_sealed.load(Ordering::Acquire)
    }

    /// Was it sealed so long ago?
    pub(super) fn is_sealed_for(&self, age: Duration) -> bool {
        let since_ns = sys::monotonic_ns().saturating_sub(self.sealed_ns.load(Ordering::Relaxed));
        self.is_sealed() && u128::from(since_ns) >= age.as_nanos()
    }

    pub(super) fn give_up(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    pub(super) fn note_synced(&self, len: u64) {
        self.synced.fetch_max(len, Ordering::AcqRel);
    }

    pub(super) fn synced_len(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    pub(super) fn note_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) >= self.len()
    }

    pub(super) fn first_time_ns(&self) -> u64 {
        self.first_time_ns.load(Ordering::Relaxed)
    }

    pub(super) fn note_first_time(&self, time_ns: u64) {
        self.first_time_ns.store(time_ns, Ordering::Relaxed);
    }

    pub(super) fn keep_file(&self, file: Option<Arc<File>>) {
        *self.file.lock() = file;
    }

    /// The kept file, or the file opened anew.
    pub(super) fn open(&self) -> Result<Arc<File>, Error> {
        if let Some(file) = self.file.lock().as_ref() {
            return Ok(Arc::clone(file));
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&self.path);
        Ok(Arc::new(file.map_err(io("open", &self.path))?))
    }

    /// Blocks on disk as of the last look.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Blocks on disk, never less than the published bytes need.
    pub(super) fn fixed_disk_bytes(&self, blocks_of: fn(u64) -> u64) -> u64 {
        let bytes = self.disk_bytes().max(blocks_of(self.len()));
        self.note_disk_bytes(bytes);
        bytes
    }

    /// Looks how much of the disk it takes.
    pub(super) fn measure(&self, file: &File) {
        if let Ok(stat) = file.metadata() {
            self.disk_bytes
                .store(stat.blocks() * 512, Ordering::Relaxed);
        }
    }

    pub(super) fn note_landmark(&self, point: Point) {
        let mut landmarks = self.landmarks.lock();
        let far = landmarks
            .last()
            .is_none_or(|last| point.offset >= last.offset + LANDMARK_BYTES);
        if far {
            landmarks.push(point);
        }
    }

    /// Adds a place whatever its distance to others.
    pub(super) fn insist_landmark(&self, point: Point) {
        let mut landmarks = self.landmarks.lock();
        landmarks.retain(|old| old.offset < point.offset);
        landmarks.push(point);
    }

    /// The last place known that has only records up to `after` before it.
    pub(super) fn landmark_for(&self, after: Seq) -> Point {
        let landmarks = self.landmarks.lock();
        let fitting = landmarks.iter().rev().find(|p| p.seq <= after).copied();
        fitting.unwrap_or(Point::start(&self.header))
    }
}
