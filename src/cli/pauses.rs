//! `pause`, `resume`, `mark`, `connect`, `disconnect`, `replication`, `target pause` and `target resume`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::act_args::{PauseArgs, TargetPauseArgs};
use super::paper::{clock_text, printable_text};
use super::peers::choose_target;
use super::run::{Outcome, choose_set, seconds, unexpected};
use super::wait::{Deadline, write_back};
use crate::control::status::{ConnectionStatus, DataState, SetStatus, TargetState, TargetStatus};
use crate::control::{self, Client, Reply, Request, Service};
use crate::sys;
use crate::types::{MarkName, SetName};

/// Between two looks at what came of it.
const LOOK: Duration = Duration::from_millis(50);

/// The longest that programs wait for a point that several sets share.
const HOLD_MILLISECONDS: u64 = 2000;

/// What came of a pause, for one set.
#[derive(Debug, Serialize)]
struct Paused {
    set: String,
    mark: String,
    seq: u64,
    /// Every replica stands at the mark.
    reached: bool,
    /// If not: why.
    reason: Option<String>,
}

/// The sets that were named, all there are, or the only one.
fn chosen(run_dir: &Path, names: &[String], all: bool) -> anyhow::Result<Vec<Service>> {
    if all {
        let sets = control::list_sets(run_dir)?;
        if sets.is_empty() {
            bail!(
                "no set is mounted (no control socket in {})",
                run_dir.display()
            );
        }
        return Ok(sets.into_iter().map(Service::Set).collect());
    }
    if names.is_empty() {
        return Ok(vec![choose_set(run_dir, None)?]);
    }
    let mut sets = names
        .iter()
        .map(|name| SetName::new(name))
        .collect::<Result<Vec<_>, _>>()?;
    // Always in one order, so that two that do the same do not wait for each other.
    sets.sort();
    sets.dedup();
    Ok(sets.into_iter().map(Service::Set).collect())
}

fn ask(run_dir: &Path, service: &Service, request: &Request) -> anyhow::Result<Reply> {
    let limit = Some(control::ANSWER_PATIENCE * 2);
    Ok(Client::connect(run_dir, service)?.ask(request, limit)?)
}

fn look(run_dir: &Path, service: &Service) -> anyhow::Result<SetStatus> {
    match ask(run_dir, service, &Request::Status)? {
        Reply::Set(status) => Ok(*status),
        other => unexpected(service, &other).map(|()| SetStatus::default()),
    }
}

/// Why a mark here would not be a point at which this replica is what the source was.
fn why_not_whole(connection: &ConnectionStatus) -> Option<String> {
    let target = &connection.target;
    match connection.data_state {
        DataState::Ok if connection.staged => Some(format!("{target} collects what was in doubt")),
        DataState::Ok => None,
        DataState::Mirroring => Some(format!("a mirror to {target} is under way")),
        DataState::Recovering => Some(format!("{target} recovers from a crash")),
        DataState::MirrorRequired => Some(format!("{target} needs a mirror first")),
        DataState::RestoreRequired => {
            Some(format!("the set is to be restored from {target} first"))
        }
    }
}

/// Waits until the replicas of every set are whole; why not, when the time is over first.
fn await_whole(
    run_dir: &Path,
    sets: &[Service],
    deadline: Deadline,
) -> anyhow::Result<Option<String>> {
    loop {
        let mut why = None;
        for set in sets {
            let status = look(run_dir, set)?;
            let found = status.connections.iter().find_map(why_not_whole);
            why = why.or(found.map(|text| format!("{set}: {text}")));
        }
        if why.is_none() || deadline.is_over() {
            return Ok(why);
        }
        std::thread::sleep(LOOK);
    }
}

/// Marks every set, at one point of time where there are several. `request` makes the request for a mark within
/// that hold. The positions, in the order of the sets.
fn mark_all(
    run_dir: &Path,
    sets: &[Service],
    request: impl Fn(Option<u64>) -> Request,
    marks: &mut Vec<u64>,
) -> anyhow::Result<()> {
    let mut holds = Vec::new();
    if sets.len() > 1 {
        let milliseconds = HOLD_MILLISECONDS;
        for set in sets {
            match ask(run_dir, set, &Request::Hold { milliseconds })? {
                Reply::Held { hold } => holds.push(Some(hold)),
                other => unexpected(set, &other)?,
            }
        }
    } else {
        holds.push(None);
    }
    for (set, hold) in sets.iter().zip(holds) {
        match ask(run_dir, set, &request(hold)) {
            Ok(Reply::Marked { seq }) => marks.push(seq),
            Ok(other) => unexpected(set, &other)?,
            Err(error) => {
                return Err(error.context(match marks.is_empty() {
                    true => format!("{set}"),
                    false => format!("{set} failed after others were marked"),
                }));
            }
        }
    }
    Ok(())
}

