//! Who protects which files: no file may belong to two sets, nor to the set that is recorded in it,
//! by whatever path.
//!
//! Paths tell only half of it: bind mounts, and sets that are served elsewhere, lead to the same files
//! by other paths. Every set therefore writes where its directory lies in its file system into a file
//! of the run directory, `SET.dir`, and holds its lock for as long as it runs.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::config::MountOptions;
use crate::control;
use crate::sys;

use super::ways::Spot;

/// Extension of the files.
const EXTENSION: &str = "dir";

/// Where a directory lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lying {
    /// Number of the file system, or btrfs subvolume.
    device: u64,
    /// Its path inside of the file system.
    inner: OsString,
    /// Its path.
    dir: OsString,
    /// Where it is served.
    mountpoint: OsString,
}

impl Lying {
    /// `None` where it cannot be told: without /proc.
    fn of(dir: &Path, mountpoint: &Path) -> Option<Lying> {
        Some(Lying {
            device: std::fs::metadata(dir).ok()?.dev(),
            inner: Spot::of(dir).ok()?.inner().as_os_str().to_owned(),
            dir: dir.as_os_str().to_owned(),
            mountpoint: mountpoint.as_os_str().to_owned(),
        })
    }

    fn is_inside(&self, other: &Lying) -> bool {
        self.device == other.device && Path::new(&self.inner).starts_with(&other.inner)
    }
}

/// The right to protect a directory; ends with the last process that has it at the latest.
#[derive(Debug)]
pub(super) struct Claim {
    lock: Option<OwnedFd>,
}

impl Claim {
    /// The claim of a mount whose processes have died: what it is of stands there already.
    fn again(options: &MountOptions) -> Claim {
        let path = options.run_dir.join(format!("{}.{EXTENSION}", options.set));
        let file = OpenOptions::new().read(true).write(true).open(path).ok();
        let lock = file.filter(|file| sys::lock_file(file.as_fd()).unwrap_or(false));
        Claim {
            lock: lock.map(OwnedFd::from),
        }
    }

    /// The claim that another process has handed over.
    pub(super) fn of(lock: Option<OwnedFd>) -> Claim {
        Claim { lock }
    }

    /// What to hand over: whoever has it, has the claim.
    pub(super) fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(AsFd::as_fd)
    }
}

/// Claims the files of the directory for the set.
///
/// # Errors
/// [`check`]'s; the run directory cannot be used; another process has the set's name.
pub(super) fn take(options: &MountOptions) -> anyhow::Result<Claim> {
    let run_dir = &options.run_dir;
    make_run_dir(run_dir)?;
    if options.dir_is_dead {
        return Ok(Claim::again(options));
    }
    let Some(lying) = Lying::of(&options.dir, &options.mountpoint) else {
        return Ok(Claim { lock: None });
    };
    let path = run_dir.join(format!("{}.{EXTENSION}", options.set));
    let lock =
        write_locked(&path, &lying).with_context(|| format!("cannot use {}", path.display()))?;
    let Some(lock) = lock else {
        bail!(
            "a set named {:?} is mounted already, or just being mounted (run directory {}); give \
             another name with --set NAME",
            options.set.to_string(),
            run_dir.display()
        );
    };
    // Whoever comes at the same time has written before looking, too.
    check(options)?;
    Ok(Claim {
        lock: Some(lock.into()),
    })
}

/// Makes the run directory (0700) where it is missing.
///
/// # Errors
/// It cannot be one.
pub(super) fn make_run_dir(run_dir: &Path) -> anyhow::Result<()> {
    match control::make_run_dir(run_dir) {
        Ok(_) => Ok(()),
        Err(error @ control::Error::Io { .. }) => Err(error).with_context(|| {
            format!(
                "{} cannot be the run directory; give another with --run-dir",
                run_dir.display()
            )
        }),
        Err(error) => Err(error.into()),
    }
}

/// `None`: somebody else holds the lock.
fn write_locked(path: &Path, lying: &Lying) -> io::Result<Option<File>> {
    let mut file = sys::open_private(path)?;
    if !sys::lock_file(file.as_fd())? {
        return Ok(None);
    }
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(lying)?)?;
    Ok(Some(file))
}

/// May the set have these files? Changes nothing.
///
/// # Errors
/// Some belong to another set, or what the set itself writes would be among them.
pub(super) fn check(options: &MountOptions) -> anyhow::Result<()> {
    let Some(lying) = Lying::of(&options.dir, &options.mountpoint) else {
        return Ok(());
    };
    for (set, other) in others(&options.run_dir, options.set.as_str()) {
        if lying.is_inside(&other) || other.is_inside(&lying) {
            bail!(
                "{} leads to files of {}, which is protected already (set {set}), and a file cannot \
                 belong to two sets; `doppelfs umount {}` ends that one",
                options.dir.display(),
                Path::new(&other.dir).display(),
                Path::new(&other.mountpoint).display()
            );
        }
    }
    let own = [
        ("state", &options.state_dir, "--state"),
        ("run", &options.run_dir, "--run-dir"),
        ("queue", &options.queue_dir, "--queue-dir"),
    ];
    for (what, path, flag) in own {
        let there = path.ancestors().find(|ancestor| ancestor.is_dir());
        let there = there.and_then(|ancestor| Lying::of(ancestor, ancestor));
        if there.is_some_and(|there| there.is_inside(&lying)) {
            bail!(
                "the {what} directory {} lies inside {}, which is to be protected (another mount \
                 leads there); move it with {flag}",
                path.display(),
                options.dir.display()
            );
        }
    }
    Ok(())
}

/// The other sets that run, by name. What cannot be read is passed over: it is half written by
/// somebody who will look after us.
fn others(run_dir: &Path, own: &str) -> Vec<(String, Lying)> {
    let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let path: PathBuf = entry.path();
        let set = path.file_stem()?.to_str()?.to_owned();
        let is_other = path.extension()? == EXTENSION && set != own;
        let file = is_other.then(|| File::open(&path).ok()).flatten()?;
        let is_held = sys::is_file_locked(file.as_fd()).unwrap_or(false);
        let lying = is_held
            .then(|| serde_json::from_reader(file).ok())
            .flatten()?;
        Some((set, lying))
    });
    files.collect()
}
