//! `doppelfs umount`: tell the worker, unmount, wait until the worker has ended.

use anyhow::{Context, bail};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::run::Outcome;
use crate::control::{self, Client, Reply, Request, Service};
use crate::supervisor::{Supervision, User, holders_of, users_of};
use crate::sys;
use crate::types::SetName;

/// Processes named in the message about a busy mount.
const USERS_SHOWN_MAX: usize = 20;

/// How long a mount may be busy without a user that shows, and how long to wait between attempts.
const LOOKS_PASS: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn umount(
    mountpoint: &Path,
    run_dir: &Path,
    patience: Duration,
) -> anyhow::Result<Outcome> {
    let mountpoint = match mount_of_set(mountpoint, run_dir) {
        Some(of_set) => meant(mountpoint, &of_set)?,
        None => find_mount(mountpoint)?,
    };
    if !sys::is_root() {
        bail!(
            "permission denied: only root may unmount {}",
            mountpoint.display()
        );
    }
    let supervision = end_resting(run_dir, &mountpoint, patience)?;
    let worker = find_worker(run_dir, &mountpoint);
    // Who has the directory below to the last: the supervisor, if there is one.
    let last = supervision
        .map(|told| told.pid)
        .or(worker.as_ref().map(|(_, pid)| *pid));
    // The descriptor first: they may end at any moment from the umount on.
    let pidfd = last.and_then(|pid| sys::pidfd_open(pid).ok());
    if let Some((service, _)) = &worker {
        prepare(run_dir, service, &mountpoint)?;
    }
    let mut own: Vec<u32> = worker.iter().map(|(_, pid)| *pid).collect();
    own.extend(last);
    let device = device_of(&mountpoint);
    match unmount(&mountpoint, &own) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
            abandon(run_dir, worker.as_ref());
            bail!(busy_text(&mountpoint, &own));
        }
        Err(e) => {
            abandon(run_dir, worker.as_ref());
            return Err(e).with_context(|| format!("cannot unmount {}", mountpoint.display()));
        }
    }
    let (Some(pidfd), Some(pid)) = (pidfd, last) else {
        return Ok(Outcome::Yes);
    };
    wait_for_end(&pidfd, pid, patience, device.as_deref())
}