/// What shared mappings changed is written back before the mark, as far as that may take.
fn flush_all(run_dir: &Path, sets: &[Service], deadline: Deadline) -> anyhow::Result<()> {
    for set in sets {
        for root in look(run_dir, set)?.roots {
            if !write_back(Path::new(&root.mountpoint), deadline)? {
                bail!(
                    "dirty pages of {} are not written back in time",
                    root.mountpoint
                );
            }
        }
    }
    Ok(())
}

fn mark_name(given: Option<&str>) -> anyhow::Result<MarkName> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => {
            let digits = clock_text(sys::realtime_ns());
            let digits: String = digits
                .chars()
                .filter(char::is_ascii_digit)
                .take(14)
                .collect();
            format!("pause-{digits}")
        }
    };
    Ok(MarkName::new(&name)?)
}

/// Brings every replica of the sets to one point and keeps it there.
pub(super) fn pause(args: &PauseArgs, run_dir: &Path) -> anyhow::Result<Outcome> {
    let deadline = Deadline::after(Some(seconds(args.timeout)?));
    let name = mark_name(args.mark.as_deref())?;
    let sets = chosen(run_dir, &args.sets, args.all)?;
    if let Some(why) = await_whole(run_dir, &sets, deadline)? {
        writeln!(
            std::io::stdout(),
            "not paused, there is no point at which the replica is whole yet: {}",
            printable_text(&why)
        )?;
        return Ok(Outcome::No);
    }
    flush_all(run_dir, &sets, deadline)?;
    let request = |hold| Request::Pause {
        name: name.clone(),
        hold,
    };
    let mut marks = Vec::new();
    if let Err(error) = mark_all(run_dir, &sets, request, &mut marks) {
        // All or none.
        undo(run_dir, &sets, &marks);
        return Err(error);
    }
    let mut outcomes: Vec<Paused> = sets
        .iter()
        .zip(marks)
        .map(|(set, seq)| Paused {
            set: set.stem(),
            mark: name.to_string(),
            seq,
            reached: false,
            reason: None,
        })
        .collect();
    loop {
        for (set, paused) in sets.iter().zip(&mut outcomes) {
            // A worker that is being replaced knows of the pause when it is there again.
            paused.reason = match look(run_dir, set) {
                Ok(status) => why_not_reached(&status, name.as_str()),
                Err(error) => Some(error.to_string()),
            };
            paused.reached = paused.reason.is_none();
        }
        let is_done = outcomes.iter().all(|paused| paused.reached);
        if is_done || args.no_wait || deadline.is_over() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    tell(&outcomes, args)
}

/// Ends the pauses that were begun, after one of the sets could not be paused. An earlier pause is not one of them.
fn undo(run_dir: &Path, sets: &[Service], marks: &[u64]) {
    for (set, seq) in sets.iter().zip(marks) {
        let is_ours = look(run_dir, set).map(|status| {
            let mut pauses = status.connections.iter().filter_map(|c| c.pause.as_ref());
            pauses.any(|pause| pause.mark.seq == *seq)
        });
        let ended = match is_ours {
            Ok(true) => ask(run_dir, set, &Request::Resume).map(drop),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            // The error that led here is told as well.
            let _ = writeln!(
                std::io::stderr(),
                "doppelfs: {set} stays paused: {error}; `doppelfs resume {}` ends that",
                set.stem()
            );
        }
    }
}

/// Why a replica does not stand at the mark.
fn why_not_reached(status: &SetStatus, mark: &str) -> Option<String> {
    status.connections.iter().find_map(|connection| {
        let target = &connection.target;
        match &connection.pause {
            Some(pause) if pause.mark.name != mark => Some(format!(
                "{target} is paused at another mark, {}",
                pause.mark.name
            )),
            Some(pause) if pause.reached => None,
            Some(pause) => Some(match &connection.error {
                Some(error) => format!("{target}: {error}"),
                None => format!(
                    "{target}: {} of {} records are durable there, its data is {}",
                    connection.durable_seq,
                    pause.mark.seq,
                    connection.data_state.word()
                ),
            }),
            None => Some(format!("{target} is not paused any more")),
        }
    })
}

fn tell(outcomes: &[Paused], args: &PauseArgs) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(outcomes)?)?;
    } else {
        for paused in outcomes {
            let Paused { set, mark, seq, .. } = paused;
            match &paused.reason {
                None => writeln!(
                    out,
                    "set {set}: paused at mark {mark} (record {seq}); `doppelfs resume {set}` goes on"
                )?,
                // It may hold what the target says.
                Some(why) => writeln!(
                    out,
                    "set {set}: pause pending at mark {mark} (record {seq}): {}",
                    printable_text(why)
                )?,
            }
        }
    }
    let is_done = args.no_wait || outcomes.iter().all(|paused| paused.reached);
    Ok(if is_done { Outcome::Yes } else { Outcome::No })
}

