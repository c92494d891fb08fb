//! The differences that are known, each with its reason; each is also a row of docs/differences.md.

use std::collections::BTreeMap;
use std::fmt;

use super::op::Op;
use super::rig::{Between, Difference};

/// One known difference.
struct Row {
    /// Words of docs/differences.md.
    reason: &'static str,
    covers: fn(kind: &str, op: &Op, found: &Difference) -> bool,
}

/// All of them.
const ROWS: [Row; 2] = [
    Row {
        reason: "blocks: allocation that the file system below changes later, by itself",
        covers: |_, _, found| found.between == Between::Layers && found.field == "blocks",
    },
    Row {
        reason: "access time of a symbolic link: the kernel keeps what it leads to",
        covers: |_, _, found| found.field == "atime" && found.kind == libc::S_IFLNK,
    },
];

/// How often each row was needed.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    counts: BTreeMap<String, u64>,
}

impl Explained {
    /// Is this difference known?
    pub(crate) fn covers(&mut self, kind: &str, op: &Op, found: &Difference) -> bool {
        let row = ROWS.iter().find(|row| (row.covers)(kind, op, found));
        if let Some(row) = row {
            *self.counts.entry(row.reason.to_owned()).or_default() += 1;
        }
        row.is_some()
    }

    /// A call that is always refused was refused.
    pub(crate) fn refused(&mut self, kind: &str) {
        *self
            .counts
            .entry(format!("{kind}: not passed on"))
            .or_default() += 1;
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "explained differences:")?;
        self.counts
            .iter()
            .try_for_each(|(reason, count)| writeln!(f, "{count:>9}  {reason}"))
    }
}
