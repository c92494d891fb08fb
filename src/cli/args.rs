//! The table of commands.

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

use super::act_args::{MetricsVerb, PauseArgs, ReplicationVerb, TargetPauseArgs};
use super::args_look::{FilterArgs, TopArgs};
use super::args_peers::{InviteArgs, PairArgs, PeersVerb};
use super::set_args::{ConfigVerb, SetVerb};

/// Real-time replication of a directory tree, in order, crash-safe.
#[derive(Debug, Parser)]
#[command(
    name = "doppelfs",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done or yes; 1 no (differs, not caught up, time out); 2 error.\n\
                  Manual: man doppelfs"
)]
pub(super) struct Cli {
    /// Where control sockets are
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "DOPPELFS_RUN_DIR",
        default_value = "/run/doppelfs",
        value_hint = ValueHint::DirPath
    )]
    pub(super) run_dir: PathBuf,

    /// Where doppelfs.toml and sets.d/ are (/etc/doppelfs)
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "DOPPELFS_CONFIG_DIR",
        value_hint = ValueHint::DirPath
    )]
    pub(super) config_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Protect a directory: mount over it (or elsewhere) and replicate what changes
    Mount(Box<MountArgs>),
    /// End the protection of a mounted directory
    Umount {
        /// Where it is mounted, or the name of the set
        #[arg(value_name = "MOUNTPOINT|SET", value_hint = ValueHint::DirPath)]
        mountpoint: PathBuf,
        /// How many seconds the worker may take to end
        #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
        timeout: f64,
    },
    /// Receive replicas
    #[command(subcommand)]
    Target(TargetVerb),
    /// Show sets, connections and targets of this host
    Status {
        /// Only this set
        set: Option<String>,
        /// End with 1 where somebody has to look: an error, no answer, behind, no target
        #[arg(long)]
        check: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what has been counted
    Stats {
        /// The set, where there are several
        #[arg(conflicts_with = "target")]
        set: Option<String>,
        /// Of the target that is served here; by its port, where there are several
        #[arg(long, value_name = "PORT", num_args = 0..=1)]
        target: Option<Option<u16>>,
        /// One line of totals: `Que/sent add=..` of a set, `Received add=..` of a target
        #[arg(long, conflicts_with = "json")]
        brief: bool,
        /// A line every interval, until interrupted
        #[arg(long)]
        follow: bool,
        /// Seconds between lines
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
        interval: f64,
        /// End after this many lines
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show operations and the queue that holds them
    #[command(subcommand)]
    Queue(QueueVerb),
    /// Wait for a condition
    Wait {
        /// The set, where there are several
        set: Option<String>,
        /// Everything captured so far is applied and durable on all targets
        #[arg(long, required = true)]
        caught_up: bool,
        /// Give up after this many seconds (exit code 1)
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<f64>,
    },
    /// Copy everything anew, while the set is in use
    #[command(subcommand)]
    Mirror(MirrorVerb),
    /// Compare two directory trees in everything a replica must show
    Compare {
        /// One tree
        #[arg(value_hint = ValueHint::DirPath)]
        left: PathBuf,
        /// The other
        #[arg(value_hint = ValueHint::DirPath)]
        right: PathBuf,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Do not read contents
        #[arg(long)]
        metadata_only: bool,
        /// A link of the left tree that leads to FROM or below leads to TO in the right one
        #[arg(long, value_name = "FROM=TO")]
        remap_links: Vec<String>,
    },
    /// Replace a set's worker, and with it the program and its options, while its mount and all that is
    /// open stay
    Restart {
        /// The set; may be left out where there is one
        set: Option<String>,
        /// Seconds to wait for the new worker; 1 is the exit code when they have passed
        #[arg(long, value_name = "SECONDS", default_value = "60")]
        timeout: f64,
        /// Leave the options as they are, whatever the configuration says by now
        #[arg(long)]
        keep_options: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the alerts that journal and syslog get: numbers, severities, what they mean and what to do
    Alerts {
        /// For programs
        #[arg(long, conflicts_with = "catalog")]
        json: bool,
        /// As a message catalog of systemd's, for `journalctl -x`
        #[arg(long)]
        catalog: bool,
    },
    /// Print completions for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Write back what is dirty in a mount whenever a byte comes on standard input, until its end; the
    /// worker of a set with a relaxed order starts it
    #[command(hide = true)]
    FlushPages {
        /// The mount
        mountpoint: PathBuf,
        /// Its device, as MAJOR:MINOR
        device: String,
    },
    /// Write a manual page of each command into a directory, for those who make packages
    #[command(hide = true)]
    Manual {
        /// Where to; made when it is missing
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },

    /// Become known to a target, with the token that `doppelfs target invite` prints there
    Pair(PairArgs),
    /// Who may speak to this host, and to whom it speaks
    #[command(subcommand)]
    Peers(PeersVerb),
    /// Full-screen monitor: sets, connections, targets, their speed, who writes, what is under way
    Top(TopArgs),
    /// Connect a set to its targets again
    Connect {
        /// The set; may be left out where there is one
        set: Option<String>,
    },
    /// Disconnect a set from its targets; the queue keeps what is captured
    Disconnect {
        /// The set; may be left out where there is one
        set: Option<String>,
        /// Keep nothing for the targets: connecting again needs a mirror
        #[arg(long)]
        forget: bool,
    },
    /// Stop the replication of a set, so that nothing is queued, or start it again, with a mirror
    #[command(subcommand)]
    Replication(ReplicationVerb),
    /// Bring the replicas to one consistent point and keep them there, for a backup; the queue keeps what comes
    Pause(PauseArgs),
    /// End a pause: only what was captured meanwhile is sent
    Resume {
        /// The sets; may be left out where there is one
        sets: Vec<String>,
        /// All sets of this host
        #[arg(long, conflicts_with = "sets")]
        all: bool,
    },
    /// Name a consistent point in the stream; `status` shows where it has arrived
    Mark {
        /// The set, which may be left out where there is one, and the mark
        #[arg(value_names = ["SET", "NAME"], num_args = 1..=2, required = true)]
        words: Vec<String>,
        /// All sets of this host, at one point
        #[arg(long)]
        all: bool,
    },
    /// Compare a replica with its source, exactly, in use (not built yet)
    Verify(Unbuilt),
    /// Files on a replica that the source does not have (not built yet)
    Orphans(Unbuilt),
    /// Bring a replica back to the source (not built yet)
    Restore(Unbuilt),
    /// Promote a target (not built yet)
    Failover(Unbuilt),
    /// Return to the source after a failover (not built yet)
    Failback(Unbuilt),
    /// Sets that are configured, in sets.d/NAME.toml
    #[command(subcommand)]
    Set(SetVerb),
    /// The configuration files
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Collect what support needs in one file, without keys and tokens
    Diag {
        /// Where to write it; doppelfs-diag-HOST-TIME.tar.gz by default
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Print numbers of all sets and targets as Prometheus reads them
    #[command(args_conflicts_with_subcommands = true)]
    Metrics {
        #[command(subcommand)]
        verb: Option<MetricsVerb>,
    },
}

/// The words of a command that is planned: taken and not looked at.
#[derive(Debug, Args)]
pub(super) struct Unbuilt {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        hide = true,
        value_name = "WORDS"
    )]
    _words: Vec<OsString>,
}

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// The directory to protect, or the name of a configured set
    #[arg(value_name = "DIR|SET", value_hint = ValueHint::DirPath)]
    pub(super) dir: PathBuf,
    /// Where to serve it; over the directory itself by default
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: Option<PathBuf>,
    #[command(flatten)]
    pub(super) asked: OptionArgs,
    /// Name of the set; the directory's by default
    #[arg(long, value_name = "NAME")]
    pub(super) set: Option<String>,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub(super) foreground: bool,
    /// Pass over unknown keys of -o
    #[arg(long)]
    pub(super) sloppy: bool,
    /// Standard input is the pipe at which a parent waits
    #[arg(long, hide = true)]
    pub(super) ready_on_stdin: bool,
    /// What the parent was asked for by its command line
    #[arg(long, hide = true)]
    pub(super) given: Vec<String>,
    /// The file of the set that the parent found
    #[arg(long, hide = true)]
    pub(super) set_file: Option<PathBuf>,
}

