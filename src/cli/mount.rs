//! `doppelfs mount`: check, then serve here or start a worker that does.

use anyhow::Context;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::args::MountArgs;
use super::log::start_log;
use super::run::{Entrances, Outcome, explained};
use crate::config::{
    MountOptions, Role, Settings, StateOwner, Surroundings, check_mount, claim_state, is_held,
};
use crate::supervisor::{self, Charge, Line, Ready, Supervision};

/// Collects what was asked for: the environment's run directory, then `-o`, then flags; later wins.
pub(super) fn settings(args: &MountArgs, run_dir: &Path) -> anyhow::Result<Settings> {
    let mut settings = Settings::new();
    let text = run_dir.to_str().with_context(|| {
        format!("the run directory {run_dir:?} is not UTF-8; give another with --run-dir")
    })?;
    settings.set("run-dir", Some(text))?;
    for options in &args.options {
        let sloppy = if args.sloppy { "sloppy," } else { "" };
        settings.add_options(&format!("{sloppy}{options}"))?;
    }
    let values = [
        ("set", &args.set),
        ("state", &args.state),
        ("keys", &args.keys),
        ("order", &args.order),
        ("journal-wait", &args.journal_wait),
        ("queue-disk-max", &args.queue_disk_max),
        ("queue-free-min", &args.queue_free_min),
        ("queue-memory", &args.queue_memory),
        ("queue-alert", &args.queue_alert),
        ("queue-dir", &args.queue_dir),
        ("auto-remirror", &args.auto_remirror),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            settings.set(key, Some(value))?;
        }
    }
    let flags = [
        ("insecure-loopback", args.insecure_loopback),
        ("foreground", args.foreground),
        ("read-only", args.read_only),
        ("atime", args.atime),
        ("remap-links", args.remap_links),
        ("strict-cover", args.strict_cover),
    ];
    for (key, given) in flags {
        if given {
            settings.set(key, None)?;
        }
    }
    for target in &args.target {
        settings.set("target", Some(target))?;
    }
    Ok(settings)
}

pub(super) fn mount(
    args: &MountArgs,
    run_dir: &Path,
    entrances: &Entrances,
) -> anyhow::Result<Outcome> {
    let ready = if args.ready_on_stdin {
        if !Line::is_there() {
            supervisor::detach()?;
        }
        Ready::on_stdin().context("--ready-on-stdin")?
    } else {
        Ready::on_stdout()
    };
    match serve_or_start(args, run_dir, entrances, &ready) {
        Ok(0) => Ok(Outcome::Yes),
        // Its last worker has said why.
        Ok(_) => Ok(Outcome::Told),
        // In the background the parent prints it; the log keeps it, too.
        Err(error) if ready.refuse(&explained(&error)) => {
            let _ = writeln!(std::io::stderr(), "doppelfs: {}", explained(&error));
            Ok(Outcome::Told)
        }
        Err(error) => Err(error),
    }
}

fn serve_or_start(
    args: &MountArgs,
    run_dir: &Path,
    entrances: &Entrances,
    ready: &Ready,
) -> anyhow::Result<u8> {
    let settings = settings(args, run_dir)?;
    let mut options = MountOptions::new(&args.dir, args.mountpoint.as_deref(), &settings)?;
    if Line::is_there() {
        // A supervisor has looked at everything; by now its mount may be in the way.
        start_log(args.ready_on_stdin.then(|| log_of(&options)));
        return (entrances.source)(options, ready.clone()).map(|()| 0);
    }
    check(&mut options)?;
    (entrances.probe)(&options)?;
    let owner = StateOwner::new(Role::Source, options.set.as_str(), &options.dir);
    claim_state(&options.state_dir, &owner)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    if options.foreground || args.ready_on_stdin {
        start_log((!options.foreground).then(|| log_of(&options)));
        let kind = if options.foreground {
            "-f"
        } else {
            READY_ON_STDIN
        };
        let charge = Charge {
            program,
            words: worker_words(kind, &options, &settings),
            set: options.set.clone(),
            run_dir: options.run_dir.clone(),
            mountpoint: options.mountpoint.clone(),
            stdin: ready.hand_over(),
        };
        return supervisor::supervise(charge).context("cannot supervise a worker");
    }
    let words = worker_words(READY_ON_STDIN, &options, &settings);
    supervisor::start_worker(&program, &words, &log_of(&options))?;
    Ok(0)
}

/// Looks whether the directory can be mounted. Processes of the set that were just killed hold its name
/// and the mount until they are gone, which is waited for.
fn check(options: &mut MountOptions) -> anyhow::Result<()> {
    /// Whoever is killed does not look so at once.
    const DOUBT: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(5);
    let (run_dir, set) = (options.run_dir.clone(), options.set.clone());
    let began = Instant::now();
    loop {
        let mut checked = options.clone();
        let outcome = check_mount(&mut checked, &Surroundings::look(&run_dir));
        let is_in_the_way = match &outcome {
            Ok(()) => is_held(&run_dir, &set) == Some(true),
            Err(refusal) => refusal.is_of_a_process(),
        };
        let patience = match Supervision::is_dead(&run_dir, &set) {
            true => PATIENCE,
            false => DOUBT,
        };
        if is_in_the_way && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        outcome?;
        *options = checked;
        return Ok(());
    }
}

/// The log of what runs in the background.
fn log_of(options: &MountOptions) -> PathBuf {
    options.state_dir.join("log/worker.log")
}

const READY_ON_STDIN: &str = "--ready-on-stdin";

/// The command line of the worker: the same settings, with all paths made absolute.
fn worker_words(kind: &str, options: &MountOptions, settings: &Settings) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["mount".into(), kind.into()];
    for (key, value) in settings.pairs() {
        let text = match (key, value) {
            ("foreground" | "sloppy" | "run-dir" | "state" | "keys" | "queue-dir", _) => continue,
            (key, Some(value)) => format!("{key}=\"{value}\""),
            (key, None) => key.to_owned(),
        };
        words.extend(["-o".into(), text.into()]);
    }
    let mut path = |flag: &str, path: &Path| {
        words.extend([flag.into(), path.as_os_str().to_owned()]);
    };
    path("--run-dir", &options.run_dir);
    path("--state", &options.state_dir);
    path("--queue-dir", &options.queue_dir);
    path("--keys", &options.keys_dir);
    path("--", &options.dir);
    words.push(options.mountpoint.clone().into());
    words
}
