//! `doppelfs mount`: check, then serve here or start a worker that does.

use anyhow::Context;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::args::{MountArgs, OptionArgs};
use super::log::start_log;
use super::options_file::OptionsFile;
use super::run::{Entrances, Outcome, explained};
use super::spec::{self, ConfigDir, Meant};
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
    add_options(&mut settings, &args.asked, args.sloppy)?;
    if let Some(name) = &args.set {
        settings.set("set", Some(name))?;
    }
    if args.foreground {
        settings.set("foreground", None)?;
    }
    Ok(settings)
}

/// Adds the options of a set.
pub(super) fn add_options(
    settings: &mut Settings,
    asked: &OptionArgs,
    sloppy: bool,
) -> anyhow::Result<()> {
    for options in &asked.options {
        let sloppy = if sloppy { "sloppy," } else { "" };
        settings.add_options(&format!("{sloppy}{options}"))?;
    }
    let values = [
        ("state", &asked.state),
        ("keys", &asked.keys),
        ("order", &asked.order),
        ("flush-interval", &asked.flush_interval),
        ("journal-wait", &asked.journal_wait),
        ("queue-disk-max", &asked.queue_disk_max),
        ("queue-free-min", &asked.queue_free_min),
        ("queue-memory", &asked.queue_memory),
        ("queue-alert", &asked.queue_alert),
        ("queue-dir", &asked.queue_dir),
        ("auto-remirror", &asked.auto_remirror),
        ("insecure-loopback", &asked.insecure_loopback),
        ("read-only", &asked.read_only),
        ("atime", &asked.atime),
        ("remap-links", &asked.remap_links),
        ("strict-cover", &asked.strict_cover),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            settings.set(key, Some(value))?;
        }
    }
    for target in &asked.target {
        settings.set("target", Some(target))?;
    }
    Ok(())
}

pub(super) fn mount(
    args: &MountArgs,
    run_dir: &Path,
    config_dir: &ConfigDir,
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
    match serve_or_start(args, run_dir, config_dir, entrances, &ready) {
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
    config_dir: &ConfigDir,
    entrances: &Entrances,
    ready: &Ready,
) -> anyhow::Result<u8> {
    let given = settings(args, run_dir)?;
    if Line::is_there() {
        // A supervisor has looked at everything; by now its mount may be in the way.
        let options = worker_options(args, &given)?;
        start_log(args.ready_on_stdin.then(|| log_of(&options)));
        return (entrances.source)(options, ready.clone()).map(|()| 0);
    }
    // Whoever starts a supervisor in the background has found out what is meant.
    let meant = match args.ready_on_stdin {
        true => Meant {
            dir: args.dir.clone(),
            mountpoint: args.mountpoint.clone(),
            settings: given.clone(),
            set_file: args.set_file.clone(),
        },
        false => spec::meant(&args.dir, args.mountpoint.as_deref(), &given, config_dir)?,
    };
    let settings = &meant.settings;
    let mut options = MountOptions::new(&meant.dir, meant.mountpoint.as_deref(), settings)?;
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
        let given = match args.ready_on_stdin {
            true => parse_given(&args.given)?,
            false => given,
        };
        let file = OptionsFile::new(
            &config_dir.path,
            meant.set_file.as_deref(),
            (&options.dir, &options.mountpoint),
            &given,
            settings,
        );
        file.write(&options.run_dir, &options.set)?;
        let charge = Charge {
            program,
            words: worker_words(kind, &options, settings),
            set: options.set.clone(),
            run_dir: options.run_dir.clone(),
            mountpoint: options.mountpoint.clone(),
            stdin: ready.hand_over(),
        };
        let ended = supervisor::supervise(charge).context("cannot supervise a worker");
        // Not where another supervisor has the name by now.
        if OptionsFile::read(&options.run_dir, &options.set, std::process::id()).is_some() {
            let _ = std::fs::remove_file(OptionsFile::path(&options.run_dir, &options.set));
        }
        return ended;
    }
    let mut words = vec!["--config-dir".into(), config_dir.path.clone().into()];
    words.extend(worker_words(READY_ON_STDIN, &options, settings));
    // Before the directory, which stands behind `--`.
    let end = words.len() - 3;
    let mut known: Vec<OsString> = given_words(&given);
    if let Some(file) = &meant.set_file {
        known.extend(["--set-file".into(), file.into()]);
    }
    words.splice(end..end, known);
    supervisor::start_worker(&program, &words, &log_of(&options))?;
    Ok(0)
}

/// What the command line said, for the process that tells it to those that come later.
fn given_words(given: &Settings) -> Vec<OsString> {
    let word = |(key, value): (&str, Option<&str>)| match value {
        Some(value) => format!("--given={key}={value}").into(),
        None => format!("--given={key}").into(),
    };
    given.pairs().map(word).collect()
}

fn parse_given(words: &[String]) -> anyhow::Result<Settings> {
    let mut given = Settings::new();
    for word in words {
        match word.split_once('=') {
            Some((key, value)) => given.set(key, Some(value))?,
            None => given.set(word, None)?,
        }
    }
    Ok(given)
}

/// The options of a worker: its words, and what was loaded anew since its mount was made.
fn worker_options(args: &MountArgs, given: &Settings) -> anyhow::Result<MountOptions> {
    let of =
        |settings: &Settings| MountOptions::new(&args.dir, args.mountpoint.as_deref(), settings);
    let options = of(given)?;
    let supervisor = std::os::unix::process::parent_id();
    let Some(file) = OptionsFile::read(&options.run_dir, &options.set, supervisor) else {
        return Ok(options);
    };
    // Whatever stands there, the mount needs a worker.
    Ok(of(&file.renew(given)).unwrap_or(options))
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
