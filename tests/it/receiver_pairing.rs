//! Goal: only who was invited comes in, writes only where it may, and both sides are told why not.
//! Method: a real target, real senders with keys of their own, each thing wrong once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doppelfs::keys::{Pairings, Secret, Token};
use doppelfs::receiver::{Error, Grant, PeerTerms, Target};
use doppelfs::sender::{self, Link, Sender, SenderState};
use doppelfs::types::SetName;
use doppelfs::wire::{self, RefuseCode, TargetAddr};

use super::link_support::{Site, Source};

const HOUR: Duration = Duration::from_secs(3600);

/// A source host: its keys, and the journal of one set.
pub(super) struct Guest {
    pub(super) pairings: Pairings,
    pub(super) source: Arc<Source>,
    instance: u128,
}

impl Guest {
    pub(super) fn new(site: &Site, name: &str) -> Guest {
        let dir = site.scratch.dir(&format!("guest-{name}"));
        Guest {
            pairings: Pairings::of(&dir.join("keys")),
            source: Source::new(&dir.join("queue"), 7),
            instance: 77,
        }
    }

    fn target(site: &Site) -> TargetAddr {
        site.address().to_string().parse().unwrap()
    }

    pub(super) fn pair(
        &self,
        site: &Site,
        token: &Token,
        name: &str,
    ) -> Result<Vec<String>, sender::Error> {
        let target = Guest::target(site);
        let pairing = sender::pair(&target, token, name, &self.pairings);
        site.runtime.block_on(pairing).map(|(_, grants)| grants)
    }

    pub(super) fn connect(&self, site: &Site, set: &str, path: Option<&str>) -> Sender {
        let mut options = self.source.options(site.address(), &site.runtime);
        options.insecure_loopback = false;
        options.pairings = self.pairings.clone();
        options.set = SetName::new(set).unwrap();
        options.target.path = path.map(str::to_owned);
        options.instance = self.instance;
        Sender::start(options).unwrap()
    }

    /// One that was invited as "web1", and whose set "data" has one file on the target.
    pub(super) fn replicating(site: &Site) -> (Guest, Sender) {
        let guest = Guest::new(site, "a");
        guest.pair(site, &invite(site, any()), "web1").unwrap();
        guest.source.create("file");
        let sender = guest.connect(site, "data", None);
        guest.caught_up(site, &sender);
        (guest, sender)
    }

    pub(super) fn caught_up(&self, site: &Site, sender: &Sender) -> SenderState {
        site.await_state(sender, "caught up", |s| {
            s.is_caught_up(self.source.journal.end())
        })
    }
}

pub(super) fn any() -> Grant {
    Grant::default()
}

fn to(path: &str) -> Grant {
    Grant {
        set: None,
        path: Some(path.to_owned()),
    }
}

pub(super) fn target(site: &Site) -> &Target {
    site.target.as_ref().unwrap()
}

pub(super) fn invite(site: &Site, grant: Grant) -> Token {
    let terms = PeerTerms::default();
    target(site).invite(grant, terms, HOUR).unwrap()
}

pub(super) fn code_of(error: &sender::Error) -> RefuseCode {
    match error {
        sender::Error::Refused { code, .. } => *code,
        other => panic!("no refusal: {other}"),
    }
}

