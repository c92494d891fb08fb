//! A target and its streams, for people.

use super::paper::{Ink, bytes_text};
use super::render::{Sheet, data_text, mark_text, target_state_text};
use super::verdict::{counted, of_stream, of_target};
use crate::control::status::{
    ConfinementStatus, LayerState, MirrorState, StreamStatus, TargetStatus,
};

pub(super) fn target_text(sheet: &mut Sheet, target: &TargetStatus) {
    sheet.heading("target", &target.listen, &of_target(target));
    if target.error.is_some() {
        return;
    }
    sheet.fact("root", &target.root);
    sheet.fact("process", &target.pid.to_string());
    if target.insecure {
        let note =
            "plain TCP without authentication is taken, too: every user of this host can use it";
        sheet.painted("transport", note, Ink::yellow);
    }
    let key = target.key.get(..16).unwrap_or(&target.key);
    let peers = match target.peers {
        0 => format!("no source is paired with key {key}"),
        1 => format!("1 source is paired with key {key}"),
        count => format!("{count} sources are paired with key {key}"),
    };
    sheet.fact("peers", &peers);
    if let Some(last) = &target.last_refusal {
        let note = format!(
            "{}, the last one {last}",
            counted(target.refused, "connection")
        );
        sheet.painted("refused", &note, Ink::yellow);
    }
    confinement_text(sheet, &target.confinement);
    if target.streams.is_empty() {
        sheet.fact("streams", "none yet");
    }
    for stream in &target.streams {
        stream_text(sheet, stream);
    }
}

fn confinement_text(sheet: &mut Sheet, confinement: &ConfinementStatus) {
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
    if on.is_empty() {
        sheet.painted("confinement", "none", Ink::yellow);
    } else {
        sheet.fact("confinement", &on.join(", "));
    }
    for lack in &confinement.lacks {
        sheet.painted("unconfined", lack, Ink::yellow);
    }
}

fn stream_text(sheet: &mut Sheet, stream: &StreamStatus) {
    let after = format!(" from {}, {}", stream.source, stream.path);
    sheet.subheading("  stream of ", &stream.set, &after);
    let verdict = of_stream(stream);
    let said = format!("{}: {}", verdict.word, verdict.text);
    match verdict.level {
        super::verdict::Level::Good => sheet.painted("state", &said, Ink::green),
        super::verdict::Level::Busy => sheet.painted("state", &said, Ink::yellow),
        super::verdict::Level::Bad => sheet.painted("state", &said, Ink::red),
    }
    let link = match (&stream.protection, stream.connected) {
        (Some(protection), true) if protection != "plain" => {
            sheet.ink.green("connected") + &format!(", {protection}")
        }
        (_, true) => sheet.ink.green("connected"),
        (_, false) => sheet.ink.yellow("not connected"),
    };
    let states = format!(
        "{link}, data {}, target {}",
        data_text(stream.data_state, sheet.ink),
        target_state_text(stream.target_state, sheet.ink)
    );
    sheet.text += &format!("    {:<12}{states}\n", "states");
    let marks = format!(
        "received {}, applied {}, durable {}",
        stream.received_seq, stream.applied_seq, stream.durable_seq
    );
    sheet.fact("positions", &marks);
    if let Some(mark) = &stream.mark {
        sheet.fact("mark", &mark_text(mark));
    }
    let mirror = &stream.mirror;
    if mirror.state != MirrorState::Idle {
        let text = format!(
            "{} of {} files known so far",
            mirror.files_done, mirror.files_known
        );
        sheet.painted("mirror", &text, Ink::yellow);
    }
    let counts = format!(
        "{}; {}, {} applied, {} on disk",
        stream.stats.one_line(),
        bytes_text(stream.stats.received_bytes),
        counted(stream.stats.applied, "record"),
        bytes_text(stream.queue_disk_bytes)
    );
    sheet.fact("counts", &counts);
    if let Some(path) = &stream.last_path {
        sheet.path("last file", path);
    }
    if !stream.remap_from.is_empty() {
        let from = stream.remap_from.join(", ");
        sheet.fact("links", &format!("absolute ones to {from} lead here"));
    }
}
