//! What survives the process but not the host: the table of applied operations and the map's
//! changes since the last checkpoint, on a tmpfs.
//!
//! # Layout
//! `applied`: ten 64-bit words: magic, token of the ledger, boot, mount instance of the replica,
//! history (low, high), intent, done, barrier,
//! recovering. The magic is stored last and cleared first.
//!
//! `changes.<number>`: records, in the order of operations. A new file begins at each checkpoint;
//! those that a durable checkpoint covers are removed. A record (little-endian): u32 length of what
//! follows the checksum, u32 crc32c of it, u64 seq, u32 length of the encoded meta (0: unchanged),
//! the meta, then 38 bytes per entry: id (18), 1 or 0 for removed, entry (19).
//!
//! # Why not replay after a process crash?
//! With the changes at hand, a restart on the same boot needs no journal and no symbolic replay, in
//! a mirror too, whose displacements depend on what the replica held. Replay is left for the one
//! case where the tmpfs is gone: a crash of the host outside a mirror.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::sys;
use crate::sys::SharedWords;
use crate::types::{History, Seq};

use super::error::Error;
use super::ledger::{ID_BYTES, Meta, decode_id, encode_id};
use super::map::{Change, HELD_BYTES, Held};

const MAGIC: u64 = u64::from_le_bytes(*b"DPAPPL02");
const WORD_MAGIC: usize = 0;
const WORD_TOKEN: usize = 1;
const WORD_BOOT: usize = 2;
const WORD_INSTANCE: usize = 3;
const WORD_HISTORY_LOW: usize = 4;
const WORD_HISTORY_HIGH: usize = 5;
const WORD_INTENT: usize = 6;
const WORD_DONE: usize = 7;
const WORD_BARRIER: usize = 8;
const WORD_RECOVERING: usize = 9;
const WORD_BASE: usize = 10;
const WORD_COUNT: usize = 11;

const CHANGE_BYTES: usize = ID_BYTES + 1 + HELD_BYTES;
const RECORD_HEAD_BYTES: usize = 8;

/// What a table must name to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) token: u64,
    pub(super) instance: u64,
}

/// What a table says that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resume {
    pub(super) history: History,
    pub(super) intent: Seq,
    pub(super) done: Seq,
    /// A checkpoint must come before the next operation.
    pub(super) barrier: bool,
    /// Until this is applied the replica may hold effects of later operations.
    pub(super) recovering: Seq,
    /// Changes up to here may be missing: a checkpoint had them.
    pub(super) base: Seq,
}

/// One operation's changes, read back.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) seq: Seq,
    pub(super) meta: Option<Meta>,
    pub(super) changes: Vec<Change>,
}

/// The table and the file of changes being written.
#[derive(Debug)]
pub(super) struct Table {
    dir: PathBuf,
    words: SharedWords,
    log: Option<File>,
    log_len: u64,
    log_number: u64,
    /// Older files and the last seq each may hold.
    older: Vec<(u64, Seq)>,
    buffer: Vec<u8>,
}

fn table_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Table {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn boot_word() -> Result<u64, Error> {
    static WORD: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    if let Some(word) = WORD.get() {
        return Ok(*word);
    }
    let boot = sys::boot_id();
    let boot = boot.map_err(|e| table_error("read", Path::new("boot_id"), e))?;
    let hex: String = boot
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    Ok(*WORD.get_or_init(|| u64::from_str_radix(&hex, 16).unwrap_or(0)))
}

fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("changes.{number:012}"))
}

