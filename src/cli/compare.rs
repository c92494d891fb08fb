//! `doppelfs compare`.

use std::io::Write;
use std::path::Path;

use super::run::{Outcome, not_built};

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompareOptions {
    /// Do not read contents.
    pub metadata_only: bool,
}

/// What a comparison found, ready to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareAnswer {
    /// Nothing differs.
    pub is_equal: bool,
    /// For people: each difference is a line, then a summary.
    pub lines: Vec<String>,
    /// For programs.
    pub json: serde_json::Value,
}

/// Compares two trees.
pub type Comparer = fn(&Path, &Path, CompareOptions) -> anyhow::Result<CompareAnswer>;

pub(super) fn compare(
    left: &Path,
    right: &Path,
    options: CompareOptions,
    json: bool,
    comparer: Option<Comparer>,
) -> anyhow::Result<Outcome> {
    let Some(comparer) = comparer else {
        return Err(not_built(
            "compare",
            "use rsync -aHAXn --delete -c --itemize-changes",
        ));
    };
    let answer = comparer(left, right, options)?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", answer.json)?;
    } else {
        for line in &answer.lines {
            writeln!(out, "{line}")?;
        }
    }
    Ok(if answer.is_equal {
        Outcome::Yes
    } else {
        Outcome::No
    })
}
