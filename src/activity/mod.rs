//! What may differ after a stop: the record of how the last run ended, and what a start makes of it.
//!
//! # The contract
//! A set's state holds one small durable fact, [`Covered`]: who the source is, which history its
//! positions belong to, and until when every change of the tree was captured. It is written when a
//! mount begins (not clean) and again when it has ended (clean). [`assess`] decides from it, and from
//! what can be seen now, what a new mount may believe.
//!
//! # The table
//! | row | last run | now | then |
//! |---|---|---|---|
//! | A | none | | new source, new history, full mirror |
//! | B | ended cleanly | same directory, the clock is not behind | same history; what changed since is in doubt (where a way beside the mount was known: since it began) |
//! | C | ended cleanly | same directory, the clock went back | same history; everything is in doubt |
//! | D | did not end, same boot, data and queue on the same mounts | same directory | same history (the page cache kept the journal); what changed since shortly before the last record is in doubt; where a way beside the mount was known, since shortly before it began; what the log names and leads to as well, as the last run may have begun after a loss of power and not have said yet what that took |
//! | E | did not end, other boot, or one of the mounts is another | same directory | new history: records may be lost that a target has; it goes on from the last one's surviving records, and what the activity log names is in doubt; without such a log, a full mirror |
//! | F | any | another directory, or the journal misses records | new history, full mirror |
//!
//! Another mount stands for another file system, or the same one after its device was away or it was shut
//! down by an error: the page cache has gone without being written. Where the file system was in order,
//! only shown by another mount (a container's), row E mirrors in vain. Kernels before 6.8 give a number of
//! a mount to the next one, too; there a mount made anew may pass for the last one.
//!
//! # Failure
//! A fact that cannot be read is row A with the same effect as E: nothing is believed.

mod covered;
mod log;

pub use covered::{Clean, Covered, Mounts, Now, Verdict, assess};
pub use log::{Activity, Marks, Past, Survived, Underway, read_log};
