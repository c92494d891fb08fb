//! Directories read entry by entry.

use std::os::fd::RawFd;

use super::actor::{given, seen};
use super::calls::{self, Entry, Hands};
use super::op::Seen;

/// All entries of a directory; the return value is 0 or the first error.
pub(crate) fn entries(fd: RawFd, size: usize) -> (i64, Vec<Entry>) {
    let mut all = Vec::new();
    loop {
        let got = calls::getdents(fd, size, &mut all);
        if got <= 0 {
            return (got, all);
        }
    }
}

fn shown(entries: &[Entry]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = entries
        .iter()
        .map(|entry| {
            [
                entry.name.as_slice(),
                format!(":{}\n", entry.kind).as_bytes(),
            ]
            .concat()
        })
        .collect();
    lines.sort_unstable();
    lines.concat()
}

/// Lists a directory; what came of it, sorted.
pub(crate) fn list(hands: &Hands<'_>, path: &str, size: usize) -> Seen {
    let fd = hands.open(path, libc::O_RDONLY | libc::O_DIRECTORY, 0);
    if fd < 0 {
        return seen(fd);
    }
    let (rc, all) = entries(fd as RawFd, size);
    calls::close(fd as RawFd);
    // What came before an entry that did not fit depends on the order of the file system's hash.
    given((rc, if rc == 0 { shown(&all) } else { Vec::new() }))
}

/// Reads a directory, goes back behind its entry number `skip`, and reads the rest again: is it what
/// followed the first time?
pub(crate) fn seek_list(hands: &Hands<'_>, path: &str, size: usize, skip: usize) -> Seen {
    let fd = hands.open(path, libc::O_RDONLY | libc::O_DIRECTORY, 0);
    if fd < 0 {
        return seen(fd);
    }
    let fd = fd as RawFd;
    let (rc, all) = entries(fd, size);
    let mut same = true;
    if let Some(entry) = all.get(skip.min(all.len().saturating_sub(1))) {
        let at = all.iter().position(|e| e == entry).unwrap_or(0) + 1;
        let moved = calls::lseek(fd, entry.next, libc::SEEK_SET);
        let (_, rest) = entries(fd, size);
        let names = |list: &[Entry]| list.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
        same = moved >= 0 && names(&rest) == names(&all[at..]);
    }
    calls::close(fd);
    given((rc, format!("rest is the same: {same}").into_bytes()))
}
