//! Before a set is served: its state, its history, what is in doubt.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::activity::{Covered, Mounts, Now, Survived, read_log};
use crate::config::MountOptions;
use crate::journal::{self, Journal};
use crate::supervisor::Supervision;
use crate::sys;
use crate::types::{FileId, History, Seq, Time};

use super::believe::{Doubt, believe, unfinished};
use super::settler::log_dir;

/// The fact that holds [`Covered`].
const FACT_COVERED: &str = "covered";
/// The fact that holds the connections' numbers.
const FACT_CONNECTIONS: &str = "connections";
/// The fact that holds the device number of the mount.
const FACT_DEVICE: &str = "device";

/// What the start found.
pub(super) struct Begun {
    pub(super) journal: Arc<Journal>,
    pub(super) covered: Covered,
    pub(super) doubt: Doubt,
    /// A number for a new mount.
    pub(super) incarnation: u64,
}

/// The other way; 0 before 1970.
pub(super) fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.secs).unwrap_or(0) * 1_000_000_000 + u64::from(time.nanos)
}

fn last_record_ns(journal: &Arc<Journal>) -> Option<u64> {
    let end = journal.end();
    if end < journal.first() || end == Seq::ZERO {
        return None;
    }
    let mut reader = journal.reader(Seq(end.0 - 1)).ok()?;
    reader.next().ok()?.map(|frame| frame.header().time_ns)
}

/// How a worker begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// With a new mount.
    Mount {
        /// Is a way beside the mount known?
        bypassed: bool,
        /// Did something else stand in for the state since? Then it misses what was changed.
        was_stood_in: bool,
    },
    /// With a mount that was there all the time, so that nothing is in doubt.
    TakeOver,
    /// With such a mount, but a state that misses what was changed.
    Anew,
}

/// Opens the queue and decides what may be believed of it.
pub(super) fn begin(options: &MountOptions, root: FileId, how: Start) -> anyhow::Result<Begun> {
    let journal_options = journal::Options {
        disk_bytes_max: options.queue_disk_max,
        free_bytes_min: options.queue_free_min,
        ..journal::Options::default()
    };
    let (journal, recovery) = Journal::open(&options.queue_dir, journal_options)
        .with_context(|| format!("cannot open the queue in {}", options.queue_dir.display()))?;
    let journal = Arc::new(journal);
    let stored = journal
        .get(FACT_COVERED)
        .context("cannot read the state of the last run")?;
    let last = stored.as_deref().and_then(Covered::from_bytes);
    let (bypassed, was_stood_in) = match how {
        Start::Mount {
            bypassed,
            was_stood_in,
        } => (bypassed, was_stood_in),
        Start::TakeOver => return go_on(journal, options, &recovery, last, root),
        Start::Anew => return begin_anew(journal, options, root),
    };
    let boot = sys::boot_id().context("cannot read the boot id")?;
    let mounts = Mounts {
        data: match &last {
            // It cannot be reached, and has not been mounted anew under the mount that lies over it.
            Some(last) if options.dir_is_dead => last.mounts.data,
            _ if options.dir_is_dead => 0,
            _ => mount_of(&options.dir)?,
        },
        queue: mount_of(&options.queue_dir)?,
    };
    let now = Now {
        root,
        boot: &boot,
        mounts,
        now_ns: sys::realtime_ns(),
        last_record_ns: last_record_ns(&journal),
        end: journal.end(),
        records_lost: recovery.records_lost,
    };
    let survived = match &last {
        Some(last) => read_log(&log_dir(&options.state_dir), last.instance),
        None => Survived::Nothing,
    };
    let belief = believe(last.as_ref(), &now, &survived, was_stood_in);
    let verdict = belief.verdict;
    tracing::info!(?verdict, ?recovery, "looked at how the last run ended");
    let fresh = || -> anyhow::Result<u128> { sys::random_u128().context("no random numbers") };
    let instance = last.as_ref().map_or_else(fresh, |last| Ok(last.instance))?;
    let history = match belief.history {
        Some(history) => history,
        None => History(fresh()?),
    };
    if belief.is_queue_void && journal.end() > Seq::ZERO {
        // Their numbers must not be met again under another history's name, nor their records; nor under
        // the old one's, should this start not come to its end.
        if let Some(last) = &last {
            store_unfinished(&journal, last).context("cannot store the state")?;
        }
        journal
            .reset(journal.end())
            .context("cannot empty the queue of a void history")?;
    }
    let covered = Covered {
        instance,
        history,
        root,
        directory: options.dir.display().to_string(),
        boot,
        mounts,
        began_ns: sys::realtime_ns(),
        bypassed,
        clean: None,
        forks: belief.forks,
    };
    Ok(Begun {
        journal,
        covered,
        doubt: belief.doubt,
        incarnation: fresh()? as u64 | 1,
    })
}

/// On which mount of its file system a directory lies.
pub(super) fn mount_of(dir: &Path) -> anyhow::Result<u64> {
    let instance = std::fs::File::open(dir).and_then(|dir| sys::mount_instance(dir.as_fd()));
    instance.with_context(|| format!("cannot examine the mount of {}", dir.display()))
}

/// The next worker of a mount has everything that the last one had recorded.
fn go_on(
    journal: Arc<Journal>,
    options: &MountOptions,
    recovery: &journal::Recovery,
    last: Option<Covered>,
    root: FileId,
) -> anyhow::Result<Begun> {
    let Some(covered) = last else {
        return begin_anew(journal, options, root);
    };
    if covered.root != root {
        bail!("the state is of another directory");
    }
    if covered.mounts.queue != mount_of(&options.queue_dir)? {
        // Numbers would be given again that a target has.
        tracing::error!(
            dir = %options.queue_dir.display(),
            "the queue was mounted anew under the worker, and records may be lost: it is begun anew"
        );
        return begin_anew(journal, options, root);
    }
    let doubt = if recovery.records_lost {
        tracing::error!(?recovery, "the queue misses records that it had");
        Doubt::Everything
    } else {
        Doubt::Nothing
    };
    Ok(Begun {
        journal,
        covered,
        doubt,
        incarnation: 0,
    })
}

