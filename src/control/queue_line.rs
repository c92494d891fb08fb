//! One operation as lists show it.

use serde::{Deserialize, Serialize};

use super::escape;
use crate::codec::Frame;
use crate::types::{Name, Op};

/// What people and scripts want to know of a record. Paths are written by [`escape`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueLine {
    /// Position.
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The operation's word.
    pub op: String,
    /// The path; for a rename the old one.
    pub path: String,
    /// For a rename the new path.
    pub to: Option<String>,
    /// Bytes written, for a truncation the new size, for a range its length.
    pub size: u64,
    /// Where in the file.
    pub offset: Option<u64>,
    /// Who.
    pub uid: u32,
    /// Whose group.
    pub gid: u32,
    /// Which process.
    pub pid: u32,
}

impl QueueLine {
    /// The line for a record; one whose body cannot be decoded is listed with what is known.
    ///
    /// The path hint of a rename may hold two paths with a NUL between them, which no path
    /// contains; with one only, the new path is put together from it and the new name.
    pub fn of(frame: &Frame) -> QueueLine {
        let header = frame.header();
        let mut line = QueueLine {
            seq: header.seq.0,
            time_ns: header.time_ns,
            op: header.kind.word().to_owned(),
            ..QueueLine::default()
        };
        let Ok(body) = frame.body() else {
            "(cannot be decoded)".clone_into(&mut line.path);
            return line;
        };
        let mut paths = body.path.split(|&b| b == 0);
        let first = paths.next().unwrap_or_default();
        line.path = escape(if first.is_empty() { b"." } else { first });
        if let Op::Rename { from, to, .. } = &body.op {
            let beside = from.parent == to.parent;
            let second = paths
                .next()
                .map_or_else(|| moved(first, &to.name, beside), <[u8]>::to_vec);
            line.to = Some(escape(&second));
        }
        (line.size, line.offset) = extent(&body.op, u64::from(header.payload_len));
        line.uid = body.caller.uid;
        line.gid = body.caller.gid;
        line.pid = body.caller.pid;
        line
    }
}

/// The new path as far as the old one and the new name tell it.
fn moved(from: &[u8], name: &Name, beside: bool) -> Vec<u8> {
    let mut to = match from.iter().rposition(|&b| b == b'/') {
        _ if !beside => b".../".to_vec(),
        Some(slash) => from.iter().take(slash + 1).copied().collect(),
        None => Vec::new(),
    };
    to.extend_from_slice(name.as_bytes());
    to
}

fn extent(op: &Op, payload: u64) -> (u64, Option<u64>) {
    match op {
        Op::Write { offset, .. } => (payload, Some(*offset)),
        Op::Truncate { size, .. } => (*size, None),
        Op::Fallocate { offset, length, .. } => (*length, Some(*offset)),
        Op::SetAttr { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::Create { .. }
        | Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. }
        | Op::Gap { .. }
        | Op::MirrorBegin { .. }
        | Op::MirrorEnd { .. }
        | Op::Mark { .. }
        | Op::Listing { .. }
        | Op::Image { .. }
        | Op::ImageBegin { .. }
        | Op::ImageData { .. }
        | Op::ImageHole { .. }
        | Op::ImageEnd { .. } => (payload, None),
    }
}
