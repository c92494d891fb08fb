//! What a sender is given: its options, and the one who answers what the target asks for.

use std::sync::Arc;

use crate::journal::Journal;
use crate::keys::Pairings;
use crate::types::{FileId, Fork, History, Seq, SetName};
use crate::wire::{Place, TargetAddr};

use super::beginning::Line;

/// What a sender tells the set that it belongs to. Implemented by the daemon.
///
/// All but [`SenderEvents::begin_full_mirror`] are called from a task of the runtime and must not
/// block: put it into a queue and return.
pub trait SenderEvents: Send + Sync {
    /// The target of connection `connection` needs images of these files, in this order. False: it asks for
    /// more than there can be, and its session is to end.
    fn wanted(&self, connection: u32, ids: Vec<FileId>) -> bool;
    /// The session is lost: forget what this connection wanted; the target asks again.
    fn wants_reset(&self, connection: u32);
    /// Appends the beginning of a full mirror to the journal and returns its position. Called from
    /// the sender's thread before a session that cannot continue anywhere.
    ///
    /// # Errors
    /// When the journal does not take it; the session is given up and tried again.
    fn begin_full_mirror(
        &self,
        connection: u32,
    ) -> Result<Seq, Box<dyn std::error::Error + Send + Sync>>;
    /// The target has applied all that there is, and waits for a mirror of what is in doubt: who recorded
    /// the doubt died before it began one. May be told several times.
    fn mirror_due(&self, connection: u32);
    /// The target has everything that this mirror covers: append the mirror's end.
    fn mirror_done(&self, connection: u32, mirror: u64);
}

/// One connection of a source.
#[derive(Clone)]
pub struct SenderOptions {
    /// The connection's number in its set; names its thread and its cursor.
    pub id: u32,
    /// Where the target listens, and the mirror path.
    pub target: TargetAddr,
    /// The set.
    pub set: SetName,
    /// This host's name, as the target shows it and names the default mirror path.
    pub source: String,
    /// Random id of the state directory.
    pub instance: u128,
    /// The root of the tree.
    pub root: FileId,
    /// The journal's line of positions.
    pub history: History,
    /// The lines that it goes on from.
    pub forks: Vec<Fork>,
    /// Where the protected directory is; `None` gives up the target's check for loops.
    pub place: Option<Place>,
    /// Absolute paths of the set, where links that lead there are remapped.
    pub remap: Vec<String>,
    /// What is sent.
    pub journal: Arc<Journal>,
    /// Plain TCP instead of TLS, to loopback addresses only.
    pub insecure_loopback: bool,
    /// This host's key and the targets that it knows; read anew for each connection.
    pub pairings: Pairings,
    /// Where the tasks run; must be a multi-thread runtime.
    pub runtime: tokio::runtime::Handle,
    /// Who answers the target.
    pub events: Arc<dyn SenderEvents>,
}

impl SenderOptions {
    /// What there is to go on from, now.
    pub(super) fn line(&self) -> Line<'_> {
        Line {
            history: self.history,
            forks: &self.forks,
            before_first: Seq(self.journal.first().0.saturating_sub(1)),
            end: self.journal.end(),
        }
    }

    /// The name of the journal's cursor.
    pub(super) fn cursor(&self) -> String {
        format!("conn-{}", self.id)
    }

    /// The name of the journal's fact that holds what is wanted of this connection.
    pub(super) fn wish_fact(&self) -> String {
        format!("conn-{}-wish", self.id)
    }

    /// The name of the journal's fact that holds the history that this target was last met in.
    pub(super) fn met_fact(&self) -> String {
        format!("conn-{}-met", self.id)
    }
}
