//! The target: listen, take in what sources send, feed the appliers, answer.
//!
//! [`Target::serve`] opens every stream that the state directory knows and listens. A *stream* is
//! one replica: one (source, set) and one mirror path. It owns a journal, an applier with its thread
//! `dfs-apply-<n>`, which lives as long as the stream, and at most one session with its thread
//! `dfs-recv-<n>`.
//!
//! # From the socket to the replica
//! The session's task reads messages and hands batches through a small channel to the receiver
//! thread, where one function (`accept_batch` in `intake.rs`) opens them, checks every frame,
//! stores it, makes it durable (in a full mirror only its end: what lost power begins that anew), and only
//! then publishes it: *received*. The applier thread applies what is published, and nothing else: *applied*.
//! Checkpoints, on a thread of their own, make it *durable*, and the journal drops what is.
//!
//! # Who may come in
//! A source speaks TLS and shows a key. Until it has said who it is, it has a place in the *door* (`crowd.rs`)
//! and no more memory than a small message takes. The key is looked up in the registry of *peers*
//! (`peers.rs`), and what it may write is decided in `grants.rs`, at each connection. A key that is not known
//! can redeem an invitation, and nothing else.
//!
//! # Invariants
//! - Nothing that a source sends is looked at before it is known, but a greeting and an invitation.
//! - At most one receiver per stream: a new connection stops and joins the older one first.
//! - Only records that are durable in the target's journal are applied.
//! - A position changes other than by the next record only before the beginning of a full mirror,
//!   and `stream.json` says so durably before anything is changed.
//! - Mirror paths are made and opened beneath the target's root, component by component, never
//!   through a symbolic link.
//!
//! What is decided about positions stands alone, in `position.rs`: the simulation of the tests takes the
//! same decisions.
//!
//! # Files
//! ```text
//! <state>/key, peers.json            the target's key, and who is known, 0600
//! <state>/lock, id                   one process at a time; names the tables on the tmpfs
//! <state>/streams/<n>/stream.json    source, set, mirror path, and whether the position is settled
//! <state>/streams/<n>/queue/         the journal
//! <state>/streams/<n>/applier/       the applier's map
//! <run>/<id>/<n>/                    table of applied operations, on a tmpfs
//! <root>/.doppelfs/<id>-<n>/         limbo and marker, on the replica's file system
//! ```
//!
//! # Failure
//! A full disk or a failing replica holds its stream, visibly, and is tried again for ever; a source
//! that does not fit is refused with a text that says what to do.

mod crowd;
mod error;
mod grants;
mod greeting;
mod intake;
mod opening;
mod options;
mod own_keys;
mod pauses;
mod peers;
mod position;
mod registry;
mod replay;
mod session;
mod site;
mod snapshot;
mod stream;
mod target;
mod welcome;

pub use crowd::Refusal;
pub use error::Error;
pub use grants::{Grant, PeerTerms};
pub use options::{LISTEN_DEFAULT, ServeOptions};
pub use own_keys::KeyChange;
pub use peers::Peer;
pub use position::{Gate, Standing, ToldDone, Way, data_state, opened_at};
pub use registry::{Marked, Pause};
pub use snapshot::{Doors, StreamSnapshot, TargetSnapshot};
pub use target::Target;