/// The supervisor of the mount, if it has one. One that rests, since its workers die, is ended: nobody
/// serves its mount, which is dead then and can be unmounted. One whose worker has just died is waited
/// for.
fn end_resting(
    run_dir: &Path,
    mountpoint: &Path,
    patience: Duration,
) -> anyhow::Result<Option<Supervision>> {
    let find = || Supervision::of_mount(run_dir, mountpoint);
    let start = Instant::now();
    while let Some(told) = find() {
        if told.serves {
            return Ok(Some(told));
        }
        if told.rests {
            let pidfd = sys::pidfd_open(told.pid);
            told.ask_for_end()
                .with_context(|| format!("cannot end supervisor {}", told.pid))?;
            let ended = pidfd.and_then(|pidfd| sys::poll_readable(pidfd.as_fd(), patience));
            if !ended.with_context(|| format!("cannot wait for supervisor {}", told.pid))? {
                bail!("supervisor {} does not end within {patience:?}", told.pid);
            }
            return Ok(None);
        }
        if start.elapsed() > patience {
            bail!(
                "no worker serves the mount within {patience:?}: {}",
                told.describe()
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

/// Unmounts. Who only looks at every mount (df, a monitor, mkfs) keeps it busy for that moment and shows
/// as nobody: then another attempt decides.
fn unmount(mountpoint: &Path, own: &[u32]) -> std::io::Result<()> {
    let start = Instant::now();
    loop {
        match sys::umount(mountpoint, false) {
            Err(e)
                if e.kind() == std::io::ErrorKind::ResourceBusy
                    && start.elapsed() < LOOKS_PASS
                    && users_beside(mountpoint, own).is_empty() =>
            {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Who uses the mount, but for its own processes and us.
fn users_beside(mountpoint: &Path, own: &[u32]) -> Vec<User> {
    let mut except = vec![std::process::id()];
    except.extend(own);
    users_of(mountpoint, &except)
}

/// The device of the topmost mount there.
fn device_of(mountpoint: &Path) -> Option<String> {
    let mounts = sys::read_mounts().ok()?;
    let mut topmost = mounts.into_iter().rev();
    topmost
        .find(|m| m.mountpoint == mountpoint)
        .map(|m| m.device)
}

fn wait_for_end(
    pidfd: &OwnedFd,
    pid: u32,
    patience: Duration,
    device: Option<&str>,
) -> anyhow::Result<Outcome> {
    let ended = sys::poll_readable(pidfd.as_fd(), patience)
        .with_context(|| format!("cannot wait for worker {pid}"))?;
    if ended {
        return Ok(Outcome::Yes);
    }
    let mut text = format!(
        "it is unmounted here, but its worker (process {pid}) has not ended within {patience:?} \
         and still holds the directory below"
    );
    let holders = device.map(holders_of).unwrap_or_default();
    if holders.is_empty() {
        text += "; see its log";
    } else {
        text += "; the mount lives on in other mount namespaces (containers), and ends with them:";
    }
    append_users(&mut text, &holders);
    bail!(text)
}

/// The mount of a set that was named, unless the word could mean another one as well.
fn meant(given: &Path, of_set: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(by_path) = find_mount(given)
        && by_path != of_set
    {
        bail!(
            "{} is a set, mounted on {}, and {} is another mount; name the one that is meant by its path",
            given.display(),
            of_set.display(),
            by_path.display()
        );
    }
    // What lies there now may be something else: another file system on top of ours.
    find_mount(of_set)
}

/// Where the set of that name is mounted, when the word is one: it has no slash, and the set is mounted.
fn mount_of_set(given: &Path, run_dir: &Path) -> Option<PathBuf> {
    let name = given.to_str().filter(|text| !text.contains('/'))?;
    let name = SetName::new(name).ok()?;
    if let Some(told) = Supervision::read(run_dir, &name) {
        return Some(told.mountpoint);
    }
    let client = Client::connect(run_dir, &Service::Set(name)).ok()?;
    match client.ask(&Request::Status, Some(control::ANSWER_PATIENCE)) {
        Ok(Reply::Set(set)) => set.roots.first().map(|root| root.mountpoint.clone().into()),
        _ => None,
    }
}

/// The mount as the table has it. Only the parents of the mount point are looked at: the root of a
/// dead mount cannot be, and that of a stopped worker must not be.
fn find_mount(given: &Path) -> anyhow::Result<PathBuf> {
    let absolute =
        std::path::absolute(given).with_context(|| format!("mount point {}", given.display()))?;
    let plain: PathBuf = absolute.components().collect();
    let parents_real = match (plain.parent(), plain.file_name()) {
        (Some(parent), Some(name)) => std::fs::canonicalize(parent).map(|p| p.join(name)).ok(),
        _ => None,
    };
    let table = sys::read_mounts().context("cannot read the mount table")?;
    let topmost = |path: &PathBuf| {
        let line = table.iter().rev().find(|m| m.mountpoint == *path);
        line.map(|m| (path.clone(), m.fs_type == "fuse.doppelfs"))
    };
    let candidates = [Some(plain.clone()), parents_real];
    let mut found = candidates.iter().flatten().find_map(topmost);
    if found.is_none() {
        // Nothing is mounted there, so nothing hangs there: perhaps it is a symbolic link.
        found = std::fs::canonicalize(&plain)
            .ok()
            .and_then(|real| topmost(&real));
    }
    match found {
        Some((path, true)) => Ok(path),
        Some((path, false)) => bail!(
            "what is mounted on {} is no doppelfs; use umount(8) for it",
            path.display()
        ),
        None => bail!(
            "nothing is mounted on {}; `doppelfs status` shows what is",
            plain.display()
        ),
    }
}

/// The worker of a mount, if one answers.
fn find_worker(run_dir: &Path, mountpoint: &Path) -> Option<(Service, u32)> {
    let shown = mountpoint.to_string_lossy();
    for name in control::list_sets(run_dir).ok()? {
        let service = Service::Set(name);
        let client = Client::connect(run_dir, &service).ok();
        let limit = Some(control::ANSWER_PATIENCE);
        let reply = client.and_then(|c| match c.ask(&Request::Status, limit) {
            Ok(reply) => Some(reply),
            Err(error @ control::Error::Older { .. }) => {
                // If it is the one, its end is not prepared, and the next mount looks for changes.
                eprintln!("doppelfs: warning: {error}");
                None
            }
            Err(_) => None,
        });
        if let Some(Reply::Set(set)) = reply
            && set.roots.iter().any(|root| root.mountpoint == shown)
        {
            return Some((service, set.worker_pid));
        }
    }
    None
}

/// A worker that cannot prepare is no reason to stay mounted: the next mount then treats this end
/// as unclean.
fn prepare(run_dir: &Path, service: &Service, mountpoint: &Path) -> anyhow::Result<()> {
    let client = Client::connect(run_dir, service);
    let limit = Some(Duration::from_secs(60));
    let reply = client.and_then(|c| c.ask(&Request::PrepareUmount, limit));
    if let Err(error) = reply {
        let mut err = std::io::stderr();
        writeln!(
            err,
            "doppelfs: warning: {} ends uncleanly: {error}",
            mountpoint.display()
        )?;
    }
    Ok(())
}

fn abandon(run_dir: &Path, worker: Option<&(Service, u32)>) {
    if let Some((service, _)) = worker
        && let Ok(client) = Client::connect(run_dir, service)
    {
        // The mount stays and serves whatever the answer is.
        let _ = client.ask(&Request::AbandonUmount, Some(control::ANSWER_PATIENCE));
    }
}

fn busy_text(mountpoint: &Path, own: &[u32]) -> String {
    let users = users_beside(mountpoint, own);
    let mut text = format!("{} is in use and stays mounted", mountpoint.display());
    if users.is_empty() {
        text += "; no process shows why: another mount inside it, a swap file, an NFS export?";
        return text;
    }
    text += ", by:";
    append_users(&mut text, &users);
    text
}

fn append_users(text: &mut String, users: &[User]) {
    for user in users.iter().take(USERS_SHOWN_MAX) {
        *text += &format!("\n  {user}");
    }
    if users.len() > USERS_SHOWN_MAX {
        *text += &format!("\n  and {} more", users.len() - USERS_SHOWN_MAX);
    }
}
