//! Cursors: how far each consumer holds the records durably; and the synced mark.
//!
//! They live in memory, in the index, and in the file `cursors`, which needs neither room nor sled:
//! preallocated, each cursor with two slots written in turn, so that a torn write leaves the other.
//!
//! # Layout of `cursors`: 64 pairs of two slots of 128 bytes, integers little-endian
//! ```text
//!   0  u32      magic "DPC1"
//!   4  u32      length of the name; 0: this pair is free
//!   8  u64      turn: the slot with the higher one counts
//!  16  u64      generation of the journal; a cursor of an older one is void
//!  24  u64      seq
//!  32  80 bytes name (pair 0, the synced mark: offset, records, first of its segment, bytes ever)
//! 112  12 bytes reserved, 0
//! 124  u32      crc32c of bytes 0..124
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{Error, io};
use super::segment::{NUMBER_MAX, le_u32, le_u64};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::Seq;

const MAGIC: &[u8; 4] = b"DPC1";
const SLOT_BYTES: usize = 128;
const PAIR_COUNT: usize = 64;
const NAME_BYTES_MAX: usize = 80;
const CRC_AT: usize = 124;

/// Everything up to here is durable: a place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    pub(super) generation: u64,
    pub(super) seq: Seq,
    /// First position of the segment it lies in.
    pub(super) segment: Seq,
    pub(super) offset: u64,
    /// Frames of the segment before it.
    pub(super) records: u64,
    /// Bytes of frames before it, ever.
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

#[derive(Debug, Clone)]
struct Slot {
    name: Vec<u8>,
    turn: u64,
    generation: u64,
    seq: Seq,
    crc: u32,
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0u8; SLOT_BYTES];
        let mut put = |at: usize, part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
        };
        let len = u32::try_from(self.name.len()).unwrap_or(0);
        put(0, MAGIC);
        put(4, &len.to_le_bytes());
        put(8, &self.turn.to_le_bytes());
        put(16, &self.generation.to_le_bytes());
        put(24, &self.seq.0.to_le_bytes());
        put(32, &self.name);
        put(112, &self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Slot> {
        let bytes = bytes.first_chunk::<SLOT_BYTES>()?;
        let fine =
            &bytes[..4] == MAGIC && crc32c::crc32c(&bytes[..CRC_AT]) == le_u32(bytes, CRC_AT);
        let len = le_u32(bytes, 4) as usize;
        let numbers = [8, 16, 24].map(|at| le_u64(bytes, at));
        let fine = fine && numbers.iter().all(|number| *number <= NUMBER_MAX);
        (fine && len <= NAME_BYTES_MAX).then(|| Slot {
            name: bytes[32..32 + len].to_vec(),
            turn: le_u64(bytes, 8),
            generation: le_u64(bytes, 16),
            seq: Seq(le_u64(bytes, 24)),
            crc: le_u32(bytes, 112),
        })
    }
}

/// The file `cursors` and what was last written to it.
#[derive(Debug)]
struct SlotFile {
    file: File,
    path: PathBuf,
    /// By pair; a slot with an empty name is a free pair with its turn.
    pairs: Vec<Option<Slot>>,
    is_unsynced: bool,
}

impl SlotFile {
    fn write(&mut self, pair: usize, mut slot: Slot) -> Result<(), Error> {
        let Some(place) = self.pairs.get_mut(pair) else {
            return Ok(());
        };
        slot.turn = place.as_ref().map_or(1, |old| old.turn + 1);
        let at = (pair * 2 + usize::from(slot.turn.is_multiple_of(2))) * SLOT_BYTES;
        let bytes = slot.encode();
        let wrote = sys::pwrite(self.file.as_fd(), &bytes, at as u64);
        wrote.map_err(io("write", &self.path))?;
        *place = Some(slot);
        self.is_unsynced = true;
        Ok(())
    }

    fn pair_of(&self, name: &str) -> Option<usize> {
        let is_it = |slot: &Option<Slot>| slot.as_ref().is_some_and(|s| s.name == name.as_bytes());
        self.pairs.iter().skip(1).position(is_it).map(|at| at + 1)
    }

