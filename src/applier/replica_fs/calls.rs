//! The calls of [`Replica`], each one or two system calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use crate::sys;
use crate::types::{Attrs, History, Name, Node, Position, Remap, Seq, Time, Xattr};

use super::open::{CName, FsReplica};
use crate::applier::replica::{
    Inode, InodeKind, Marker, Moving, Object, Place, Range, Replica, Syncer, Weight,
};

const MARKER_XATTR: &std::ffi::CStr = c"trusted.doppelfs.position";
/// On the marker: something may be withheld from inodes of the replica.
const WITHHELD: &std::ffi::CStr = c"trusted.doppelfs.withheld";
/// History, seq, whether something moves, its ino and generation; little-endian.
const MARKER_BYTES: usize = 37;
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
/// What is written in so large pieces is rarely read here soon, or written again: it goes to the disk while the
/// operations after it are applied, so that a checkpoint has little left to write, and does not take the page cache
/// from what else runs on this host.
const UNCACHED_BYTES_MIN: usize = 128 << 10;
/// Levels of directories that are looked through; only one that moves meanwhile seems to have more.
const DEPTH_MAX: usize = 1 << 20;
const DIR_BUFFER_BYTES: usize = 64 << 10;

fn kind_of(stat: &sys::FileStat) -> InodeKind {
    if stat.is_dir() {
        InodeKind::Dir
    } else if stat.is_file() {
        InodeKind::File
    } else {
        InodeKind::Other
    }
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

fn c_name(name: &[u8]) -> io::Result<std::ffi::CString> {
    std::ffi::CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Between the call that made an inode and the one that opened it, another came to its name.
#[derive(Debug, thiserror::Error)]
#[error("something else came to the name that was just made: another program changes the replica")]
struct Swapped;

/// Can this be what was made by the call before? Whoever may write to the directory can put something of
/// their own there, or a link to a file of somebody else, which would get the owner and the mode of the
/// source's.
fn is_just_made(stat: &sys::FileStat, node: &Node) -> bool {
    let (kind, rdev) = match node {
        Node::File => (libc::S_IFREG, 0),
        Node::Dir => (libc::S_IFDIR, 0),
        Node::Symlink(_) => (libc::S_IFLNK, 0),
        Node::Fifo => (libc::S_IFIFO, 0),
        Node::Socket => (libc::S_IFSOCK, 0),
        Node::Char(rdev) => (libc::S_IFCHR, *rdev),
        Node::Block(rdev) => (libc::S_IFBLK, *rdev),
    };
    let is_device = matches!(node, Node::Char(_) | Node::Block(_));
    let is_private = stat.is_symlink() || stat.mode & 0o077 == 0;
    stat.kind() == kind
        && stat.uid == sys::effective_uid()
        && is_private
        && (stat.is_dir() || stat.nlink == 1)
        && (!is_device || stat.rdev == rdev)
}

fn decode_marker(value: &[u8; MARKER_BYTES]) -> Option<Marker> {
    let moving = Object {
        ino: u64::from_le_bytes(*value[25..].first_chunk()?),
        generation: u32::from_le_bytes(*value[33..].first_chunk()?),
    };
    Some(Marker {
        position: Position {
            history: History(u128::from_le_bytes(*value.first_chunk()?)),
            seq: Seq(u64::from_le_bytes(*value[16..].first_chunk()?)),
        },
        moving: (value[24] != 0).then_some(moving),
    })
}

fn read_names(dir: BorrowedFd<'_>) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let mut buffer = vec![0u8; DIR_BUFFER_BYTES];
    sys::seek_dir(dir, 0)?;
    loop {
        let read = sys::read_entries(dir, &mut buffer, |entry| {
            // `.` and `..` are no names.
            names.extend(Name::new(entry.name));
            true
        })?;
        if read == 0 {
            return Ok(names);
        }
    }
}

impl FsReplica {
    fn name_of_dir(&self, dir: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> io::Result<Name> {
        let object = self.object_at(dir, c"")?;
        let link = sys::proc_path(dir);
        let path = std::fs::read_link(std::ffi::OsStr::from_bytes(link.as_bytes()));
        let guess = path.ok().and_then(|path| {
            let last = path.file_name()?;
            Name::new(last.as_bytes()).ok()
        });
        let guess = guess.into_iter();
        // The path is too long to be told, or somebody moved it just now: ask each entry.
        for name in guess.chain(read_names(parent)?) {
            let found = self.object_at(parent, CName::new(&name).as_c_str());
            if found.is_ok_and(|found| found == object) {
                return Ok(name);
            }
        }
        Err(stale())
    }

    /// Who is at a name, and what stat says of it.
    fn find(&mut self, at: Place<'_>) -> io::Result<Option<(Inode, sys::FileStat)>> {
        let dir = self.fd(at.dir)?;
        // Held while it is looked at: whoever swaps entries meanwhile could show one as what another is,
        // and a device would be opened as a file.
        let name = CName::new(at.name);
        let fd = match sys::openat(dir.as_fd(), name.as_c_str(), libc::O_PATH, 0) {
            Ok(fd) => fd,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => return Err(e),
        };
        let object = self.object_at(fd.as_fd(), c"")?;
        let stat = sys::fstat(fd.as_fd())?;
        let kind = kind_of(&stat);
        Ok(Some((Inode { object, kind }, stat)))
    }

    /// Is a directory the replica's root or limbo, or below one of them? Asked of the file system, as
    /// whoever may move a directory can move it out, and its handle leads there.
    fn is_inside(&self, dir: BorrowedFd<'_>) -> io::Result<bool> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let mut here = sys::openat(dir, c".", flags, 0)?;
        let mut object = self.object_at(here.as_fd(), c"")?;
        for _ in 0..DEPTH_MAX {
            if object == self.root.object || object == self.limbo.object {
                return Ok(true);
            }
            here = sys::openat(here.as_fd(), c"..", flags, 0)?;
            let above = match self.object_at(here.as_fd(), c"") {
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
                found => found?,
            };
            if above == object {
                return Ok(false);
            }
            object = above;
        }
        Ok(false)
    }

    fn create_node(&mut self, at: Place<'_>, node: &Node) -> io::Result<()> {
        let dir = self.fd(at.dir)?;
        let name = CName::new(at.name);
        let (dir, name) = (dir.as_fd(), name.as_c_str());
        match node {
            Node::File => Ok(()),
            Node::Dir => sys::mkdirat(dir, name, 0o700),
            Node::Symlink(target) => sys::symlinkat(&c_name(target)?, dir, name),
            Node::Fifo => sys::mknodat(dir, name, libc::S_IFIFO | 0o600, 0),
            Node::Socket => sys::mknodat(dir, name, libc::S_IFSOCK | 0o600, 0),
            Node::Char(rdev) => sys::mknodat(dir, name, libc::S_IFCHR | 0o600, *rdev),
            Node::Block(rdev) => sys::mknodat(dir, name, libc::S_IFBLK | 0o600, *rdev),
        }
    }
}

impl Replica for FsReplica {
    fn root(&self) -> Inode {
        self.root
    }

    fn limbo(&self) -> Inode {
        self.limbo
    }

    fn instance(&self) -> u64 {
        self.instance
    }

    fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    fn remap(&self) -> Option<&Remap> {
        self.remap.as_ref()
    }

    fn set_remap(&mut self, remap: Option<Remap>) {
        self.remap = remap;
    }

    fn lookup(&mut self, at: Place<'_>) -> io::Result<Option<Object>> {
        let dir = self.fd(at.dir)?;
        match self.object_at(dir.as_fd(), CName::new(at.name).as_c_str()) {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn inspect(&mut self, at: Place<'_>) -> io::Result<Option<Inode>> {
        Ok(self.find(at)?.map(|(inode, _)| inode))
    }

    fn create(&mut self, at: Place<'_>, node: &Node) -> io::Result<Inode> {
        let dir = self.fd(at.dir)?;
        let name = CName::new(at.name);
        let kind = InodeKind::of(node);
        if *node == Node::File {
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            let fd = sys::openat(dir.as_fd(), name.as_c_str(), flags, 0o600)?;
            let object = self.object_at(fd.as_fd(), c"")?;
            self.keep(object, fd);
            return Ok(Inode { object, kind });
        }
        self.create_node(at, node)?;
        let flags = match kind {
            InodeKind::Dir => libc::O_RDONLY | libc::O_DIRECTORY,
            InodeKind::File | InodeKind::Other => libc::O_PATH,
        };
        let fd = sys::openat(dir.as_fd(), name.as_c_str(), flags, 0)?;
        let object = self.object_at(fd.as_fd(), c"")?;
        if !is_just_made(&sys::fstat(fd.as_fd())?, node) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, Swapped));
        }
        self.keep(object, fd);
        Ok(Inode { object, kind })
    }

    fn read_link(&mut self, inode: Inode) -> io::Result<Vec<u8>> {
        if inode.kind != InodeKind::Other {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let fd = self.fd(inode)?;
        match sys::readlink_fd(fd.as_fd()) {
            // What readlinkat(2) says of a descriptor that is no link.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
            done => done,
        }
    }

    fn link(&mut self, inode: Inode, at: Place<'_>) -> io::Result<()> {
        let (fd, dir) = (self.fd(inode)?, self.fd(at.dir)?);
        sys::linkat_fd(fd.as_fd(), dir.as_fd(), CName::new(at.name).as_c_str())
    }

    fn unlink(&mut self, at: Place<'_>) -> io::Result<()> {
        let dir = self.fd(at.dir)?;
        sys::unlinkat(dir.as_fd(), CName::new(at.name).as_c_str(), 0)
    }

    fn rmdir(&mut self, at: Place<'_>) -> io::Result<()> {
        let dir = self.fd(at.dir)?;
        let name = CName::new(at.name);
        sys::unlinkat(dir.as_fd(), name.as_c_str(), libc::AT_REMOVEDIR)
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>, moving: Moving) -> io::Result<()> {
        let (old, new) = (self.fd(from.dir)?, self.fd(to.dir)?);
        let flags = match moving {
            Moving::ToFree => RENAME_NOREPLACE,
            Moving::Over => 0,
            Moving::Exchange => RENAME_EXCHANGE,
        };
        let (name, new_name) = (CName::new(from.name), CName::new(to.name));
        sys::renameat2(
            old.as_fd(),
            name.as_c_str(),
            new.as_fd(),
            new_name.as_c_str(),
            flags,
        )
    }

    fn names(&mut self, dir: Inode) -> io::Result<Vec<Name>> {
        let fd = self.fd(dir)?;
        read_names(fd.as_fd())
    }

    fn place_of_dir(&mut self, dir: Inode) -> io::Result<(Inode, Name)> {
        let fd = self.fd(dir)?;
        if sys::fstat(fd.as_fd())?.nlink == 0 {
            self.drop_fd(dir.object);
            return Err(stale());
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let above = sys::openat(fd.as_fd(), c"..", flags, 0)?;
        let object = self.object_at(above.as_fd(), c"")?;
        if !self.is_inside(above.as_fd())? {
            // Somebody took it out of the replica. What it is there for is theirs to say.
            return Err(stale());
        }
        let name = self.name_of_dir(fd.as_fd(), above.as_fd())?;
        let parent = Inode {
            object,
            kind: InodeKind::Dir,
        };
        Ok((parent, name))
    }

    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> io::Result<()> {
        let fd = self.fd(file)?;
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let piece = &rest[..rest.len().min(sys::WRITE_BYTES_MAX)];
            let at = offset + done as u64;
            let written = match data.len() < UNCACHED_BYTES_MIN {
                true => sys::pwrite(fd.as_fd(), piece, at)?,
                false => sys::pwrite_uncached(fd.as_fd(), piece, at)?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += written;
        }
        Ok(())
    }

    fn truncate(&mut self, file: Inode, size: u64) -> io::Result<()> {
        let fd = self.fd(file)?;
        sys::ftruncate(fd.as_fd(), size)
    }

    fn fallocate(&mut self, file: Inode, range: Range, seq: u64) -> io::Result<()> {
        self.change_range(file, range, seq)
    }

    fn shift_pending(&mut self, seq: u64) -> io::Result<bool> {
        Ok(self.shift_scratch(seq)?.is_some())
    }

    fn attrs(&mut self, inode: Inode) -> io::Result<Attrs> {
        let fd = self.fd(inode)?;
        Ok(sys::fstat(fd.as_fd())?.attrs())
    }

    fn allocated(&mut self, inode: Inode) -> io::Result<u64> {
        let fd = self.fd(inode)?;
        Ok(sys::fstat(fd.as_fd())?.allocated())
    }

    fn weigh(&mut self, at: Place<'_>) -> io::Result<Option<Weight>> {
        Ok(self.find(at)?.map(|(inode, stat)| Weight {
            inode,
            nlink: stat.nlink,
            bytes: stat.allocated(),
        }))
    }

    fn special(&mut self, inode: Inode) -> io::Result<(u32, u64)> {
        let fd = self.fd(inode)?;
        let stat = sys::fstat(fd.as_fd())?;
        Ok((stat.mode & libc::S_IFMT, stat.rdev))
    }

    fn set_owner(&mut self, inode: Inode, uid: u32, gid: u32) -> io::Result<()> {
        let fd = self.fd(inode)?;
        sys::chown_fd(fd.as_fd(), Some(uid), Some(gid))
    }

    fn set_mode(&mut self, inode: Inode, mode: u32) -> io::Result<()> {
        let fd = self.fd(inode)?;
        match inode.kind {
            InodeKind::File | InodeKind::Dir => sys::fchmod(fd.as_fd(), mode),
            InodeKind::Other => sys::chmod_fd(fd.as_fd(), mode),
        }
    }

    fn set_times(
        &mut self,
        inode: Inode,
        atime: Option<Time>,
        mtime: Option<Time>,
    ) -> io::Result<()> {
        let fd = self.fd(inode)?;
        sys::utimens_fd(fd.as_fd(), atime, mtime)
    }

    fn xattrs(&mut self, inode: Inode) -> io::Result<Vec<Xattr>> {
        let fd = self.fd(inode)?;
        sys::list_all_xattrs(fd.as_fd())
    }

    fn set_xattr(&mut self, inode: Inode, name: &[u8], value: &[u8]) -> io::Result<()> {
        let fd = self.fd(inode)?;
        sys::setxattr(fd.as_fd(), &c_name(name)?, value, 0)
    }

    fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> io::Result<()> {
        let fd = self.fd(inode)?;
        match sys::removexattr(fd.as_fd(), &c_name(name)?) {
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            done => done,
        }
    }

    fn forget(&mut self, object: Object) {
        self.drop_fd(object);
    }

    fn rest(&mut self) {
        self.drop_fds();
    }

    fn mark(&mut self, marker: Marker) -> io::Result<()> {
        let mut value = [0; MARKER_BYTES];
        let position = marker.position;
        value[..16].copy_from_slice(&position.history.0.to_le_bytes());
        value[16..24].copy_from_slice(&position.seq.0.to_le_bytes());
        if let Some(moving) = marker.moving {
            value[24] = 1;
            value[25..33].copy_from_slice(&moving.ino.to_le_bytes());
            value[33..].copy_from_slice(&moving.generation.to_le_bytes());
        }
        sys::setxattr(self.marker_fd.as_fd(), MARKER_XATTR, &value, 0)
    }

    fn marked(&mut self) -> io::Result<Option<Marker>> {
        let mut value = [0; MARKER_BYTES];
        match sys::getxattr(self.marker_fd.as_fd(), MARKER_XATTR, &mut value) {
            Ok(MARKER_BYTES) => Ok(decode_marker(&value)),
            Ok(_) => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn withholds(&mut self) -> io::Result<bool> {
        match sys::getxattr(self.marker_fd.as_fd(), WITHHELD, &mut []) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn note_withholding(&mut self) -> io::Result<()> {
        sys::setxattr(self.marker_fd.as_fd(), WITHHELD, b"yes", 0)?;
        sys::fsync(self.marker_fd.as_fd())
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let fd = self.root_fd().try_clone_to_owned()?;
        Ok(Box::new(move || sys::syncfs(fd.as_fd())))
    }

    fn path_of(&mut self, inode: Inode) -> String {
        self.path(inode)
    }
}
