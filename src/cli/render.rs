//! `status` for people: every set with its connections, every target with its streams.

use super::paper::{Ink, bytes_text, clock_text, duration_text, printable, shortened, wrapped};
use super::render_target::target_text;
use super::verdict::{Verdict, counted, float, mirror_progress, of_set, whole};
use crate::control::status::{
    ConnectionStatus, DataState, MarkStatus, MirrorState, Replication, SetStatus, StatusReport,
    TargetState, Transmit,
};

/// Where values begin.
const VALUE_AT: usize = 16;

/// Text that grows by lines that fit.
pub(super) struct Sheet {
    pub(super) text: String,
    pub(super) ink: Ink,
    columns: Option<usize>,
}

impl Sheet {
    /// `key   value` under a heading.
    pub(super) fn fact(&mut self, key: &str, value: &str) {
        self.painted(key, value, |_, line| line.to_owned());
    }

    /// The same, its value painted line by line.
    pub(super) fn painted(&mut self, key: &str, value: &str, paint: fn(Ink, &str) -> String) {
        let lines = match self.columns {
            Some(columns) => wrapped(value, columns.saturating_sub(VALUE_AT)),
            None => vec![value.to_owned()],
        };
        for (number, line) in lines.iter().enumerate() {
            let key = if number == 0 { key } else { "" };
            self.text += &format!("    {key:<12}{}\n", paint(self.ink, line));
        }
    }

    /// A value that is one word, of which the ends matter most.
    pub(super) fn path(&mut self, key: &str, path: &str) {
        let room = self.columns.map(|columns| columns - VALUE_AT);
        let path = room.map_or_else(|| path.to_owned(), |room| shortened(path, room));
        self.text += &format!("    {key:<12}{path}\n");
    }

    /// The first line of a set or a target: whose it is, and the verdict.
    pub(super) fn heading(&mut self, kind: &str, name: &str, verdict: &Verdict) {
        let plain = format!("{kind} {name}: {}: {}", verdict.word, verdict.text);
        let lines = match self.columns {
            Some(columns) => wrapped(&plain, columns),
            None => vec![plain],
        };
        let head = format!("{kind} {name}: ");
        for (number, line) in lines.iter().enumerate() {
            // Where even the name was broken the line stays plain.
            let painted = match line.strip_prefix(&head).filter(|_| number == 0) {
                Some(rest) => format!(
                    "{kind} {}: {}",
                    self.ink.bold(name),
                    verdict.paint(self.ink, rest)
                ),
                None => verdict.paint(self.ink, line),
            };
            self.text += &painted;
            self.text.push('\n');
        }
    }

    fn line(&mut self, line: &str) {
        self.text += line.trim_end();
        self.text.push('\n');
    }

    pub(super) fn subheading(&mut self, before: &str, name: &str, after: &str) {
        let plain = before.len() + name.len() + after.len();
        if self.columns.is_some_and(|columns| plain > columns) {
            self.line(&format!("{before}{}", self.ink.bold(name)));
            self.path("", after.trim_start_matches([',', ' ']));
        } else {
            self.line(&format!("{before}{}{after}", self.ink.bold(name)));
        }
    }
}

/// The whole report for people. `columns`: how wide lines may be; without, every fact is one line.
pub fn status_text(report: &StatusReport, ink: Ink, columns: Option<usize>) -> String {
    let report = printable(report);
    let mut sheet = Sheet {
        text: String::new(),
        ink,
        columns,
    };
    for set in &report.sets {
        set_text(&mut sheet, set);
    }
    for target in &report.targets {
        target_text(&mut sheet, target);
    }
    if sheet.text.is_empty() {
        sheet.line(
            "no set is mounted and no target is served here; `doppelfs mount DIR` protects a \
             directory, `doppelfs target serve` receives replicas",
        );
    }
    sheet.text
}

