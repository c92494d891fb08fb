//! What `doppelfs mount SPEC` means: a configured set by its name or by its directory, or a directory
//! alone; and what holds for it.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::{Configuration, SETS_DIR, SetFile, Settings, default_config_dir};
use crate::sys;
use crate::types::SetName;

/// Where the configuration is, and whether somebody said so.
#[derive(Debug, Clone)]
pub(super) struct ConfigDir {
    pub(super) path: PathBuf,
    is_default: bool,
}

impl ConfigDir {
    pub(super) fn of(asked: Option<&Path>) -> anyhow::Result<ConfigDir> {
        let default = default_config_dir();
        let path = std::path::absolute(asked.unwrap_or(&default));
        Ok(ConfigDir {
            path: path.context("configuration directory")?,
            is_default: asked.is_none(),
        })
    }

    /// Is it for others than this user, who is not root?
    fn is_closed(&self) -> bool {
        let looked = std::fs::metadata(self.path.join(SETS_DIR));
        !sys::is_root() && looked.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied)
    }

    /// The configuration; one that was asked for has to be there.
    pub(super) fn load(&self) -> anyhow::Result<Configuration> {
        if !self.is_default && !self.path.is_dir() {
            bail!(
                "there is no configuration directory {}; create it, or give another with --config-dir",
                self.path.display()
            );
        }
        if self.is_default && self.is_closed() {
            let mut err = std::io::stderr();
            let _ = writeln!(
                err,
                "doppelfs: this user may not read {}, and nothing is taken from there",
                self.path.display()
            );
            return Ok(Configuration::default());
        }
        Ok(Configuration::load(&self.path)?)
    }
}

/// A mount that was asked for, complete.
#[derive(Debug)]
pub(super) struct Meant {
    pub(super) dir: PathBuf,
    pub(super) mountpoint: Option<PathBuf>,
    /// What holds: the command line over the set's file over `[defaults]`.
    pub(super) settings: Settings,
    /// The file of the set, if it has one.
    pub(super) set_file: Option<PathBuf>,
}

/// Finds out what is meant.
pub(super) fn meant(
    spec: &Path,
    mountpoint: Option<&Path>,
    given: &Settings,
    config_dir: &ConfigDir,
) -> anyhow::Result<Meant> {
    let config = config_dir.load()?;
    let set = match named(spec, &config) {
        Some(name) => Some(set_by_name(&name, given, &config)?),
        None => {
            refuse_neither(spec, &config)?;
            set_by_directory(spec, given, &config)?
        }
    };
    config.refuse_wrong(set.map(|set| &set.name))?;
    let own_mountpoint = set.and_then(|set| set.mountpoint.as_ref());
    let own_mountpoint = own_mountpoint.map(|(path, _)| path.clone());
    Ok(Meant {
        dir: set.map_or_else(|| spec.to_owned(), |set| set.path.0.clone()),
        mountpoint: mountpoint.map(Path::to_owned).or(own_mountpoint),
        settings: given.over(&config.settings_for(set)),
        set_file: set.map(|set| set.file.clone()),
    })
}

/// The set's name where the word is one: it has no slash, and there is such a file.
fn named(spec: &Path, config: &Configuration) -> Option<SetName> {
    let text = spec.to_str().filter(|text| !text.contains('/'))?;
    let name = SetName::new(text).ok()?;
    config.file_of(name.as_str()).exists().then_some(name)
}

/// Is there a directory of that name in the current one? What a mount of ours lies over is one, and is not
/// asked.
fn is_directory_here(name: &str) -> bool {
    let whole = std::path::absolute(name).unwrap_or_default();
    let mounts = sys::read_mounts().unwrap_or_default();
    mounts.iter().any(|mount| mount.mountpoint == whole) || Path::new(name).is_dir()
}

