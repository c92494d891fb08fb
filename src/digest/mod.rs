//! Two trees side by side: are they the same, and where not.
//!
//! [`compare`] walks both trees at once and reports every difference that a replica may not have:
//! names (as bytes), types, modes, owners, groups, sizes, contents, modification times to the
//! nanosecond (files, directories and symbolic links alike), targets of symbolic links, device
//! numbers, every extended attribute that the caller may read (ACLs, `security.*`, `trusted.*`
//! included), which names share an inode, and how much of a file is holes. Access and change times
//! are not compared: nobody can set the one exactly and the other at all.
//!
//! # Contract
//! The trees should stand still; what changes meanwhile shows as a difference, never as a crash.
//! Nothing is written. Access times stay (`O_NOATIME`) where the caller owns the file or is root,
//! except those of symbolic links, which the kernel stamps itself.
//!
//! # Invariants
//! - No path longer than one component is ever given to the kernel, so trees deeper than `PATH_MAX`
//!   compare like others.
//! - Open descriptors are bounded ([`OPEN_LEVELS_MAX`] levels of two), whatever the depth; a level
//!   that was closed is found again by `..` and recognised by device and inode number.
//! - Memory holds the names of the directories on the way down and one entry per inode with several
//!   names; nothing per plain file.
//! - Hard links: two names share an inode on the left exactly if they do on the right. Names outside
//!   of the trees do not count, so link counts are not compared.
//! - A file whose size is at most [`READ_WHOLE_BYTES_MAX`] is read whole. In a larger one a range is
//!   skipped where *both* file systems say that it is a hole.
//! - Attributes by which a replica records what its target withholds ([`Withheld`](crate::types::Withheld))
//!   are believed on the right only, and stand for what they record; what is recorded is counted apart. On the
//!   left they are passed over, as they are not replicated.
//!
//! # Failure
//! [`Error`] names the operation and the path. A tree that cannot be read is an error, never "equal".

mod content;
mod entry;
mod error;
mod pair;
mod progress;
mod report;
mod walk;

pub use content::READ_WHOLE_BYTES_MAX;
pub use error::Error;
pub use pair::Side;
pub use progress::Progress;
pub use report::{Counts, Difference, Report, What, WithheldCounts};
pub use walk::{OPEN_LEVELS_MAX, Options, compare, compare_watched};
