//! `doppelfs.toml`: `[defaults]`, `[target]`, `[metrics]`.

use std::path::{Path, PathBuf};

use super::document::{Entry, Value};
use super::given::{given_of, keys_in_files, path_of, switch_of, text_of, unknown_key, wrong_kind};
use super::keys::nearest_of;
use super::{Configuration, Place, Problem, TargetOptions};

/// What `[target]` says; each with its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetFile {
    /// Where to listen.
    pub listen: Option<(String, Place)>,
    /// Replicas are below it.
    pub root: Option<(PathBuf, Place)>,
    /// Where its state is.
    pub state: Option<(PathBuf, Place)>,
    /// What its process gives up.
    pub confine: Option<(String, Place)>,
    /// Is plain TCP taken, too?
    pub insecure_loopback: Option<(bool, Place)>,
}

const SECTIONS: [&str; 3] = ["defaults", "target", "metrics"];
const TARGET_KEYS: [&str; 5] = ["listen", "root", "state", "confine", "insecure-loopback"];

/// Keys of a set that two sets cannot share.
const NO_DEFAULTS: [&str; 2] = ["state", "queue-dir"];

pub(super) fn parse_general(file: &Path, entries: Vec<Entry>, config: &mut Configuration) {
    for section in entries {
        if !SECTIONS.contains(&section.key.as_str()) {
            config.problems.push(stray(&section));
            continue;
        }
        let Value::Table(entries) = &section.value else {
            let expected = format!("a section; write [{}]", section.key);
            let problem = wrong_kind(&section, &expected, &section.value);
            config.problems.push(problem);
            continue;
        };
        for entry in entries {
            match section.key.as_str() {
                "defaults" => parse_default(entry, config),
                "target" => parse_target(entry, config),
                _ => parse_metrics(entry, config),
            }
        }
    }
    config.problems.extend(fit(file, &config.target));
}

fn stray(entry: &Entry) -> Problem {
    let key = &entry.key;
    let is_default =
        keys_in_files().any(|known| known == key) && !NO_DEFAULTS.contains(&key.as_str());
    let text = if is_default {
        format!("{key} stands outside of a section; [defaults] has it for all sets")
    } else if let Some(near) = nearest_of(key, SECTIONS.into_iter()) {
        format!("unknown section {key:?}; did you mean {near:?}?")
    } else {
        format!("unknown section {key:?}; there are [defaults], [target] and [metrics]")
    };
    Problem::error(&entry.key_place, text)
}

fn parse_default(entry: &Entry, config: &mut Configuration) {
    let key = entry.key.as_str();
    if NO_DEFAULTS.contains(&key) || ["path", "mountpoint", "targets"].contains(&key) {
        let text = format!("{key} cannot be one for all sets; write it into each set's own file");
        config.problems.push(Problem::error(&entry.key_place, text));
        return;
    }
    match given_of(entry, &mut config.problems) {
        Some(given) => config.defaults.extend(given),
        None => {
            let known = keys_in_files().filter(|key| !NO_DEFAULTS.contains(key));
            config.problems.push(unknown_key(entry, known));
        }
    }
}

fn parse_target(entry: &Entry, config: &mut Configuration) {
    let problems = &mut config.problems;
    let place = entry.value_place.clone();
    let target = &mut config.target;
    let path = |text: String| PathBuf::from(text);
    match entry.key.as_str() {
        "listen" => target.listen = text_of(entry, problems).map(|text| (text, place)),
        "root" => target.root = path_of(entry, problems).map(|text| (path(text), place)),
        "state" => target.state = path_of(entry, problems).map(|text| (path(text), place)),
        "confine" => target.confine = text_of(entry, problems).map(|text| (text, place)),
        "insecure-loopback" => {
            target.insecure_loopback = switch_of(entry, problems).map(|on| (on, place));
        }
        _ => problems.push(unknown_key(entry, TARGET_KEYS.into_iter())),
    }
}

fn parse_metrics(entry: &Entry, config: &mut Configuration) {
    if entry.key != "listen" {
        let problem = unknown_key(entry, ["listen"].into_iter());
        config.problems.push(problem);
        return;
    }
    let Some(text) = text_of(entry, &mut config.problems) else {
        return;
    };
    match text.parse() {
        Ok(address) => config.metrics_listen = Some((address, entry.value_place.clone())),
        Err(_) => {
            let text = format!("listen: {text:?} is not ADDRESS:PORT (IPv6 in brackets)");
            config
                .problems
                .push(Problem::error(&entry.value_place, text));
        }
    }
}

impl TargetFile {
    /// The same as options of `target serve`.
    ///
    /// # Errors
    /// [`super::OptionError`].
    pub fn options(&self) -> Result<TargetOptions, super::OptionError> {
        let listen = self.listen.as_ref().map(|(text, _)| text.as_str());
        let root = self.root.as_ref().map(|(path, _)| path.as_path());
        let state = self.state.as_ref().map(|(path, _)| path.as_path());
        let is_insecure = self.insecure_loopback.as_ref().is_some_and(|(on, _)| *on);
        let options = TargetOptions::new(listen, root, state, None, is_insecure)?;
        options.confined(self.confine.as_ref().map(|(text, _)| text.as_str()))
    }
}

fn fit(file: &Path, target: &TargetFile) -> Option<Problem> {
    let error = target.options().err()?;
    let text = error.to_string();
    let place = match text.starts_with("confine") {
        true => target.confine.as_ref().map(|(_, place)| place),
        false => target.listen.as_ref().map(|(_, place)| place),
    };
    let beginning = Place::beginning(file);
    Some(Problem::error(place.unwrap_or(&beginning), text))
}