/// The target remembers that it refused with these words.
fn assert_told(site: &Site, words: &str) {
    let told = || {
        let refusals = target(site).doors().refusals;
        refusals.into_iter().find(|r| r.text.contains(words))
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while told().is_none() {
        let doors = target(site).doors();
        assert!(
            std::time::Instant::now() < deadline,
            "{words:?} in {doors:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The connection is refused with these words, on both sides.
fn await_refused(site: &Site, sender: &Sender, words: &str) {
    site.await_state(sender, words, |s| {
        s.error.as_ref().is_some_and(|error| error.contains(words))
    });
    assert_told(site, words);
}

fn replica(site: &Site, path: &str) -> PathBuf {
    site.scratch.path().join("root").join(path)
}

#[test]
fn an_invited_source_replicates_to_the_directory_with_its_name() {
    let Some(mut site) = Site::new("invited") else {
        return;
    };
    let guest = Guest::new(&site, "a");
    let grants = guest.pair(&site, &invite(&site, any()), "web1").unwrap();
    assert_eq!(grants, ["any set to web1 and below"]);
    guest.source.create("file");
    let sender = guest.connect(&site, "data", None);
    let state = guest.caught_up(&site, &sender);
    assert!(state.protection.unwrap().starts_with("TLS 1.3"));
    assert!(replica(&site, "web1/data/file").exists());
    // What is known outlives the target.
    site.restart();
    guest.source.create("more");
    let state = guest.caught_up(&site, &sender);
    assert_eq!(state.link, Link::Connected);
    assert!(replica(&site, "web1/data/more").exists());
    let doors = target(&site).doors();
    assert_eq!(doors.peers.len(), 1);
    assert_eq!(doors.peers[0].name, "web1");
}

#[test]
fn a_connection_that_comes_back_resumes_its_session() {
    let Some(site) = Site::new("resumes") else {
        return;
    };
    let (_guest, sender) = Guest::replicating(&site);
    sender.require_mirror();
    site.await_state(&sender, "resumed", |s| {
        s.sessions > 1
            && s.protection
                .as_ref()
                .is_some_and(|p| p.ends_with("resumed"))
    });
}

#[test]
fn a_token_lets_in_one_source_once() {
    let Some(site) = Site::new("once") else {
        return;
    };
    let (first, second) = (Guest::new(&site, "a"), Guest::new(&site, "b"));
    let token = invite(&site, any());
    first.pair(&site, &token, "web1").unwrap();
    // Its answer may have been lost: the same key may ask again.
    first.pair(&site, &token, "web1").unwrap();
    let refused = second.pair(&site, &token, "web2").unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Token);
    assert!(refused.to_string().contains("was used"), "{refused}");
    assert!(refused.to_string().contains("by web1"), "{refused}");
    assert_told(&site, "was used");
    assert_eq!(target(&site).doors().peers.len(), 1);
}

#[test]
fn a_token_gives_nothing_back_that_was_taken_since() {
    let Some(site) = Site::new("taken-back") else {
        return;
    };
    let guest = Guest::new(&site, "a");
    let wide = PeerTerms {
        quota_files: Some(1000),
        ..PeerTerms::default()
    };
    let token = target(&site).invite(any(), wide, HOUR).unwrap();
    guest.pair(&site, &token, "web1").unwrap();
    let limit = |terms: &mut PeerTerms| terms.quota_files = Some(10);
    target(&site).set_terms("web1", limit).unwrap();
    guest.pair(&site, &token, "web1").unwrap();
    let peers = target(&site).doors().peers;
    assert_eq!(peers[0].terms.quota_files, Some(10));
    // Nor does it let in again who was revoked.
    target(&site).revoke("web1").unwrap();
    let refused = guest.pair(&site, &token, "web1").unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Token);
    assert!(target(&site).doors().peers.is_empty());
}

#[test]
fn a_token_that_has_expired_is_refused() {
    let Some(site) = Site::new("expired") else {
        return;
    };
    let guest = Guest::new(&site, "a");
    let terms = PeerTerms::default();
    let token = target(&site).invite(any(), terms, Duration::ZERO).unwrap();
    let refused = guest.pair(&site, &token, "web1").unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Token);
    assert!(refused.to_string().contains("has expired"), "{refused}");
    assert_told(&site, "has expired");
    assert!(target(&site).doors().peers.is_empty());
}

#[test]
fn a_token_with_another_secret_or_of_another_target_is_refused() {
    let (Some(site), Some(other)) = (Site::new("altered"), Site::new("other")) else {
        return;
    };
    let guest = Guest::new(&site, "a");
    let altered = Token {
        target: target(&site).doors().key,
        secret: Secret::generate().unwrap(),
    };
    let refused = guest.pair(&site, &altered, "web1").unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Token);
    assert!(refused.to_string().contains("altered"), "{refused}");
    assert_told(&site, "is not known here");
    // The secret is not said to who has another key.
    let elsewhere = invite(&other, any());
    let refused = guest.pair(&site, &elsewhere, "web1").unwrap_err();
    let is_wrong = |e: &sender::Error| {
        matches!(
            e,
            sender::Error::Wire {
                source: wire::Error::WrongKey { .. },
                ..
            }
        )
    };
    assert!(is_wrong(&refused), "{refused}");
    assert_told(&site, "TLS handshake");
    assert!(target(&site).doors().peers.is_empty());
    assert!(guest.pairings.list().unwrap().is_empty());
}