/// The options of a set; what is text here becomes typed in `config`.
#[derive(Debug, Args)]
pub(super) struct OptionArgs {
    /// Options as in fstab: every long flag below as KEY or KEY=VALUE, and those of mount(8)
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    pub(super) options: Vec<String>,
    /// Where replicas go; PATH is relative to the target's root
    #[arg(long, value_name = "HOST:PORT[:PATH]")]
    pub(super) target: Vec<String>,
    /// State directory; /var/lib/doppelfs/SET by default
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) state: Option<String>,
    /// strict: a write is captured before it returns (the default); relaxed: when the kernel writes it
    /// back, at the latest at fsync, at close, or after --flush-interval
    #[arg(long, value_name = "strict|relaxed")]
    pub(super) order: Option<String>,
    /// With --order relaxed: how often what is dirty is written back (100ms; 10ms to 60s)
    #[arg(long, value_name = "TIME")]
    pub(super) flush_interval: Option<String>,
    /// Plain TCP without authentication, to loopback addresses only; any user of this host could listen there
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) insecure_loopback: Option<String>,
    /// Where this host's key and its pairings are (/etc/doppelfs/keys)
    #[arg(long, value_name = "DIR", env = "DOPPELFS_KEYS", value_hint = ValueHint::DirPath)]
    pub(super) keys: Option<String>,
    /// Mount read-only
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) read_only: Option<String>,
    /// Replicate access times, too
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) atime: Option<String>,
    /// Absolute links into the directory lead to the replica on the replica
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) remap_links: Option<String>,
    /// Refuse while somebody has files open that would bypass the capture
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub(super) strict_cover: Option<String>,
    /// How long a stuck journal may delay an operation (1s)
    #[arg(long, value_name = "TIME")]
    pub(super) journal_wait: Option<String>,
    /// Disk space of the queue (unlimited)
    #[arg(long, value_name = "SIZE|unlimited")]
    pub(super) queue_disk_max: Option<String>,
    /// Free space that the queue leaves on its disk (50M)
    #[arg(long, value_name = "SIZE")]
    pub(super) queue_free_min: Option<String>,
    /// Memory of the queue (128M, at least 32M)
    #[arg(long, value_name = "SIZE")]
    pub(super) queue_memory: Option<String>,
    /// Alert when the queue has filled this share of its limit (50%)
    #[arg(long, value_name = "PERCENT")]
    pub(super) queue_alert: Option<String>,
    /// Where the queue is; queue/ in the state directory by default
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) queue_dir: Option<String>,
    /// Mirror by itself when a mirror is required (yes)
    #[arg(
        long,
        value_name = "yes|no",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes"
    )]
    pub(super) auto_remirror: Option<String>,
}

