//! `doppelfs stats`.

use anyhow::Context;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::paper::{bytes_text, clock_text, duration_text};
use super::run::{Outcome, unexpected};
use super::show::ask_within;
use super::verdict::{float, whole};
use crate::control::{self, Reply, Request, Service};
use crate::stats::{Lag, Rates, Sample, Snapshot, TargetNumbers};

/// Lines between two headers.
const HEADER_EVERY: u64 = 20;

/// Above the lines of [`stats_line`].
pub const STATS_HEADER: &str = "time                     captured/s      bytes/s    queue ops    \
                                queue bytes  lag: sent | received | applied | durable (ops/bytes/seconds)";

/// Above the lines of [`target_line`].
pub const TARGET_HEADER: &str = "time                     received/s      bytes/s    applied/s      waiting   \
                                 failed  queue on disk";

/// How to show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) follow: bool,
    pub(super) interval: Duration,
    pub(super) count: u64,
    pub(super) json: bool,
    pub(super) brief: bool,
}

/// The numbers of a set or of a target.
enum Numbers {
    Set(Box<Snapshot>),
    Target(Box<TargetNumbers>),
}

impl Numbers {
    fn one_line(&self) -> String {
        match self {
            Numbers::Set(set) => set.one_line(),
            Numbers::Target(target) => target.one_line(),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Numbers::Set(set) => json_of(set.one_line(), json!(set), set.samples()),
            Numbers::Target(target) => json_of(target.one_line(), json!(target), target.samples()),
        }
    }

    fn summary(&self) -> String {
        match self {
            Numbers::Set(set) => summary(set),
            Numbers::Target(target) => target_summary(target),
        }
    }

    fn header(&self) -> &'static str {
        match self {
            Numbers::Set(_) => STATS_HEADER,
            Numbers::Target(_) => TARGET_HEADER,
        }
    }

    fn line_since(&self, old: &Numbers) -> String {
        match (old, self) {
            (Numbers::Set(old), Numbers::Set(new)) => stats_line(old, new),
            (Numbers::Target(old), Numbers::Target(new)) => target_line(old, new),
            (_, new) => new.one_line(),
        }
    }
}

pub(super) fn stats(run_dir: &Path, service: &Service, manner: &Manner) -> anyhow::Result<Outcome> {
    let mut old = numbers(run_dir, service)?;
    let mut out = std::io::stdout().lock();
    if !manner.follow {
        if manner.json {
            writeln!(out, "{}", old.json())?;
        } else if manner.brief {
            writeln!(out, "{}", old.one_line())?;
        } else {
            write!(out, "{}", old.summary())?;
        }
        return Ok(Outcome::Yes);
    }
    // Nobody ever sends: receiving with patience is a wait that a signal ends.
    let (_never, ticks) = mpsc::channel::<()>();
    for line in 0..manner.count {
        let _ = ticks.recv_timeout(manner.interval);
        let new = numbers(run_dir, service)?;
        if manner.json {
            writeln!(out, "{}", new.json())?;
        } else if manner.brief {
            writeln!(out, "{}", new.one_line())?;
        } else {
            if line % HEADER_EVERY == 0 {
                writeln!(out, "{}", new.header())?;
            }
            writeln!(out, "{}", new.line_since(&old))?;
        }
        out.flush()?;
        old = new;
    }
    Ok(Outcome::Yes)
}

fn numbers(run_dir: &Path, service: &Service) -> anyhow::Result<Numbers> {
    match ask_within(run_dir, service, &Request::Stats, control::ANSWER_PATIENCE)? {
        Reply::Stats(snapshot) => Ok(Numbers::Set(snapshot)),
        Reply::TargetStats(numbers) => Ok(Numbers::Target(numbers)),
        other => {
            unexpected(service, &other)?;
            Err(anyhow::anyhow!("no numbers")).context(service.to_string())
        }
    }
}

