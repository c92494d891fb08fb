//! From words to an exit code.

use anyhow::Context;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::act_args::{MetricsVerb, ReplicationVerb};
use super::args::{Cli, MirrorVerb, QueueVerb, TargetVerb, Verb, command, shown_commands};
use super::compare::Depth;
use super::spec::ConfigDir;
use super::{
    alerts, compare, config, diag, flush_pages, manual, metrics, mount, pauses, peers, queue,
    restart, set, show, stats, target, top, umount, wait,
};
use crate::config::MountOptions;
use crate::config::Place;
use crate::config::TargetOptions;
use crate::control::{self, Client, MirrorKind, Reply, Request, Service};
use crate::supervisor::Ready;
use crate::sys;
use crate::types::SetName;

/// The doors of the rooms that a command line leads to.
#[derive(Debug, Clone, Copy)]
pub struct Entrances {
    /// Says why a directory cannot be protected, before anything is claimed for it.
    pub probe: fn(&MountOptions) -> anyhow::Result<()>,
    /// Protects a directory until it is unmounted.
    pub source: fn(MountOptions, Ready) -> anyhow::Result<()>,
    /// Serves a target until it is told to end.
    pub target: fn(TargetOptions, Ready) -> anyhow::Result<()>,
}

/// How a command ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Yes,
    No,
    /// An error that was told already, to the parent.
    Told,
}

/// A command that is planned.
#[derive(Debug, thiserror::Error)]
#[error("`doppelfs {name}` is not built yet: {instead}; see the status table in README.md")]
pub(super) struct NotBuilt {
    name: String,
    instead: &'static str,
}

pub(super) fn not_built(name: &str, instead: &'static str) -> anyhow::Error {
    let name = name.to_owned();
    NotBuilt { name, instead }.into()
}

/// Runs a command line, its name first.
pub fn run(words: impl IntoIterator<Item = OsString>, entrances: &Entrances) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        // Help and version are no errors and go to standard output.
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let _ = write!(std::io::stderr(), "{}", usage_text(&e));
            return ExitCode::from(2);
        }
    };
    match dispatch(cli, entrances) {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Told) => ExitCode::from(2),
        // Who reads our output has had enough, as `head` does.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "doppelfs: {}", explained(&e));
            ExitCode::from(2)
        }
    }
}

/// An error and what caused it, each said once: many errors name their cause already.
pub(super) fn explained(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

/// The parser's message under our name, with the flag that was perhaps meant: the parser itself
/// suggests none for short ones.
fn usage_text(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut text = match text.strip_prefix("error: ") {
        Some(rest) => format!("doppelfs: {rest}"),
        None => text,
    };
    let given = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(given)) if error.kind() == ErrorKind::UnknownArgument => given,
        _ => return text,
    };
    if error.get(ContextKind::SuggestedArg).is_none()
        && let Some(near) = nearest_flag(&command(), given.trim_start_matches('-'))
    {
        text += &format!("\n  tip: did you mean '--{near}'?\n");
    }
    text
}

