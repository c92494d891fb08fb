//! What happened: the operations that a stream carries.
//!
//! Every record is self-contained and physical: it names its inodes by [`FileId`], carries the bytes
//! that were written and the attributes that the inode had *afterwards*, so that replaying it needs
//! no decision that the source's kernel has already made.

use serde::{Deserialize, Serialize};

use super::{Attrs, FileId, MarkName, Name, Node, Time};

/// A place for a name: a directory's id and an entry in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dentry {
    /// The directory.
    pub parent: FileId,
    /// The entry in it.
    pub name: Name,
}

/// An extended attribute: name and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name with its namespace, for example `user.note`.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// One entry of a directory's listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// The inode.
    pub id: FileId,
    /// What it is.
    pub node: Node,
}

/// What a rename does with an existing entry at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// rename(2), also with `RENAME_NOREPLACE` (which, having succeeded, found nothing there).
    #[serde(rename = "p")]
    Plain,
    /// `RENAME_EXCHANGE`: both entries swap.
    #[serde(rename = "x")]
    Exchange,
    /// `RENAME_WHITEOUT`: a character device 0:0 stays behind.
    #[serde(rename = "w")]
    Whiteout {
        /// Its inode.
        id: FileId,
        /// Its attributes.
        after: Attrs,
    },
}

/// The inode whose entry a rename took over (or, for an exchange, swapped with).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The inode.
    pub id: FileId,
    /// Its links left after the rename.
    pub nlink: u32,
    /// What it is.
    pub node: Node,
    /// Its mtime afterwards, of a directory that was exchanged: where that gives it another parent, xfs
    /// stamps it.
    #[serde(default)]
    pub mtime: Option<Time>,
}

/// How much of the tree a mirror covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Everything the target knows is in doubt until its image arrives.
    #[serde(rename = "f")]
    Full,
    /// Only what is imaged is in doubt; the rest stays as it is.
    #[serde(rename = "p")]
    Partial,
}

