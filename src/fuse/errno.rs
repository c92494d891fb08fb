//! From errors to errno: a backing call's errno passes unchanged.

use fuser::Errno;

use crate::passthrough;

pub(super) fn errno(error: &passthrough::Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// The kernel named a node that it was never told, or forgot: a stale NFS handle looks like that.
pub(super) fn unknown_node() -> Errno {
    Errno::from_i32(libc::ESTALE)
}

/// The kernel named an open file that is not open.
pub(super) fn unknown_handle() -> Errno {
    Errno::from_i32(libc::EBADF)
}
