//! `doppelfs status`, and lines of operations.

use std::io::Write;
use std::path::Path;

use super::render::{Ink, status_text};
use super::run::Outcome;
use crate::control::status::{STATUS_VERSION, SetStatus, StatusReport, TargetStatus};
use crate::control::{
    self, Client, Error, QueueLine, Refusal, RefusalCode, Reply, Request, Service,
};
use crate::supervisor::Supervision;
use crate::types::SetName;

/// Asks every service of the run directory, or one set. A worker that does not answer is reported as
/// a set in error, not left out.
///
/// # Errors
/// The run directory cannot be read, the set that was named is not there, or the caller may not look.
pub fn collect_status(run_dir: &Path, set: Option<&SetName>) -> Result<StatusReport, Error> {
    let mut report = StatusReport {
        version: STATUS_VERSION,
        sets: Vec::new(),
        targets: Vec::new(),
    };
    let services = match set {
        Some(name) => vec![Service::Set(name.clone())],
        None => control::list_services(run_dir)?,
    };
    for service in services {
        let client = Client::connect(run_dir, &service);
        let limit = Some(control::ANSWER_PATIENCE);
        match (
            client.and_then(|c| c.ask(&Request::Status, limit)),
            &service,
        ) {
            (Ok(Reply::Set(status)), _) => report.sets.push(*status),
            (Ok(Reply::Target(status)), _) => report.targets.push(*status),
            (Ok(_), _) => {
                let error = "it answered another question; is it of another version?";
                put_unreachable(run_dir, &mut report, &service, error.to_owned(), true);
            }
            (
                Err(
                    error @ Error::NotRunning {
                        left_over: false, ..
                    },
                ),
                _,
            ) if set.is_some() => {
                return Err(error);
            }
            // Who may not look is not told what there is.
            (
                Err(
                    error @ (Error::Denied { .. }
                    | Error::Refused(Refusal {
                        code: RefusalCode::Denied,
                        ..
                    })),
                ),
                _,
            ) => return Err(error),
            // It ended between the listing and the question.
            (
                Err(Error::NotRunning {
                    left_over: false, ..
                }),
                _,
            ) => {}
            (Err(error), _) => {
                let has_spoken = matches!(
                    error,
                    Error::Older { .. } | Error::Refused(_) | Error::NotUnderstood { .. }
                );
                put_unreachable(
                    run_dir,
                    &mut report,
                    &service,
                    error.to_string(),
                    has_spoken,
                );
            }
        }
    }
    Ok(report)
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
                status.error = status.error.filter(|_| has_spoken);
                status.error = status.error.or_else(|| Some(told.describe()));
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

pub(super) fn status(run_dir: &Path, set: Option<&str>, json: bool) -> anyhow::Result<Outcome> {
    let set = set.map(SetName::new).transpose()?;
    let report = collect_status(run_dir, set.as_ref())?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let ink = Ink::for_terminal(&out);
        write!(out, "{}", status_text(&report, ink))?;
    }
    Ok(Outcome::Yes)
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
        super::render::clock_text(line.time_ns),
        line.op,
        line.size,
        line.uid,
        line.gid,
        line.pid
    )
}
