//! The only room with `unsafe`: syscalls with borrowed descriptors in, owned ones out.
//!
//! Wrappers are named after their syscall and return the bare `io::Error`; the room that calls adds
//! the operation and the path. Everything is `O_CLOEXEC`.
#![allow(unsafe_code, reason = "this room is the fence around it")]

mod allocator;
mod btrfs;
mod confine;
mod cred;
mod dir;
mod file;
mod fs;
mod handle;
mod hide;
mod instance;
mod launch;
mod mount;
mod peer;
mod private;
mod process;
mod relay;
mod shared;
mod stat;
mod volume;
mod xattr;
mod xfs;

pub use btrfs::btrfs_subvolumes_in;
pub use confine::{
    CallRule, LandlockMask, When, forbid_new_privileges, give_up_capabilities, is_landlock_fixed,
    is_mount_root, keep_capabilities, landlock_version, refuse_calls, restrict, thread_count,
};
pub use cred::{Identity, NO_GROUP, adopt, unshare_fs_state};
pub use dir::{DirEntry, EntryType, read_entries, seek_dir};
pub use file::{fadvise_dontneed, fadvise_willneed, flock_exclusive, flock_wait};
pub use fs::{
    CopyRange, UTIME_NOW, WRITE_BYTES_MAX, access_anyhow, chmod_fd, chown_fd, copy_file_range,
    data_segment, fallocate, fchmod, fdatasync, folds_case, fsync, ftruncate, is_from, linkat_fd,
    lseek, mkdirat, mknodat, open_beneath, openat, pread, pread_cached, pread_uncached, proc_path,
    pwrite, pwrite_uncached, pwritev_all, readlink_fd, readlinkat, renameat2, statvfs, symlinkat,
    syncfs, truncate_fd, unlinkat, utimens_fd,
};
pub use handle::{
    ByNumber, HandleCodec, MountNumber, RawHandle, name_to_handle_at, name_to_handle_on,
    open_by_handle_at,
};
pub use hide::hide_argument;
pub use instance::{direct_alignment, file_system_magic, mount_instance};
pub use launch::{is_file_locked, lock_file, pidfd_open, poll_readable, setsid, take_stdin};
pub use mount::{
    FuseMount, MountLine, Unstamped, beneath_mounts, clone_tree, clone_tree_beneath, fuse_open,
    fuse_requests, is_dead_mount, mount_fuse, mount_id, mount_id_in, parse_mounts, read_mounts,
    read_mounts_of, umount, wait_mounts_changed,
};
pub use peer::{Peer, peer_of};
pub use private::{NotPrivate, make_private_dir, open_private, share_with_groups};
pub use process::{
    Credentials, act_without_own_limits, boot_id, coarse_now, effective_uid, host_name, is_root,
    lower_priority, monotonic_ns, now, open_files_limit, random_u128, ready_notify, realtime_ns,
    return_memory, serve_write_back, set_umask, sync_file_system_of, thread_cpu_ns,
};
pub use relay::{
    fuse_doubt_names, fuse_init_again, fuse_resend, inherited, keep_over_exec, message_pair,
    receive_message, replace_fd, send_message,
};
pub use shared::SharedWords;
pub use stat::{FileStat, fstat, fstatat};
pub use volume::mount_device;
pub use xattr::{getxattr, list_all_xattrs, listxattr, removexattr, setxattr};
pub use xfs::{xfs_generation, xfs_root};
