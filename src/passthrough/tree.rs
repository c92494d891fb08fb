//! The tree below: from ids and names to descriptors.

use std::ffi::CString;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use lru::LruCache;

use crate::sync::{Mutex, Rank};
use crate::sys::{self, ByNumber, FileStat, HandleCodec};
use crate::types::{FileId, Name, Node};

use super::export::{is_btrfs, is_whole};
use super::members::Members;
use super::paths::Paths;
use super::removed::Removed;

/// A call on the tree failed.
#[derive(Debug, thiserror::Error)]
#[error("{op}{}: {source}", .id.map(|id| format!(" of inode {id}")).unwrap_or_default())]
pub struct Error {
    /// The system call or what it was for.
    pub op: &'static str,
    /// The inode, where it is known.
    pub id: Option<FileId>,
    /// What the file system below answered.
    pub source: io::Error,
}

impl Error {
    /// The errno below; `EIO` where there was none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// The errno for an entry that lies on another file system or subvolume: it has a name here, and no
/// more. Not `ENOENT`: programs take that for an entry that has just been removed, and go on silently
/// without it.
pub const UNFOLLOWED: i32 = libc::EXDEV;

const SHARDS: usize = 8;

/// Somebody outside of this process who keeps removed inodes that are used, so that they outlive it.
pub trait Keeper: Send + Sync + std::fmt::Debug {
    /// The inode may lose its last name now.
    fn keep(&self, id: FileId, fd: BorrowedFd<'_>);
    /// It has a name still, or nobody uses it any more.
    fn release(&self, id: FileId);
}

/// The backing tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    root_id: FileId,
    dev: u64,
    codec: HandleCodec,
    is_whole: bool,
    stamps_reads: bool,
    is_btrfs: bool,
    members: Members,
    paths: Paths,
    removed: Removed,
    keeper: Option<Arc<dyn Keeper>>,
    cache: Vec<Mutex<LruCache<FileId, Arc<OwnedFd>>>>,
}

pub(super) fn c_name(name: &Name) -> CString {
    // A name has no NUL: its constructor saw to that.
    CString::new(name.as_bytes()).unwrap_or_default()
}

impl Tree {
    /// Takes a readable descriptor of the root directory (see [`sys::clone_tree`]); keeps at most
    /// `cached_fds` others open.
    ///
    /// # Errors
    /// When the file system gives no file handles, or handles of a layout that is not known.
    pub fn new(root: OwnedFd, cached_fds: usize) -> Result<Tree, Error> {
        let fail = |op, source| Error {
            op,
            id: None,
            source,
        };
        let stat = sys::fstat(root.as_fd()).map_err(|e| fail("stat of the directory", e))?;
        let handle = sys::name_to_handle_at(root.as_fd(), c"")
            .map_err(|e| fail("taking a file handle of the directory", e))?;
        let codec = HandleCodec::learn(&handle).ok_or_else(|| {
            fail(
                "understanding its file handles",
                io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            )
        })?;
        // Another layout of the same length and type would show other numbers than stat does.
        let root_id = codec.id(&handle).filter(|id| id.ino.0 == stat.ino);
        let root_id = root_id.ok_or_else(|| {
            fail(
                "understanding its file handle",
                io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            )
        })?;
        let shard = NonZeroUsize::new((cached_fds / SHARDS).max(8)).unwrap_or(NonZeroUsize::MIN);
        let cache = (0..SHARDS)
            .map(|_| Mutex::new(Rank::Cache, LruCache::new(shard)))
            .collect();
        Ok(Tree {
            is_whole: is_whole(root.as_fd(), root_id.ino),
            is_btrfs: is_btrfs(root.as_fd()),
            // Where that cannot be told it is taken to be so, as it mostly is.
            stamps_reads: sys::statvfs(root.as_fd())
                .map_or(true, |volume| volume.f_flag & libc::ST_NOATIME == 0),
            members: Members::default(),
            paths: Paths::default(),
            removed: Removed::default(),
            keeper: None,
            root,
            root_id,
            dev: stat.dev,
            codec,
            cache,
        })
    }

    /// The root directory's id.
    pub fn root_id(&self) -> FileId {
        self.root_id
    }

    /// The root directory's descriptor.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn dev(&self) -> u64 {
        self.dev
    }

    pub(super) fn by_number(&self) -> ByNumber {
        self.codec.by_number()
    }

    /// Does every inode of the file system (or btrfs subvolume) lie in the tree?
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Does listxattr(2) below hide `trusted.*` from who may not read them?
    pub fn hides_trusted(&self) -> bool {
        !self.is_btrfs
    }