/// An operation. The bytes that belong to it (written data, an attribute's value, an image's data)
/// are the record's payload and never pass through serde.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// The payload was written at `offset`.
    #[serde(rename = "w")]
    Write {
        /// The file.
        id: FileId,
        /// First byte written; for `O_APPEND` the place where it landed.
        offset: u64,
    },
    /// The size was set.
    #[serde(rename = "t")]
    Truncate {
        /// The file.
        id: FileId,
        /// The size it got.
        size: u64,
    },
    /// fallocate(2): allocate, punch, zero, collapse, insert, as `mode` says.
    #[serde(rename = "a")]
    Fallocate {
        /// The file.
        id: FileId,
        /// `FALLOC_FL_*` as given.
        mode: i32,
        /// First byte of the range.
        offset: u64,
        /// Length of the range.
        length: u64,
    },
    /// Mode, owner or times were set; `Body::after` holds the result.
    #[serde(rename = "s")]
    SetAttr {
        /// The inode.
        id: FileId,
        /// A new access time, where access times are replicated.
        atime: Option<Time>,
    },
    /// The payload became the value of an extended attribute.
    #[serde(rename = "x")]
    SetXattr {
        /// The inode.
        id: FileId,
        /// The attribute.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    },
    /// An extended attribute went.
    #[serde(rename = "y")]
    RemoveXattr {
        /// The inode.
        id: FileId,
        /// The attribute.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    },
    /// A new inode got its first name: create, mkdir, mknod, symlink.
    #[serde(rename = "c")]
    Create {
        /// Where.
        at: Dentry,
        /// The new inode.
        id: FileId,
        /// What it is.
        node: Node,
        /// Extended attributes that it was born with (inherited ACLs).
        xattrs: Vec<Xattr>,
    },
    /// An inode got one more name.
    #[serde(rename = "h")]
    Link {
        /// The inode.
        id: FileId,
        /// Where.
        at: Dentry,
        /// What it is.
        node: Node,
    },
    /// A name of something that is no directory went; `Body::after.nlink` tells whether it was the last.
    #[serde(rename = "u")]
    Unlink {
        /// Where.
        at: Dentry,
        /// The inode.
        id: FileId,
    },
    /// An empty directory went.
    #[serde(rename = "r")]
    Rmdir {
        /// Where.
        at: Dentry,
        /// The directory.
        id: FileId,
    },
    /// An entry moved.
    #[serde(rename = "m")]
    Rename {
        /// The inode that moved.
        id: FileId,
        /// What it is.
        node: Node,
        /// From where.
        from: Dentry,
        /// To where.
        to: Dentry,
        /// Whose entry was at `to` before.
        replaced: Option<Replaced>,
        /// Plain, exchange or whiteout.
        mode: RenameMode,
    },
    /// Operations were done on the source that are not in this stream: the files named (or all) are
    /// in doubt until a mirror has imaged them.
    #[serde(rename = "g")]
    Gap {
        /// The files in doubt; empty with `everything`.
        ids: Vec<FileId>,
        /// Everything is in doubt.
        everything: bool,
    },
    /// A mirror begins: until its end the replica is no prefix.
    #[serde(rename = "B")]
    MirrorBegin {
        /// The mirror's number, rising.
        mirror: u64,
        /// What it covers.
        scope: Scope,
        /// The directory that is the root of the tree.
        root: FileId,
    },
    /// The source saw the target's want-list empty after its walk: the mirror is complete, unless
    /// this target wants more by now.
    #[serde(rename = "E")]
    MirrorEnd {
        /// The mirror's number.
        mirror: u64,
    },
    /// A point of the stream with a name. The replica shows it when everything before it is applied.
    #[serde(rename = "M")]
    Mark {
        /// What an administrator called it.
        name: MarkName,
    },
    /// A directory as it is: attributes (`Body::after`), extended attributes and entries. A large
    /// one comes as a group of frames, all but the last flagged `MORE`; one group is one operation.
    #[serde(rename = "L")]
    Listing {
        /// The directory.
        id: FileId,
        /// Its entries, or this part of them.
        entries: Vec<Entry>,
        /// Its extended attributes; in the last part.
        xattrs: Vec<Xattr>,
    },
    /// A whole inode that is no directory and has no holes: its content is the payload.
    #[serde(rename = "I")]
    Image {
        /// The inode.
        id: FileId,
        /// What it is.
        node: Node,
        /// Its extended attributes.
        xattrs: Vec<Xattr>,
    },
    /// The image of a larger or sparse file begins; its data, holes and end follow, with other
    /// operations, also on this file, in between.
    #[serde(rename = "J")]
    ImageBegin {
        /// The file.
        id: FileId,
    },
    /// The payload is what stands at `offset`.
    #[serde(rename = "D")]
    ImageData {
        /// The file.
        id: FileId,
        /// Where.
        offset: u64,
    },
    /// Nothing stands in this range.
    #[serde(rename = "H")]
    ImageHole {
        /// The file.
        id: FileId,
        /// Where it begins.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// The image is complete: size, attributes (`Body::after`) and extended attributes.
    #[serde(rename = "K")]
    ImageEnd {
        /// The file.
        id: FileId,
        /// Its extended attributes.
        xattrs: Vec<Xattr>,
    },
}

/// The kind of an operation, a number in each record's header, so that lists and counters need not
/// decode the body. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(
    missing_docs,
    reason = "named after the variants of Op, which are documented"
)]
pub enum Kind {
    Write = 1,
    Truncate = 2,
    Fallocate = 3,
    SetAttr = 4,
    SetXattr = 5,
    RemoveXattr = 6,
    Create = 7,
    Link = 8,
    Unlink = 9,
    Rmdir = 10,
    Rename = 11,
    Gap = 12,
    MirrorBegin = 13,
    MirrorEnd = 14,
    Listing = 15,
    Image = 16,
    ImageBegin = 17,
    ImageData = 18,
    ImageHole = 19,
    ImageEnd = 20,
    Mark = 21,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 21] = [
        Kind::Write,
        Kind::Truncate,
        Kind::Fallocate,
        Kind::SetAttr,
        Kind::SetXattr,
        Kind::RemoveXattr,
        Kind::Create,
        Kind::Link,
        Kind::Unlink,
        Kind::Rmdir,
        Kind::Rename,
        Kind::Gap,
        Kind::MirrorBegin,
        Kind::MirrorEnd,
        Kind::Listing,
        Kind::Image,
        Kind::ImageBegin,
        Kind::ImageData,
        Kind::ImageHole,
        Kind::ImageEnd,
        Kind::Mark,
    ];

    /// The kind with this number.
    pub fn from_number(number: u16) -> Option<Kind> {
        Kind::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The number in the header.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The word that lists show.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Truncate => "truncate",
            Kind::Fallocate => "fallocate",
            Kind::SetAttr => "setattr",
            Kind::SetXattr => "setxattr",
            Kind::RemoveXattr => "removexattr",
            Kind::Create => "create",
            Kind::Link => "link",
            Kind::Unlink => "unlink",
            Kind::Rmdir => "rmdir",
            Kind::Rename => "rename",
            Kind::Gap => "gap",
            Kind::MirrorBegin => "mirror-begin",
            Kind::MirrorEnd => "mirror-end",
            Kind::Listing => "listing",
            Kind::Image => "image",
            Kind::ImageBegin => "image-begin",
            Kind::ImageData => "image-data",
            Kind::ImageHole => "image-hole",
            Kind::ImageEnd => "image-end",
            Kind::Mark => "mark",
        }
    }

    /// Was this written by a mirror, and not by an application?
    pub fn is_mirror(self) -> bool {
        (Kind::MirrorBegin..=Kind::ImageEnd).contains(&self)
    }

    /// Does it change names (and so take part in the order of a file system's metadata journal)?
    pub fn is_namespace(self) -> bool {
        matches!(
            self,
            Kind::Create | Kind::Link | Kind::Unlink | Kind::Rmdir | Kind::Rename | Kind::Listing
        )
    }
}

