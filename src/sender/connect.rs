//! To the target and through the handshake.

use std::io;
use std::time::Duration;

use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::info;

use crate::journal::Journal;
use crate::keys;
use crate::keys::{Fingerprint, PairedTarget, Pairings};
use crate::wire::{
    Connector, Hello, Message, MessageReader, PROTOCOL, Phase, TargetAddr, Transport, Welcome,
    write_message, write_preface,
};

use super::beginning::is_possible;
use super::error::Error;
use super::events::SenderOptions;

/// How long the system may try to connect, and the target may take for each answer.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

pub(super) type Reader = MessageReader<BufReader<ReadHalf<Transport>>>;

/// A connection whose target has said where it stands.
pub(super) struct Greeted {
    pub(super) reader: Reader,
    pub(super) writer: WriteHalf<Transport>,
    pub(super) welcome: Welcome,
    /// Bytes written so far.
    pub(super) wrote: u64,
    /// How the connection is protected, for people.
    pub(super) protection: String,
}

/// Connects and greets. `jumps`: the target's position will not be gone on from.
pub(super) async fn greet(
    options: &SenderOptions,
    connector: &mut Option<Connector>,
    jumps: bool,
) -> Result<Greeted, Error> {
    let endpoint = options.target.endpoint();
    let transport = open(options, connector).await?;
    let protection = transport.protection();
    let hello = Message::Hello(hello_of(options, jumps));
    let Conversation {
        reader,
        writer,
        answer,
        wrote,
    } = converse(&endpoint, transport, &hello).await?;
    let welcome = match answer {
        Message::Welcome(welcome) => welcome,
        other => return Err(out_of_place(endpoint, &other)),
    };
    check(options, &welcome)?;
    if let (Some(next), Some(_)) = (welcome.next_key, &connector) {
        learn(&options.pairings, &options.target, next);
    }
    Ok(Greeted {
        reader,
        writer,
        welcome,
        wrote,
        protection,
    })
}

/// The target will have another key: it is taken from then on, too.
fn learn(pairings: &Pairings, target: &TargetAddr, next: Fingerprint) {
    let pairing = target.pairing();
    let is_known = |known: &PairedTarget| known.keys.contains(&next);
    if pairings.find(&pairing).is_ok_and(|known| is_known(&known)) {
        return;
    }
    let learned = || -> Result<(), keys::Error> {
        let _lock = pairings.lock()?;
        pairings.change(|targets| {
            for known in targets.iter_mut().filter(|t| t.endpoint == pairing) {
                known.keys.truncate(1);
                known.keys.push(next);
            }
        })
    };
    match learned() {
        Ok(()) => info!(%pairing, next = next.short(), "the target has told its next key"),
        Err(error) => tracing::warn!(%pairing, %error, "the target's next key cannot be kept"),
    }
}

/// A target that answered.
pub(super) struct Conversation {
    pub(super) reader: Reader,
    pub(super) writer: WriteHalf<Transport>,
    /// Its first message, which is no refusal.
    pub(super) answer: Message,
    /// Bytes written so far.
    pub(super) wrote: u64,
}

/// Says the first message and hears the answer.
pub(super) async fn converse(
    endpoint: &str,
    transport: Transport,
    first: &Message,
) -> Result<Conversation, Error> {
    let broken = |source| Error::Wire {
        endpoint: endpoint.to_owned(),
        source,
    };
    let (reading, mut writer) = tokio::io::split(transport);
    let mut reader = MessageReader::new(BufReader::with_capacity(64 << 10, reading), CONNECT_MAX);
    // The target may have refused already, and its text says more than a broken pipe.
    let said = async {
        write_preface(&mut writer).await?;
        write_message(&mut writer, first).await
    };
    let said = said.await;
    reader.preface().await.map_err(broken)?;
    match reader.next(Phase::Handshake).await {
        Ok(Message::Refuse(refuse)) => Err(Error::Refused {
            endpoint: endpoint.to_owned(),
            code: refuse.code,
            text: refuse.text,
        }),
        Ok(answer) => Ok(Conversation {
            wrote: 6 + said.map_err(broken)?,
            reader,
            writer,
            answer,
        }),
        Err(source) => Err(broken(source)),
    }
}

/// An answer to another question.
pub(super) fn out_of_place(endpoint: String, answer: &Message) -> Error {
    Error::Protocol {
        endpoint,
        what: format!("answers with {:?} in the handshake", answer.kind()),
    }
}

fn check(options: &SenderOptions, welcome: &Welcome) -> Result<(), Error> {
    let endpoint = options.target.endpoint();
    if welcome.protocol != PROTOCOL {
        let theirs = welcome.protocol;
        let source = crate::wire::Error::Version { theirs };
        return Err(Error::Wire { endpoint, source });
    }
    if !is_possible(welcome) {
        return Err(Error::Protocol {
            endpoint,
            what: format!("its position is impossible: {welcome:?}"),
        });
    }
    let remapped = welcome.remap.as_ref().map(|remap| remap.from.as_slice());
    if remapped.unwrap_or_default() != options.remap {
        return Err(Error::Protocol {
            endpoint,
            what: "does not remap links as it was asked to".to_owned(),
        });
    }
    Ok(())
}

