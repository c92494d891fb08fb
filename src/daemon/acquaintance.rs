//! What a target answers about who may come in.

use std::time::Duration;

use crate::control::{
    PeerLine, PeersReport, Refusal, RefusalCode, RefusalLine, Reply, SecretText, TermsChange,
};
use crate::receiver;
use crate::receiver::{Grant, KeyChange, Peer, PeerTerms, Target};
use crate::types::SetName;

/// What an invitation is for.
pub(super) struct Invitation {
    pub(super) set: Option<String>,
    pub(super) path: Option<String>,
    pub(super) terms: TermsChange,
    pub(super) expires_seconds: u64,
}

fn refused(error: &receiver::Error) -> Refusal {
    Refusal::new(RefusalCode::State, error.to_string())
}

fn limit(asked: Option<u64>, now: Option<u64>) -> Option<u64> {
    match asked {
        None => now,
        Some(0) => None,
        Some(limit) => Some(limit),
    }
}

fn changed(terms: PeerTerms, change: TermsChange) -> PeerTerms {
    PeerTerms {
        quota_bytes: limit(change.quota_bytes, terms.quota_bytes),
        quota_files: limit(change.quota_files, terms.quota_files),
        deny_dev: change.deny_dev.unwrap_or(terms.deny_dev),
        deny_suid: change.deny_suid.unwrap_or(terms.deny_suid),
    }
}

pub(super) fn invite(target: &Target, asked: Invitation) -> Result<Reply, Refusal> {
    let set = asked.set.as_deref().map(SetName::new).transpose();
    let set = set.map_err(|e| Refusal::new(RefusalCode::Malformed, e.to_string()))?;
    let grant = Grant {
        set,
        path: asked.path,
    };
    let terms = changed(PeerTerms::default(), asked.terms);
    let expires = Duration::from_secs(asked.expires_seconds);
    let token = target.invite(grant, terms, expires);
    let token = token.map_err(|e| refused(&e))?;
    Ok(Reply::Invited {
        key: token.target.to_string(),
        token: SecretText(token.text().to_string()),
    })
}

pub(super) fn peers(target: &Target) -> Result<Reply, Refusal> {
    let doors = target.doors();
    let lines = doors.peers.iter().map(|peer| line(target, peer)).collect();
    let refusals = doors.refusals.iter().map(|refusal| RefusalLine {
        at: refusal.at,
        from: refusal.from.to_string(),
        text: refusal.text.clone(),
    });
    Ok(Reply::Peers(Box::new(PeersReport {
        key: doors.key.to_string(),
        next_key: doors.next_key.map(|key| key.to_string()),
        peers: lines,
        refusals: refusals.collect(),
        refused: doors.refused,
    })))
}

fn line(target: &Target, peer: &Peer) -> PeerLine {
    let next = target.doors().next_key;
    let streams = target.snapshot().streams;
    let own = streams
        .iter()
        .filter(|s| s.owner.as_deref() == Some(&peer.id));
    let usage = target.usage(&peer.id).unwrap_or_default();
    let has_quota = peer.terms.quota_bytes.or(peer.terms.quota_files).is_some();
    let connected = own.filter(|s| s.peer.is_some());
    PeerLine {
        name: peer.name.clone(),
        id: peer.id.clone(),
        keys: peer.keys.iter().map(ToString::to_string).collect(),
        grants: peer.grants_in_words(),
        paired_at: peer.paired_at,
        paired_from: peer.paired_from.clone(),
        connected: connected.map(|s| s.set.to_string()).collect(),
        quota_bytes: peer.terms.quota_bytes,
        quota_files: peer.terms.quota_files,
        used_bytes: has_quota.then_some(usage.bytes),
        used_files: has_quota.then_some(usage.files),
        deny_dev: peer.terms.deny_dev,
        deny_suid: peer.terms.deny_suid,
        knows_next_key: next.map(|next| peer.told == Some(next)),
    }
}

pub(super) fn revoke(target: &Target, name: &str) -> Result<Reply, Refusal> {
    let peer = target.revoke(name).map_err(|e| refused(&e))?;
    Ok(Reply::Peer(Box::new(line(target, &peer))))
}

pub(super) fn set(target: &Target, name: &str, change: TermsChange) -> Result<Reply, Refusal> {
    let peer = target.set_terms(name, |terms| *terms = changed(*terms, change));
    let peer = peer.map_err(|e| refused(&e))?;
    Ok(Reply::Peer(Box::new(line(target, &peer))))
}

pub(super) fn rotate(target: &Target, finish: bool, force: bool) -> Result<Reply, Refusal> {
    let change = target.rotate_key(finish, force).map_err(|e| refused(&e))?;
    Ok(match change {
        KeyChange::Announced { next, untold } => Reply::KeyRotated {
            key: next.to_string(),
            finished: false,
            untold,
        },
        KeyChange::Changed { key } => Reply::KeyRotated {
            key: key.to_string(),
            finished: true,
            untold: Vec::new(),
        },
    })
}
