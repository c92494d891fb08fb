//! The worker of a set: from options to a served mount, and its end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use anyhow::{Context as _, bail};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::activity::{Clean, Covered};
use crate::alerts::{Alert, Alerts, Kind};
use crate::capture::{Capture, Uncovered};
use crate::config::MountOptions;
use crate::control;
use crate::fuse;
use crate::journal::Journal;
use crate::keys::Pairings;
use crate::live::{Live, OpenCheck};
use crate::mirror::{CheckProgress, Event, Mirror, MirrorState, check};
use crate::passthrough::Tree;
use crate::sender::{Sender, SenderOptions};
use crate::stats::SetCounters;
use crate::supervisor::{Line, Ready};
use crate::sync::{self, Mutex, Rank};
use crate::sys::{self, FuseMount};
use crate::types::{Time, limits};
use crate::wire::Place;

use super::answers::Answers;
use super::believe::time_of;
use super::claim::Claim;
use super::detach::Detachment;
use super::events::{Room, Senders, Wants, Watcher};
use super::flusher;
use super::observe::Observing;
use super::pauses::Pauses;
use super::prepare::{Prepared, prepare};
use super::rates::Rates;
use super::settler::{self, Below, Settler, Why};
use super::stand_in::{StandIn, Unusable};
use super::start::{self, Begun, nanoseconds};

/// How much earlier than it was noticed a lazy umount may have been.
const DETACH_SLACK_NS: u64 = 1_000_000_000;

/// Threads that answer the kernel.
const FUSE_THREADS: usize = 4;

/// Everything of a running set that others look at.
pub(super) struct Source {
    pub(super) options: MountOptions,
    pub(super) journal: Arc<Journal>,
    pub(super) capture: Arc<Capture>,
    pub(super) counters: Arc<SetCounters>,
    pub(super) covered: Covered,
    pub(super) senders: Senders,
    pub(super) watcher: Arc<Watcher>,
    pub(super) pauses: Pauses,
    pub(super) check: Arc<CheckProgress>,
    pub(super) mirrored: Arc<MirrorState>,
    pub(super) below: Arc<Below>,
    /// Files that the activity log named when this run began.
    pub(super) suspects: u64,
    pub(super) warnings: Vec<String>,
    /// The process that supervises this one, as long as it lives.
    pub(super) supervisor_pid: Option<u32>,
    /// How often a worker was started again.
    pub(super) restarts: u64,
    pub(super) rates: Rates,
    /// Rises whenever something that a wait may wait for has changed.
    pub(super) changes: watch::Sender<u64>,
}

fn start_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dfs-net")
        // Programs go first.
        .on_thread_start(sys::lower_priority)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// What connects a worker with those before and after it.
pub(super) struct Lineage {
    pub(super) line: Option<Arc<Line>>,
    pub(super) live: Live,
    /// The connection to the kernel, where it is taken over.
    pub(super) device: Option<OwnedFd>,
    pub(super) claim: Claim,
    /// How often a worker was started again.
    pub(super) restarts: u64,
    /// Did the last worker die by itself?
    pub(super) crashed: bool,
    /// What may have stood in for the state.
    pub(super) stand_in: StandIn,
}

