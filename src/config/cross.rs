//! What only shows when all sets are seen together, and with the machine around.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::check::real_ancestor;
use super::{Configuration, FS_TYPE, MountOptions, Place, Problem, SetFile};
use crate::keys::Pairings;
use crate::sys;
use crate::wire::TargetAddr;

/// A set with its paths as they are on this machine.
struct Seen<'a> {
    set: &'a SetFile,
    options: MountOptions,
    path: PathBuf,
    mountpoint: PathBuf,
    state: PathBuf,
    queue: PathBuf,
    keys: PathBuf,
}

/// What is wrong with the sets of a configuration beside each other and on this machine. Sets whose own
/// file is wrong are left out.
pub fn check_configuration(config: &Configuration) -> Vec<Problem> {
    let mounts = our_mounts();
    let seen: Vec<Seen<'_>> = config
        .sets
        .iter()
        .filter_map(|set| see(config, set, &mounts))
        .collect();
    let mut problems = Vec::new();
    if let Some((root, place)) = &config.target.root
        && !is_mounted(root, &mounts)
        && !root.is_dir()
    {
        let text = format!("root: {} is no directory; create it first", root.display());
        problems.push(Problem::warning(place, text));
    }
    for (index, one) in seen.iter().enumerate() {
        for other in &seen[..index] {
            problems.extend(collisions(one, other));
        }
        problems.extend(own_inside(one, &seen));
        problems.extend(missing(one, &mounts));
        problems.extend(beside_target(config, one));
        for (target, why) in check_pairings(&one.options) {
            let place = one.set.given.iter().find(|given| {
                let parsed = given.value.as_deref().map(str::parse::<TargetAddr>);
                given.key == "target" && matches!(parsed, Some(Ok(found)) if found == target)
            });
            let place = place.map_or_else(|| one.set.place_of("target"), |p| p.place.clone());
            problems.push(Problem::warning(&place, why));
        }
    }
    problems
}

/// The targets that this host is not paired with, each with what to do.
pub fn check_pairings(options: &MountOptions) -> Vec<(TargetAddr, String)> {
    if options.insecure_loopback {
        return Vec::new();
    }
    let pairings = Pairings::of(&options.keys_dir);
    let unpaired = options.targets.iter().filter_map(|target| {
        let error = pairings.find(&target.pairing()).err()?;
        Some((target.clone(), format!("target {target}: {error}")))
    });
    unpaired.collect()
}

fn our_mounts() -> Vec<PathBuf> {
    let mounts = sys::read_mounts().unwrap_or_default();
    let ours = mounts.into_iter().filter(|mount| mount.fs_type == FS_TYPE);
    ours.map(|mount| mount.mountpoint).collect()
}

fn is_mounted(path: &Path, mounts: &[PathBuf]) -> bool {
    mounts.iter().any(|mount| path.starts_with(mount))
}

/// The path without symbolic links, as far as that asks no mount of ours.
fn real(path: &Path, mounts: &[PathBuf]) -> PathBuf {
    match is_mounted(path, mounts) {
        true => path.to_owned(),
        false => real_ancestor(path),
    }
}

fn see<'a>(config: &Configuration, set: &'a SetFile, mounts: &[PathBuf]) -> Option<Seen<'a>> {
    let settings = config.settings_for(Some(set));
    let mountpoint = set.mountpoint.as_ref().map(|(path, _)| path.as_path());
    let options = MountOptions::new(&set.path.0, mountpoint, &settings).ok()?;
    Some(Seen {
        set,
        path: real(&options.dir, mounts),
        mountpoint: real(&options.mountpoint, mounts),
        state: real(&options.state_dir, mounts),
        queue: real(&options.queue_dir, mounts),
        keys: real(&options.keys_dir, mounts),
        options,
    })
}

fn of(set: &SetFile, key: &str) -> String {
    let what = match key {
        "mountpoint" => "mount point",
        "state" => "state directory",
        "queue-dir" => "queue directory",
        key => key,
    };
    let place = match set.place_of(key) {
        // A default, which no line says.
        place if place == Place::beginning(&set.file) => set.file.display().to_string(),
        place => place.in_short(),
    };
    format!("the {what} of set {} ({place})", set.name)
}

