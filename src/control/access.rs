//! Who may ask what.

use nix::unistd::Group;

use super::Request;
use crate::sys::Peer;

/// Its members may do what goes through the sockets.
pub const ADMIN_GROUP: &str = "doppelfs-admin";

/// Its members may look.
pub const MONITOR_GROUP: &str = "doppelfs-monitor";

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// To see how things are: states, positions, numbers. No names of files.
    Look,
    /// To change something, or to see the names of files, which are data.
    Act,
}

impl Request {
    /// Who may ask it. A new request is classified here before it can be built.
    pub fn needs(&self) -> Access {
        match self {
            Request::Status
            | Request::Wait { .. }
            | Request::QueueShow
            | Request::Stats
            | Request::Peers => Access::Look,
            Request::QueueTail { .. }
            | Request::QueueFind { .. }
            | Request::MirrorStart { .. }
            | Request::PrepareUmount
            | Request::AbandonUmount
            | Request::Stop
            | Request::Invite { .. }
            | Request::RevokePeer { .. }
            | Request::SetPeer { .. }
            | Request::Hold { .. }
            | Request::Mark { .. }
            | Request::Pause { .. }
            | Request::Resume
            | Request::Disconnect { .. }
            | Request::Connect
            | Request::StopReplication
            | Request::StartReplication
            | Request::PauseReplicas { .. }
            | Request::ResumeReplicas { .. }
            | Request::RotateKey { .. } => Access::Act,
        }
    }
}

/// The groups of this host; `None` where there is no such group, and then nobody is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Groups {
    /// Number of [`ADMIN_GROUP`].
    pub admin: Option<u32>,
    /// Number of [`MONITOR_GROUP`].
    pub monitor: Option<u32>,
}

impl Groups {
    /// Looks the names up, wherever this host has its groups (nsswitch.conf(5)): that may ask a server
    /// and take as long as that takes.
    pub fn named(admin: &str, monitor: &str) -> Groups {
        let find = |name| match Group::from_name(name) {
            Ok(found) => found.map(|group| group.gid.as_raw()),
            Err(error) => {
                tracing::warn!(%error, name, "cannot look up the group; nobody is in it");
                None
            }
        };
        Groups {
            admin: find(admin),
            monitor: find(monitor),
        }
    }

    /// All that there are.
    pub(super) fn all(self) -> Vec<u32> {
        self.admin.into_iter().chain(self.monitor).collect()
    }

    /// What somebody may do; `None`: nothing. `owner` is the server's own user.
    pub fn access_of(self, peer: &Peer, owner: u32) -> Option<Access> {
        let is_in = |group: Option<u32>| group.is_some_and(|gid| peer.is_in(gid));
        if peer.uid == 0 || peer.uid == owner || is_in(self.admin) {
            Some(Access::Act)
        } else if is_in(self.monitor) {
            Some(Access::Look)
        } else {
            None
        }
    }
}

/// What is told to those who may not.
pub(super) fn denied_text() -> String {
    format!(
        "permission denied: ask to be in group {MONITOR_GROUP} (to look) or {ADMIN_GROUP} (to act), or be \
         root; membership counts from the next login, a new group from the next start of the worker"
    )
}
