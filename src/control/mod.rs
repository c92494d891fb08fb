//! The local API: one unix socket per set and per target, HTTP and JSON over it.
//!
//! # Contract
//! A worker starts a [`Server`] on `<run dir>/<set>.sock` (a target on
//! `<run dir>/target-<port>.sock`) and answers through its [`Handler`]; everybody else uses a
//! [`Client`], which never waits longer than it was told to, whatever state the worker is in. What
//! is said in `status` stands in [`status`], what lists of operations show in [`QueueLine`].
//!
//! # Format
//! HTTP/1.1, one request for each connection; `docs/openapi.json` describes it, `docs/api.md` shows it.
//! [`ROUTES`] says by which method and path each [`Request`] is asked. An answer has one of two forms:
//! * `application/json`: the reply alone, when it is there. For people and scripts.
//! * `application/x-ndjson`, where the client accepts that, and for what goes on for ever: any number of lines
//!   `{"kind":"item","body":..}` and `{"kind":"alive"}` and then exactly one of `{"kind":"done","body":..}` and
//!   `{"kind":"refused","body":{"code":..,"text":..}}`. This is what [`Client`] asks for.
//! ```text
//! > GET /v1/wait?caught_up=true&timeout_ms=5000 HTTP/1.1
//! < HTTP/1.1 200 OK
//! < {"kind":"alive"}
//! < {"kind":"done","body":{"reply":"waited","caught_up":true,"reason":null}}
//! ```
//! [`RefusalCode::status`] says which status goes with a refusal. One that comes after the first line cannot change
//! the status any more, which is 200 then: the last line counts.
//!
//! # Invariants
//! * While an answer in lines is under way the server says `alive` every [`HEARTBEAT`], so a client that
//!   hears nothing for longer knows that the worker is stopped, not busy.
//! * The name of a set belongs to who holds the lock on `<set>.lock`; the socket file alone proves
//!   nothing, it may be left over.
//! * Root, the worker's own user and members of `doppelfs-admin` may ask everything, members of
//!   `doppelfs-monitor` what [`Request::needs`] only [`Access::Look`] for; they are told no names of files.
//!   Others get no answer and see nothing: the directory is 0700, the sockets are 0600, access control
//!   lists let the two groups in, and the peer's credentials are looked at, too.
//! * Nobody takes the places of others: of 256 a user has 32, and 64 are root's. A place is for one request; who does
//!   not say it, or does not take what is told, within [`Terms::patience`] loses it.
//! * Nothing that a client sends or asks for is held in memory beyond a limit.
//!
//! # Failure
//! A client that goes takes its request with it: the answer's future is dropped at most a heartbeat later. A handler that panics closes the connection;
//! the client reports it. A worker of the time before HTTP is told from others by its first bytes
//! ([`Error::Older`]).

mod access;
mod address;
mod client;
mod error;
mod escape;
mod http;
mod message;
mod overheard;
mod patient;
mod peers;
mod queue_filter;
mod queue_line;
mod routes;
mod rundir;
mod seats;
mod server;
pub mod status;
mod telling;

pub use access::{ADMIN_GROUP, Access, Groups, MONITOR_GROUP};
pub use address::{Service, list_services, list_sets};
pub use client::{ANSWER_PATIENCE, Answers, Client};
pub use error::{Error, Refusal, RefusalCode};
pub use escape::{escape, is_unseen, unescape};
pub use message::{
    CursorLine, HEARTBEAT, Item, MirrorKind, QueueReport, Reply, Request, SegmentLine, VERSION,
};
pub use peers::{PeerLine, PeersReport, RefusalLine, SecretText, TermsChange};
pub use queue_filter::{FilterError, QueueFilter, QueueMatcher};
pub use queue_line::QueueLine;
pub use routes::{
    Asked, BodyKind, DESCRIPTION, DESCRIPTION_PATH, Parameter, ParameterKind, ROUTES, Route,
    encode_request,
};
pub use rundir::make_run_dir;
pub use server::{Answer, Handler, Items, Server, Terms};
