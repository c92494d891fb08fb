//! Who is known here, what each may write, and who is invited: `<state>/peers.json`.
//!
//! A *peer* is a source host, known by its key. An *invitation* lets one key in, once. What a peer may do
//! are its *grants*: a set or any, at a mirror path and below it. Without a path of its own a grant is for
//! the directory that has the peer's name, so that sources that were just invited never meet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::applier::Terms;
use crate::keys::{Fingerprint, Secret, Token, read_private, write_private};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::wire::{PEER_NAME_BYTES_MAX, RefuseCode};

use super::error::Error;
use super::grants::{Grant, PeerTerms};

const VERSION: u32 = 1;
/// How long the words for a used or expired invitation are kept.
const KEPT_SECONDS: u64 = 30 * 24 * 3600;
/// Invitations kept at most; the oldest go first.
const INVITATION_COUNT_MAX: usize = 256;
/// Peers known at most.
const PEER_COUNT_MAX: usize = 4096;

/// A source host that is known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number, as hexadecimal digits; never given again.
    pub id: String,
    /// What it is called here.
    pub name: String,
    /// Its key, and its next one while it changes it.
    pub keys: Vec<Fingerprint>,
    /// What it may write.
    pub grants: Vec<Grant>,
    /// Its limits.
    #[serde(default)]
    pub terms: PeerTerms,
    /// When it was paired: seconds since 1970.
    pub paired_at: u64,
    /// The address that it was paired from.
    pub paired_from: String,
    /// The target's next key that it has been told.
    #[serde(default)]
    pub told: Option<Fingerprint>,
}

impl Peer {
    /// What it may replicate, and to where, for people.
    pub fn grants_in_words(&self) -> Vec<String> {
        self.grants.iter().map(|grant| grant.words(self)).collect()
    }
}

/// Who has used an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Use {
    at: u64,
    name: String,
    key: Fingerprint,
}

/// An invitation, as its maker remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Invitation {
    /// The hash of its secret.
    hash: Fingerprint,
    made_at: u64,
    expires_at: u64,
    grant: Grant,
    terms: PeerTerms,
    used: Option<Use>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    version: u32,
    peers: Vec<Peer>,
    invitations: Vec<Invitation>,
}

/// Who comes with an invitation.
pub(super) struct Bearer {
    /// The key that it has shown.
    pub(super) key: Fingerprint,
    /// What it would be called.
    pub(super) name: String,
    /// The address that it comes from.
    pub(super) from: String,
    /// There are replicas in the directory of that name whose source is not paired.
    pub(super) meets_unowned: bool,
}

/// The registry.
pub(super) struct Peers {
    path: PathBuf,
    /// Guards the list; it is written to disk under it.
    listed: Mutex<Listed>,
    /// Guards what the streams of each peer, by its number, are under.
    terms: Mutex<BTreeMap<String, Arc<Terms>>>,
}

fn seconds_now() -> u64 {
    sys::realtime_ns() / 1_000_000_000
}

fn keys_failed(source: crate::keys::Error) -> Error {
    Error::Keys { source }
}

