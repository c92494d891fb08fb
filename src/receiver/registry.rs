//! Which streams there are: one `stream.json` each.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys;
use crate::types::{MarkName, Remap, Seq, SetName};
use crate::wire::RefuseCode;

use super::error::{Error, state as failed};

/// The version of the file.
const VERSION: u32 = 1;

/// A stream as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamRecord {
    /// The file's version.
    pub(super) version: u32,
    /// The source's host name.
    pub(super) source: String,
    /// The set.
    pub(super) set: SetName,
    /// The number of the paired source that owns it; `None`: a source on this host that proved nothing.
    #[serde(default)]
    pub(super) peer: Option<String>,
    /// Mirror path below the root: components joined by `/`.
    pub(super) path: String,
    /// Id of the source's state directory, in hexadecimal.
    pub(super) instance: String,
    /// The line of positions that the journal's records belong to, in hexadecimal.
    #[serde(with = "hex")]
    pub(super) history: Option<u128>,
    /// False while the position is being set anew: journal and map may not belong together.
    pub(super) settled: bool,
    /// How absolute links into the set are made, for every record of the journal.
    #[serde(default)]
    pub(super) remap: Option<Remap>,
    /// Nothing is to be applied.
    #[serde(default)]
    pub(super) pause: Option<Pause>,
    /// The last mark that was applied.
    #[serde(default)]
    pub(super) mark: Option<Marked>,
}

/// How far a pause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pause {
    /// It begins as soon as the replica is what the source was at one moment.
    WhenWhole,
    /// It begins after the operation under way, whatever the replica is then.
    Now,
    /// The replica stands, durably. Nothing is applied until somebody ends it.
    Held,
}

/// A mark that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Its name.
    pub name: MarkName,
    /// Where it stands in the stream.
    pub seq: Seq,
    /// When the source set it, in nanoseconds since 1970.
    pub time_ns: u64,
}

impl StreamRecord {
    pub(super) fn new(source: &str, set: &SetName, path: &str, instance: u128) -> StreamRecord {
        StreamRecord {
            version: VERSION,
            source: source.to_owned(),
            set: set.clone(),
            peer: None,
            path: path.to_owned(),
            instance: format!("{instance:032x}"),
            history: None,
            settled: true,
            remap: None,
            pause: None,
            mark: None,
        }
    }

    /// Is this the stream of that source and set? A paired source has its number, others their name.
    pub(super) fn is_of(&self, peer: Option<&str>, source: &str, set: &SetName) -> bool {
        let is_source = match peer {
            Some(id) => self.peer.as_deref() == Some(id),
            None => self.peer.is_none() && self.source == source,
        };
        is_source && self.set == *set
    }
}

/// 128 bits as text: JSON readers know no such numbers.
mod hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<u128>, to: S) -> Result<S::Ok, S::Error> {
        value.map(|bits| format!("{bits:032x}")).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<u128>, D::Error> {
        let text: Option<String> = Deserialize::deserialize(from)?;
        let bits = text.map(|text| u128::from_str_radix(&text, 16));
        bits.transpose().map_err(serde::de::Error::custom)
    }
}

/// Does one path lie in the other, or are they the same?
fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let rest = long.strip_prefix(short);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Refuses a mirror path that lies in or around the one of another stream; its own is not looked at.
pub(super) fn check_free<'a>(
    path: &str,
    others: impl Iterator<Item = &'a StreamRecord>,
) -> Result<(), Error> {
    for other in others {
        if path == other.path || !overlap(path, &other.path) {
            continue;
        }
        let (theirs, their_set, taken) = (&other.source, &other.set, &other.path);
        let text = format!(
            "mirror path {path:?} and the replica of set {their_set} of {theirs} at {taken:?} lie in each other; choose a path beside it"
        );
        return Err(Error::refuse(RefuseCode::Taken, text));
    }
    Ok(())
}

/// Does the directory lie in the mirror path, or the mirror path in it?
pub(super) fn meets(dir: &str, record: &StreamRecord) -> bool {
    overlap(dir, &record.path)
}

/// A directory for us alone, with its parents.
pub(super) fn create_private(path: &Path) -> Result<(), Error> {
    // What is in it decides nothing: it lies in directories of ours, or is used by us alone.
    sys::make_private_dir(path, false, |_| true)?;
    Ok(())
}

/// Where a stream keeps its state.
pub(super) fn stream_dir(state: &Path, number: u32) -> PathBuf {
    state.join("streams").join(number.to_string())
}

/// Replaces a file durably: file, then name.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh).map_err(failed("create", &fresh))?;
    file.write_all(bytes).map_err(failed("write", &fresh))?;
    file.sync_all().map_err(failed("flush", &fresh))?;
    std::fs::rename(&fresh, path).map_err(failed("rename", &fresh))?;
    if let Some(dir) = path.parent() {
        let opened = File::open(dir).map_err(failed("open", dir))?;
        opened.sync_all().map_err(failed("flush", dir))?;
    }
    Ok(())
}

/// Writes a stream's description.
pub(super) fn save(dir: &Path, record: &StreamRecord) -> Result<(), Error> {
    let path = dir.join("stream.json");
    let text = serde_json::to_vec_pretty(record);
    let text = text.map_err(|source| Error::StreamRecord {
        path: path.clone(),
        source,
    })?;
    write_durably(&path, &text)
}

/// Every stream described below `state`, by number. A directory without a description was being made
/// when the host went down; it is passed over.
pub(super) fn load(state: &Path) -> Result<Vec<(u32, StreamRecord)>, Error> {
    let dir = state.join("streams");
    create_private(&dir)?;
    let mut streams = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(failed("list", &dir))? {
        let entry = entry.map_err(failed("list", &dir))?;
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let path = entry.path().join("stream.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed("read", &path)(e)),
        };
        let record: StreamRecord =
            serde_json::from_slice(&text).map_err(|source| Error::StreamRecord { path, source })?;
        streams.push((number, record));
    }
    streams.sort_by_key(|(number, _)| *number);
    Ok(streams)
}

/// The number for one more stream.
pub(super) fn free_number(state: &Path) -> Result<u32, Error> {
    let dir = state.join("streams");
    let mut last = 0;
    for entry in std::fs::read_dir(&dir).map_err(failed("list", &dir))? {
        let entry = entry.map_err(failed("list", &dir))?;
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(last + 1)
}
