//! Writing the file of a set.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::document::parse_document;
use super::effective::{Shown, quoted};
use super::given::reason_against;
use super::set_file::parse_set;
use super::{ConfigError, Configuration, KeyUse, MOUNT_KEYS, Problem, Settings, parse_switch};
use crate::types::SetName;

/// The file of a set with these settings.
///
/// # Errors
/// [`ConfigError::NotInFiles`].
pub fn set_text(
    name: &SetName,
    path: &Path,
    mountpoint: Option<&Path>,
    settings: &Settings,
) -> Result<String, ConfigError> {
    let not_here = |key: &str, reason: String| ConfigError::NotInFiles {
        key: key.to_owned(),
        reason,
    };
    let path_text = |key: &str, path: &Path| match path.to_str() {
        Some(text) => Ok(quoted(text)),
        None => Err(not_here(key, format!("{path:?} is no UTF-8"))),
    };
    let mut text = format!("# Set {name} of doppelfs: docs/configuration.md lists the keys.\n");
    text += &format!("path = {}\n", path_text("path", path)?);
    if let Some(mountpoint) = mountpoint {
        text += &format!("mountpoint = {}\n", path_text("mountpoint", mountpoint)?);
    }
    let targets = settings.pairs().filter(|(key, _)| *key == "target");
    let targets = targets.filter_map(|(_, value)| value.map(str::to_owned));
    let targets = Shown::List(targets.collect());
    if targets != Shown::List(Vec::new()) {
        text += &format!("targets = {targets}\n");
    }
    let mut lines: Vec<(String, String)> = Vec::new();
    for (key, value) in settings.pairs().filter(|(key, _)| *key != "target") {
        if matches!(key, "set" | "run-dir") {
            continue;
        }
        let key = if key == "ro" { "read-only" } else { key };
        if let Some(reason) = reason_against(key) {
            return Err(not_here(key, reason.to_owned()));
        }
        let usage = MOUNT_KEYS.iter().find(|(known, _)| *known == key);
        let value = match (usage, value) {
            (None, _) => "true".to_owned(),
            (Some((_, KeyUse::Flag | KeyUse::Switch)), value) => {
                let on = parse_switch(key, value.unwrap_or("yes"));
                on.map_err(|e| not_here(key, e.to_string()))?.to_string()
            }
            (Some((_, KeyUse::Path)), Some(value)) => {
                let whole = std::path::absolute(value);
                path_text(key, &whole.map_err(|e| not_here(key, e.to_string()))?)?
            }
            (Some(_), value) => quoted(value.unwrap_or_default()),
        };
        // A later one replaces an earlier one.
        lines.retain(|(known, _)| known != key);
        lines.push((key.to_owned(), value));
    }
    for (key, value) in lines {
        text += &format!("{key} = {value}\n");
    }
    Ok(text)
}

/// Writes the file of a set, whole or not at all, and durably; one that is there stays. Everybody may
/// read it: what is secret stands beside the keys. Returns its path and what is wrong with it that is
/// no error.
///
/// # Errors
/// [`ConfigError`]; nothing was written.
pub fn create_set(
    config: &mut Configuration,
    name: &SetName,
    text: &str,
) -> Result<(PathBuf, Vec<Problem>), ConfigError> {
    let file = config.file_of(name.as_str());
    if std::fs::symlink_metadata(&file).is_ok() {
        return Err(ConfigError::Exists(file));
    }
    // What will be read from it must be right, by itself and beside the others.
    let mut problems = Vec::new();
    let entries = parse_document(&file, text, &mut problems);
    let set = parse_set(&file, entries, &config.defaults, &mut problems);
    config.sets.extend(set);
    problems.extend(super::check_configuration(config));
    problems.retain(|problem| problem.place.file == file);
    if problems.iter().any(Problem::is_error) {
        return Err(ConfigError::Wrong(problems));
    }
    publish(&file, text)?;
    Ok((file, problems))
}

fn publish(file: &Path, text: &str) -> Result<(), ConfigError> {
    fn fail(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ConfigError {
        let path = path.to_owned();
        move |e| ConfigError::Unwritable {
            operation,
            path,
            reason: e.to_string(),
        }
    }
    let dir = file.parent().unwrap_or(Path::new("/"));
    for dir in [dir.parent().unwrap_or(dir), dir] {
        if !dir.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
            made.map_err(fail("create", dir))?;
            let mode = std::fs::set_permissions(dir, Permissions::from_mode(0o755));
            mode.map_err(fail("create", dir))?;
        }
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Hidden: it is read as no set when this is cut short.
    let fresh = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut out = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&fresh)?;
        out.set_permissions(Permissions::from_mode(0o644))?;
        out.write_all(text.as_bytes())?;
        out.sync_all()
    };
    let written = write().map_err(fail("write", &fresh));
    // A link, unlike a rename, replaces nothing.
    let linked = written.and_then(|()| match std::fs::hard_link(&fresh, file) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(ConfigError::Exists(file.to_owned())),
        other => other.map_err(fail("create", file)),
    });
    let _ = std::fs::remove_file(&fresh);
    linked?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(fail("sync", dir))
}
