//! File handles: name_to_handle_at(2), open_by_handle_at(2), and what is inside them.
//!
//! A handle of the common file systems is the inode number and its generation, so a file id *is* a
//! handle: [`HandleCodec`], learned once from the root directory, converts both ways. That is what
//! keeps a million nodes at a few bytes each.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::types::FileId;

/// Longest handle that any file system gives (`MAX_HANDLE_SZ`).
const HANDLE_BYTES_MAX: usize = 128;

/// A handle as the kernel gives it (`struct file_handle` in `linux/fs.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, align(4))]
pub struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE_BYTES_MAX],
}

impl RawHandle {
    /// A handle of this type and content; `None` when longer than any handle is.
    pub fn new(kind: i32, content: &[u8]) -> Option<RawHandle> {
        let mut data = [0; HANDLE_BYTES_MAX];
        data.get_mut(..content.len())?.copy_from_slice(content);
        Some(RawHandle {
            bytes: u32::try_from(content.len()).ok()?,
            kind,
            data,
        })
    }

    /// The file system's own type number.
    pub fn kind(&self) -> i32 {
        self.kind
    }

    /// The opaque content.
    pub fn content(&self) -> &[u8] {
        &self.data[..(self.bytes as usize).min(HANDLE_BYTES_MAX)]
    }
}

/// name_to_handle_at(2): of the entry `name` in `dir` (a symbolic link itself), or with an empty name
/// of `dir` itself.
pub fn name_to_handle_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<RawHandle> {
    name_to_handle_on(dir, name).map(|(handle, _)| handle)
}

/// The kernel's number of a mount, as name_to_handle_at(2) tells it; given again once that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountNumber(i32);

/// As [`name_to_handle_at`], with the mount that the entry is found on: at a mount point it is what is
/// mounted there, and the handle is one of that file system.
pub fn name_to_handle_on(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<(RawHandle, MountNumber)> {
    let mut handle = RawHandle {
        bytes: HANDLE_BYTES_MAX as u32,
        kind: 0,
        data: [0; HANDLE_BYTES_MAX],
    };
    let mut mount_id = 0i32;
    let flags = if name.is_empty() {
        libc::AT_EMPTY_PATH
    } else {
        0
    };
    // SAFETY: `handle` has the layout of struct file_handle with room for its `bytes`.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            flags,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((handle, MountNumber(mount_id)))
    }
}

/// open_by_handle_at(2). `ESTALE` when the file is gone.
pub fn open_by_handle_at(
    mount: BorrowedFd<'_>,
    handle: &RawHandle,
    flags: i32,
) -> io::Result<OwnedFd> {
    let mut handle = *handle;
    // SAFETY: `handle` has the layout of struct file_handle and states its own length.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            flags | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// How a file system's handles are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `FILEID_INO32_GEN` (1), 8 bytes: ino32, generation32. ext2/3/4, f2fs and most others.
    Ino32,
    /// Type 1 with 12 bytes: generation32, ino64. tmpfs.
    Shmem,
    /// `XFS_FILEID_INO64GEN` (0x81): ino64, generation32.
    Xfs,
    /// `FILEID_BTRFS_WITHOUT_PARENT` (0x4d): objectid64, root64, generation32.
    Btrfs {
        /// The subvolume: one per root.
        subvolume: u64,
    },
}

/// How a file system finds an inode whose generation is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByNumber {
    /// A handle with generation 0 opens whatever has the number (ext2/3/4, btrfs, f2fs).
    AnyGeneration,
    /// [`xfs_generation`](super::xfs_generation) tells the generation.
    AskXfs,
    /// It does not (tmpfs).
    Never,
}

/// Converts between handles and ids for one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandleCodec {
    kind: i32,
    layout: Layout,
}

fn u32_of(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 4)?;
    Some(u64::from(u32::from_ne_bytes(word.try_into().ok()?)))
}

fn u64_of(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl HandleCodec {
    /// Learns the layout from one handle (the root directory's). `None`: a file system whose handles
    /// are not known, so its files have no identity that we could follow.
    pub fn learn(handle: &RawHandle) -> Option<HandleCodec> {
        let content = handle.content();
        let layout = match (handle.kind, content.len()) {
            (1, 8) => Layout::Ino32,
            (1, 12) => Layout::Shmem,
            (0x81, 12) => Layout::Xfs,
            (0x4d, 20) => Layout::Btrfs {
                subvolume: u64_of(content, 8)?,
            },
            _ => return None,
        };
        Some(HandleCodec {
            kind: handle.kind,
            layout,
        })
    }

    /// The id in a handle; `None` for a handle of another layout, or of another btrfs subvolume.
    pub fn id(&self, handle: &RawHandle) -> Option<FileId> {
        let content = handle.content();
        if handle.kind != self.kind {
            return None;
        }
        match self.layout {
            Layout::Ino32 => Some(FileId::new(u32_of(content, 0)?, u32_of(content, 4)?)),
            Layout::Shmem => {
                let ino = u32_of(content, 4)? | (u32_of(content, 8)? << 32);
                Some(FileId::new(ino, u32_of(content, 0)?))
            }
            Layout::Xfs => Some(FileId::new(u64_of(content, 0)?, u32_of(content, 8)?)),
            Layout::Btrfs { subvolume } => {
                if u64_of(content, 8)? != subvolume {
                    return None;
                }
                Some(FileId::new(u64_of(content, 0)?, u32_of(content, 16)?))
            }
        }
    }

    /// How an inode is found by its number alone.
    pub fn by_number(&self) -> ByNumber {
        match self.layout {
            Layout::Ino32 | Layout::Btrfs { .. } => ByNumber::AnyGeneration,
            Layout::Xfs => ByNumber::AskXfs,
            Layout::Shmem => ByNumber::Never,
        }
    }

    /// The handle of an id.
    pub fn handle(&self, id: FileId) -> RawHandle {
        let (ino, generation) = (id.ino.0, id.generation.0);
        let ino32 = (ino as u32).to_ne_bytes();
        let gen32 = (generation as u32).to_ne_bytes();
        let mut data = [0u8; HANDLE_BYTES_MAX];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            data[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        match self.layout {
            Layout::Ino32 => {
                put(&ino32);
                put(&gen32);
            }
            Layout::Shmem => {
                put(&gen32);
                put(&ino.to_ne_bytes());
            }
            Layout::Xfs => {
                put(&ino.to_ne_bytes());
                put(&gen32);
            }
            Layout::Btrfs { subvolume } => {
                put(&ino.to_ne_bytes());
                put(&subvolume.to_ne_bytes());
                put(&gen32);
            }
        }
        RawHandle {
            bytes: at as u32,
            kind: self.kind,
            data,
        }
    }
}
