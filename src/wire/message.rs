//! The messages: what each field means to the other side.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keys::Fingerprint;
use crate::types::{FileId, History, Remap, Seq, SetName, limits};

use super::batch::BATCH_RAW_BYTES_MAX;
use super::error::Error;
use super::pairing::{Pair, Paired, Rekey};
use super::place::Place;

/// The protocol version spoken: rises when a message could be misunderstood.
pub const PROTOCOL: u16 = 1;

/// Longest body of a control message; the longest are want-lists.
const CONTROL_BYTES_MAX: usize = 256 << 10;

/// Bytes before a batch's frames: codec and raw length.
const BATCH_HEAD_BYTES: usize = 5;

const _: () = assert!(limits::WANT_COUNT_MAX * 32 + 64 < CONTROL_BYTES_MAX);
const _: () = assert!(BATCH_RAW_BYTES_MAX + BATCH_HEAD_BYTES < limits::MESSAGE_BYTES_MAX);

/// The source introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol version, as in the first bytes.
    pub protocol: u16,
    /// The source's host name.
    pub source: String,
    /// The set.
    pub set: SetName,
    /// Random id of the source's state directory: another one means that its state was lost.
    pub instance: u128,
    /// Mirror path relative to the target's root; `None`: `<source>/<set>`.
    pub path: Option<String>,
    /// The line of positions of the source's journal.
    pub history: History,
    /// The lines that this one goes on from, oldest first; empty also where only a mirror will do. A target
    /// that stands in one of them is to say where it stands once it has applied all that it has.
    #[serde(default)]
    pub forks: Vec<History>,
    /// Oldest record that the source still has.
    pub first: Seq,
    /// Newest record that the source has.
    pub end: Seq,
    /// The root of the tree.
    pub root: FileId,
    /// Bits of things that not every release can; none so far.
    pub features: u64,
    /// Where the protected directory is, so that a target on the same host can refuse to replicate
    /// a directory into itself.
    pub place: Option<Place>,
    /// Absolute paths of the set on the source, the first that fits counts: symbolic links that lead
    /// there lead to the replica on the replica. Empty: links are as they are.
    #[serde(default)]
    pub remap: Vec<String>,
    /// Bytes of records that the source can keep while the target collects a mirror before it applies any
    /// of it; 0: such a mirror is to be applied as it comes.
    #[serde(default)]
    pub staged_bytes_max: u64,
}

/// The target's answer: its position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version.
    pub protocol: u16,
    /// The line of positions that the replica stands in; `None`: in none, a mirror is needed.
    pub history: Option<History>,
    /// Last record in the target's journal.
    pub received: Seq,
    /// Last record applied.
    pub applied: Seq,
    /// Last record durable in the replica itself.
    pub durable: Seq,
    /// A mirror that is under way.
    pub mirror: Option<u64>,
    /// Where the replica stands on the target, for people.
    pub replica_path: String,
    /// What the applier does.
    pub state: TargetState,
    /// How absolute links into the set are made from here on.
    #[serde(default)]
    pub remap: Option<Remap>,
    /// The key that the target will have after the one it has.
    #[serde(default)]
    pub next_key: Option<Fingerprint>,
}

/// Why a target does not take a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseCode {
    /// Another protocol version.
    Version,
    /// The peer may not speak here (no transport that is allowed).
    Transport,
    /// The source's key is not known here, or not any more.
    Unpaired,
    /// The invitation is not good: unknown, used, expired.
    Token,
    /// The source's key is known, but it may not write there.
    Forbidden,
    /// There are as many connections of this source as there may be.
    Busy,
    /// The mirror path is not allowed.
    Path,
    /// The mirror path belongs to another source or set, or lies in or around such a one.
    Taken,
    /// The mirror path lies in the source's own directory, or around it.
    OwnSource,
    /// The target is not ready yet (recovering); the source tries again.
    NotReady,
    /// The source sent what does not fit to the target's position: a gap, another history.
    Position,
    /// The source sent what is no message, or not the one expected.
    Protocol,
    /// The target cannot: its disk, its file system. The text says what.
    Failed,
    /// A newer connection of the same source took over.
    Fenced,
    /// The target ends.
    Stopping,
}

/// No, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// The reason, for programs.
    pub code: RefuseCode,
    /// The reason and what to do, for people.
    pub text: String,
}

