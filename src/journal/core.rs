//! The open journal: what all its parts share; positions, waiting, facts.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cursor::Cursors;
use super::error::{Error, is_full};
use super::facts::Facts;
use super::index::{Chores, Index, Owner};
use super::reader::Reader;
use super::recovery::{self, Recovery};
use super::segment::{HEADER_BYTES, Point, Segment};
use super::space::{Ballast, free_bytes};
use crate::sync::{Condvar, Mutex, Rank};
use crate::sys;
use crate::types::{Seq, limits};

/// Values of facts beyond this are not copied to the index.
const INDEXED_BYTES_MAX: usize = 4096;

/// How large the journal may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A segment is sealed when the next record would make it larger.
    pub segment_bytes: u64,
    /// Most bytes of all segments; no limit with `None`.
    pub disk_bytes_max: Option<u64>,
    /// Free bytes left to others on the file system.
    pub free_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: limits::SEGMENT_BYTES_MAX,
            disk_bytes_max: None,
            free_bytes_min: limits::QUEUE_FREE_BYTES_DEFAULT,
        }
    }
}

/// What the journal holds and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Records kept, consumed ones in unfinished segments included.
    pub records: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Bytes that the segments take on disk.
    pub disk_bytes: u64,
    /// Time of capture of the oldest record kept.
    pub oldest_time_ns: Option<u64>,
}

/// One segment as the catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// The position after the last record before it.
    pub first: Seq,
    /// Rises with each reset.
    pub generation: u64,
    /// Bytes of frames before it, ever.
    pub start_bytes: u64,
    /// Records before it, ever.
    pub start_records: u64,
    /// Its end; nothing for the one that is written to.
    pub sealed: Option<SealedEnd>,
}

/// The end of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedEnd {
    /// Its last record.
    pub last: Seq,
    /// Bytes of its frames.
    pub bytes: u64,
    /// Its records.
    pub records: u64,
    /// Header checksum of its last frame.
    pub crc: u32,
}

/// The journal. One value per directory, shared by all threads; dropping it ends the index thread.
#[derive(Debug)]
pub struct Journal {
    pub(super) core: Arc<Core>,
    /// Dropped with the journal: joins the thread.
    _owner: Owner,
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.core.cut_zeroes(&mut self.core.tail.lock());
    }
}

/// What the journal, its readers and the index thread share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) dir: PathBuf,
    pub(super) seg_dir: PathBuf,
    pub(super) options: Options,
    pub(super) boot: String,
    /// Held as long as the journal is open.
    pub(super) lock: File,
    /// Flushes, one at a time. Rank: flush; I/O happens under it.
    pub(super) flush: Mutex<()>,
    /// The end. Rank: journal; the write of a record and the change of segments happen under it.
    pub(super) tail: Mutex<Tail>,
    /// All segments, the last is the one written to. Rank: catalogue; unlinks happen under it.
    pub(super) segments: Mutex<VecDeque<Arc<Segment>>>,
    pub(super) cursors: Cursors,
    pub(super) facts: Facts,
    pub(super) index: Arc<Index>,
    pub(super) ballast: Ballast,
    pub(super) generation: AtomicU64,
    pub(super) first: AtomicU64,
    pub(super) end: AtomicU64,
    pub(super) end_bytes: AtomicU64,
    pub(super) durable: AtomicU64,
    /// Published length of the segment written to.
    pub(super) active_bytes: AtomicU64,
    /// Disk bytes of sealed segments.
    pub(super) sealed_bytes: AtomicU64,
    pub(super) poison: OnceLock<String>,
    pub(super) bell: Bell,
    /// Files of trimmed segments: unlinked, and their pages still to be dropped, for which those who append need
    /// not wait. Rank: leaf; no I/O under it.
    pub(super) graves: Mutex<Vec<Arc<File>>>,
}

/// Where the next frame goes.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<File>,
    /// Beyond the segment's published end while a group is unfinished.
    pub(super) at: Point,
    /// May be appended before the next look at the disk's free space.
    pub(super) free_budget: u64,
    /// Where the zeroes end that were written ahead; nothing where there are none.
    pub(super) zeroed_to: u64,
}

/// Wakes who waits for records; costs nothing while nobody does.
#[derive(Debug)]
pub(super) struct Bell {
    waiters: AtomicU32,
    wakes: AtomicU64,
    /// Rank: leaf.
    door: Mutex<()>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn new() -> Bell {
        Bell {
            waiters: AtomicU32::new(0),
            wakes: AtomicU64::new(0),
            door: Mutex::new(Rank::Leaf, ()),
            changed: Condvar::new(),
        }
    }