/// A time for people, without a calendar: how long ago.
fn ago(at: u64, now: u64) -> String {
    match now.saturating_sub(at) {
        s @ 0..120 => format!("{s} seconds ago"),
        s @ 120..7200 => format!("{} minutes ago", s / 60),
        s @ 7200..172_800 => format!("{} hours ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

fn bad_token(text: String) -> Error {
    Error::refuse(RefuseCode::Token, text)
}

/// May a source be called so? Its name becomes a directory's.
fn check_name(name: &str) -> Result<(), Error> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins_well || name.len() > PEER_NAME_BYTES_MAX || !name.chars().all(is_fine) {
        let text = format!(
            "{name:?} cannot be the name of a source: 1 to {PEER_NAME_BYTES_MAX} letters, digits, '.', '-', '_', \
             a letter or digit first; choose one with `doppelfs pair --name NAME`"
        );
        return Err(Error::refuse(RefuseCode::Forbidden, text));
    }
    Ok(())
}

impl Peers {
    /// Those of a state directory.
    pub(super) fn load(state: &Path) -> Result<Peers, Error> {
        let path = state.join("peers.json");
        let listed = match read_private(&path).map_err(keys_failed)? {
            None => Listed {
                version: VERSION,
                ..Listed::default()
            },
            Some(bytes) => {
                let damaged = |source| Error::StreamRecord {
                    path: path.clone(),
                    source,
                };
                let listed: Listed = serde_json::from_slice(&bytes).map_err(damaged)?;
                if listed.version != VERSION {
                    let version = listed.version;
                    return Err(keys_failed(crate::keys::Error::Version { path, version }));
                }
                listed
            }
        };
        Ok(Peers {
            path,
            listed: Mutex::new(Rank::Leaf, listed),
            terms: Mutex::new(Rank::Leaf, BTreeMap::new()),
        })
    }

    /// Changes the list: on disk first, then for everybody.
    fn change<T>(&self, change: impl FnOnce(&mut Listed) -> Result<T, Error>) -> Result<T, Error> {
        let mut listed = self.listed.lock();
        let mut fresh = listed.clone();
        let outcome = change(&mut fresh)?;
        if fresh != *listed {
            let text = serde_json::to_vec_pretty(&fresh);
            let text = text.map_err(|source| Error::StreamRecord {
                path: self.path.clone(),
                source,
            })?;
            write_private(&self.path, &text).map_err(keys_failed)?;
            *listed = fresh;
        }
        Ok(outcome)
    }

    /// Everybody who is known.
    pub(super) fn list(&self) -> Vec<Peer> {
        self.listed.lock().peers.clone()
    }

    /// Who has this key.
    pub(super) fn of_key(&self, key: &Fingerprint) -> Option<Peer> {
        let listed = self.listed.lock();
        let found = listed.peers.iter().find(|peer| peer.keys.contains(key));
        found.cloned()
    }

    /// Who has this number.
    pub(super) fn of_id(&self, id: &str) -> Option<Peer> {
        let listed = self.listed.lock();
        listed.peers.iter().find(|peer| peer.id == id).cloned()
    }

    /// What the streams of a peer are under, and use together; `None`: nobody has this number.
    pub(super) fn terms(&self, id: &str) -> Option<Arc<Terms>> {
        let peer = self.of_id(id)?;
        let mut terms = self.terms.lock();
        let fresh = || Arc::new(Terms::new(&peer.name, peer.terms.limits()));
        Some(Arc::clone(
            terms.entry(peer.id.clone()).or_insert_with(fresh),
        ))
    }

    fn renew_terms(&self, peer: &Peer) {
        if let Some(terms) = self.terms.lock().get(&peer.id) {
            terms.set(peer.terms.limits());
        }
    }

    /// One peer, by its name or the beginning of its number or of a key.
    pub(super) fn named(&self, name: &str) -> Result<Peer, Error> {
        let listed = self.listed.lock();
        if let Some(peer) = listed.peers.iter().find(|peer| peer.name == name) {
            return Ok(peer.clone());
        }
        let is_meant = |peer: &&Peer| {
            let begins = |text: &str| name.len() >= 8 && text.starts_with(name);
            begins(&peer.id) || peer.keys.iter().any(|key| begins(&key.to_string()))
        };
        let mut found = listed.peers.iter().filter(is_meant);
        match (found.next(), found.next()) {
            (Some(peer), None) => Ok(peer.clone()),
            _ => Err(Error::NoPeer {
                name: name.to_owned(),
            }),
        }
    }

    /// Makes an invitation that is good for `seconds`; how it reads.
    pub(super) fn invite(
        &self,
        own: Fingerprint,
        grant: Grant,
        terms: PeerTerms,
        seconds: u64,
    ) -> Result<Token, Error> {
        let token = Token {
            target: own,
            secret: Secret::generate().map_err(keys_failed)?,
        };
        let now = seconds_now();
        let invitation = Invitation {
            hash: token.secret.hash(),
            made_at: now,
            expires_at: now.saturating_add(seconds),
            grant,
            terms,
            used: None,
        };
        self.change(|listed| {
            let kept = |i: &Invitation| i.expires_at.saturating_add(KEPT_SECONDS) > now;
            listed.invitations.retain(kept);
            listed.invitations.push(invitation);
            let surplus = listed
                .invitations
                .len()
                .saturating_sub(INVITATION_COUNT_MAX);
            listed.invitations.drain(..surplus);
            Ok(())
        })?;
        Ok(token)
    }

    /// Lets in the bearer of a secret, by the key that it has shown.
    pub(super) fn redeem(&self, secret: &Secret, bearer: &Bearer) -> Result<Peer, Error> {
        let Bearer {
            key,
            name,
            from,
            meets_unowned,
        } = bearer;
        let (key, name) = (*key, name.as_str());
        check_name(name)?;
        let (hash, now) = (secret.hash(), seconds_now());
        let id = sys::random_u128().map_err(|source| Error::State {
            operation: "take random bits for",
            path: self.path.clone(),
            source,
        })?;
        let peer = self.change(|listed| {
            let known = listed.peers.iter().find(|peer| peer.keys.contains(&key));
            let known = known.cloned();
            let found = listed.invitations.iter_mut().find(|i| i.hash == hash);
            let invitation = found.ok_or_else(|| {
                bad_token(
                    "this token is not known here: it was altered, or made by another target; make one with \
                     `doppelfs target invite`"
                        .to_owned(),
                )
            })?;
            match (&invitation.used, &known) {
                // The answer was lost: it is given again, and nothing else. Who was revoked since has no second use.
                (Some(used), Some(peer)) if used.key == key => return Ok(peer.clone()),
                (Some(used), _) => {
                    return Err(bad_token(format!(
                        "this token was used {} by {} (key {}): one lets in one source, once; make another with \
                         `doppelfs target invite`, and if that was not you, `doppelfs peers revoke {}`",
                        ago(used.at, now),
                        used.name,
                        used.key.short(),
                        used.name
                    )));
                }
                (None, _) if now >= invitation.expires_at => {
                    return Err(bad_token(format!(
                        "this token has expired {}; make another with `doppelfs target invite`",
                        ago(invitation.expires_at, now)
                    )));
                }
                (None, _) => {}
            }
            let (grant, terms) = (invitation.grant.clone(), invitation.terms);
            if grant.path.is_none() && known.is_none() && *meets_unowned {
                return Err(Error::refuse(
                    RefuseCode::Taken,
                    format!(
                        "there are replicas in {name}/ that no paired source owns; to let this one go on with \
                         them, invite it with `doppelfs target invite --path {name}`, else pair with another \
                         name (`doppelfs pair --name NAME`)"
                    ),
                ));
            }
            let peer = admit(listed, key, name, grant, terms)?;
            if peer.id.is_empty() {
                peer.id = format!("{id:032x}");
                peer.paired_at = now;
                peer.paired_from.clone_from(from);
            }
            let peer = peer.clone();
            let used = Use {
                at: now,
                name: peer.name.clone(),
                key,
            };
            if let Some(invitation) = listed.invitations.iter_mut().find(|i| i.hash == hash) {
                invitation.used = Some(used);
            }
            Ok(peer)
        })?;
        self.renew_terms(&peer);
        Ok(peer)
    }

    /// Forgets a peer; what it replicated stays.
    pub(super) fn revoke(&self, name: &str) -> Result<Peer, Error> {
        let peer = self.named(name)?;
        self.change(|listed| {
            listed.peers.retain(|known| known.id != peer.id);
            Ok(())
        })?;
        Ok(peer)
    }

    /// Changes a peer; returns it as it is then.
    pub(super) fn update(&self, id: &str, change: impl FnOnce(&mut Peer)) -> Result<Peer, Error> {
        let peer = self.change(|listed| {
            let found = listed.peers.iter_mut().find(|peer| peer.id == id);
            let peer = found.ok_or_else(|| Error::NoPeer {
                name: id.to_owned(),
            })?;
            change(peer);
            Ok(peer.clone())
        })?;
        self.renew_terms(&peer);
        Ok(peer)
    }

    /// A peer that showed `key` has `next` as its next one; with the same twice it has no other any more.
    pub(super) fn rekey(&self, key: Fingerprint, next: Fingerprint) -> Result<Peer, Error> {
        let unknown = || Error::refuse(RefuseCode::Unpaired, unpaired(&key));
        self.change(|listed| {
            let owner = listed
                .peers
                .iter()
                .position(|peer| peer.keys.contains(&key));
            let owner = owner.ok_or_else(unknown)?;
            let other = listed
                .peers
                .iter()
                .position(|peer| peer.keys.contains(&next));
            if other.is_some_and(|other| other != owner) {
                return Err(Error::refuse(
                    RefuseCode::Forbidden,
                    "that key belongs to another source",
                ));
            }
            let peer = &mut listed.peers[owner];
            peer.keys = match key == next {
                true => vec![key],
                false => vec![key, next],
            };
            Ok(peer.clone())
        })
    }
}

/// What a source is told whose key nobody knows here.
pub(super) fn unpaired(key: &Fingerprint) -> String {
    format!(
        "this source's key ({}) is not known here, or was revoked: run `doppelfs target invite` on the target \
         and `doppelfs pair` with its token on the source",
        key.short()
    )
}

/// The peer with this key, with one more grant; a new one has no number yet.
fn admit<'a>(
    listed: &'a mut Listed,
    key: Fingerprint,
    name: &str,
    grant: Grant,
    terms: PeerTerms,
) -> Result<&'a mut Peer, Error> {
    let known = listed
        .peers
        .iter()
        .position(|peer| peer.keys.contains(&key));
    if let Some(at) = known {
        let peer = &mut listed.peers[at];
        if !peer.grants.contains(&grant) {
            peer.grants.push(grant);
        }
        peer.terms = terms.over(peer.terms);
        return Ok(peer);
    }
    if listed.peers.iter().any(|peer| peer.name == name) {
        return Err(Error::refuse(
            RefuseCode::Forbidden,
            format!(
                "a source named {name} is paired already, with another key: revoke it if it is this one \
                 (`doppelfs peers revoke {name}`), else pair with another name (`doppelfs pair --name NAME`)"
            ),
        ));
    }
    if listed.peers.len() >= PEER_COUNT_MAX {
        return Err(Error::refuse(
            RefuseCode::Failed,
            format!("{PEER_COUNT_MAX} sources are paired already, which is the limit; revoke one"),
        ));
    }
    listed.peers.push(Peer {
        id: String::new(),
        name: name.to_owned(),
        keys: vec![key],
        grants: vec![grant],
        terms,
        paired_at: 0,
        paired_from: String::new(),
        told: None,
    });
    let last = listed.peers.len() - 1;
    Ok(&mut listed.peers[last])
}