    /// May an entry be a subvolume, which is not followed?
    pub fn may_hold_subvolumes(&self) -> bool {
        self.is_btrfs
    }

    /// Do reads change access times below (no `noatime`)?
    pub fn stamps_reads(&self) -> bool {
        self.stamps_reads
    }

    /// The files of a tree that is not a whole file system.
    pub fn members(&self) -> &Members {
        &self.members
    }

    fn shard(&self, id: FileId) -> &Mutex<LruCache<FileId, Arc<OwnedFd>>> {
        &self.cache[(id.ino.0 as usize) % SHARDS]
    }

    /// An `O_PATH` descriptor of the inode, from the cache or by its handle.
    ///
    /// # Errors
    /// `ESTALE` when the inode is gone.
    pub fn node(&self, id: FileId) -> Result<Arc<OwnedFd>, Error> {
        if let Some(fd) = self.shard(id).lock().get(&id) {
            return Ok(fd.clone());
        }
        if let Some(fd) = self.removed.find(id) {
            return Ok(fd);
        }
        let fd = Arc::new(self.open(id, libc::O_PATH | libc::O_NOFOLLOW)?);
        // What falls out of the cache is closed after the lock is free.
        let old = self.shard(id).lock().push(id, fd.clone());
        drop(old);
        Ok(fd)
    }

    /// From now on `keeper` keeps what is removed while it is used; `kept` is what it has already.
    pub fn set_keeper(&mut self, keeper: Arc<dyn Keeper>, kept: Vec<(FileId, OwnedFd)>) {
        for (id, fd) in kept {
            self.removed.keep(id, &Arc::new(fd), true);
        }
        self.keeper = Some(keeper);
    }

    /// A name of the inode behind `node` is about to go, perhaps its last: if it is used it goes to the
    /// keeper first. True when it did; then [`Tree::settle_removal`] has to follow.
    pub fn prepare_removal(&self, id: FileId, node: &Arc<OwnedFd>, is_dir: bool) -> bool {
        let Some(keeper) = &self.keeper else {
            return false;
        };
        let is_wanted = (is_dir || self.removed.is_used(id)) && self.removed.find(id).is_none();
        if is_wanted {
            keeper.keep(id, node.as_fd());
        }
        is_wanted
    }

    /// The name has gone or not; the keeper goes on only with what is kept here, too.
    pub fn settle_removal(&self, id: FileId) {
        if let Some(keeper) = &self.keeper
            && self.removed.find(id).is_none()
        {
            keeper.release(id);
        }
    }

    /// The last name of the inode behind `node` went. It is kept while it is open; a directory, which
    /// may be a working directory, until the kernel forgets it. Else its space is returned at once.
    pub fn note_removed(&self, id: FileId, node: &Arc<OwnedFd>, is_dir: bool) {
        if self.removed.keep(id, node, is_dir)
            && let Some(keeper) = &self.keeper
        {
            // Once more: it may have been opened since it was prepared.
            keeper.keep(id, node.as_fd());
        }
        let old = self.shard(id).lock().pop(&id);
        drop(old);
    }

    /// The inode is about to be opened for a program; [`Tree::note_closed`] takes it back.
    pub fn note_open(&self, id: FileId) {
        self.removed.note_open(id);
    }

    /// A program closed the inode.
    pub fn note_closed(&self, id: FileId) {
        self.removed.note_closed(id);
    }

    /// The kernel has forgotten the node, so no program uses it.
    pub fn note_forgotten(&self, id: FileId) {
        if self.removed.forget(id)
            && let Some(keeper) = &self.keeper
        {
            keeper.release(id);
        }
    }

    /// Opens the inode by its handle with these flags.
    ///
    /// # Errors
    /// `ESTALE` when the inode is gone; else what open(2) says below.
    pub fn open(&self, id: FileId, flags: i32) -> Result<OwnedFd, Error> {
        let opened = match self.removed.find(id) {
            Some(kept) => sys::access_anyhow(kept.as_fd(), flags & !libc::O_NOFOLLOW),
            None => sys::open_by_handle_at(self.root.as_fd(), &self.codec.handle(id), flags),
        };
        opened.map_err(|source| Error {
            op: "open",
            id: Some(id),
            source,
        })
    }

    /// stat of the inode.
    ///
    /// # Errors
    /// `ESTALE` when the inode is gone.
    pub fn stat(&self, id: FileId) -> Result<FileStat, Error> {
        let node = self.node(id)?;
        self.stat_fd(node.as_fd(), id)
    }