    /// Publish first, sequentially consistent.
    pub(super) fn ring(&self) {
        // Either this sees the waiter, or the waiter, who counts himself first, sees what is new.
        if self.waiters.load(Ordering::SeqCst) > 0 {
            drop(self.door.lock());
            self.changed.notify_all();
        }
    }
}

impl Core {
    pub(super) fn check_poison(&self) -> Result<(), Error> {
        match self.poison.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned {
                cause: cause.clone(),
            }),
        }
    }

    pub(super) fn set_poison(&self, cause: String) {
        tracing::error!(dir = %self.dir.display(), %cause, "journal is out of service");
        let _ = self.poison.set(cause);
    }

    pub(super) fn end(&self) -> Seq {
        Seq(self.end.load(Ordering::SeqCst))
    }

    pub(super) fn first(&self) -> Seq {
        Seq(self.first.load(Ordering::SeqCst))
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(super) fn end_bytes(&self) -> u64 {
        self.end_bytes.load(Ordering::SeqCst)
    }

    /// Brings a segment's entry of the catalogue up to date.
    pub(super) fn note_segment(&self, segment: &Segment) {
        let (key, value) = entry_of(segment);
        self.index.set(key, value);
    }
}

/// The index's entry for a segment.
pub(super) fn entry_of(segment: &Segment) -> (Vec<u8>, Vec<u8>) {
    let entry = catalogue_entry(segment);
    let value = rmp_serde::to_vec(&entry).unwrap_or_default();
    (segment_key(segment.header.first), value)
}

fn catalogue_entry(segment: &Segment) -> CatalogueEntry {
    let end = segment.end();
    let sealed = segment.is_sealed().then(|| SealedEnd {
        last: end.seq,
        bytes: end.offset - HEADER_BYTES,
        records: end.records,
        crc: end.crc,
    });
    CatalogueEntry {
        first: segment.header.first,
        generation: segment.header.generation,
        start_bytes: segment.header.start_bytes,
        start_records: segment.header.start_records,
        sealed,
    }
}

pub(super) fn segment_key(first: Seq) -> Vec<u8> {
    format!("s/{:020}", first.0).into_bytes()
}

pub(super) fn cursor_key(name: &str) -> Vec<u8> {
    format!("c/{name}").into_bytes()
}

pub(super) fn fact_key(key: &str) -> Vec<u8> {
    format!("k/{key}").into_bytes()
}

/// The index's value for a cursor.
pub(super) fn cursor_value(generation: u64, seq: Seq) -> Vec<u8> {
    rmp_serde::to_vec(&(generation, seq)).unwrap_or_default()
}

/// What the index thread does for the journal.
struct Housekeeping(Arc<Core>);

impl Chores for Housekeeping {
    fn visit(&mut self, index: &Index) {
        let core = &self.0;
        let generation = core.generation();
        if let Err(error) = core.cursors.save(generation) {
            tracing::warn!(%error, "cursors not saved");
        }
        for (name, seq) in core.cursors.all() {
            index.set(cursor_key(&name), cursor_value(generation, seq));
        }
        core.bury();
    }

    fn tick(&mut self, _index: &Index) {
        let core = &self.0;
        core.ballast.restore(core.options.free_bytes_min);
        if let Err(error) = core.sync_backlog() {
            tracing::warn!(%error, "backlog not flushed");
        }
    }
}

