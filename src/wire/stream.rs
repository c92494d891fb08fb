//! Messages from and to a byte stream.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::Error;
use super::message::{Kind, Message, PROTOCOL};

/// First bytes of each direction.
const MAGIC: [u8; 4] = *b"DPFS";

/// A body's buffer grows in steps of this, as bytes come.
const STEP_BYTES: usize = 256 << 10;

/// How far the conversation is: decides which types of messages are taken at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before both sides have agreed: nothing large.
    Handshake,
    /// The target reads what the source sends.
    FromSource,
    /// The source reads what the target sends.
    FromTarget,
}

impl Phase {
    fn allows(self, kind: Kind) -> bool {
        match self {
            Phase::Handshake => matches!(
                kind,
                Kind::Hello
                    | Kind::Welcome
                    | Kind::Refuse
                    | Kind::Start
                    | Kind::Pair
                    | Kind::Paired
                    | Kind::Rekey
            ),
            Phase::FromSource => {
                matches!(kind, Kind::Batch | Kind::CheckpointRequest | Kind::Ping)
            }
            Phase::FromTarget => matches!(
                kind,
                Kind::Ack | Kind::Want | Kind::Done | Kind::Refuse | Kind::Ping
            ),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Phase::Handshake => "in the handshake",
            Phase::FromSource => "from a source",
            Phase::FromTarget => "from a target",
        }
    }
}

/// Reads messages; gives up when not one byte comes for `patience`.
#[derive(Debug)]
pub struct MessageReader<R> {
    io: R,
    patience: Duration,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// Reads from `io`.
    pub fn new(io: R, patience: Duration) -> MessageReader<R> {
        MessageReader { io, patience }
    }

    /// The stream, with what has been read and not taken lost.
    pub fn into_inner(self) -> R {
        self.io
    }

    /// Changes how long silence is borne.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Reads the first bytes of the peer's direction.
    ///
    /// # Errors
    /// [`Error::NotDoppelfs`], [`Error::Version`], or the transport's.
    pub async fn preface(&mut self) -> Result<(), Error> {
        let mut first = [0u8; 6];
        self.fill(&mut first, true).await?;
        let [a, b, c, d, version @ ..] = first;
        let found = [a, b, c, d];
        if found != MAGIC {
            return Err(Error::NotDoppelfs { found });
        }
        let theirs = u16::from_le_bytes(version);
        if theirs != PROTOCOL {
            return Err(Error::Version { theirs });
        }
        Ok(())
    }

    /// Reads the next message.
    ///
    /// # Errors
    /// Any [`Error`]; the stream is not usable afterwards.
    pub async fn next(&mut self, phase: Phase) -> Result<Message, Error> {
        let mut head = [0u8; 5];
        self.fill(&mut head, true).await?;
        let [a, b, c, d, number] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let kind = Kind::from_number(number).ok_or(Error::UnknownType { found: number })?;
        if !phase.allows(kind) {
            let place = phase.words();
            return Err(Error::Unexpected { kind, place });
        }
        let max = kind.body_bytes_max();
        // The type is one of the bytes counted.
        let Some(length) = length.checked_sub(1).filter(|l| *l <= max) else {
            return Err(Error::TooLong { kind, length, max });
        };
        let mut body = Vec::new();
        while body.len() < length {
            let begin = body.len();
            body.resize(length.min(begin + STEP_BYTES), 0);
            self.fill(&mut body[begin..], false).await?;
        }
        Message::decode(kind, body)
    }

    /// Reads until `buf` is full; `between` says that a message boundary is here.
    async fn fill(&mut self, buf: &mut [u8], between: bool) -> Result<(), Error> {
        let mut done = 0;
        while done < buf.len() {
            let rest = &mut buf[done..];
            let read = tokio::time::timeout(self.patience, self.io.read(rest)).await;
            let Ok(read) = read else {
                let patience = self.patience;
                return Err(Error::Silent { patience });
            };
            match read {
                Ok(0) if between && done == 0 => return Err(Error::Closed),
                Ok(0) => return Err(Error::Cut),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let operation = "read from the connection";
                    return Err(Error::Io { operation, source });
                }
            }
        }
        Ok(())
    }
}

async fn write<W: AsyncWrite + Unpin>(io: &mut W, bytes: &[u8]) -> Result<(), Error> {
    let operation = "write to the connection";
    let failed = |source| Error::Io { operation, source };
    io.write_all(bytes).await.map_err(failed)?;
    io.flush().await.map_err(failed)
}

/// Writes the first bytes of our direction.
///
/// # Errors
/// The transport's.
pub async fn write_preface<W: AsyncWrite + Unpin>(io: &mut W) -> Result<(), Error> {
    let mut first = MAGIC.to_vec();
    first.extend_from_slice(&PROTOCOL.to_le_bytes());
    write(io, &first).await
}

/// Writes one message; returns how many bytes that were.
///
/// # Errors
/// The transport's.
pub async fn write_message<W: AsyncWrite + Unpin>(
    io: &mut W,
    message: &Message,
) -> Result<u64, Error> {
    write_bytes(io, &message.encode()).await
}

/// Writes a message that is encoded already.
///
/// # Errors
/// The transport's.
pub async fn write_bytes<W: AsyncWrite + Unpin>(io: &mut W, bytes: &[u8]) -> Result<u64, Error> {
    write(io, bytes).await?;
    Ok(bytes.len() as u64)
}
