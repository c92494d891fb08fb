//! The target's own key, and its successor.

use std::path::{Path, PathBuf};

use crate::keys::{Fingerprint, Key};
use crate::wire::Acceptor;

use super::error::{Error, state as failed};

/// What has become of a change of the target's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// The next key is told to each source that connects.
    Announced {
        /// It.
        next: Fingerprint,
        /// Sources that have not been told yet.
        untold: Vec<String>,
    },
    /// It is used.
    Changed {
        /// It.
        key: Fingerprint,
    },
}

/// The target's keys.
pub(super) struct OwnKeys {
    pub(super) own: Key,
    pub(super) next: Option<Key>,
    pub(super) acceptor: Acceptor,
}

fn path(state: &Path) -> PathBuf {
    state.join("key")
}

fn next_path(state: &Path) -> PathBuf {
    state.join("key.next")
}

fn keys_failed(source: crate::keys::Error) -> Error {
    Error::Keys { source }
}

impl OwnKeys {
    /// Those of a state directory; a key is made where there is none.
    pub(super) fn load(state: &Path) -> Result<OwnKeys, Error> {
        let own = Key::load_or_create(&path(state)).map_err(keys_failed)?;
        let next = Key::load(&next_path(state)).map_err(keys_failed)?;
        let acceptor = Acceptor::new(&own).map_err(|source| Error::Wire { source })?;
        Ok(OwnKeys {
            own,
            next,
            acceptor,
        })
    }

    /// The next key, made where there is none.
    pub(super) fn next(state: &Path) -> Result<Key, Error> {
        Key::load_or_create(&next_path(state)).map_err(keys_failed)
    }

    /// Puts the next key in the place of the one in use.
    pub(super) fn switch(state: &Path) -> Result<OwnKeys, Error> {
        let (next, now) = (next_path(state), path(state));
        std::fs::rename(&next, &now).map_err(failed("rename", &next))?;
        let opened = std::fs::File::open(state).map_err(failed("open", state))?;
        opened.sync_all().map_err(failed("flush", state))?;
        OwnKeys::load(state)
    }
}