impl Op {
    /// The kind of this operation.
    pub fn kind(&self) -> Kind {
        match self {
            Op::Write { .. } => Kind::Write,
            Op::Truncate { .. } => Kind::Truncate,
            Op::Fallocate { .. } => Kind::Fallocate,
            Op::SetAttr { .. } => Kind::SetAttr,
            Op::SetXattr { .. } => Kind::SetXattr,
            Op::RemoveXattr { .. } => Kind::RemoveXattr,
            Op::Create { .. } => Kind::Create,
            Op::Link { .. } => Kind::Link,
            Op::Unlink { .. } => Kind::Unlink,
            Op::Rmdir { .. } => Kind::Rmdir,
            Op::Rename { .. } => Kind::Rename,
            Op::Gap { .. } => Kind::Gap,
            Op::MirrorBegin { .. } => Kind::MirrorBegin,
            Op::MirrorEnd { .. } => Kind::MirrorEnd,
            Op::Listing { .. } => Kind::Listing,
            Op::Image { .. } => Kind::Image,
            Op::ImageBegin { .. } => Kind::ImageBegin,
            Op::ImageData { .. } => Kind::ImageData,
            Op::ImageHole { .. } => Kind::ImageHole,
            Op::ImageEnd { .. } => Kind::ImageEnd,
            Op::Mark { .. } => Kind::Mark,
        }
    }
}

/// Who asked: as the FUSE request says (fsuid, fsgid, pid; the pid is 0 from another pid namespace
/// and guessed for pages written back).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
}

/// Which FUSE request: the mount's incarnation and the kernel's number, 0 for our own records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RequestId {
    /// Changes with every new mount.
    pub incarnation: u64,
    /// The kernel's number of the request.
    pub unique: u64,
}

/// All of a record but its position, its time and its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// What happened.
    pub op: Op,
    /// The inode's attributes afterwards: of `id`, for a listing of the directory.
    pub after: Option<Attrs>,
    /// For namespace operations the parent's mtime afterwards: of the directory that lost the name
    /// (unlink, rmdir, rename) or got it (create, link).
    pub dir_mtime: Option<Time>,
    /// For renames the mtime of the directory that got the name.
    pub to_mtime: Option<Time>,
    /// Where it was, for people only: relative to the root, as of the open or the call; for a rename
    /// the old and the new path with a NUL between them.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// Who asked.
    pub caller: Caller,
    /// Which request.
    pub request: RequestId,
}

impl Body {
    /// A record of our own making, without a caller.
    pub fn of(op: Op) -> Body {
        Body {
            op,
            after: None,
            dir_mtime: None,
            to_mtime: None,
            path: Vec::new(),
            caller: Caller::default(),
            request: RequestId::default(),
        }
    }
}
