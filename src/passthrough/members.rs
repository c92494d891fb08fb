//! Which inodes lie in the tree, for whoever has nothing but a number.
//!
//! A file handle of an NFS client or of open_by_handle_at(2) names an inode, and the kernel, which may
//! have forgotten it, asks for it by number. Where the protected directory is not the whole file
//! system the number may be that of a file outside, which must not be reached. A directory shows by
//! its ancestors where it lies; a file does not know its directories. So, the first time that it
//! matters, the tree is walked once and the numbers of its files are kept; what is made, linked and
//! removed through the mount keeps them right.
//!
//! # Invariants
//! The count of a number is that of its names in the tree, and it is there while the count is not 0.
//! What changes while the tree is walked may be met twice or never: such numbers are left out, and
//! the first miss after that walks again.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::tree::{Error, Tree, UNFOLLOWED, c_name};
use crate::sync::{Mutex, Rank};
use crate::sys::{self, EntryType};
use crate::types::{FileId, Ino, Name};

/// A walk is begun again so often when directories move under it.
const WALKS_MAX: usize = 16;

#[derive(Debug, Default)]
struct Known {
    /// How many names each file has in the tree.
    names: HashMap<Ino, u32>,
    /// A walk is under way.
    walking: bool,
    /// Files whose names changed since the walk under way began.
    touched: HashSet<Ino>,
    /// A directory moved since the walk under way began.
    moved: bool,
    /// A walk came to its end, and left nothing out.
    complete: bool,
}

impl Known {
    fn change(&mut self, ino: Ino, change: impl FnOnce(u32) -> u32) {
        if self.walking {
            self.touched.insert(ino);
            return;
        }
        match change(self.names.get(&ino).copied().unwrap_or(0)) {
            0 => self.names.remove(&ino),
            count => self.names.insert(ino, count),
        };
    }
}

/// The numbers of the files of a tree; empty, and free of cost, until somebody asks.
#[derive(Debug)]
pub struct Members {
    /// Somebody asked: changes are to be noted.
    asked: AtomicBool,
    /// Rank `Leaf`; no I/O under it.
    known: Mutex<Known>,
}

impl Default for Members {
    fn default() -> Members {
        Members {
            asked: AtomicBool::new(false),
            known: Mutex::new(Rank::Leaf, Known::default()),
        }
    }
}

impl Members {
    /// Does the file lie in the tree? `None` where only a walk can tell.
    pub fn known(&self, ino: Ino) -> Option<bool> {
        if !self.asked.load(Ordering::Acquire) {
            return None;
        }
        let known = self.known.lock();
        if known.names.contains_key(&ino) && !known.walking {
            return Some(true);
        }
        known.complete.then_some(false)
    }

    fn note(&self, id: FileId, change: impl FnOnce(u32) -> u32) {
        if self.asked.load(Ordering::Acquire) {
            self.known.lock().change(id.ino, change);
        }
    }

    /// A file got one more name in the tree. Called under its directory's lock, as the others here.
    pub fn note_linked(&self, id: FileId) {
        self.note(id, |count| count.saturating_add(1));
    }

    /// A file lost a name in the tree.
    pub fn note_unlinked(&self, id: FileId) {
        self.note(id, |count| count.saturating_sub(1));
    }

    /// A file's name moved.
    pub fn note_renamed(&self, id: FileId) {
        self.note(id, |count| count);
    }

    /// A directory got another parent: a walk under way may meet what is in it twice or never.
    pub fn note_dir_moved(&self) {
        if self.asked.load(Ordering::Acquire) {
            self.known.lock().moved = true;
        }
    }

    /// Answers, after a walk through the tree where that is needed. One caller at a time.
    ///
    /// # Errors
    /// What reading a directory says, or `EAGAIN` when names and directories move all the time; it may
    /// be asked again.
    pub fn find(&self, tree: &Tree, ino: Ino) -> Result<bool, Error> {
        for _ in 0..WALKS_MAX {
            if let Some(answer) = self.known(ino) {
                return Ok(answer);
            }
            self.begin_walk();
            let walked = self.walk(tree);
            let mut known = self.known.lock();
            known.walking = false;
            if walked.is_err() || known.moved {
                known.names = HashMap::new();
                walked?;
                continue;
            }
            let Known { names, touched, .. } = &mut *known;
            names.retain(|ino, _| !touched.contains(ino));
            known.complete = known.touched.is_empty();
            tracing::info!(
                files = known.names.len(),
                left_out = known.touched.len(),
                "walked the tree to know which file handles lie in it"
            );
            if !known.touched.contains(&ino) {
                return Ok(known.names.contains_key(&ino));
            }
        }
        Err(Error {
            op: "walking the tree",
            id: None,
            source: std::io::Error::from_raw_os_error(libc::EAGAIN),
        })
    }

    fn begin_walk(&self) {
        let mut known = self.known.lock();
        *known = Known {
            walking: true,
            ..Known::default()
        };
        self.asked.store(true, Ordering::Release);
    }

    fn walk(&self, tree: &Tree) -> Result<(), Error> {
        let mut dirs = vec![tree.root_id()];
        while let Some(dir) = dirs.pop() {
            match self.walk_dir(tree, dir, &mut dirs) {
                Ok(()) => {}
                // Removed meanwhile.
                Err(e) if matches!(e.errno(), libc::ESTALE | libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn walk_dir(&self, tree: &Tree, dir: FileId, dirs: &mut Vec<FileId>) -> Result<(), Error> {
        let fd = tree.open(dir, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)?;
        let mut buf = vec![0u8; 64 << 10];
        loop {
            let (mut files, mut unclear) = (Vec::new(), Vec::new());
            let read = sys::read_entries(fd.as_fd(), &mut buf, |entry| {
                match entry.kind {
                    EntryType::Dir | EntryType::Unknown => unclear.extend(Name::new(entry.name)),
                    _ => files.push(Ino(entry.ino)),
                }
                true
            });
            let read = read.map_err(|source| Error {
                op: "reading the directory",
                id: Some(dir),
                source,
            })?;
            if read == 0 {
                return Ok(());
            }
            for name in unclear {
                match tree.lookup_at(fd.as_fd(), dir, &c_name(&name)) {
                    Ok((id, stat)) if stat.is_dir() => dirs.push(id),
                    Ok((id, _)) => files.push(id.ino),
                    Err(e) if [libc::ENOENT, UNFOLLOWED].contains(&e.errno()) => {}
                    Err(e) => return Err(e),
                }
            }
            let mut known = self.known.lock();
            for ino in files {
                *known.names.entry(ino).or_default() += 1;
            }
        }
    }
}
