//! The local API: one unix socket per set and per target, requests and answers as lines of JSON.
//!
//! # Contract
//! A worker starts a [`Server`] on `<run dir>/<set>.sock` (a target on
//! `<run dir>/target-<port>.sock`) and answers through its [`Handler`]; everybody else uses a
//! [`Client`], which never waits longer than it was told to, whatever state the worker is in. What
//! is said in `status` stands in [`status`], what lists of operations show in [`QueueLine`].
//!
//! # Format
//! One connection carries one request: a line `{"version":1,"do":"<request>", ...}`. The answer is
//! any number of `{"kind":"item","body":..}` and `{"kind":"alive"}` lines and then exactly one of
//! `{"kind":"done","body":..}` and `{"kind":"refused","body":{"code":..,"text":..}}`. A line ends
//! with `\n` and has none within.
//! ```text
//! > {"version":1,"do":"wait","caught_up":true,"timeout_ms":5000}
//! < {"kind":"alive"}
//! < {"kind":"done","body":{"reply":"waited","caught_up":true,"reason":null}}
//! ```
//!
//! # Invariants
//! * While an answer is under way the server says `alive` every [`HEARTBEAT`], so a client that
//!   hears nothing for longer knows that the worker is stopped, not busy.
//! * The name of a set belongs to who holds the lock on `<set>.lock`; the socket file alone proves
//!   nothing, it may be left over.
//! * Root, the worker's own user and members of `doppelfs-admin` may ask everything, members of
//!   `doppelfs-monitor` what [`Request::needs`] only [`Access::Look`] for; they are told no names of files.
//!   Others get no answer and see nothing: the directory is 0700, the sockets are 0600, access control
//!   lists let the two groups in, and the peer's credentials are looked at, too.
//! * Nobody takes the places of others: of 256 a user has 32, and 64 are root's.
//!
//! # Failure
//! A client that goes takes its request with it: the answer's future is dropped at the next line
//! that cannot be written, at most a heartbeat later. A handler that panics closes the connection;
//! the client reports it.

mod access;
mod address;
mod client;
mod error;
mod escape;
mod message;
mod peers;
mod queue_filter;
mod queue_line;
mod rundir;
mod seats;
mod server;
pub mod status;

pub use access::{ADMIN_GROUP, Access, Groups, MONITOR_GROUP};
pub use address::{Service, list_services, list_sets};
pub use client::{ANSWER_PATIENCE, Answers, Client};
pub use error::{Error, Refusal, RefusalCode};
pub use escape::{escape, is_unseen, unescape};
pub use message::{
    CursorLine, HEARTBEAT, Item, MirrorKind, QueueReport, REQUEST_NAMES, Reply, Request,
    SegmentLine, VERSION, encode_request, parse_request,
};
pub use peers::{PeerLine, PeersReport, RefusalLine, SecretText, TermsChange};
pub use queue_filter::{FilterError, QueueFilter, QueueMatcher};
pub use queue_line::QueueLine;
pub use rundir::make_run_dir;
pub use server::{Answer, Handler, Items, Server, Terms};