fn log_numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| table_error("list", dir, e))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| table_error("list", dir, e))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("changes."));
        numbers.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl Table {
    /// Opens the table in `dir` (made where it is missing); tells what it says when it is of this
    /// ledger, this boot and this mount of the replica.
    pub(super) fn open(dir: &Path, identity: Identity) -> Result<(Table, Option<Resume>), Error> {
        std::fs::create_dir_all(dir).map_err(|e| table_error("create", dir, e))?;
        let path = dir.join("applied");
        let words = SharedWords::open(&path, WORD_COUNT);
        let words = words.map_err(|e| table_error("map", &path, e))?;
        let valid = words.load(WORD_MAGIC) == MAGIC
            && words.load(WORD_TOKEN) == identity.token
            && words.load(WORD_BOOT) == boot_word()?
            && words.load(WORD_INSTANCE) == identity.instance;
        let resume = valid.then(|| Resume {
            history: History(
                u128::from(words.load(WORD_HISTORY_LOW))
                    | (u128::from(words.load(WORD_HISTORY_HIGH)) << 64),
            ),
            intent: Seq(words.load(WORD_INTENT)),
            done: Seq(words.load(WORD_DONE)),
            barrier: words.load(WORD_BARRIER) != 0,
            recovering: Seq(words.load(WORD_RECOVERING)),
            base: Seq(words.load(WORD_BASE)),
        });
        let table = Table {
            dir: dir.to_owned(),
            words,
            log: None,
            log_len: 0,
            log_number: 0,
            older: Vec::new(),
            buffer: Vec::new(),
        };
        Ok((table, resume))
    }

    /// Everything noted up to `done`, oldest first. What follows (an operation that was noted but
    /// not done, a torn end) is cut off: its operation will be noted anew.
    pub(super) fn read_changes(&self, done: Seq, mut each: impl FnMut(Noted)) -> Result<(), Error> {
        for number in log_numbers(&self.dir)? {
            let path = log_path(&self.dir, number);
            let bytes = std::fs::read(&path).map_err(|e| table_error("read", &path, e))?;
            let mut rest = bytes.as_slice();
            while let Some((noted, tail)) = parse_record(rest) {
                if noted.seq > done {
                    break;
                }
                rest = tail;
                each(noted);
            }
            if !rest.is_empty() {
                let kept = (bytes.len() - rest.len()) as u64;
                let file = File::options().write(true).open(&path);
                file.and_then(|file| file.set_len(kept))
                    .map_err(|e| table_error("truncate", &path, e))?;
            }
        }
        Ok(())
    }

    /// The table is not believed from here on, until [`Table::begin`].
    pub(super) fn invalidate(&self) {
        self.words.store(WORD_MAGIC, 0);
    }

    /// Forgets everything and stands at a position.
    pub(super) fn begin(
        &mut self,
        identity: Identity,
        (history, done): (History, Seq),
        recovering: Seq,
    ) -> Result<(), Error> {
        self.invalidate();
        for number in log_numbers(&self.dir)? {
            let path = log_path(&self.dir, number);
            std::fs::remove_file(&path).map_err(|e| table_error("remove", &path, e))?;
        }
        self.older.clear();
        self.start_log(1)?;
        let low = history.0 as u64;
        let high = (history.0 >> 64) as u64;
        self.words.store(WORD_TOKEN, identity.token);
        self.words.store(WORD_BOOT, boot_word()?);
        self.words.store(WORD_INSTANCE, identity.instance);
        self.words.store(WORD_HISTORY_LOW, low);
        self.words.store(WORD_HISTORY_HIGH, high);
        self.words.store(WORD_BARRIER, 0);
        self.words.store(WORD_RECOVERING, recovering.0);
        self.words.store(WORD_BASE, done.0);
        self.words.store(WORD_INTENT, done.0);
        self.words.store(WORD_DONE, done.0);
        self.words.store(WORD_MAGIC, MAGIC);
        Ok(())
    }

    /// Goes on with a believed table: later changes go to a new file.
    pub(super) fn resume(&mut self, done: Seq) -> Result<(), Error> {
        let numbers = log_numbers(&self.dir)?;
        let next = numbers.last().map_or(1, |last| last + 1);
        self.older = numbers.into_iter().map(|number| (number, done)).collect();
        self.start_log(next)
    }

    fn start_log(&mut self, number: u64) -> Result<(), Error> {
        let path = log_path(&self.dir, number);
        let file = File::create(&path).map_err(|e| table_error("create", &path, e))?;
        self.log = Some(file);
        self.log_len = 0;
        self.log_number = number;
        Ok(())
    }

    /// Changes after `seq` go to a new file; files that the durable position covers are removed.
    pub(super) fn rotate(&mut self, seq: Seq, durable: Seq) -> Result<(), Error> {
        let dir = &self.dir;
        let base = self.words.load(WORD_BASE).max(durable.0);
        self.words.store(WORD_BASE, base);
        self.older.retain(|&(number, last)| {
            last > durable || std::fs::remove_file(log_path(dir, number)).is_err()
        });
        if self.log_len > 0 {
            let full = self.log_number;
            self.start_log(full + 1)?;
            self.older.push((full, seq));
        }
        Ok(())
    }

    /// Bytes of changes kept.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_len
    }

    /// An operation begins.
    pub(super) fn intend(&self, seq: Seq) {
        self.words.store(WORD_INTENT, seq.0);
    }

    /// An operation is done and its changes are noted.
    pub(super) fn done(&self, seq: Seq) {
        self.words.store(WORD_DONE, seq.0);
    }

    /// A checkpoint must come before the next operation, also after a crash of the process.
    pub(super) fn set_barrier(&self, stands: bool) {
        self.words.store(WORD_BARRIER, u64::from(stands));
    }

    /// Appends one operation's changes. A failed write is overwritten by the next.
    pub(super) fn note(
        &mut self,
        seq: Seq,
        meta: Option<&Meta>,
        changes: impl Iterator<Item = Change>,
    ) -> Result<(), Error> {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
        buffer.extend_from_slice(&seq.0.to_le_bytes());
        let meta = meta.map(Meta::encode).unwrap_or_default();
        buffer.extend_from_slice(&(meta.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&meta);
        for (id, held) in changes {
            buffer.extend_from_slice(&encode_id(id));
            buffer.push(u8::from(held.is_some()));
            buffer.extend_from_slice(&held.map_or([0; HELD_BYTES], |held| held.encode()));
        }
        let length = (buffer.len() - RECORD_HEAD_BYTES) as u32;
        let crc = crc32c::crc32c(&buffer[RECORD_HEAD_BYTES..]);
        buffer[..4].copy_from_slice(&length.to_le_bytes());
        buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        let path = log_path(&self.dir, self.log_number);
        let Some(log) = &self.log else {
            let missing = io::Error::from_raw_os_error(libc::EBADF);
            return Err(table_error("write", &path, missing));
        };
        log.write_all_at(buffer, self.log_len)
            .map_err(|e| table_error("write", &path, e))?;
        self.log_len += buffer.len() as u64;
        Ok(())
    }
}

/// The record that begins `bytes`, and what follows it; `None` at the end or where it is torn.
fn parse_record(bytes: &[u8]) -> Option<(Noted, &[u8])> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let crc = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES.checked_add(length)?)?;
    if crc32c::crc32c(body) != crc {
        return None;
    }
    let seq = Seq(u64::from_le_bytes(*body.first_chunk()?));
    let meta_len = u32::from_le_bytes(*body.get(8..)?.first_chunk()?) as usize;
    let meta = body.get(12..12usize.checked_add(meta_len)?)?;
    let mut changes = Vec::new();
    for entry in body.get(12 + meta_len..)?.chunks_exact(CHANGE_BYTES) {
        let id = decode_id(entry.get(..ID_BYTES)?)?;
        let held = match entry.get(ID_BYTES)? {
            0 => None,
            _ => Some(Held::decode(entry.get(ID_BYTES + 1..)?)?),
        };
        changes.push((id, held));
    }
    let noted = Noted {
        seq,
        meta: if meta.is_empty() {
            None
        } else {
            Some(Meta::decode(meta)?)
        },
        changes,
    };
    Some((noted, &bytes[RECORD_HEAD_BYTES + length..]))
}
