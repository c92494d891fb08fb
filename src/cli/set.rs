//! `doppelfs set`: the sets that are configured.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::config::{report, show_set};
use super::mount::add_options;
use super::paper::table;
use super::run::{Entrances, Outcome, not_built};
use super::set_args::{CreateArgs, SetVerb};
use super::spec::ConfigDir;
use crate::config::{
    Configuration, MountOptions, Problem, SetFile, Settings, Severity, Surroundings,
    check_configuration, check_mount, create_set, set_text,
};
use crate::control::{Server, Service};
use crate::sys;
use crate::types::SetName;

pub(super) fn set(
    verb: &SetVerb,
    run_dir: &Path,
    config_dir: &ConfigDir,
    entrances: &Entrances,
) -> anyhow::Result<Outcome> {
    match verb {
        SetVerb::List { json } => list(run_dir, config_dir, *json),
        SetVerb::Show { name, json } => show_set(config_dir, name, *json),
        SetVerb::Create(args) => create(args, config_dir),
        SetVerb::Check { name, json } => {
            check(run_dir, config_dir, name.as_deref(), *json, entrances)
        }
        SetVerb::Rename(_) => Err(not_built(
            "set rename",
            "unmount the set, rename its file in sets.d, and say state = \"...\" in it",
        )),
        SetVerb::Copy(_) => Err(not_built("set copy", "copy its file in sets.d and edit it")),
        SetVerb::Delete(_) => Err(not_built(
            "set delete",
            "unmount the set, remove its file in sets.d and its state directory",
        )),
        SetVerb::Size(_) => Err(not_built("set size", "use du(1)")),
    }
}

fn is_mounted(run_dir: &Path, set: &SetName) -> bool {
    Server::is_running(run_dir, &Service::Set(set.clone()))
}

fn list(run_dir: &Path, config_dir: &ConfigDir, json: bool) -> anyhow::Result<Outcome> {
    let config = config_dir.load()?;
    let targets = |set: &SetFile| -> Vec<String> {
        let targets = set.given.iter().filter(|given| given.key == "target");
        targets.filter_map(|given| given.value.clone()).collect()
    };
    let mut out = std::io::stdout().lock();
    if json {
        let sets: Vec<serde_json::Value> = config
            .sets
            .iter()
            .map(|set| {
                json!({
                    "name": set.name.as_str(),
                    "path": set.path.0,
                    "mountpoint": set.served_at(),
                    "targets": targets(set),
                    "file": set.file,
                    "mounted": is_mounted(run_dir, &set.name),
                })
            })
            .collect();
        let shown = json!({"version": 1, "sets": sets});
        writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
    } else {
        let header = ["SET", "PATH", "MOUNT POINT", "TARGETS", "MOUNTED"].map(str::to_owned);
        let mut rows = vec![header.to_vec()];
        rows.extend(config.sets.iter().map(|set| {
            let mounted = is_mounted(run_dir, &set.name);
            vec![
                set.name.to_string(),
                set.path.0.display().to_string(),
                set.served_at().display().to_string(),
                targets(set).join(" "),
                if mounted { "yes" } else { "no" }.to_owned(),
            ]
        }));
        write!(out, "{}", table(&rows))?;
    }
    drop(out);
    if config.problems.iter().any(Problem::is_error) {
        let mut err = std::io::stderr();
        writeln!(
            err,
            "doppelfs: the configuration has mistakes, and sets may be missing here: `doppelfs config \
             check` shows them"
        )?;
    }
    Ok(Outcome::Yes)
}

