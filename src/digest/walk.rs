//! The way through both trees at once.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::content::{Buffers, first_difference};
use super::entry::{
    Entry, Record, compare_holes, compare_stats, compare_xattrs, kind_text, xattrs_as_recorded,
};
use super::error::{Error, io_error};
use super::pair::{Pair, Side};
use super::progress::Progress;
use super::report::{Difference, Report, What, name_text, path_text};
use crate::sys;
use crate::types::{Remap, Xattr, is_own_xattr};

/// Most levels of directories that are held open, two descriptors each.
pub const OPEN_LEVELS_MAX: usize = 64;

/// Bytes of a directory read at a time.
const LISTING_BYTES: usize = 256 << 10;

/// Paths kept for messages about hard links are cut to their last bytes.
const PATH_BYTES_KEPT: usize = 200;

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names directly below the roots that are skipped on both sides.
    pub names_ignored: Vec<Vec<u8>>,
    /// Compare the bytes of files; without it only what stat, xattrs and links tell.
    pub contents: bool,
    /// Compare how much of each file is allocated.
    pub holes: bool,
    /// Compare the attributes of the roots themselves.
    pub roots: bool,
    /// How absolute links of the left tree are made in the right one, where they are made otherwise.
    pub remap: Option<Remap>,
    /// Most differences kept in the report; all are counted.
    pub differences_kept_max: usize,
}

impl Default for Options {
    /// Everything is compared, a hundred differences are kept.
    fn default() -> Options {
        Options {
            names_ignored: Vec::new(),
            contents: true,
            holes: true,
            roots: true,
            remap: None,
            differences_kept_max: 100,
        }
    }
}

/// Compares the tree at `left` with the tree at `right`; both are directories (or symbolic links to
/// one).
///
/// # Errors
/// When something cannot be read, or a directory is moved away under the walk.
pub fn compare(left: &Path, right: &Path, options: &Options) -> Result<Report, Error> {
    compare_watched(left, right, options, &Progress::default())
}

/// As [`compare`], telling `progress` how far it is.
///
/// # Errors
/// As there.
pub fn compare_watched(
    left: &Path,
    right: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Report, Error> {
    let roots = Pair::try_of(|side| {
        let path = match side {
            Side::Left => left,
            Side::Right => right,
        };
        open_root(path).map_err(|source| Error::Io {
            operation: "open the root",
            side,
            path: path.display().to_string(),
            source,
        })
    })?;
    let mut walk = Walk {
        options,
        progress,
        devices: Pair {
            left: roots.left.stat.dev,
            right: roots.right.stat.dev,
        },
        levels: Vec::new(),
        open_from: 0,
        path: Vec::new(),
        links: Links::default(),
        buffers: Buffers::new(),
        listing: vec![0; LISTING_BYTES],
        report: Report::default(),
    };
    walk.report.counts.dirs += 1;
    if options.roots {
        walk.compare_attributes(&roots)?;
    }
    walk.enter(roots)?;
    while let Some(level) = walk.levels.last_mut() {
        match level.pending.pop() {
            Some(name) => walk.descend(&name)?,
            None => walk.leave()?,
        }
    }
    Ok(walk.report)
}

fn open_root(path: &Path) -> io::Result<Entry> {
    let file = std::fs::File::open(path)?;
    let fd = OwnedFd::from(file);
    let stat = sys::fstat(fd.as_fd())?;
    if !stat.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    Ok(Entry { fd, stat })
}

/// One directory on the way down.
struct Level {
    /// Its descriptors; `None` while it is among those too far up to be held open.
    dirs: Option<Pair<OwnedFd>>,
    /// (device, inode) of both, by which it is known again.
    ids: Pair<(u64, u64)>,
    /// Directories in it that are still to be walked, last one first.
    pending: Vec<Box<[u8]>>,
    /// Length of its path.
    path_bytes: usize,
}

/// Inodes with several names: who goes with whom.
#[derive(Default)]
struct Links {
    left: HashMap<(u64, u64), Partner>,
    right: HashMap<(u64, u64), Partner>,
}

struct Partner {
    id: (u64, u64),
    path: Box<[u8]>,
}

struct Walk<'a> {
    options: &'a Options,
    progress: &'a Progress,
    devices: Pair<u64>,
    levels: Vec<Level>,
    /// Levels from here on are open.
    open_from: usize,
    path: Vec<u8>,
    links: Links,
    buffers: Buffers,
    listing: Vec<u8>,
    report: Report,
}