/// Asks every set the same.
pub(super) fn each(
    run_dir: &Path,
    names: &[String],
    all: bool,
    request: &Request,
    done: &str,
) -> anyhow::Result<Outcome> {
    for set in chosen(run_dir, names, all)? {
        match ask(run_dir, &set, request)? {
            Reply::Done => writeln!(std::io::stdout(), "{set}: {done}")?,
            other => unexpected(&set, &other)?,
        }
    }
    Ok(Outcome::Yes)
}

/// Gives this point a name in each set.
pub(super) fn mark(run_dir: &Path, words: &[String], all: bool) -> anyhow::Result<Outcome> {
    let (name, names) = match words {
        [name] => (name, &[][..]),
        [set, name] if !all => (name, std::slice::from_ref(set)),
        _ => bail!("name a set and the mark: doppelfs mark SET NAME, or doppelfs mark --all NAME"),
    };
    let name = MarkName::new(name)?;
    let sets = chosen(run_dir, names, all)?;
    let request = |hold| Request::Mark {
        name: name.clone(),
        hold,
    };
    let mut marks = Vec::new();
    mark_all(run_dir, &sets, request, &mut marks)?;
    for (set, seq) in sets.iter().zip(marks) {
        writeln!(std::io::stdout(), "{set}: mark {name} is record {seq}")?;
    }
    Ok(Outcome::Yes)
}

/// Keeps what comes to a target and applies nothing of it.
pub(super) fn pause_target(args: &TargetPauseArgs, run_dir: &Path) -> anyhow::Result<Outcome> {
    let deadline = Deadline::after(Some(seconds(args.timeout)?));
    let service = choose_target(run_dir, args.port)?;
    let request = Request::PauseReplicas {
        path: args.path.clone(),
        now: args.now,
    };
    let paths = replicas(run_dir, &service, &request)?;
    let why = loop {
        let why = why_not_still(&look_target(run_dir, &service)?, &paths);
        if why.is_none() || args.no_wait || deadline.is_over() {
            break why;
        }
        std::thread::sleep(LOOK);
    };
    let mut out = std::io::stdout().lock();
    match &why {
        None => {
            for path in &paths {
                writeln!(out, "{path}: paused")?;
            }
            if paths.is_empty() {
                writeln!(out, "{service} has no replicas")?;
            }
            Ok(Outcome::Yes)
        }
        Some(why) => {
            writeln!(out, "pause pending: {}", printable_text(why))?;
            Ok(if args.no_wait {
                Outcome::Yes
            } else {
                Outcome::No
            })
        }
    }
}

/// Applies again.
pub(super) fn resume_target(
    run_dir: &Path,
    path: Option<String>,
    port: Option<u16>,
) -> anyhow::Result<Outcome> {
    let service = choose_target(run_dir, port)?;
    for path in replicas(run_dir, &service, &Request::ResumeReplicas { path })? {
        writeln!(std::io::stdout(), "{path}: goes on")?;
    }
    Ok(Outcome::Yes)
}

fn replicas(run_dir: &Path, service: &Service, request: &Request) -> anyhow::Result<Vec<String>> {
    match ask(run_dir, service, request)? {
        Reply::Replicas { paths } => Ok(paths),
        other => unexpected(service, &other).map(|()| Vec::new()),
    }
}

fn look_target(run_dir: &Path, service: &Service) -> anyhow::Result<TargetStatus> {
    match ask(run_dir, service, &Request::Status)? {
        Reply::Target(status) => Ok(*status),
        other => unexpected(service, &other).map(|()| TargetStatus::default()),
    }
}

/// Why one of these replicas does not stand still.
fn why_not_still(status: &TargetStatus, paths: &[String]) -> Option<String> {
    let root = Path::new(&status.root);
    let streams = status.streams.iter().filter(|stream| {
        let mut ours = paths.iter().map(|path| root.join(path));
        ours.any(|path| path == Path::new(&stream.path))
    });
    let mut moving = streams.filter(|stream| stream.target_state != TargetState::Paused);
    let stream = moving.next()?;
    Some(match &stream.error {
        Some(error) => format!("{}: {error}", stream.path),
        None => format!("{} is {}", stream.path, stream.data_state.word()),
    })
}
