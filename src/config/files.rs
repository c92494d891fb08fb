//! The configuration files: `doppelfs.toml` and `sets.d/*.toml` in one directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::document::{judge_owner, read_document};
use super::given::{Given, settings_of};
use super::keys::nearest_of;
use super::set_file::{SetFile, parse_set};
use super::target_file::{TargetFile, parse_general};
use super::{ConfigError, Place, Problem, Settings};
use crate::types::SetName;

/// `/etc/doppelfs`.
pub fn default_config_dir() -> PathBuf {
    PathBuf::from("/etc/doppelfs")
}

/// The file for everything that is not of one set.
pub const GENERAL_FILE: &str = "doppelfs.toml";

/// The directory of the sets' files.
pub const SETS_DIR: &str = "sets.d";

/// Where the exporter of metrics listens unless told otherwise.
pub const METRICS_LISTEN_DEFAULT: &str = "127.0.0.1:7421";

/// What the files say, as far as it can be read, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// The directory.
    pub dir: PathBuf,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// `[defaults]`: for every mount.
    pub defaults: Vec<Given>,
    /// `[target]`.
    pub target: TargetFile,
    /// `[metrics] listen`.
    pub metrics_listen: Option<(SocketAddr, Place)>,
    /// The sets, by name.
    pub sets: Vec<SetFile>,
    /// What is wrong, in the order of files and places.
    pub problems: Vec<Problem>,
}

impl Configuration {
    /// Reads what is there; no directory at all is an empty configuration.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn load(dir: &Path) -> Result<Configuration, ConfigError> {
        let mut config = Configuration {
            dir: dir.to_owned(),
            ..Configuration::default()
        };
        let sets = dir.join(SETS_DIR);
        for dir in [dir, &sets] {
            if let Ok(found) = std::fs::metadata(dir) {
                config.problems.extend(judge_owner(dir, &found));
            }
        }
        let general = dir.join(GENERAL_FILE);
        if is_there(&general)? {
            config.read_or_note(&general);
        }
        let mut files = Vec::new();
        if is_there(&sets)? {
            let unreadable = |e: std::io::Error| ConfigError::Unreadable {
                path: sets.clone(),
                reason: e.to_string(),
            };
            for entry in std::fs::read_dir(&sets).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                // What editors leave behind, and what is being written, has other names.
                let is_hidden = path
                    .file_name()
                    .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
                if path.extension().is_some_and(|e| e == "toml") && !is_hidden {
                    files.push(path);
                }
            }
        }
        files.sort();
        for file in files {
            config.read_or_note(&file);
        }
        Ok(config)
    }

    /// A file that cannot be read stands in the way of what it is for, and not of all others.
    fn read_or_note(&mut self, file: &Path) {
        if let Err(error) = self.read(file) {
            let problem = Problem::error(&Place::beginning(file), error.to_string());
            self.problems.push(problem);
            self.files.push(file.to_owned());
        }
    }

    /// Reads these files only, each for what its name says.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn load_files(dir: &Path, files: &[PathBuf]) -> Result<Configuration, ConfigError> {
        let mut config = Configuration {
            dir: dir.to_owned(),
            ..Configuration::default()
        };
        // What all sets have by default comes first.
        let mut files: Vec<&PathBuf> = files.iter().collect();
        files.sort_by_key(|file| file.file_name().is_none_or(|name| name != GENERAL_FILE));
        for file in files {
            config.read(file)?;
        }
        Ok(config)
    }

    fn read(&mut self, file: &Path) -> Result<(), ConfigError> {
        let entries = read_document(file, &mut self.problems)?;
        self.files.push(file.to_owned());
        if file.file_name().is_some_and(|name| name == GENERAL_FILE) {
            parse_general(file, entries, self);
        } else {
            let found = parse_set(file, entries, &self.defaults, &mut self.problems);
            self.sets.extend(found);
        }
        Ok(())
    }

    /// The file that a set of this name has, or would have.
    pub fn file_of(&self, name: &str) -> PathBuf {
        self.dir.join(SETS_DIR).join(format!("{name}.toml"))
    }

    /// The set of this name.
    ///
    /// # Errors
    /// [`ConfigError::NoSuchSet`].
    pub fn set(&self, name: &str) -> Result<&SetFile, ConfigError> {
        let found = self.sets.iter().find(|set| set.name.as_str() == name);
        let names = self.sets.iter().map(|set| set.name.as_str());
        found.ok_or_else(|| ConfigError::NoSuchSet {
            name: name.to_owned(),
            dir: self.dir.join(SETS_DIR),
            nearest: nearest_of(name, names),
        })
    }

    /// What `[defaults]` says.
    pub fn default_settings(&self) -> Settings {
        settings_of(&self.defaults)
    }

    /// What the files say for a set, its name included; only `[defaults]` for none.
    pub fn settings_for(&self, set: Option<&SetFile>) -> Settings {
        let defaults = self.default_settings();
        set.map_or(defaults.clone(), |set| set.settings().over(&defaults))
    }

    /// Nothing, unless a problem stands in the way of using the general file, or the file of this set.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`].
    pub fn refuse_wrong(&self, set: Option<&SetName>) -> Result<(), ConfigError> {
        let sets = self.dir.join(SETS_DIR);
        let own = set.map(|name| self.file_of(name.as_str()));
        let is_others = |file: &Path| file.parent() == Some(&sets) && own.as_deref() != Some(file);
        let errors = self.problems.iter().filter(|problem| problem.is_error());
        let errors: Vec<Problem> = errors
            .filter(|problem| !is_others(&problem.place.file))
            .cloned()
            .collect();
        match errors.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Wrong(errors)),
        }
    }
}

fn is_there(path: &Path) -> Result<bool, ConfigError> {
    path.try_exists().map_err(|e| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}