#[test]
fn a_key_that_nobody_invited_gets_nowhere() {
    let Some(site) = Site::new("stranger") else {
        return;
    };
    let (friend, stranger) = (Guest::new(&site, "a"), Guest::new(&site, "b"));
    friend.pair(&site, &invite(&site, any()), "web1").unwrap();
    // It knows the target, and has a key of its own.
    {
        let _lock = stranger.pairings.lock().unwrap();
        stranger.pairings.own_key().unwrap();
        let known = friend.pairings.list().unwrap();
        stranger
            .pairings
            .change(|targets| *targets = known)
            .unwrap();
    }
    stranger.source.create("file");
    let sender = stranger.connect(&site, "data", None);
    await_refused(&site, &sender, "is not known here, or was revoked");
    assert!(target(&site).snapshot().streams.is_empty());
}

#[test]
fn a_revoked_source_is_cut_off_and_stays_out() {
    let Some(site) = Site::new("revoked") else {
        return;
    };
    let (guest, sender) = Guest::replicating(&site);
    assert!(matches!(
        target(&site).revoke("web2"),
        Err(Error::NoPeer { .. })
    ));
    target(&site).revoke("web1").unwrap();
    site.await_state(&sender, "cut off", |s| {
        let is_told = |e: &String| e.contains("was revoked");
        s.link == Link::Connecting && s.error.as_ref().is_some_and(is_told)
    });
    guest.source.create("late");
    await_refused(&site, &sender, "is not known here, or was revoked");
    assert!(replica(&site, "web1/data/file").exists());
    assert!(!replica(&site, "web1/data/late").exists());
}

#[test]
fn a_source_writes_where_it_may_and_nowhere_else() {
    let Some(site) = Site::new("grants") else {
        return;
    };
    let guest = Guest::new(&site, "a");
    let grant = Grant {
        set: Some(SetName::new("data").unwrap()),
        path: Some("backups/db".into()),
    };
    guest.pair(&site, &invite(&site, grant), "web1").unwrap();
    guest.source.create("file");
    for (set, path) in [
        ("data", Some("web1/data")),
        ("data", Some("backups/dbx")),
        ("data", Some("backups")),
        ("data", Some("other")),
        ("mail", None),
        ("mail", Some("backups/db")),
    ] {
        let sender = guest.connect(&site, set, path);
        await_refused(&site, &sender, "may not replicate");
    }
    for (path, words) in [
        ("backups/db/../x", "not a file name"),
        ("/backups/db", "absolute"),
        (".doppelfs/x", "target's own"),
        ("backups/db/.doppelfs", "target's own"),
    ] {
        let sender = guest.connect(&site, "data", Some(path));
        await_refused(&site, &sender, words);
    }
    assert!(target(&site).snapshot().streams.is_empty());
    assert!(!replica(&site, "backups").exists());
    // Not asked for, the path that was granted is taken.
    let sender = guest.connect(&site, "data", None);
    guest.caught_up(&site, &sender);
    assert!(replica(&site, "backups/db/file").exists());
    // One more invitation, one more right.
    guest
        .pair(&site, &invite(&site, to("second")), "web1")
        .unwrap();
    let second = guest.connect(&site, "mail", None);
    site.await_state(&second, "connected", |s| s.link == Link::Connected);
    assert!(replica(&site, "second/mail").exists());
}

#[test]
fn two_sources_never_share_a_mirror_path() {
    let Some(site) = Site::new("shared") else {
        return;
    };
    let (first, second) = (Guest::new(&site, "a"), Guest::new(&site, "b"));
    first
        .pair(&site, &invite(&site, to("one")), "web1")
        .unwrap();
    second
        .pair(&site, &invite(&site, to("one")), "web2")
        .unwrap();
    first.source.create("file");
    let sender = first.connect(&site, "data", Some("one"));
    first.caught_up(&site, &sender);
    for path in ["one", "one/below"] {
        for set in ["data", "mail"] {
            let other = second.connect(&site, set, Some(path));
            site.await_state(&other, "refused", |s| {
                let is_told =
                    |e: &String| e.contains("holds the replica") || e.contains("lie in each other");
                s.error.as_ref().is_some_and(is_told)
            });
        }
    }
    // Nor do two sets of one source.
    let other = first.connect(&site, "mail", Some("one"));
    await_refused(&site, &other, "holds the replica of set data");
    assert_eq!(target(&site).snapshot().streams.len(), 1);
    first.source.create("more");
    first.caught_up(&site, &sender);
}

