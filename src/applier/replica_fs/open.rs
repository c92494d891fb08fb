//! Opening, identity, descriptors.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use lru::LruCache;

use crate::sys;
use crate::sys::{HandleCodec, MountNumber, RawHandle};
use crate::types::{FileId, Name, Remap, limits};

use crate::applier::error::Error;
use crate::applier::replica::{Inode, InodeKind, Object};

/// Descriptors kept open; parents and files written to again and again.
const OPEN_FDS_MAX: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

const EXT4_MAGIC: i64 = 0xEF53;
const XFS_MAGIC: i64 = 0x5846_5342;

/// A directory tree on ext4, xfs, btrfs or tmpfs.
#[derive(Debug)]
pub struct FsReplica {
    pub(super) codec: HandleCodec,
    /// What the replica is on. An entry on any other mount is none of the replica's.
    mount: MountNumber,
    pub(super) root: Inode,
    pub(super) limbo: Inode,
    root_fd: Arc<OwnedFd>,
    limbo_fd: Arc<OwnedFd>,
    pub(super) hidden_fd: OwnedFd,
    pub(super) marker_fd: OwnedFd,
    open_fds: LruCache<Object, Arc<OwnedFd>>,
    pub(super) instance: u64,
    pub(super) keeps_order: bool,
    pub(super) remap: Option<Remap>,
}

/// A name with its NUL, on the stack.
pub(super) struct CName([u8; limits::NAME_BYTES_MAX + 1]);

impl CName {
    pub(super) fn new(name: &Name) -> CName {
        let mut buffer = [0; limits::NAME_BYTES_MAX + 1];
        let bytes = name.as_bytes();
        buffer[..bytes.len()].copy_from_slice(bytes);
        CName(buffer)
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        // A name holds no NUL and is shorter than the buffer.
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

fn path_of_fd(fd: BorrowedFd<'_>) -> PathBuf {
    let link = sys::proc_path(fd);
    let link = PathBuf::from(link.to_string_lossy().into_owned());
    std::fs::read_link(&link).unwrap_or(link)
}

/// Completes an error of opening with its operation and path.
struct Opening<'a>(BorrowedFd<'a>, &'static str);

impl Opening<'_> {
    fn fail(&self, source: io::Error) -> Error {
        Error::Open {
            operation: self.1,
            path: path_of_fd(self.0),
            source,
        }
    }
}

/// Something at a name of the replica is not the replica's.
#[derive(Debug, thiserror::Error)]
#[error(
    "another file system or directory is mounted here, which is no part of the replica: unmount it"
)]
struct Mounted;

fn mounted() -> io::Error {
    io::Error::new(io::ErrorKind::CrossesDevices, Mounted)
}

fn object_of(codec: &HandleCodec, handle: &RawHandle) -> io::Result<Object> {
    // A handle of another layout belongs to another file system or subvolume.
    let foreign = || io::Error::from_raw_os_error(libc::EXDEV);
    let id = codec.id(handle).ok_or_else(foreign)?;
    Ok(Object {
        ino: id.ino.0,
        generation: u32::try_from(id.generation.0).map_err(|_| foreign())?,
    })
}

/// Who is at a name, or with an empty one a descriptor is of. At a mount point the handle is one of the
/// file system on top: opened in the replica's, its numbers would lead to any file there, such as to the
/// root of all of it.
fn object_on(
    codec: &HandleCodec,
    mount: MountNumber,
    dir: BorrowedFd<'_>,
    name: &CStr,
) -> io::Result<Object> {
    let (handle, found) = sys::name_to_handle_on(dir, name)?;
    if found != mount {
        return Err(mounted());
    }
    object_of(codec, &handle)
}