pub(super) fn serve(
    options: &MountOptions,
    mut warnings: Vec<String>,
    mut tree: Tree,
    begun: Begun,
    lineage: Lineage,
    ready: Ready,
) -> anyhow::Result<()> {
    let runtime = start_runtime()?;
    let Lineage {
        line,
        live,
        device,
        claim,
        restarts,
        crashed,
        stand_in,
    } = lineage;
    if let (Some(line), false) = (&line, live.is_taken_over()) {
        tree.set_keeper(line.clone(), Vec::new());
    }
    let alerts = Alerts::start().context("cannot start the thread that alerts")?;
    let prepared = prepare(options, tree, begun, &live, &alerts).context(Unusable)?;
    stand_in.leave(options);
    let Prepared {
        journal,
        covered,
        capture,
        counters,
        watcher,
        activity,
        below,
        numbers,
        suspects,
        after,
        warnings: more_warnings,
        to_mirror,
        inbox,
    } = prepared;
    warnings.extend(more_warnings);
    let place = Place::of(&options.dir, capture.tree().root());
    let kernel = match device {
        Some(device) => {
            let taken = capture.take_over(crashed);
            tracing::info!(?taken, "what the last worker left is settled");
            fuse::take_over(capture.clone(), device, FUSE_THREADS, taken)?
        }
        None => mount(options, &capture, &journal)?,
    };
    // The directory is covered from here on: requests wait until they are served below.
    let detachment = Detachment::watch(&options.mountpoint).context("cannot watch the mounts")?;
    let watched_since = start::watched_since();
    let interval = match live.open_check() {
        // The last worker did not come to the end of it.
        Some(open) => Some(Uncovered {
            after: time_of(open.after_ns),
            until: time_of(open.until_ns),
        }),
        None => after.map(|after| Uncovered {
            after,
            until: watched_since,
        }),
    };
    if let Some(interval) = interval {
        live.note_check(Some(OpenCheck {
            after_ns: nanoseconds(interval.after),
            until_ns: nanoseconds(interval.until),
        }));
        capture.begin_check(interval);
    }
    // Only now: the next worker has to know of the check.
    if let (Some(line), false) = (&line, live.is_taken_over()) {
        hold(line, &live, &kernel, &capture, &claim);
    }
    let place = place
        .and_then(|place| place.with_mount(&options.mountpoint))
        .ok();

    let senders: Senders = Arc::new(Mutex::new(Rank::Daemon, Vec::new()));
    let ending = Arc::new(OnceLock::new());
    let room = Room {
        senders: senders.clone(),
        runtime: runtime.handle().clone(),
        bytes_max: images_ahead_max(options),
        ending: ending.clone(),
    };
    let mut mirror = Mirror::start(capture.clone(), Arc::new(room), (to_mirror.clone(), inbox))
        .context("cannot start the mirror thread")?;
    let source = Arc::new(Source {
        options: options.clone(),
        journal: journal.clone(),
        capture: capture.clone(),
        counters,
        covered,
        senders: senders.clone(),
        watcher,
        pauses: Pauses::default(),
        check: Arc::new(CheckProgress::default()),
        mirrored: mirror.state(),
        below,
        suspects,
        warnings,
        supervisor_pid: line.as_ref().map(|_| std::os::unix::process::parent_id()),
        restarts,
        rates: Rates::new(),
        changes: watch::Sender::new(0),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let running = Running {
        source: source.clone(),
        ending,
        detachment,
        watched_since,
        stop_check: stop.clone(),
        checker: start_check(&source, interval, stop, &to_mirror)?,
        settler: match activity {
            Some(activity) => {
                let settler = Settler::start(
                    activity,
                    capture.clone(),
                    source.below.clone(),
                    source.covered.clone(),
                    give_way(options, stand_in, alerts.clone()),
                );
                Some(settler.context("cannot start the thread that makes changes durable")?)
            }
            None => None,
        },
    };
    connect(&source, &runtime, &numbers, place, &to_mirror)?;
    Rates::read_on(&source, &runtime);
    let service = control::Service::Set(options.set.clone());
    let answers = Arc::new(Answers {
        source: source.clone(),
    });
    let server = control::Server::start(&options.run_dir, &service, answers, runtime.handle())?;
    if restarts > 0 {
        let how = match crashed {
            true => "the last one died",
            false => "the last one was replaced or killed",
        };
        let text = format!(
            "{how}; process {} serves now; restart {restarts}",
            std::process::id()
        );
        alerts.raise(Alert::new(
            Kind::WorkerRestarted,
            options.set.as_str(),
            &text,
        ));
    }
    flusher::start(options, &capture).context("cannot start the thread that flushes")?;
    let observing =
        Observing::set(&source, alerts).context("cannot start the thread that looks")?;
    watch_signals(&runtime, options.mountpoint.clone());
    ready.serving(&format!(
        "{} serves set {}",
        options.mountpoint.display(),
        options.set
    ));
    if let Some(line) = &line {
        line.serving();
    }
    let served = kernel.run();
    tracing::info!("the mount has ended");
    if let Some(line) = &line {
        line.ended();
    }
    live.end();
    drop(observing);
    let ended = running.end(&mut mirror, interval);
    drop((capture, source, senders));
    drop((server, claim));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    served?;
    ended
}

/// Has the supervisor start another worker, which begins a lost state anew, or has memory stand in for one
/// that cannot be used.
fn give_way(
    options: &MountOptions,
    stand_in: StandIn,
    alerts: Alerts,
) -> impl FnOnce(Why) + Send + use<> {
    let ask = start::ask_for_another(options);
    let set = options.set.clone();
    move |why| {
        tracing::error!(?why, "another worker has to go on");
        if let Why::Failing(error) = &why {
            let text = format!("{error}; memory stands in for it");
            alerts.raise(Alert::new(Kind::StateFailing, set.as_str(), &text));
        }
        if let Why::Failing(error) = why
            && let Err(error) = stand_in.note(&error.to_string(), true)
        {
            tracing::error!(%error, "memory cannot stand in for the state");
            return;
        }
        ask();
    }
}

/// The mount outlives this worker from now on, where the kernel can send requests again that a dead
/// worker has read (Linux 6.9).
fn hold(line: &Line, live: &Live, kernel: &fuse::Kernel, capture: &Capture, claim: &Claim) {
    const FUSE_HAS_RESEND: u64 = 1 << 39;
    let offered = live.offer().map_or(0, |offer| offer.flags);
    if offered & FUSE_HAS_RESEND == 0 {
        tracing::warn!(
            "this kernel cannot send requests again (Linux 6.9 can): should the worker end, the mount ends with it"
        );
        return;
    }
    line.hold(kernel.device(), capture.tree().root(), claim.lock());
}

/// How far images may run ahead of what is applied.
fn images_ahead_max(options: &MountOptions) -> u64 {
    let quarter = options.queue_disk_max.unwrap_or(u64::MAX) / 4;
    quarter.clamp(4 << 20, limits::SEGMENT_BYTES_MAX)
}

fn mount(
    options: &MountOptions,
    capture: &Arc<Capture>,
    journal: &Journal,
) -> anyhow::Result<fuse::Kernel> {
    let how = FuseMount {
        source: options.set.to_string(),
        read_only: options.flags.read_only,
        restrictions: options.flags.restrictions(),
        max_read: u32::try_from(limits::PAYLOAD_BYTES_MAX).unwrap_or(u32::MAX),
        is_beneath: options.mountpoint_is_dead,
        device: start::last_device(journal),
    };
    let capture = capture.clone();
    let kernel = fuse::serve(capture, &options.mountpoint, &how, FUSE_THREADS)?;
    start::remember_device(journal, &options.mountpoint);
    Ok(kernel)
}

fn start_check(
    source: &Arc<Source>,
    interval: Option<Uncovered>,
    stop: Arc<AtomicBool>,
    to_mirror: &mpsc::Sender<Event>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(interval) = interval else {
        return Ok(None);
    };
    let (source, to_mirror) = (source.clone(), to_mirror.clone());
    let walk = move || {
        check(&source.capture, interval, &source.check, &stop);
        if !source.capture.is_checking() {
            source.capture.live().note_check(None);
            // The thread has ended: so has the mount.
            let _ = to_mirror.send(Event::Checked);
        }
        source.changes.send_modify(|changes| *changes += 1);
    };
    Ok(Some(
        sync::spawn("dfs-check", walk).context("cannot start the check")?,
    ))
}

fn connect(
    source: &Arc<Source>,
    runtime: &Runtime,
    numbers: &[u32],
    place: Option<Place>,
    to_mirror: &mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let wants = Arc::new(Wants {
        inbox: to_mirror.clone(),
        capture: source.capture.clone(),
        mirrored: source.mirrored.clone(),
    });
    for (target, &id) in source.options.targets.iter().zip(numbers) {
        let sender = Sender::start(SenderOptions {
            id,
            target: target.clone(),
            set: source.options.set.clone(),
            source: sys::host_name(),
            instance: source.covered.instance,
            root: source.covered.root,
            history: source.covered.history,
            forks: source.covered.forks.clone(),
            place: place.clone(),
            remap: source.options.remap_from()?,
            journal: source.journal.clone(),
            insecure_loopback: source.options.insecure_loopback,
            pairings: Pairings::of(&source.options.keys_dir),
            runtime: runtime.handle().clone(),
            events: wants.clone(),
        })
        .with_context(|| format!("cannot start the connection to {target}"))?;
        let mut changes = sender.subscribe();
        let all = source.changes.clone();
        runtime.spawn(async move {
            while changes.changed().await.is_ok() {
                all.send_modify(|changes| *changes += 1);
            }
        });
        source.senders.lock().push(Arc::new(sender));
    }
    Ok(())
}

/// SIGTERM and SIGINT ask for the end: the mount is unmounted, if nobody uses it.
fn watch_signals(runtime: &Runtime, mountpoint: std::path::PathBuf) {
    use tokio::signal::unix::{SignalKind, signal};
    runtime.spawn(async move {
        let (Ok(mut term), Ok(mut int)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return;
        };
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            // In a thread: unmounting waits for requests that this process answers.
            let point = mountpoint.clone();
            let done = tokio::task::spawn_blocking(move || unmount(&point)).await;
            if let Ok(Err(error)) = done {
                tracing::error!(%error, "asked to end, but the mount is in use; going on");
            }
        }
    });
}

fn unmount(point: &Path) -> std::io::Result<()> {
    sys::umount(point, false)
}

/// What has to end when the mount has.
struct Running {
    source: Arc<Source>,
    ending: Arc<OnceLock<()>>,
    detachment: Detachment,
    watched_since: Time,
    stop_check: Arc<AtomicBool>,
    checker: Option<JoinHandle<()>>,
    settler: Option<Settler>,
}

impl Running {
    fn end(self, mirror: &mut Mirror, interval: Option<Uncovered>) -> anyhow::Result<()> {
        let Source {
            journal,
            capture,
            senders,
            covered,
            below,
            ..
        } = &*self.source;
        let left_behind = self.detachment.end(capture.last_ctime_ns());
        self.stop_check.store(true, Ordering::Release);
        let _ = self.ending.set(());
        if let Some(checker) = self.checker
            && checker.join().is_err()
        {
            tracing::error!("the check panicked");
        }
        if let Some(settler) = self.settler {
            settler.stop();
        }
        mirror.stop();
        let stopping = std::mem::take(&mut *senders.lock());
        for sender in stopping {
            sender.stop();
        }
        let whole = capture.try_close_gap();
        if let Err(error) = below.sync() {
            settler::note_lost(capture, covered);
            let dir = self.source.options.dir.display();
            bail!("cannot make {dir} durable ({error}); the next mount mirrors what was changed");
        }
        journal.sync().context("cannot make the queue durable")?;
        if !whole {
            bail!("operations could not be recorded; a mirror follows at the next mount");
        }
        let last_ctime_ns = match interval {
            // The check did not come to its end: the next mount takes it up again.
            Some(interval) if capture.is_checking() => nanoseconds(interval.after),
            _ => {
                let since = nanoseconds(self.watched_since);
                // What was changed beside the mount may be older than the last thing captured.
                let last = if covered.bypassed {
                    since
                } else {
                    capture.last_ctime_ns().max(since)
                };
                match left_behind {
                    // Around then the paths began to lead below: from a little before on, all that
                    // changed is looked at.
                    Some(left_ns) => last.min(left_ns.saturating_sub(DETACH_SLACK_NS)),
                    None => last,
                }
            }
        };
        let clean = Clean {
            last_ctime_ns,
            ended_ns: sys::realtime_ns(),
            end: journal.end(),
        };
        let covered = Covered {
            clean: Some(clean),
            ..covered.clone()
        };
        start::store(journal, &covered).context("cannot store the state")?;
        journal.sync().context("cannot make the queue durable")?;
        tracing::info!("ended cleanly");
        Ok(())
    }
}
