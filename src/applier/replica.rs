//! What the applier asks of the file system that holds the replica: the seam that a simulated one
//! takes under test.

use std::io;

use crate::types::{Attrs, Name, Node, Position, Remap, Time, Xattr};

/// An inode of the replica's file system, across renames: inode number and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// Inode number.
    pub ino: u64,
    /// Generation, so that a reused number is another object.
    pub generation: u32,
}

/// As much of an inode's type as decides how it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum InodeKind {
    /// Regular file.
    File = 0,
    /// Directory.
    Dir = 1,
    /// Symbolic link, pipe, socket, device.
    Other = 2,
}

impl InodeKind {
    /// The kind of a node.
    pub fn of(node: &Node) -> InodeKind {
        match node {
            Node::File => InodeKind::File,
            Node::Dir => InodeKind::Dir,
            Node::Symlink(_) | Node::Fifo | Node::Socket | Node::Char(_) | Node::Block(_) => {
                InodeKind::Other
            }
        }
    }
}

/// An object with its kind: what a call on the inode itself needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Who it is.
    pub object: Object,
    /// What it is.
    pub kind: InodeKind,
}

/// A name in a directory of the replica.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory.
    pub dir: Inode,
    /// The entry.
    pub name: &'a Name,
}

/// What a name leads to, and how much room that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// The inode.
    pub inode: Inode,
    /// Its links.
    pub nlink: u32,
    /// Bytes allocated for it.
    pub bytes: u64,
}

/// How an entry moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    /// Nothing may stand at the destination (`EEXIST`).
    ToFree,
    /// What stands at the destination goes.
    Over,
    /// Both swap.
    Exchange,
}

/// What the replica's file system remembers, in the order of its other metadata operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Every namespace operation up to here is done.
    pub position: Position,
    /// The next one is about to move this object, which its names cannot tell.
    pub moving: Option<Object>,
}

/// fallocate(2) arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// `FALLOC_FL_*`.
    pub mode: i32,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub length: u64,
}

impl Range {
    const COLLAPSE: i32 = 0x08;
    const INSERT: i32 = 0x20;

    /// Does it move what stands behind the range, so that doing it twice differs from once?
    pub fn shifts(&self) -> bool {
        self.mode & (Range::COLLAPSE | Range::INSERT) != 0
    }
}

/// Makes everything done so far on the replica durable; runs on any thread.
pub type Syncer = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// The file system of the replica, by objects and single names.
///
/// Calls are atomic with respect to a crash of the process as system calls are. `ESTALE` says that
/// an object is gone.
pub trait Replica {
    /// The directory that the source's root is replicated into.
    fn root(&self) -> Inode;
    /// A directory on the same file system, outside the visible tree, for objects without a place.
    fn limbo(&self) -> Inode;
    /// Changes when the file system was mounted anew (and may have lost what was not durable).
    fn instance(&self) -> u64;
    /// Does the file system, after a crash, show a *prefix* of its metadata operations, so that
    /// [`Replica::mark`] tells which operations survived? See `docs` of the room.
    fn keeps_order(&self) -> bool;

    /// How absolute links into the set are made here; `None`: as they are.
    fn remap(&self) -> Option<&Remap>;
    /// Changes it, for what is made from now on.
    fn set_remap(&mut self, remap: Option<Remap>);