/// One line about what a target did between two moments.
pub fn target_line(old: &TargetNumbers, new: &TargetNumbers) -> String {
    let seconds = float(new.time_ns.saturating_sub(old.time_ns)) / 1e9;
    let (before, now) = (old.total(), new.total());
    let rate = |old: u64, new: u64| match seconds > 0.0 {
        true => float(new.saturating_sub(old)) / seconds,
        false => 0.0,
    };
    let waiting: u64 = new.streams.iter().map(|stream| stream.waiting_ops).sum();
    let disk: u64 = new
        .streams
        .iter()
        .map(|stream| stream.queue_disk_bytes)
        .sum();
    format!(
        "{} {:>10.0} {:>12} {:>12.0} {:>12} {:>8} {:>14}",
        clock_text(new.time_ns),
        rate(before.received.total(), now.received.total()),
        bytes_text(whole(rate(before.received_bytes, now.received_bytes))),
        rate(before.applied, now.applied),
        waiting,
        now.failed,
        bytes_text(disk),
    )
}

fn target_summary(target: &TargetNumbers) -> String {
    let mut text = format!("{}\n", target.one_line());
    for stream in &target.streams {
        text += &format!(
            "{} of {}: {}, {}, {} applied, {} waiting, {} on disk\n",
            stream.set,
            stream.source,
            stream.counts.one_line(),
            bytes_text(stream.counts.received_bytes),
            stream.counts.applied,
            stream.waiting_ops,
            bytes_text(stream.queue_disk_bytes)
        );
    }
    text
}

/// One line about what happened between two snapshots and how far the slowest connection is behind.
pub fn stats_line(old: &Snapshot, new: &Snapshot) -> String {
    let rates = Rates::between(old, new);
    let stages = match worst(new) {
        Some(lags) => lags
            .iter()
            .map(|(_, lag)| lag_text(*lag))
            .collect::<Vec<String>>()
            .join(" | "),
        None => "no target".to_owned(),
    };
    format!(
        "{} {:>10.0} {:>12} {:>12} {:>14}  {stages}",
        clock_text(new.time_ns),
        rates.captured_ops,
        bytes_text(whole(rates.captured_bytes)),
        new.queue.ops,
        bytes_text(new.queue.bytes),
    )
}

fn worst(snapshot: &Snapshot) -> Option<[(&'static str, Lag); 4]> {
    let slowest = snapshot
        .connections
        .iter()
        .max_by_key(|c| c.lag.durable.ops);
    slowest.map(|c| c.lag.stages())
}

fn lag_text(lag: Lag) -> String {
    format!("{}/{}/{:.1}", lag.ops, bytes_text(lag.bytes), lag.seconds)
}

fn summary(snapshot: &Snapshot) -> String {
    let mut text = format!("{}\n", snapshot.one_line());
    text += &format!(
        "queue    {} ops, {}, {} on disk, oldest {}\n",
        snapshot.queue.ops,
        bytes_text(snapshot.queue.bytes),
        bytes_text(snapshot.queue.disk_bytes),
        duration_text(snapshot.queue.oldest_seconds)
    );
    for one in &snapshot.connections {
        text += &format!(
            "{:<8} {}: sent {} ops, {} ({} on the wire, {} of mirrors), {} reconnects\n",
            format!("conn {}", one.id),
            one.target,
            one.sent.total(),
            bytes_text(one.sent_bytes),
            bytes_text(one.wire_bytes),
            bytes_text(one.mirror_bytes),
            one.reconnects
        );
        for (stage, lag) in one.lag.stages() {
            text += &format!(
                "         {stage:<9} behind by {} ops, {}, {}\n",
                lag.ops,
                bytes_text(lag.bytes),
                duration_text(lag.seconds)
            );
        }
    }
    text
}

fn json_of(line: String, snapshot: serde_json::Value, samples: Vec<Sample>) -> serde_json::Value {
    let metrics = samples.into_iter().map(|sample| {
        let labels: serde_json::Map<_, _> = sample
            .labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        json!({"name": sample.name, "labels": labels, "value": sample.value})
    });
    json!({
        "version": 1,
        "line": line,
        "snapshot": snapshot,
        "metrics": metrics.collect::<Vec<_>>(),
    })
}
