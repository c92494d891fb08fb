//! Directories and files that are for one user alone, whatever the umask is and whoever was there first.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::fs::fchmod;
use super::xattr::{getxattr, removexattr, setxattr};

const ACL: &std::ffi::CStr = c"system.posix_acl_access";
const ACL_DEFAULT: &std::ffi::CStr = c"system.posix_acl_default";

/// Why a directory cannot be for this user alone. It was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    /// It, a directory above it or a link on the way to it belongs to another user.
    #[error(
        "{path} belongs to user {uid}, who could lead what is written there elsewhere; choose a \
         directory that only this user can change, or change its owner"
    )]
    Owner {
        /// Which one.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others may put files into it, or may have, or may rename what is in it.
    #[error(
        "others may write to {path}; choose a directory that only this user can change, or look at \
         what is in it and then `chmod go-w {path}`"
    )]
    Writable {
        /// Which one.
        path: PathBuf,
    },
    /// Others look into it, for things that are not ours.
    #[error(
        "{path} is open to others and holds {found:?}, which is none of doppelfs; choose a directory \
         of its own, or close this one by `chmod 700 {path}`"
    )]
    Shared {
        /// The directory.
        path: PathBuf,
        /// One of the things in it.
        found: PathBuf,
    },
    /// A call of the system failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn fail<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> NotPrivate + 'a {
    move |source| NotPrivate::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// Makes `path` a directory of mode 0700 of this user, with its parents, or finds that it is one; one
/// that is wider is made narrower when all that is in it `is_ours`. Entries of an access control list
/// that let others look are left where `is_shared`, else removed.
///
/// # Errors
/// [`NotPrivate`]: also where somebody else could exchange the directory for another one.
pub fn make_private_dir(
    path: &Path,
    is_shared: bool,
    is_ours: impl Fn(&OsStr) -> bool,
) -> Result<File, NotPrivate> {
    check_way(path)?;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(fail("create", path))?;
    let dir = File::open(path).map_err(fail("open", path))?;
    let found = dir.metadata().map_err(fail("examine", path))?;
    if !found.is_dir() {
        let source = io::Error::from_raw_os_error(libc::ENOTDIR);
        return Err(fail("use", path)(source));
    }
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != own {
        return Err(NotPrivate::Owner {
            path: path.to_owned(),
            uid: found.uid(),
        });
    }
    let has_list = getxattr(dir.as_fd(), ACL, &mut []).is_ok();
    let bits = found.mode() & 0o7777;
    // With a list the group's bits are its mask.
    let is_narrow = bits & 0o077 == 0 || is_shared && has_list && bits & 0o027 == 0;
    if !is_narrow {
        let mut entries = std::fs::read_dir(path).map_err(fail("read", path))?;
        let strange = entries.find_map(|entry| {
            let name = entry.ok()?.file_name();
            let is_strange = bits & 0o022 != 0 || !is_ours(&name);
            (is_strange && name != "lost+found").then_some(name)
        });
        match strange {
            Some(_) if bits & 0o022 != 0 => {
                return Err(NotPrivate::Writable {
                    path: path.to_owned(),
                });
            }
            Some(name) => {
                return Err(NotPrivate::Shared {
                    path: path.to_owned(),
                    found: name.into(),
                });
            }
            None => {}
        }
    }
    if !is_narrow || has_list && !is_shared {
        close_dir(dir.as_fd()).map_err(fail("protect", path))?;
    }
    Ok(dir)
}

/// Nobody but the owner from now on. New files inherit nothing.
fn close_dir(dir: BorrowedFd<'_>) -> io::Result<()> {
    for list in [ACL, ACL_DEFAULT] {
        match removexattr(dir, list) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                return Err(e);
            }
            _ => {}
        }
    }
    fchmod(dir, 0o700)
}

/// Can another user exchange something on the way to `path`? What does not exist yet is not looked at.
fn check_way(path: &Path) -> Result<(), NotPrivate> {
    let parts: Vec<&Path> = path.ancestors().collect();
    for part in parts.into_iter().rev() {
        let found = match std::fs::symlink_metadata(part) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(fail("examine", part)(e)),
        };
        // The directory itself is judged where it is opened.
        if part != path || found.is_symlink() {
            check_step(part, &found)?;
        }
        if found.is_symlink() {
            let real = std::fs::canonicalize(part).map_err(fail("resolve", part))?;
            check_real(&real)?;
        }
    }
    Ok(())
}

/// The same of a path without links.
fn check_real(real: &Path) -> Result<(), NotPrivate> {
    for part in real.ancestors().skip(1) {
        let found = std::fs::symlink_metadata(part).map_err(fail("examine", part))?;
        check_step(part, &found)?;
    }
    Ok(())
}

fn check_step(path: &Path, found: &Metadata) -> Result<(), NotPrivate> {
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != own {
        return Err(NotPrivate::Owner {
            path: path.to_owned(),
            uid: found.uid(),
        });
    }
    let mode = found.mode();
    let is_own_group = found.gid() == 0 || found.gid() == nix::unistd::getegid().as_raw();
    let is_open = mode & 0o002 != 0 || mode & 0o020 != 0 && !is_own_group;
    let is_sticky = mode & 0o1000 != 0;
    if found.is_dir() && is_open && !is_sticky {
        return Err(NotPrivate::Writable {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Opens a file of a private directory for adding to it; made with 0600 where it is missing, and
/// narrowed to that where it is not. Never through a symbolic link.
///
/// # Errors
/// What open(2) says; `ELOOP` for a link.
pub fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Gives a file or directory (also one opened by `O_PATH`) the access control list: its owner `owner`,
/// each of `groups` `theirs`, nobody else anything. Bits as in modes (4 read, 2 write, 1 search).
/// Without groups it is a plain mode.
///
/// # Errors
/// What setxattr(2) says; `EOPNOTSUPP` where the file system has no lists.
pub fn share_with_groups(
    file: BorrowedFd<'_>,
    owner: u16,
    theirs: u16,
    groups: &[u32],
) -> io::Result<()> {
    setxattr(file, ACL, &encode_list(owner, theirs, groups), 0)
}

/// Layout (`linux/posix_acl_xattr.h`): version 2 in 32 bits, then entries of tag, bits (16 each) and
/// id (32), in the order of tags and ids; little endian.
fn encode_list(owner: u16, theirs: u16, groups: &[u32]) -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    const USER_OBJ: u16 = 0x01;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let mut sorted = groups.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut entries = vec![(USER_OBJ, owner, NO_ID), (GROUP_OBJ, 0, NO_ID)];
    entries.extend(sorted.iter().map(|gid| (GROUP, theirs, *gid)));
    if !sorted.is_empty() {
        entries.push((MASK, theirs, NO_ID));
    }
    entries.push((OTHER, 0, NO_ID));
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&bits.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}
