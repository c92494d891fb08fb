//! How a target is started.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::journal;

/// Where a target listens unless told otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7420";

/// How a target is started.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen; port 0 lets the system choose, [`super::Target::address`] tells.
    pub listen: SocketAddr,
    /// Replicas lie below this directory; it must exist.
    pub root: PathBuf,
    /// Streams and their journals; made where it is missing.
    pub state: PathBuf,
    /// A directory on a tmpfs for the tables of applied operations; `None`: `/run/doppelfs-target`,
    /// or `/dev/shm/doppelfs-target` where `/run` is no tmpfs.
    pub run: Option<PathBuf>,
    /// This host's name, as sources show it.
    pub host_name: String,
    /// Plain TCP from loopback addresses is allowed beside TLS.
    pub insecure_loopback: bool,
    /// How large the streams' journals may get.
    pub queue: journal::Options,
    /// Where the tasks run; must be a multi-thread runtime.
    pub runtime: tokio::runtime::Handle,
}
