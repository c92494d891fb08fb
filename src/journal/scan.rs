//! Scanning a segment frame by frame: how far is it sound?

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use super::append::head_crc;
use super::error::{Error, io};
use super::segment::Point;
use crate::codec::{self, Frame};
use crate::sys;
use crate::types::limits;

const BUFFER_BYTES: usize = limits::FRAME_BYTES_MAX + (1 << 20);

/// Why a scan ended before the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end inside a frame.
    Torn,
    /// No frame, or one that does not belong here.
    Damaged,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scan {
    /// After the last sound frame that ends its group.
    pub(super) end: Point,
    /// After the last sound frame; further than `end` while a group is unfinished.
    pub(super) sound: Point,
    pub(super) fault: Option<Fault>,
    pub(super) landmarks: Vec<Point>,
}

/// Scans from `start` up to the byte `limit`.
pub(super) fn scan(file: &File, path: &Path, start: Point, limit: u64) -> Result<Scan, Error> {
    let mut found = Scan {
        end: start,
        sound: start,
        fault: None,
        landmarks: Vec::new(),
    };
    let mut buffer = Vec::new();
    while found.fault.is_none() && found.sound.offset < limit {
        let at = found.sound.offset;
        let rest = usize::try_from(limit - at).unwrap_or(usize::MAX);
        buffer.resize(rest.min(BUFFER_BYTES), 0);
        let got = sys::pread(file.as_fd(), &mut buffer, at).map_err(io("read", path))?;
        buffer.truncate(got);
        found.fault = take_frames(&mut found, &buffer);
        if found.sound.offset == at && found.fault.is_none() {
            // Not even one frame in a buffer that is larger than any: the bytes end here.
            found.fault = Some(Fault::Torn);
        }
    }
    Ok(found)
}

/// Takes the whole frames of a buffer; a cut one is left for the next buffer.
fn take_frames(found: &mut Scan, buffer: &[u8]) -> Option<Fault> {
    let mut rest = buffer;
    while !rest.is_empty() {
        let frame = match Frame::parse(rest) {
            Ok(frame) => frame,
            Err(codec::Error::Cut { .. }) => return None,
            Err(_) => return Some(Fault::Damaged),
        };
        let header = frame.header();
        if header.prev_seq != found.sound.seq || header.seq <= header.prev_seq {
            return Some(Fault::Damaged);
        }
        found.sound = Point {
            offset: found.sound.offset + frame.bytes().len() as u64,
            seq: header.seq,
            records: found.sound.records + 1,
            crc: head_crc(frame.bytes()),
        };
        if !header.has_more() {
            found.end = found.sound;
            found.landmarks.push(found.sound);
        }
        rest = rest.get(frame.bytes().len()..).unwrap_or_default();
    }
    None
}
