//! What the monitor knows: what every service said last, how it went on, what is selected.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::writers::{Grouping, Writers};
use crate::cli::paper::printable;
use crate::cli::verdict::{Level, Verdict, float, of_connection, of_set, of_stream, of_target};
use crate::control::status::{ConnectionStatus, SetStatus, StreamStatus, TargetStatus};

/// Points that a plot has at most.
const POINTS_MAX: usize = 240;

/// What a service said of itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A set.
    Set(Box<SetStatus>),
    /// A target.
    Target(Box<TargetStatus>),
}

/// What happened between two looks, per second, and how far behind it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// Operations captured; on a target received.
    pub captured_ops: f64,
    /// Bytes of them.
    pub captured_bytes: f64,
    /// Bytes of records sent.
    pub sent_bytes: f64,
    /// Bytes on the wire.
    pub wire_bytes: f64,
    /// Operations applied.
    pub applied_ops: f64,
    /// Age of the oldest operation that is not applied.
    pub lag_seconds: f64,
    /// Operations that are not applied.
    pub lag_ops: u64,
}

/// A keystroke that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Select the row above.
    Up,
    /// Select the row below.
    Down,
    /// Hold the picture, or let it go on.
    Pause,
    /// Group writers otherwise.
    Group,
    /// Show or hide the help.
    Help,
    /// End.
    Quit,
}

/// A service as it was heard last.
#[derive(Debug)]
struct Heard {
    said: Option<Said>,
    heard: Instant,
    error: Option<String>,
    /// By connection or stream.
    plots: BTreeMap<String, VecDeque<Point>>,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Of which service, by its name.
    pub(super) service: String,
    /// Which of its plots.
    pub(super) plot: String,
    pub(super) name: String,
    pub(super) peer: String,
    pub(super) verdict: Verdict,
    pub(super) point: Point,
}

/// Something under way that will end.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) title: String,
    pub(super) share: Option<f64>,
    pub(super) text: String,
}

/// The monitor without its terminal.
#[derive(Debug)]
pub struct Monitor {
    /// The name of this host.
    pub(super) host: String,
    pub(super) interval: Duration,
    pub(super) colours: bool,
    services: BTreeMap<String, Heard>,
    selected: usize,
    pub(super) is_held: bool,
    pub(super) is_helping: bool,
    pub(super) grouping: Grouping,
    /// Who writes into the selected set; none where nobody follows.
    pub(super) writers: Option<Writers>,
}

/// `new - old` per second; 0 where the counter went back.
fn rate(old: u64, new: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        float(new.saturating_sub(old)) / seconds
    } else {
        0.0
    }
}

fn link_key(id: u32) -> String {
    format!("connection {id}")
}

fn stream_key(stream: &StreamStatus) -> String {
    format!("{} of {}", stream.set, stream.source)
}

fn link_point(old: &SetStatus, new: &SetStatus, one: &ConnectionStatus) -> Point {
    let seconds = float(new.time_ns.saturating_sub(old.time_ns)) / 1e9;
    let before = old.connections.iter().find(|o| o.id == one.id);
    let of = |pick: fn(&ConnectionStatus) -> u64| {
        before.map_or(0.0, |before| rate(pick(before), pick(one), seconds))
    };
    Point {
        captured_ops: rate(old.captured_ops, new.captured_ops, seconds),
        captured_bytes: rate(old.captured_bytes, new.captured_bytes, seconds),
        sent_bytes: of(|c| c.sent_bytes),
        wire_bytes: of(|c| c.wire_bytes),
        applied_ops: of(|c| c.applied_seq),
        lag_seconds: one.lag_seconds,
        lag_ops: one.lag_ops,
    }
}

fn stream_point(old: &TargetStatus, new: &TargetStatus, one: &StreamStatus) -> Point {
    let seconds = float(new.time_ns.saturating_sub(old.time_ns)) / 1e9;
    let same = |o: &&StreamStatus| o.set == one.set && o.source == one.source;
    let before = old.streams.iter().find(same);
    let of = |pick: fn(&StreamStatus) -> u64| {
        before.map_or(0.0, |before| rate(pick(before), pick(one), seconds))
    };
    let received_bytes = of(|s| s.stats.received_bytes);
    Point {
        captured_ops: of(|s| s.stats.received.total()),
        captured_bytes: received_bytes,
        sent_bytes: received_bytes,
        wire_bytes: 0.0,
        applied_ops: of(|s| s.stats.applied),
        lag_seconds: 0.0,
        lag_ops: one.received_seq.saturating_sub(one.applied_seq),
    }
}

