//! `doppelfs alerts`.

use std::io::Write;

use super::run::Outcome;
use crate::alerts::Kind;

/// Prints the table of alerts.
pub(super) fn list(json: bool, catalog: bool) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if catalog {
        out.write_all(catalog_text().as_bytes())?;
        return Ok(Outcome::Yes);
    }
    if json {
        let all: Vec<serde_json::Value> = Kind::ALL.iter().map(|kind| line(*kind)).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(Outcome::Yes);
    }
    for kind in Kind::ALL {
        let (number, name, severity) = (kind.number(), kind.name(), kind.severity().word());
        writeln!(out, "DFS-{number}  {name}  ({severity})")?;
        writeln!(out, "    {}", kind.means())?;
        writeln!(out, "    What to do: {}", kind.todo())?;
    }
    Ok(Outcome::Yes)
}

fn line(kind: Kind) -> serde_json::Value {
    serde_json::json!({
        "number": kind.number(),
        "name": kind.name(),
        "severity": kind.severity().word(),
        "priority": kind.severity() as u8,
        "message_id": kind.message_id(),
        "means": kind.means(),
        "todo": kind.todo(),
    })
}

/// As journalctl(1) reads it (systemd's "Journal Message Catalogs").
fn catalog_text() -> String {
    let mut text = String::from(
        "# What alerts of doppelfs mean, for `journalctl -x`. Made by `doppelfs alerts --catalog`.\n",
    );
    for kind in Kind::ALL {
        let (id, name, number) = (kind.message_id(), kind.name(), kind.number());
        let (means, todo) = (kind.means(), kind.todo());
        text += &format!(
            "\n-- {id}\nSubject: doppelfs DFS-{number} {name} (@DOPPELFS_SUBJECT@)\nDefined-By: doppelfs\n\n\
             {means}\n\nWhat to do: {todo}\n"
        );
    }
    text
}
