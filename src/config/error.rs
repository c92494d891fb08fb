//! Options that cannot be.

use crate::types::NameError;
use crate::wire::AddressError;

/// What is wrong with what was asked for. Nothing was looked at yet, nothing changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// No such key.
    #[error("unknown mount option {key:?}{}", near(.nearest.as_deref()))]
    UnknownKey {
        /// As given.
        key: String,
        /// The key that looks most like it.
        nearest: Option<String>,
    },
    /// The key needs a value.
    #[error("mount option {key:?} needs a value: {key}=...")]
    ValueMissing {
        /// The key.
        key: String,
    },
    /// The key takes none.
    #[error("mount option {key:?} takes no value, got {value:?}")]
    ValueUnexpected {
        /// The key.
        key: String,
        /// What it was given.
        value: String,
    },
    /// The value is none that the key can have.
    #[error("{key}: {value:?} is not {expected}")]
    Value {
        /// The key.
        key: String,
        /// What it was given.
        value: String,
        /// What it could be given.
        expected: String,
    },
    /// A quote in `-o` has no end.
    #[error("mount options {0:?}: a '\"' is opened and not closed")]
    OpenQuote(String),
    /// Not an address of a target.
    #[error(transparent)]
    Target(#[from] AddressError),
    /// No name for the set was given and the directory's own cannot be one.
    #[error("{0}; give another with --set NAME")]
    SetName(NameError),
    /// The name is kept for the sockets of targets.
    #[error(
        "set name {0:?} is kept for the control sockets of targets; give another with --set NAME"
    )]
    SetNameTaken(String),
    /// The two directories are needed as absolute paths and the current one cannot be found.
    #[error(
        "cannot make {path:?} absolute ({reason}); give an absolute path, or enter a current \
         directory that exists"
    )]
    NotAbsolute {
        /// As given.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Links into a directory are remapped by its path as text.
    #[error(
        "remap-links: {path:?} is no UTF-8; mount without it, or give the directory another name"
    )]
    RemapPath {
        /// The path.
        path: String,
    },
    /// Something that is planned.
    #[error("{what} is not built yet: {instead}; see the status table in README.md")]
    NotBuilt {
        /// What was asked for.
        what: &'static str,
        /// What to do now.
        instead: &'static str,
    },
    /// Plain TCP to another machine.
    #[error(
        "target {0:?}: --insecure-loopback sends without authentication and encryption, so it is \
         for loopback addresses only (127.0.0.1, [::1], localhost); for another host leave it out and pair \
         with the target: `doppelfs target invite` there, `doppelfs pair HOST:PORT TOKEN` here"
    )]
    NotLoopback(String),
}

fn near(nearest: Option<&str>) -> String {
    match nearest {
        Some(key) => format!("; did you mean {key:?}?"),
        None => "; `man doppelfs` lists them".to_owned(),
    }
}
