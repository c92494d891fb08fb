//! What two doppelfs say to each other, over any byte stream: messages, framing, batches.
//!
//! [`MessageReader`] and [`write_message`] work on any `AsyncRead` and `AsyncWrite`. Between hosts that is
//! TLS 1.3, made by [`Acceptor`] and [`Connector`]; on one host it may be the plain socket: a
//! [`Transport`] is one of them.
//!
//! # Layout (integers little-endian)
//! ```text
//! each direction begins with   "DPFS", u16 protocol version
//! then messages                u32 length of what follows, u8 type, body
//! body of a batch              u8 codec (0 raw, 1 zstd), u32 raw length, frames back to back
//! any other body               MessagePack map of the message's fields
//! ```
//! A version's number changes when a message could be misunderstood; fields may be added without
//! it, with a default for who does not send them.
//!
//! # The conversation
//! The source connects and says [`Hello`]: who it is and which records it has. The target answers
//! [`Welcome`] with its position, or [`Refuse`] with a reason and what to do. The source says
//! [`Start`] and sends batches of frames, just as its journal holds them. The target answers with
//! an [`Ack`] whenever its marks or its state changed, with a [`Want`] for files whose images it
//! needs, with [`Done`] when a mirror left nothing in doubt.
//!
//! In the place of a `Hello` a source that is not known yet says [`Pair`], and one that changes its key
//! [`Rekey`]; [`Paired`] or a refusal ends that conversation.
//!
//! # Invariants
//! - No length is believed before it has passed the limit of its message type, and before the
//!   handshake only small messages are taken.
//! - Stored bytes are sent bytes: a batch is never decoded on the way, frames carry their own
//!   checksums.
//!
//! # Failure
//! Any malformed byte is an [`Error`], after which the stream is not usable any more. Silence is
//! measured between bytes, not messages, so a slow link is no dead one.

mod address;
mod batch;
mod error;
mod message;
mod pairing;
mod place;
mod stream;
mod tls;
mod transport;

pub use address::{AddressError, AddressFault, PORT_DEFAULT, TargetAddr};
pub use batch::{BATCH_RAW_BYTES_MAX, Frames, Packed, Packer, Unpacker};
pub use error::Error;
pub use message::{
    Ack, CheckpointRequest, DataState, Done, Hello, Kind, Message, MirrorProgress, PROTOCOL,
    Refuse, RefuseCode, Start, TargetState, Want, Welcome,
};
pub use pairing::{PEER_NAME_BYTES_MAX, Pair, Paired, Rekey};
pub use place::{DirectoryId, Place, ancestors};
pub use stream::{MessageReader, Phase, write_bytes, write_message, write_preface};
pub use tls::{Acceptor, Connector};
pub use transport::Transport;