fn create(args: &CreateArgs, config_dir: &ConfigDir) -> anyhow::Result<Outcome> {
    let name = SetName::new(&args.name)?;
    let mut config = config_dir.load()?;
    config.refuse_wrong(Some(&name))?;
    let mut settings = Settings::new();
    add_options(&mut settings, &args.asked, false)?;
    let whole = |path: &Path| -> anyhow::Result<std::path::PathBuf> {
        let path = std::path::absolute(path).context("a path")?;
        Ok(path.components().collect())
    };
    let path = whole(&args.path)?;
    let mountpoint = args.mountpoint.as_deref().map(whole).transpose()?;
    let text = set_text(&name, &path, mountpoint.as_deref(), &settings)?;
    let mut out = std::io::stdout().lock();
    if args.dry_run {
        write!(out, "{text}")?;
        return Ok(Outcome::Yes);
    }
    let (file, warnings) = create_set(&mut config, &name, &text)?;
    for warning in warnings {
        writeln!(std::io::stderr(), "doppelfs: {warning}")?;
    }
    writeln!(
        out,
        "{} is written; `doppelfs mount {name}` mounts the set, `systemctl enable --now \
         doppelfs@{name}.service` at every boot",
        file.display()
    )?;
    Ok(Outcome::Yes)
}

/// All that can be found out about a set without mounting it.
fn check(
    run_dir: &Path,
    config_dir: &ConfigDir,
    name: Option<&str>,
    json: bool,
    entrances: &Entrances,
) -> anyhow::Result<Outcome> {
    let mut config = config_dir.load()?;
    let names: Vec<SetName> = match name {
        Some(name) => vec![SetName::new(name)?],
        None => config.sets.iter().map(|set| set.name.clone()).collect(),
    };
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    if name.is_none() {
        problems.extend(config.problems.clone());
        files.clone_from(&config.files);
    }
    for name in names {
        let file = config.file_of(name.as_str());
        if !file.exists() {
            config.set(name.as_str())?;
        }
        // What two sets have in common is found at the later one.
        config.sets.sort_by_key(|set| set.name == name);
        let sets_dir = file.parent().map(Path::to_owned);
        let mut own: Vec<Problem> = config.problems.clone();
        own.retain(|problem| {
            let place = &problem.place.file;
            *place == file || place.parent() != sets_dir.as_deref()
        });
        // What two sets have in common need not be this one's mistake, and `mount` refuses what is mounted
        // already: it does not keep this set from being mounted.
        let cross = check_configuration(&config).into_iter();
        own.extend(cross.filter(|p| p.place.file == file).map(|p| Problem {
            severity: Severity::Warning,
            ..p
        }));
        if let Ok(set) = config.set(name.as_str())
            && !own.iter().any(Problem::is_error)
        {
            own.extend(probe(run_dir, &config, set, entrances)?);
        }
        problems.extend(own);
        files.push(file);
    }
    problems.sort();
    problems.dedup();
    files.sort();
    files.dedup();
    report(&files, &problems, json)
}

/// What a mount would say.
fn probe(
    run_dir: &Path,
    config: &Configuration,
    set: &SetFile,
    entrances: &Entrances,
) -> anyhow::Result<Option<Problem>> {
    let say = |severity: Severity, message: String| {
        Some(Problem {
            place: set.path.1.clone(),
            severity,
            message,
        })
    };
    if is_mounted(run_dir, &set.name) {
        return Ok(None);
    }
    if !sys::is_root() {
        let text = "only root can find out whether the directory can be mounted";
        return Ok(say(Severity::Warning, text.to_owned()));
    }
    let mut own_dir = Settings::new();
    let text = run_dir.to_str().context("the run directory is not UTF-8")?;
    own_dir.set("run-dir", Some(text))?;
    let settings = own_dir.over(&config.settings_for(Some(set)));
    let mountpoint = set.mountpoint.as_ref().map(|(path, _)| path.as_path());
    let mut options = MountOptions::new(&set.path.0, mountpoint, &settings)?;
    if let Err(refusal) = check_mount(&mut options, &Surroundings::look(run_dir)) {
        // What is mounted now is no mistake of the configuration, and a mount looks again.
        let severity = match refusal.is_of_a_process() {
            true => Severity::Warning,
            false => Severity::Error,
        };
        return Ok(say(severity, refusal.to_string()));
    }
    let probed = (entrances.probe)(&options);
    Ok(probed
        .err()
        .and_then(|error| say(Severity::Error, super::run::explained(&error))))
}
