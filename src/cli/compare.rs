//! `doppelfs compare`.

use std::io::Write;
use std::path::Path;

use crate::digest;

use super::run::Outcome;

/// What of two trees is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything.
    Contents,
    /// Only what stat, extended attributes and links tell.
    Metadata,
}

/// Compares two trees, prints what differs and a summary.
pub(super) fn compare(
    left: &Path,
    right: &Path,
    depth: Depth,
    json: bool,
) -> anyhow::Result<Outcome> {
    let options = digest::Options {
        contents: depth == Depth::Contents,
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