    /// Who is at a name.
    fn lookup(&mut self, at: Place<'_>) -> io::Result<Option<Object>>;
    /// Who is at a name, and what.
    fn inspect(&mut self, at: Place<'_>) -> io::Result<Option<Inode>>;
    /// Makes a new inode, accessible for root only. `EEXIST` when the name is taken.
    fn create(&mut self, at: Place<'_>, node: &Node) -> io::Result<Inode>;
    /// Where a symbolic link leads. `EINVAL` when it is none.
    fn read_link(&mut self, inode: Inode) -> io::Result<Vec<u8>>;
    /// What else an inode is that is neither file nor directory: the type bits of its mode, and the
    /// number of a device.
    fn special(&mut self, inode: Inode) -> io::Result<(u32, u64)>;
    /// One more name for something that is no directory.
    fn link(&mut self, inode: Inode, at: Place<'_>) -> io::Result<()>;
    /// Removes a name of something that is no directory.
    fn unlink(&mut self, at: Place<'_>) -> io::Result<()>;
    /// Removes an empty directory.
    fn rmdir(&mut self, at: Place<'_>) -> io::Result<()>;
    /// Moves an entry.
    fn rename(&mut self, from: Place<'_>, to: Place<'_>, moving: Moving) -> io::Result<()>;
    /// All names of a directory, without `.` and `..`.
    fn names(&mut self, dir: Inode) -> io::Result<Vec<Name>>;
    /// Where a directory is: its parent and its name there.
    fn place_of_dir(&mut self, dir: Inode) -> io::Result<(Inode, Name)>;

    /// Writes all of `data`.
    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Sets the size.
    fn truncate(&mut self, file: Inode, size: u64) -> io::Result<()>;
    /// Allocates, punches, zeroes or shifts; emulates what the file system does not offer. `seq`
    /// names what an emulated shift leaves behind when it is interrupted.
    fn fallocate(&mut self, file: Inode, range: Range, seq: u64) -> io::Result<()>;
    /// Was the emulated shift of this number interrupted, so that it must be done again?
    fn shift_pending(&mut self, seq: u64) -> io::Result<bool>;

    /// Attributes.
    fn attrs(&mut self, inode: Inode) -> io::Result<Attrs>;
    /// Bytes allocated for an inode.
    fn allocated(&mut self, inode: Inode) -> io::Result<u64> {
        Ok(self.attrs(inode)?.size)
    }
    /// What is at a name, with the room that it takes.
    fn weigh(&mut self, at: Place<'_>) -> io::Result<Option<Weight>> {
        let Some(inode) = self.inspect(at)? else {
            return Ok(None);
        };
        let attrs = self.attrs(inode)?;
        Ok(Some(Weight {
            inode,
            nlink: attrs.nlink,
            bytes: attrs.size,
        }))
    }
    /// Sets the owner; clears set-id bits as chown(2) does.
    fn set_owner(&mut self, inode: Inode, uid: u32, gid: u32) -> io::Result<()>;
    /// Sets the permission bits; never called for symbolic links.
    fn set_mode(&mut self, inode: Inode, mode: u32) -> io::Result<()>;
    /// Sets the times that are given.
    fn set_times(
        &mut self,
        inode: Inode,
        atime: Option<Time>,
        mtime: Option<Time>,
    ) -> io::Result<()>;
    /// All extended attributes that a replica shows.
    fn xattrs(&mut self, inode: Inode) -> io::Result<Vec<Xattr>>;
    /// Sets an extended attribute.
    fn set_xattr(&mut self, inode: Inode, name: &[u8], value: &[u8]) -> io::Result<()>;
    /// Removes an extended attribute; fine when there is none.
    fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> io::Result<()>;

    /// The object has lost its last name: nothing that keeps it alive is kept.
    fn forget(&mut self, object: Object);
    /// Lets go of what is only kept open for speed, so that nobody who runs or remounts the replica
    /// is hindered by us.
    fn rest(&mut self) {}
    /// Remembers this in the file system's own metadata, after everything done so far.
    fn mark(&mut self, marker: Marker) -> io::Result<()>;
    /// What was last remembered and has survived.
    fn marked(&mut self) -> io::Result<Option<Marker>>;
    /// Was it noted that inodes may have something withheld from them? See [`Withholding`](super::Withholding).
    fn withholds(&mut self) -> io::Result<bool> {
        Ok(false)
    }
    /// Notes it, durably, before the first.
    fn note_withholding(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// See [`Syncer`].
    fn syncer(&self) -> io::Result<Syncer>;
    /// Where an inode is, for messages only.
    fn path_of(&mut self, inode: Inode) -> String;
}