fn hello_of(options: &SenderOptions, jumps: bool) -> Hello {
    let journal: &Journal = &options.journal;
    Hello {
        protocol: PROTOCOL,
        source: options.source.clone(),
        set: options.set.clone(),
        instance: options.instance,
        path: options.target.path.clone(),
        history: options.history,
        forks: options.line().forks_told(jumps),
        first: journal.first(),
        end: journal.end(),
        root: options.root,
        features: 0,
        place: options.place.clone(),
        remap: options.remap.clone(),
        staged_bytes_max: journal.room() / 4,
    }
}

/// The way that the options allow: TLS with the target that was paired with, or plain on this host.
async fn open(
    options: &SenderOptions,
    connector: &mut Option<Connector>,
) -> Result<Transport, Error> {
    let target = &options.target;
    if options.insecure_loopback {
        return Ok(Transport::plain(dial(target, Reach::ThisHost).await?));
    }
    let endpoint = target.endpoint();
    let unusable = |source| Error::Keys {
        endpoint: endpoint.clone(),
        source,
    };
    let paired = options.pairings.find(&target.pairing()).map_err(unusable)?;
    let key = options.pairings.key().map_err(unusable)?;
    let key = key.ok_or_else(|| {
        unusable(keys::Error::NotPaired {
            endpoint: endpoint.clone(),
        })
    })?;
    let broken = |source| Error::Wire {
        endpoint: endpoint.clone(),
        source,
    };
    // Kept where nothing has changed: its sessions can be resumed.
    let kept = connector
        .take()
        .filter(|kept| kept.is_of(&key, &paired.keys));
    let kept = match kept {
        Some(kept) => kept,
        None => Connector::new(&key, &paired.keys).map_err(broken)?,
    };
    let kept = connector.insert(kept);
    let socket = dial(target, Reach::Anywhere).await?;
    let (transport, found) = encrypt(&endpoint, kept, socket).await?;
    if paired.keys.first() != Some(&found) {
        forget_old(&options.pairings, target, found);
    }
    Ok(transport)
}

/// The target has its next key now: the old one is not taken any more.
fn forget_old(pairings: &Pairings, target: &TargetAddr, found: Fingerprint) {
    let pairing = target.pairing();
    let forgotten = || -> Result<(), keys::Error> {
        let _lock = pairings.lock()?;
        pairings.change(|targets| {
            for known in targets.iter_mut().filter(|t| t.endpoint == pairing) {
                known.keys = vec![found];
            }
        })
    };
    match forgotten() {
        Ok(()) => {
            info!(%pairing, key = found.short(), "the target has changed its key, as it had told")
        }
        Err(error) => tracing::warn!(%pairing, %error, "the target's new key cannot be kept"),
    }
}

/// The TLS handshake, in bounded time.
pub(super) async fn encrypt(
    endpoint: &str,
    connector: &Connector,
    socket: TcpStream,
) -> Result<(Transport, Fingerprint), Error> {
    let patience = CONNECT_MAX;
    let shaken = timeout(patience, connector.connect(socket)).await;
    let shaken = shaken.unwrap_or(Err(crate::wire::Error::Silent { patience }));
    shaken.map_err(|source| Error::Wire {
        endpoint: endpoint.to_owned(),
        source,
    })
}

/// Where connections may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To loopback addresses.
    ThisHost,
    /// To any address.
    Anywhere,
}

/// A TCP connection to the first address of the target that answers.
pub(super) async fn dial(target: &TargetAddr, reach: Reach) -> Result<TcpStream, Error> {
    let endpoint = target.endpoint();
    let resolve = tokio::net::lookup_host((target.host.as_str(), target.port));
    let resolved = timeout(CONNECT_MAX, resolve).await;
    let resolved = resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let addresses: Vec<_> = match resolved {
        Ok(addresses) => addresses.collect(),
        Err(source) => {
            let host = target.host.clone();
            return Err(Error::Resolve { host, source });
        }
    };
    let is_loopback = |a: &std::net::SocketAddr| a.ip().to_canonical().is_loopback();
    if reach == Reach::ThisHost && !addresses.iter().all(is_loopback) {
        return Err(Error::NotLoopback { endpoint });
    }
    let mut failed = None;
    for address in addresses {
        match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => match socket.set_nodelay(true) {
                // Latency of small operations matters more than the number of packets.
                Ok(()) => return Ok(socket),
                Err(source) => failed = Some(source),
            },
            Ok(Err(source)) => failed = Some(source),
            Err(_) => {}
        }
    }
    Err(match failed {
        Some(source) => Error::Connect { endpoint, source },
        None => Error::ConnectTimeout { endpoint },
    })
}
