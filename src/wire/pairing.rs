//! The messages by which two become acquainted: they stand in the place of a `Hello`, inside of TLS.

use serde::{Deserialize, Serialize};

use crate::keys::{Fingerprint, Secret};

/// Longest name that a source may give itself.
pub const PEER_NAME_BYTES_MAX: usize = 64;

/// A source bears an invitation. The key that it showed in the handshake is the one to be known from here
/// on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The protocol version, as in the first bytes.
    pub protocol: u16,
    /// From the token.
    pub secret: Secret,
    /// What it would be called: its host name.
    pub name: String,
}

/// The source will show this key instead of the one that it shows now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekey {
    /// The protocol version, as in the first bytes.
    pub protocol: u16,
    /// The fingerprint of its next key; of the one in use to have all others forgotten.
    pub next: Fingerprint,
    /// The next key (SubjectPublicKeyInfo), where it is another than the one in use.
    #[serde(default, with = "serde_bytes")]
    pub public: Vec<u8>,
    /// Signed by it: that it follows the one in use.
    #[serde(default, with = "serde_bytes")]
    pub proof: Vec<u8>,
}

/// The target knows the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// The target's host name.
    pub target: String,
    /// The name that the source is known by there.
    pub known_as: String,
    /// What it may replicate, and to where, for people.
    pub grants: Vec<String>,
    /// The key that the target will have after the one it has.
    #[serde(default)]
    pub next_key: Option<Fingerprint>,
}
