//! A relaxed order: what programs wrote is in the kernel's cache for a bounded time only.
//!
//! The kernel would write pages back after half a minute. So this has a process of its own do it
//! (`doppelfs flush-pages`) in each flush interval in which a file is open for writing; closing writes
//! back what is left. An idle mount costs nothing.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::capture::Capture;
use crate::config::{FS_TYPE, MountOptions, Order};
use crate::sync;
use crate::sys;

/// Between two tries to start the process, at least.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The share of the host's dirty memory that this mount may have, in percent: as a disk has.
const DIRTY_SHARE: &str = "100";

/// Has pages written back in time from now on, where the order is relaxed. Ends with this process.
///
/// # Errors
/// When no thread is to be had.
pub(super) fn start(options: &MountOptions, capture: &Arc<Capture>) -> std::io::Result<()> {
    if options.order == Order::Strict {
        return Ok(());
    }
    let Some(device) = device_of(&options.mountpoint) else {
        tracing::warn!("the mount is not to be found; the kernel writes back when it likes");
        return Ok(());
    };
    raise_dirty_limits(&device);
    let flusher = Flusher {
        mountpoint: options.mountpoint.clone(),
        device,
        interval: options.flush_interval,
        capture: Arc::downgrade(capture),
    };
    let thread = sync::spawn("dfs-flusher", move || flusher.run())?;
    capture.files.wake_for_writer(thread.thread().clone());
    // It may have begun to wait before anybody could wake it.
    thread.thread().unpark();
    Ok(())
}

fn device_of(mountpoint: &Path) -> Option<String> {
    let mounts = sys::read_mounts().ok()?;
    let mut ours = mounts
        .into_iter()
        .rev()
        .filter(|mount| mount.mountpoint == mountpoint && mount.fs_type == FS_TYPE);
    ours.next().map(|mount| mount.device)
}

/// The kernel lets a FUSE file system have one percent of the memory that may be dirty, and slows writers
/// down early, since any user may mount one. This is root's.
fn raise_dirty_limits(device: &str) {
    let dir = Path::new("/sys/class/bdi").join(device);
    for (name, value) in [("strict_limit", "0"), ("max_ratio", DIRTY_SHARE)] {
        if let Err(error) = std::fs::write(dir.join(name), value) {
            tracing::warn!(%error, name, "writers may be slowed down early");
        }
    }
}

struct Flusher {
    mountpoint: PathBuf,
    device: String,
    interval: Duration,
    capture: Weak<Capture>,
}

impl Flusher {
    fn run(&self) {
        let mut process: Option<Child> = None;
        while let Some(capture) = self.capture.upgrade() {
            let has_writers = capture.files.writers() > 0;
            drop(capture);
            if !has_writers {
                std::thread::park();
                continue;
            }
            std::thread::sleep(self.interval);
            if let Err(error) = self.ask(&mut process) {
                tracing::warn!(%error, "pages cannot be written back in time; trying again");
                std::thread::sleep(PAUSE_AFTER_FAILURE);
            }
        }
    }

    /// Asks the process for a pass; starts it where it is not there.
    fn ask(&self, process: &mut Option<Child>) -> std::io::Result<()> {
        let child = match process {
            Some(child) => child,
            None => process.insert(self.spawn()?),
        };
        let Some(pipe) = &mut child.stdin else {
            return Ok(());
        };
        let asked = pipe.write_all(b"f");
        if asked.is_err() {
            // Nobody reads: it has ended.
            child.wait()?;
            *process = None;
        }
        asked
    }

    fn spawn(&self) -> std::io::Result<Child> {
        // Also when the file of the program was replaced meanwhile.
        Command::new("/proc/self/exe")
            .arg0("doppelfs")
            .arg("flush-pages")
            .arg(&self.mountpoint)
            .arg(&self.device)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
    }
}
