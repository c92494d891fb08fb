//! Facts as people read them: aligned, with units, coloured on a terminal only.

use std::io::IsTerminal;

use crate::control::status::{
    ConfinementStatus, ConnectionStatus, DataState, LayerState, MirrorState, SetState, SetStatus,
    StatusReport, StreamStatus, TargetState, TargetStatus, Transmit,
};

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ink(bool);

impl Ink {
    /// Never a colour.
    pub const NONE: Ink = Ink(false);
    /// Always colours.
    pub const COLOURED: Ink = Ink(true);

    /// Colours when `out` is a terminal and `NO_COLOR` is not set.
    pub fn for_terminal(out: &impl IsTerminal) -> Ink {
        Ink(out.is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// `0 B`, `4.0 KiB`, `1.5 GiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!(
        "{value:.1} {}",
        UNITS.get(unit).copied().unwrap_or_default()
    )
}

/// `0.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an age is no negative number, and no age is near 2^64 seconds"
)]
pub fn duration_text(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Year, month and day of a day since 1970 (the Gregorian calendar, from March on so that the leap
/// day comes last).
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// `2026-11-20T12:51:07.123Z`.
pub(super) fn clock_text(time_ns: u64) -> String {
    let seconds = time_ns / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day % 3600 / 60,
        of_day % 60,
        time_ns % 1_000_000_000 / 1_000_000
    )
}

/// Columns aligned to the left, two blanks between them.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `key   value` lines under a heading.
fn fact(text: &mut String, key: &str, value: &str) {
    *text += &format!("    {key:<12}{value}\n");
}

/// The whole report for people.
pub fn status_text(report: &StatusReport, ink: Ink) -> String {
    let mut text = String::new();
    for set in &report.sets {
        text += &set_text(set, ink);
    }
    for target in &report.targets {
        text += &target_text(target, ink);
    }
    if text.is_empty() {
        text = "no set is mounted and no target is served here; `doppelfs mount DIR` protects a \
                directory, `doppelfs target serve` receives replicas\n"
            .to_owned();
    }
    text
}

fn state_text(state: SetState, ink: Ink) -> String {
    match state {
        SetState::Ok => ink.green("ok"),
        SetState::Synchronising => ink.yellow("synchronising"),
        SetState::Behind => ink.yellow("behind"),
        SetState::Paused => ink.yellow("paused"),
        SetState::Error => ink.red("error"),
    }
}

fn set_text(set: &SetStatus, ink: Ink) -> String {
    let mut text = format!(
        "set {}: {}\n",
        ink.bold(&set.name),
        state_text(set.state, ink)
    );
    for root in &set.roots {
        let place = if root.path == root.mountpoint {
            root.path.clone()
        } else {
            format!("{} served at {}", root.path, root.mountpoint)
        };
        fact(&mut text, "directory", &place);
        if root.remap_links {
            let note = "absolute ones into the directory lead to the replica on the replica";
            fact(&mut text, "links", note);
        }
    }
    if let Some(error) = &set.error {
        fact(&mut text, "error", &ink.red(error));
    }
    for warning in &set.warnings {
        fact(&mut text, "warning", &ink.yellow(warning));
    }
    if set.worker_pid == 0 {
        return text;
    }
    let worker = format!(
        "process {}, restarted {} times",
        set.worker_pid, set.worker_restarts
    );
    fact(&mut text, "worker", &worker);
    if set.roots.is_empty() && set.error.is_some() {
        // It does not answer, and nothing else is known of it.
        return text;
    }
    fact(
        &mut text,
        "captured",
        &format!("operation {}", set.captured_seq),
    );
    let queue = format!(
        "{} operations, {}, {} on disk, oldest {}",
        set.queue.ops,
        bytes_text(set.queue.bytes),
        bytes_text(set.queue.disk_bytes),
        duration_text(set.queue.oldest_seconds)
    );
    fact(&mut text, "queue", &queue);
    let resync = &set.resync;
    if resync.suspects > 0 {
        let after_cut = format!(
            "{} files named by the activity log; {} looked at, {} more found; {} sent again, {}",
            resync.suspects,
            resync.checked,
            resync.found,
            resync.resent_files,
            bytes_text(resync.resent_bytes)
        );
        fact(&mut text, "power cut", &after_cut);
    }
    if set.connections.is_empty() {
        let none = ink.yellow("none: changes are captured and go nowhere (mount with --target)");
        fact(&mut text, "targets", &none);
    }
    for connection in &set.connections {
        text += &connection_text(connection, ink);
    }
    text
}

fn connection_text(one: &ConnectionStatus, ink: Ink) -> String {
    let mut text = format!("  connection {} to {}", one.id, ink.bold(&one.target));
    if !one.path.is_empty() {
        text += &format!(", {}", one.path);
    }
    text.push('\n');
    let transmit = match one.transmit {
        Transmit::Started => ink.green("started"),
        Transmit::Stopped => ink.yellow("stopped"),
        Transmit::Paused => ink.yellow("paused"),
        Transmit::Scheduled => ink.yellow("scheduled"),
        Transmit::Error => ink.red("error"),
    };
    let since = one
        .connected_since
        .map(|s| clock_text(s.saturating_mul(1_000_000_000)));
    let since = since.map_or_else(
        || "not connected".to_owned(),
        |s| format!("connected since {s}"),
    );
    let since = match &one.protection {
        Some(protection) if protection != "plain" => format!("{since}, {protection}"),
        _ => since,
    };
    fact(&mut text, "transmit", &format!("{transmit}, {since}"));
    let states = format!(
        "{}, target {}",
        data_text(one.data_state, ink),
        target_state_text(one.target_state, ink)
    );
    fact(&mut text, "replica", &states);
    if let Some(mirror) = mirror_text(one) {
        fact(&mut text, "mirror", &ink.yellow(&mirror));
    }
    let lag = if one.lag_ops == 0 {
        ink.green("none, everything captured is applied")
    } else {
        format!(
            "{} operations, {}, {}",
            one.lag_ops,
            bytes_text(one.lag_bytes),
            duration_text(one.lag_seconds)
        )
    };
    fact(&mut text, "lag", &lag);
    let marks = format!(
        "sent {}, received {}, applied {}, durable {}",
        one.sent_seq, one.received_seq, one.applied_seq, one.durable_seq
    );
    fact(&mut text, "positions", &marks);
    let bytes = format!(
        "{} sent, {} on the wire, {} of mirrors",
        bytes_text(one.sent_bytes),
        bytes_text(one.wire_bytes),
        bytes_text(one.mirror_bytes)
    );
    fact(&mut text, "bytes", &bytes);
    if let Some(path) = &one.last_path {
        fact(&mut text, "last file", path);
    }
    if one.insecure {
        let note = "plain TCP without authentication, loopback only";
        fact(&mut text, "transport", &ink.yellow(note));
    }
    if let Some(error) = &one.error {
        fact(&mut text, "error", &ink.red(error));
    }
    text
}

fn mirror_text(one: &ConnectionStatus) -> Option<String> {
    let word = match one.mirror.state {
        MirrorState::Idle => return None,
        MirrorState::Mirroring if one.staged => {
            "collected on the target, whose replica stays as it was until it is there in whole"
        }
        MirrorState::Mirroring => "under way",
        MirrorState::Paused => "paused",
        MirrorState::Verifying => "verifying",
    };
    let mut text = word.to_owned();
    if let Some(percent) = one.mirror.percent {
        text += &format!(", {percent:.0} %");
    }
    if let Some(bytes) = one.mirror.remaining_bytes {
        text += &format!(", {} left", bytes_text(bytes));
    }
    Some(text)
}

fn data_text(state: DataState, ink: Ink) -> String {
    match state {
        DataState::Ok => ink.green("ok"),
        DataState::Mirroring => ink.yellow("mirroring (no consistent state until it ends)"),
        DataState::Recovering => ink.yellow("recovering (no consistent state until it ends)"),
        DataState::MirrorRequired => {
            ink.red("mirror required (begins by itself, or `doppelfs mirror start`)")
        }
        DataState::RestoreRequired => ink.red("restore required"),
    }
}

fn target_state_text(state: TargetState, ink: Ink) -> String {
    match state {
        TargetState::Ok => ink.green("ok"),
        TargetState::NotLoaded => ink.yellow("not known"),
        TargetState::PausePending => ink.yellow("about to pause"),
        TargetState::Paused => ink.yellow("paused"),
        TargetState::Retrying => ink.red("retrying"),
    }
}

fn target_text(target: &TargetStatus, ink: Ink) -> String {
    let mut text = format!("target {}", ink.bold(&target.listen));
    if let Some(error) = &target.error {
        text += &format!(": {}\n", ink.red("error"));
        fact(&mut text, "error", &ink.red(error));
        return text;
    }
    text += &format!(": root {}, process {}\n", target.root, target.pid);
    if target.insecure {
        let note =
            "plain TCP without authentication is taken, too: every user of this host can use it";
        fact(&mut text, "transport", &ink.yellow(note));
    }
    let key = target.key.get(..16).unwrap_or(&target.key);
    fact(
        &mut text,
        "peers",
        &format!("{} sources are paired with key {key}", target.peers),
    );
    if let Some(last) = &target.last_refusal {
        let note = format!("{} connections, the last one {last}", target.refused);
        fact(&mut text, "refused", &ink.yellow(&note));
    }
    confinement_text(&mut text, &target.confinement, ink);
    if target.streams.is_empty() {
        fact(&mut text, "streams", "none yet");
    }
    for stream in &target.streams {
        text += &stream_text(stream, ink);
    }
    text
}

fn confinement_text(text: &mut String, confinement: &ConfinementStatus, ink: Ink) {
    let landlock = match (
        confinement.landlock_version,
        &confinement.landlock_refuses[..],
    ) {
        (Some(version), refuses @ [_, ..]) => {
            format!("landlock ({version}: {})", refuses.join(", "))
        }
        (Some(_) | None, _) => "landlock".to_owned(),
    };
    let layers = [
        ("capabilities", confinement.capabilities),
        ("seccomp", confinement.seccomp),
        (landlock.as_str(), confinement.landlock),
    ];
    let on = layers.iter().filter(|(_, state)| *state == LayerState::On);
    let on: Vec<&str> = on.map(|(name, _)| *name).collect();
    let shown = if on.is_empty() {
        ink.yellow("none")
    } else {
        on.join(", ")
    };
    fact(text, "confinement", &shown);
    for lack in &confinement.lacks {
        fact(text, "unconfined", &ink.yellow(lack));
    }
}

fn stream_text(stream: &StreamStatus, ink: Ink) -> String {
    let mut text = format!(
        "  stream of {} from {}, {}\n",
        ink.bold(&stream.set),
        stream.source,
        stream.path
    );
    let link = if stream.connected {
        ink.green("connected")
    } else {
        ink.yellow("not connected")
    };
    let states = format!(
        "{link}, replica {}, {}",
        data_text(stream.data_state, ink),
        target_state_text(stream.target_state, ink)
    );
    fact(&mut text, "state", &states);
    let marks = format!(
        "received {}, applied {}, durable {}",
        stream.received_seq, stream.applied_seq, stream.durable_seq
    );
    fact(&mut text, "positions", &marks);
    fact(&mut text, "counts", &stream.stats.one_line());
    if !stream.remap_from.is_empty() {
        let from = stream.remap_from.join(", ");
        fact(
            &mut text,
            "links",
            &format!("absolute ones to {from} lead here"),
        );
    }
    if let Some(error) = &stream.error {
        fact(&mut text, "error", &ink.red(error));
    }
    text
}
