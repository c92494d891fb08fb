//! Goal: both sides can change their keys under a connection, and connections that prove nothing keep nobody
//! out. Method: a real target, real senders with keys of their own.

use std::time::Duration;

use doppelfs::receiver::{Error, KeyChange};
use doppelfs::sender::{self, Link};
use doppelfs::wire::RefuseCode;
use tokio::io::AsyncReadExt;

use super::link_support::Site;
use super::receiver_pairing::{Guest, any, code_of, invite, target};

#[test]
fn a_source_changes_its_key_and_the_old_one_is_forgotten() {
    let Some(site) = Site::new("rekey") else {
        return;
    };
    let (guest, sender) = Guest::replicating(&site);
    let paired = guest.pairings.list().unwrap().remove(0);
    let old = guest.pairings.key().unwrap().unwrap();
    let next = {
        let _lock = guest.pairings.lock().unwrap();
        guest.pairings.next_key().unwrap()
    };
    let tell = |key, next| {
        let told = sender::announce_key(&paired, key, next);
        site.runtime.block_on(told)
    };
    tell(&old, &next).unwrap();
    assert_eq!(target(&site).doors().peers[0].keys.len(), 2);
    {
        let _lock = guest.pairings.lock().unwrap();
        guest.pairings.switch_key().unwrap();
    }
    tell(&next, &next).unwrap();
    let sessions = sender.state().sessions;
    site.await_state(&sender, "a session by the new key", |s| {
        s.link == Link::Connected && s.sessions > sessions
    });
    assert_eq!(target(&site).doors().peers[0].keys, [next.fingerprint()]);
    let refused = tell(&old, &next).unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Unpaired);
    // Nor can a source take the key of another.
    let other = Guest::new(&site, "b");
    other.pair(&site, &invite(&site, any()), "web2").unwrap();
    let own = other.pairings.key().unwrap().unwrap();
    let refused = tell(&own, &next).unwrap_err();
    assert_eq!(code_of(&refused), RefuseCode::Forbidden);
    guest.source.create("more");
    guest.caught_up(&site, &sender);
}

#[test]
fn a_target_changes_its_key_when_all_sources_know_the_next() {
    let Some(mut site) = Site::new("rotate") else {
        return;
    };
    let (guest, sender) = Guest::replicating(&site);
    assert!(matches!(
        target(&site).rotate_key(true, false),
        Err(Error::NoNextKey)
    ));
    let old = target(&site).doors().key;
    let (next, untold) = match target(&site).rotate_key(false, false).unwrap() {
        KeyChange::Announced { next, untold } => (next, untold),
        other => panic!("{other:?}"),
    };
    assert_eq!(untold, ["web1"]);
    assert!(matches!(
        target(&site).rotate_key(true, false),
        Err(Error::Untold { .. })
    ));
    // It is told at its next connection, and keeps it.
    site.restart();
    guest.source.create("more");
    guest.caught_up(&site, &sender);
    let told = || target(&site).doors().peers[0].told == Some(next);
    site.await_state(&sender, "told", |_| told());
    assert_eq!(guest.pairings.list().unwrap()[0].keys, [old, next]);
    target(&site).rotate_key(true, false).unwrap();
    assert_eq!(target(&site).doors().key, next);
    sender.require_mirror();
    let sessions = sender.state().sessions;
    site.await_state(&sender, "a session with the new key", |s| {
        s.link == Link::Connected && s.sessions > sessions
    });
    guest.caught_up(&site, &sender);
    assert_eq!(guest.pairings.list().unwrap()[0].keys, [next]);
    // And so it is after a restart.
    site.restart();
    guest.source.create("last");
    guest.caught_up(&site, &sender);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let Some(site) = Site::new("half-open") else {
        return;
    };
    let guest = Guest::new(&site, "a");
    guest.pair(&site, &invite(&site, any()), "web1").unwrap();
    guest.source.create("file");
    let address = site.address();
    let idle: Vec<_> = site.runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        idle
    });
    let sender = guest.connect(&site, "data", None);
    guest.caught_up(&site, &sender);
    // Those that had to make room are closed, before their time is over.
    site.runtime.block_on(async {
        let mut closed = 0;
        for mut socket in idle.into_iter().take(100) {
            let mut byte = [0];
            let read = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut byte));
            closed += usize::from(!matches!(read.await, Ok(Ok(1..)) | Err(_)));
        }
        assert_eq!(closed, 100);
    });
}
