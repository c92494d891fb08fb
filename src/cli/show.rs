//! `doppelfs status`, and lines of operations.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::paper::{Ink, clock_text, columns_of};
use super::render::status_text;
use super::run::Outcome;
use super::verdict;
use crate::control::status::{STATUS_VERSION, SetStatus, StatusReport, TargetStatus};
use crate::control::{
    self, Client, Error, QueueLine, Refusal, RefusalCode, Reply, Request, Service,
};
use crate::supervisor::Supervision;
use crate::sync;
use crate::types::SetName;

/// What a service said, or why it said nothing.
pub(super) struct Asked {
    /// Who.
    pub(super) service: Service,
    /// What.
    pub(super) said: Result<Reply, Error>,
}

/// Asks all of `services` at once, so that several that do not answer cost one patience: connecting and
/// answering together may take that long.
pub(super) fn ask_all(
    run_dir: &Path,
    services: Vec<Service>,
    request: &Request,
    patience: Duration,
) -> Vec<Asked> {
    let begun = services.into_iter().map(|service| {
        let (run_dir, asked, request) = (run_dir.to_owned(), service.clone(), request.clone());
        let work = move || ask_within(&run_dir, &asked, &request, patience);
        (service, sync::spawn("dfs-ask", work))
    });
    // All are begun before the first is waited for.
    let begun: Vec<_> = begun.collect();
    let ended = begun.into_iter().map(|(service, thread)| {
        let said = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| {
                Err(Error::CutOff {
                    service: service.to_string(),
                })
            }),
            Err(_) => ask_within(run_dir, &service, request, patience),
        };
        Asked { service, said }
    });
    ended.collect()
}

/// Asks one service; the whole conversation ends within `patience`.
pub(super) fn ask_within(
    run_dir: &Path,
    service: &Service,
    request: &Request,
    patience: Duration,
) -> Result<Reply, Error> {
    let begun = Instant::now();
    let client = Client::connect_within(run_dir, service, patience)?;
    let left = patience.saturating_sub(begun.elapsed());
    client.ask(request, Some(left.max(Duration::from_millis(1))))
}

/// Asks every service of the run directory, or one set. A worker that does not answer is reported as
/// a set in error, not left out.
///
/// # Errors
/// The run directory cannot be read, the set that was named is not there, or the caller may not look.
pub fn collect_status(run_dir: &Path, set: Option<&SetName>) -> Result<StatusReport, Error> {
    let services = match set {
        Some(name) => vec![Service::Set(name.clone())],
        None => control::list_services(run_dir)?,
    };
    let all = ask_all(
        run_dir,
        services,
        &Request::Status,
        control::ANSWER_PATIENCE,
    );
    let mut report = StatusReport {
        version: STATUS_VERSION,
        sets: Vec::new(),
        targets: Vec::new(),
    };
    for Asked { service, said } in all {
        match said {
            Err(
                error @ Error::NotRunning {
                    left_over: false, ..
                },
            ) if set.is_some() => {
                return Err(error);
            }
            said => put(run_dir, &mut report, &service, said)?,
        }
    }
    Ok(report)
}

/// Puts what a service said into the report.
///
/// # Errors
/// The caller may not look: who may not is not told what there is.
pub(super) fn put(
    run_dir: &Path,
    report: &mut StatusReport,
    service: &Service,
    said: Result<Reply, Error>,
) -> Result<(), Error> {
    match said {
        Ok(Reply::Set(status)) => report.sets.push(*status),
        Ok(Reply::Target(status)) => report.targets.push(*status),
        Ok(_) => {
            let error = "it answered another question; is it of another version?";
            put_unreachable(run_dir, report, service, error.to_owned(), true);
        }
        Err(
            error @ (Error::Denied { .. }
            | Error::Refused(Refusal {
                code: RefusalCode::Denied,
                ..
            })),
        ) => return Err(error),
        // It ended between the listing and the question.
        Err(Error::NotRunning {
            left_over: false, ..
        }) => {}
        Err(Error::NotRunning { path, .. }) if matches!(service, Service::Target(_)) => {
            let error = format!(
                "it has ended without a farewell, and nobody receives: start it again (`doppelfs target \
                 serve`); if it is not to come back, `rm {}`",
                path.display()
            );
            put_unreachable(run_dir, report, service, error, false);
        }
        Err(error) => {
            let has_spoken = matches!(
                error,
                Error::Older { .. } | Error::Refused(_) | Error::NotUnderstood { .. }
            );
            put_unreachable(run_dir, report, service, error.to_string(), has_spoken);
        }
    }
    Ok(())
}

/// Is this process stopped by a signal or a debugger? Asks /proc alone.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['T', 't']))
}

/// Puts down a service that did not say how it is. One that has spoken explains itself better than its
/// supervisor can.
fn put_unreachable(
    run_dir: &Path,
    report: &mut StatusReport,
    service: &Service,
    error: String,
    has_spoken: bool,
) {
    match service {
        Service::Set(name) => {
            let mut status = SetStatus::unreachable(name.as_str(), error);
            if let Some(told) = Supervision::read(run_dir, name) {
                let mut error = match status.error.filter(|_| has_spoken) {
                    Some(said) => said,
                    None => told.describe(),
                };
                if is_stopped(told.worker_pid) {
                    error = format!(
                        "its worker {pid} is stopped, and whoever uses the mount waits: `kill -CONT {pid}` \
                         lets it go on, `doppelfs restart {name}` replaces it",
                        pid = told.worker_pid
                    );
                }
                status.error = Some(error);
                status.supervisor_pid = told.pid;
                status.worker_pid = told.worker_pid;
                status.worker_restarts = told.restarts;
            }
            report.sets.push(status);
        }
        Service::Target(port) => report.targets.push(TargetStatus {
            listen: format!("port {port}"),
            error: Some(error),
            ..TargetStatus::default()
        }),
    }
}

pub(super) fn status(
    run_dir: &Path,
    set: Option<&str>,
    json: bool,
    check: bool,
) -> anyhow::Result<Outcome> {
    let set = set.map(SetName::new).transpose()?;
    let report = collect_status(run_dir, set.as_ref())?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let ink = Ink::for_terminal(&out);
        let columns = columns_of(&out);
        write!(out, "{}", status_text(&report, ink, columns))?;
    }
    let sets = report.sets.iter().map(verdict::of_set);
    let targets = report.targets.iter().map(verdict::of_target);
    let is_well = !sets.chain(targets).any(|said| said.needs_attention());
    Ok(match is_well || !check {
        true => Outcome::Yes,
        false => Outcome::No,
    })
}

/// `seq time op path size uid:gid pid`, on one line whatever the names are.
pub fn queue_line_text(line: &QueueLine) -> String {
    let path = match &line.to {
        Some(to) => format!("{} -> {to}", line.path),
        None => line.path.clone(),
    };
    format!(
        "{} {} {} {path} {} {}:{} {}",
        line.seq,
        clock_text(line.time_ns),
        line.op,
        line.size,
        line.uid,
        line.gid,
        line.pid
    )
}
