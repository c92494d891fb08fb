//! What changes about a set.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::control::status::{ConnectionStatus, DataState, Replication, SetStatus, Transmit};

use super::alert::Alert;
use super::kinds::Kind;

/// A connection that is back sooner was not lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// A queue that filled its share counts as drained when it has this much less.
const DRAINED_PERCENT: f64 = 10.0;

/// A connection as it was told last.
#[derive(Debug, Default)]
struct Told {
    /// Since when there is no session.
    down_since: Option<Instant>,
    is_lost: bool,
    is_paused: bool,
    is_stopped: bool,
    data: Option<DataState>,
}

/// Looks at a set again and again and says what has changed.
#[derive(Debug)]
pub struct SetWatch {
    /// The share of the queue's room that is told of.
    queue_alert_percent: f64,
    is_filling: bool,
    connections: BTreeMap<u32, Told>,
}

impl SetWatch {
    /// Begins; the queue is told of when it has filled `queue_alert_percent` of its room.
    pub fn new(queue_alert_percent: u8) -> SetWatch {
        SetWatch {
            queue_alert_percent: f64::from(queue_alert_percent),
            is_filling: false,
            connections: BTreeMap::new(),
        }
    }

    /// What is to be told, now that the set is like this.
    pub fn look(&mut self, status: &SetStatus, now: Instant) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let set = status.name.as_str();
        alerts.extend(self.queue(status));
        for connection in &status.connections {
            let told = self.connections.entry(connection.id).or_default();
            let with = |kind, text: &str| Alert::new(kind, set, text).with(&connection.target);
            told.wishes(connection, &with, &mut alerts);
            told.session(connection, now, &with, &mut alerts);
            told.data(connection, &with, &mut alerts);
        }
        alerts
    }

    fn queue(&mut self, status: &SetStatus) -> Option<Alert> {
        let percent = status.queue.used_percent?;
        let text = format!(
            "{percent:.0} % of its room: {} operations, {} bytes on disk",
            status.queue.ops, status.queue.disk_bytes
        );
        if !self.is_filling && percent >= self.queue_alert_percent {
            self.is_filling = true;
            return Some(Alert::new(Kind::QueueFilling, &status.name, &text));
        }
        if self.is_filling && percent < (self.queue_alert_percent - DRAINED_PERCENT).max(0.1) {
            self.is_filling = false;
            return Some(Alert::new(Kind::QueueDrained, &status.name, &text));
        }
        None
    }
}

impl Told {
    /// What somebody wanted.
    fn wishes(
        &mut self,
        connection: &ConnectionStatus,
        with: &impl Fn(Kind, &str) -> Alert,
        alerts: &mut Vec<Alert>,
    ) {
        let is_paused = connection.pause.is_some();
        if is_paused != self.is_paused {
            self.is_paused = is_paused;
            alerts.push(match &connection.pause {
                Some(pause) => with(Kind::Paused, &format!("at mark {}", pause.mark.name)),
                None => with(Kind::Resumed, "what was captured meanwhile is sent"),
            });
        }
        // Also at the beginning of a worker nothing is stopped that nobody stopped: it is connecting then.
        let is_stopped = connection.stopped;
        if is_stopped != self.is_stopped {
            self.is_stopped = is_stopped;
            alerts.push(match is_stopped {
                true if connection.replication == Replication::Stopped => {
                    with(Kind::Stopped, "replication was stopped by hand")
                }
                true => with(Kind::Stopped, "disconnected by hand"),
                false => with(Kind::Started, "it is connected again"),
            });
        }
    }

    /// Whether there is a session.
    fn session(
        &mut self,
        connection: &ConnectionStatus,
        now: Instant,
        with: &impl Fn(Kind, &str) -> Alert,
        alerts: &mut Vec<Alert>,
    ) {
        if connection.connected_since.is_some() || self.is_stopped {
            self.down_since = None;
            if self.is_lost {
                self.is_lost = false;
                let text = format!("{} operations are behind", connection.lag_ops);
                alerts.push(with(Kind::ConnectionBack, &text));
            }
            return;
        }
        let since = *self.down_since.get_or_insert(now);
        if !self.is_lost && now.saturating_duration_since(since) >= LOST_AFTER {
            self.is_lost = true;
            let why = connection.error.as_deref().unwrap_or("no session");
            alerts.push(with(Kind::ConnectionLost, why));
        }
    }

    /// What the replica is worth.
    fn data(
        &mut self,
        connection: &ConnectionStatus,
        with: &impl Fn(Kind, &str) -> Alert,
        alerts: &mut Vec<Alert>,
    ) {
        let (before, now) = (self.data, connection.data_state);
        self.data = Some(now);
        if before == Some(now) {
            return;
        }
        match (before, now) {
            (_, DataState::MirrorRequired) if connection.transmit == Transmit::Started => {}
            (_, DataState::MirrorRequired) => alerts.push(with(
                Kind::MirrorRequired,
                "the replica is no state of the source; a mirror begins when the target is reached",
            )),
            (_, DataState::Mirroring) => alerts.push(with(
                Kind::MirrorBegun,
                "until its end the replica is no state of one moment",
            )),
            (Some(DataState::Mirroring | DataState::MirrorRequired), DataState::Ok) => {
                alerts.push(with(
                    Kind::MirrorDone,
                    "the replica is a state of the source",
                ));
            }
            (_, DataState::Ok | DataState::Recovering | DataState::RestoreRequired) => {}
        }
    }
}
