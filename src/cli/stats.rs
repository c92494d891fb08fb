//! `doppelfs stats`.

use anyhow::Context;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::render::{bytes_text, clock_text, duration_text};
use super::run::{Outcome, unexpected};
use crate::control::{self, Client, Reply, Request, Service};
use crate::stats::{Lag, Rates, Snapshot};

/// Lines between two headers.
const HEADER_EVERY: u64 = 20;

/// Above the lines of [`stats_line`].
pub const STATS_HEADER: &str = "time                     captured/s      bytes/s    queue ops    \
                                queue bytes  lag: sent | received | applied | durable (ops/bytes/seconds)";

/// How to show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) follow: bool,
    pub(super) interval: Duration,
    pub(super) count: u64,
    pub(super) json: bool,
}

pub(super) fn stats(run_dir: &Path, service: &Service, manner: &Manner) -> anyhow::Result<Outcome> {
    let mut old = snapshot(run_dir, service)?;
    let mut out = std::io::stdout().lock();
    if !manner.follow {
        if manner.json {
            writeln!(out, "{}", json_of(&old))?;
        } else {
            write!(out, "{}", summary(&old))?;
        }
        return Ok(Outcome::Yes);
    }
    // Nobody ever sends: receiving with patience is a wait that a signal ends.
    let (_never, ticks) = mpsc::channel::<()>();
    for line in 0..manner.count {
        let _ = ticks.recv_timeout(manner.interval);
        let new = snapshot(run_dir, service)?;
        if manner.json {
            writeln!(out, "{}", json_of(&new))?;
        } else {
            if line % HEADER_EVERY == 0 {
                writeln!(out, "{STATS_HEADER}")?;
            }
            writeln!(out, "{}", stats_line(&old, &new))?;
        }
        out.flush()?;
        old = new;
    }
    Ok(Outcome::Yes)
}

fn snapshot(run_dir: &Path, service: &Service) -> anyhow::Result<Snapshot> {
    let client = Client::connect(run_dir, service)?;
    match client.ask(&Request::Stats, Some(control::ANSWER_PATIENCE))? {
        Reply::Stats(snapshot) => Ok(*snapshot),
        other => {
            unexpected(service, &other)?;
            Err(anyhow::anyhow!("no numbers")).context(service.to_string())
        }
    }
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

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is no negative number, and beyond 2^63 it does not matter"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
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

fn json_of(snapshot: &Snapshot) -> serde_json::Value {
    let metrics = snapshot.samples().into_iter().map(|sample| {
        let labels: serde_json::Map<_, _> = sample
            .labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        json!({"name": sample.name, "labels": labels, "value": sample.value})
    });
    json!({
        "version": 1,
        "line": snapshot.one_line(),
        "snapshot": snapshot,
        "metrics": metrics.collect::<Vec<_>>(),
    })
}
