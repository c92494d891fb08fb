//! Who hears what: capture's observer, the senders' events, the mirror's pace.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::alerts::{Alert, Alerts, Kind};
use crate::capture::{Capture, Observer};
use crate::mirror::{Event, Mirror, MirrorState, Pace};
use crate::sender::{Link, Sender, SenderEvents};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::{FileId, Seq, SetName};

/// What went wrong with the queue, for `status`.
#[derive(Debug, Default)]
pub(super) struct Mishaps {
    /// The backlog was given up: why.
    pub(super) given_up: Option<String>,
    /// Operations could not be recorded: the last reason.
    pub(super) lost: Option<String>,
    /// How often.
    pub(super) lost_count: u64,
}

/// Takes capture's news: keeps it for `status`, wakes the mirror.
pub(super) struct Watcher {
    inbox: mpsc::Sender<Event>,
    pub(super) mishaps: Mutex<Mishaps>,
    set: SetName,
    alerts: Alerts,
}

impl Watcher {
    pub(super) fn new(inbox: mpsc::Sender<Event>, set: SetName, alerts: Alerts) -> Watcher {
        Watcher {
            inbox,
            set,
            alerts,
            mishaps: Mutex::new(Rank::Leaf, Mishaps::default()),
        }
    }
}

impl Observer for Watcher {
    fn gap_recorded(&self) {
        // The thread has ended: so has the mount.
        let _ = self.inbox.send(Event::Doubt);
    }

    fn backlog_given_up(&self, cursors: Vec<String>, why: String) {
        tracing::error!(?cursors, %why, "the backlog is given up: these targets need a mirror");
        self.alerts
            .raise(Alert::new(Kind::BacklogGivenUp, self.set.as_str(), &why));
        self.mishaps.lock().given_up = Some(why);
    }

    fn record_lost(&self, why: String) {
        let count = {
            let mut mishaps = self.mishaps.lock();
            mishaps.lost = Some(why.clone());
            mishaps.lost_count += 1;
            mishaps.lost_count
        };
        // While a disk fails every operation is one: they are told of less and less often.
        if count.is_power_of_two() {
            let text = format!("{count} operations so far: {why}");
            self.alerts
                .raise(Alert::new(Kind::NotRecorded, self.set.as_str(), &text));
        }
    }
}

/// Passes on what targets ask for.
pub(super) struct Wants {
    pub(super) inbox: mpsc::Sender<Event>,
    pub(super) capture: Arc<Capture>,
    pub(super) mirrored: Arc<MirrorState>,
}

/// Files that a file system may hold which does not count them (btrfs).
const FILES_UNCOUNTED: u64 = 64 << 20;

impl Wants {
    /// Files in use on the file system below.
    fn files(&self) -> u64 {
        match sys::statvfs(self.capture.tree().root()) {
            Ok(found) if found.f_files > 0 => found.f_files.saturating_sub(found.f_ffree),
            Ok(_) | Err(_) => FILES_UNCOUNTED,
        }
    }
}

impl SenderEvents for Wants {
    fn wanted(&self, connection: u32, ids: Vec<FileId>) -> bool {
        let is_fine = self.mirrored.ask(ids.len() as u64, || self.files());
        if is_fine {
            // The thread has ended: so has the mount.
            let _ = self.inbox.send(Event::Wanted { connection, ids });
        }
        is_fine
    }

    fn wants_reset(&self, connection: u32) {
        let _ = self.inbox.send(Event::Reset { connection });
    }

    fn begin_full_mirror(
        &self,
        _connection: u32,
    ) -> Result<Seq, Box<dyn std::error::Error + Send + Sync>> {
        let (_, seq) = Mirror::begin_full(&self.capture)?;
        Ok(seq)
    }

    fn mirror_due(&self, _connection: u32) {
        let _ = self.inbox.send(Event::Doubt);
    }

    fn mirror_done(&self, _connection: u32, mirror: u64) {
        let _ = self.inbox.send(Event::Done { mirror });
    }
}

/// The senders of a set; filled once, emptied at the end.
pub(super) type Senders = Arc<Mutex<Vec<Arc<Sender>>>>;

/// Keeps images from running ahead of the target.
pub(super) struct Room {
    pub(super) senders: Senders,
    pub(super) runtime: tokio::runtime::Handle,
    /// Bytes that may be captured and not yet applied before an image waits.
    pub(super) bytes_max: u64,
    pub(super) ending: Arc<OnceLock<()>>,
}

/// A look at least this often, should a change go by unseen.
const LOOK: Duration = Duration::from_millis(500);

impl Pace for Room {
    fn wait_for_room(&self, connection: u32) -> bool {
        loop {
            if self.ending.get().is_some() {
                return false;
            }
            let (mut changes, state) = {
                let senders = self.senders.lock();
                let Some(sender) = senders.iter().find(|s| s.state().id == connection) else {
                    return false;
                };
                (sender.subscribe(), sender.state())
            };
            if state.link != Link::Connected {
                return false;
            }
            // What is collected is not applied before it is there in whole.
            let lag = match state.is_staged {
                true => state.lags.received,
                false => state.lags.applied,
            };
            if lag.bytes <= self.bytes_max {
                return true;
            }
            // The link changed, time is up, or the sender is gone: look again in any case.
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(LOOK, changes.changed()).await });
        }
    }
}
