//! The options of a mount, in a file of the run directory: what its command line said, and what holds.
//!
//! Its supervisor writes it, each worker reads it, `restart` replaces it. It is believed only as long as
//! the supervisor lives that wrote it: the worker's own words say the same of the mount's beginning.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::types::SetName;

/// What a worker that takes over may be told anew. All else belongs to the mount, or to what the
/// supervisor holds.
pub(super) const RELOADED: [&str; 11] = [
    "target",
    "flush-interval",
    "insecure-loopback",
    "atime",
    "remap-links",
    "journal-wait",
    "queue-disk-max",
    "queue-free-min",
    "queue-memory",
    "queue-alert",
    "auto-remirror",
];

type Pairs = Vec<(String, Option<String>)>;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OptionsFile {
    /// 1.
    pub(super) version: u32,
    /// Who wrote it first.
    pub(super) supervisor_pid: u32,
    pub(super) config_dir: PathBuf,
    /// The file of the set, if it had one.
    pub(super) set_file: Option<PathBuf>,
    pub(super) dir: PathBuf,
    pub(super) mountpoint: PathBuf,
    given: Pairs,
    effective: Pairs,
}

fn pairs_of(settings: &Settings) -> Pairs {
    let pairs = settings.pairs();
    pairs
        .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
        .collect()
}

/// What was written by a version that knew other keys loses them.
fn settings_of(pairs: &Pairs) -> Settings {
    let mut settings = Settings::new();
    for (key, value) in pairs {
        let _ = settings.set(key, value.as_deref());
    }
    settings
}

impl OptionsFile {
    pub(super) fn new(
        config_dir: &Path,
        set_file: Option<&Path>,
        (dir, mountpoint): (&Path, &Path),
        given: &Settings,
        effective: &Settings,
    ) -> OptionsFile {
        OptionsFile {
            version: 1,
            supervisor_pid: std::process::id(),
            config_dir: config_dir.to_owned(),
            set_file: set_file.map(Path::to_owned),
            dir: dir.to_owned(),
            mountpoint: mountpoint.to_owned(),
            given: pairs_of(given),
            effective: pairs_of(effective),
        }
    }

    pub(super) fn path(run_dir: &Path, set: &SetName) -> PathBuf {
        run_dir.join(format!("{set}.options"))
    }

    /// What this supervisor's mount has, if it can be told.
    pub(super) fn read(run_dir: &Path, set: &SetName, supervisor_pid: u32) -> Option<OptionsFile> {
        let text = std::fs::read(OptionsFile::path(run_dir, set)).ok()?;
        let found: OptionsFile = serde_json::from_slice(&text).ok()?;
        (found.version == 1 && found.supervisor_pid == supervisor_pid).then_some(found)
    }

    pub(super) fn given(&self) -> Settings {
        settings_of(&self.given)
    }

    pub(super) fn effective(&self) -> Settings {
        settings_of(&self.effective)
    }

    /// The same with other settings that hold.
    pub(super) fn with_effective(&self, effective: &Settings) -> OptionsFile {
        OptionsFile {
            effective: pairs_of(effective),
            ..self.clone()
        }
    }

    /// Writes it, whole or not at all. It need not survive the machine.
    pub(super) fn write(&self, run_dir: &Path, set: &SetName) -> anyhow::Result<()> {
        let path = OptionsFile::path(run_dir, set);
        let fresh = path.with_extension("options.new");
        let text = serde_json::to_vec_pretty(self)?;
        let write = || -> std::io::Result<()> {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&text)?;
            std::fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// What a worker of this supervisor goes by: its own words, and what has changed since.
    pub(super) fn renew(&self, words: &Settings) -> Settings {
        let is_reloaded = |key: &str| RELOADED.contains(&key);
        let changed = self.effective().only(is_reloaded);
        changed.over(&words.only(|key| !is_reloaded(key)))
    }
}
