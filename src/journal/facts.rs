//! Small durable facts: one file each, a copy in the index.
//!
//! A file holds magic "DPK1", crc32c of the value, the value; its name is the key, with bytes other
//! than letters, digits, `-`, `_` and `.` as `%XX`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::{Error, io};
use super::segment::le_u32;
use crate::sync::{Mutex, Rank};

const MAGIC: &[u8; 4] = b"DPK1";
const KEY_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 64 << 10;

/// The facts of an open journal; `None` stands for an unreadable file.
#[derive(Debug)]
pub(super) struct Facts {
    dir: PathBuf,
    /// Rank: journal (never together with the journal's end), so that two puts of a key end in one
    /// order in memory and on disk; I/O happens under it.
    values: Mutex<BTreeMap<String, Option<Vec<u8>>>>,
}

impl Facts {
    /// Reads all of them.
    pub(super) fn open(dir: &Path) -> Result<Facts, Error> {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io("create", dir)(e));
            }
            _ => {}
        }
        let mut values = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(io("list", dir))? {
            let entry = entry.map_err(io("list", dir))?;
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(unescape) else {
                // What a crash left of a put.
                let _ = std::fs::remove_file(entry.path());
                continue;
            };
            let path = entry.path();
            let bytes = std::fs::read(&path).map_err(io("read", &path))?;
            values.insert(key, decode(&bytes));
        }
        Ok(Facts {
            dir: dir.to_path_buf(),
            values: Mutex::new(Rank::Journal, values),
        })
    }

    /// Replaces unreadable values by the index's.
    pub(super) fn mend(&self, copy_of: impl Fn(&str) -> Option<Vec<u8>>) -> Result<(), Error> {
        let damaged: Vec<String> = {
            let values = self.values.lock();
            let gone = values.iter().filter(|(_, value)| value.is_none());
            gone.map(|(key, _)| key.clone()).collect()
        };
        for key in damaged {
            if let Some(value) = copy_of(&key) {
                tracing::warn!(key, "fact was damaged, taken from the index");
                self.put(&key, &value)?;
            }
        }
        Ok(())
    }

    /// Stores durably: written beside, flushed, renamed, directory flushed.
    pub(super) fn put(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        let refuse = |reason| Error::Fact {
            key: key.to_owned(),
            reason,
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(refuse("a key has 1 to 64 bytes"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(refuse("a value has at most 64 KiB"));
        }
        let mut values = self.values.lock();
        if values.get(key).and_then(Option::as_deref) == Some(value) {
            return Ok(());
        }
        let path = self.dir.join(escape(key));
        let beside = self.dir.join("%new");
        write_durably(&beside, value).map_err(io("write", &beside))?;
        std::fs::rename(&beside, &path).map_err(io("rename", &path))?;
        sync_dir(&self.dir)?;
        values.insert(key.to_owned(), Some(value.to_vec()));
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.values.lock().get(key) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value.clone())),
            Some(None) => Err(Error::FactDamaged {
                key: key.to_owned(),
            }),
        }
    }

    /// All that can be read.
    pub(super) fn all(&self) -> Vec<(String, Vec<u8>)> {
        let values = self.values.lock();
        let readable = values.iter();
        let pairs = readable.filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        pairs.collect()
    }
}

/// fsync(2) of a directory: its entries are durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let opened = File::open(dir).map_err(io("open", dir))?;
    opened.sync_all().map_err(io("flush", dir))
}

fn write_durably(path: &Path, value: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
    bytes.extend_from_slice(value);
    file.write_all(&bytes)?;
    file.sync_all()
}

fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let value = bytes.get(8..)?;
    let fine = bytes.starts_with(MAGIC) && le_u32(bytes, 4) == crc32c::crc32c(value);
    fine.then(|| value.to_vec())
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for byte in key.bytes() {
        if is_plain(byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else if is_plain(byte) {
            bytes.push(byte);
            rest = after;
        } else {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}
