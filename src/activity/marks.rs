//! The files of the activity log, and what a start reads of them.
//!
//! # A file of it: `EPOCH` in hexadecimal, integers little-endian
//! ```text
//!   0  u32      magic "DFA1"
//!   4  u32      0
//!   8  u64      epoch
//!  16  u64      since: realtime when it was made, or from when on changes were still to be looked for
//!  24  u128     instance of the source's state
//!  40  u64      inode number of this file: a copy is not it
//!  48  u64      when this file was made, in nanoseconds since 1970, 0 where the file system does not tell: a copy may
//!               have got the number of a file that is gone
//!  56  4 bytes  0
//!  60  u32      crc32c of bytes 0..60
//!  64  32 bytes a mark: u64 ino, u64 generation, u64 epoch, u16 root, u16 1 (0: everything), u32 crc32c
//! ```
//! Marks of one epoch stand without a hole. What follows the first that is none was never acknowledged;
//! a valid one behind it, however, shows damage, and damage puts everything in doubt.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::types::{FileId, Generation, Ino, RootId};

const MAGIC: &[u8; 4] = b"DFA1";
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const MARK_BYTES: usize = 32;

/// What survived of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The marked files and directories.
    pub ids: Vec<FileId>,
    /// It says that anything may be lost, or is damaged.
    pub everything: bool,
    /// What was made in a marked directory has a `ctime` that is not before this (nanoseconds since 1970).
    pub since_ns: u64,
}

/// What a start finds of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survived {
    /// None, a damaged one, or a copy: the state is not as the last run left it.
    Nothing,
    /// One that says what may be lost.
    Marks(Marks),
}

/// What a log in `dir` says.
pub fn read_log(dir: &Path, instance: u128) -> Survived {
    read_all(dir, instance).unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "the activity log cannot be read");
        Survived::Nothing
    })
}

fn read_all(dir: &Path, instance: u128) -> io::Result<Survived> {
    let mut ids = Vec::new();
    let mut since_ns = u64::MAX;
    let mut everything = false;
    for (epoch, path) in epochs(dir)? {
        let Some(mut read) = read_epoch(&path, epoch, instance)? else {
            tracing::warn!(path = %path.display(), "this file of the activity log is damaged, or a copy");
            return Ok(Survived::Nothing);
        };
        everything |= read.everything;
        ids.append(&mut read.ids);
        since_ns = since_ns.min(read.since_ns);
    }
    ids.sort_unstable();
    ids.dedup();
    // While a set is served there is always a file.
    Ok(match since_ns {
        u64::MAX => Survived::Nothing,
        since_ns => Survived::Marks(Marks {
            ids,
            everything,
            since_ns,
        }),
    })
}

/// Which file it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    ino: u64,
    made_ns: u64,
}

impl Own {
    pub(super) fn of(metadata: &Metadata) -> Own {
        let made = metadata.created().ok();
        let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let made_ns = made.and_then(|made| u64::try_from(made.as_nanos()).ok());
        Own {
            ino: metadata.ino(),
            made_ns: made_ns.unwrap_or(0),
        }
    }
}

/// One file; `None`: damaged, or a copy.
pub(super) fn read_epoch(path: &Path, epoch: u64, instance: u128) -> io::Result<Option<Marks>> {
    let own = Own::of(&std::fs::metadata(path)?);
    let bytes = std::fs::read(path)?;
    let Some(since_ns) = decode_header(&bytes, epoch, instance, own) else {
        return Ok(None);
    };
    let mut ids = Vec::new();
    let everything = !decode_marks(&bytes, epoch, &mut ids);
    Ok(Some(Marks {
        ids,
        everything,
        since_ns,
    }))
}

/// Nobody gets there by counting; up to here there is always a next one.
const EPOCH_MAX: u64 = u64::MAX / 2;

/// The files in order; names that are none are not looked at, as an epoch's file has its name from its
/// beginning on.
pub(super) fn epochs(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let epoch = name.to_str().filter(|name| name.len() == 16);
        let epoch = epoch.and_then(|name| u64::from_str_radix(name, 16).ok());
        if let Some(epoch) = epoch.filter(|epoch| *epoch <= EPOCH_MAX) {
            found.push((epoch, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn encode_header(
    epoch: u64,
    since_ns: u64,
    instance: u128,
    own: Own,
) -> [u8; HEADER_BYTES] {
    let mut bytes = [0u8; HEADER_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
    bytes[16..24].copy_from_slice(&since_ns.to_le_bytes());
    bytes[24..40].copy_from_slice(&instance.to_le_bytes());
    bytes[40..48].copy_from_slice(&own.ino.to_le_bytes());
    bytes[48..56].copy_from_slice(&own.made_ns.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_header(bytes: &[u8], epoch: u64, instance: u128, own: Own) -> Option<u64> {
    let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
    let since_ns = u64::from_le_bytes(*bytes[16..].first_chunk()?);
    (*bytes == encode_header(epoch, since_ns, instance, own)).then_some(since_ns)
}

pub(super) fn encode_mark(id: Option<FileId>, epoch: u64) -> [u8; MARK_BYTES] {
    let mut bytes = [0u8; MARK_BYTES];
    if let Some(id) = id {
        bytes[..8].copy_from_slice(&id.ino.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.generation.0.to_le_bytes());
        bytes[24..26].copy_from_slice(&id.root.0.to_le_bytes());
        bytes[26] = 1;
    }
    bytes[16..24].copy_from_slice(&epoch.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `None`: no mark of this epoch; `Some(None)`: everything.
fn decode_mark(bytes: &[u8], epoch: u64) -> Option<Option<FileId>> {
    let bytes = bytes.first_chunk::<MARK_BYTES>()?;
    let number = |at: usize| Some(u64::from_le_bytes(*bytes[at..].first_chunk()?));
    // Most of a file is room for marks: not worth a checksum.
    if number(16)? != epoch {
        return None;
    }
    let id = FileId {
        root: RootId(u16::from_le_bytes([bytes[24], bytes[25]])),
        ino: Ino(number(0)?),
        generation: Generation(number(8)?),
    };
    let id = (bytes[26] != 0).then_some(id);
    (*bytes == encode_mark(id, epoch)).then_some(id)
}

/// False: everything is in doubt.
fn decode_marks(bytes: &[u8], epoch: u64, ids: &mut Vec<FileId>) -> bool {
    let mut marks = bytes[HEADER_BYTES..].chunks_exact(MARK_BYTES);
    for mark in marks.by_ref() {
        match decode_mark(mark, epoch) {
            Some(Some(id)) => ids.push(id),
            Some(None) => return false,
            None => break,
        }
    }
    marks.all(|mark| decode_mark(mark, epoch).is_none())
}
