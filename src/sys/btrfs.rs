//! What only btrfs answers: the subvolumes inside a directory (`linux` `include/uapi/linux/btrfs.h`).

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct Children {
    /// In: the lowest id to tell of; out: where to go on.
    from: u64,
    /// Of each child its id and the directory that holds its name.
    children: [(u64, u64); 255],
    count: u8,
    align: [u8; 7],
}

/// `struct btrfs_ioctl_ino_lookup_user_args`.
#[repr(C)]
struct Place {
    dir: u64,
    subvolume: u64,
    name: [u8; 256],
    path: [u8; 3824],
}

const _: () = assert!(size_of::<Children>() == 4096 && size_of::<Place>() == 4096);

/// `BTRFS_IOC_GET_SUBVOL_ROOTREF`: `_IOWR(0x94, 61, ..)`.
const GET_SUBVOL_ROOTREF: libc::Ioctl = 0xd000_943d_u32 as libc::Ioctl;
/// `BTRFS_IOC_INO_LOOKUP_USER`: `_IOWR(0x94, 62, ..)`.
const INO_LOOKUP_USER: libc::Ioctl = 0xd000_943e_u32 as libc::Ioctl;

/// The subvolumes and snapshots in `dir` and its directories, by their paths below it; not those inside
/// of these. At most the first 255 of the subvolume that `dir` lies in are looked at (Linux 4.18).
///
/// # Errors
/// What the calls say; `ENOTTY` on another file system.
pub fn btrfs_subvolumes_in(dir: BorrowedFd<'_>) -> io::Result<Vec<PathBuf>> {
    let mut all = Children {
        from: 0,
        children: [(0, 0); 255],
        count: 0,
        align: [0; 7],
    };
    // SAFETY: the argument has the kernel's layout and size.
    let rc = unsafe { libc::ioctl(dir.as_raw_fd(), GET_SUBVOL_ROOTREF, &raw mut all) };
    if rc < 0 {
        let error = io::Error::last_os_error();
        // There are more than fit.
        if error.raw_os_error() != Some(libc::EOVERFLOW) {
            return Err(error);
        }
    }
    let mut found = Vec::new();
    for (subvolume, holder) in &all.children[..usize::from(all.count)] {
        let mut place = Place {
            dir: *holder,
            subvolume: *subvolume,
            name: [0; 256],
            path: [0; 3824],
        };
        // SAFETY: the argument has the kernel's layout and size.
        let rc = unsafe { libc::ioctl(dir.as_raw_fd(), INO_LOOKUP_USER, &raw mut place) };
        if rc < 0 {
            match io::Error::last_os_error() {
                // Not below this directory, or gone meanwhile.
                e if matches!(e.raw_os_error(), Some(libc::EACCES | libc::ENOENT)) => continue,
                e => return Err(e),
            }
        }
        let text = |bytes: &[u8]| -> PathBuf {
            let text = CStr::from_bytes_until_nul(bytes).unwrap_or_default();
            PathBuf::from(OsStr::from_bytes(text.to_bytes()))
        };
        found.push(text(&place.path).join(text(&place.name)));
    }
    found.sort_unstable();
    Ok(found)
}