fn set_text(sheet: &mut Sheet, set: &SetStatus) {
    sheet.heading("set", &set.name, &of_set(set));
    for root in &set.roots {
        let place = if root.path == root.mountpoint {
            root.path.clone()
        } else {
            format!("{} served at {}", root.path, root.mountpoint)
        };
        sheet.fact("directory", &place);
        if root.remap_links {
            let note = "absolute ones into the directory lead to the replica on the replica";
            sheet.fact("links", note);
        }
    }
    for warning in &set.warnings {
        sheet.painted("warning", warning, Ink::yellow);
    }
    if set.worker_pid == 0 {
        return;
    }
    let worker = match set.worker_restarts {
        0 => format!("process {}", set.worker_pid),
        1 => format!("process {}, started again once", set.worker_pid),
        times => format!("process {}, started again {times} times", set.worker_pid),
    };
    sheet.fact("worker", &worker);
    if set.roots.is_empty() && set.error.is_some() {
        // It does not answer, and nothing else is known of it.
        return;
    }
    let captured = format!(
        "up to operation {}; {:.0} ops/s, {}/s now",
        set.captured_seq,
        set.rates.captured_ops,
        bytes_text(whole(set.rates.captured_bytes))
    );
    sheet.fact("captured", &captured);
    if let Some(mark) = &set.mark {
        sheet.fact("mark", &mark_text(mark));
    }
    let queue = format!(
        "{}, {}, {} on disk, oldest {}",
        counted(set.queue.ops, "operation"),
        bytes_text(set.queue.bytes),
        bytes_text(set.queue.disk_bytes),
        duration_text(set.queue.oldest_seconds)
    );
    sheet.fact("queue", &queue);
    let resync = &set.resync;
    if resync.suspects > 0 {
        let after_cut = format!(
            "{} named by the activity log; {} looked at, {} more found; {} sent again, {}",
            counted(resync.suspects, "file"),
            resync.checked,
            resync.found,
            resync.resent_files,
            bytes_text(resync.resent_bytes)
        );
        sheet.fact("power cut", &after_cut);
    }
    for connection in &set.connections {
        connection_text(sheet, connection, set.captured_seq, set.time_ns);
    }
}

/// How much smaller it is on the wire: `3.1 : 1`.
pub(super) fn ratio_text(bytes: u64, wire_bytes: u64) -> String {
    if wire_bytes == 0 {
        return "-".to_owned();
    }
    format!("{:.1} : 1", float(bytes) / float(wire_bytes))
}

fn connection_text(sheet: &mut Sheet, one: &ConnectionStatus, captured: u64, now_ns: u64) {
    let head = format!("  connection {} to ", one.id);
    let path = match one.path.is_empty() {
        true => String::new(),
        false => format!(", {}", one.path),
    };
    sheet.subheading(&head, &one.target, &path);
    states_text(sheet, one);
    let connected = match one.connected_since {
        None => "no".to_owned(),
        Some(since) => {
            let since_ns = since.saturating_mul(1_000_000_000);
            let clock = clock_text(since_ns);
            let clock = clock.split('.').next().unwrap_or_default();
            let mut text = format!("since {clock}Z");
            if now_ns > since_ns {
                let age = std::time::Duration::from_nanos(now_ns - since_ns);
                text += &format!(" ({})", duration_text(age.as_secs_f64()));
            }
            text
        }
    };
    let mut connected = connected;
    if let Some(protection) = one.protection.as_deref().filter(|p| *p != "plain") {
        connected += &format!(", {protection}");
    }
    if one.reconnects > 0 {
        connected += &format!(", connected again {}", counted(one.reconnects, "time"));
    }
    sheet.fact("connected", &connected);
    let sent = format!(
        "{}, {}; {} on the wire ({}); {} of it for mirrors",
        counted(one.sent_ops, "operation"),
        bytes_text(one.sent_bytes),
        bytes_text(one.wire_bytes),
        ratio_text(one.sent_bytes, one.wire_bytes),
        bytes_text(one.mirror_bytes)
    );
    sheet.fact("sent", &sent);
    let rates = &one.rates;
    let now = format!(
        "{:.0} ops/s and {}/s sent, {}/s on the wire; {:.0} ops/s applied",
        rates.sent_ops,
        bytes_text(whole(rates.sent_bytes)),
        bytes_text(whole(rates.wire_bytes)),
        rates.applied_ops
    );
    sheet.fact("now", &now);
    if one.mirror.state != MirrorState::Idle {
        let mirror = mirror_text(one);
        sheet.painted("mirror", &mirror, Ink::yellow);
    }
    if let Some(pause) = &one.pause {
        let word = match pause.reached {
            true => "the replica stands at",
            false => "not there yet,",
        };
        let text = format!("{word} {}", mark_text(&pause.mark));
        sheet.painted("pause", &text, Ink::yellow);
    }
    lag_table(sheet, one, captured);
    if let Some(path) = &one.last_path {
        sheet.path("last file", path);
    }
    if one.insecure {
        let note = "plain TCP without authentication, loopback only";
        sheet.painted("transport", note, Ink::yellow);
    }
    if let Some(error) = &one.error {
        sheet.painted("error", error, Ink::red);
    }
}

/// A mark: its name, where it stands, since when.
pub(super) fn mark_text(mark: &MarkStatus) -> String {
    let clock = clock_text(mark.time.saturating_mul(1_000_000_000));
    let clock = clock.split('.').next().unwrap_or_default();
    format!("{} at operation {}, {clock}Z", mark.name, mark.seq)
}

