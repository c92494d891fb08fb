//! What is told while something takes long: one line that changes on a terminal, plain lines now and then
//! elsewhere. All of it goes to standard error.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::paper::{bytes_text, duration_text, printable, shortened};
use super::show::ask_within;
use super::verdict::{counted, float, mirror_progress, whole};
use crate::control::status::{ConnectionStatus, MirrorState, SetStatus, Transmit};
use crate::control::{Reply, Request, Service};
use crate::sync::{self, Mutex, Rank};

/// Between two lines on a terminal.
const TERMINAL_TICK: Duration = Duration::from_millis(500);

/// Between two plain lines.
const PLAIN_TICK: Duration = Duration::from_secs(10);

/// How long a worker is asked how far it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Only who sits at a terminal.
    Terminals,
    /// Logs, too.
    Everybody,
}

/// Does `work`, and tells what `look` sees meanwhile. What was told on a terminal is gone afterwards. `look` may
/// take long: it is left behind at the end.
pub(super) fn telling<T>(
    told: Told,
    mut look: impl FnMut() -> Option<String> + Send + 'static,
    work: impl FnOnce() -> T,
) -> T {
    let is_terminal = std::io::stderr().is_terminal();
    if !is_terminal && told == Told::Terminals {
        return work();
    }
    let tick = if is_terminal {
        TERMINAL_TICK
    } else {
        PLAIN_TICK
    };
    let (ended, end) = mpsc::channel::<()>();
    let is_over = Arc::new(Mutex::new(Rank::Leaf, false));
    let over = is_over.clone();
    let teller = sync::spawn("dfs-progress", move || {
        while end.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
            let Some(line) = look() else { continue };
            let over = over.lock();
            if !*over {
                tell(&line, is_terminal);
            }
        }
    });
    let outcome = work();
    drop(ended);
    *is_over.lock() = true;
    if is_terminal && teller.is_ok() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    outcome
}

fn tell(line: &str, is_terminal: bool) {
    let mut err = std::io::stderr();
    // Nobody can be told that this did not work.
    let _ = if is_terminal {
        let size = ratatui::crossterm::terminal::size();
        // Some terminals tell no size.
        let columns = size.map_or(0, |(columns, _)| usize::from(columns));
        let columns = if columns == 0 { 80 } else { columns.max(20) };
        write!(err, "\r{}\x1b[K", shortened(line, columns - 1))
    } else {
        writeln!(err, "{line}")
    };
    let _ = err.flush();
}

/// Looks how far a set is.
pub(super) fn look_at(run_dir: &Path, service: &Service) -> impl FnMut() -> Option<String> + use<> {
    let (run_dir, service) = (run_dir.to_owned(), service.clone());
    move || match ask_within(&run_dir, &service, &Request::Status, PATIENCE) {
        Ok(Reply::Set(set)) => Some(set_line(&printable(&*set))),
        Ok(_) => None,
        Err(_) => Some(format!("{service} does not answer")),
    }
}

/// How far a set is, on one line.
pub fn set_line(set: &SetStatus) -> String {
    let all: Vec<String> = set.connections.iter().map(connection_line).collect();
    match all.is_empty() {
        true => format!("set {} has no target", set.name),
        false => all.join("; "),
    }
}

fn connection_line(one: &ConnectionStatus) -> String {
    let lag = one.lags.durable;
    let what = match (&one.error, one.mirror.state) {
        (Some(error), _) => error.clone(),
        (None, _) if one.transmit != Transmit::Started => "not connected".to_owned(),
        (None, MirrorState::Idle) => {
            let mut text = format!(
                "{} and {} to go",
                counted(lag.ops, "operation"),
                bytes_text(lag.bytes)
            );
            let rate = one.rates.applied_ops;
            if rate >= 1.0 {
                let left = duration_text(float(lag.ops) / rate);
                text += &format!(", {} ops/s, about {left} left", whole(rate));
            }
            text
        }
        (None, _) => format!("mirror {}", mirror_progress(one)),
    };
    format!("{}: {what}", one.target)
}