fn nearest_flag(command: &clap::Command, given: &str) -> Option<String> {
    let of_this = command.get_arguments().filter(|a| !a.is_hide_set());
    let mut flags: Vec<String> = of_this
        .filter_map(|a| a.get_long().map(str::to_owned))
        .collect();
    flags.extend(
        command
            .get_subcommands()
            .filter_map(|sub| nearest_flag(sub, given)),
    );
    let ranked = flags
        .into_iter()
        .map(|flag| (strsim::damerau_levenshtein(given, &flag), flag));
    ranked
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, flag)| flag)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(cli: Cli, entrances: &Entrances) -> anyhow::Result<Outcome> {
    let run_dir = std::path::absolute(&cli.run_dir).context("run directory")?;
    // Whatever is made here is for this user alone; who makes files for others gives them their modes.
    sys::set_umask(0o077);
    let config_dir = ConfigDir::of(cli.config_dir.as_deref())?;
    match cli.verb {
        Verb::Mount(args) => mount::mount(&args, &run_dir, &config_dir, entrances),
        Verb::Umount {
            mountpoint,
            timeout,
        } => umount::umount(&mountpoint, &run_dir, seconds(timeout)?),
        Verb::Target(verb) => run_target(verb, &run_dir, &config_dir, entrances),
        Verb::Config(verb) => config::config(&verb, &config_dir),
        Verb::Set(verb) => set::set(&verb, &run_dir, &config_dir, entrances),
        Verb::Restart {
            set,
            timeout,
            keep_options,
            json,
        } => {
            let set = match choose_set(&run_dir, set.as_deref())? {
                Service::Set(set) => set,
                other @ Service::Target(_) => anyhow::bail!("{other} is no set"),
            };
            let told_dir = cli.config_dir.is_some().then_some(&config_dir);
            let manner = restart::Manner {
                config_dir: told_dir,
                keep_options,
                patience: seconds(timeout)?,
                json,
            };
            restart::restart(&run_dir, &set, &manner)
        }
        Verb::Status { set, check, json } => show::status(&run_dir, set.as_deref(), json, check),
        Verb::Stats {
            set,
            target,
            brief,
            follow,
            interval,
            count,
            json,
        } => {
            let service = match target {
                Some(port) => peers::choose_target(&run_dir, port)?,
                None => choose_set(&run_dir, set.as_deref())?,
            };
            let count = if follow { count.unwrap_or(u64::MAX) } else { 1 };
            let interval = seconds(interval)?;
            stats::stats(
                &run_dir,
                &service,
                &stats::Manner {
                    follow,
                    interval,
                    count,
                    json,
                    brief,
                },
            )
        }
        Verb::Queue(QueueVerb::Tail {
            set,
            follow,
            count,
            filter,
            json,
        }) => {
            // What is wrong with the filter is said before anybody is asked.
            let request = queue::request(follow, count, &filter)?;
            let service = choose_set(&run_dir, set.as_deref())?;
            queue::tail(&run_dir, &service, &request, json)
        }
        Verb::Queue(QueueVerb::Show { set, json }) => {
            let service = choose_set(&run_dir, set.as_deref())?;
            queue::show(&run_dir, &service, json)
        }
        Verb::Wait {
            set,
            caught_up: _,
            timeout,
        } => {
            let service = choose_set(&run_dir, set.as_deref())?;
            wait::caught_up(&run_dir, &service, timeout.map(seconds).transpose()?)
        }
        Verb::Pause(args) => pauses::pause(&args, &run_dir),
        Verb::Resume { sets, all } => {
            pauses::each(&run_dir, &sets, all, &Request::Resume, "goes on")
        }
        Verb::Mark { words, all } => pauses::mark(&run_dir, &words, all),
        Verb::Connect { set } => {
            let sets = Vec::from_iter(set);
            pauses::each(&run_dir, &sets, false, &Request::Connect, "connects")
        }
        Verb::Disconnect { set, forget } => {
            let done = match forget {
                true => "disconnected; nothing is kept for its targets, which need a mirror",
                false => "disconnected; the queue keeps what comes",
            };
            let sets = Vec::from_iter(set);
            pauses::each(
                &run_dir,
                &sets,
                false,
                &Request::Disconnect { forget },
                done,
            )
        }
        Verb::Replication(ReplicationVerb::Start { set }) => {
            let sets = Vec::from_iter(set);
            let request = Request::StartReplication;
            pauses::each(
                &run_dir,
                &sets,
                false,
                &request,
                "replicates, with a mirror first",
            )
        }
        Verb::Replication(ReplicationVerb::Stop { set }) => {
            let sets = Vec::from_iter(set);
            let request = Request::StopReplication;
            let done = "stopped; nothing is queued, and its targets need a mirror";
            pauses::each(&run_dir, &sets, false, &request, done)
        }
        Verb::Top(args) => top::top(&run_dir, &args),
        Verb::Pair(args) => peers::pair(&args),
        Verb::Peers(verb) => peers::peers(&verb, &run_dir),
        Verb::Mirror(verb) => run_mirror(verb, &run_dir),
        Verb::Compare {
            left,
            right,
            json,
            metadata_only,
            remap_links,
        } => {
            let depth = if metadata_only {
                Depth::Metadata
            } else {
                Depth::Contents
            };
            let remap = compare::parse_remap(&remap_links)?;
            compare::compare(&left, &right, depth, remap, json)
        }
        Verb::Diag { output } => diag::collect(&run_dir, &config_dir.path, output.as_deref()),
        Verb::Metrics { verb: None } => metrics::print(&run_dir),
        Verb::Metrics {
            verb: Some(MetricsVerb::Serve { listen }),
        } => {
            let config = config_dir.load()?;
            config.refuse_wrong(None)?;
            let configured = config.metrics_listen.map(|(address, _)| address);
            metrics::serve(&run_dir, listen.or(configured))
        }
        Verb::Alerts { json, catalog } => alerts::list(json, catalog),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut shown_commands(), "doppelfs", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(Outcome::Yes)
        }
        Verb::Manual { dir } => manual::write_pages(&dir),
        Verb::FlushPages { mountpoint, device } => {
            flush_pages::flush_pages(&mountpoint, &device)?;
            Ok(Outcome::Yes)
        }
        other => Err(planned(&other)),
    }
}

fn planned(verb: &Verb) -> anyhow::Error {
    let (name, instead) = match verb {
        Verb::Verify(_) => ("verify", "use `doppelfs compare` while nobody writes"),
        Verb::Orphans(_) => ("orphans", "a full mirror removes them"),
        Verb::Restore(_) => ("restore", "copy the replica with rsync -aHAX"),
        Verb::Failover(_) => ("failover", "stop the target and use the replica"),
        Verb::Failback(_) => ("failback", "copy the replica with rsync -aHAX"),
        Verb::Mount(_)
        | Verb::Alerts { .. }
        | Verb::Diag { .. }
        | Verb::Metrics { .. }
        | Verb::Set(_)
        | Verb::Config(_)
        | Verb::Top(_)
        | Verb::Pair(_)
        | Verb::Connect { .. }
        | Verb::Disconnect { .. }
        | Verb::Replication(_)
        | Verb::Pause(_)
        | Verb::Resume { .. }
        | Verb::Mark { .. }
        | Verb::Peers(_)
        | Verb::Umount { .. }
        | Verb::Target(_)
        | Verb::Status { .. }
        | Verb::Stats { .. }
        | Verb::Queue(_)
        | Verb::Wait { .. }
        | Verb::Mirror(_)
        | Verb::Compare { .. }
        | Verb::Restart { .. }
        | Verb::Completions { .. }
        | Verb::FlushPages { .. }
        | Verb::Manual { .. } => ("", ""),
    };
    not_built(name, instead)
}