fn collisions(one: &Seen<'_>, other: &Seen<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (set, them) = (one.set, other.set);
    if set.name == them.name {
        let text = format!(
            "set {} has a file already: {}",
            set.name,
            them.file.display()
        );
        problems.push(Problem::error(&Place::beginning(&set.file), text));
    }
    let mut say = |key: &str, text: String| {
        problems.push(Problem::error(&set.place_of(key), format!("{key}: {text}")));
    };
    if one.path == other.path {
        let text = format!("{} is {}, too", one.path.display(), of(them, "path"));
        say("path", text);
    } else if let Some(text) = overlap(&one.path, &other.path, &of(them, "path")) {
        say("path", format!("{text}; a file cannot belong to two sets"));
    }
    let is_elsewhere = |seen: &Seen<'_>| seen.mountpoint != seen.path;
    let places = [(&other.path, "path"), (&other.mountpoint, "mountpoint")];
    if is_elsewhere(one) {
        let met = places
            .into_iter()
            .find(|(path, _)| **path == one.mountpoint);
        if let Some((path, key)) = met {
            let text = format!("{} is {}, too", path.display(), of(them, key));
            say("mountpoint", text);
        } else if let Some(text) =
            overlap(&one.mountpoint, &other.mountpoint, &of(them, "mountpoint"))
        {
            say("mountpoint", text);
        }
    } else if is_elsewhere(other) {
        if one.path == other.mountpoint {
            let text = format!("{} is {}", one.path.display(), of(them, "mountpoint"));
            say("path", text);
        } else if let Some(text) = overlap(&one.path, &other.mountpoint, &of(them, "mountpoint")) {
            say("path", text);
        }
    }
    if one.state == other.state {
        let text = format!(
            "{} is {}, too; each set has one of its own",
            one.state.display(),
            of(them, "state")
        );
        say("state", text);
    } else if let Some(text) = overlap(&one.state, &other.state, &of(them, "state")) {
        say("state", text);
    } else if one.queue == other.queue {
        let text = format!("{} is {}, too", one.queue.display(), of(them, "queue-dir"));
        say("queue-dir", text);
    }
    problems
}

/// Does one lie inside of the other?
fn overlap(one: &Path, other: &Path, whose: &str) -> Option<String> {
    let (one_shown, other_shown) = (one.display(), other.display());
    if one != other && one.starts_with(other) {
        return Some(format!("{one_shown} lies inside of {other_shown}, {whose}"));
    }
    let contains = one != other && other.starts_with(one);
    contains.then(|| format!("{one_shown} contains {other_shown}, {whose}"))
}

/// Whatever is recorded there would be recorded again.
fn own_inside(one: &Seen<'_>, all: &[Seen<'_>]) -> Vec<Problem> {
    let own = [
        ("state", &one.state),
        ("queue-dir", &one.queue),
        ("keys", &one.keys),
    ];
    let mut problems = Vec::new();
    for (key, path) in own {
        // The queue is in the state unless it is said otherwise.
        if key == "queue-dir" && path.starts_with(&one.state) {
            continue;
        }
        // Everything lies in /, which is wrong by itself.
        let others = all.iter().filter(|other| other.path != Path::new("/"));
        let around = others.into_iter().find_map(|other| {
            let places = [&other.path, &other.mountpoint];
            let around = places.into_iter().find(|place| path.starts_with(place));
            around.map(|place| (other, place))
        });
        if let Some((other, place)) = around {
            let text = format!(
                "{key}: {} lies inside of {}, which set {} protects: what is recorded would be recorded \
                 again; put it elsewhere",
                path.display(),
                place.display(),
                other.set.name
            );
            problems.push(Problem::error(&one.set.place_of(key), text));
        }
    }
    problems
}

fn missing(one: &Seen<'_>, mounts: &[PathBuf]) -> Vec<Problem> {
    let mut wanted = vec![("path", &one.options.dir)];
    if one.set.mountpoint.is_some() {
        wanted.push(("mountpoint", &one.options.mountpoint));
    }
    let mut problems = Vec::new();
    for (key, path) in wanted {
        if is_mounted(path, mounts) {
            continue;
        }
        let shown = path.display();
        let text = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => {
                format!("{key}: {shown} is not a directory; only directories can be protected")
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                format!("{key}: {shown}: no such directory; create it first")
            }
            Err(e) => format!("{key}: cannot examine {shown}: {e}"),
        };
        problems.push(Problem::error(&one.set.place_of(key), text));
    }
    if one.options.dir == Path::new("/") {
        let text = "path: / cannot be protected as a whole; name the directories that matter";
        problems.push(Problem::error(&one.set.place_of("path"), text));
    }
    problems
}

/// A target on the same host has a state, too.
fn beside_target(config: &Configuration, one: &Seen<'_>) -> Option<Problem> {
    let is_configured = config.target != super::TargetFile::default();
    let target = config.target.options().ok().filter(|_| is_configured)?;
    let is_met =
        one.state == target.state_dir || overlap(&one.state, &target.state_dir, "").is_some();
    is_met.then(|| {
        let text = format!(
            "state: {} is also that of the target of this host, or one lies inside of the other; give \
             the set another",
            one.state.display()
        );
        Problem::error(&one.set.place_of("state"), text)
    })
}
