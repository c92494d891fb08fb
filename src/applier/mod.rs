//! Replays records onto the replica tree, exactly once, and remembers how far.
//!
//! One [`Applier`] per stream, driven by one thread: next frame, [`Applier::apply`], publish
//! [`Applier::applied`]. It applies in the order of positions, so that the replica always equals
//! the source after some prefix of the stream, except in the states that [`Applier::data_state`]
//! names.
//!
//! # Contract
//! * Strict (no mirror): every operation must find exactly what the source had, else
//!   [`Error::Diverged`] holds the stream. Nothing is ever skipped.
//! * Lenient (from `Gap` or `MirrorBegin` to `MirrorEnd`): the *want-list is the mirror*. Files in
//!   doubt that stand in a live directory are wanted; a listing makes a directory live and its
//!   entries wanted; an image makes a file live. Operations apply to what is live and are ignored
//!   for the rest. What is in the way goes to limbo, a directory outside the visible tree, and is
//!   deleted at the mirror's end. An image or listing whose `after.nlink` is 0 says that the file
//!   is dead: it is no longer wanted.
//! * A collapse or insert on a file whose image is under way makes it wanted anew.
//!
//! # Invariants
//! * `durable <= applied`, both on whole groups of frames.
//! * On an error nothing has advanced; applying the same frame again completes it.
//! * A file is touched only by its identity on the replica's file system ([`Object`]), a name only
//!   as one component in a directory that is known by identity.
//!
//! * Nothing outside of the replica and its limbo is read or changed, whatever a source says: records name
//!   objects that this applier made or found by listing, and single names. What is mounted at a name is no
//!   part of the replica (`EXDEV`); one that is found anywhere with more names than the records say is not
//!   believed; one that somebody moved out is theirs, and is only written to, never looked for, there.
//! * What no honest source sends is refused before anything is done ([`Error::Unfit`]).
//! * Names of extended attributes that begin with `trusted.doppelfs.` are ours: never taken from a source.
//! * [`Terms`] bound what a source takes ([`Metered`]) and withhold what it may not have made
//!   ([`Withholding`]); without terms neither asks the file system for anything.
//!
//! # Failure
//! *Process crash*: a table and the map's changes, both on a tmpfs, give the exact position; one
//! operation is in doubt and is decided by what stands there. *Host crash*: the map of the last
//! checkpoint, the namespace operations replayed in memory up to the marker in the replica's file
//! system, data and attributes redone. See `recovery.rs` for the lettered table.
//!
//! # Assumptions about the replica's file system
//! After a power cut ext4 and xfs show a *prefix* of the metadata operations that one thread did,
//! so a marker (an extended attribute of a file beside the tree) set after each namespace operation
//! names the surviving one, with at most the next in doubt. Other file systems make no such
//! promise that we know of: after a power cut they need a mirror, and so does a replica that was in
//! the middle of one. Data may be lost, kept or torn per file since the last syncfs(2).

mod checkpoint;
mod content;
mod engine;
mod error;
mod fit;
mod ledger;
mod lenient;
mod links;
mod map;
mod metered;
mod mirror;
mod namespace;
mod recovery;
mod redo;
mod replica;
mod replica_fs;
mod stage;
mod table;
mod terms;
mod wants;
mod withholding;

pub use checkpoint::CheckpointJob;
pub use engine::{Applier, DataState, MirrorState};
pub use error::{Cause, Error};
pub use ledger::{Ledger, Meta, SledLedger};
pub use map::{Change, Held};
pub use metered::Metered;
pub use recovery::{Backlog, Frames, Recovered, Start};
pub use replica::{
    Inode, InodeKind, Marker, Moving, Object, Place, Range, Replica, Syncer, Weight,
};
pub use replica_fs::FsReplica;
pub use stage::{Stage, Staged};
pub use terms::{Lease, Limits, Terms, Usage};
pub use withholding::Withholding;
