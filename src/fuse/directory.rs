//! Listings: getdents below, cookies passed through.

use std::os::fd::AsFd;
use std::sync::Arc;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus, Request};

use crate::passthrough::{Error, Open, OpenDir, UNFOLLOWED};
use crate::sys::{self, Credentials, EntryType};
use crate::types::{Caller, FileId, Name};

use super::adapter::Adapter;
use super::errno::unknown_handle;
use super::reply::{self, TTL};

fn fuse_type(kind: EntryType) -> fuser::FileType {
    match kind {
        EntryType::Dir => fuser::FileType::Directory,
        EntryType::Symlink => fuser::FileType::Symlink,
        EntryType::Fifo => fuser::FileType::NamedPipe,
        EntryType::Socket => fuser::FileType::Socket,
        EntryType::Char => fuser::FileType::CharDevice,
        EntryType::Block => fuser::FileType::BlockDevice,
        EntryType::File | EntryType::Unknown => fuser::FileType::RegularFile,
    }
}

fn fail(source: std::io::Error) -> Error {
    Error {
        op: "readdir",
        id: None,
        source,
    }
}

/// One entry on its way to the kernel.
struct Listed<'a> {
    ino: u64,
    next: u64,
    kind: EntryType,
    name: &'a [u8],
}

impl Adapter {
    pub(super) fn open_dir(&self, id: FileId) -> Result<u64, Error> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let tree = self.capture.tree();
        tree.note_open(id);
        let fd = tree.open(id, flags).inspect_err(|_| tree.note_closed(id))?;
        let dir = OpenDir::of(tree, id, fd, Caller::default());
        Ok(self.capture.dirs.insert(dir, flags))
    }

    /// The open directory under this number.
    pub(super) fn dir(&self, number: u64) -> Result<Arc<OpenDir>, Error> {
        let missing = || fail(std::io::Error::from_raw_os_error(unknown_handle().code()));
        let dir = self.capture.dirs.get(self.capture.tree(), number)?;
        dir.ok_or_else(missing)
    }

    /// Reads entries from `offset` on and hands them over until `add` says that the reply is full.
    fn walk(
        &self,
        number: u64,
        offset: u64,
        mut add: impl FnMut(&OpenDir, Listed<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let dir = self.dir(number)?;
        let mut cursor = dir.cursor.lock();
        let wanted = offset as i64;
        // Offset 0 also rewinds: entries that came since are to be seen.
        if *cursor != wanted || wanted == 0 {
            sys::seek_dir(dir.fd.as_fd(), wanted).map_err(fail)?;
            *cursor = wanted;
        }
        let mut buf = vec![0u8; 32 << 10];
        loop {
            let mut taken = *cursor;
            let mut stopped = false;
            let mut failed = None;
            let read = sys::read_entries(dir.fd.as_fd(), &mut buf, |entry| {
                let listed = Listed {
                    ino: entry.ino,
                    next: entry.next as u64,
                    kind: entry.kind,
                    name: entry.name,
                };
                match add(&dir, listed) {
                    Ok(true) => taken = entry.next,
                    Ok(false) => stopped = true,
                    Err(e) => {
                        failed = Some(e);
                        stopped = true;
                    }
                }
                !stopped
            })
            .map_err(fail)?;
            if stopped {
                // The descriptor stands behind what the kernel did not take.
                sys::seek_dir(dir.fd.as_fd(), taken).map_err(fail)?;
            }
            *cursor = taken;
            if let Some(error) = failed {
                return Err(error);
            }
            if read == 0 || stopped {
                return Ok(());
            }
        }
    }

    pub(super) fn list(
        &self,
        number: u64,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        let tree = self.capture.tree();
        self.walk(number, offset, |dir, entry| {
            if entry.kind == EntryType::Dir
                && tree.may_hold_subvolumes()
                && let Ok(name) = Name::new(entry.name)
                && let Err(e) = tree.entry_id_at(dir.fd.as_fd(), dir.id, &name)
                && e.errno() == UNFOLLOWED
            {
                return Ok(true);
            }
            let name = std::ffi::OsStr::from_bytes(entry.name);
            Ok(!reply.add(INodeNo(entry.ino), entry.next, fuse_type(entry.kind), name))
        })
    }

    pub(super) fn list_plus(
        &self,
        number: u64,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        let tree = self.capture.tree();
        self.walk(number, offset, |dir, entry| {
            let os_name = std::ffi::OsStr::from_bytes(entry.name);
            let Ok(name) = Name::new(entry.name) else {
                // `.` and `..`: the kernel takes the number for readdir(3) and counts no lookup.
                let mut attr = reply::negative();
                (attr.ino, attr.kind) = (INodeNo(entry.ino), fuse_type(entry.kind));
                let ino = INodeNo(entry.ino);
                return Ok(!reply.add(ino, entry.next, os_name, &TTL, &attr, Generation(0)));
            };
            let c_name = std::ffi::CString::new(name.as_bytes()).unwrap_or_default();
            let (id, stat) = match tree.lookup_at(dir.fd.as_fd(), dir.id, &c_name) {
                Ok(found) => found,
                // Removed meanwhile, or on another file system: not listed.
                Err(e) if [libc::ENOENT, UNFOLLOWED].contains(&e.errno()) => return Ok(true),
                Err(e) => return Err(e),
            };
            let attr = reply::attr(&stat, self.nodes.number(id));
            // The kernel counts a lookup for each entry that it is given: before the reply.
            self.nodes.remember(id);
            let generation = Generation(id.generation.0);
            let full = reply.add(
                INodeNo(entry.ino),
                entry.next,
                os_name,
                &TTL,
                &attr,
                generation,
            );
            if full {
                self.nodes.forget(self.nodes.number(id), 1);
            }
            Ok(!full)
        })
    }

    /// The names of extended attributes, as a list of NUL-ended strings; `trusted.*` only for who may
    /// read them.
    pub(super) fn xattr_names(&self, id: FileId, req: &Request) -> Result<Vec<u8>, Error> {
        let node = self.capture.tree().node(id)?;
        let fail = |source| Error {
            op: "listxattr",
            id: Some(id),
            source,
        };
        let mut list = vec![0u8; 64 << 10];
        let used = sys::listxattr(node.as_fd(), &mut list).map_err(fail)?;
        list.truncate(used);
        if !self.capture.tree().hides_trusted() {
            return Ok(list);
        }
        let names = || list.split_inclusive(|&b| b == 0);
        let is_trusted = |name: &&[u8]| name.starts_with(b"trusted.");
        if names().any(|name| is_trusted(&name)) && !Credentials::of(req.pid()).sees_trusted() {
            return Ok(names()
                .filter(|n| !is_trusted(n))
                .flatten()
                .copied()
                .collect());
        }
        Ok(list)
    }
}
