//! The differences that are known, each with its reason; each is also a row of docs/differences.md.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::op::Op;
use super::rig::{Between, Difference};

/// One known difference.
struct Row {
    /// Words of docs/differences.md.
    reason: &'static str,
    /// The call, what the reference returned, what differs.
    covers: fn(&Op, i64, &Difference) -> bool,
}

fn plain(op: &Op) -> &Op {
    match op {
        Op::Limited { op, .. } => op,
        op => op,
    }
}

fn is_change_time(found: &Difference) -> bool {
    ["mtime", "ctime"].contains(&found.field)
}

/// A time as it is shown, in nanoseconds.
fn nanoseconds(shown: &str) -> Option<i128> {
    let (secs, nanos) = shown.split_once('.')?;
    Some(secs.parse::<i128>().ok()? * 1_000_000_000 + nanos.parse::<i128>().ok()?)
}

/// All of them.
const ROWS: [Row; 11] = [
    Row {
        reason: "access time, one second at most: the kernel reads ahead while it is looked at",
        covers: |op, _, found| {
            let apart = nanoseconds(&found.expected).zip(nanoseconds(&found.seen));
            found.field == "atime"
                && found.kind == libc::S_IFREG
                && found.between == Between::Layers
                // The comparison of everything finds what stays so.
                && !matches!(op, Op::Statfs { path } if path == "sweep")
                && apart.is_some_and(|(below, above)| (0..1_000_000_000).contains(&(below - above)))
        },
    },
    Row {
        reason: "size of a directory: that of ext4 depends on the seed of its hash",
        covers: |_, _, found| {
            found.field == "size" && found.kind == libc::S_IFDIR && found.between == Between::Trees
        },
    },
    Row {
        reason: "fallocate that changes nothing: privileges go and times change, which btrfs leaves",
        covers: |op, ret, found| {
            is_change_time(found)
                && matches!(op, Op::Fallocate { .. })
                && ret == 0
                && found.between == Between::Trees
                && found.seen == "recent"
        },
    },
    Row {
        reason: "data and holes of a preallocated range: data where direct calls went through the cache",
        covers: |op, _, found| {
            matches!(
                op,
                Op::Lseek {
                    whence: libc::SEEK_DATA | libc::SEEK_HOLE,
                    ..
                }
            ) && found.field == "returned"
        },
    },
    Row {
        reason: "truncate of an empty file's path to 0: changes its times, as O_TRUNC does",
        covers: |op, ret, found| {
            is_change_time(found)
                && matches!(op, Op::Truncate { len: 0, .. })
                && ret == 0
                && found.between == Between::Trees
        },
    },
    Row {
        reason: "times after a call that was refused for RLIMIT_FSIZE: the kernel refuses it earlier",
        covers: |op, ret, found| {
            is_change_time(found)
                && matches!(op, Op::Limited { .. })
                && ret == -i64::from(libc::EFBIG)
                && found.between == Between::Trees
        },
    },
    Row {
        reason: "times of a pipe: the kernel does not tell of what is written into it or read from it",
        covers: |_, _, found| {
            (is_change_time(found) || found.field == "atime") && found.kind == libc::S_IFIFO
        },
    },
    Row {
        reason: "times after a direct write that was refused: file systems differ, the kernel truncates",
        covers: |op, ret, found| {
            is_change_time(found)
                && matches!(
                    plain(op),
                    // Bytes from a pipe or a short file are written as many as there are.
                    Op::Write { .. } | Op::Splice { .. } | Op::Sendfile { .. }
                )
                && ret == -i64::from(libc::EINVAL)
                && found.between == Between::Trees
        },
    },
    Row {
        reason: "blocks: allocation that the file system below changes later, by itself",
        covers: |_, _, found| found.between == Between::Layers && found.field == "blocks",
    },
    Row {
        reason: "access time of a file: reads from the kernel's cache leave it, direct reads change it",
        covers: |_, _, found| {
            found.field == "atime" && found.kind == libc::S_IFREG && found.between == Between::Trees
        },
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
    /// Times of inodes (numbers on the reference) that differ for a reason, until they agree again.
    apart: RefCell<BTreeSet<(u64, &'static str)>>,
}

impl Explained {
    /// Is this difference known?
    pub(crate) fn covers(&mut self, op: &Op, ret: i64, found: &Difference) -> bool {
        let is_time = is_change_time(found) && found.between == Between::Trees && found.ino != 0;
        let key = (found.ino, found.field);
        let row = ROWS.iter().find(|row| (row.covers)(op, ret, found));
        let reason = match row {
            Some(row) => row.reason,
            None if is_time && self.apart.borrow().contains(&key) => "a time that differed before",
            None => return false,
        };
        if is_time {
            self.apart.borrow_mut().insert(key);
        }
        *self.counts.entry(reason.to_owned()).or_default() += 1;
        true
    }

    /// This is the same on both.
    pub(crate) fn agree(&self, ino: u64, field: &'static str) {
        self.apart.borrow_mut().remove(&(ino, field));
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
