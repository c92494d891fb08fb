//! Arguments of commands that act on connections and replicas.

use clap::{Args, Subcommand};

/// Arguments of `pause`.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The sets; may be left out where there is one
    pub(super) sets: Vec<String>,
    /// All sets of this host, at one point: programs wait a moment for it
    #[arg(long, conflicts_with = "sets")]
    pub(super) all: bool,
    /// Name of the point; made of date and time by default
    #[arg(long, value_name = "NAME")]
    pub(super) mark: Option<String>,
    /// Exit with 1 when the replicas are not there after this many seconds; they still stop when they are
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub(super) timeout: f64,
    /// Do not wait until the replicas are there
    #[arg(long)]
    pub(super) no_wait: bool,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `target pause`.
#[derive(Debug, Args)]
pub(super) struct TargetPauseArgs {
    /// Only this replica: its path below the root, or the whole path
    pub(super) path: Option<String>,
    /// At once, also in the middle of a mirror
    #[arg(long)]
    pub(super) now: bool,
    /// Exit with 1 when they do not stand after this many seconds; they still stop when they can
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub(super) timeout: f64,
    /// Do not wait until they stand
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Which target, where this host serves several
    #[arg(long)]
    pub(super) port: Option<u16>,
}

/// What can be done about replication as a whole.
#[derive(Debug, Subcommand)]
pub(super) enum ReplicationVerb {
    /// Begin again, with a mirror
    Start {
        /// The set; may be left out where there is one
        set: Option<String>,
    },
    /// Keep nothing of what is captured, and send nothing
    Stop {
        /// The set; may be left out where there is one
        set: Option<String>,
    },
}

/// What can be done with numbers beside printing them.
#[derive(Debug, Subcommand)]
pub(super) enum MetricsVerb {
    /// Serve them over HTTP, at /metrics, in the foreground
    Serve {
        /// Where to listen ([metrics] listen of doppelfs.toml, else 127.0.0.1:7421)
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<std::net::SocketAddr>,
    },
}
