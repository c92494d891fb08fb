//! Inodes by number alone, for file handles that outlive what the kernel remembers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::tree::{Error, Tree};
use crate::sys::{self, ByNumber, FileStat};
use crate::types::{FileId, Generation, Ino, ROOT_ID};

/// `EXT4_SUPER_MAGIC`, of ext2 and ext3 too, and the number of its root directory.
const EXT: (i64, u64) = (0xef53, 2);
/// `F2FS_SUPER_MAGIC`, and the number of its root directory.
const F2FS: (i64, u64) = (0xf2f5_2010, 3);
/// `BTRFS_SUPER_MAGIC`, and the number of every subvolume's root directory.
const BTRFS: (i64, u64) = (0x9123_683e, 256);
/// `XFS_SUPER_MAGIC`.
const XFS: i64 = 0x5846_5342;

/// Is this directory the root of its file system (or btrfs subvolume)? False where that is not
/// known.
pub(super) fn is_whole(root: BorrowedFd<'_>, ino: Ino) -> bool {
    let Ok(magic) = sys::file_system_magic(root) else {
        return false;
    };
    match magic {
        XFS => sys::xfs_root(root).is_ok_and(|found| found == Some(ino.0)),
        _ => [EXT, F2FS, BTRFS].contains(&(magic, ino.0)),
    }
}

/// Is this btrfs, which lists attributes to everybody?
pub(super) fn is_btrfs(root: BorrowedFd<'_>) -> bool {
    sys::file_system_magic(root).is_ok_and(|magic| magic == BTRFS.0)
}

/// An inode that was found by its number.
#[derive(Debug)]
pub struct Found {
    /// With the generation that it has now.
    pub id: FileId,
    /// Its attributes.
    pub stat: FileStat,
    /// Does it lie in the tree? `None` where only [`Members::find`](super::Members::find) can tell.
    pub is_inside: Option<bool>,
}

impl Tree {
    fn stale(id: Option<FileId>) -> Error {
        Error {
            op: "finding an inode by its number",
            id,
            source: std::io::Error::from_raw_os_error(libc::ESTALE),
        }
    }

    /// Finds the inode that has this number now.
    ///
    /// # Errors
    /// `ESTALE`: no inode has it, or none with a name, or the file system below cannot tell.
    pub fn find(&self, ino: Ino) -> Result<Found, Error> {
        let asked = FileId {
            root: ROOT_ID,
            ino,
            generation: self.any_generation(ino)?,
        };
        let fd = self.open(asked, libc::O_PATH | libc::O_NOFOLLOW)?;
        let id = self.id_of(fd.as_fd())?;
        let stat = self.stat_fd(fd.as_fd(), id)?;
        if id.ino != ino || stat.dev != self.dev() || stat.nlink == 0 {
            return Err(Tree::stale(Some(id)));
        }
        let is_inside = if self.is_whole() {
            Some(true)
        } else if stat.is_dir() {
            Some(self.is_beneath(&fd, id))
        } else {
            self.members().known(ino)
        };
        Ok(Found {
            id,
            stat,
            is_inside,
        })
    }

    fn any_generation(&self, ino: Ino) -> Result<Generation, Error> {
        match self.by_number() {
            ByNumber::AnyGeneration => Ok(Generation(0)),
            ByNumber::AskXfs => {
                let asked = sys::xfs_generation(self.root(), ino.0).map_err(|source| Error {
                    op: "asking xfs for a generation",
                    id: None,
                    source,
                })?;
                asked
                    .map(|generation| Generation(u64::from(generation)))
                    .ok_or_else(|| Tree::stale(None))
            }
            ByNumber::Never => Err(Tree::stale(None)),
        }
    }

    /// Does this directory lie in the tree? The kernel lets nobody go up from a directory that is not
    /// beneath the root of the mount it was opened through (`path_connected` in `fs/namei.c`), and
    /// that root is ours.
    fn is_beneath(&self, dir: &OwnedFd, id: FileId) -> bool {
        id == self.root_id() || sys::openat(dir.as_fd(), c"..", libc::O_PATH, 0).is_ok()
    }

    /// The directory that holds this directory; the root's is the root itself.
    ///
    /// # Errors
    /// `ESTALE` when it is gone, `ENOENT` when it does not lie in the tree.
    pub fn parent(&self, dir: FileId) -> Result<(FileId, FileStat), Error> {
        if dir == self.root_id() {
            return Ok((dir, self.stat(dir)?));
        }
        let node = self.node(dir)?;
        self.lookup_at(node.as_fd(), dir, &c"..".to_owned())
    }
}