    /// stat of an open inode.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn stat_fd(&self, fd: BorrowedFd<'_>, id: FileId) -> Result<FileStat, Error> {
        sys::fstat(fd).map_err(|source| Error {
            op: "stat",
            id: Some(id),
            source,
        })
    }

    /// The id behind an open descriptor.
    ///
    /// # Errors
    /// What name_to_handle_at(2) says.
    pub fn id_of(&self, fd: BorrowedFd<'_>) -> Result<FileId, Error> {
        let fail = |source| Error {
            op: "name_to_handle",
            id: None,
            source,
        };
        let handle = sys::name_to_handle_at(fd, c"").map_err(fail)?;
        self.codec
            .id(&handle)
            .ok_or_else(|| fail(io::Error::from_raw_os_error(UNFOLLOWED)))
    }

    /// The entry `name` of `dir`: its id and stat.
    ///
    /// # Errors
    /// [`UNFOLLOWED`] for an entry on another file system; what the calls below say.
    pub fn lookup(&self, dir: FileId, name: &Name) -> Result<(FileId, FileStat), Error> {
        let parent = self.node(dir)?;
        self.lookup_at(parent.as_fd(), dir, &c_name(name))
    }

    /// As [`Tree::lookup`] with the directory open; also takes `..`.
    ///
    /// # Errors
    /// As [`Tree::lookup`].
    pub fn lookup_at(
        &self,
        parent: BorrowedFd<'_>,
        dir: FileId,
        name: &CString,
    ) -> Result<(FileId, FileStat), Error> {
        let fail = |source| Error {
            op: "lookup",
            id: Some(dir),
            source,
        };
        // The entry may be replaced between the two calls: then ino and handle differ, and we look
        // again. Every failed round is somebody else's progress.
        loop {
            let handle = sys::name_to_handle_at(parent, name).map_err(fail)?;
            let stat = sys::fstatat(parent, name).map_err(fail)?;
            let id = self.codec.id(&handle).filter(|_| stat.dev == self.dev);
            match id {
                Some(id) if id.ino.0 == stat.ino => return Ok((id, stat)),
                Some(_) => {}
                None => return Err(fail(io::Error::from_raw_os_error(UNFOLLOWED))),
            }
        }
    }

    /// Only the id of an entry.
    ///
    /// # Errors
    /// As [`Tree::lookup`].
    pub fn entry_id(&self, dir: FileId, name: &Name) -> Result<FileId, Error> {
        let parent = self.node(dir)?;
        self.entry_id_at(parent.as_fd(), dir, name)
    }

    /// Only the id of an entry, with the directory open.
    ///
    /// # Errors
    /// As [`Tree::lookup`].
    pub fn entry_id_at(
        &self,
        parent: BorrowedFd<'_>,
        dir: FileId,
        name: &Name,
    ) -> Result<FileId, Error> {
        let fail = |source| Error {
            op: "lookup",
            id: Some(dir),
            source,
        };
        let handle = sys::name_to_handle_at(parent, &c_name(name)).map_err(fail)?;
        self.codec
            .id(&handle)
            .ok_or_else(|| fail(io::Error::from_raw_os_error(UNFOLLOWED)))
    }

    /// What kind of inode `stat` describes, a link's target read from `fd`.
    ///
    /// # Errors
    /// What readlink(2) says.
    pub fn kind_of(&self, fd: BorrowedFd<'_>, id: FileId, stat: &FileStat) -> Result<Node, Error> {
        Ok(match stat.kind() {
            libc::S_IFDIR => Node::Dir,
            libc::S_IFLNK => Node::Symlink(sys::readlink_fd(fd).map_err(|source| Error {
                op: "readlink",
                id: Some(id),
                source,
            })?),
            libc::S_IFIFO => Node::Fifo,
            libc::S_IFSOCK => Node::Socket,
            libc::S_IFCHR => Node::Char(stat.rdev),
            libc::S_IFBLK => Node::Block(stat.rdev),
            _ => Node::File,
        })
    }

    /// [`Tree::path_of`], remembered from the last time if nothing was renamed since ([`Tree::note_rename`]).
    pub fn path_hint(&self, id: FileId, fd: BorrowedFd<'_>) -> Vec<u8> {
        self.paths.of(id, || self.path_of(fd))
    }

    /// A rename took effect just now.
    pub fn note_rename(&self) {
        self.paths.note_rename();
    }

    /// Where an open inode is, relative to the root, as bytes; for people only. Empty for the root.
    pub fn path_of(&self, fd: BorrowedFd<'_>) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let link = sys::proc_path(fd);
        let link = Path::new(std::ffi::OsStr::from_bytes(link.as_bytes()));
        let Ok(path) = std::fs::read_link(link) else {
            return Vec::new();
        };
        let path = path.as_os_str().as_bytes();
        path.strip_prefix(b"/").unwrap_or(path).to_vec()
    }
}
