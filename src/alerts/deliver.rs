//! The ways to the administrator.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::alert::Alert;
use super::kinds::Severity;

/// Where journald takes entries (systemd's "native journal protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where syslog(3) writes to.
const SYSLOG: &str = "/dev/log";

/// Who we are there.
const IDENTIFIER: &str = "doppelfs";

/// `LOG_DAEMON` of syslog(3), in its place.
const FACILITY: u8 = 3 << 3;

/// How long a socket that takes nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sockets, and the log.
#[derive(Debug)]
pub(super) struct Ways {
    journal: PathBuf,
    syslog: PathBuf,
}

impl Ways {
    pub(super) fn of_this_host() -> Ways {
        Ways::at(Path::new(JOURNAL), Path::new(SYSLOG))
    }

    pub(super) fn at(journal: &Path, syslog: &Path) -> Ways {
        Ways {
            journal: journal.to_owned(),
            syslog: syslog.to_owned(),
        }
    }

    /// By the journal, else by syslog; by the log in any case.
    pub(super) fn deliver(&self, alert: &Alert) {
        let line = alert.line();
        match alert.kind.severity() {
            Severity::Critical | Severity::Error => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
            Severity::Notice => tracing::info!("{line}"),
        }
        let sent =
            send(&self.journal, &entry(alert)).or_else(|_| send(&self.syslog, &message(alert)));
        if let Err(error) = sent {
            tracing::debug!(%error, "neither journal nor syslog takes alerts; they stand in the log");
        }
    }
}

fn send(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to(bytes, path).map(drop)
}

/// The fields of an entry. None of the values has a line feed, so each is `NAME=VALUE`.
fn entry(alert: &Alert) -> Vec<u8> {
    let kind = alert.kind;
    let mut fields = vec![
        ("MESSAGE", alert.line()),
        ("MESSAGE_ID", kind.message_id()),
        ("PRIORITY", (kind.severity() as u8).to_string()),
        ("SYSLOG_IDENTIFIER", IDENTIFIER.to_owned()),
        ("SYSLOG_FACILITY", (FACILITY >> 3).to_string()),
        ("SYSLOG_PID", std::process::id().to_string()),
        ("DOPPELFS_ALERT", kind.number().to_string()),
        ("DOPPELFS_ALERT_NAME", kind.name().to_owned()),
        ("DOPPELFS_SUBJECT", alert.subject.clone()),
    ];
    fields.extend(alert.peer.clone().map(|peer| ("DOPPELFS_PEER", peer)));
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    lines.collect::<String>().into_bytes()
}

/// A line of RFC 3164, as syslog(3) makes it; the daemon adds the time.
fn message(alert: &Alert) -> Vec<u8> {
    let priority = FACILITY | alert.kind.severity() as u8;
    let pid = std::process::id();
    format!("<{priority}>{IDENTIFIER}[{pid}]: {}", alert.line()).into_bytes()
}
