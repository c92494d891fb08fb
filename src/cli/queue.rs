//! `doppelfs queue tail` and `doppelfs queue show`.

use std::io::Write;
use std::path::Path;

use super::render::{bytes_text, duration_text, table};
use super::run::{Outcome, unexpected};
use super::show::queue_line_text;
use crate::control::{self, Client, Item, QueueReport, Reply, Request, Service};

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