/// The source's answer to [`Welcome`]: where it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The line of positions.
    pub history: History,
    /// The first record sent is the one after this.
    pub after: Seq,
    /// The target's position is set anew; the first record is the beginning of a full mirror.
    pub jump: bool,
    /// The history that the target stands in, which ended in a loss of power: `history` has the same
    /// records up to `after`. What the replica shows beyond is put in doubt by the first record of
    /// `history` that the old one has not.
    #[serde(default)]
    pub fork: Option<History>,
    /// The target's next key, where the source has written it down: it takes a target that has it.
    #[serde(default)]
    pub next_key: Option<Fingerprint>,
}

/// What the applier of a target does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TargetState {
    /// It applies.
    #[default]
    Ok,
    /// It has not been opened yet.
    NotLoaded,
    /// It will stand still after what it does now.
    PausePending,
    /// It stands still because somebody said so.
    Paused,
    /// Something failed and is tried again: `Ack::error` says what.
    Retrying,
}

impl TargetState {
    /// The word that `status` shows.
    pub fn word(self) -> &'static str {
        match self {
            TargetState::Ok => "ok",
            TargetState::NotLoaded => "not-loaded",
            TargetState::PausePending => "pause-pending",
            TargetState::Paused => "paused",
            TargetState::Retrying => "retrying",
        }
    }
}

/// What the replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DataState {
    /// A prefix of what happened on the source.
    #[default]
    Ok,
    /// A mirror is under way: parts are newer than others.
    Mirroring,
    /// What a crash left in doubt is being redone.
    Recovering,
    /// No prefix, and a mirror has to make it one.
    MirrorRequired,
}

impl DataState {
    /// The word that `status` shows.
    pub fn word(self) -> &'static str {
        match self {
            DataState::Ok => "ok",
            DataState::Mirroring => "mirroring",
            DataState::Recovering => "recovering",
            DataState::MirrorRequired => "mirror-required",
        }
    }
}

/// How far a mirror is, as the target sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MirrorProgress {
    /// The mirror's number.
    pub mirror: u64,
    /// Files known to be in doubt; grows while directories are listed.
    pub pending: u64,
    /// Files whose image has been applied.
    pub done: u64,
}

/// The target's marks and state, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ack {
    /// Last record in the target's journal: durable there, but in a full mirror.
    pub received: Seq,
    /// Last record applied.
    pub applied: Seq,
    /// Last record durable in the replica itself.
    pub durable: Seq,
    /// What the replica is at `applied`.
    pub data: DataState,
    /// What the applier does.
    pub state: TargetState,
    /// What fails, where, and what to do.
    pub error: Option<String>,
    /// The last file worked on.
    pub last_path: Option<String>,
    /// The mirror under way.
    pub mirror: Option<MirrorProgress>,
    /// What comes after `applied` is held until the mirror is here in whole; up to there `data` holds.
    #[serde(default)]
    pub is_staged: bool,
}

/// Files whose images the target needs, in the order in which it needs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The files.
    pub ids: Vec<FileId>,
}

/// The mirror left nothing in doubt at the target's applied position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The mirror's number.
    pub mirror: u64,
}

/// Make everything up to here durable as soon as it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRequest {
    /// The last record that somebody waits for.
    pub upto: Seq,
}

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "named after the variants of Message, which are documented"
)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Refuse = 3,
    Start = 4,
    Batch = 5,
    Ack = 6,
    Want = 7,
    Done = 8,
    CheckpointRequest = 9,
    Ping = 10,
    Pair = 11,
    Paired = 12,
    Rekey = 13,
}

impl Kind {
    /// Every type.
    pub const ALL: [Kind; 13] = [
        Kind::Hello,
        Kind::Welcome,
        Kind::Refuse,
        Kind::Start,
        Kind::Batch,
        Kind::Ack,
        Kind::Want,
        Kind::Done,
        Kind::CheckpointRequest,
        Kind::Ping,
        Kind::Pair,
        Kind::Paired,
        Kind::Rekey,
    ];

    /// The type with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        let index = usize::from(number).checked_sub(1)?;
        Kind::ALL.get(index).copied()
    }

    /// The number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Longest body of this type.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Kind::Batch => BATCH_RAW_BYTES_MAX + BATCH_HEAD_BYTES,
            Kind::Want => CONTROL_BYTES_MAX,
            Kind::Hello | Kind::Welcome | Kind::Refuse | Kind::Start | Kind::Ack => 64 << 10,
            Kind::Paired => 16 << 10,
            Kind::Pair | Kind::Rekey => 1 << 10,
            Kind::Done | Kind::CheckpointRequest | Kind::Ping => 256,
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Source: who it is.
    Hello(Hello),
    /// Target: its position.
    Welcome(Welcome),
    /// Target: no.
    Refuse(Refuse),
    /// Source: where it begins.
    Start(Start),
    /// Source: frames, packed; an [`super::Unpacker`] opens it.
    Batch(Vec<u8>),
    /// Target: marks and state.
    Ack(Ack),
    /// Target: files whose images it needs.
    Want(Want),
    /// Target: a mirror left nothing in doubt.
    Done(Done),
    /// Source: somebody waits for durability.
    CheckpointRequest(CheckpointRequest),
    /// Either: still there.
    Ping,
    /// Source: it bears an invitation.
    Pair(Pair),
    /// Target: the source is known.
    Paired(Paired),
    /// Source: its next key.
    Rekey(Rekey),
}

