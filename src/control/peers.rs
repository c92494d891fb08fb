//! What is asked and told about who may come in.

use serde::{Deserialize, Serialize};

/// A text that is told once, to who asked, and never shown otherwise.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Limits of a source; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TermsChange {
    /// Bytes that its replicas may take; 0 is no limit.
    pub quota_bytes: Option<u64>,
    /// Files and directories in them; 0 is no limit.
    pub quota_files: Option<u64>,
    /// Are device nodes recorded instead of made?
    pub deny_dev: Option<bool>,
    /// Are set-id bits and file capabilities recorded instead of set?
    pub deny_suid: Option<bool>,
}

/// A source that may come in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerLine {
    /// What it is called.
    pub name: String,
    /// Its number.
    pub id: String,
    /// The fingerprints of its keys.
    pub keys: Vec<String>,
    /// What it may replicate, and to where, for people.
    pub grants: Vec<String>,
    /// Seconds since 1970.
    pub paired_at: u64,
    /// The address that it was paired from.
    pub paired_from: String,
    /// Its sets that are connected now.
    pub connected: Vec<String>,
    /// Bytes that its replicas may take.
    pub quota_bytes: Option<u64>,
    /// Files that may be in them.
    pub quota_files: Option<u64>,
    /// Bytes that they take, where there is a quota.
    pub used_bytes: Option<u64>,
    /// Files that are in them, where there is a quota.
    pub used_files: Option<u64>,
    /// Device nodes are recorded, not made.
    pub deny_dev: bool,
    /// Set-id bits and file capabilities are recorded, not set.
    pub deny_suid: bool,
    /// Does it know the target's next key? None where there is no next key.
    pub knows_next_key: Option<bool>,
}

/// A connection that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusalLine {
    /// Seconds since 1970.
    pub at: u64,
    /// From which address.
    pub from: String,
    /// Why.
    pub text: String,
}

/// Who may come in, and who could not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeersReport {
    /// The fingerprint of the target's key.
    pub key: String,
    /// Of the key that it will have next.
    pub next_key: Option<String>,
    /// Sources that are paired.
    pub peers: Vec<PeerLine>,
    /// The last connections that were refused.
    pub refusals: Vec<RefusalLine>,
    /// How many were refused since the target was started.
    pub refused: u64,
}
