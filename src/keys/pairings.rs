//! The targets that a source host is paired with.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys;

use super::error::{Error, io};
use super::files::{ensure_private_dir, read_private, write_private};
use super::key::{Fingerprint, Key};

const VERSION: u32 = 1;

/// A target that this host is paired with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairedTarget {
    /// `host:port`, as it is given to `--target`.
    pub endpoint: String,
    /// The target's host name, as it said.
    pub name: String,
    /// The keys that it may answer with: one, or two while it changes them.
    pub keys: Vec<Fingerprint>,
    /// The name that it knows this host by.
    pub known_as: String,
    /// When they were paired: seconds since 1970.
    pub paired_at: u64,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    version: u32,
    targets: Vec<PairedTarget>,
}

/// The directory of a source host's key and pairings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairings {
    dir: PathBuf,
}

impl Pairings {
    /// Those of `dir`. Nothing is read yet.
    pub fn of(dir: &Path) -> Pairings {
        let dir = dir.to_owned();
        Pairings { dir }
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn list_path(&self) -> PathBuf {
        self.dir.join("targets.json")
    }

    fn key_path(&self) -> PathBuf {
        self.dir.join("key")
    }

    fn next_key_path(&self) -> PathBuf {
        self.dir.join("key.next")
    }

    /// Waits until nobody else changes anything, and keeps others waiting as long as the file lives.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Foreign`].
    pub fn lock(&self) -> Result<File, Error> {
        ensure_private_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io("open", &path))?;
        sys::flock_wait(file.as_fd()).map_err(io("lock", &path))?;
        Ok(file)
    }

    /// This host's key; made where there is none. Call it under [`Pairings::lock`].
    ///
    /// # Errors
    /// As [`Key::load_or_create`].
    pub fn own_key(&self) -> Result<Key, Error> {
        Key::load_or_create(&self.key_path())
    }

    /// This host's key, where there is one.
    ///
    /// # Errors
    /// As [`Key::load`].
    pub fn key(&self) -> Result<Option<Key>, Error> {
        Key::load(&self.key_path())
    }

    /// The key that is to follow; made where there is none. Call it under [`Pairings::lock`].
    ///
    /// # Errors
    /// As [`Key::load_or_create`].
    pub fn next_key(&self) -> Result<Key, Error> {
        Key::load_or_create(&self.next_key_path())
    }

    /// Uses the next key from here on. Call it under [`Pairings::lock`].
    ///
    /// # Errors
    /// [`Error::Io`]; the old one is then still used.
    pub fn switch_key(&self) -> Result<(), Error> {
        let (next, now) = (self.next_key_path(), self.key_path());
        std::fs::rename(&next, &now).map_err(io("rename", &next))?;
        let opened = File::open(&self.dir).map_err(io("open", &self.dir))?;
        opened.sync_all().map_err(io("flush", &self.dir))
    }

    /// Every target that this host is paired with.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`], and those of [`read_private`].
    pub fn list(&self) -> Result<Vec<PairedTarget>, Error> {
        let path = self.list_path();
        let Some(bytes) = read_private(&path)? else {
            return Ok(Vec::new());
        };
        let listed: Listed = serde_json::from_slice(&bytes).map_err(|source| Error::Damaged {
            path: path.clone(),
            source,
        })?;
        match listed.version {
            VERSION => Ok(listed.targets),
            version => Err(Error::Version { path, version }),
        }
    }

    /// The pairing with a target.
    ///
    /// # Errors
    /// [`Error::NotPaired`], and as [`Pairings::list`].
    pub fn find(&self, endpoint: &str) -> Result<PairedTarget, Error> {
        let listed = self.list()?;
        let found = listed
            .into_iter()
            .find(|target| target.endpoint == endpoint);
        found.ok_or_else(|| Error::NotPaired {
            endpoint: endpoint.to_owned(),
        })
    }

    /// Changes the list durably. Call it under [`Pairings::lock`].
    ///
    /// # Errors
    /// As [`Pairings::list`] and [`write_private`].
    pub fn change(&self, change: impl FnOnce(&mut Vec<PairedTarget>)) -> Result<(), Error> {
        let path = self.list_path();
        let mut targets = self.list()?;
        let before = targets.clone();
        change(&mut targets);
        if targets == before {
            return Ok(());
        }
        let version = VERSION;
        let listed = Listed { version, targets };
        let text = serde_json::to_vec_pretty(&listed);
        let text = text.map_err(|source| Error::Damaged {
            path: path.clone(),
            source,
        })?;
        write_private(&path, &text)
    }
}
