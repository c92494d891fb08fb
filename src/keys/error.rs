//! What can be wrong with keys.

use std::io;
use std::path::PathBuf;

/// What is wrong with keys and the files that hold them. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that holds secrets can be read by others.
    #[error(
        "{} can be read by others (mode {mode:04o}): whoever did may pass for this host; have the key \
         revoked by its peers, remove the file, and pair anew", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file that holds secrets belongs to another user.
    #[error("{} belongs to user {owner}, not to the one who runs this", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A key file holds no key.
    #[error(
        "{} is no Ed25519 key of doppelfs (PKCS #8); restore it from a backup, or remove it and pair anew",
        path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A file of peers cannot be understood.
    #[error("{} is damaged: {source}; restore it from a backup, or remove it and pair anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        source: serde_json::Error,
    },
    /// Another release wrote it.
    #[error("{} has version {version}, this doppelfs knows 1: use the release that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The system gives no random bits.
    #[error("no random bits for a key: {source}")]
    Random {
        /// What the system says.
        source: io::Error,
    },
    /// This host is not paired with the target.
    #[error(
        "not paired with {endpoint}: run `doppelfs target invite` there, and then here `doppelfs pair \
         {endpoint} TOKEN` with the token that it prints"
    )]
    NotPaired {
        /// Host and port of the target.
        endpoint: String,
    },
}

/// For `map_err`.
pub(super) fn io(
    operation: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}
