//! The table of commands: `pair`, `peers` and `target invite`.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

/// Arguments of `pair`.
#[derive(Debug, Args)]
pub(super) struct PairArgs {
    /// Where the target listens
    #[arg(value_name = "HOST:PORT")]
    pub(super) target: String,
    /// The token; read from standard input where it is missing or `-`
    pub(super) token: Option<String>,
    /// What the target is to call this host; its host name by default
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Where this host's key and its pairings are
    #[arg(long, value_name = "DIR", env = "DOPPELFS_KEYS", default_value = KEYS_DEFAULT, value_hint = ValueHint::DirPath)]
    pub(super) keys: PathBuf,
}

/// Where keys are unless told otherwise; as `config` has it.
const KEYS_DEFAULT: &str = "/etc/doppelfs/keys";

/// Limits of a source on a target.
#[derive(Debug, Args)]
pub(super) struct TermsArgs {
    /// Disk space that the source's replicas may take
    #[arg(long, value_name = "SIZE|unlimited")]
    pub(super) quota_bytes: Option<String>,
    /// Files and directories that they may have
    #[arg(long, value_name = "N|unlimited")]
    pub(super) quota_files: Option<String>,
    /// Record device nodes instead of making them
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) deny_dev: Option<String>,
    /// Record set-id bits and file capabilities instead of setting them
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) deny_suid: Option<String>,
}

/// Arguments of `target invite`.
#[derive(Debug, Args)]
pub(super) struct InviteArgs {
    /// For this set only
    #[arg(long, value_name = "NAME")]
    pub(super) set: Option<String>,
    /// The mirror path below the target's root; the directory with the source's name by default
    #[arg(long, value_name = "PATH")]
    pub(super) path: Option<String>,
    /// How long the token is good
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) expires: String,
    #[command(flatten)]
    pub(super) terms: TermsArgs,
    /// Which target, where this host serves several
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What can be done about peers.
#[derive(Debug, Subcommand)]
pub(super) enum PeersVerb {
    /// Show the sources that may come in here, and the targets that this host is paired with
    List {
        /// Where this host's key and its pairings are
        #[arg(long, value_name = "DIR", env = "DOPPELFS_KEYS", default_value = KEYS_DEFAULT, value_hint = ValueHint::DirPath)]
        keys: PathBuf,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Let a source in no more (on a target), or forget a target (on a source)
    Revoke {
        /// Name of the source or beginning of its key; HOST:PORT of the target
        name: String,
        /// Where this host's key and its pairings are
        #[arg(long, value_name = "DIR", env = "DOPPELFS_KEYS", default_value = KEYS_DEFAULT, value_hint = ValueHint::DirPath)]
        keys: PathBuf,
        /// Which target, where this host serves several
        #[arg(long)]
        port: Option<u16>,
    },
    /// Change the limits of a source (on a target)
    Set {
        /// Name of the source or beginning of its key
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
        /// Which target, where this host serves several
        #[arg(long)]
        port: Option<u16>,
    },
    /// Make a new key for this host as a source, and tell all of its targets
    RotateKey {
        /// Where this host's key and its pairings are
        #[arg(long, value_name = "DIR", env = "DOPPELFS_KEYS", default_value = KEYS_DEFAULT, value_hint = ValueHint::DirPath)]
        keys: PathBuf,
    },
}
