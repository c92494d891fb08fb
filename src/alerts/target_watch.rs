//! What changes about a target.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::control::status::{StreamStatus, TargetState, TargetStatus};

use super::alert::Alert;
use super::kinds::Kind;

/// A source that is back sooner was not lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Refusals are told of at most so often: anybody can cause them.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);

/// What a full disk and a used up quota say of themselves.
const FULL_WORDS: [&str; 4] = [
    "No space left",
    "quota",
    "free space",
    "Disk quota exceeded",
];

/// A replica as it was told last.
#[derive(Debug, Default)]
struct Told {
    away_since: Option<Instant>,
    is_away: bool,
    /// It was seen with its source at least once.
    was_there: bool,
    is_held: bool,
    is_paused: bool,
}

/// Looks at a target again and again and says what has changed.
#[derive(Debug, Default)]
pub struct TargetWatch {
    streams: BTreeMap<String, Told>,
    refused: u64,
    refused_told: Option<Instant>,
}

impl TargetWatch {
    /// What is to be told, now that the target is like this.
    pub fn look(&mut self, status: &TargetStatus, now: Instant) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let may_tell = self
            .refused_told
            .is_none_or(|told| now.saturating_duration_since(told) >= REFUSALS_EVERY);
        if status.refused > self.refused && may_tell {
            let last = status.last_refusal.as_deref().unwrap_or("unknown");
            let count = status.refused - self.refused;
            let text = format!("{count} connections refused, the last: {last}");
            alerts.push(Alert::new(Kind::SourceRefused, &status.listen, &text));
            self.refused = status.refused;
            self.refused_told = Some(now);
        }
        for stream in &status.streams {
            let told = self.streams.entry(stream.path.clone()).or_default();
            let who = format!("set {} of {}", stream.set, stream.source);
            let with = |kind, text: &str| Alert::new(kind, &stream.path, text).with(&who);
            told.source(stream, now, &with, &mut alerts);
            told.replica(stream, &with, &mut alerts);
        }
        let lives = |path: &String| status.streams.iter().any(|stream| stream.path == *path);
        self.streams.retain(|path, _| lives(path));
        alerts
    }
}

impl Told {
    fn source(
        &mut self,
        stream: &StreamStatus,
        now: Instant,
        with: &impl Fn(Kind, &str) -> Alert,
        alerts: &mut Vec<Alert>,
    ) {
        if stream.connected {
            self.was_there = true;
            self.away_since = None;
            if self.is_away {
                self.is_away = false;
                alerts.push(with(Kind::SourceBack, "it is connected again"));
            }
            return;
        }
        let since = *self.away_since.get_or_insert(now);
        let is_long = now.saturating_duration_since(since) >= LOST_AFTER;
        // One that has not come since the target was started is told of as well, once.
        if !self.is_away && is_long {
            self.is_away = true;
            let text = match self.was_there {
                true => "its source has gone",
                false => "its source has not come since the target was started",
            };
            alerts.push(with(Kind::SourceLost, text));
        }
    }

    fn replica(
        &mut self,
        stream: &StreamStatus,
        with: &impl Fn(Kind, &str) -> Alert,
        alerts: &mut Vec<Alert>,
    ) {
        let is_held = stream.target_state == TargetState::Retrying;
        if is_held != self.is_held {
            self.is_held = is_held;
            let why = stream.error.as_deref().unwrap_or("no reason is given");
            let is_full = FULL_WORDS.iter().any(|words| why.contains(words));
            alerts.push(match (is_held, is_full) {
                (true, true) => with(Kind::TargetFull, why),
                (true, false) => with(Kind::ReplicaHeld, why),
                (false, _) => with(Kind::ReplicaGoesOn, "operations are applied again"),
            });
        }
        let is_paused = matches!(
            stream.target_state,
            TargetState::Paused | TargetState::PausePending
        );
        if is_paused != self.is_paused && !is_held {
            self.is_paused = is_paused;
            alerts.push(match is_paused {
                true => with(Kind::ReplicaPaused, "what comes is kept and not applied"),
                false => with(Kind::ReplicaResumed, "what came meanwhile is applied"),
            });
        }
    }
}