/// How far each stage is behind the capture.
fn lag_table(sheet: &mut Sheet, one: &ConnectionStatus, captured: u64) {
    sheet.line(&format!(
        "    {:<10}{:>14}{:>16}{:>14}{:>16}",
        "stage", "position", "ops behind", "bytes behind", "time behind"
    ));
    sheet.line(&format!("    {:<10}{captured:>14}", "captured"));
    let positions = [
        one.sent_seq,
        one.received_seq,
        one.applied_seq,
        one.durable_seq,
    ];
    for ((stage, lag), position) in one.lags.stages().into_iter().zip(positions) {
        sheet.line(&format!(
            "    {stage:<10}{position:>14}{:>16}{:>14}{:>16}",
            lag.ops,
            bytes_text(lag.bytes),
            duration_text(lag.seconds)
        ));
    }
    let took = [
        ("applied", one.latency.applied),
        ("durable", one.latency.durable),
    ];
    for (stage, took) in took.into_iter().filter(|(_, took)| took.count > 0) {
        sheet.line(&format!(
            "    from capture to {stage}: half within {:.1} ms, 99 of 100 within {:.1} ms, longest {:.1} ms",
            took.p50_seconds * 1e3,
            took.p99_seconds * 1e3,
            took.max_seconds * 1e3,
        ));
    }
}

fn mirror_text(one: &ConnectionStatus) -> String {
    let word = match one.mirror.state {
        MirrorState::Idle => "idle",
        MirrorState::Mirroring if one.staged => "collected on the target",
        MirrorState::Mirroring => "under way",
        MirrorState::Paused => "paused",
        MirrorState::Verifying => "verifying",
    };
    let mut text = format!("{word}, {}", mirror_progress(one));
    if one.mirror.seconds > 0.0 {
        text += &format!(", begun {} ago", duration_text(one.mirror.seconds));
    }
    text
}

/// The five states in their fixed order, as the manual has them.
fn states_text(sheet: &mut Sheet, one: &ConnectionStatus) {
    let states = |ink: Ink| {
        [
            ("data", data_text(one.data_state, ink)),
            ("target", target_state_text(one.target_state, ink)),
            ("transmit", transmit_text(one.transmit, ink)),
            ("mirror", mirror_word(one.mirror.state, ink)),
            ("replication", replication_text(one.replication, ink)),
        ]
    };
    let room = sheet
        .columns
        .map_or(usize::MAX, |columns| columns - VALUE_AT);
    let (mut line, mut width, mut key) = (String::new(), 0, "states");
    for ((name, plain), (_, shown)) in states(Ink::NONE).into_iter().zip(states(sheet.ink)) {
        // With the comma before it.
        let length = name.len() + 1 + plain.len() + 2;
        if width > 0 && width + length > room {
            sheet.line(&format!("    {key:<12}{line},"));
            (line, width, key) = (String::new(), 0, "");
        }
        if width > 0 {
            line += ", ";
        }
        line += &format!("{name} {shown}");
        width += length;
    }
    sheet.line(&format!("    {key:<12}{line}"));
}

pub(super) fn transmit_text(transmit: Transmit, ink: Ink) -> String {
    match transmit {
        Transmit::Started => ink.green("started"),
        Transmit::Stopped => ink.yellow("stopped"),
        Transmit::Paused => ink.yellow("paused"),
        Transmit::Scheduled => ink.yellow("scheduled"),
        Transmit::Error => ink.red("error"),
    }
}

fn mirror_word(state: MirrorState, ink: Ink) -> String {
    match state {
        MirrorState::Idle => ink.green("idle"),
        MirrorState::Mirroring => ink.yellow("mirroring"),
        MirrorState::Paused => ink.yellow("paused"),
        MirrorState::Verifying => ink.yellow("verifying"),
    }
}

fn replication_text(replication: Replication, ink: Ink) -> String {
    match replication {
        Replication::Replicating => ink.green("replicating"),
        Replication::Ready => ink.green("ready"),
        Replication::Stopped => ink.yellow("stopped"),
        Replication::Pending => ink.yellow("pending"),
    }
}

pub(super) fn data_text(state: DataState, ink: Ink) -> String {
    match state {
        DataState::Ok => ink.green("ok"),
        DataState::Mirroring => ink.yellow("mirroring"),
        DataState::Recovering => ink.yellow("recovering"),
        DataState::MirrorRequired => ink.red("mirror-required"),
        DataState::RestoreRequired => ink.red("restore-required"),
    }
}

pub(super) fn target_state_text(state: TargetState, ink: Ink) -> String {
    match state {
        TargetState::Ok => ink.green("ok"),
        TargetState::NotLoaded => ink.yellow("not-loaded"),
        TargetState::PausePending => ink.yellow("pause-pending"),
        TargetState::Paused => ink.yellow("paused"),
        TargetState::Retrying => ink.red("retrying"),
    }
}