/// What a target can do.
#[derive(Debug, Subcommand)]
pub(super) enum TargetVerb {
    /// Serve, in the foreground, until SIGTERM
    Serve {
        /// Where to listen ([::]:7420; with --insecure-loopback 127.0.0.1:7420); this and the others may
        /// stand in [target] of doppelfs.toml
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<String>,
        /// Replicas are below this directory (/srv/doppelfs)
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        root: Option<PathBuf>,
        /// State directory (/var/lib/doppelfs/target)
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        state: Option<PathBuf>,
        /// Listen on a loopback address, and take plain TCP without authentication, too: from any user of
        /// this host
        #[arg(long)]
        insecure_loopback: bool,
        /// What the process gives up before it serves: auto (what the kernel has), no, required, or
        /// some of capabilities,seccomp,landlock
        #[arg(long, value_name = "auto|no|required|PARTS")]
        confine: Option<String>,
    },
    /// Print a token that lets in one source, once
    Invite(InviteArgs),
    /// Change the target's key: announce the next one to the sources, then --finish
    RotateKey {
        /// Go over to the key that was announced
        #[arg(long)]
        finish: bool,
        /// Also where sources have not been told, which then have to be paired again
        #[arg(long, requires = "finish")]
        force: bool,
        /// Which target, where this host serves several
        #[arg(long)]
        port: Option<u16>,
    },
    /// Keep what comes and apply nothing of it, from the next consistent point on
    Pause(TargetPauseArgs),
    /// Apply again what came meanwhile
    Resume {
        /// Only this replica: its path below the root, or the whole path
        path: Option<String>,
        /// Which target, where this host serves several
        #[arg(long)]
        port: Option<u16>,
    },
}

/// What can be seen of a queue.
#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// The last operations: seq, time, operation, path, size, user:group, process
    Tail {
        /// The set, where there are several
        set: Option<String>,
        /// Go on with each new one, until interrupted
        #[arg(long)]
        follow: bool,
        /// How many of the past; with a filter, how many that it lets through
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        count: u64,
        #[command(flatten)]
        filter: FilterArgs,
        /// For programs: one object per line
        #[arg(long)]
        json: bool,
    },
    /// What the queue holds and who reads it
    Show {
        /// The set, where there are several
        set: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// What a mirror can do.
#[derive(Debug, Subcommand)]
pub(super) enum MirrorVerb {
    /// Begin a mirror to all targets of a set
    Start {
        /// The set, where there are several
        set: Option<String>,
        /// Send everything (the only kind built yet)
        #[arg(long)]
        full: bool,
        /// Send what differs (not built yet)
        #[arg(long, conflicts_with = "full")]
        difference: bool,
        /// Compare by checksum (not built yet)
        #[arg(long, requires = "difference")]
        checksum: bool,
        /// Only what is newer on the source (not built yet)
        #[arg(long, requires = "difference")]
        newer_only: bool,
        /// Compare everything by checksum (not built yet)
        #[arg(long, conflicts_with_all = ["full", "difference"])]
        checksum_all: bool,
        /// Wait until all targets have all of it, and show how it goes
        #[arg(long)]
        wait: bool,
        /// Wait no longer than this many seconds (exit code 1); the mirror goes on
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<f64>,
    },
    /// Hold a mirror (not built yet)
    Pause(Unbuilt),
    /// Go on with a mirror (not built yet)
    Resume(Unbuilt),
    /// End a mirror (not built yet)
    Stop(Unbuilt),
}

/// What people are shown of the table, for completions and the manual: no command that is hidden.
pub(super) fn shown_commands() -> clap::Command {
    let whole = command();
    let shown = whole.get_subcommands().filter(|sub| !sub.is_hide_set());
    clap::Command::new("doppelfs")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(shown.cloned())
}

/// The whole table, for parsing and help.
pub fn command() -> clap::Command {
    Cli::command()
}
