//! The bytes of two files.

use std::io;
use std::os::fd::BorrowedFd;

use super::pair::Side;
use crate::sys;

/// Files up to this size are read whole, whatever their file systems say about holes.
pub const READ_WHOLE_BYTES_MAX: u64 = 64 << 20;

/// How much is read of each file at a time.
const CHUNK_BYTES: usize = 512 << 10;

/// Buffers that are used again for each file.
#[derive(Debug)]
pub(super) struct Buffers {
    left: Vec<u8>,
    right: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        Buffers {
            left: vec![0; CHUNK_BYTES],
            right: vec![0; CHUNK_BYTES],
        }
    }
}

/// The first byte that differs; `None` for a side that ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FirstDifference {
    pub(super) offset: u64,
    pub(super) left: Option<u8>,
    pub(super) right: Option<u8>,
}

/// Compares two files of `size` bytes; `passed` is told how many are done, again and again.
pub(super) fn first_difference(
    left: BorrowedFd<'_>,
    right: BorrowedFd<'_>,
    size: u64,
    buffers: &mut Buffers,
    passed: impl Fn(u64),
) -> Result<Option<FirstDifference>, (Side, io::Error)> {
    let on_left = |e| (Side::Left, e);
    let on_right = |e| (Side::Right, e);
    let skips_holes = size > READ_WHOLE_BYTES_MAX;
    let mut offset = 0;
    while offset < size {
        if skips_holes {
            let left_start = data_start(left, offset, size).map_err(on_left)?;
            let right_start = data_start(right, offset, size).map_err(on_right)?;
            let start = left_start.min(right_start);
            passed(start - offset);
            offset = start;
        }
        let wanted = (size - offset).min(CHUNK_BYTES as u64) as usize;
        if wanted == 0 {
            break;
        }
        let left_bytes = &mut buffers.left[..wanted];
        let right_bytes = &mut buffers.right[..wanted];
        let left_count = sys::pread(left, left_bytes, offset).map_err(on_left)?;
        let right_count = sys::pread(right, right_bytes, offset).map_err(on_right)?;
        let left_bytes = &left_bytes[..left_count];
        let right_bytes = &right_bytes[..right_count];
        if left_bytes != right_bytes {
            return Ok(Some(locate(left_bytes, right_bytes, offset)));
        }
        if left_count < wanted {
            // Both became shorter than stat said; the next comparison sees it as a size.
            break;
        }
        offset += wanted as u64;
        passed(wanted as u64);
    }
    Ok(None)
}

/// Where data begins at or after `offset`; `size` when only a hole follows.
fn data_start(fd: BorrowedFd<'_>, offset: u64, size: u64) -> io::Result<u64> {
    let segment = sys::data_segment(fd, offset)?;
    Ok(segment.map_or(size, |(start, _)| start).clamp(offset, size))
}

fn locate(left: &[u8], right: &[u8], offset: u64) -> FirstDifference {
    let same = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    FirstDifference {
        offset: offset + same as u64,
        left: left.get(same).copied(),
        right: right.get(same).copied(),
    }
}
