//! The door: from a socket to somebody who is known, in bounded time and memory.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use crate::keys::{Fingerprint, is_vouched};
use crate::wire::{
    Hello, Message, MessageReader, PROTOCOL, Pair, Paired, Phase, RefuseCode, Rekey, Transport,
    write_message, write_preface,
};

use super::error::Error;
use super::peers::{Bearer, Peer, unpaired};
use super::session::{HANDSHAKE_MAX, blocking, too_slow, unexpected, wire};
use super::target::Shared;

/// The first byte of a TLS handshake; messages begin otherwise.
const TLS_HANDSHAKE: u8 = 0x16;

pub(super) type Reader = MessageReader<BufReader<ReadHalf<Transport>>>;
pub(super) type Writer = WriteHalf<Transport>;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Somebody on this host, who is not asked to prove anything.
    Local,
    /// A source that was paired, with the key that it has shown.
    Peer(Box<Peer>, Fingerprint),
}

impl Who {
    pub(super) fn peer(&self) -> Option<&Peer> {
        match self {
            Who::Local => None,
            Who::Peer(peer, _) => Some(peer),
        }
    }

    pub(super) fn key(&self) -> Option<Fingerprint> {
        match self {
            Who::Local => None,
            Who::Peer(_, key) => Some(*key),
        }
    }
}

/// A connection on which messages can be read and written.
pub(super) struct Opened {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// How it is protected, for people.
    pub(super) protection: String,
    /// The key that its other end has proved to hold.
    key: Option<Fingerprint>,
    deadline: Instant,
}

/// TLS, or plain bytes. What is wrong with plain ones is said later, where it can be heard.
pub(super) async fn open(shared: &Shared, socket: TcpStream) -> Result<Opened, Error> {
    let deadline = Instant::now() + HANDSHAKE_MAX;
    let mut first = [0];
    let peeked = timeout_at(deadline, socket.peek(&mut first)).await;
    let peeked = peeked.map_err(|_| too_slow())?.map_err(|source| {
        wire(crate::wire::Error::Io {
            operation: "read from the connection",
            source,
        })
    })?;
    if peeked == 0 {
        return Err(wire(crate::wire::Error::Closed));
    }
    let (transport, key) = if first == [TLS_HANDSHAKE] {
        let acceptor = shared.acceptor();
        let accepted = timeout_at(deadline, acceptor.accept(socket)).await;
        let (transport, key) = accepted.map_err(|_| too_slow())?.map_err(wire)?;
        (transport, Some(key))
    } else {
        (Transport::plain(socket), None)
    };
    let protection = transport.protection();
    let (reading, writer) = tokio::io::split(transport);
    let reading = BufReader::with_capacity(64 << 10, reading);
    Ok(Opened {
        reader: MessageReader::new(reading, HANDSHAKE_MAX),
        writer,
        protection,
        key,
        deadline,
    })
}

/// What somebody wants who is known.
pub(super) enum Wish {
    /// To replicate.
    Replicate(Box<Hello>, Who),
    /// To become or stay known: that is done already.
    Acquainted,
}

/// First bytes, and a first message from somebody who may send one.
pub(super) async fn greet(
    shared: &Arc<Shared>,
    opened: &mut Opened,
    from: SocketAddr,
) -> Result<Wish, Error> {
    let deadline = opened.deadline;
    let first = timeout_at(deadline, opened.reader.preface()).await;
    let first = first.map_err(|_| too_slow())?;
    if let Err(crate::wire::Error::Version { .. }) | Ok(()) = &first {
        write_preface(&mut opened.writer).await.map_err(wire)?;
    }
    first.map_err(wire)?;
    let Some(key) = opened.key else {
        check_plain(shared, from)?;
        return match next(opened).await? {
            Message::Hello(hello) => Ok(Wish::Replicate(Box::new(hello), Who::Local)),
            other => Err(unexpected(&other, "before a hello")),
        };
    };
    match next(opened).await? {
        Message::Hello(hello) => {
            let who = known(shared, key)?;
            Ok(Wish::Replicate(Box::new(hello), who))
        }
        Message::Pair(asked) => {
            let paired = pair(shared, key, asked, from).await?;
            answer(opened, paired).await
        }
        Message::Rekey(asked) => {
            let paired = rekey(shared, key, asked).await?;
            answer(opened, paired).await
        }
        other => Err(unexpected(&other, "before a hello")),
    }
}