fn put_point(plots: &mut BTreeMap<String, VecDeque<Point>>, key: String, point: Point) {
    let plot = plots.entry(key).or_default();
    if plot.len() >= POINTS_MAX {
        plot.pop_front();
    }
    plot.push_back(point);
}

impl Monitor {
    /// Knows nothing yet. `interval`: how often services are asked.
    pub fn new(host: &str, interval: Duration, colours: bool) -> Monitor {
        Monitor {
            host: host.to_owned(),
            interval,
            colours,
            services: BTreeMap::new(),
            selected: 0,
            is_held: false,
            is_helping: false,
            grouping: Grouping::Path,
            writers: None,
        }
    }

    /// Takes what a service said at `now`, or why it said nothing. Nothing is taken while the picture is held.
    pub fn hear(&mut self, service: &str, said: Result<Said, String>, now: Instant) {
        if self.is_held {
            return;
        }
        let heard = self
            .services
            .entry(service.to_owned())
            .or_insert_with(|| Heard {
                said: None,
                heard: now,
                error: None,
                plots: BTreeMap::new(),
            });
        match said {
            Ok(said) => {
                let said = match said {
                    Said::Set(set) => Said::Set(Box::new(printable(&*set))),
                    Said::Target(target) => Said::Target(Box::new(printable(&*target))),
                };
                match (&heard.said, &said) {
                    (Some(Said::Set(old)), Said::Set(new)) => {
                        for one in &new.connections {
                            let point = link_point(old, new, one);
                            put_point(&mut heard.plots, link_key(one.id), point);
                        }
                    }
                    (Some(Said::Target(old)), Said::Target(new)) => {
                        for one in &new.streams {
                            let point = stream_point(old, new, one);
                            put_point(&mut heard.plots, stream_key(one), point);
                        }
                    }
                    _ => {}
                }
                heard.said = Some(said);
                heard.heard = now;
                heard.error = None;
            }
            Err(error) => heard.error = Some(printable(&error)),
        }
    }

    /// A service is not there any more.
    pub fn forget(&mut self, service: &str) {
        if !self.is_held {
            self.services.remove(service);
        }
    }

    /// Who writes into the selected set.
    pub fn set_writers(&mut self, writers: Option<Writers>) {
        if !self.is_held {
            self.writers = writers;
        }
    }

    /// Obeys a key; true when it is over.
    pub fn press(&mut self, key: Key) -> bool {
        match key {
            Key::Quit => return true,
            Key::Help => self.is_helping = !self.is_helping,
            _ if self.is_helping => self.is_helping = false,
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down => self.selected += 1,
            Key::Pause => self.is_held = !self.is_held,
            Key::Group => self.grouping = self.grouping.next(),
        }
        self.selected = self
            .selected
            .min(self.rows(Instant::now()).len().saturating_sub(1));
        false
    }

    /// The set whose row is selected.
    pub fn selected_set(&self) -> Option<String> {
        let rows = self.rows(Instant::now());
        let row = rows.get(self.selected)?;
        let said = self.services.get(&row.service)?.said.as_ref()?;
        match said {
            Said::Set(set) => Some(set.name.clone()),
            Said::Target(_) => None,
        }
    }

    /// Is a service silent for longer than it may be? How long.
    fn silence(&self, heard: &Heard, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(heard.heard);
        let patience = self.interval * 2 + Duration::from_secs(1);
        let is_silent = heard.error.is_some() || silent > patience;
        (is_silent && !self.is_held).then_some(silent)
    }

    fn verdict_now(&self, heard: &Heard, verdict: Verdict, now: Instant) -> Verdict {
        let Some(silent) = self.silence(heard, now) else {
            return verdict;
        };
        let since = match heard.said {
            Some(_) => format!("does not answer since {} s", silent.as_secs()),
            None => "does not answer".to_owned(),
        };
        let text = match &heard.error {
            Some(error) => format!("{since}: {error}"),
            None => since,
        };
        Verdict {
            level: Level::Bad,
            word: "no answer",
            text,
        }
    }