impl FsReplica {
    /// Takes the mirror path's directory and a hidden one on the same file system, outside of it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when files of this file system cannot be followed by identity;
    /// [`Error::Open`] for all else.
    pub fn open(root_dir: OwnedFd, hidden_dir: OwnedFd) -> Result<FsReplica, Error> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let opening = Opening(root_dir.as_fd(), "open");
        let root_fd = sys::openat(root_dir.as_fd(), c".", flags, 0);
        let root_fd = root_fd.map_err(|e| opening.fail(e))?;
        let here = sys::fstat(root_fd.as_fd()).map_err(|e| opening.fail(e))?;
        let there = sys::fstat(hidden_dir.as_fd()).map_err(|e| opening.fail(e))?;
        if here.dev != there.dev {
            let other = io::Error::from_raw_os_error(libc::EXDEV);
            return Err(Opening(hidden_dir.as_fd(), "use as hidden directory").fail(other));
        }
        // Whoever can write there makes an entry for us to open, or takes what is in limbo.
        if there.uid != sys::effective_uid() || there.mode & 0o022 != 0 {
            let denied = io::Error::from_raw_os_error(libc::EPERM);
            return Err(Opening(hidden_dir.as_fd(), "others can write to").fail(denied));
        }
        let unsupported = || Error::Unsupported {
            path: path_of_fd(root_dir.as_fd()),
        };
        let handle = sys::name_to_handle_on(root_fd.as_fd(), c"");
        let (handle, mount) = handle.map_err(|_| unsupported())?;
        let codec = HandleCodec::learn(&handle).ok_or_else(unsupported)?;
        let root = object_of(&codec, &handle).map_err(|_| unsupported())?;
        // The proof that handles lead back: it needs CAP_DAC_READ_SEARCH too.
        sys::open_by_handle_at(root_fd.as_fd(), &handle, flags)
            .map_err(|e| Opening(root_dir.as_fd(), "open by handle").fail(e))?;
        let opening = Opening(hidden_dir.as_fd(), "prepare hidden directory");
        let prepared = prepare_hidden(hidden_dir.as_fd());
        let (limbo_fd, marker_fd) = prepared.map_err(|e| opening.fail(e))?;
        let limbo = object_on(&codec, mount, limbo_fd.as_fd(), c"");
        let limbo = limbo.map_err(|e| opening.fail(e))?;
        let magic = sys::file_system_magic(root_fd.as_fd()).map_err(|e| opening.fail(e))?;
        let instance = sys::mount_instance(root_fd.as_fd()).map_err(|e| opening.fail(e))?;
        Ok(FsReplica {
            codec,
            mount,
            root: dir_inode(root),
            limbo: dir_inode(limbo),
            root_fd: Arc::new(root_fd),
            limbo_fd: Arc::new(limbo_fd),
            hidden_fd: hidden_dir,
            marker_fd,
            open_fds: LruCache::new(OPEN_FDS_MAX),
            instance,
            keeps_order: matches!(magic, EXT4_MAGIC | XFS_MAGIC),
            remap: None,
        })
    }

    pub(super) fn root_fd(&self) -> BorrowedFd<'_> {
        self.root_fd.as_fd()
    }

    /// A descriptor of an inode: read and write for files, `O_PATH` for what is neither file nor
    /// directory.
    pub(super) fn fd(&mut self, inode: Inode) -> io::Result<Arc<OwnedFd>> {
        if inode.object == self.root.object {
            return Ok(Arc::clone(&self.root_fd));
        }
        if inode.object == self.limbo.object {
            return Ok(Arc::clone(&self.limbo_fd));
        }
        if let Some(fd) = self.open_fds.get(&inode.object) {
            return Ok(Arc::clone(fd));
        }
        let id = FileId::new(inode.object.ino, u64::from(inode.object.generation));
        let handle = self.codec.handle(id);
        let flags = match inode.kind {
            InodeKind::File => libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK,
            InodeKind::Dir => libc::O_RDONLY | libc::O_DIRECTORY,
            InodeKind::Other => libc::O_PATH | libc::O_NOFOLLOW,
        };
        match sys::open_by_handle_at(self.root_fd.as_fd(), &handle, flags) {
            // A program that runs: its attributes can be set all the same.
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {
                let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
                let fd = sys::open_by_handle_at(self.root_fd.as_fd(), &handle, flags)?;
                Ok(Arc::new(fd))
            }
            opened => Ok(self.keep(inode.object, opened?)),
        }
    }

    pub(super) fn keep(&mut self, object: Object, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        self.open_fds.put(object, Arc::clone(&fd));
        fd
    }

    pub(super) fn drop_fd(&mut self, object: Object) {
        self.open_fds.pop(&object);
    }

    pub(super) fn drop_fds(&mut self) {
        self.open_fds.clear();
    }

    pub(super) fn object_at(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Object> {
        object_on(&self.codec, self.mount, dir, name)
    }

    pub(super) fn path(&mut self, inode: Inode) -> String {
        match self.fd(inode) {
            Ok(fd) => path_of_fd(fd.as_fd()).display().to_string(),
            Err(_) => format!("inode {}", inode.object.ino),
        }
    }
}

fn dir_inode(object: Object) -> Inode {
    Inode {
        object,
        kind: InodeKind::Dir,
    }
}

fn prepare_hidden(hidden: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    match sys::mkdirat(hidden, c"limbo", 0o700) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let limbo = sys::openat(hidden, c"limbo", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    // Not to write: the file system could not be made read-only meanwhile.
    let flags = libc::O_RDONLY | libc::O_CREAT;
    let marker = sys::openat(hidden, c"position", flags, 0o600)?;
    sys::fsync(hidden)?;
    Ok((limbo, marker))
}
