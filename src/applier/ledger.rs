//! The map as of the last checkpoint, durable: one batch, one flush.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{FileId, Generation, Ino, Position, RootId, Scope};

use super::error::{Cause, Error};
use super::map::{Change, Held};

/// A mirror under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mirror {
    pub(super) number: u64,
    pub(super) scope: Scope,
    pub(super) done_items: u64,
}

/// What a checkpoint says besides the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Everything up to here is durable on the replica; `None`: nothing is known.
    pub(super) position: Option<Position>,
    /// Binds the table on the tmpfs to this ledger.
    pub(super) token: u64,
    /// See `Map::epoch`.
    pub(super) epoch: u32,
    /// A mirror is under way or required: the replica is no prefix.
    pub(super) lenient: bool,
    pub(super) mirror: Option<Mirror>,
    /// The source's root directory.
    pub(super) root: Option<FileId>,
    /// The position was set anew: only a full mirror may follow.
    pub(super) jump: bool,
    /// Nothing was applied after `position`: the applier was closed in order.
    pub(super) clean: bool,
}

impl Meta {
    /// Of a replica that was never written to.
    pub(super) fn fresh(token: u64) -> Meta {
        Meta {
            position: None,
            token,
            epoch: 1,
            lenient: true,
            mirror: None,
            root: None,
            jump: false,
            clean: false,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain fields always encode into memory.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Meta> {
        rmp_serde::from_slice(bytes).ok()
    }
}

/// Bytes of an encoded id.
pub(super) const ID_BYTES: usize = 18;

/// Big-endian, so that a store sorted by bytes is sorted by id.
pub(super) fn encode_id(id: FileId) -> [u8; ID_BYTES] {
    let mut bytes = [0; ID_BYTES];
    bytes[..2].copy_from_slice(&id.root.0.to_be_bytes());
    bytes[2..10].copy_from_slice(&id.ino.0.to_be_bytes());
    bytes[10..].copy_from_slice(&id.generation.0.to_be_bytes());
    bytes
}

pub(super) fn decode_id(bytes: &[u8]) -> Option<FileId> {
    let bytes: &[u8; ID_BYTES] = bytes.try_into().ok()?;
    Some(FileId {
        root: RootId(u16::from_be_bytes(*bytes.first_chunk()?)),
        ino: Ino(u64::from_be_bytes(*bytes[2..].first_chunk()?)),
        generation: Generation(u64::from_be_bytes(*bytes[10..].first_chunk()?)),
    })
}

/// Where checkpoints are kept. `commit` is atomic and durable when it returns.
pub trait Ledger: Send + Sync {
    /// Hands over every entry; `None` when nothing was ever committed.
    ///
    /// # Errors
    /// [`Error::Ledger`].
    fn load(&self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, Error>;

    /// Takes changes and position, all or nothing.
    ///
    /// # Errors
    /// [`Error::Ledger`]: the last checkpoint stays valid.
    fn commit(&self, changes: &[Change], meta: &Meta) -> Result<(), Error>;
}

/// The ledger in a sled tree: `m` for the meta, `i` + id for each entry.
#[derive(Debug)]
pub struct SledLedger {
    db: sled::Db,
    path: PathBuf,
}

const META_KEY: &[u8] = b"m";
const SLED_CACHE_BYTES: u64 = 16 << 20;
const LOCK_TRIES_MAX: usize = 100;
const LOCK_WAIT: Duration = Duration::from_millis(20);

impl SledLedger {
    /// Opens or creates `path`. One that is damaged is set aside: then nothing was ever committed.
    ///
    /// # Errors
    /// [`Error::Ledger`].
    pub fn open(path: &Path) -> Result<SledLedger, Error> {
        let failed = |source: std::io::Error| ledger_error("open", path, source.into());
        remove_unfinished(path).map_err(failed)?;
        let db = match open_sled(path) {
            Ok(db) => db,
            Err(sled::Error::Io(source)) => return Err(failed(source)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the map of the replica is damaged and set aside: a full mirror follows");
                set_aside(path).map_err(failed)?;
                open_sled(path).map_err(|source| ledger_error("open", path, source.into()))?
            }
        };
        Ok(SledLedger {
            db,
            path: path.to_owned(),
        })
    }

    fn fail(&self, operation: &'static str, source: Cause) -> Error {
        ledger_error(operation, &self.path, source)
    }
}

/// Removes snapshots that sled has begun and not finished: it writes one at each opening, and takes an
/// unfinished one, as a full disk leaves it, for the newest.
fn remove_unfinished(path: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_unfinished = name
            .to_str()
            .is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"));
        if is_unfinished {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn set_aside(path: &Path) -> std::io::Result<()> {
    let aside = path.with_extension("aside");
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::rename(path, aside)
}

fn open_sled(path: &Path) -> Result<sled::Db, sled::Error> {
    let config = sled::Config::default()
        .path(path)
        .cache_capacity(SLED_CACHE_BYTES)
        .flush_every_ms(None);
    // sled panics on some damages.
    let open = || {
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
        opened.unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".into())))
    };
    let mut opened = open();
    // A ledger closed just now (by this process or one that ends) keeps its lock for a moment.
    for _ in 0..LOCK_TRIES_MAX {
        match &opened {
            Err(sled::Error::Io(e)) if e.to_string().contains("acquire lock") => {
                std::thread::sleep(LOCK_WAIT);
                opened = open();
            }
            _ => break,
        }
    }
    opened
}

fn ledger_error(operation: &'static str, path: &Path, source: Cause) -> Error {
    Error::Ledger {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn id_key(id: FileId) -> [u8; ID_BYTES + 1] {
    let mut key = [b'i'; ID_BYTES + 1];
    key[1..].copy_from_slice(&encode_id(id));
    key
}

impl Ledger for SledLedger {
    fn load(&self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, Error> {
        let meta = self.db.get(META_KEY);
        let Some(meta) = meta.map_err(|e| self.fail("read", e.into()))? else {
            return Ok(None);
        };
        let meta = Meta::decode(&meta);
        let meta = meta.ok_or_else(|| self.fail("decode", "position is damaged".into()))?;
        for pair in self.db.scan_prefix(b"i") {
            let (key, value) = pair.map_err(|e| self.fail("read", e.into()))?;
            let entry = decode_id(&key[1..]).zip(Held::decode(&value));
            let (id, held) =
                entry.ok_or_else(|| self.fail("decode", "an entry is damaged".into()))?;
            each((id, Some(held)));
        }
        Ok(Some(meta))
    }

    fn commit(&self, changes: &[Change], meta: &Meta) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for (id, held) in changes {
            match held {
                Some(held) => batch.insert(&id_key(*id), &held.encode()),
                None => batch.remove(&id_key(*id)),
            }
        }
        batch.insert(META_KEY, meta.encode());
        let written = self.db.apply_batch(batch);
        written.map_err(|e| self.fail("write", e.into()))?;
        let flushed = self.db.flush();
        flushed.map(drop).map_err(|e| self.fail("flush", e.into()))
    }
}