    fn free_pair(&self) -> Option<usize> {
        let is_free = |slot: &Option<Slot>| slot.as_ref().is_none_or(|s| s.name.is_empty());
        self.pairs.iter().skip(1).position(is_free).map(|at| at + 1)
    }

    fn sync(&mut self) -> Result<(), Error> {
        if self.is_unsynced {
            sys::fdatasync(self.file.as_fd()).map_err(io("flush", &self.path))?;
            self.is_unsynced = false;
        }
        Ok(())
    }
}

/// The cursors of an open journal.
#[derive(Debug)]
pub(super) struct Cursors {
    /// The file. Rank: journal (never together with the journal's end); I/O happens under it.
    file: Mutex<SlotFile>,
    /// The positions. Rank: catalogue; no I/O under it.
    table: Mutex<BTreeMap<String, Seq>>,
    is_dirty: AtomicBool,
}

/// What the file held.
pub(super) struct Found {
    pub(super) cursors: Cursors,
    pub(super) mark: Option<Mark>,
    /// All cursors with their generation; empty also when the file was not there.
    pub(super) table: Vec<(String, u64, Seq)>,
    pub(super) existed: bool,
}

impl Cursors {
    /// Opens the file, creating it where it is missing or too short.
    pub(super) fn open(path: &Path) -> Result<Found, Error> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io("read", path)(e)),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(path).map_err(io("open", path))?;
        let whole = PAIR_COUNT * 2 * SLOT_BYTES;
        if bytes.len() < whole {
            // Real zeroes, so that later writes need no room.
            let rest = vec![0u8; whole - bytes.len()];
            sys::pwrite(file.as_fd(), &rest, bytes.len() as u64).map_err(io("write", path))?;
        }
        let pairs: Vec<Option<Slot>> = (0..PAIR_COUNT).map(|pair| newest(&bytes, pair)).collect();
        let mark = pairs.first().and_then(Option::as_ref).and_then(mark_of);
        let named = pairs
            .iter()
            .skip(1)
            .flatten()
            .filter(|s| !s.name.is_empty());
        let table: Vec<_> = named
            .filter_map(|s| {
                let name = std::str::from_utf8(&s.name).ok()?;
                Some((name.to_owned(), s.generation, s.seq))
            })
            .collect();
        let existed = pairs.iter().any(Option::is_some);
        let slots = SlotFile {
            file,
            path: path.to_path_buf(),
            pairs,
            is_unsynced: bytes.len() < whole,
        };
        Ok(Found {
            cursors: Cursors {
                file: Mutex::new(Rank::Journal, slots),
                table: Mutex::new(Rank::Catalogue, BTreeMap::new()),
                is_dirty: AtomicBool::new(false),
            },
            mark,
            table,
            existed,
        })
    }

    /// Makes this the table and the file's content, durably.
    pub(super) fn settle(
        &self,
        table: BTreeMap<String, Seq>,
        generation: u64,
    ) -> Result<(), Error> {
        let mut file = self.file.lock();
        for pair in 1..PAIR_COUNT {
            let old = file.pairs.get(pair).and_then(Option::as_ref);
            let Some(old) = old.filter(|s| !s.name.is_empty()) else {
                continue;
            };
            let name = String::from_utf8_lossy(&old.name).into_owned();
            if !table.contains_key(&name) {
                file.write(pair, free_slot())?;
            }
        }
        for (name, &seq) in &table {
            write_cursor(&mut file, name, generation, seq)?;
        }
        file.sync()?;
        *self.table.lock() = table;
        Ok(())
    }

    /// Enters a cursor, durably.
    pub(super) fn register(&self, name: &str, generation: u64, seq: Seq) -> Result<(), Error> {
        let refuse = |reason| Error::Cursor {
            name: name.to_owned(),
            reason,
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(refuse("a name has 1 to 80 bytes"));
        }
        let mut file = self.file.lock();
        if file.pair_of(name).or(file.free_pair()).is_none() {
            return Err(refuse("there are 63 already"));
        }
        write_cursor(&mut file, name, generation, seq)?;
        file.sync()?;
        self.table.lock().insert(name.to_owned(), seq);
        Ok(())
    }

    /// Forgets a cursor, durably; false when there was none. A file that cannot be written keeps
    /// it until the next opening.
    pub(super) fn unregister(&self, name: &str) -> bool {
        let mut file = self.file.lock();
        let was_there = self.table.lock().remove(name).is_some();
        if let Some(pair) = file.pair_of(name) {
            let freed = file.write(pair, free_slot()).and_then(|()| file.sync());
            if let Err(error) = freed {
                tracing::warn!(%error, cursor = name, "cursor may come back at the next start");
            }
        }
        was_there
    }

    /// Moves a cursor on; never back, and never one that is not registered. True when it is time to
    /// call [`Cursors::save`].
    pub(super) fn advance(&self, name: &str, seq: Seq) -> bool {
        let mut table = self.table.lock();
        match table.get_mut(name) {
            Some(at) if *at < seq => *at = seq,
            _ => return false,
        }
        !self.is_dirty.swap(true, Ordering::AcqRel)
    }

    pub(super) fn get(&self, name: &str) -> Option<Seq> {
        self.table.lock().get(name).copied()
    }

    pub(super) fn all(&self) -> Vec<(String, Seq)> {
        let table = self.table.lock();
        table
            .iter()
            .map(|(name, &seq)| (name.clone(), seq))
            .collect()
    }

    /// The slowest; `None` without any.
    pub(super) fn min(&self) -> Option<Seq> {
        self.table.lock().values().min().copied()
    }

    /// Writes what has moved, without flushing.
    pub(super) fn save(&self, generation: u64) -> Result<(), Error> {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut file = self.file.lock();
        for (name, seq) in self.all() {
            write_cursor(&mut file, &name, generation, seq)?;
        }
        Ok(())
    }

    /// Remembers what is durable; not flushed itself, an older mark is as true.
    pub(super) fn save_mark(&self, mark: &Mark) -> Result<(), Error> {
        let mut name = Vec::with_capacity(NAME_BYTES_MAX);
        for number in [mark.segment.0, mark.offset, mark.records, mark.bytes] {
            name.extend_from_slice(&number.to_le_bytes());
        }
        let slot = Slot {
            name,
            turn: 0,
            generation: mark.generation,
            seq: mark.seq,
            crc: mark.crc,
        };
        self.file.lock().write(0, slot)
    }
}