fn run_target(
    verb: TargetVerb,
    run_dir: &Path,
    config_dir: &ConfigDir,
    entrances: &Entrances,
) -> anyhow::Result<Outcome> {
    match verb {
        TargetVerb::Serve {
            listen,
            root,
            state,
            insecure_loopback,
            confine,
        } => {
            let config = config_dir.load()?;
            config.refuse_wrong(None)?;
            let file = &config.target;
            let path = |flag: Option<PathBuf>, file: Option<&(PathBuf, Place)>| {
                flag.or_else(|| file.map(|(path, _)| path.clone()))
            };
            let text = |flag: Option<String>, file: Option<&(String, Place)>| {
                flag.or_else(|| file.map(|(text, _)| text.clone()))
            };
            let file_insecure = file.insecure_loopback.as_ref().is_some_and(|(on, _)| *on);
            let options = TargetOptions::new(
                text(listen, file.listen.as_ref()).as_deref(),
                path(root, file.root.as_ref()).as_deref(),
                path(state, file.state.as_ref()).as_deref(),
                Some(run_dir),
                insecure_loopback || file_insecure,
            )?;
            let confine = text(confine, file.confine.as_ref());
            let options = options.confined(confine.as_deref())?;
            target::serve(options, entrances)
        }
        TargetVerb::Invite(args) => peers::invite(&args, run_dir),
        TargetVerb::RotateKey {
            finish,
            force,
            port,
        } => peers::rotate_target(run_dir, port, finish, force),
        TargetVerb::Pause(args) => pauses::pause_target(&args, run_dir),
        TargetVerb::Resume { path, port } => pauses::resume_target(run_dir, path, port),
    }
}

fn run_mirror(verb: MirrorVerb, run_dir: &Path) -> anyhow::Result<Outcome> {
    let full = "`doppelfs mirror start --full` sends everything";
    match verb {
        MirrorVerb::Start {
            set,
            full: _,
            difference: false,
            checksum: _,
            newer_only: _,
            checksum_all: false,
            wait,
            timeout,
        } => {
            let timeout = timeout.map(seconds).transpose()?;
            let service = choose_set(run_dir, set.as_deref())?;
            let kind = MirrorKind::Full;
            let request = Request::MirrorStart { kind };
            let client = Client::connect(run_dir, &service)?;
            match client.ask(&request, None)? {
                Reply::MirrorStarted { mirror } => {
                    writeln!(std::io::stdout(), "mirror {mirror} of {service} has begun")?;
                }
                other => unexpected(&service, &other)?,
            }
            match wait {
                true => wait::mirrored(run_dir, &service, timeout),
                false => Ok(Outcome::Yes),
            }
        }
        MirrorVerb::Start {
            difference: true, ..
        } => Err(not_built("mirror start --difference", full)),
        MirrorVerb::Start {
            checksum_all: true, ..
        } => Err(not_built("mirror start --checksum-all", full)),
        MirrorVerb::Pause(_) => Err(not_built("mirror pause", "stop the target")),
        MirrorVerb::Resume(_) => Err(not_built("mirror resume", "start the target")),
        MirrorVerb::Stop(_) => Err(not_built("mirror stop", "let it end")),
    }
}

/// An answer to another question.
pub(super) fn unexpected(service: &Service, reply: &Reply) -> anyhow::Result<()> {
    let text: String = format!("{reply:?}").chars().take(60).collect();
    anyhow::bail!("{service} answered another question ({text}...); are both of one version?")
}

pub(super) fn seconds(number: f64) -> anyhow::Result<std::time::Duration> {
    std::time::Duration::try_from_secs_f64(number)
        .map_err(|_| anyhow::anyhow!("{number} is no number of seconds"))
}

/// The set that was named, or the only one.
pub(super) fn choose_set(run_dir: &Path, name: Option<&str>) -> anyhow::Result<Service> {
    if let Some(name) = name {
        return Ok(Service::Set(SetName::new(name)?));
    }
    let mut sets = control::list_sets(run_dir)?;
    match (sets.pop(), sets.is_empty()) {
        (Some(only), true) => Ok(Service::Set(only)),
        (Some(last), false) => {
            sets.push(last);
            let names: Vec<&str> = sets.iter().map(SetName::as_str).collect();
            anyhow::bail!("there are several sets, name one: {}", names.join(", "))
        }
        (None, _) => anyhow::bail!(
            "no set is mounted (no control socket in {}); `doppelfs mount DIR` protects one",
            run_dir.display()
        ),
    }
}
