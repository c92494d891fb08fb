//! `doppelfs restart`: another worker takes over, the mount stays.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::run::Outcome;
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
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

/// Asks the supervisor for another worker and waits until it serves.
pub(super) fn restart(
    run_dir: &Path,
    set: &SetName,
    patience: Duration,
    json: bool,
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
            bail!(
                "the workers of set {set} die before they serve ({}); their log says why. The mount \
                 stays, and its requests wait",
                now.last_end.unwrap_or_default()
            );
        }
        if start.elapsed() > patience {
            let mut err = std::io::stderr();
            writeln!(
                err,
                "doppelfs: no worker of set {set} serves after {patience:?}"
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
    };
    let mut out = std::io::stdout().lock();
    if json {
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
    }
    Ok(Outcome::Yes)
}
