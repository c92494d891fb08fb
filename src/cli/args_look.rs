//! The flags of the commands that look: which operations, what picture.

use clap::Args;

/// Which operations are shown; of several flags all have to fit, of several values of one flag one.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// A path in the set: itself and all below it; or a pattern with *, **, ?, [..] or {..}
    #[arg(long, value_name = "PATH|PATTERN")]
    pub(super) path: Vec<String>,
    /// Operations: write,rename,unlink,...
    #[arg(long, value_name = "OP", value_delimiter = ',')]
    pub(super) op: Vec<String>,
    /// Those of a process
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    /// Those of a user
    #[arg(long, value_name = "NAME|UID", value_delimiter = ',')]
    pub(super) user: Vec<String>,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Print one picture as plain text and end
    #[arg(long)]
    pub(super) once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(super) interval: f64,
    /// Do not follow the queue of the selected set: no table of writers
    #[arg(long)]
    pub(super) no_writers: bool,
}
