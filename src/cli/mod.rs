//! The command line: what was typed, what it means, what is shown.
//!
//! # Contract
//! [`run`] takes the words and returns the exit code: 0 done or yes, 1 no (differs, not caught up,
//! time out), 2 error. Facts go to standard output, errors once to standard error as
//! `doppelfs: ...`. What needs the rooms of the spine is handed in as [`Entrances`], so that this
//! room stands beside the daemon, not above it.
//!
//! # Invariants
//! * One table of commands makes help, completions, manual pages and parsing. Every long flag of `mount` is also
//!   a key of `-o`.
//! * `status`, `stats`, `queue` and `wait` ask workers over their sockets and never touch a mount,
//!   except the flush of `wait`, which a thread does that is left behind when it hangs.
//! * A command that is planned but not built is parsed, says so, and changes nothing.
//!
//! # Failure
//! A worker that is stopped costs every command a few seconds and gives a message, never a hang.

mod act_args;
mod alerts;
mod args;
mod args_look;
mod args_peers;
mod compare;
mod config;
mod diag;
mod flush_pages;
mod log;
mod manual;
mod metrics;
mod mount;
mod options_file;
mod paper;
mod pauses;
mod peers;
mod progress;
mod queue;
mod render;
mod render_target;
mod restart;
mod run;
mod set;
mod set_args;
mod show;
mod spec;
mod stats;
mod target;
mod top;
mod umount;
mod verdict;
mod wait;

pub use args::command;
pub use paper::{Ink, bytes_text, duration_text, table};
pub use progress::set_line;
pub use render::status_text;
pub use run::{Entrances, run};
pub use show::{collect_status, queue_line_text};
pub use stats::{STATS_HEADER, TARGET_HEADER, stats_line, target_line};
pub use top::{Done, Grouping, Key, Monitor, Point, Said, WRITERS_SECONDS, Writers, plain};
pub use verdict::{Level, Verdict, of_connection, of_set, of_stream, of_target};
