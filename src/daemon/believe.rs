//! What a start believes of the last run, and what is in doubt: the decision alone, without queue and files,
//! so that the simulation of the tests takes it as the worker of a set does.

use crate::activity::{Covered, Now, Survived, Verdict, assess};
use crate::types::{FileId, Fork, History, Time};

/// How many histories are remembered that ended in a loss of power. A target that stands in an older
/// one is mirrored in full.
const FORKS_MAX: usize = 16;

/// What is in doubt at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing: the targets are new to this history anyway.
    Nothing,
    /// What has a later `ctime` than this.
    After(Time),
    /// Everything.
    Everything,
    /// After a loss of power: what the activity log names, what was made in it, and what was changed
    /// while nobody watched.
    Marked {
        /// What it names.
        ids: Vec<FileId>,
        /// Whatever else is in doubt has a later `ctime`.
        after: Time,
    },
}

/// What a start believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belief {
    /// How the last run ended.
    pub verdict: Verdict,
    /// The history that goes on; `None`: a new one begins.
    pub history: Option<History>,
    /// The histories that it goes on from, oldest first.
    pub forks: Vec<Fork>,
    /// The queue's records are void: their numbers must not be met again under another history's name.
    pub is_queue_void: bool,
    /// What is in doubt.
    pub doubt: Doubt,
}

/// Decides, from what the last run left and what can be seen now. `survived`: the activity log of `last`.
/// `was_stood_in`: something else stood in for the state since, so that it misses what was changed.
pub fn believe(
    last: Option<&Covered>,
    now: &Now<'_>,
    survived: &Survived,
    was_stood_in: bool,
) -> Belief {
    let mut verdict = assess(last, now);
    if last.is_some() && *survived == Survived::Nothing {
        // Restored from a backup perhaps: it must not be taken for the state of the last run.
        tracing::warn!("the state is not as the last run left it");
        verdict = Verdict::NewHistory;
    }
    if last.is_some() && was_stood_in {
        tracing::warn!("the state misses what was changed while it could not be used");
        verdict = Verdict::NewHistory;
    }
    let keeps = matches!(verdict, Verdict::DoubtAfter(_) | Verdict::DoubtAll);
    let cut = last.filter(|_| verdict == Verdict::PowerCut);
    let marked = cut.and_then(|last| marked(survived, last));
    let is_kept_in_part = keeps || marked.is_some();
    let mut forks = match last {
        Some(last) if is_kept_in_part => last.forks.clone(),
        _ => Vec::new(),
    };
    if let (Some(last), true) = (last, marked.is_some()) {
        forks.push(Fork {
            history: last.history,
            end: now.end,
        });
        let excess = forks.len().saturating_sub(FORKS_MAX);
        forks.drain(..excess);
    }
    let doubt = match verdict {
        Verdict::PowerCut => marked.unwrap_or(Doubt::Nothing),
        Verdict::Unknown | Verdict::NewHistory => Doubt::Nothing,
        Verdict::DoubtAfter(ns) => Doubt::After(time_of(unwatched_after(ns, last, survived))),
        Verdict::DoubtAll => Doubt::Everything,
    };
    Belief {
        verdict,
        history: last.filter(|_| keeps).map(|last| last.history),
        forks,
        is_queue_void: !is_kept_in_part,
        doubt,
    }
}

/// From when on changes are in doubt where the same history goes on, which `ns` is said to be.
fn unwatched_after(ns: u64, last: Option<&Covered>, survived: &Survived) -> u64 {
    let Some(last) = last.filter(|last| last.clean.is_none()) else {
        return ns;
    };
    match survived {
        // Its epoch began before anything that was under way, and before what was still looked for.
        Survived::Marks(marks) if last.bypassed => ns.min(marks.since_ns.saturating_sub(1)),
        Survived::Marks(marks) => marks.since_ns.saturating_sub(1),
        Survived::Nothing => ns,
    }
}

/// What is in doubt after a run that ended in a loss of power; `None`: everything.
fn marked(survived: &Survived, last: &Covered) -> Option<Doubt> {
    let marks = match survived {
        Survived::Marks(marks) if !marks.everything => marks,
        Survived::Marks(_) | Survived::Nothing => return None,
    };
    // What was made in a marked directory, and what was changed after the end; a known way beside the
    // mount was there all the time.
    let after = match last.bypassed {
        true => marks.since_ns.min(last.began_ns),
        false => marks.since_ns,
    };
    let after = after.saturating_sub(1);
    tracing::info!(marks = marks.ids.len(), "the activity log was kept");
    Some(Doubt::Marked {
        ids: marks.ids.clone(),
        after: time_of(after),
    })
}

pub(super) fn time_of(ns: u64) -> Time {
    let secs = i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX);
    Time {
        secs,
        nanos: u32::try_from(ns % 1_000_000_000).unwrap_or(0),
    }
}

/// The state while a history begins whose first record does not stand yet: whatever happens before the
/// run is noted as begun, the next start does after a loss of power what this one does.
pub fn unfinished(covered: &Covered) -> Covered {
    Covered {
        boot: "none".into(),
        ..covered.clone()
    }
}