#[test]
fn a_copy_of_a_machine_is_refused_while_the_first_is_connected() {
    let Some(site) = Site::new("copied") else {
        return;
    };
    let (first, sender) = Guest::replicating(&site);
    let copy = Guest {
        pairings: first.pairings.clone(),
        instance: 78,
        ..Guest::new(&site, "b")
    };
    copy.source.create("file");
    let other = copy.connect(&site, "data", None);
    await_refused(&site, &other, "a copy of a machine");
    assert_eq!(sender.state().link, Link::Connected);
    // When the first is gone this is the same machine with a new state, for all that is known.
    sender.stop();
    copy.caught_up(&site, &other);
    assert!(copy.source.mirrors_begun.load(Ordering::SeqCst) > 0);
}

#[test]
fn names_are_unique_and_become_directories() {
    let Some(site) = Site::new("named") else {
        return;
    };
    let (first, second) = (Guest::new(&site, "a"), Guest::new(&site, "b"));
    for name in [
        "",
        ".",
        "..",
        "a/b",
        ".doppelfs",
        "-x",
        "a b",
        "ä",
        &"x".repeat(65),
    ] {
        let refused = first.pair(&site, &invite(&site, any()), name).unwrap_err();
        assert_eq!(code_of(&refused), RefuseCode::Forbidden, "{name}");
    }
    first.pair(&site, &invite(&site, any()), "web1").unwrap();
    let token = invite(&site, any());
    let refused = second.pair(&site, &token, "web1").unwrap_err();
    assert!(refused.to_string().contains("paired already"), "{refused}");
    // The token is still good.
    second.pair(&site, &token, "web2").unwrap();
}

#[test]
fn a_revoked_sources_replica_is_only_taken_over_by_who_is_invited_to_it() {
    let Some(site) = Site::new("heir") else {
        return;
    };
    let (first, second) = (Guest::new(&site, "a"), Guest::new(&site, "b"));
    first.pair(&site, &invite(&site, any()), "web1").unwrap();
    first.source.create("file");
    let sender = first.connect(&site, "data", None);
    first.caught_up(&site, &sender);
    sender.stop();
    target(&site).revoke("web1").unwrap();
    // It calls itself as the other did.
    let refused = second
        .pair(&site, &invite(&site, any()), "web1")
        .unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Taken);
    assert!(refused.to_string().contains("--path web1"), "{refused}");
    assert!(replica(&site, "web1/data/file").exists());
    let token = invite(&site, to("web1"));
    second.pair(&site, &token, "web1").unwrap();
    second.source.create("other");
    let sender = second.connect(&site, "data", None);
    second.caught_up(&site, &sender);
    assert!(replica(&site, "web1/data/other").exists());
    assert!(!replica(&site, "web1/data/file").exists());
}

#[test]
fn who_proves_nothing_cannot_go_on_with_a_paired_sources_replica() {
    let Some(site) = Site::new("local") else {
        return;
    };
    let (guest, sender) = Guest::replicating(&site);
    sender.stop();
    // Plain TCP from this host, under the same name and with the same state.
    let mut options = guest.source.options(site.address(), &site.runtime);
    options.source = "web1".into();
    options.id = 2;
    let local = Sender::start(options).unwrap();
    await_refused(&site, &local, "holds the replica of set data of web1");
    // And the other way round.
    let mut options = guest.source.options(site.address(), &site.runtime);
    options.target.path = Some("mine".into());
    options.id = 3;
    let local = Sender::start(options).unwrap();
    guest.caught_up(&site, &local);
    local.stop();
    guest
        .pair(&site, &invite(&site, to("mine")), "web1")
        .unwrap();
    let named = guest.connect(&site, "data", Some("mine"));
    guest.caught_up(&site, &named);
}