/// A word without a slash that is neither a set nor anything else here was to be a set, as in fstab.
fn refuse_neither(spec: &Path, config: &Configuration) -> anyhow::Result<()> {
    let Some(name) = spec.to_str().filter(|text| !text.contains('/')) else {
        return Ok(());
    };
    let is_word = SetName::new(name).is_ok();
    if is_word && !is_directory_here(name) && !Path::new(name).exists() {
        let error = config.set(name).err();
        let error = error.map_or_else(String::new, |error| error.to_string());
        bail!("{error}; and no such directory is in the current one");
    }
    Ok(())
}

fn set_by_name<'a>(
    name: &SetName,
    given: &Settings,
    config: &'a Configuration,
) -> anyhow::Result<&'a SetFile> {
    let file = config.file_of(name.as_str());
    if let Some(other) = last(given, "set")
        && other != name.as_str()
    {
        bail!(
            "the name of a configured set is that of its file ({}), so --set {other} cannot hold; leave \
             it out",
            file.display()
        );
    }
    if is_directory_here(name.as_str()) {
        let mut err = std::io::stderr();
        let _ = writeln!(
            err,
            "doppelfs: {name} is taken for the set of {}; for the directory here write ./{name}",
            file.display()
        );
    }
    config.refuse_wrong(Some(name))?;
    Ok(config.set(name.as_str())?)
}

fn last<'a>(settings: &'a Settings, wanted: &str) -> Option<&'a str> {
    let found = settings.pairs().filter(|(key, _)| *key == wanted).last();
    found.and_then(|(_, value)| value)
}

/// The set whose path the directory is.
fn set_by_directory<'a>(
    spec: &Path,
    given: &Settings,
    config: &'a Configuration,
) -> anyhow::Result<Option<&'a SetFile>> {
    let places = places_of(spec);
    let is_it = |set: &SetFile| places_of(&set.path.0).iter().any(|p| places.contains(p));
    let base = places.first().and_then(|path| path.file_name());
    let base = base.map(|name| name.to_string_lossy().into_owned());
    let asked = last(given, "set");
    if let Some(name) = asked.or(base.as_deref()).and_then(|n| SetName::new(n).ok()) {
        let file = config.file_of(name.as_str());
        let is_broken = file.exists() && config.set(name.as_str()).is_err();
        if is_broken {
            config.refuse_wrong(Some(&name))?;
        }
        let same_name = config.set(name.as_str()).ok();
        let has_own = config.sets.iter().any(is_it);
        match same_name {
            Some(set) if is_it(set) => return Ok(Some(set)),
            // Its state would become that of this directory.
            Some(set) if asked.is_some() || !has_own => bail!(
                "{name} is the name of the set of {}, which protects {}; give another with --set NAME",
                file.display(),
                set.path.0.display()
            ),
            _ => {}
        }
    }
    let found: Vec<&SetFile> = config.sets.iter().filter(|set| is_it(set)).collect();
    match (found.as_slice(), asked) {
        ([], _) => Ok(None),
        ([set], None) => Ok(Some(set)),
        ([set, ..], Some(name)) => {
            let mut err = std::io::stderr();
            let _ = writeln!(
                err,
                "doppelfs: {} is the path of set {} ({}), of which nothing is taken, since the name is \
                 to be {name}",
                spec.display(),
                set.name,
                set.file.display()
            );
            Ok(None)
        }
        ([one, other, ..], None) => bail!(
            "{} is the path of several sets ({}, {}); `doppelfs config check` shows all that is wrong",
            spec.display(),
            one.file.display(),
            other.file.display()
        ),
    }
}

/// The path as it is written, and with its parents' symbolic links resolved: what it names itself may
/// be a mount that does not answer.
fn places_of(path: &Path) -> Vec<PathBuf> {
    let Ok(whole) = std::path::absolute(path) else {
        return Vec::new();
    };
    let plain: PathBuf = whole.components().collect();
    let real = match (plain.parent(), plain.file_name()) {
        (Some(parent), Some(name)) => std::fs::canonicalize(parent).map(|p| p.join(name)).ok(),
        _ => None,
    };
    let mut places = vec![plain];
    places.extend(real);
    places
}
