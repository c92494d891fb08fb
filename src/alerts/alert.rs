//! Alerts on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::control::escape;
use crate::sync;

use super::deliver::Ways;
use super::kinds::Kind;

/// Alerts that may wait for a journal that is slow.
const WAITING_MAX: usize = 256;

/// Longest text.
const TEXT_CHARS_MAX: usize = 600;

/// Something that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What.
    pub kind: Kind,
    /// The set that it is about, or the replica's path.
    pub subject: String,
    /// The other side: host and port of a target, name of a source.
    pub peer: Option<String>,
    /// In words, without control characters.
    pub text: String,
}

impl Alert {
    /// An alert; `text` may hold whatever a file or a peer is called.
    pub fn new(kind: Kind, subject: &str, text: &str) -> Alert {
        let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
        Alert {
            kind,
            subject: escape(subject.as_bytes()),
            peer: None,
            text: escape(text.as_bytes()),
        }
    }

    /// With the other side's name.
    #[must_use]
    pub fn with(mut self, peer: &str) -> Alert {
        self.peer = Some(escape(peer.as_bytes()));
        self
    }

    /// The line that people read.
    pub fn line(&self) -> String {
        let Alert {
            kind,
            subject,
            peer,
            text,
        } = self;
        let (number, name) = (kind.number(), kind.name());
        match peer {
            Some(peer) => format!("DFS-{number} {name}: {subject} ({peer}): {text}"),
            None => format!("DFS-{number} {name}: {subject}: {text}"),
        }
    }
}

/// Takes alerts and has them delivered. Clones share the thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Alerts {
    waiting: mpsc::SyncSender<Alert>,
    lost: Arc<AtomicU64>,
}

impl Alerts {
    /// Starts the thread that delivers to this host's journal or syslog.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> std::io::Result<Alerts> {
        Alerts::start_to(Ways::of_this_host()).map(|(alerts, _)| alerts)
    }

    /// As [`Alerts::start`], to sockets at these paths; also the thread, for who waits for all to be delivered.
    ///
    /// # Errors
    /// As there.
    pub fn start_at(
        journal: &std::path::Path,
        syslog: &std::path::Path,
    ) -> std::io::Result<(Alerts, JoinHandle<()>)> {
        Alerts::start_to(Ways::at(journal, syslog))
    }

    fn start_to(ways: Ways) -> std::io::Result<(Alerts, JoinHandle<()>)> {
        let (waiting, inbox) = mpsc::sync_channel::<Alert>(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let uncounted = Arc::clone(&lost);
        let thread = sync::spawn("dfs-alerts", move || {
            while let Ok(alert) = inbox.recv() {
                ways.deliver(&alert);
                let count = uncounted.swap(0, Ordering::Relaxed);
                if count > 0 {
                    let text = format!("{count} alerts could not be delivered");
                    ways.deliver(&Alert::new(Kind::AlertsLost, &alert.subject, &text));
                }
            }
        })?;
        Ok((Alerts { waiting, lost }, thread))
    }

    /// Has it delivered. Never waits.
    pub fn raise(&self, alert: Alert) {
        if self.waiting.try_send(alert).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
