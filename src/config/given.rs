//! The keys of `mount` as they stand in files.

use std::path::Path;

use super::document::{Entry, Value};
use super::keys::{nearest_of, restrictions};
use super::{KeyUse, MOUNT_KEYS, MountOptions, OptionError, Place, Problem, Settings, Shown};

/// One key that a file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The key, as for [`Settings`].
    pub key: String,
    /// Its value.
    pub value: Option<String>,
    /// Where the value stands.
    pub place: Place,
}

impl Given {
    /// As it is written in a file.
    pub fn shown(&self) -> Shown {
        let usage = MOUNT_KEYS.iter().find(|(key, _)| *key == self.key);
        let text = self.value.as_deref().unwrap_or("yes");
        match usage {
            None | Some((_, KeyUse::Switch | KeyUse::Flag)) => Shown::Switch(text == "yes"),
            Some(_) => Shown::Text(text.to_owned()),
        }
    }
}

/// Keys of `mount` that are not for files, each with the reason.
const NOT_IN_FILES: [(&str, &str); 6] = [
    ("set", "the name of a set is that of its file"),
    (
        "run-dir",
        "it is for all commands: DOPPELFS_RUN_DIR or --run-dir says it",
    ),
    ("foreground", "it belongs to a command line"),
    ("sloppy", "it belongs to a command line or to fstab"),
    ("ro", "write `read-only = true`"),
    ("rw", "write `read-only = false`, or leave it out"),
];

/// What people look for and what is not there, each with what holds instead.
const NOT_BUILT: [(&str, &str); 13] = [
    ("include", RULES),
    ("exclude", RULES),
    ("rules", RULES),
    ("paths", "one directory for each set; make a set of each"),
    ("schedule", SCHEDULES),
    ("schedules", SCHEDULES),
    ("transmit", SCHEDULES),
    ("throttle", THROTTLING),
    ("bandwidth", THROTTLING),
    ("bandwidth-max", THROTTLING),
    ("rate-max", THROTTLING),
    (
        "compression",
        "what is sent is compressed where that makes it smaller",
    ),
    ("mode", "targets follow asynchronously"),
];
const RULES: &str = "include and exclude rules; everything below the path is replicated";
const SCHEDULES: &str = "schedules; what is captured is sent at once";
const THROTTLING: &str = "throttling; what is captured is sent as fast as the link takes it";

/// Why a key of `mount` stands in no file.
pub(super) fn reason_against(key: &str) -> Option<&'static str> {
    let found = NOT_IN_FILES.iter().find(|(known, _)| *known == key);
    found.map(|(_, reason)| *reason)
}

/// The keys that a set's file can have, besides those of the set itself.
pub(super) fn keys_in_files() -> impl Iterator<Item = &'static str> {
    let ours = MOUNT_KEYS.iter().map(|(key, _)| *key);
    let ours = ours.filter(|key| reason_against(key).is_none() && *key != "target");
    ours.chain(restrictions().map(|(forbids, _)| forbids))
}

/// Pairs for [`Settings`]; keys that it does not know are left out, since they are problems already.
pub(super) fn settings_of(given: &[Given]) -> Settings {
    let mut settings = Settings::new();
    for one in given {
        let _ = settings.set(&one.key, one.value.as_deref());
    }
    settings
}

/// What is wrong with a key that is none here.
pub(super) fn unknown_key<'a>(entry: &Entry, known: impl Iterator<Item = &'a str>) -> Problem {
    let key = entry.key.as_str();
    let not_built = NOT_BUILT.iter().find(|(name, _)| *name == key);
    let text = match (not_built, reason_against(key)) {
        (Some((_, what)), _) => format!("{key}: not built yet: {what}; take it out"),
        (None, Some(reason)) => format!("{key} cannot stand here: {reason}"),
        (None, None) => match nearest_of(&key.replace('_', "-"), known) {
            Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
            None => format!("unknown key {key:?}; docs/configuration.md lists them"),
        },
    };
    Problem::error(&entry.key_place, text)
}

/// The text of an entry, where it has to be one.
pub(super) fn text_of(entry: &Entry, problems: &mut Vec<Problem>) -> Option<String> {
    match &entry.value {
        Value::Text(text) => Some(text.clone()),
        other => {
            problems.push(wrong_kind(entry, "a text in quotes", other));
            None
        }
    }
}

/// The absolute path of an entry.
pub(super) fn path_of(entry: &Entry, problems: &mut Vec<Problem>) -> Option<String> {
    let text = text_of(entry, problems)?;
    if Path::new(&text).is_absolute() {
        return Some(text);
    }
    let text = format!("{}: {text:?} is not an absolute path", entry.key);
    problems.push(Problem::error(&entry.value_place, text));
    None
}

/// Is it on?
pub(super) fn switch_of(entry: &Entry, problems: &mut Vec<Problem>) -> Option<bool> {
    match &entry.value {
        Value::Switch(on) => Some(*on),
        other => {
            problems.push(wrong_kind(entry, "true or false, without quotes", other));
            None
        }
    }
}

pub(super) fn wrong_kind(entry: &Entry, expected: &str, found: &Value) -> Problem {
    let text = format!("{}: {} is not {expected}", entry.key, found.kind());
    Problem::error(&entry.value_place, text)
}

/// An entry as a key of `mount`; `None` where it is no such key. What is wrong is noted, and nothing is
/// given then.
pub(super) fn given_of(entry: &Entry, problems: &mut Vec<Problem>) -> Option<Option<Given>> {
    let key = entry.key.as_str();
    if let Some((forbids, allows)) = restrictions().find(|(forbids, _)| *forbids == key) {
        let given = switch_of(entry, problems).map(|on| Given {
            key: if on { forbids } else { allows }.to_owned(),
            value: None,
            place: entry.value_place.clone(),
        });
        return Some(given);
    }
    let usage = keys_in_files().find(|known| *known == key).and_then(|_| {
        let known = MOUNT_KEYS.iter().find(|(known, _)| *known == key);
        known.map(|(_, usage)| *usage)
    })?;
    let value = match (usage, &entry.value) {
        (KeyUse::Amount, Value::Number(number)) => Some(number.clone()),
        (KeyUse::Amount | KeyUse::Value, _) => text_of(entry, problems),
        (KeyUse::Path, _) => path_of(entry, problems),
        (KeyUse::Switch | KeyUse::Flag, _) => {
            switch_of(entry, problems).map(|on| if on { "yes" } else { "no" }.to_owned())
        }
    };
    let given = value.map(|value| Given {
        key: key.to_owned(),
        value: Some(value),
        place: entry.value_place.clone(),
    });
    Some(given.filter(|given| is_legal(given, problems)))
}

/// Is the value one that the key can have, for itself?
pub(super) fn is_legal(given: &Given, problems: &mut Vec<Problem>) -> bool {
    let mut settings = Settings::new();
    let set = settings.set(&given.key, given.value.as_deref());
    let outcome = set.and_then(|()| MountOptions::new(Path::new("/set"), None, &settings));
    match outcome {
        Ok(_) => true,
        Err(error) => {
            problems.push(Problem::error(&given.place, text_of_error(&error)));
            false
        }
    }
}

/// The message of a file, which has no mount options but keys.
pub(super) fn text_of_error(error: &OptionError) -> String {
    error.to_string().replace("mount option ", "key ")
}
