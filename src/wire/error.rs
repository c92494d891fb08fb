//! Why a conversation cannot go on.

use std::io;
use std::time::Duration;

use crate::keys::Fingerprint;

use super::message::{Kind, PROTOCOL};

/// Why a conversation cannot go on. After any of these the stream is dropped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer closed the stream between two messages.
    #[error("the peer closed the connection")]
    Closed,
    /// The stream ended inside a message: peer or link died.
    #[error("the connection was cut inside a message")]
    Cut,
    /// Not one byte came for so long: peer or link is dead, or the peer stopped.
    #[error("nothing heard from the peer for {} s", patience.as_secs())]
    Silent {
        /// How long it was waited.
        patience: Duration,
    },
    /// The transport failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The encrypted connection does not come about, or broke.
    #[error("{operation}: {source}")]
    Tls {
        /// What was done.
        operation: &'static str,
        /// What the library says.
        source: io::Error,
    },
    /// The target has another key than the one that this source was given.
    #[error(
        "another key answers there than the one that was paired with (it is {found}): if that target was set up \
         anew, pair with it again; if not, somebody else answers in its place"
    )]
    WrongKey {
        /// The key's fingerprint.
        found: Fingerprint,
    },
    /// The first bytes are not ours: something else speaks or listens there.
    #[error("the peer does not speak doppelfs (first bytes {found:02x?})")]
    NotDoppelfs {
        /// What came instead.
        found: [u8; 4],
    },
    /// Another protocol version; the peer is told so where it can still understand it.
    #[error(
        "the peer speaks protocol version {theirs}, this doppelfs speaks {PROTOCOL}: use the same release on both sides"
    )]
    Version {
        /// The peer's version.
        theirs: u16,
    },
    /// A message of an unknown type.
    #[error("message type {found} is not known")]
    UnknownType {
        /// The type's number.
        found: u8,
    },
    /// A length beyond the limit of its type; nothing was allocated.
    #[error("message {kind:?} of {length} bytes is longer than {max}")]
    TooLong {
        /// The type.
        kind: Kind,
        /// The length claimed.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A message that has no place here, for example a batch before the handshake.
    #[error("message {kind:?} is not expected {place}")]
    Unexpected {
        /// The type.
        kind: Kind,
        /// Where in the conversation.
        place: &'static str,
    },
    /// The body of a message cannot be decoded.
    #[error("message {kind:?} cannot be decoded: {source}")]
    Malformed {
        /// The type.
        kind: Kind,
        /// What the decoder says.
        source: rmp_serde::decode::Error,
    },
    /// More identities than one message may carry.
    #[error("message of {count} identities, at most {max} are allowed")]
    TooMany {
        /// How many came.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A batch whose codec or lengths are wrong, or that does not decompress.
    #[error("batch is damaged: {what}")]
    BadBatch {
        /// What is wrong.
        what: &'static str,
    },
}
