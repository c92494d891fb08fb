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
//! | D | did not end, same boot | same directory | same history (the page cache kept the journal); what changed since shortly before the last record is in doubt; where a way beside the mount was known, since shortly before it began |
//! | E | did not end, other boot | same directory | new history: records may be lost that a target has; full mirror |
//! | F | any | another directory, or the journal misses records | new history, full mirror |
//!
//! # Failure
//! A fact that cannot be read is row A with the same effect as E: nothing is believed.

mod covered;

pub use covered::{Clean, Covered, Now, Verdict, assess};