/// The state of a mount that is served was lost: another history, and a full mirror, while it is served.
fn begin_anew(
    journal: Arc<Journal>,
    options: &MountOptions,
    root: FileId,
) -> anyhow::Result<Begun> {
    let fresh = || sys::random_u128().context("no random numbers");
    if journal.end() > Seq::ZERO {
        journal
            .reset(journal.end())
            .context("cannot empty a queue without a state")?;
    }
    let covered = Covered {
        instance: fresh()?,
        history: History(fresh()?),
        root,
        directory: options.dir.display().to_string(),
        boot: sys::boot_id().context("cannot read the boot id")?,
        mounts: Mounts {
            // Our own mount lies over it, so that nobody can look.
            data: 0,
            queue: mount_of(&options.queue_dir)?,
        },
        began_ns: sys::realtime_ns(),
        bypassed: true,
        clean: None,
        forks: Vec::new(),
    };
    Ok(Begun {
        journal,
        covered,
        doubt: Doubt::Nothing,
        incarnation: 0,
    })
}

/// Has the supervisor start another worker, which looks at the state again.
pub(super) fn ask_for_another(options: &MountOptions) -> impl FnOnce() + Send + use<> {
    let (run_dir, set) = (options.run_dir.clone(), options.set.clone());
    move || {
        let asked = Supervision::read(&run_dir, &set).map(|told| told.ask_for_restart());
        if !matches!(asked, Some(Ok(()))) {
            tracing::error!(
                ?asked,
                "no other worker can be started: unmount the set and mount it again"
            );
        }
    }
}

/// Records that a history begins whose first record does not stand yet: whatever happens before
/// [`store`], the next start does after a loss of power what this one does.
pub(super) fn store_unfinished(journal: &Journal, covered: &Covered) -> Result<(), journal::Error> {
    store(journal, &unfinished(covered))
}

/// Records that the run has begun, or how it ended.
pub(super) fn store(journal: &Journal, covered: &Covered) -> Result<(), journal::Error> {
    journal.put(FACT_COVERED, &covered.to_bytes())
}

/// The device number that the last mount had.
pub(super) fn last_device(journal: &Journal) -> Option<u64> {
    let stored = journal.get(FACT_DEVICE).ok().flatten()?;
    Some(u64::from_le_bytes(stored.try_into().ok()?))
}

/// Remembers the device number for the next mount. Some NFS servers have it in the handles that they
/// give out (nfs-ganesha before `fsid_override`), and backup programs compare it.
pub(super) fn remember_device(journal: &Journal, mountpoint: &Path) {
    let last = last_device(journal);
    let stored = sys::mount_device(mountpoint).map(|device| {
        let device = device.filter(|device| last != Some(*device));
        if let (Some(device), Some(last)) = (device, last) {
            tracing::warn!(
                device,
                last,
                "another file system has the mount's device number"
            );
        }
        device.map_or(Ok(()), |device| {
            journal.put(FACT_DEVICE, &device.to_le_bytes())
        })
    });
    if !matches!(stored, Ok(Ok(()))) {
        tracing::warn!(?stored, "cannot remember the mount's device number");
    }
}

/// Now, on the clock that file systems stamp inodes with at their finest; waits (some milliseconds)
/// until its coarse form is beyond it too, so that whatever happens later is stamped later.
pub(super) fn watched_since() -> Time {
    let since = sys::now();
    while sys::coarse_now() <= since {
        std::thread::yield_now();
    }
    since
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Numbered {
    id: u32,
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
struct Connections {
    last: u32,
    known: Vec<Numbered>,
}

/// Gives each target its number: the one it had, or a new one; numbers are never reused. Connections
/// that are not asked for any more are forgotten: nothing is held back for them. Returns the numbers
/// and the forgotten targets.
pub(super) fn number_connections(
    journal: &Journal,
    targets: &[String],
) -> anyhow::Result<(Vec<u32>, Vec<String>)> {
    let stored = journal
        .get(FACT_CONNECTIONS)
        .context("cannot read the connections")?;
    let mut all: Connections = stored
        .and_then(|bytes| rmp_serde::from_slice(&bytes).ok())
        .unwrap_or_default();
    let before = all.clone();
    let mut numbers = Vec::new();
    for target in targets {
        let known = all
            .known
            .iter()
            .find(|k| k.target == *target && !numbers.contains(&k.id));
        let id = match known {
            Some(known) => known.id,
            None => {
                all.last += 1;
                all.known.push(Numbered {
                    id: all.last,
                    target: target.clone(),
                });
                all.last
            }
        };
        numbers.push(id);
    }
    let (kept, gone): (Vec<_>, Vec<_>) = all
        .known
        .drain(..)
        .partition(|known| numbers.contains(&known.id));
    all.known = kept;
    for known in &gone {
        journal.unregister(&format!("conn-{}", known.id));
    }
    if all != before {
        let bytes = rmp_serde::to_vec_named(&all).context("cannot encode the connections")?;
        journal
            .put(FACT_CONNECTIONS, &bytes)
            .context("cannot store the connections")?;
    }
    Ok((
        numbers,
        gone.into_iter().map(|known| known.target).collect(),
    ))
}
