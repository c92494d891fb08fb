//! To the target and through the handshake.

use std::io;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::journal::Journal;
use crate::wire::{
    Hello, Message, MessageReader, PROTOCOL, Phase, Welcome, write_message, write_preface,
};

use super::beginning::is_possible;
use super::error::Error;
use super::events::SenderOptions;

/// How long the system may try to connect, and the target may take for each answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A connection whose target has said where it stands.
pub(super) struct Greeted {
    pub(super) reader: MessageReader<BufReader<OwnedReadHalf>>,
    pub(super) writer: OwnedWriteHalf,
    pub(super) welcome: Welcome,
    /// Bytes written so far.
    pub(super) wrote: u64,
}

/// Connects and greets. `jumps`: the target's position will not be gone on from.
pub(super) async fn greet(options: &SenderOptions, jumps: bool) -> Result<Greeted, Error> {
    let socket = dial(options).await?;
    let endpoint = options.target.endpoint();
    let broken = |source| Error::Wire {
        endpoint: endpoint.clone(),
        source,
    };
    // Latency of small operations matters more than the number of packets.
    if let Err(source) = socket.set_nodelay(true) {
        return Err(Error::Connect { endpoint, source });
    }
    let (reading, mut writer) = socket.into_split();
    let mut reader = MessageReader::new(BufReader::with_capacity(64 << 10, reading), CONNECT_MAX);
    let hello = Message::Hello(hello_of(options, jumps));
    // The target may have refused already, and its text says more than a broken pipe.
    let mut wrote = 6;
    let greeted = async {
        write_preface(&mut writer).await?;
        write_message(&mut writer, &hello).await
    };
    let greeted = greeted.await;
    reader.preface().await.map_err(broken)?;
    let answer = reader.next(Phase::Handshake).await;
    match answer {
        Ok(Message::Welcome(welcome)) => {
            wrote += greeted.map_err(broken)?;
            check(options, &welcome)?;
            Ok(Greeted {
                reader,
                writer,
                welcome,
                wrote,
            })
        }
        Ok(Message::Refuse(refuse)) => Err(Error::Refused {
            endpoint,
            code: refuse.code,
            text: refuse.text,
        }),
        Ok(other) => Err(Error::Protocol {
            endpoint,
            what: format!("answers with {:?} in the handshake", other.kind()),
        }),
        Err(source) => Err(broken(source)),
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

async fn dial(options: &SenderOptions) -> Result<TcpStream, Error> {
    let target = &options.target;
    let endpoint = target.endpoint();
    if !options.insecure_loopback {
        return Err(Error::NoTransport { endpoint });
    }
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
    if addresses.is_empty() || !addresses.iter().all(is_loopback) {
        return Err(Error::NotLoopback { endpoint });
    }
    let mut failed = None;
    for address in addresses {
        match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(source)) => failed = Some(source),
            Err(_) => {}
        }
    }
    Err(match failed {
        Some(source) => Error::Connect { endpoint, source },
        None => Error::ConnectTimeout { endpoint },
    })
}