impl Message {
    /// The type.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::Welcome(_) => Kind::Welcome,
            Message::Refuse(_) => Kind::Refuse,
            Message::Start(_) => Kind::Start,
            Message::Batch(_) => Kind::Batch,
            Message::Ack(_) => Kind::Ack,
            Message::Want(_) => Kind::Want,
            Message::Done(_) => Kind::Done,
            Message::CheckpointRequest(_) => Kind::CheckpointRequest,
            Message::Ping => Kind::Ping,
            Message::Pair(_) => Kind::Pair,
            Message::Paired(_) => Kind::Paired,
            Message::Rekey(_) => Kind::Rekey,
        }
    }

    /// The bytes on the wire: length, type, body.
    ///
    /// # Panics
    /// When the body is beyond the limit of its type: the caller splits, it is our own message.
    pub fn encode(&self) -> Vec<u8> {
        let kind = self.kind();
        let mut bytes = vec![0, 0, 0, 0, kind.number()];
        match self {
            Message::Hello(body) => put_body(&mut bytes, body),
            Message::Welcome(body) => put_body(&mut bytes, body),
            Message::Refuse(body) => put_body(&mut bytes, body),
            Message::Start(body) => put_body(&mut bytes, body),
            Message::Batch(body) => bytes.extend_from_slice(body),
            Message::Ack(body) => put_body(&mut bytes, body),
            Message::Want(body) => put_body(&mut bytes, body),
            Message::Done(body) => put_body(&mut bytes, body),
            Message::CheckpointRequest(body) => put_body(&mut bytes, body),
            Message::Ping => {}
            Message::Pair(body) => put_body(&mut bytes, body),
            Message::Paired(body) => put_body(&mut bytes, body),
            Message::Rekey(body) => put_body(&mut bytes, body),
        }
        let length = bytes.len() - 4;
        assert!(
            length <= kind.body_bytes_max() + 1,
            "message beyond its limit"
        );
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Understands a body of this type.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TooMany`], [`Error::TooLong`].
    pub fn decode(kind: Kind, body: Vec<u8>) -> Result<Message, Error> {
        if body.len() > kind.body_bytes_max() {
            return Err(Error::TooLong {
                kind,
                length: body.len(),
                max: kind.body_bytes_max(),
            });
        }
        Ok(match kind {
            Kind::Hello => Message::Hello(body_of(kind, &body)?),
            Kind::Welcome => Message::Welcome(body_of(kind, &body)?),
            Kind::Refuse => Message::Refuse(body_of(kind, &body)?),
            Kind::Start => Message::Start(body_of(kind, &body)?),
            Kind::Batch => Message::Batch(body),
            Kind::Ack => Message::Ack(body_of(kind, &body)?),
            Kind::Want => {
                let want: Want = body_of(kind, &body)?;
                if want.ids.len() > limits::WANT_COUNT_MAX {
                    return Err(Error::TooMany {
                        count: want.ids.len(),
                        max: limits::WANT_COUNT_MAX,
                    });
                }
                Message::Want(want)
            }
            Kind::Done => Message::Done(body_of(kind, &body)?),
            Kind::CheckpointRequest => Message::CheckpointRequest(body_of(kind, &body)?),
            Kind::Ping => Message::Ping,
            Kind::Pair => Message::Pair(body_of(kind, &body)?),
            Kind::Paired => Message::Paired(body_of(kind, &body)?),
            Kind::Rekey => Message::Rekey(body_of(kind, &body)?),
        })
    }
}

fn put_body<T: Serialize>(bytes: &mut Vec<u8>, body: &T) {
    let mut serializer = rmp_serde::Serializer::new(bytes).with_struct_map();
    let encoded = body.serialize(&mut serializer);
    assert!(encoded.is_ok(), "a message always encodes into memory");
}

fn body_of<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(body).map_err(|source| Error::Malformed { kind, source })
}
