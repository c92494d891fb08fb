//! What has to stand before a set is served.

use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Context as _;

use crate::activity::{Activity, Covered};
use crate::alerts::Alerts;
use crate::capture::{self, Capture};
use crate::config::{MountOptions, Order};
use crate::journal::Journal;
use crate::live::Live;
use crate::mirror::Event;
use crate::passthrough::Tree;
use crate::stats::SetCounters;
use crate::types::Time;

use super::believe::Doubt;
use super::events::Watcher;
use super::settler::{self, Below};
use super::start::{self, Begun, number_connections};

/// What stands before the mount is served: all that may fail with the state's disk.
pub(super) struct Prepared {
    pub(super) journal: Arc<Journal>,
    pub(super) covered: Covered,
    pub(super) capture: Arc<Capture>,
    pub(super) counters: Arc<SetCounters>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) activity: Option<Arc<Activity>>,
    pub(super) below: Arc<Below>,
    /// The connections' numbers.
    pub(super) numbers: Vec<u32>,
    /// Files that the activity log names.
    pub(super) suspects: u64,
    /// What was changed later is to be looked for.
    pub(super) after: Option<Time>,
    pub(super) warnings: Vec<String>,
    pub(super) to_mirror: mpsc::Sender<Event>,
    pub(super) inbox: mpsc::Receiver<Event>,
}

/// Prepares it.
///
/// # Errors
/// For people; mostly the disk of the state is full or does not work.
pub(super) fn prepare(
    options: &MountOptions,
    tree: Tree,
    begun: Begun,
    live: &Live,
    alerts: &Alerts,
) -> anyhow::Result<Prepared> {
    let Begun {
        journal,
        covered,
        doubt,
        ..
    } = begun;
    let targets: Vec<String> = options.targets.iter().map(ToString::to_string).collect();
    let (numbers, gone) = number_connections(&journal, &targets)?;
    let gone = gone
        .iter()
        .map(|target| format!("{target} is no target of this set any more; its queue is dropped"));
    let warnings = gone.collect();
    let (to_mirror, inbox) = mpsc::channel();
    let watcher = Arc::new(Watcher::new(
        to_mirror.clone(),
        options.set.clone(),
        alerts.clone(),
    ));
    let counters = Arc::new(SetCounters::default());
    let state_dir = &options.state_dir;
    let unlooked_since = match &doubt {
        Doubt::After(after) | Doubt::Marked { after, .. } => Some(*after),
        Doubt::Nothing | Doubt::Everything => None,
    };
    let taken_over = live.is_taken_over();
    let activity = settler::open_log(
        state_dir,
        covered.instance,
        &tree,
        taken_over,
        unlooked_since,
    );
    let activity = activity.with_context(|| {
        format!(
            "cannot note in {} what is changed in {}",
            state_dir.display(),
            options.dir.display()
        )
    })?;
    let below =
        Below::open(&tree).with_context(|| format!("cannot open {}", options.dir.display()))?;
    let capture_options = capture::Options {
        atime: options.atime,
        writes_back: options.order == Order::Relaxed,
        gap_file: options.state_dir.join("gap"),
        counters: counters.clone(),
        live: live.clone(),
        activity: activity.clone(),
        records: true,
    };
    let (capture, gap_was_set) =
        Capture::new(tree, journal.clone(), capture_options, watcher.clone())
            .with_context(|| format!("cannot use {}", options.state_dir.display()))?;
    if matches!(doubt, Doubt::Marked { .. }) {
        // Before the first record of the new history, so that nobody takes that for one of the old.
        start::store_unfinished(&journal, &covered).context("cannot store the state")?;
    }
    let suspects = match &doubt {
        Doubt::Marked { ids, .. } => ids.len() as u64,
        _ => 0,
    };
    let after = begin_doubt(&capture, doubt, gap_was_set)?;
    start::store(&journal, &covered).context("cannot store the state")?;
    Ok(Prepared {
        journal,
        covered,
        capture: Arc::new(capture),
        counters,
        watcher,
        activity,
        below: Arc::new(below),
        numbers,
        suspects,
        after,
        warnings,
        to_mirror,
        inbox,
    })
}

/// Says in the stream, durably, what is in doubt; returns after which time nobody watched, where what was
/// changed then is to be looked for.
fn begin_doubt(capture: &Capture, doubt: Doubt, gap_was_set: bool) -> anyhow::Result<Option<Time>> {
    let is_said = gap_was_set || !matches!(doubt, Doubt::Nothing | Doubt::After(_));
    if gap_was_set {
        capture.doubt(&[], true);
    }
    let after = match doubt {
        Doubt::Nothing => None,
        Doubt::Everything => {
            capture.doubt(&[], true);
            None
        }
        Doubt::After(after) => Some(after),
        Doubt::Marked { ids, after } => {
            // Also none of them: a history begins with such a record, and the mirror that may have been
            // under way goes on.
            capture.doubt(&ids, false);
            capture.known_in_doubt(ids.into_iter().collect());
            Some(after)
        }
    };
    if is_said {
        let synced = capture.journal().sync();
        synced.context("cannot make the queue durable")?;
    }
    if gap_was_set && !capture.has_open_gap() {
        capture
            .clear_gap_flag()
            .context("cannot clear the gap flag")?;
    }
    Ok(after)
}
