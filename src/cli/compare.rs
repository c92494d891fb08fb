//! `doppelfs compare`.

use std::io::Write;
use std::path::Path;

use anyhow::bail;

use crate::digest;
use crate::types::Remap;

use super::run::Outcome;

/// What of two trees is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything.
    Contents,
    /// Only what stat, extended attributes and links tell.
    Metadata,
}

/// `FROM=TO` words; all of them lead to one place.
pub(super) fn parse_remap(words: &[String]) -> anyhow::Result<Option<Remap>> {
    let mut remap: Option<Remap> = None;
    for word in words {
        // Both are absolute, so that a path may have a `=` in it.
        let pair = word
            .split_once("=/")
            .filter(|(from, _)| from.starts_with('/'));
        let Some((from, to)) = pair else {
            bail!("--remap-links {word}: give two absolute paths, as FROM=TO");
        };
        let to = format!("/{to}");
        let all = remap.get_or_insert_with(|| Remap {
            from: Vec::new(),
            to: to.clone(),
        });
        if all.to != to {
            bail!(
                "--remap-links {word}: the right-hand tree has one place, not {} too",
                all.to
            );
        }
        all.from.push(from.to_owned());
    }
    Ok(remap)
}

/// Compares two trees, prints what differs and a summary.
pub(super) fn compare(
    left: &Path,
    right: &Path,
    depth: Depth,
    remap: Option<Remap>,
    json: bool,
) -> anyhow::Result<Outcome> {
    let options = digest::Options {
        contents: depth == Depth::Contents,
        remap,
        ..Default::default()
    };
    let report = digest::compare(left, right, &options)?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", report.to_string().trim_end())?;
    }
    Ok(if report.is_equal() {
        Outcome::Yes
    } else {
        Outcome::No
    })
}
