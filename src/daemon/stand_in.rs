//! Where a worker keeps its state while the disk of the state cannot be used: in the run directory,
//! which is memory.
//!
//! Only the next worker of a mount that is served comes here. It has to serve, or the mount's requests
//! wait for a disk that nobody may mend before the morning. What it finds in the state's place it does
//! not believe afterwards: the first worker that can use it again begins it anew, and the targets are
//! mirrored. So a stand-in is left behind by a mirror, always.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::MountOptions;
use crate::sync;
use crate::sys;

/// The most that the queue takes of the memory; a quarter of what is free, at most.
const QUEUE_BYTES_MAX: u64 = 1 << 30;

/// The first wait before the state's disk is tried again; twice as long after each worker that tried in
/// vain.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// The state could not be used, for whatever reason: what [`anyhow::Error::is`] finds in an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unusable;

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the state cannot be used")
    }
}

/// The place, and what stands there about why it is used.
#[derive(Debug, Clone)]
pub(super) struct StandIn {
    dir: PathBuf,
}

impl StandIn {
    /// That of a set.
    pub(super) fn of(options: &MountOptions) -> StandIn {
        let dir = options.run_dir.join(format!("{}.standin", options.set));
        StandIn { dir }
    }

    /// Has a worker of this mount used it?
    pub(super) fn is_used(&self) -> bool {
        self.dir.exists()
    }

    /// Why it is used.
    pub(super) fn reason(&self) -> String {
        std::fs::read_to_string(self.dir.join("reason")).unwrap_or_default()
    }

    /// Has the last worker found out that the state is unusable, and left the next one to go on here?
    pub(super) fn take_advice(&self) -> bool {
        std::fs::remove_file(self.dir.join("advised")).is_ok()
    }

    /// Notes why the state cannot be used. `is_advice`: the next worker is to believe it unseen.
    ///
    /// # Errors
    /// The run directory cannot be written either.
    pub(super) fn note(&self, why: &str, is_advice: bool) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        std::fs::write(self.dir.join("reason"), why)?;
        let tries = self.tries() + 1;
        std::fs::write(self.dir.join("tries"), tries.to_string())?;
        if is_advice {
            File::create(self.dir.join("advised"))?;
        }
        Ok(())
    }

    fn tries(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.join("tries")).unwrap_or_default();
        text.parse().unwrap_or(0)
    }

    /// The state of these options stands: it is needed no more, unless it is this one.
    pub(super) fn leave(&self, options: &MountOptions) {
        if options.state_dir == self.dir {
            return;
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, dir = %self.dir.display(), "cannot remove what stood in for the state");
            }
            _ => {}
        }
    }

    /// The options of the mount, with this in the state's place.
    ///
    /// # Errors
    /// The run directory cannot be examined.
    pub(super) fn options(&self, options: &MountOptions) -> io::Result<MountOptions> {
        let dir = File::open(&self.dir)?;
        let space = sys::statvfs(dir.as_fd())?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let most = (free / 4).min(QUEUE_BYTES_MAX);
        Ok(MountOptions {
            state_dir: self.dir.clone(),
            queue_dir: self.dir.join("queue"),
            queue_disk_max: Some(options.queue_disk_max.map_or(most, |max| max.min(most))),
            queue_free_min: options.queue_free_min.min(free / 2),
            ..options.clone()
        })
    }

    /// Has `again` called, once, when the state's own place can be written again.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn watch(
        &self,
        original: &MountOptions,
        again: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let dirs = [original.state_dir.clone(), original.queue_dir.clone()];
        let doublings = self.tries().saturating_sub(1).min(16);
        let wait = (PATIENCE * 2_u32.pow(doublings)).min(PATIENCE_MAX);
        // It may hang with the disk, and ends with the process.
        sync::spawn("dfs-probe", move || {
            loop {
                std::thread::sleep(wait);
                if dirs.iter().all(|dir| is_writable(dir).is_ok()) {
                    tracing::info!("the disk of the state can be written again");
                    return again();
                }
            }
        })?;
        Ok(())
    }
}

/// Can files be made there that are durable?
///
/// # Errors
/// What stands in the way.
pub(super) fn is_writable(dir: &Path) -> io::Result<()> {
    let path = dir.join(".probe");
    let mut file = File::create(&path)?;
    let written = file
        .write_all(&[0; 4096])
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(dir)?.sync_all());
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}
