//! A directory for one test, on a real disk, gone when the test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A scratch directory; removed on drop, unless `DOPPELFS_KEEP` is set.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

/// Where scratch directories lie: `DOPPELFS_SCRATCH`, else `/var/tmp` (a disk, not a tmpfs).
pub(crate) fn base() -> PathBuf {
    std::env::var_os("DOPPELFS_SCRATCH").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

impl Scratch {
    /// A new empty directory with `label` in its name.
    pub(crate) fn new(label: &str) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("doppelfs-{}-{label}-{number}", std::process::id());
        let path = base().join(name);
        remove_tree(&path);
        std::fs::create_dir_all(&path).expect("make a scratch directory");
        Scratch { path }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        umount_below(&self.path);
        if std::env::var_os("DOPPELFS_KEEP").is_some() {
            eprintln!("kept {}", self.path.display());
            return;
        }
        remove_tree(&self.path);
    }
}

/// Takes away what a failed test left mounted; the last resort.
fn umount_below(path: &Path) {
    for mount in doppelfs::sys::read_mounts()
        .unwrap_or_default()
        .iter()
        .rev()
    {
        if mount.mountpoint.starts_with(path) {
            let lazy = doppelfs::sys::umount(&mount.mountpoint, true);
            eprintln!(
                "{} was left mounted; lazy umount: {lazy:?}",
                mount.mountpoint.display()
            );
        }
    }
}

/// Removes a tree of any depth; `rm` does not recurse with open descriptors, std does.
fn remove_tree(path: &Path) {
    let one_file_system = "--one-file-system";
    let removed = Command::new("rm")
        .args(["-rf", one_file_system, "--"])
        .arg(path)
        .status();
    if !removed.is_ok_and(|status| status.success()) {
        eprintln!("could not remove {}", path.display());
    }
}