fn write_cursor(file: &mut SlotFile, name: &str, generation: u64, seq: Seq) -> Result<(), Error> {
    let Some(pair) = file.pair_of(name).or(file.free_pair()) else {
        return Ok(());
    };
    let old = file.pairs.get(pair).and_then(Option::as_ref);
    let is_same =
        |s: &Slot| s.name == name.as_bytes() && s.seq == seq && s.generation == generation;
    if old.is_some_and(is_same) {
        return Ok(());
    }
    let slot = Slot {
        name: name.as_bytes().to_vec(),
        turn: 0,
        generation,
        seq,
        crc: 0,
    };
    file.write(pair, slot)
}

fn free_slot() -> Slot {
    Slot {
        name: Vec::new(),
        turn: 0,
        generation: 0,
        seq: Seq::ZERO,
        crc: 0,
    }
}

fn newest(bytes: &[u8], pair: usize) -> Option<Slot> {
    let slot = |index: usize| {
        let at = (pair * 2 + index) * SLOT_BYTES;
        bytes.get(at..at + SLOT_BYTES).and_then(Slot::decode)
    };
    [slot(0), slot(1)]
        .into_iter()
        .flatten()
        .max_by_key(|s| s.turn)
}

fn mark_of(slot: &Slot) -> Option<Mark> {
    let numbers = [0, 8, 16, 24].map(|at| le_u64(&slot.name, at));
    let fine = slot.name.len() == 32 && numbers.iter().all(|number| *number <= NUMBER_MAX);
    fine.then(|| Mark {
        generation: slot.generation,
        seq: slot.seq,
        segment: Seq(le_u64(&slot.name, 0)),
        offset: le_u64(&slot.name, 8),
        records: le_u64(&slot.name, 16),
        bytes: le_u64(&slot.name, 24),
        crc: slot.crc,
    })
}
