//! What a peer may do: which sets, at which mirror paths, how much.

use serde::{Deserialize, Serialize};

use crate::applier::Limits;
use crate::types::SetName;
use crate::wire::RefuseCode;

use super::error::Error;
use super::peers::Peer;

/// One thing that a peer may replicate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// This set; `None`: any.
    pub set: Option<SetName>,
    /// To this mirror path below the root (components joined by `/`) or below it; `None`: below the
    /// directory with the peer's name.
    pub path: Option<String>,
}

/// Limits of a peer, over all of its sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerTerms {
    /// Bytes that its replicas may take on disk.
    pub quota_bytes: Option<u64>,
    /// Files, directories and everything else in them.
    pub quota_files: Option<u64>,
    /// Device nodes are recorded, not made.
    pub deny_dev: bool,
    /// Set-id bits and file capabilities are recorded, not set.
    pub deny_suid: bool,
}

impl PeerTerms {
    /// As the appliers take them.
    pub(super) fn limits(self) -> Limits {
        Limits {
            bytes_max: self.quota_bytes,
            files_max: self.quota_files,
            withholds_devices: self.deny_dev,
            withholds_set_id: self.deny_suid,
        }
    }

    /// These, and of `older` what they do not say.
    pub(super) fn over(self, older: PeerTerms) -> PeerTerms {
        PeerTerms {
            quota_bytes: self.quota_bytes.or(older.quota_bytes),
            quota_files: self.quota_files.or(older.quota_files),
            deny_dev: self.deny_dev || older.deny_dev,
            deny_suid: self.deny_suid || older.deny_suid,
        }
    }
}

/// Is `path` the directory `dir`, or below it?
fn is_within(path: &str, dir: &str) -> bool {
    let rest = path.strip_prefix(dir);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Grant {
    fn dir<'a>(&'a self, peer: &'a Peer) -> &'a str {
        self.path.as_deref().unwrap_or(&peer.name)
    }

    fn is_for(&self, set: &SetName) -> bool {
        self.set.as_ref().is_none_or(|only| only == set)
    }

    /// For people.
    pub(super) fn words(&self, peer: &Peer) -> String {
        let set = match &self.set {
            Some(set) => format!("set {set}"),
            None => "any set".to_owned(),
        };
        format!("{set} to {} and below", self.dir(peer))
    }
}

/// A peer's right to a mirror path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Right {
    /// The mirror path.
    pub(super) path: String,
    /// The administrator has named it: what lies there may be taken over from a source that is not paired.
    pub(super) is_named: bool,
}

/// The mirror path that a peer gets for a set: the one it asks for, if it may, or the one that it has.
pub(super) fn right_of(peer: &Peer, set: &SetName, asked: Option<&str>) -> Result<Right, Error> {
    let fitting = peer.grants.iter().filter(|grant| grant.is_for(set));
    match asked {
        Some(path) => {
            let mut within = fitting.filter(|grant| is_within(path, grant.dir(peer)));
            let mut found = within.next().ok_or_else(|| forbidden(peer, set, path))?;
            if found.path.is_none() {
                found = within.find(|grant| grant.path.is_some()).unwrap_or(found);
            }
            Ok(Right {
                path: path.to_owned(),
                is_named: found.path.is_some(),
            })
        }
        None => {
            // What was granted for this set comes first.
            let mut grants: Vec<&Grant> = fitting.collect();
            grants.sort_by_key(|grant| (grant.set.is_none(), grant.path.is_none()));
            let first = grants.first().ok_or_else(|| forbidden(peer, set, ""))?;
            let path = match (&first.set, &first.path) {
                (Some(_), Some(path)) => path.clone(),
                (_, _) => format!("{}/{set}", first.dir(peer)),
            };
            Ok(Right {
                path,
                is_named: first.path.is_some(),
            })
        }
    }
}

fn forbidden(peer: &Peer, set: &SetName, path: &str) -> Error {
    let may: Vec<String> = peer.grants.iter().map(|grant| grant.words(peer)).collect();
    let wish = match path {
        "" => format!("set {set}"),
        path => format!("set {set} to {path}"),
    };
    Error::refuse(
        RefuseCode::Forbidden,
        format!(
            "source {} may not replicate {wish}; it may: {}. To allow more, pair once more with a token of \
             `doppelfs target invite --set {set} --path PATH`",
            peer.name,
            may.join("; ")
        ),
    )
}
