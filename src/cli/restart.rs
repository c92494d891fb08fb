//! `doppelfs restart`: another worker takes over, the mount stays.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::options_file::{OptionsFile, RELOADED};
use super::run::Outcome;
use super::spec::ConfigDir;
use crate::config::{Configuration, MountOptions, Settings, Shown, check_pairings, values};
use crate::supervisor::Supervision;
use crate::types::SetName;

/// Between two looks at what the supervisor tells.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of it.
#[derive(Debug, Serialize)]
struct Restarted {
    set: String,
    /// The worker before; 0 where there was none.
    old_worker_pid: u32,
    new_worker_pid: u32,
    /// How long nobody served.
    stall_seconds: f64,
    /// The longest such time since the mount was made.
    longest_stall_seconds: f64,
    /// What the new worker was told anew.
    changed: Vec<Change>,
    /// What the configuration says and only another mount can have.
    waiting: Vec<Change>,
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

/// How a worker is to be replaced.
#[derive(Debug)]
pub(super) struct Manner<'a> {
    /// Where the configuration is, if this command was told; else where the mount had it.
    pub(super) config_dir: Option<&'a ConfigDir>,
    /// Leave the options as they are.
    pub(super) keep_options: bool,
    /// How long to wait.
    pub(super) patience: Duration,
    pub(super) json: bool,
}

/// Options that are to be others.
struct Reload {
    before: OptionsFile,
    after: OptionsFile,
    changed: Vec<Change>,
    waiting: Vec<Change>,
}

/// A key with two values.
#[derive(Debug, Serialize)]
struct Change {
    key: &'static str,
    before: Shown,
    after: Shown,
}

/// What the configuration says by now, compared with what holds; `None` where it cannot be known what the
/// mount was asked for. Nothing below the mount is looked at: its worker may be stopped.
fn reload(
    run_dir: &Path,
    set: &SetName,
    supervisor: u32,
    config_dir: Option<&ConfigDir>,
) -> anyhow::Result<Option<Reload>> {
    let Some(file) = OptionsFile::read(run_dir, set, supervisor) else {
        return Ok(None);
    };
    let config = match config_dir {
        Some(dir) => dir.load()?,
        None => Configuration::load(&file.config_dir)?,
    };
    config.refuse_wrong(Some(set))?;
    let found = config.set(set.as_str()).ok();
    match (found, &file.set_file) {
        (Some(found), _) if found.path.0 != file.dir => bail!(
            "{} protects {} by now, and set {set} is mounted over {}: `doppelfs umount {set}` and \
             `doppelfs mount {set}` go over to it, `doppelfs restart {set} --keep-options` does not",
            found.file.display(),
            found.path.0.display(),
            file.dir.display()
        ),
        (None, Some(gone)) => bail!(
            "{} is gone, which set {set} was mounted by; bring it back, or leave the options as they \
             are: `doppelfs restart {set} --keep-options`",
            gone.display()
        ),
        _ => {}
    }
    let made = |settings: &Settings| MountOptions::new(&file.dir, Some(&file.mountpoint), settings);
    let (before, after) = (
        file.effective(),
        file.given().over(&config.settings_for(found)),
    );
    let (old, new) = (made(&before)?, made(&after)?);
    if let Some((_, why)) = check_pairings(&new)
        .into_iter()
        .find(|(target, _)| old.insecure_loopback || !old.targets.contains(target))
    {
        bail!("{why}; the worker was left as it was");
    }
    let (mut changed, mut waiting) = (Vec::new(), Vec::new());
    for ((key, before), (_, after)) in values(&old).zip(values(&new)) {
        if before == after {
            continue;
        }
        let is_reloaded = key == "targets" || RELOADED.contains(&key);
        let change = Change { key, before, after };
        match is_reloaded {
            true => changed.push(change),
            false => waiting.push(change),
        }
    }
    let mountpoint = found.and_then(|set| set.mountpoint.as_ref());
    if let Some((wanted, _)) = mountpoint.filter(|(path, _)| *path != file.mountpoint) {
        let shown = |path: &Path| Shown::Text(path.display().to_string());
        waiting.push(Change {
            key: "mountpoint",
            before: shown(&file.mountpoint),
            after: shown(wanted),
        });
    }
    let after = file.with_effective(&file_settings(&before, &after));
    Ok(Some(Reload {
        before: file,
        after,
        changed,
        waiting,
    }))
}

