//! A look at the directory before anything is touched.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Error, io};
use super::segment::{self, HEADER_BYTES, Header, HeaderFault, VERSION};
use crate::codec;
use crate::sys;
use crate::types::{Seq, limits};

/// What a journal's directory may hold.
const OURS: [&str; 7] = [
    "seg",
    "index",
    "index.aside",
    "cursors",
    "facts",
    "ballast",
    "lock",
];

/// A segment's file as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// By its name.
    pub(super) first: Seq,
    pub(super) size: u64,
    pub(super) disk_bytes: u64,
    /// `None` when unreadable.
    pub(super) header: Option<Header>,
    pub(super) first_time_ns: u64,
}

/// The directory as it was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// By position.
    pub(super) segments: Vec<Found>,
    /// Files that were never finished.
    pub(super) leftovers: Vec<PathBuf>,
}

impl Survey {
    /// Looks, and refuses what is not ours.
    pub(super) fn of(dir: &Path) -> Result<Survey, Error> {
        let mut survey = Survey::default();
        for path in list(dir)? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if !OURS.contains(&name) {
                return Err(Error::Foreign { path });
            }
        }
        let mut strange = None;
        for path in list(&dir.join("seg"))? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if name.strip_suffix(".new").is_some_and(|n| n.len() == 20) {
                survey.leftovers.push(path);
                continue;
            }
            let Some(first) = segment::first_of_name(name) else {
                return Err(Error::Foreign { path });
            };
            let (found, is_blank) = look(path, first)?;
            if found.header.is_none() && !is_blank {
                strange = Some(found.path.clone());
            }
            survey.segments.push(found);
        }
        survey.segments.sort_by_key(|f| f.first);
        let is_ours = survey.segments.iter().any(|f| f.header.is_some());
        match strange {
            // Bytes that are none of ours, and nothing else that is.
            Some(path) if !is_ours && !dir.join("cursors").exists() => Err(Error::Foreign { path }),
            _ => Ok(survey),
        }
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Error::Foreign {
                path: dir.to_path_buf(),
            });
        }
        Err(e) => return Err(io("list", dir)(e)),
    };
    let paths = entries.map(|entry| entry.map(|e| e.path()));
    paths.collect::<Result<_, _>>().map_err(io("list", dir))
}

fn look(path: PathBuf, first: Seq) -> Result<(Found, bool), Error> {
    let file = File::open(&path).map_err(io("open", &path))?;
    let stat = file.metadata().map_err(io("stat", &path))?;
    let mut bytes = vec![0u8; HEADER_BYTES as usize + limits::HEADER_BYTES];
    let got = sys::pread(file.as_fd(), &mut bytes, 0).map_err(io("read", &path))?;
    bytes.truncate(got);
    let mut is_blank = false;
    let header = match Header::decode(&bytes) {
        Ok(header) => Some(header).filter(|h| h.first == first && first.0 > 0),
        Err(HeaderFault::Damaged { blank }) => {
            is_blank = blank;
            None
        }
        Err(HeaderFault::Version(found)) => {
            return Err(Error::UnknownVersion {
                path,
                found,
                known: VERSION,
            });
        }
    };
    let frame = bytes
        .get(HEADER_BYTES as usize..)
        .and_then(|b| b.first_chunk());
    let frame = frame.and_then(|head| codec::parse_header(head).ok());
    let found = Found {
        path,
        first,
        size: stat.len(),
        disk_bytes: stat.blocks() * 512,
        header,
        first_time_ns: frame.map_or(0, |h| h.time_ns),
    };
    Ok((found, is_blank))
}
