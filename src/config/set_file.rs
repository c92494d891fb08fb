//! `sets.d/NAME.toml`: one set.

use std::path::{Path, PathBuf};

use super::document::{Entry, Value};
use super::given::{
    Given, given_of, is_legal, keys_in_files, path_of, settings_of, text_of_error, unknown_key,
    wrong_kind,
};
use super::{MountOptions, OptionError, Place, Problem, Settings};
use crate::control::Service;
use crate::types::SetName;

/// The keys of a set that are no keys of `mount`.
const OWN_KEYS: [&str; 3] = ["path", "mountpoint", "targets"];

/// What a set's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFile {
    /// Its name: that of the file.
    pub name: SetName,
    /// The file.
    pub file: PathBuf,
    /// The directory to protect.
    pub path: (PathBuf, Place),
    /// Where it is served, where that is elsewhere.
    pub mountpoint: Option<(PathBuf, Place)>,
    /// Everything else, `target` for each of its targets.
    pub given: Vec<Given>,
}

impl SetFile {
    /// What it says as settings, its name included.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        let _ = settings.set("set", Some(self.name.as_str()));
        settings_of(&self.given).over(&settings)
    }

    /// Where it is served.
    pub fn served_at(&self) -> &Path {
        self.mountpoint
            .as_ref()
            .map_or(&self.path.0, |(mountpoint, _)| mountpoint)
    }

    /// The place of a key, or of the whole file where it does not have it.
    pub fn place_of(&self, key: &str) -> Place {
        let own = match key {
            "path" => Some(&self.path.1),
            "mountpoint" => self.mountpoint.as_ref().map(|(_, place)| place),
            _ => None,
        };
        let given = self.given.iter().rfind(|given| given.key == key);
        own.or(given.map(|given| &given.place))
            .cloned()
            .unwrap_or_else(|| Place::beginning(&self.file))
    }
}

/// The set of a file; none where it has no path or no name.
pub(super) fn parse_set(
    file: &Path,
    entries: Vec<Entry>,
    defaults: &[Given],
    problems: &mut Vec<Problem>,
) -> Option<SetFile> {
    let before = problems.len();
    let (mut path, mut mountpoint, mut given) = (None, None, Vec::new());
    let mut has_path = false;
    for entry in entries {
        let place = entry.value_place.clone();
        match entry.key.as_str() {
            "path" => {
                has_path = true;
                path = path_of(&entry, problems).map(|text| (plain(&text), place));
            }
            "mountpoint" => {
                mountpoint = path_of(&entry, problems).map(|text| (plain(&text), place));
            }
            "targets" => given.extend(targets_of(&entry, problems)),
            _ => match given_of(&entry, problems) {
                Some(one) => given.extend(one),
                None => {
                    let known = OWN_KEYS.into_iter().chain(keys_in_files());
                    problems.push(unknown_key(&entry, known));
                }
            },
        }
    }
    let name = name_of(file, problems);
    if !has_path {
        let text = "there is no `path`: the directory to protect, as path = \"/srv/data\"";
        problems.push(Problem::error(&Place::beginning(file), text));
    }
    let set = SetFile {
        name: name?,
        file: file.to_owned(),
        path: path?,
        mountpoint,
        given,
    };
    if problems[before..].iter().all(|problem| !problem.is_error()) {
        problems.extend(fit(&set, defaults));
    }
    Some(set)
}

fn plain(text: &str) -> PathBuf {
    Path::new(text).components().collect()
}

fn name_of(file: &Path, problems: &mut Vec<Problem>) -> Option<SetName> {
    let beginning = Place::beginning(file);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    match SetName::new(&stem) {
        Ok(name) if Service::is_free_for_sets(&name) => Some(name),
        Ok(name) => {
            let text = format!(
                "the name of this file is that of the set, and {:?} is kept for the control sockets of \
                 targets; rename the file",
                name.as_str()
            );
            problems.push(Problem::error(&beginning, text));
            None
        }
        Err(error) => {
            let text = format!("the name of this file is that of the set: {error}; rename it");
            problems.push(Problem::error(&beginning, text));
            None
        }
    }
}

fn targets_of(entry: &Entry, problems: &mut Vec<Problem>) -> Vec<Given> {
    let expected = "a list, as targets = [\"HOST:PORT\"]";
    let Value::List(items) = &entry.value else {
        problems.push(wrong_kind(entry, expected, &entry.value));
        return Vec::new();
    };
    let mut targets = Vec::new();
    for (place, item) in items {
        let Value::Text(text) = item else {
            let text = format!("targets: {} is no target; write \"HOST:PORT\"", item.kind());
            problems.push(Problem::error(place, text));
            continue;
        };
        let given = Given {
            key: "target".to_owned(),
            value: Some(text.clone()),
            place: place.clone(),
        };
        if is_legal(&given, problems) {
            targets.push(given);
        }
    }
    targets
}

/// Do all values fit together, and with `[defaults]`?
fn fit(set: &SetFile, defaults: &[Given]) -> Option<Problem> {
    let settings = set.settings().over(&settings_of(defaults));
    let error = MountOptions::new(&set.path.0, None, &settings).err()?;
    let place = match &error {
        OptionError::NotBuilt { .. } | OptionError::NotLoopback(_) => set.place_of("target"),
        _ => Place::beginning(&set.file),
    };
    Some(Problem::error(&place, text_of_error(&error)))
}