async fn next(opened: &mut Opened) -> Result<Message, Error> {
    let message = timeout_at(opened.deadline, opened.reader.next(Phase::Handshake)).await;
    message.map_err(|_| too_slow())?.map_err(wire)
}

async fn answer(opened: &mut Opened, paired: Paired) -> Result<Wish, Error> {
    let message = Message::Paired(paired);
    let said = timeout_at(opened.deadline, write_message(&mut opened.writer, &message)).await;
    said.map_err(|_| too_slow())?.map_err(wire)?;
    Ok(Wish::Acquainted)
}

/// Plain bytes are for this host, and where they were asked for.
fn check_plain(shared: &Shared, from: SocketAddr) -> Result<(), Error> {
    if !shared.options.insecure_loopback {
        return Err(Error::refuse(
            RefuseCode::Transport,
            "this target speaks TLS with paired sources only: run `doppelfs target invite` here and `doppelfs pair` on the source, and mount without --insecure-loopback (or give it on both sides, on one host)",
        ));
    }
    if !from.ip().to_canonical().is_loopback() {
        return Err(Error::refuse(
            RefuseCode::Transport,
            format!(
                "{} is no loopback address: --insecure-loopback serves this host only",
                from.ip()
            ),
        ));
    }
    Ok(())
}

fn check_version(theirs: u16) -> Result<(), Error> {
    match theirs {
        PROTOCOL => Ok(()),
        theirs => Err(wire(crate::wire::Error::Version { theirs })),
    }
}

/// Whose key it is.
fn known(shared: &Arc<Shared>, key: Fingerprint) -> Result<Who, Error> {
    let peer = shared.peers.of_key(&key);
    let peer = peer.ok_or_else(|| Error::refuse(RefuseCode::Unpaired, unpaired(&key)))?;
    Ok(Who::Peer(Box::new(peer), key))
}

async fn pair(
    shared: &Arc<Shared>,
    key: Fingerprint,
    asked: Pair,
    from: SocketAddr,
) -> Result<Paired, Error> {
    check_version(asked.protocol)?;
    let from = from.ip().to_canonical();
    let theirs = Arc::clone(shared);
    let peer = blocking(move || {
        let bearer = Bearer {
            meets_unowned: theirs.has_unowned_below(&asked.name),
            key,
            name: asked.name,
            from: from.to_string(),
        };
        theirs.peers.redeem(&asked.secret, &bearer)
    });
    let peer = peer.await?;
    info!(%from, name = peer.name, key = key.short(), "source paired");
    Ok(acquaintance(shared, &peer))
}

async fn rekey(shared: &Arc<Shared>, key: Fingerprint, asked: Rekey) -> Result<Paired, Error> {
    check_version(asked.protocol)?;
    // The key of another who is not known here yet would bring the rights that the other is given later.
    let is_own = key == asked.next || is_vouched(&asked.public, &asked.proof, &key, &asked.next);
    if !is_own {
        return Err(Error::refuse(
            RefuseCode::Forbidden,
            "that key was not shown to be this source's; use the same release on both sides",
        ));
    }
    let theirs = Arc::clone(shared);
    let peer = blocking(move || theirs.peers.rekey(key, asked.next)).await?;
    info!(
        name = peer.name,
        next = asked.next.short(),
        "source changes its key"
    );
    shared.end_sessions_without_key(&peer).await;
    Ok(acquaintance(shared, &peer))
}

fn acquaintance(shared: &Shared, peer: &Peer) -> Paired {
    Paired {
        target: shared.options.host_name.clone(),
        known_as: peer.name.clone(),
        grants: peer.grants_in_words(),
        next_key: shared.next_key(),
    }
}
