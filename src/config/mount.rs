//! Options of `doppelfs mount`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{VfsFlag, vfs_flag};
use super::{OptionError, Settings};
use super::{parse_bytes, parse_duration, parse_percent, parse_switch};
use crate::control::Service;
use crate::sys::Unstamped;
use crate::types::{SetName, limits};
use crate::wire::TargetAddr;

/// When a write counts as captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Before write(2) returns.
    Strict,
    /// When the kernel writes back: at the latest at fsync(2) and close(2), or after the flush interval.
    Relaxed,
}

/// How the mount itself is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags {
    /// `ro`.
    pub read_only: bool,
    /// `nosuid`.
    pub no_suid: bool,
    /// `nodev`.
    pub no_dev: bool,
    /// `noexec`.
    pub no_exec: bool,
    /// `noatime`.
    pub no_atime: bool,
    /// `nodiratime`.
    pub no_dir_atime: bool,
    /// `nosymfollow`.
    pub no_symfollow: bool,
}

impl MountFlags {
    /// `nosuid`, `nodev`, `noexec`, `noatime`, `nodiratime`, `nosymfollow`, in the order that
    /// `sys` takes.
    pub fn restrictions(&self) -> [bool; 6] {
        [
            self.no_suid,
            self.no_dev,
            self.no_exec,
            self.no_atime,
            self.no_dir_atime,
            self.no_symfollow,
        ]
    }

    /// Whose access times reads through the mount leave alone. The kernel leaves it to the file system
    /// below, which knows only how it is mounted itself.
    pub fn unstamped(&self) -> Unstamped {
        match (self.no_atime || self.read_only, self.no_dir_atime) {
            (true, _) => Unstamped::Everything,
            (false, true) => Unstamped::Directories,
            (false, false) => Unstamped::AsBelow,
        }
    }

    fn put(&mut self, flag: VfsFlag, on: bool) {
        let place = match flag {
            VfsFlag::ReadOnly => &mut self.read_only,
            VfsFlag::NoSuid => &mut self.no_suid,
            VfsFlag::NoDev => &mut self.no_dev,
            VfsFlag::NoExec => &mut self.no_exec,
            VfsFlag::NoAtime => &mut self.no_atime,
            VfsFlag::NoDirAtime => &mut self.no_dir_atime,
            VfsFlag::NoSymfollow => &mut self.no_symfollow,
        };
        *place = on;
    }
}

/// What `doppelfs mount` was asked for, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The directory to protect: absolute, and after [`super::check_mount`] without symbolic links.
    pub dir: PathBuf,
    /// Where it is served; the directory itself by default.
    pub mountpoint: PathBuf,
    /// Name of the set; the directory's by default.
    pub set: SetName,
    /// Where it goes.
    pub targets: Vec<TargetAddr>,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Where its sockets are.
    pub run_dir: PathBuf,
    /// When a write counts as captured.
    pub order: Order,
    /// With a relaxed order: how often what is dirty is written back.
    pub flush_interval: Duration,
    /// Plain TCP, this machine only.
    pub insecure_loopback: bool,
    /// Where this host's key and its pairings are.
    pub keys_dir: PathBuf,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Replicate access times, too.
    pub atime: bool,
    /// Absolute links into the set lead to the replica on the replica.
    pub remap_links: bool,
    /// Refuse to mount while somebody has files open that would bypass capture.
    pub strict_cover: bool,
    /// How long a stuck journal may delay an operation.
    pub journal_wait: Duration,
    /// Disk space of the queue; none is unlimited, 0 is none at all.
    pub queue_disk_max: Option<u64>,
    /// Free space that the queue leaves.
    pub queue_free_min: u64,
    /// Memory of the queue.
    pub queue_memory: u64,
    /// Alert when the queue has filled this share of its limit.
    pub queue_alert_percent: u64,
    /// Where the queue is; `<state>/queue` by default.
    pub queue_dir: PathBuf,
    /// Mirror by itself when a mirror is required.
    pub auto_remirror: bool,
    /// How the mount is made.
    pub flags: MountFlags,
    /// A mount of ours lies over the directory that nobody serves any more; [`super::check_mount`] says.
    pub dir_is_dead: bool,
    /// One lies on the mount point.
    pub mountpoint_is_dead: bool,
}

