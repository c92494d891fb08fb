//! What holds for a set, and where each value comes from.

use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::given::keys_in_files;
use super::{Configuration, MountOptions, OptionError, Order, Place, SetFile};
use super::{Given, METRICS_LISTEN_DEFAULT};

/// A value, written as in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Shown {
    /// In quotes.
    Text(String),
    /// `true` or `false`.
    Switch(bool),
    /// In brackets.
    List(Vec<String>),
}

impl Shown {
    fn of_path(path: &Path) -> Shown {
        Shown::Text(path.display().to_string())
    }
}

/// A text between quotes, as TOML has it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Text(text) => f.write_str(&quoted(text)),
            Shown::Switch(on) => write!(f, "{on}"),
            Shown::List(items) => {
                let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// A key with the value that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: Shown,
    /// Where it stands; nowhere for a default.
    pub from: Option<Place>,
}

fn bytes_shown(bytes: u64) -> Shown {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let fits = |shift: u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    let unit = units.into_iter().find(|(_, shift)| fits(*shift));
    Shown::Text(unit.map_or_else(
        || bytes.to_string(),
        |(unit, shift)| format!("{}{unit}", bytes >> shift),
    ))
}

fn time_shown(time: Duration) -> Shown {
    Shown::Text(match time.subsec_nanos() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_secs_f64() * 1000.0),
    })
}

/// The value of a key; `None` for a key that stands in no file.
fn value_of(options: &MountOptions, key: &str) -> Option<Shown> {
    let switch = |on: bool| Some(Shown::Switch(on));
    let path = |path: &Path| Some(Shown::of_path(path));
    let flags = &options.flags;
    match key {
        "path" => path(&options.dir),
        "mountpoint" => path(&options.mountpoint),
        "targets" => {
            let targets = options.targets.iter().map(ToString::to_string);
            Some(Shown::List(targets.collect()))
        }
        "state" => path(&options.state_dir),
        "keys" => path(&options.keys_dir),
        "order" => match options.order {
            Order::Strict => Some(Shown::Text("strict".to_owned())),
            Order::Relaxed => Some(Shown::Text("relaxed".to_owned())),
        },
        "flush-interval" => Some(time_shown(options.flush_interval)),
        "insecure-loopback" => switch(options.insecure_loopback),
        "atime" => switch(options.atime),
        "remap-links" => switch(options.remap_links),
        "strict-cover" => switch(options.strict_cover),
        "journal-wait" => Some(time_shown(options.journal_wait)),
        "queue-disk-max" => Some(match options.queue_disk_max {
            Some(bytes) => bytes_shown(bytes),
            None => Shown::Text("unlimited".to_owned()),
        }),
        "queue-free-min" => Some(bytes_shown(options.queue_free_min)),
        "queue-memory" => Some(bytes_shown(options.queue_memory)),
        "queue-alert" => Some(Shown::Text(format!("{}%", options.queue_alert_percent))),
        "queue-dir" => path(&options.queue_dir),
        "auto-remirror" => switch(options.auto_remirror),
        "read-only" => switch(flags.read_only),
        "nosuid" => switch(flags.no_suid),
        "nodev" => switch(flags.no_dev),
        "noexec" => switch(flags.no_exec),
        "noatime" => switch(flags.no_atime),
        "nodiratime" => switch(flags.no_dir_atime),
        "nosymfollow" => switch(flags.no_symfollow),
        _ => None,
    }
}

/// The keys of a set's file in the order in which they are shown.
pub(super) fn keys_shown() -> impl Iterator<Item = &'static str> {
    ["path", "mountpoint", "targets"]
        .into_iter()
        .chain(keys_in_files())
}

/// All values of a set but `path` and `mountpoint`, as [`effective_set`] shows them.
pub fn values(options: &MountOptions) -> impl Iterator<Item = (&'static str, Shown)> {
    let keys = keys_shown().filter(|key| !["path", "mountpoint"].contains(key));
    keys.filter_map(|key| Some((key, value_of(options, key)?)))
}

fn place_in(given: &[Given], key: &str) -> Option<Place> {
    let flag = super::keys::vfs_flag(key).map(|(flag, _)| flag);
    let found = given.iter().rfind(|given| {
        let same = flag.is_some() && super::keys::vfs_flag(&given.key).map(|(f, _)| f) == flag;
        given.key == key || (key == "targets" && given.key == "target") || same
    });
    found.map(|given| given.place.clone())
}

/// What holds for a set.
///
/// # Errors
/// [`OptionError`], which is among the problems of the configuration, too.
pub fn effective_set(config: &Configuration, set: &SetFile) -> Result<Vec<Effective>, OptionError> {
    let settings = config.settings_for(Some(set));
    let mountpoint = set.mountpoint.as_ref().map(|(path, _)| path.as_path());
    let options = MountOptions::new(&set.path.0, mountpoint, &settings)?;
    let shown = keys_shown().filter_map(|key| {
        let own = match key {
            "path" => Some(set.path.1.clone()),
            "mountpoint" => set.mountpoint.as_ref().map(|(_, place)| place.clone()),
            _ => place_in(&set.given, key).or_else(|| place_in(&config.defaults, key)),
        };
        let value = value_of(&options, key)?;
        Some(Effective {
            key,
            value,
            from: own,
        })
    });
    Ok(shown.collect())
}

/// What holds for the target and for metrics: section, and what is in it.
///
/// # Errors
/// As [`effective_set`].
pub fn effective_general(
    config: &Configuration,
) -> Result<[(&'static str, Vec<Effective>); 2], OptionError> {
    let target = &config.target;
    let options = target.options()?;
    let one = |key, value, from: Option<&Place>| Effective {
        key,
        value,
        from: from.cloned(),
    };
    fn place<T>(given: Option<&(T, Place)>) -> Option<&Place> {
        given.map(|(_, place)| place)
    }
    let confine = target.confine.as_ref().map_or("auto", |(text, _)| text);
    let of_target = vec![
        one(
            "listen",
            Shown::Text(options.listen.to_string()),
            place(target.listen.as_ref()),
        ),
        one(
            "root",
            Shown::of_path(&options.root),
            place(target.root.as_ref()),
        ),
        one(
            "state",
            Shown::of_path(&options.state_dir),
            place(target.state.as_ref()),
        ),
        one(
            "confine",
            Shown::Text(confine.to_owned()),
            place(target.confine.as_ref()),
        ),
        one(
            "insecure-loopback",
            Shown::Switch(options.insecure_loopback),
            place(target.insecure_loopback.as_ref()),
        ),
    ];
    let listen = config
        .metrics_listen
        .as_ref()
        .map(|(address, _)| address.to_string());
    let listen = listen.unwrap_or_else(|| METRICS_LISTEN_DEFAULT.to_owned());
    let of_metrics = vec![one(
        "listen",
        Shown::Text(listen),
        place(config.metrics_listen.as_ref()),
    )];
    Ok([("target", of_target), ("metrics", of_metrics)])
}
