//! Keys of `-o`: ours, mount(8)'s that mean something here, and those that mean nothing here.

use super::OptionError;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Nothing.
    Flag,
    /// `key=value`.
    Value,
    /// `key=value`, where a number alone is a value, too.
    Amount,
    /// `key=value`, which is a path.
    Path,
    /// `key` or `key=yes|no`.
    Switch,
}

/// Our keys; each is also a long flag of `doppelfs mount`. In `-o`, `_` may stand for `-`.
pub const MOUNT_KEYS: [(&str, KeyUse); 21] = [
    ("set", KeyUse::Value),
    ("target", KeyUse::Value),
    ("state", KeyUse::Path),
    ("run-dir", KeyUse::Path),
    ("keys", KeyUse::Path),
    ("order", KeyUse::Value),
    ("flush-interval", KeyUse::Amount),
    ("insecure-loopback", KeyUse::Switch),
    ("foreground", KeyUse::Flag),
    ("atime", KeyUse::Switch),
    ("remap-links", KeyUse::Switch),
    ("strict-cover", KeyUse::Switch),
    ("journal-wait", KeyUse::Amount),
    ("queue-disk-max", KeyUse::Amount),
    ("queue-free-min", KeyUse::Amount),
    ("queue-memory", KeyUse::Amount),
    ("queue-alert", KeyUse::Amount),
    ("queue-dir", KeyUse::Path),
    ("auto-remirror", KeyUse::Switch),
    ("sloppy", KeyUse::Flag),
    ("read-only", KeyUse::Switch),
];

/// mount(8)'s keys that change the mount: key, place in the flags, on or off.
const VFS_KEYS: [(&str, VfsFlag, bool); 15] = [
    ("ro", VfsFlag::ReadOnly, true),
    ("rw", VfsFlag::ReadOnly, false),
    ("nosuid", VfsFlag::NoSuid, true),
    ("suid", VfsFlag::NoSuid, false),
    ("nodev", VfsFlag::NoDev, true),
    ("dev", VfsFlag::NoDev, false),
    ("noexec", VfsFlag::NoExec, true),
    ("exec", VfsFlag::NoExec, false),
    ("noatime", VfsFlag::NoAtime, true),
    ("relatime", VfsFlag::NoAtime, false),
    ("strictatime", VfsFlag::NoAtime, false),
    ("nodiratime", VfsFlag::NoDirAtime, true),
    ("diratime", VfsFlag::NoDirAtime, false),
    ("nosymfollow", VfsFlag::NoSymfollow, true),
    ("symfollow", VfsFlag::NoSymfollow, false),
];

/// A flag of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VfsFlag {
    ReadOnly,
    NoSuid,
    NoDev,
    NoExec,
    NoAtime,
    NoDirAtime,
    NoSymfollow,
}

/// Keys without `=` that stand in fstab for others, or say what is so anyhow.
const IGNORED_FLAGS: [&str; 25] = [
    "defaults",
    "auto",
    "noauto",
    "_netdev",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "sync",
    "dirsync",
    "lazytime",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "allow_other",
    "default_permissions",
    "nonempty",
    "mand",
];

/// Keys with `=` of fuse and of mount(8).
const IGNORED_VALUES: [&str; 9] = [
    "user_id", "group_id", "rootmode", "max_read", "blksize", "fsname", "subtype", "comment", "fd",
];

/// Does this key mean nothing here, and is it right all the same?
pub fn is_ignored_key(key: &str, value: Option<&str>) -> bool {
    key.starts_with("x-")
        || key.starts_with("X-")
        || (value.is_none() && IGNORED_FLAGS.contains(&key))
        || (value.is_some() && (IGNORED_VALUES.contains(&key) || key == "user"))
}

/// What forbids something on the mount (`nosuid` and its like), each with the key that allows it.
pub(super) fn restrictions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let forbids = VFS_KEYS
        .iter()
        .filter(|(_, flag, on)| *on && *flag != VfsFlag::ReadOnly);
    forbids.filter_map(|&(key, flag, _)| {
        let allows = VFS_KEYS.iter().find(|(_, f, on)| *f == flag && !*on);
        allows.map(|&(allows, _, _)| (key, allows))
    })
}

pub(super) fn vfs_flag(key: &str) -> Option<(VfsFlag, bool)> {
    VFS_KEYS
        .iter()
        .find(|(k, _, _)| *k == key)
        .map(|&(_, flag, on)| (flag, on))
}

/// What was asked for, in the order of asking: a later value replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(pub(super) Vec<(String, Option<String>)>);

