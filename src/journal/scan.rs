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

/// Read at once in search of the last byte that is not zero.
const ZEROES_BYTES: usize = 256 << 10;

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

/// Where the bytes between `from` and `size` end that are not zero; `from` where all are.
pub(super) fn end_of_bytes(file: &File, path: &Path, from: u64, size: u64) -> Result<u64, Error> {
    let mut end = size.max(from);
    let mut buffer = vec![0; ZEROES_BYTES];
    while end > from {
        let length = usize::try_from(end - from)
            .unwrap_or(usize::MAX)
            .min(ZEROES_BYTES);
        let at = end - length as u64;
        let part = &mut buffer[..length];
        let got = sys::pread(file.as_fd(), part, at).map_err(io("read", path))?;
        if let Some(last) = part[..got].iter().rposition(|&byte| byte != 0) {
            return Ok(at + last as u64 + 1);
        }
        end = at;
    }
    Ok(from)
}

/// The fault of a scan that stopped where there is no sound record, the bytes of the file ending at `end` and
/// zeroes following: zeroes are no record, and one of which only the beginning was written is torn, though zeroes
/// stand where the rest should.
pub(super) fn fault_before_zeroes(file: &File, found: &Scan, end: u64) -> Option<Fault> {
    let at = found.sound.offset;
    if end <= at {
        return None;
    }
    let mut head = [0; limits::HEADER_BYTES];
    let is_read = sys::pread(file.as_fd(), &mut head, at).is_ok();
    let header = is_read.then(|| codec::parse_header(&head).ok()).flatten();
    let follows = header
        .as_ref()
        .is_some_and(|header| header.prev_seq == found.sound.seq);
    let length = match header {
        Some(header) if follows => header.frame_len(),
        _ => limits::HEADER_BYTES,
    };
    match end < at + length as u64 {
        true => Some(Fault::Torn),
        false => found.fault,
    }
}