/// `/run/doppelfs`.
pub fn default_run_dir() -> PathBuf {
    PathBuf::from("/run/doppelfs")
}

/// `/etc/doppelfs/keys`: beside the other keys of a host, and part of what is backed up with them.
pub fn default_keys_dir() -> PathBuf {
    PathBuf::from("/etc/doppelfs/keys")
}

/// `/var/lib/doppelfs/<set>`.
pub fn default_state_dir(set: &SetName) -> PathBuf {
    Path::new("/var/lib/doppelfs").join(set.as_str())
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, OptionError> {
    std::path::absolute(path)
        .map(|path| path.components().collect())
        .map_err(|e| OptionError::NotAbsolute {
            path: path.display().to_string(),
            reason: e.to_string(),
        })
}

fn set_name(given: Option<&str>, dir: &Path) -> Result<SetName, OptionError> {
    let base = dir.file_name().map(|n| n.to_string_lossy().into_owned());
    // The root directory has no name; it is refused later for being the root directory.
    let name = given.map_or_else(|| base.unwrap_or_else(|| "root".to_owned()), str::to_owned);
    let name = SetName::new(&name).map_err(OptionError::SetName)?;
    if Service::is_free_for_sets(&name) {
        Ok(name)
    } else {
        Err(OptionError::SetNameTaken(name.as_str().to_owned()))
    }
}

impl MountOptions {
    /// Completes and checks what was asked for; looks at nothing but the current directory.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn new(
        dir: &Path,
        mountpoint: Option<&Path>,
        settings: &Settings,
    ) -> Result<MountOptions, OptionError> {
        let dir = absolute(dir)?;
        let mountpoint = mountpoint.map_or_else(|| Ok(dir.clone()), absolute)?;
        let last = |wanted: &str| {
            let of_key = settings.0.iter().rev().find(|(key, _)| key == wanted);
            of_key.and_then(|(_, value)| value.as_deref())
        };
        let set = set_name(last("set"), &dir)?;
        let state_dir = default_state_dir(&set);
        let mut options = MountOptions {
            queue_dir: PathBuf::new(),
            dir,
            mountpoint,
            set,
            targets: Vec::new(),
            state_dir,
            run_dir: default_run_dir(),
            order: Order::Strict,
            flush_interval: limits::FLUSH_INTERVAL_DEFAULT,
            insecure_loopback: false,
            keys_dir: default_keys_dir(),
            foreground: false,
            atime: false,
            remap_links: false,
            strict_cover: false,
            journal_wait: Duration::from_secs(1),
            queue_disk_max: None,
            queue_free_min: limits::QUEUE_FREE_BYTES_DEFAULT,
            queue_memory: limits::QUEUE_MEMORY_BYTES_DEFAULT,
            queue_alert_percent: limits::QUEUE_ALERT_PERCENT_DEFAULT,
            auto_remirror: true,
            flags: MountFlags::default(),
            dir_is_dead: false,
            mountpoint_is_dead: false,
        };
        for (key, value) in &settings.0 {
            options.put(key, value.as_deref())?;
        }
        if options.queue_dir.as_os_str().is_empty() {
            options.queue_dir = options.state_dir.join("queue");
        }
        options.check_targets()?;
        Ok(options)
    }

    fn put(&mut self, key: &str, value: Option<&str>) -> Result<(), OptionError> {
        if let Some((flag, on)) = vfs_flag(key) {
            self.flags.put(flag, on);
            return Ok(());
        }
        let text = value.unwrap_or_default();
        let switch = || parse_switch(key, value.unwrap_or("yes"));
        match key {
            // Looked up before everything else; sloppiness is over when keys are known.
            "set" | "sloppy" => {}
            "target" => self.targets.push(text.parse()?),
            "state" => self.state_dir = absolute(Path::new(text))?,
            "run-dir" => self.run_dir = absolute(Path::new(text))?,
            "order" => self.order = parse_order(text)?,
            "flush-interval" => self.flush_interval = parse_flush_interval(text)?,
            "keys" => self.keys_dir = absolute(Path::new(text))?,
            "insecure-loopback" => self.insecure_loopback = switch()?,
            "foreground" => self.foreground = true,
            "atime" => self.atime = switch()?,
            "remap-links" => self.remap_links = switch()?,
            "strict-cover" => self.strict_cover = switch()?,
            "journal-wait" => self.journal_wait = parse_duration(key, text)?,
            "queue-disk-max" if text == "unlimited" => self.queue_disk_max = None,
            "queue-disk-max" => self.queue_disk_max = Some(parse_bytes(key, text)?),
            "queue-free-min" => self.queue_free_min = parse_bytes(key, text)?,
            "queue-memory" => self.queue_memory = parse_memory(text)?,
            "queue-alert" => self.queue_alert_percent = parse_percent(key, text)?,
            "queue-dir" => self.queue_dir = absolute(Path::new(text))?,
            "auto-remirror" => self.auto_remirror = switch()?,
            "read-only" => self.flags.read_only = switch()?,
            _ => unreachable!("keys are checked when they are set"),
        }
        Ok(())
    }

    /// The absolute paths of the set, where links that lead there are remapped. The mount point comes
    /// first: where one lies in the other, it hides what is below it.
    ///
    /// # Errors
    /// [`OptionError::RemapPath`].
    pub fn remap_from(&self) -> Result<Vec<String>, OptionError> {
        let mut from: Vec<String> = Vec::new();
        if !self.remap_links {
            return Ok(from);
        }
        for path in [&self.mountpoint, &self.dir] {
            let text = path.to_str().ok_or_else(|| OptionError::RemapPath {
                path: path.display().to_string(),
            })?;
            if !from.iter().any(|known| known == text) {
                from.push(text.to_owned());
            }
        }
        Ok(from)
    }

    fn check_targets(&self) -> Result<(), OptionError> {
        if self.targets.len() > 1 {
            return Err(OptionError::NotBuilt {
                what: "a second target",
                instead: "give one --target",
            });
        }
        for target in &self.targets {
            if self.insecure_loopback && !target.is_loopback() {
                return Err(OptionError::NotLoopback(target.to_string()));
            }
        }
        Ok(())
    }
}

fn parse_order(text: &str) -> Result<Order, OptionError> {
    match text {
        "strict" => Ok(Order::Strict),
        "relaxed" => Ok(Order::Relaxed),
        _ => Err(OptionError::Value {
            key: "order".to_owned(),
            value: text.to_owned(),
            expected: "strict or relaxed".to_owned(),
        }),
    }
}

fn parse_flush_interval(text: &str) -> Result<Duration, OptionError> {
    let interval = parse_duration("flush-interval", text)?;
    if (limits::FLUSH_INTERVAL_MIN..=limits::FLUSH_INTERVAL_MAX).contains(&interval) {
        return Ok(interval);
    }
    Err(OptionError::Value {
        key: "flush-interval".to_owned(),
        value: text.to_owned(),
        expected: "from 10ms to 60s".to_owned(),
    })
}

fn parse_memory(text: &str) -> Result<u64, OptionError> {
    let bytes = parse_bytes("queue-memory", text)?;
    if bytes >= limits::QUEUE_MEMORY_BYTES_MIN {
        return Ok(bytes);
    }
    Err(OptionError::Value {
        key: "queue-memory".to_owned(),
        value: text.to_owned(),
        expected: "at least 32M".to_owned(),
    })
}
