//! Records that no honest source sends: numbers that no file system has, names of attributes that no replica
//! gets. They are refused before anything is done, so that nothing below has to expect them.
//!
//! Such a record holds its stream, as one that is not understood does.

use crate::types::{Attrs, Body, Node, Op, RenameMode, Time, Xattr, is_own_xattr, limits};

use super::engine::Record;

const NANOS_PER_SECOND: u32 = 1_000_000_000;
/// Longest symbolic link (`PATH_MAX` with its NUL).
const LINK_BYTES_MAX: usize = 4095;
/// Longest name of an extended attribute (`XATTR_NAME_MAX`).
const XATTR_NAME_BYTES_MAX: usize = 255;
/// The type and permission bits of a mode.
const MODE_BITS: u32 = 0o177_777;

const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const UNSHARE: i32 = libc::FALLOC_FL_UNSHARE_RANGE;
/// `FALLOC_FL_WRITE_ZEROES`, which the library does not name yet.
const WRITE_ZEROES: i32 = 0x80;
/// Every way of fallocate(2). The kernel refuses all others, and so no source has done one.
const WAYS: [i32; 10] = [
    0,
    KEEP_SIZE,
    PUNCH | KEEP_SIZE,
    ZERO,
    ZERO | KEEP_SIZE,
    libc::FALLOC_FL_COLLAPSE_RANGE,
    libc::FALLOC_FL_INSERT_RANGE,
    UNSHARE,
    UNSHARE | KEEP_SIZE,
    WRITE_ZEROES,
];

type Verdict = Result<(), &'static str>;

/// Says what is wrong with a record.
pub(super) fn check(record: &Record<'_>) -> Verdict {
    let body = record.body;
    check_op(&body.op, record.payload)?;
    if let Some(after) = &body.after {
        check_attrs(after)?;
    }
    check_times(body)
}

fn check_op(op: &Op, payload: &[u8]) -> Verdict {
    let length = payload.len() as u64;
    match op {
        Op::Write { offset, .. } | Op::ImageData { offset, .. } => check_range(*offset, length),
        Op::Truncate { size, .. } => check_range(*size, 0),
        Op::Fallocate {
            mode,
            offset,
            length,
            ..
        } => {
            check_range(*offset, *length)?;
            match WAYS.contains(mode) {
                true => Ok(()),
                false => Err("no such way of allocating"),
            }
        }
        Op::ImageHole { offset, length, .. } => check_range(*offset, *length),
        Op::SetXattr { name, .. } => {
            check_xattr_name(name)?;
            check_xattr_namespace(name)?;
            check_xattr_value(payload)
        }
        Op::RemoveXattr { name, .. } => check_xattr_name(name),
        Op::Create { node, xattrs, .. } | Op::Image { node, xattrs, .. } => {
            check_node(node)?;
            check_xattrs(xattrs)
        }
        Op::Link { node, .. } => check_node(node),
        Op::Rename {
            node,
            replaced,
            mode,
            ..
        } => {
            check_node(node)?;
            if let Some(replaced) = replaced {
                check_node(&replaced.node)?;
            }
            match mode {
                RenameMode::Whiteout { after, .. } => check_attrs(after),
                RenameMode::Plain | RenameMode::Exchange => Ok(()),
            }
        }
        Op::Listing {
            entries, xattrs, ..
        } => {
            check_xattrs(xattrs)?;
            entries.iter().try_for_each(|entry| check_node(&entry.node))
        }
        Op::ImageEnd { xattrs, .. } => check_xattrs(xattrs),
        Op::SetAttr { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Gap { .. }
        | Op::MirrorBegin { .. }
        | Op::MirrorEnd { .. }
        | Op::Mark { .. }
        | Op::ImageBegin { .. } => Ok(()),
    }
}

/// The largest size of a file is that of a signed offset.
fn check_range(offset: u64, length: u64) -> Verdict {
    let end = offset.checked_add(length).map(i64::try_from);
    match end {
        Some(Ok(_)) => Ok(()),
        _ => Err("no file reaches that far"),
    }
}

fn check_attrs(attrs: &Attrs) -> Verdict {
    // To chown(2) this number says: as it is.
    if attrs.uid == u32::MAX || attrs.gid == u32::MAX {
        return Err("4294967295 is no user and no group");
    }
    if attrs.mode & !MODE_BITS != 0 {
        return Err("the mode has bits that no file has");
    }
    check_range(attrs.size, 0)?;
    check_time(&attrs.mtime)
}

fn check_time(time: &Time) -> Verdict {
    // Some of what is larger says "now" or "as it is" to utimensat(2).
    match time.nanos < NANOS_PER_SECOND {
        true => Ok(()),
        false => Err("a second has no so many nanoseconds"),
    }
}

fn check_times(body: &Body) -> Verdict {
    let of_op = match &body.op {
        Op::SetAttr { atime, .. } => *atime,
        Op::Rename { replaced, .. } => replaced.as_ref().and_then(|replaced| replaced.mtime),
        _ => None,
    };
    let all = [body.dir_mtime, body.to_mtime, of_op];
    all.iter().flatten().try_for_each(check_time)
}

fn check_node(node: &Node) -> Verdict {
    match node {
        Node::Symlink(target) => {
            let fits = !target.is_empty() && target.len() <= LINK_BYTES_MAX;
            match fits && !target.contains(&0) {
                true => Ok(()),
                false => Err("no symbolic link holds that text"),
            }
        }
        // mknod(2) takes no more, and would make another device of it.
        Node::Char(rdev) | Node::Block(rdev) if *rdev > u64::from(u32::MAX) => {
            Err("no device has that number")
        }
        Node::File | Node::Dir | Node::Fifo | Node::Socket | Node::Char(_) | Node::Block(_) => {
            Ok(())
        }
    }
}

fn check_xattr_name(name: &[u8]) -> Verdict {
    let fits = !name.is_empty() && name.len() <= XATTR_NAME_BYTES_MAX && !name.contains(&0);
    match fits {
        true => Ok(()),
        false => Err("no extended attribute has that name"),
    }
}

/// Of `system.` only access control lists: all else there is what a file system computes itself, and setting
/// it may do more than to store a value.
fn check_xattr_namespace(name: &[u8]) -> Verdict {
    const SPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"btrfs."];
    const NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    match SPACES.iter().any(|space| name.starts_with(space)) || NAMES.contains(&name) {
        true => Ok(()),
        false => Err("an extended attribute of that kind is not replicated"),
    }
}

fn check_xattr_value(value: &[u8]) -> Verdict {
    match value.len() <= limits::XATTR_BYTES_MAX {
        true => Ok(()),
        false => Err("no extended attribute is that long"),
    }
}

fn check_xattrs(xattrs: &[Xattr]) -> Verdict {
    for xattr in xattrs {
        check_xattr_name(&xattr.name)?;
        check_xattr_namespace(&xattr.name)?;
        check_xattr_value(&xattr.value)?;
    }
    Ok(())
}

/// Those that a source may set.
pub(super) fn without_own(xattrs: &[Xattr]) -> std::borrow::Cow<'_, [Xattr]> {
    use std::borrow::Cow;
    match xattrs.iter().any(|xattr| is_own_xattr(&xattr.name)) {
        false => Cow::Borrowed(xattrs),
        true => {
            let others = xattrs.iter().filter(|xattr| !is_own_xattr(&xattr.name));
            Cow::Owned(others.cloned().collect())
        }
    }
}