impl Walk<'_> {
    fn differ(&mut self, what: What, left: String, right: String) {
        self.report.difference_count += 1;
        if self.report.differences.len() < self.options.differences_kept_max {
            self.report.differences.push(Difference {
                path: self.path.clone(),
                what,
                left,
                right,
            });
        }
    }

    /// Takes a pair of directories as the next level and compares everything directly in it.
    fn enter(&mut self, dirs: Pair<Entry>) -> Result<(), Error> {
        let ids = Pair {
            left: dirs.left.id(),
            right: dirs.right.id(),
        };
        let open = Pair::try_of(|side| {
            let opened = dirs.of(side).open(libc::O_DIRECTORY);
            opened.map_err(io_error("open", side, &self.path))
        })?;
        drop(dirs);
        let left = self.read_names(&open, Side::Left)?;
        let right = self.read_names(&open, Side::Right)?;
        let path_bytes = self.path.len();
        let mut pending = self.compare_names(&open, left, right)?;
        pending.reverse();
        self.levels.push(Level {
            dirs: Some(open),
            ids,
            pending,
            path_bytes,
        });
        if self.levels.len() - self.open_from > OPEN_LEVELS_MAX {
            self.levels[self.open_from].dirs = None;
            self.open_from += 1;
        }
        Ok(())
    }

    /// Walks on into the directory `name` of the lowest level.
    fn descend(&mut self, name: &[u8]) -> Result<(), Error> {
        let (Some(pair), path_bytes) = self.find_below(name)? else {
            // Went away since it was listed: the next comparison says whether it matters.
            self.differ(What::Missing, "present".into(), "went away".into());
            return Ok(());
        };
        assert!(path_bytes < self.path.len(), "a name was appended");
        self.enter(pair)
    }

    fn find_below(&mut self, name: &[u8]) -> Result<(Option<Pair<Entry>>, usize), Error> {
        let Some(level) = self.levels.last() else {
            return Ok((None, 0));
        };
        let path_bytes = level.path_bytes;
        self.path.truncate(path_bytes);
        push_name(&mut self.path, name);
        let Some(dirs) = &level.dirs else {
            return Ok((None, path_bytes));
        };
        let found = Pair::try_of(|side| {
            Entry::find(dirs.of(side).as_fd(), name).map_err(io_error("look up", side, &self.path))
        })?;
        let both = match (found.left, found.right) {
            (Some(left), Some(right)) => Some(Pair { left, right }),
            _ => None,
        };
        Ok((both, path_bytes))
    }

    /// Goes back up one level, which is opened again through `..` if it was closed.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(done) = self.levels.pop() else {
            return Ok(());
        };
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        self.path.truncate(level.path_bytes);
        let (None, Some(below)) = (&level.dirs, &done.dirs) else {
            return Ok(());
        };
        let ids = level.ids;
        let reopened = Pair::try_of(|side| {
            let parent = Entry::find(below.of(side).as_fd(), b"..");
            let parent = parent.map_err(io_error("go back to", side, &self.path))?;
            match parent {
                Some(parent) if parent.id() == *ids.of(side) => parent
                    .open(libc::O_DIRECTORY)
                    .map_err(io_error("open again", side, &self.path)),
                _ => Err(Error::Moved {
                    side,
                    path: path_text(&self.path),
                }),
            }
        })?;
        level.dirs = Some(reopened);
        self.open_from = self.levels.len() - 1;
        Ok(())
    }

    fn read_names(&mut self, dirs: &Pair<OwnedFd>, side: Side) -> Result<Vec<Box<[u8]>>, Error> {
        let ignored: &[Vec<u8>] = if self.levels.is_empty() {
            &self.options.names_ignored
        } else {
            &[]
        };
        let mut names: Vec<Box<[u8]>> = Vec::new();
        loop {
            let read = sys::read_entries(dirs.of(side).as_fd(), &mut self.listing, |entry| {
                let name = entry.name;
                let is_dots = name == b"." || name == b"..";
                if !is_dots && !ignored.iter().any(|i| i == name) {
                    names.push(name.into());
                }
                true
            });
            if read.map_err(io_error("list", side, &self.path))? == 0 {
                break;
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Compares two sorted listings and what they name; returns the directories to walk.
    fn compare_names(
        &mut self,
        dirs: &Pair<OwnedFd>,
        left: Vec<Box<[u8]>>,
        right: Vec<Box<[u8]>>,
    ) -> Result<Vec<Box<[u8]>>, Error> {
        let path_bytes = self.path.len();
        let mut pending = Vec::new();
        let mut right = right.into_iter().peekable();
        for name in left {
            while let Some(only_right) = right.next_if(|r| *r < name) {
                self.compare_entry(dirs, &only_right, path_bytes)?;
            }
            right.next_if(|r| *r == name);
            if self.compare_entry(dirs, &name, path_bytes)? == Next::Descend {
                pending.push(name);
            }
        }
        for only_right in right {
            self.compare_entry(dirs, &only_right, path_bytes)?;
        }
        self.path.truncate(path_bytes);
        Ok(pending)
    }

    fn compare_entry(
        &mut self,
        dirs: &Pair<OwnedFd>,
        name: &[u8],
        path_bytes: usize,
    ) -> Result<Next, Error> {
        self.progress.note_entry();
        self.path.truncate(path_bytes);
        push_name(&mut self.path, name);
        let found = Pair::try_of(|side| {
            Entry::find(dirs.of(side).as_fd(), name).map_err(io_error("look up", side, &self.path))
        })?;
        match (found.left, found.right) {
            (Some(left), Some(mut right)) => {
                let record = right.as_recorded();
                let record =
                    record.map_err(io_error("read attributes of", Side::Right, &self.path))?;
                self.compare_pair(&Pair { left, right }, record)
            }
            (None, None) => Ok(Next::Stay),
            (left, right) => {
                let text = |side: Option<Entry>| {
                    side.map_or("nothing".to_owned(), |entry| kind_text(&entry.stat))
                };
                self.differ(What::Missing, text(left), text(right));
                Ok(Next::Stay)
            }
        }
    }

    /// `record`: the right one is taken for what it is on the left.
    fn compare_pair(&mut self, pair: &Pair<Entry>, record: Option<Record>) -> Result<Next, Error> {
        let (left, right) = (&pair.left.stat, &pair.right.stat);
        if left.kind() != right.kind() {
            self.compare_attributes(pair)?;
            return Ok(Next::Stay);
        }
        if left.is_dir() {
            self.report.counts.dirs += 1;
            self.compare_attributes(pair)?;
            return Ok(self.stays_inside(pair));
        }
        if self.note_links(pair) == Seen::Before {
            self.report.counts.links += 1;
            return Ok(Next::Stay);
        }
        match record {
            Some(Record::Device) => self.report.withheld.devices += 1,
            Some(Record::Rights) => self.report.withheld.rights += 1,
            None => {}
        }
        self.compare_attributes(pair)?;
        if left.is_file() {
            self.report.counts.files += 1;
            self.compare_file(pair)?;
        } else {
            self.report.counts.others += 1;
        }
        Ok(Next::Stay)
    }

    /// A directory that another file system is mounted on is reported, not entered.
    fn stays_inside(&mut self, pair: &Pair<Entry>) -> Next {
        let text = |is_same: bool| if is_same { "inside" } else { "a mount point" };
        let left = pair.left.stat.dev == self.devices.left;
        let right = pair.right.stat.dev == self.devices.right;
        if left && right {
            return Next::Descend;
        }
        self.differ(What::OtherMount, text(left).into(), text(right).into());
        Next::Stay
    }

    /// Everything but names, links and bytes.
    fn compare_attributes(&mut self, pair: &Pair<Entry>) -> Result<(), Error> {
        let mut found = Vec::new();
        let mut note = |what, left, right| found.push((what, left, right));
        let (left, right) = (&pair.left.stat, &pair.right.stat);
        compare_stats(left, right, &mut note);
        if left.kind() == right.kind() {
            let mut xattrs = Pair::try_of(|side| {
                let all = pair.of(side).xattrs();
                all.map_err(io_error("read attributes of", side, &self.path))
            })?;
            // What a source says by these names is neither replicated nor believed.
            xattrs.left.retain(|xattr| !is_own_xattr(&xattr.name));
            xattrs_as_recorded(&mut xattrs.right);
            if left.is_symlink() {
                let mut targets = Pair::try_of(|side| {
                    let target = pair.of(side).target();
                    target.map_err(io_error("read the link", side, &self.path))
                })?;
                if let Some(remap) = &self.options.remap {
                    remap_left(remap, &mut targets.left, &mut xattrs.left);
                }
                if targets.left != targets.right {
                    let (left, right) = (name_text(&targets.left), name_text(&targets.right));
                    note(What::Target, left, right);
                }
            }
            compare_xattrs(&xattrs.left, &xattrs.right, &mut note);
        }
        for (what, left, right) in found {
            self.differ(what, left, right);
        }
        Ok(())
    }

    /// Bytes and holes of two regular files.
    fn compare_file(&mut self, pair: &Pair<Entry>) -> Result<(), Error> {
        let (left, right) = (&pair.left.stat, &pair.right.stat);
        if left.size != right.size {
            return Ok(());
        }
        if self.options.holes {
            compare_holes(left, right, |what, l, r| self.differ(what, l, r));
        }
        if !self.options.contents || left.size == 0 {
            return Ok(());
        }
        let open = Pair::try_of(|side| {
            let opened = pair.of(side).open(0);
            opened.map_err(io_error("open", side, &self.path))
        })?;
        let (left_fd, right_fd) = (open.left.as_fd(), open.right.as_fd());
        let passed = |count| self.progress.note_bytes(count);
        let first = first_difference(left_fd, right_fd, left.size, &mut self.buffers, passed)
            .map_err(|(side, source)| io_error("read", side, &self.path)(source))?;
        self.report.counts.bytes += left.size;
        if let Some(first) = first {
            let text = |byte: Option<u8>| match byte {
                Some(byte) => format!("0x{byte:02x} at {}", first.offset),
                None => format!("end at {}", first.offset),
            };
            self.differ(What::Content, text(first.left), text(first.right));
        }
        Ok(())
    }

    /// Remembers which inode goes with which, where one of them has several names.
    fn note_links(&mut self, pair: &Pair<Entry>) -> Seen {
        if pair.left.stat.nlink < 2 && pair.right.stat.nlink < 2 {
            return Seen::First;
        }
        let (left, right) = (pair.left.id(), pair.right.id());
        let known_left = self.links.left.get(&left);
        let known_right = self.links.right.get(&right);
        let fits =
            known_left.is_none_or(|p| p.id == right) && known_right.is_none_or(|p| p.id == left);
        if !fits {
            let text = |known: Option<&Partner>| match known {
                Some(partner) => format!("the file of {}", name_text(&partner.path)),
                None => "a file of its own".to_owned(),
            };
            let (left, right) = (text(known_left), text(known_right));
            self.differ(What::HardLinks, left, right);
            return Seen::First;
        }
        if known_left.is_some() && known_right.is_some() {
            return Seen::Before;
        }
        let from = self.path.len().saturating_sub(PATH_BYTES_KEPT);
        let partner = |id| Partner {
            id,
            path: self.path[from..].into(),
        };
        let (to_right, to_left) = (partner(right), partner(left));
        self.links.left.insert(left, to_right);
        self.links.right.insert(right, to_left);
        Seen::First
    }
}

/// What a link of the left tree has to be in the right one.
fn remap_left(remap: &Remap, target: &mut Vec<u8>, xattrs: &mut Vec<Xattr>) {
    *xattrs = remap.xattrs(target, xattrs);
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(rewritten) = remap.rewritten(target) {
        *target = rewritten;
    }
}

/// Where the walk goes after an entry.
#[derive(PartialEq, Eq)]
enum Next {
    Descend,
    Stay,
}

/// Was this pair of inodes compared under another name?
#[derive(PartialEq, Eq)]
enum Seen {
    First,
    Before,
}

fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
