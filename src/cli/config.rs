//! `doppelfs config`: what the files say, and what is wrong with it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Serialize;
use serde_json::json;

use super::run::Outcome;
use super::set_args::ConfigVerb;
use super::spec::ConfigDir;
use crate::config::{
    Configuration, Effective, Problem, check_configuration, check_fstab, effective_general,
    effective_set, read_fstab,
};

pub(super) fn config(verb: &ConfigVerb, config_dir: &ConfigDir) -> anyhow::Result<Outcome> {
    match verb {
        ConfigVerb::Check { files, json, fstab } => check(config_dir, files, fstab, *json),
        ConfigVerb::Show { set: None, json } => show_general(config_dir, *json),
        ConfigVerb::Show {
            set: Some(set),
            json,
        } => show_set(config_dir, set, *json),
    }
}

fn check(
    config_dir: &ConfigDir,
    files: &[PathBuf],
    fstab: &Path,
    json: bool,
) -> anyhow::Result<Outcome> {
    let (config, lines) = match files {
        [] => (config_dir.load()?, lines_of(fstab)?),
        files => {
            let files: Result<Vec<PathBuf>, _> = files.iter().map(std::path::absolute).collect();
            let config = Configuration::load_files(&config_dir.path, &files?)?;
            (config, Vec::new())
        }
    };
    let mut problems = config.problems.clone();
    problems.extend(check_configuration(&config));
    problems.extend(check_fstab(&config, &lines));
    problems.sort();
    problems.dedup();
    report(&config.files, &problems, json)
}

/// A machine may do without fstab.
fn lines_of(fstab: &Path) -> anyhow::Result<Vec<crate::config::FstabLine>> {
    match fstab.try_exists() {
        Ok(false) if fstab == Path::new("/etc/fstab") => Ok(Vec::new()),
        _ => Ok(read_fstab(fstab)?),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    files: &'a [PathBuf],
    problems: &'a [Problem],
}

/// Prints what is wrong; is it nothing but warnings?
pub(super) fn report(
    files: &[PathBuf],
    problems: &[Problem],
    json: bool,
) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    if json {
        let report = Report {
            version: 1,
            files,
            problems,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for problem in problems {
            writeln!(out, "{problem}")?;
        }
        let warnings = problems.len() - errors;
        let count = |n: usize, what: &str| match n {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            n => format!("{n} {what}s"),
        };
        writeln!(
            out,
            "{}: {}, {}",
            count(files.len(), "file"),
            count(errors, "error"),
            count(warnings, "warning")
        )?;
    }
    Ok(if errors == 0 {
        Outcome::Yes
    } else {
        Outcome::No
    })
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'static str,
    value: &'a crate::config::Shown,
    from: String,
}

fn origin(one: &Effective) -> String {
    let from = one.from.as_ref();
    from.map_or_else(|| "default".to_owned(), |place| place.in_short())
}

fn as_json(values: &[Effective]) -> anyhow::Result<serde_json::Value> {
    let line = |one: &Effective| {
        serde_json::to_value(Line {
            key: one.key,
            value: &one.value,
            from: origin(one),
        })
    };
    let lines: Result<Vec<serde_json::Value>, _> = values.iter().map(line).collect();
    Ok(lines?.into())
}

fn as_text(out: &mut impl Write, values: &[Effective]) -> std::io::Result<()> {
    let lines: Vec<String> = values
        .iter()
        .map(|one| format!("{} = {}", one.key, one.value))
        .collect();
    let width = lines.iter().map(|line| line.chars().count()).max();
    for (line, one) in lines.iter().zip(values) {
        let padding = width.unwrap_or(0) - line.chars().count();
        writeln!(out, "{line}{:padding$}  # {}", "", origin(one))?;
    }
    Ok(())
}

pub(super) fn show_set(config_dir: &ConfigDir, name: &str, json: bool) -> anyhow::Result<Outcome> {
    let config = config_dir.load()?;
    let Ok(set) = config.set(name) else {
        // A file without a path is no set, and what is wrong with it is the answer.
        if let Ok(name) = crate::types::SetName::new(name) {
            config.refuse_wrong(Some(&name))?;
        }
        config.set(name)?;
        bail!("there is no set {name}");
    };
    config.refuse_wrong(Some(&set.name))?;
    let values = effective_set(&config, set)?;
    let mut out = std::io::stdout().lock();
    if json {
        let shown = json!({
            "version": 1, "set": set.name.as_str(), "file": set.file, "values": as_json(&values)?,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
    } else {
        writeln!(out, "# set {}: {}", set.name, set.file.display())?;
        as_text(&mut out, &values)?;
    }
    Ok(Outcome::Yes)
}

fn show_general(config_dir: &ConfigDir, json: bool) -> anyhow::Result<Outcome> {
    let config = config_dir.load()?;
    if config.problems.iter().any(Problem::is_error) {
        let mut err = std::io::stderr();
        writeln!(
            err,
            "doppelfs: the configuration has mistakes, and what is shown here may miss something: \
             `doppelfs config check` shows them"
        )?;
    }
    let sections = effective_general(&config)?;
    let defaults: Vec<serde_json::Value> = config
        .defaults
        .iter()
        .map(
            |given| json!({"key": given.key, "value": given.shown(), "from": given.place.in_short()}),
        )
        .collect();
    let names: Vec<&str> = config.sets.iter().map(|set| set.name.as_str()).collect();
    let mut out = std::io::stdout().lock();
    if json {
        let mut shown = json!({
            "version": 1, "dir": config.dir, "defaults": defaults, "sets": names,
        });
        for (section, values) in &sections {
            shown[*section] = as_json(values)?;
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
        return Ok(Outcome::Yes);
    }
    writeln!(out, "# {}", config.dir.display())?;
    writeln!(out, "[defaults]")?;
    for given in &config.defaults {
        let value = given.value.as_deref().unwrap_or("yes");
        writeln!(
            out,
            "{} = {value:?}  # {}",
            given.key,
            given.place.in_short()
        )?;
    }
    for (section, values) in &sections {
        writeln!(out, "\n[{section}]")?;
        as_text(&mut out, values)?;
    }
    let listed = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    writeln!(
        out,
        "\n# sets: {listed}; `doppelfs config show SET` shows one"
    )?;
    Ok(Outcome::Yes)
}
