//! How a set or a target is, in one sentence, with what to do.

use super::paper::{Ink, bytes_text, duration_text};
use crate::control::status::{
    ConnectionStatus, DataState, MirrorState, SetState, SetStatus, StreamStatus, TargetState,
    TargetStatus, Transmit,
};

/// How much somebody has to care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is to be done.
    Good,
    /// It is on its way, or rests because somebody said so.
    Busy,
    /// Somebody has to look.
    Bad,
}

/// A sentence about a set, a connection or a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much somebody has to care.
    pub level: Level,
    /// The state in a word: `ok`, `synchronising`, `behind`, `paused`, `no target`, `error`.
    pub word: &'static str,
    /// The rest of the sentence.
    pub text: String,
}

impl Verdict {
    fn new(level: Level, word: &'static str, text: impl Into<String>) -> Verdict {
        let text = text.into();
        Verdict { level, word, text }
    }

    /// Has somebody to do something?
    pub fn needs_attention(&self) -> bool {
        self.level == Level::Bad || ["behind", "no target"].contains(&self.word)
    }

    /// `text` in the colour of the level: green when all is well, yellow meanwhile, red.
    pub(super) fn paint(&self, ink: Ink, text: &str) -> String {
        match self.level {
            Level::Good => ink.green(text),
            Level::Busy => ink.yellow(text),
            Level::Bad => ink.red(text),
        }
    }
}

fn word(state: SetState) -> (Level, &'static str) {
    match state {
        SetState::Ok => (Level::Good, "ok"),
        SetState::Synchronising => (Level::Busy, "synchronising"),
        SetState::Behind => (Level::Busy, "behind"),
        SetState::Paused => (Level::Busy, "paused"),
        SetState::Error => (Level::Bad, "error"),
    }
}

/// How bad it is to be so, for the worst of several connections.
fn weight(verdict: &Verdict) -> u8 {
    match verdict.word {
        "ok" => 0,
        "paused" => 1,
        "behind" => 2,
        "synchronising" => 3,
        _ => 4,
    }
}

/// What waits on the source for this connection.
fn waiting(one: &ConnectionStatus) -> String {
    let lag = one.lags.durable;
    let (ops, bytes) = if lag.ops >= one.lag_ops {
        (lag.ops, lag.bytes)
    } else {
        (one.lag_ops, one.lag_bytes)
    };
    format!("{} wait, {}", counted(ops, "operation"), bytes_text(bytes))
}

/// `1 operation`, `2 operations`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// The share of a mirror that is done, its speed and its end, as far as they are known.
pub(super) fn mirror_progress(one: &ConnectionStatus) -> String {
    let mirror = &one.mirror;
    let mut parts = Vec::new();
    if let Some(percent) = mirror.percent {
        parts.push(match mirror.files_known {
            0 => format!("{percent:.0} %"),
            known => format!(
                "{percent:.0} % ({} of {known} files known so far)",
                mirror.files_done
            ),
        });
    }
    if let Some(bytes) = mirror.remaining_bytes {
        parts.push(format!("{} left", bytes_text(bytes)));
    }
    if mirror.bytes_per_second >= 1.0 {
        parts.push(format!("{}/s", bytes_text(whole(mirror.bytes_per_second))));
    }
    if let Some(seconds) = mirror.seconds_left {
        parts.push(format!("about {} left", duration_text(seconds)));
    }
    if parts.is_empty() {
        parts.push("has begun".to_owned());
    }
    parts.join(", ")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is no negative number, and beyond 2^63 it does not matter"
)]
pub(super) fn whole(rate: f64) -> u64 {
    rate as u64
}