impl Journal {
    /// Opens the journal in `dir`, creating it where it is missing, and repairs what a crash left.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::UnknownVersion`] and [`Error::Locked`] without touching
    /// anything; [`Error::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<(Journal, Recovery), Error> {
        let (core, mut owner, recovery) = recovery::open(dir, options)?;
        owner.employ(Box::new(Housekeeping(Arc::clone(&core))));
        let journal = Journal {
            core,
            _owner: owner,
        };
        Ok((journal, recovery))
    }

    /// The oldest record kept; after the end when there is none. Where the stream leaves numbers
    /// out, it may be less than the oldest record's number, never more.
    pub fn first(&self) -> Seq {
        self.core.first()
    }

    /// The last record appended. An unfinished group does not count.
    pub fn end(&self) -> Seq {
        self.core.end()
    }

    /// As [`Journal::end`], with what is being appended: whatever a program knows to be done is included, also
    /// where it was answered before its record was whole ([`Journal::append_after`]).
    pub fn settled_end(&self) -> Seq {
        drop(self.core.tail.lock());
        self.end()
    }

    /// Bytes of all frames ever appended; on this scale lags are measured.
    pub fn end_bytes(&self) -> u64 {
        self.core.end_bytes()
    }

    /// The last record known to be durable.
    pub fn durable(&self) -> Seq {
        Seq(self.core.durable.load(Ordering::SeqCst))
    }

    /// Waits until there are records beyond `seq`, or [`Journal::wake`] is called meanwhile, or
    /// `patience` is over; returns the end. Who ends a waiting thread sets a flag first, and that
    /// thread looks at the flag before it waits again.
    pub fn wait_beyond(&self, seq: Seq, patience: Duration) -> Seq {
        let bell = &self.core.bell;
        if self.end() > seq {
            return self.end();
        }
        let wakes = bell.wakes.load(Ordering::SeqCst);
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = sys::monotonic_ns().saturating_add(patience_ns);
        bell.waiters.fetch_add(1, Ordering::SeqCst);
        let mut door = bell.door.lock();
        while self.end() <= seq && bell.wakes.load(Ordering::SeqCst) == wakes {
            let rest_ns = deadline_ns.saturating_sub(sys::monotonic_ns());
            if rest_ns == 0 {
                break;
            }
            bell.changed
                .wait_for(&mut door, Duration::from_nanos(rest_ns));
        }
        drop(door);
        bell.waiters.fetch_sub(1, Ordering::SeqCst);
        self.end()
    }

    /// Ends all waits that are under way.
    pub fn wake(&self) {
        self.core.bell.wakes.fetch_add(1, Ordering::SeqCst);
        self.core.bell.ring();
    }

    /// A reader of the records after `after`.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when some of them are no longer kept, [`Error::Beyond`] when `after` was
    /// never appended, and what [`Reader::next`] may say.
    pub fn reader(self: &Arc<Self>, after: Seq) -> Result<Reader, Error> {
        Reader::open(Arc::clone(self), after)
    }

    /// Is the directory still that of this journal? Somebody may have removed or replaced it: then what
    /// is appended is lost with this process. A disk that fails does not tell, and says nothing of it.
    pub fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let is_gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        if std::fs::metadata(&self.core.seg_dir).is_err_and(|e| is_gone(&e)) {
            return false;
        }
        let there = std::fs::metadata(self.core.dir.join("lock"));
        match (there, self.core.lock.metadata()) {
            (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            (Err(e), _) => !is_gone(&e),
            (_, Err(_)) => true,
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.core.dir
    }

    /// Bytes that can be appended before a limit is reached; 0 when the disk cannot be asked.
    pub fn room(&self) -> u64 {
        let options = &self.core.options;
        let free = free_bytes(&self.core.seg_dir).unwrap_or(0);
        let free = free.saturating_sub(options.free_bytes_min);
        let most = options.disk_bytes_max.unwrap_or(u64::MAX);
        free.min(most.saturating_sub(self.usage().disk_bytes))
    }

    /// What the journal holds and takes; cheap.
    pub fn usage(&self) -> Usage {
        let core = &*self.core;
        let (start_bytes, start_records, oldest, last) = {
            let segments = core.segments.lock();
            let times = segments.iter().map(|s| s.first_time_ns());
            let oldest = times.into_iter().find(|&time_ns| time_ns > 0);
            let Some((first, last)) = segments.front().zip(segments.back()) else {
                return Usage::default();
            };
            let start = &first.header;
            let last = Arc::clone(last);
            (start.start_bytes, start.start_records, oldest, last)
        };
        let records = last.header.start_records + last.end().records;
        Usage {
            records: records.saturating_sub(start_records),
            bytes: self.end_bytes().saturating_sub(start_bytes),
            disk_bytes: core.sealed_bytes.load(Ordering::Relaxed) + blocks_of(last.len()),
            oldest_time_ns: oldest,
        }
    }

    /// The segments, oldest first.
    pub fn catalogue(&self) -> Vec<CatalogueEntry> {
        let segments = self.core.segments.lock();
        segments.iter().map(|s| catalogue_entry(s)).collect()
    }

    /// Stores a small fact durably, replacing the one of this key.
    ///
    /// # Errors
    /// [`Error::Fact`] beyond the limits, [`Error::Io`]; the old value then stays.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        let core = &*self.core;
        match core.facts.put(key, value) {
            Err(Error::Io { source, .. }) if is_full(&source) && core.ballast.release() => {
                core.facts.put(key, value)?;
            }
            done => done?,
        }
        if value.len() <= INDEXED_BYTES_MAX {
            core.index.set(fact_key(key), value.to_vec());
        } else {
            core.index.remove(&fact_key(key));
        }
        Ok(())
    }

    /// The fact of this key.
    ///
    /// # Errors
    /// [`Error::FactDamaged`].
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.core.facts.get(key)
    }
}

/// The index's entries for facts.
pub(super) fn fact_entries(facts: &Facts) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let all = facts.all().into_iter();
    let small = all.filter(|(_, value)| value.len() <= INDEXED_BYTES_MAX);
    small.map(|(key, value)| (fact_key(&key), value))
}

/// A file of this length, in whole blocks.
pub(super) fn blocks_of(len: u64) -> u64 {
    len.next_multiple_of(4096)
}
