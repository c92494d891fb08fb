//! The table of commands: `config` and `set`.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

use super::args::{OptionArgs, Unbuilt};

/// What can be done about the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Look for mistakes in all files, between the sets, and in fstab: 0 none, 1 some
    Check {
        /// Only these files; fstab is not looked at then
        #[arg(value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Which fstab to look at
        #[arg(long, value_name = "FILE", default_value = "/etc/fstab", value_hint = ValueHint::FilePath)]
        fstab: PathBuf,
    },
    /// Show what holds, and which line of which file says it
    Show {
        /// Only this set
        set: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// What can be done about configured sets.
#[derive(Debug, Subcommand)]
pub(super) enum SetVerb {
    /// Show the sets that are configured
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what holds for a set, and which line of which file says it
    Show {
        /// The set
        name: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Write the file of a new set
    Create(Box<CreateArgs>),
    /// Look for mistakes in one set, as `mount` would find them: 0 none, 1 some
    Check {
        /// The set; all of them, one by one, without it
        name: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Give a set another name (not built yet)
    Rename(Unbuilt),
    /// Make a set like another one (not built yet)
    Copy(Unbuilt),
    /// Delete a set with its state (not built yet)
    Delete(Unbuilt),
    /// How much a set holds (not built yet)
    Size(Unbuilt),
}

/// Arguments of `set create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: 1 to 64 letters, digits, dots, hyphens, underscores
    pub(super) name: String,
    /// The directory to protect
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) path: PathBuf,
    /// Where to serve it; over the directory itself by default
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: Option<PathBuf>,
    #[command(flatten)]
    pub(super) asked: OptionArgs,
    /// Show the file and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}