impl Settings {
    /// Nothing asked.
    pub fn new() -> Settings {
        Settings::default()
    }

    /// Adds a key, with its value if it takes one.
    ///
    /// # Errors
    /// The key is unknown, or it takes no value, or needs one.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), OptionError> {
        if is_ignored_key(key, value) {
            return Ok(());
        }
        let plain = vfs_flag(key).map(|_| (key.to_owned(), KeyUse::Flag));
        let ours = key.replace('_', "-");
        let known = MOUNT_KEYS.iter().find(|(k, _)| *k == ours);
        let Some((key, usage)) = plain.or_else(|| known.map(|&(k, usage)| (k.to_owned(), usage)))
        else {
            return Err(OptionError::UnknownKey {
                key: key.to_owned(),
                nearest: nearest(&ours),
            });
        };
        match (usage, value) {
            (KeyUse::Flag, Some(value)) => Err(OptionError::ValueUnexpected {
                key,
                value: value.to_owned(),
            }),
            (KeyUse::Value | KeyUse::Amount | KeyUse::Path, None) => {
                Err(OptionError::ValueMissing { key })
            }
            (KeyUse::Flag, None)
            | (KeyUse::Value | KeyUse::Amount | KeyUse::Path, Some(_))
            | (KeyUse::Switch, _) => {
                self.0.push((key, value.map(str::to_owned)));
                Ok(())
            }
        }
    }

    /// This, where it says something, and what `lower` says otherwise: each of our keys has the value of
    /// the upper one, and targets are not added to those below. The `rw` that mount(8) says by itself does
    /// not undo a `read-only` below.
    #[must_use]
    pub fn over(&self, lower: &Settings) -> Settings {
        let has_target = self.pairs().any(|(key, _)| key == "target");
        let kept = lower
            .0
            .iter()
            .filter(|(key, _)| !has_target || key != "target");
        let is_lower_read_only = lower.is_read_only();
        let is_said = |key: &str| matches!(key, "ro" | "read-only");
        let upper = self.0.iter().filter(|(key, _)| {
            key != "rw" || !is_lower_read_only || self.0.iter().any(|(other, _)| is_said(other))
        });
        Settings(kept.chain(upper).cloned().collect())
    }

    fn is_read_only(&self) -> bool {
        let last = self
            .0
            .iter()
            .rfind(|(key, _)| matches!(key.as_str(), "ro" | "rw" | "read-only"));
        last.is_some_and(|(key, value)| match key.as_str() {
            "read-only" => !matches!(value.as_deref(), Some("no" | "off" | "false" | "0")),
            key => key == "ro",
        })
    }

    /// Only those pairs whose key `is_wanted`.
    #[must_use]
    pub fn only(&self, is_wanted: impl Fn(&str) -> bool) -> Settings {
        let wanted = self.0.iter().filter(|(key, _)| is_wanted(key));
        Settings(wanted.cloned().collect())
    }

    /// What was asked for, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// Adds what stands after `-o`. With `sloppy` among it, unknown keys are passed over.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn add_options(&mut self, text: &str) -> Result<(), OptionError> {
        let pairs = split_options(text)?;
        let sloppy = pairs.iter().any(|(key, _)| key == "sloppy");
        for (key, value) in pairs {
            match self.set(&key, value.as_deref()) {
                Err(OptionError::UnknownKey { .. }) if sloppy => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Splits `a,b=c,d="e,f"` at its commas; what is quoted keeps them.
///
/// # Errors
/// [`OptionError::OpenQuote`].
pub fn split_options(text: &str) -> Result<Vec<(String, Option<String>)>, OptionError> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => {
                if let Some(last) = parts.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    if quoted {
        return Err(OptionError::OpenQuote(text.to_owned()));
    }
    let pair = |part: String| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (part, None),
    };
    Ok(parts
        .into_iter()
        .filter(|p| !p.is_empty())
        .map(pair)
        .collect())
}

/// The key that looks most like `key`, when one does.
fn nearest(key: &str) -> Option<String> {
    let ours = MOUNT_KEYS.iter().map(|(k, _)| *k);
    let theirs = VFS_KEYS.iter().map(|(k, _, _)| *k);
    nearest_of(key, ours.chain(theirs).chain(IGNORED_FLAGS))
}

/// The one of `known` that looks most like `key`, when one does.
pub(super) fn nearest_of<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|known| (strsim::damerau_levenshtein(key, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .map(|(_, known)| known.to_owned())
}