/// What will hold: what can be told anew, and all else as before.
fn file_settings(before: &Settings, after: &Settings) -> Settings {
    let is_reloaded = |key: &str| RELOADED.contains(&key);
    after
        .only(is_reloaded)
        .over(&before.only(|key| !is_reloaded(key)))
}

/// Asks the supervisor for another worker and waits until it serves.
pub(super) fn restart(
    run_dir: &Path,
    set: &SetName,
    manner: &Manner<'_>,
) -> anyhow::Result<Outcome> {
    let told = File::open(Supervision::path(run_dir, set));
    if told.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied) {
        bail!("permission denied: only root may restart a worker");
    }
    let Some(before) = Supervision::read(run_dir, set) else {
        bail!(
            "set {set} has no supervisor here (run directory {}): it is not mounted, or this kernel \
             cannot hand a mount over (Linux 6.9 can); `doppelfs umount` and `doppelfs mount` \
             restart it",
            run_dir.display()
        );
    };
    let reload = match manner.keep_options {
        true => None,
        false => reload(run_dir, set, before.pid, manner.config_dir)?,
    };
    let mut reload = reload.filter(|reload| {
        // What cannot be told anew is said below, and changes nothing.
        !reload.changed.is_empty() || !reload.waiting.is_empty()
    });
    if let Some(reload) = &reload {
        reload.after.write(run_dir, set)?;
    }
    before
        .ask_for_restart()
        .with_context(|| format!("cannot reach supervisor {} of set {set}", before.pid))?;
    let start = Instant::now();
    let after = loop {
        let now = Supervision::read(run_dir, set);
        let Some(now) = now else {
            bail!("the mount of set {set} ended meanwhile");
        };
        if now.serves && now.worker_pid != before.worker_pid {
            break now;
        }
        if now.rests && now.restarts > before.restarts {
            if let Some(reload) = reload.as_ref().filter(|reload| !reload.changed.is_empty()) {
                reload.before.write(run_dir, set)?;
                bail!(
                    "with the options of the configuration the workers of set {set} die before they \
                     serve ({}); their log says why. The options of before are in force again: \
                     `doppelfs restart {set} --keep-options` starts a worker with them. The mount \
                     stays, and its requests wait",
                    now.last_end.unwrap_or_default()
                );
            }
            bail!(
                "the workers of set {set} die before they serve ({}); their log says why. The mount \
                 stays, and its requests wait",
                now.last_end.unwrap_or_default()
            );
        }
        if start.elapsed() > manner.patience {
            let mut err = std::io::stderr();
            writeln!(
                err,
                "doppelfs: no worker of set {set} serves after {:?}",
                manner.patience
            )?;
            return Ok(Outcome::No);
        }
        std::thread::sleep(PAUSE);
    };
    let restarted = Restarted {
        set: set.to_string(),
        old_worker_pid: before.worker_pid,
        new_worker_pid: after.worker_pid,
        stall_seconds: seconds(after.last_stall_us),
        longest_stall_seconds: seconds(after.longest_stall_us),
        changed: reload
            .as_mut()
            .map_or_else(Vec::new, |r| std::mem::take(&mut r.changed)),
        waiting: reload
            .as_mut()
            .map_or_else(Vec::new, |r| std::mem::take(&mut r.waiting)),
    };
    let mut out = std::io::stdout().lock();
    if manner.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&restarted)?)?;
    } else {
        writeln!(
            out,
            "set {set}: worker {} took over from {}; requests waited for {:.3} s (longest so far {:.3} s)",
            restarted.new_worker_pid,
            restarted.old_worker_pid,
            restarted.stall_seconds,
            restarted.longest_stall_seconds
        )?;
        for Change { key, before, after } in &restarted.changed {
            writeln!(out, "{key} is {after} now, and was {before}")?;
        }
        for Change { key, before, after } in &restarted.waiting {
            writeln!(
                out,
                "{key} stays {before}: {after} needs `doppelfs umount {set}` and `doppelfs mount {set}`"
            )?;
        }
    }
    Ok(Outcome::Yes)
}
