//! Whose a state directory is.

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::sys::{self, NotPrivate};

/// What a state directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A protected directory.
    Source,
    /// A target.
    Target,
}

/// The content of `<state>/owner.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOwner {
    /// Version of this file: 1.
    pub version: u32,
    /// What the directory is for.
    pub role: Role,
    /// The set's name, or `target`.
    pub name: String,
    /// The protected directory, or the target's root.
    pub path: PathBuf,
}

/// Why a state directory is not for us. It was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It has files in it that are not ours.
    #[error(
        "state directory {dir} is not empty and is no state directory of doppelfs (no {file} in \
         it); give another with --state"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        file: &'static str,
    },
    /// It belongs to another set, directory or target.
    #[error(
        "state directory {dir} belongs to {owner}, not to {wanted}; give another with --state, or \
         remove it to start over with a full mirror"
    )]
    Other {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: String,
        /// Whose it should be.
        wanted: String,
    },
    /// Another version wrote it.
    #[error(
        "state directory {dir} has version {version}, this doppelfs knows 1; use the other one"
    )]
    Version {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Its owner's file is damaged.
    #[error(
        "{path} is damaged: {reason}; remove the state directory to start over with a full mirror"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not, and cannot simply be made, for this user alone.
    #[error("state: {0}")]
    Exposed(#[source] NotPrivate),
    /// A call of the system failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl From<NotPrivate> for StateError {
    fn from(error: NotPrivate) -> StateError {
        match error {
            NotPrivate::Io {
                operation,
                path,
                source,
            } => StateError::Io {
                operation,
                path,
                source,
            },
            other @ (NotPrivate::Owner { .. }
            | NotPrivate::Writable { .. }
            | NotPrivate::Shared { .. }) => StateError::Exposed(other),
        }
    }
}

const OWNER_FILE: &str = "owner.json";

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        operation,
        path,
        source,
    }
}

impl StateOwner {
    /// Who uses it.
    pub fn new(role: Role, name: &str, path: &Path) -> StateOwner {
        StateOwner {
            version: 1,
            role,
            name: name.to_owned(),
            path: path.to_owned(),
        }
    }

    fn describe(&self) -> String {
        match self.role {
            Role::Source => format!("set {} ({})", self.name, self.path.display()),
            Role::Target => format!("the target with root {}", self.path.display()),
        }
    }
}

/// Makes `dir` (0700) the state directory of `owner`, or finds that it is already.
///
/// # Errors
/// [`StateError`]; the directory is then as it was.
pub fn claim_state(dir: &Path, owner: &StateOwner) -> Result<(), StateError> {
    let path = dir.join(OWNER_FILE);
    // What is wider than it should be is closed only when it is ours.
    let is_state = path.is_file();
    let is_known = |name: &OsStr| is_state || is_ours(name);
    match sys::make_private_dir(dir, false, is_known) {
        Ok(_) => {}
        Err(NotPrivate::Shared { .. }) => {
            return Err(StateError::Foreign {
                dir: dir.to_owned(),
                file: OWNER_FILE,
            });
        }
        Err(other) => return Err(other.into()),
    }
    match std::fs::read(&path) {
        Ok(text) => return compare(dir, &path, &text, owner),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(io("read", &path)(e)),
    }
    let mut entries = std::fs::read_dir(dir).map_err(io("read", dir))?;
    if entries.any(|e| e.is_ok_and(|e| !is_ours(&e.file_name()))) {
        return Err(StateError::Foreign {
            dir: dir.to_owned(),
            file: OWNER_FILE,
        });
    }
    let fresh = dir.join("owner.json.new");
    let text = serde_json::to_string_pretty(owner).unwrap_or_default() + "\n";
    File::create(&fresh)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .map_err(io("write", &fresh))?;
    std::fs::rename(&fresh, &path).map_err(io("rename", &fresh))?;
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(io("sync", dir))
}

fn is_ours(name: &OsStr) -> bool {
    name == "owner.json.new" || name == "lost+found"
}

/// Makes the directory of a set's queue, 0700; it holds what is written to files.
///
/// # Errors
/// [`StateError::Exposed`].
pub fn claim_queue(dir: &Path) -> Result<(), StateError> {
    let is_queue = dir.join("seg").is_dir();
    sys::make_private_dir(dir, false, |_| is_queue)?;
    Ok(())
}

fn compare(dir: &Path, path: &Path, text: &[u8], wanted: &StateOwner) -> Result<(), StateError> {
    let found: StateOwner = serde_json::from_slice(text).map_err(|e| StateError::Damaged {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    if found.version != 1 {
        return Err(StateError::Version {
            dir: dir.to_owned(),
            version: found.version,
        });
    }
    if found == *wanted {
        return Ok(());
    }
    Err(StateError::Other {
        dir: dir.to_owned(),
        owner: found.describe(),
        wanted: wanted.describe(),
    })
}
