//! The walk after an uncovered time: every inode's `ctime`, nothing else is read.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::capture::{Capture, Uncovered};
use crate::passthrough::Error;
use crate::sys;
use crate::types::{FileId, Name};

/// How far the walk is.
#[derive(Debug, Default)]
pub struct CheckProgress {
    /// Inodes looked at.
    pub walked: AtomicU64,
    /// Of those, put in doubt.
    pub in_doubt: AtomicU64,
}

const BATCH: usize = 1024;

/// Walks the tree and puts in doubt what was changed in `uncovered`. An error puts everything in
/// doubt: what cannot be looked at cannot be trusted.
pub fn check(capture: &Capture, uncovered: Uncovered, progress: &CheckProgress, stop: &AtomicBool) {
    let root = capture.tree().root_id();
    let mut suspects = Vec::new();
    let mut dirs = vec![root];
    if capture
        .tree()
        .stat(root)
        .is_ok_and(|stat| uncovered.covers(stat.ctime))
        && !capture.is_in_doubt(root)
    {
        suspects.push(root);
    }
    loop {
        let Some(dir) = dirs.pop() else {
            if !suspects.is_empty() {
                capture.doubt(&suspects, false);
                suspects.clear();
            }
            dirs = capture.end_check();
            if dirs.is_empty() {
                break;
            }
            continue;
        };
        if stop.load(Ordering::Acquire) {
            return;
        }
        match check_dir(capture, dir, uncovered, progress, &mut dirs, &mut suspects) {
            Ok(()) => {}
            // Removed while we walk: that is captured.
            Err(e) if matches!(e.errno(), libc::ESTALE | libc::ENOENT) => {}
            Err(error) => {
                tracing::warn!(%error, "a directory cannot be checked: everything is in doubt");
                capture.doubt(&[], true);
                dirs.clear();
            }
        }
        if suspects.len() >= BATCH {
            capture.doubt(&suspects, false);
            suspects.clear();
        }
    }
    tracing::info!(
        walked = progress.walked.load(Ordering::Relaxed),
        in_doubt = progress.in_doubt.load(Ordering::Relaxed),
        "checked what was changed while the directory was not mounted"
    );
}

fn check_dir(
    capture: &Capture,
    dir: FileId,
    uncovered: Uncovered,
    progress: &CheckProgress,
    dirs: &mut Vec<FileId>,
    suspects: &mut Vec<FileId>,
) -> Result<(), Error> {
    let tree = capture.tree();
    let fd = tree.open(dir, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)?;
    let mut buf = vec![0u8; 64 << 10];
    loop {
        let mut names = Vec::new();
        let read = sys::read_entries(fd.as_fd(), &mut buf, |entry| {
            // `.` and `..` are no names.
            names.extend(Name::new(entry.name).ok());
            true
        })
        .map_err(|source| Error {
            op: "reading the directory",
            id: Some(dir),
            source,
        })?;
        if read == 0 {
            return Ok(());
        }
        for name in names {
            let c_name = std::ffi::CString::new(name.as_bytes()).unwrap_or_default();
            let (id, stat) = match tree.lookup_at(fd.as_fd(), dir, &c_name) {
                Ok(found) => found,
                Err(e) if e.errno() == libc::ENOENT => continue,
                Err(e) => return Err(e),
            };
            progress.walked.fetch_add(1, Ordering::Relaxed);
            if stat.is_dir() {
                dirs.push(id);
            }
            if uncovered.covers(stat.ctime) && !capture.is_in_doubt(id) {
                progress.in_doubt.fetch_add(1, Ordering::Relaxed);
                suspects.push(id);
            }
        }
    }
}
