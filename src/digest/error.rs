//! Why two trees could not be compared.

use std::io;

use super::pair::Side;

/// Why there is no [`super::Report`]. Nothing was changed; the comparison can be started again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call failed on something inside a tree, or on its root: unreadable disk, no permission, no
    /// such directory. `path` is relative to the tree, `.` its root.
    #[error("{operation} {path} of the {side} tree")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// In which tree.
        side: Side,
        /// Where in it, with odd bytes escaped.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory was moved while it was walked, so the way back up is lost.
    #[error("{path} of the {side} tree was moved while the trees were compared")]
    Moved {
        /// In which tree.
        side: Side,
        /// The directory, with odd bytes escaped.
        path: String,
    },
}

/// Attaches operation, side and path to an `io::Error`.
pub(super) fn io_error(
    operation: &'static str,
    side: Side,
    path: &[u8],
) -> impl FnOnce(io::Error) -> Error {
    let path = super::report::path_text(path);
    move |source| Error::Io {
        operation,
        side,
        path,
        source,
    }
}