/// About one connection.
pub fn of_connection(one: &ConnectionStatus) -> Verdict {
    let error = one.error.as_deref();
    if one.target_state == TargetState::Retrying {
        let text = format!(
            "{}; the target tries again by itself; {}",
            error.unwrap_or("the target cannot apply an operation, its log says why"),
            waiting(one)
        );
        return Verdict::new(Level::Bad, "error", text);
    }
    let age = match one.lag_seconds {
        seconds if seconds < 0.05 => "less than 0.1 s".to_owned(),
        seconds => duration_text(seconds),
    };
    match (one.transmit, one.data_state) {
        (Transmit::Error, _) => {
            let text = format!(
                "{}; it is tried again by itself; {}",
                error.unwrap_or("the connection fails, the worker's log says why"),
                waiting(one)
            );
            Verdict::new(Level::Bad, "error", text)
        }
        (Transmit::Paused, _) => {
            let at = match &one.pause {
                Some(pause) if pause.reached => {
                    format!("the replica stands at mark {}", pause.mark.name)
                }
                Some(pause) => format!("the replica is on its way to mark {}", pause.mark.name),
                None => "somebody paused it".to_owned(),
            };
            let text = format!("{at}; {}; `doppelfs resume` goes on", waiting(one));
            Verdict::new(Level::Busy, "paused", text)
        }
        (Transmit::Scheduled, _) => {
            let text = format!("it waits for its time; {}", waiting(one));
            Verdict::new(Level::Busy, "behind", text)
        }
        (Transmit::Stopped, _) => {
            let text = match error {
                Some(error) => format!("{error}; {}", waiting(one)),
                None if one.data_state == DataState::MirrorRequired => {
                    "not connected yet, it is tried; a full mirror follows".to_owned()
                }
                None => format!("not connected, it is tried; {}", waiting(one)),
            };
            Verdict::new(Level::Busy, "behind", text)
        }
        (_, DataState::RestoreRequired) => Verdict::new(
            Level::Bad,
            "error",
            "the target was promoted: bring its changes back before anything else",
        ),
        _ if one.mirror.state == MirrorState::Paused => {
            let text = format!("its mirror is paused at {}", mirror_progress(one));
            Verdict::new(Level::Busy, "paused", text)
        }
        _ if one.staged => {
            let text = format!(
                "what differs is collected on the target, {}; the replica stays as it was {age} ago until \
                 all of it is there",
                mirror_progress(one)
            );
            Verdict::new(Level::Busy, "synchronising", text)
        }
        (_, DataState::Mirroring) => {
            let text = format!(
                "mirror, {}; the replica is no consistent copy until it ends",
                mirror_progress(one)
            );
            Verdict::new(Level::Busy, "synchronising", text)
        }
        (_, DataState::MirrorRequired) => Verdict::new(
            Level::Busy,
            "synchronising",
            "a full mirror is required and begins by itself; the replica is no consistent copy until it \
             ends",
        ),
        (_, DataState::Recovering) => Verdict::new(
            Level::Busy,
            "synchronising",
            "the target repairs the replica after a crash; it is no consistent copy until that is done",
        ),
        _ if matches!(
            one.target_state,
            TargetState::Paused | TargetState::PausePending
        ) =>
        {
            let text = format!(
                "the target keeps what comes and does not apply it; {}; `doppelfs target resume` there goes on",
                waiting(one)
            );
            Verdict::new(Level::Busy, "paused", text)
        }
        (_, DataState::Ok) if one.lag_ops == 0 => {
            Verdict::new(Level::Good, "ok", "the replica is equal to the source")
        }
        (_, DataState::Ok) if one.lag_seconds > 30.0 => {
            let rate = one.rates.applied_ops;
            let mut text = format!(
                "the replica is equal to the source {age} ago; {} to go",
                counted(one.lag_ops, "operation")
            );
            if rate >= 1.0 {
                let left = float(one.lag_ops) / rate;
                text += &format!(
                    ", {} are applied in a second, about {} left if nothing is added",
                    whole(rate),
                    duration_text(left)
                );
            }
            Verdict::new(Level::Busy, "behind", text)
        }
        (_, DataState::Ok) => {
            let text = format!("the replica is equal to the source {age} ago");
            Verdict::new(Level::Good, "ok", text)
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "shown with three digits; the loss begins at 2^53"
)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

/// About a set: what is worst of it.
pub fn of_set(set: &SetStatus) -> Verdict {
    if let Some(error) = &set.error {
        return Verdict::new(Level::Bad, "error", error.clone());
    }
    let all = set.connections.iter().map(|one| {
        let mut verdict = of_connection(one);
        if set.connections.len() > 1 {
            verdict.text = format!("{}: {}", one.target, verdict.text);
        }
        verdict
    });
    let Some(worst) = all.max_by_key(weight) else {
        return Verdict::new(
            Level::Busy,
            "no target",
            "changes are captured and go nowhere; `doppelfs umount` it and mount it with --target \
             HOST:PORT",
        );
    };
    let (level, said) = word(set.state);
    let own = Verdict::new(level, said, "");
    if weight(&own) <= weight(&worst) {
        return worst;
    }
    // The set knows something that no connection does.
    let text = match set.state {
        SetState::Synchronising => format!(
            "what was changed while it was not mounted is looked for ({} looked at, {} found)",
            counted(set.resync.checked, "file"),
            set.resync.found
        ),
        _ => worst.text,
    };
    Verdict::new(level, said, text)
}

/// About a stream that a target receives.
pub fn of_stream(stream: &StreamStatus) -> Verdict {
    let waiting = stream.received_seq.saturating_sub(stream.applied_seq);
    if let Some(error) = &stream.error {
        let text = format!(
            "{error}; it is tried again by itself; {} wait here",
            counted(waiting, "operation")
        );
        return Verdict::new(Level::Bad, "error", text);
    }
    let busy = |text: &str| Verdict::new(Level::Busy, "synchronising", text);
    if matches!(
        stream.target_state,
        TargetState::Paused | TargetState::PausePending
    ) {
        let text = format!(
            "what comes is kept and not applied; {} wait here; `doppelfs target resume` ends that",
            counted(waiting, "operation")
        );
        return Verdict::new(Level::Busy, "paused", text);
    }
    match stream.data_state {
        _ if !stream.connected => Verdict::new(
            Level::Busy,
            "behind",
            "its source is not connected; the source's `doppelfs status` says why",
        ),
        DataState::RestoreRequired => Verdict::new(
            Level::Bad,
            "error",
            "this replica was promoted: bring its changes back to the source",
        ),
        _ if stream.staged => {
            busy("what differs is collected; the replica stays as it was until all of it is here")
        }
        DataState::Mirroring => busy("mirror; no consistent copy until it ends"),
        DataState::MirrorRequired => busy("a full mirror is required; its source begins it"),
        DataState::Recovering => busy("the replica is repaired after a crash"),
        DataState::Ok if waiting == 0 => {
            Verdict::new(Level::Good, "ok", "all that came is applied")
        }
        DataState::Ok => {
            let text = format!("{} are being applied", counted(waiting, "operation"));
            Verdict::new(Level::Good, "ok", text)
        }
    }
}

/// About a target: what is worst of it.
pub fn of_target(target: &TargetStatus) -> Verdict {
    if let Some(error) = &target.error {
        return Verdict::new(Level::Bad, "error", error.clone());
    }
    let streams = &target.streams;
    let worst = streams
        .iter()
        .map(|stream| (stream, of_stream(stream)))
        .max_by_key(|(_, verdict)| (verdict.level, weight(verdict)));
    match worst {
        None => Verdict::new(Level::Good, "ok", "it listens; no source has come yet"),
        Some((_, verdict)) if verdict.level == Level::Good => {
            let text = match streams.len() {
                1 => "its replica follows".to_owned(),
                count => format!("its {count} replicas follow"),
            };
            Verdict::new(Level::Good, "ok", text)
        }
        Some((stream, mut verdict)) => {
            verdict.text = format!("{} of {}: {}", stream.set, stream.source, verdict.text);
            verdict
        }
    }
}
