//! Why a session could not begin, or ended.

use std::io;

use crate::journal;
use crate::keys;
use crate::wire;

/// Why a session could not begin, or ended. None is final: the connection is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's name leads to no address.
    #[error("target host {host} is not known: {source}; check the name in the target's address")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// No connection to the target.
    #[error(
        "target {endpoint} cannot be reached: {source}; check that \"doppelfs target serve\" runs there and that host and port are right"
    )]
    Connect {
        /// Host and port.
        endpoint: String,
        /// What the system says.
        source: io::Error,
    },
    /// No answer to the connection attempt.
    #[error("target {endpoint} does not answer; check host, port and firewall")]
    ConnectTimeout {
        /// Host and port.
        endpoint: String,
    },
    /// This host's key, or what it knows of the target, cannot be used.
    #[error("target {endpoint}: {source}")]
    Keys {
        /// Host and port.
        endpoint: String,
        /// What is wrong with them.
        source: keys::Error,
    },
    /// The plain transport is for loopback addresses only.
    #[error(
        "target {endpoint} is no loopback address: --insecure-loopback connects to this host only"
    )]
    NotLoopback {
        /// Host and port.
        endpoint: String,
    },
    /// The conversation with the target broke.
    #[error("connection to target {endpoint}: {source}")]
    Wire {
        /// Host and port.
        endpoint: String,
        /// What broke.
        source: wire::Error,
    },
    /// The target said no; its text says why and what to do.
    #[error("target {endpoint} refuses: {text}")]
    Refused {
        /// Host and port.
        endpoint: String,
        /// The reason, for programs.
        code: wire::RefuseCode,
        /// The reason, for people.
        text: String,
    },
    /// The target said what cannot be.
    #[error("target {endpoint} breaks the protocol: {what}")]
    Protocol {
        /// Host and port.
        endpoint: String,
        /// What it said.
        what: String,
    },
    /// The source's own journal cannot be read on; a damaged or given up part makes the next
    /// session begin with a full mirror.
    #[error("queue of the source: {source}")]
    Journal {
        /// What the journal says.
        source: journal::Error,
    },
    /// The beginning of a full mirror could not be written into the journal.
    #[error("full mirror cannot begin: {source}")]
    Mirror {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gives no thread.
    #[error("thread of connection {id}: {source}")]
    Thread {
        /// The connection.
        id: u32,
        /// What the system says.
        source: io::Error,
    },
    /// The connection's thread ended on an internal error. It stays down until it is started anew.
    #[error("the connection has stopped on an internal error (see the log); restart the set")]
    Panicked,
    /// [`super::Sender::require_mirror`] was called: the next session begins with a full mirror.
    #[error("a full mirror was asked for")]
    MirrorAsked,
    /// An administrator wants no session.
    #[error("disconnected by hand")]
    Disconnected,
    /// What would come next is no record of the history that the pause stands in: a mirror, or what follows a
    /// loss of power.
    #[error(
        "the connection is paused, and the replica cannot stay as it is once it goes on: `doppelfs resume` lets it"
    )]
    PausedApart,
    /// [`super::Sender::stop`] was called.
    #[error("the connection is stopped")]
    Stopped,
}
