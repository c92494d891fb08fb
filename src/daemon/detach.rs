//! A lazy umount: the mount leaves the tree of names while files open through it go on being served.
//!
//! From then on the directory's paths lead below, uncaptured, while captured operations leave later
//! times than what is missed. So the end of the covered time is when the mount left, not the last
//! captured operation; this thread notes it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sync::{self, Condvar, Mutex, Rank};
use crate::sys;

/// A session that lives on for so long after its mount has left was left behind by a lazy umount.
const LINGERS: Duration = Duration::from_millis(200);

/// The table is looked at anew at least so often, should the session end without an umount.
const LOOK_MS: i32 = 2000;

#[derive(Debug, Default)]
struct Seen {
    ended: bool,
    /// When the mount had left.
    left_ns: Option<u64>,
    /// The session lived on.
    lingered: bool,
}

/// Watches for the mount to leave.
pub(super) struct Detachment {
    seen: Arc<(Mutex<Seen>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Detachment {
    /// Watches the mount on `mountpoint`.
    ///
    /// # Errors
    /// When the table of mounts cannot be opened or no thread is to be had.
    pub(super) fn watch(mountpoint: &Path) -> std::io::Result<Detachment> {
        let table = File::open("/proc/self/mountinfo")?;
        let seen = Arc::new((Mutex::new(Rank::Leaf, Seen::default()), Condvar::new()));
        let (point, shared) = (mountpoint.to_path_buf(), seen.clone());
        let thread = sync::spawn("dfs-detach", move || run(&table, &point, &shared))?;
        Ok(Detachment {
            seen,
            thread: Some(thread),
        })
    }

    /// The session has ended. If it had been left behind: since when (nanoseconds since 1970). That it
    /// was shows in its life after the mount's, or in a change captured after that.
    pub(super) fn end(mut self, last_captured_ns: u64) -> Option<u64> {
        self.seen.0.lock().ended = true;
        self.seen.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch of the mount table panicked");
            return Some(0);
        }
        let seen = self.seen.0.lock();
        seen.left_ns
            .filter(|left_ns| seen.lingered || last_captured_ns > *left_ns)
    }
}

fn is_mounted(point: &PathBuf) -> bool {
    let ours =
        |mount: &sys::MountLine| mount.mountpoint == *point && mount.fs_type == "fuse.doppelfs";
    // A table that cannot be read says nothing.
    sys::read_mounts().map_or(true, |mounts| mounts.iter().any(ours))
}

fn run(table: &File, point: &PathBuf, (seen, changed): &(Mutex<Seen>, Condvar)) {
    while is_mounted(point) {
        if seen.lock().ended || sys::wait_mounts_changed(table.as_fd(), LOOK_MS).is_err() {
            return;
        }
    }
    let left_ns = sys::realtime_ns();
    let until = sys::monotonic_ns() + u64::try_from(LINGERS.as_nanos()).unwrap_or(0);
    let mut seen = seen.lock();
    seen.left_ns = Some(left_ns);
    while !seen.ended {
        let left = until.saturating_sub(sys::monotonic_ns());
        if left == 0 {
            tracing::warn!(
                "the mount was detached while in use: changes beside it are looked for at the next mount"
            );
            seen.lingered = true;
            return;
        }
        changed.wait_for(&mut seen, Duration::from_nanos(left));
    }
}
