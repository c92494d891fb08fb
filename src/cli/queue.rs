//! `doppelfs queue tail` and `doppelfs queue show`.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use nix::unistd::User;

use super::args_look::FilterArgs;
use super::paper::{bytes_text, duration_text, table};
use super::run::{Outcome, unexpected};
use super::show::queue_line_text;
use crate::control::{self, Client, Item, QueueFilter, QueueReport, Reply, Request, Service};

/// The request for the flags. Without a filter it is the one that older workers know, too.
///
/// # Errors
/// A pattern, an operation or a user that there is not.
pub(super) fn request(follow: bool, count: u64, args: &FilterArgs) -> anyhow::Result<Request> {
    let filter = QueueFilter {
        paths: args.path.clone(),
        ops: args.op.clone(),
        pids: args.pid.clone(),
        uids: args
            .user
            .iter()
            .map(|user| uid(user))
            .collect::<Result<_, _>>()?,
    };
    filter.matcher()?;
    Ok(match filter.is_empty() {
        true => Request::QueueTail { follow, count },
        false => Request::QueueFind {
            follow,
            count,
            filter,
        },
    })
}

fn uid(user: &str) -> anyhow::Result<u32> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    let found = User::from_name(user).with_context(|| format!("cannot look up user {user}"))?;
    let found =
        found.with_context(|| format!("--user {user}: there is no such user; give a number"))?;
    Ok(found.uid.as_raw())
}

pub(super) fn tail(
    run_dir: &Path,
    service: &Service,
    request: &Request,
    json: bool,
) -> anyhow::Result<Outcome> {
    let mut answers = Client::connect(run_dir, service)?.follow(request)?;
    let mut out = std::io::stdout().lock();
    while let Some(Item::Record(line)) = answers.next_item()? {
        if json {
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            writeln!(out, "{}", queue_line_text(&line))?;
        }
        // Somebody watches: each line at once.
        out.flush()?;
    }
    answers.reply()?;
    Ok(Outcome::Yes)
}

pub(super) fn show(run_dir: &Path, service: &Service, json: bool) -> anyhow::Result<Outcome> {
    let client = Client::connect(run_dir, service)?;
    let report = match client.ask(&Request::QueueShow, Some(control::ANSWER_PATIENCE * 4))? {
        Reply::Queue(report) => report,
        other => return unexpected(service, &other).map(|()| Outcome::No),
    };
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&*report)?)?;
    } else {
        write!(out, "{}", queue_text(&report))?;
    }
    Ok(Outcome::Yes)
}

fn queue_text(report: &QueueReport) -> String {
    let limit = report
        .disk_bytes_max
        .map_or_else(|| "unlimited".to_owned(), bytes_text);
    let mut text = format!(
        "set        {}\nhistory    {}\nrecords    {} to {} ({} kept, {}, oldest {})\n\
         disk       {} of {limit}, leaves {} free\n",
        report.set,
        report.history,
        report.first_seq,
        report.end_seq,
        report.ops,
        bytes_text(report.bytes),
        duration_text(report.oldest_seconds),
        bytes_text(report.disk_bytes),
        bytes_text(report.free_bytes_min),
    );
    let mut rows = vec![
        ["segment", "first", "last", "bytes", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for segment in &report.segments {
        rows.push(vec![
            format!("{:020}", segment.first_seq),
            segment.first_seq.to_string(),
            segment.last_seq.to_string(),
            bytes_text(segment.bytes),
            if segment.sealed { "sealed" } else { "open" }.to_owned(),
        ]);
    }
    text += "\n";
    text += &table(&rows);
    let mut rows = vec![["cursor", "done", "behind"].map(str::to_owned).to_vec()];
    for cursor in &report.cursors {
        rows.push(vec![
            cursor.name.clone(),
            cursor.seq.to_string(),
            cursor.behind_ops.to_string(),
        ]);
    }
    text += "\n";
    text += &table(&rows);
    text
}