    /// The rows of the table, sets first.
    pub(super) fn rows(&self, now: Instant) -> Vec<Row> {
        let mut rows = Vec::new();
        for (service, heard) in &self.services {
            let last = |key: &str| {
                let plot = heard.plots.get(key);
                plot.and_then(|plot| plot.back()).copied()
            };
            let mut put = |plot: String, name: &str, peer: &str, verdict: Verdict, point| {
                rows.push(Row {
                    service: service.clone(),
                    plot,
                    name: name.to_owned(),
                    peer: peer.to_owned(),
                    verdict: self.verdict_now(heard, verdict, now),
                    point,
                });
            };
            match &heard.said {
                Some(Said::Set(set)) if set.connections.is_empty() => {
                    put(String::new(), &set.name, "-", of_set(set), Point::default());
                }
                Some(Said::Set(set)) => {
                    for one in &set.connections {
                        let key = link_key(one.id);
                        let point = last(&key).unwrap_or(Point {
                            lag_seconds: one.lag_seconds,
                            lag_ops: one.lag_ops,
                            ..Point::default()
                        });
                        // What is wrong with the set is wrong with each connection.
                        let verdict = match set.connections.len() {
                            1 => of_set(set),
                            _ => of_connection(one),
                        };
                        put(key, &set.name, &one.target, verdict, point);
                    }
                }
                Some(Said::Target(target)) if target.streams.is_empty() => {
                    let peer = format!("on {}", target.listen);
                    put(
                        String::new(),
                        "(target)",
                        &peer,
                        of_target(target),
                        Point::default(),
                    );
                }
                Some(Said::Target(target)) => {
                    for one in &target.streams {
                        let key = stream_key(one);
                        let point = last(&key).unwrap_or_default();
                        let peer = format!("from {}", one.source);
                        put(key, &one.set, &peer, of_stream(one), point);
                    }
                }
                None => {
                    let verdict = Verdict {
                        level: Level::Busy,
                        word: "asked",
                        text: "not heard yet".to_owned(),
                    };
                    put(String::new(), service, "-", verdict, Point::default());
                }
            }
        }
        rows
    }

    /// Which row is selected.
    pub(super) fn selected(&self, rows: usize) -> usize {
        self.selected.min(rows.saturating_sub(1))
    }

    /// How the row went on.
    pub(super) fn plot(&self, row: &Row) -> Vec<Point> {
        let heard = self.services.get(&row.service);
        let plot = heard.and_then(|heard| heard.plots.get(&row.plot));
        plot.map_or_else(Vec::new, |plot| plot.iter().copied().collect())
    }

    /// The selected set's warnings.
    pub(super) fn warnings(&self, row: &Row) -> Vec<String> {
        let said = self
            .services
            .get(&row.service)
            .and_then(|h| h.said.as_ref());
        match said {
            Some(Said::Set(set)) => set.warnings.clone(),
            _ => Vec::new(),
        }
    }

    /// Is the row one of a target?
    pub(super) fn is_stream(&self, row: &Row) -> bool {
        let said = self
            .services
            .get(&row.service)
            .and_then(|h| h.said.as_ref());
        matches!(said, Some(Said::Target(_)))
    }

    /// What is under way: mirrors, and looking for changes.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for heard in self.services.values() {
            let Some(Said::Set(set)) = &heard.said else {
                continue;
            };
            for one in &set.connections {
                if one.mirror.state != crate::control::status::MirrorState::Idle {
                    jobs.push(Job {
                        title: format!("{} to {}", set.name, one.target),
                        share: one.mirror.percent.map(|percent| percent / 100.0),
                        text: crate::cli::verdict::mirror_progress(one),
                    });
                }
            }
            let is_looking = of_set(set).text.contains("is looked for");
            if is_looking {
                jobs.push(Job {
                    title: format!("{}: looking for changes", set.name),
                    share: None,
                    text: format!(
                        "{} files looked at, {} found",
                        set.resync.checked, set.resync.found
                    ),
                });
            }
        }
        jobs
    }

    /// Rows by how much somebody has to care.
    pub(super) fn levels(&self, now: Instant) -> [usize; 3] {
        let rows = self.rows(now);
        let count = |level| rows.iter().filter(|row| row.verdict.level == level).count();
        [count(Level::Good), count(Level::Busy), count(Level::Bad)]
    }
}
