//! Real-time replication of a directory tree, in order, crash-safe.
//!
//! On the *source* doppelfs is mounted over a directory. Every call of every program passes through
//! it to the file system below, and what changed becomes a record in an ordered queue. On the
//! *target* the records are stored, acknowledged and replayed onto the *replica*, each exactly once.
//!
//! # Where one write goes
//! Down the spine on the source, up on the target; each step is one function to read:
//!
//! ```text
//! fuse      Adapter::write        decodes the request, chooses nothing
//! capture   Capture::write        takes the inode's lock and calls below with the caller's identity,
//! capture   Capture::record       appends what happened, with the attributes afterwards; frees the lock
//! journal   Journal::append       gives the number; one pwritev into the page cache
//! sender    follow                reads the stored bytes back, batches, sends
//!           -------- TCP: wire::Batch, the same bytes --------
//! receiver  intake::accept_batch  limits, checksums, the number before; stores, syncs, publishes
//! receiver  replay                hands on what is durable here, in order, in one thread
//! applier   Applier::apply        decodes - the first since capture - and changes the replica
//! ```
//!
//! and back: `wire::Message::Ack` with received, applied, durable -> the connection's cursor in the
//! source's journal -> segments that nobody needs are unlinked.
//!
//! # The rooms
//! A room is a folder; its `mod.rs` is its door, with the contract. A room uses lower floors only.
//! What looks like a call upwards is a trait owned below and implemented above.
//!
//! | floor | room | |
//! |---|---|---|
//! | 0 | [`types`] | the nouns everyone shares: positions, identities, operations, names, limits |
//! | 0 | [`sync`] | the one door to locks and threads; every lock has a rank |
//! | 1 | [`sys`] | system calls: borrowed descriptors in, owned ones out |
//! | 1 | [`codec`] | record to bytes and back; the same on disk and on the wire |
//! | 1 | [`stats`] | what is counted, under which name, and what it means over time |
//! | 2 | [`keys`] | who somebody is: self-made keys, invitations, the targets of this host |
//! | 2 | [`live`] | what survives the worker: known nodes, open files, requests under way |
//! | 2 | [`confine`] | what a process gives up before it listens to strangers |
//! | 3 | [`passthrough`] | a plain file system over a directory, by identity and not by path |
//! | 3 | [`journal`] | the ordered durable queue: append, read, trim, recover |
//! | 3 | [`wire`] | addresses, TLS, messages, handshake, batches |
//! | 3 | [`activity`] | how the last run ended, and what may therefore differ |
//! | 3 | [`digest`] | two trees compared in everything that a replica must show |
//! | 4 | [`capture`] | passthrough and journal in one order; images; gaps |
//! | 4 | [`sender`] | one connection: session, batches, acknowledgements |
//! | 4 | [`applier`] | records onto the replica, once each, and how far |
//! | 4 | [`control`] | the local API: a unix socket for each set and each target |
//! | 5 | [`alerts`] | what administrators are told, by journald or syslog |
//! | 5 | [`metrics`] | numbers as Prometheus reads them |
//! | 5 | [`fuse`] | decodes what the kernel asks, replies, mounts |
//! | 5 | [`receiver`] | accepts, fences, checks, stores, feeds the applier, acknowledges |
//! | 5 | [`mirror`] | answers what the target wants with images in the stream |
//! | 6 | [`config`] | words into validated options; may this directory be protected? |
//! | 6 | [`supervisor`] | starts a worker in the background and hears whether it serves |
//! | 7 | [`daemon`] | wires the rooms together: the worker of a set, the target |
//! | 8 | [`cli`] | commands, what they show, exit codes |
//!
//! # Architecture invariants
//! Architecture invariant: stored bytes are sent bytes. Records are encoded once, in [`capture`], and
//! decoded only by [`applier`], except to show them to people.
//!
//! Architecture invariant: a record's number is taken under the locks of all inodes it touches, and
//! before the call returns.
//!
//! Architecture invariant: `durable <= applied <= received <= sent <= captured`, wherever one of them
//! advances.
//!
//! Architecture invariant: one operation is one frame. Only a directory's listing may be several, which
//! are stored and applied as a whole.
//!
//! Architecture invariant: jobs have no data path of their own. What a mirror copies goes through the
//! same journal as what programs write.
//!
//! Architecture invariant: a full or stuck queue, link or target is absent from what a program sees; no
//! errno comes from replication.
//!
//! Architecture invariant: `unsafe` is absent everywhere but in [`sys`]; names of the FUSE library and
//! the choice of an errno are absent everywhere but in [`fuse`]; sled is absent everywhere but in
//! [`journal`] and [`applier`], and nowhere the only copy of anything.
//!
//! Architecture invariant: paths into the tree are absent below the front door. Files are found by
//! identity, names are single components in a directory already open; paths in records are for people.
//!
//! Architecture invariant: commands that show state never touch a mount; they ask the control socket.
//!
//! Architecture invariant: the source knows nothing of the replica's files, the target nothing of the
//! source's; a position and a list of wanted identities is all that one tells the other.

pub mod activity;
// The fuzzer is built without rooms that take no bytes from outside but by way of others: half of the time
// that it takes to compile.
#[cfg(not(fuzzing))]
pub mod alerts;
pub mod applier;
#[cfg(not(fuzzing))]
pub mod capture;
#[cfg(not(fuzzing))]
pub mod cli;
pub mod codec;
pub mod config;
pub mod confine;
pub mod control;
#[cfg(not(fuzzing))]
pub mod daemon;
#[cfg(not(fuzzing))]
pub mod digest;
#[cfg(not(fuzzing))]
pub mod fuse;
pub mod journal;
pub mod keys;
pub mod live;
#[cfg(not(fuzzing))]
pub mod metrics;
#[cfg(not(fuzzing))]
pub mod mirror;
#[cfg(not(fuzzing))]
pub mod passthrough;
pub mod receiver;
pub mod sender;
pub mod stats;
#[cfg(not(fuzzing))]
pub mod supervisor;
pub mod sync;
pub mod sys;
pub mod types;
pub mod wire;
