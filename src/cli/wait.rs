//! `doppelfs wait --caught-up`, and waiting for a mirror.

use anyhow::Context;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::paper::printable_text;
use super::progress::{self, Told};
use super::run::{Outcome, unexpected};
use crate::control::{self, Client, Reply, Request, Service};
use crate::supervisor::Supervision;
use crate::sync;
use crate::sys;

/// Time left of a timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<u64>);

impl Deadline {
    pub(super) fn after(timeout: Option<Duration>) -> Deadline {
        let nanos = |t: Duration| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
        Deadline(timeout.map(|t| sys::monotonic_ns().saturating_add(nanos(t))))
    }

    /// Has the time passed?
    pub(super) fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    fn left(self) -> Option<Duration> {
        self.0
            .map(|end| Duration::from_nanos(end.saturating_sub(sys::monotonic_ns())))
    }
}

/// Between two looks for the next worker.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until all is applied and durable; on a terminal it shows how far it is.
pub(super) fn caught_up(
    run_dir: &Path,
    service: &Service,
    timeout: Option<Duration>,
) -> anyhow::Result<Outcome> {
    let look = progress::look_at(run_dir, service);
    progress::telling(Told::Terminals, look, || {
        until_caught_up(run_dir, service, timeout, Flush::Yes)
    })
}

/// Waits until a mirror that was just begun is on all targets: nothing is caught up with what was captured when it
/// began before it has ended. How far it is goes to standard error.
pub(super) fn mirrored(
    run_dir: &Path,
    service: &Service,
    timeout: Option<Duration>,
) -> anyhow::Result<Outcome> {
    let look = progress::look_at(run_dir, service);
    let outcome = progress::telling(Told::Everybody, look, || {
        until_caught_up(run_dir, service, timeout, Flush::No)
    })?;
    if outcome == Outcome::Yes {
        writeln!(std::io::stdout(), "all targets of {service} have all of it")?;
    }
    Ok(outcome)
}

/// Is what programs changed through shared mappings written back first?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    Yes,
    No,
}

fn until_caught_up(
    run_dir: &Path,
    service: &Service,
    timeout: Option<Duration>,
    flush: Flush,
) -> anyhow::Result<Outcome> {
    let deadline = Deadline::after(timeout);
    loop {
        let asked = ask(run_dir, service, deadline, flush);
        let Err(error) = &asked else { return asked };
        // The next worker of the mount knows as much as the one that was asked.
        let is_gone = matches!(
            error.downcast_ref(),
            Some(control::Error::CutOff { .. } | control::Error::NotRunning { .. })
        );
        if !is_gone || !is_another_to_come(run_dir, service) {
            return asked;
        }
        if deadline.left().is_some_and(|left| left < PAUSE) {
            return no("the worker is being replaced");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Is a worker of the set there, or started by the supervisor?
fn is_another_to_come(run_dir: &Path, service: &Service) -> bool {
    match service {
        Service::Set(set) => Supervision::read(run_dir, set).is_some_and(|told| !told.rests),
        Service::Target(_) => false,
    }
}

/// Asks the worker that is there.
fn ask(
    run_dir: &Path,
    service: &Service,
    deadline: Deadline,
    flush: Flush,
) -> anyhow::Result<Outcome> {
    let client = Client::connect(run_dir, service)?;
    let mounts: Vec<PathBuf> = match client.ask(&Request::Status, Some(control::ANSWER_PATIENCE))? {
        Reply::Set(set) => set.roots.into_iter().map(|r| r.mountpoint.into()).collect(),
        other => return unexpected(service, &other).map(|()| Outcome::No),
    };
    let is_flushed = flush == Flush::Yes;
    for mount in mounts.into_iter().filter(|_| is_flushed) {
        if !write_back(&mount, deadline)? {
            return no(&format!(
                "dirty pages of {} are not written back yet",
                mount.display()
            ));
        }
    }
    let left = deadline.left();
    let milliseconds = left.map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX));
    let request = Request::Wait {
        caught_up: true,
        timeout_ms: milliseconds,
    };
    // The worker keeps the time; should it not, we do, a little later.
    let limit = left.map(|l| l + control::ANSWER_PATIENCE);
    match Client::connect(run_dir, service)?.ask(&request, limit)? {
        Reply::Waited {
            caught_up: true, ..
        } => Ok(Outcome::Yes),
        Reply::Waited { reason, .. } => no(reason.as_deref().unwrap_or("the time is over")),
        other => unexpected(service, &other).map(|()| Outcome::No),
    }
}

fn no(reason: &str) -> anyhow::Result<Outcome> {
    // It may hold what the target says.
    writeln!(
        std::io::stdout(),
        "not caught up: {}",
        printable_text(reason)
    )?;
    Ok(Outcome::No)
}

/// How long requests under way are waited for, at most: under a steady load there always are some,
/// and those that were there before are done long before this.
const REQUESTS_MAX_NS: u64 = 5_000_000_000;

/// Newer kernels (6.16) do not wait for the write-back of FUSE pages in syncfs(2), they only begin it. So
/// this waits until no request to the file system is under way (fusectl; without it nothing is known).
fn await_requests(mount: &Path) {
    let mounts = sys::read_mounts().unwrap_or_default();
    let Some(ours) = mounts.iter().rev().find(|m| m.mountpoint == mount) else {
        return;
    };
    let Some((_, minor)) = ours.device.split_once(':') else {
        return;
    };
    let until = sys::monotonic_ns().saturating_add(REQUESTS_MAX_NS);
    while sys::monotonic_ns() < until {
        let mut count = [0; 16];
        // Each look opens it anew: it cannot be rewound.
        let read = sys::fuse_requests(minor).and_then(|mut waiting| waiting.read(&mut count));
        match read {
            Ok(length) if count[..length].trim_ascii() != b"0" => std::thread::yield_now(),
            Ok(_) | Err(_) => return,
        }
    }
}

/// Has the kernel write back what shared mappings changed; false when the time is over first. The
/// thread of a flush that hangs is left behind and ends with this process.
pub(super) fn write_back(mount: &Path, deadline: Deadline) -> anyhow::Result<bool> {
    let (done, result) = mpsc::channel();
    let path = mount.to_owned();
    sync::spawn("dfs-flush", move || {
        let synced = sys::sync_file_system_of(&path);
        await_requests(&path);
        let _ = done.send(synced);
    })
    .context("cannot start a thread")?;
    let answer = match deadline.left() {
        Some(left) => result.recv_timeout(left).ok(),
        None => result.recv().ok(),
    };
    match answer {
        // A monitor need not be able to open the directory.
        Some(Err(e)) if e.kind() == ErrorKind::PermissionDenied => {
            let mut err = std::io::stderr();
            writeln!(
                err,
                "doppelfs: warning: {} cannot be opened by this user: what programs changed through \
                 shared mappings and have not flushed is not waited for",
                mount.display()
            )?;
            Ok(true)
        }
        Some(result) => {
            result.with_context(|| format!("cannot flush {}", mount.display()))?;
            Ok(true)
        }
        None => Ok(false),
    }
}
