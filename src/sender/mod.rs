//! One connection of a source: follow the journal, keep a session with the target, take its answers.
//!
//! A [`Sender`] is one thread, `dfs-send-<id>`, for as long as the connection is configured. It
//! connects, agrees with the target on where to begin, reads frames from the journal and packs them
//! into batches; two tasks of the runtime write them to the socket and read the answers. When the
//! session ends, for whatever reason, the thread says so in its state, waits and begins again: for
//! ever, with rising pauses.
//!
//! # Where a session begins
//! The target says its position. Is it in our history, and does the journal still have what
//! follows, then the session continues there. In any other case (new target, its backlog given up,
//! history not ours, target ahead of us, a damaged segment in between) the source has the beginning
//! of a full mirror appended to the journal and the session *jumps* to it. The decision stands alone, in
//! `beginning.rs`: the simulation of the tests takes the same one.
//!
//! # What an administrator wants
//! A [`Wish`] is kept in the journal: to replicate, to stand still at a mark, to have no session, to keep
//! nothing. A pause is the source's alone: it sends everything up to the mark and nothing behind it, so the
//! replica comes to a stand there by itself, whatever the target is and however often either side is started
//! again. The order is: freeze what goes out, append the mark, name it as the limit.
//!
//! # Invariants
//! - While paused at a mark nothing behind it has been sent, ever; and no session begins that would change the
//!   replica in another way (a full mirror, the fork of a history).
//! - `durable <= applied <= received <= sent <= end`, checked on each answer.
//! - The journal's cursor `conn-<id>` stands at the last record that the target holds durably (or,
//!   between a jump and the target's first answer, before the mirror's beginning): nothing after it
//!   is trimmed.
//! - At most [`WINDOW_BYTES`] are on their way to the target's journal.
//!
//! # Failure
//! Nothing here makes an operation on the mount fail or wait. A target that cannot be reached, that
//! refuses, or that falls silent is an [`Error`] in [`SenderState::error`], and tried again.

mod beginning;
mod connect;
mod effort;
mod error;
mod events;
mod follow;
mod handle;
mod pairing;
mod progress;
mod session;
mod shared;
mod state;
mod wish;

pub use beginning::{Beginning, Line, Why, is_mirror_due, is_possible, marks_after, marks_at};
pub use effort::{Batch, Effort};
pub use error::Error;
pub use events::{SenderEvents, SenderOptions};
pub use handle::Sender;
pub use pairing::{announce_key, pair};
pub use shared::{SILENCE_MAX, WINDOW_BYTES};
pub use state::{Link, SenderState};
pub use wish::{PausePoint, Wish};
