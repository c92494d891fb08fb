//! `doppelfs top`: the monitor on a terminal, or one picture of it.

mod collect;
mod draw;
mod model;
mod writers;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

pub use model::{Key, Monitor, Point, Said};
pub use writers::{Done, Grouping, WRITERS_SECONDS, Writers};

use super::args_look::TopArgs;
use super::run::{Outcome, seconds};
use super::show::{Asked, ask_all};
use crate::control::{self, Request, Service};
use crate::sync;
use crate::sys;
use collect::{Followers, News, PATIENCE, shown, understood};

/// How often keys, signals and news are looked at.
const TICK: Duration = Duration::from_millis(100);

/// The picture is drawn anew at least this often, for its clock.
const REDRAW: Duration = Duration::from_millis(500);

/// The size of the picture of `--once`.
const ONCE_COLUMNS: u16 = 100;
const ONCE_LINES: u16 = 30;

pub(super) fn top(run_dir: &Path, args: &TopArgs) -> anyhow::Result<Outcome> {
    let interval = seconds(args.interval)?.max(TICK);
    if args.once {
        return once(run_dir, interval, !args.no_writers);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!(
            "`doppelfs top` needs a terminal; `doppelfs top --once` prints one picture as text, `doppelfs \
             stats --follow` a line every second"
        );
    }
    let colours = std::env::var_os("NO_COLOR").is_none();
    let monitor = Monitor::new(&sys::host_name(), interval, colours);
    // Before the terminal is changed: from here on they do not end the process as it stands.
    let ended = heed_signals()?;
    let inbox = collect::start(run_dir, interval).context("cannot start a thread")?;
    let followers = (!args.no_writers).then(|| Followers::new(run_dir));
    // On a panic the terminal is put right, too, before anything is said.
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let shown = show(&mut terminal, monitor, (&inbox, followers), &ended);
    ratatui::restore();
    shown.map(|()| Outcome::Yes)
}

/// Set when the process is asked to end.
fn heed_signals() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot listen for signals")?;
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let mut signals = {
        let _guard = runtime.enter();
        [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .context("cannot listen for signals")?
    };
    sync::spawn("dfs-signals", move || {
        runtime.block_on(async {
            let [term, int, hup] = signals.as_mut_slice() else {
                return;
            };
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = hup.recv() => {}
            }
            flag.store(true, Ordering::Release);
        });
    })
    .context("cannot start a thread")?;
    Ok(ended)
}

fn key_of(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return (event.code == KeyCode::Char('c')).then_some(Key::Quit);
    }
    match event.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
        KeyCode::Char('p' | ' ') => Some(Key::Pause),
        KeyCode::Char('w') => Some(Key::Group),
        KeyCode::Char('?' | 'h') => Some(Key::Help),
        _ => None,
    }
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    mut monitor: Monitor,
    (inbox, mut followers): (&std::sync::mpsc::Receiver<News>, Option<Followers>),
    ended: &AtomicBool,
) -> anyhow::Result<()> {
    let mut drawn: Option<Instant> = None;
    while !ended.load(Ordering::Acquire) {
        let mut is_new = false;
        loop {
            match inbox.try_recv() {
                Ok(News::Said { service, said }) => monitor.hear(&service, said, Instant::now()),
                Ok(News::Gone { service }) => monitor.forget(&service),
                Ok(News::Trouble(error)) => bail!(error),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            is_new = true;
        }
        if is_new && let Some(followers) = &mut followers {
            let set = monitor.selected_set();
            monitor.set_writers(set.map(|set| followers.writers_of(&set)));
        }
        if is_new || drawn.is_none_or(|then| then.elapsed() >= REDRAW) {
            let now = Instant::now();
            terminal
                .draw(|frame| monitor.draw(frame, now))
                .context("cannot write to the terminal")?;
            drawn = Some(now);
        }
        while event::poll(TICK).context("cannot read from the terminal")? {
            // What else comes than keys (another size, above all) needs another picture, no more.
            if let Event::Key(key) = event::read().context("cannot read from the terminal")?
                && key_of(key).is_some_and(|key| monitor.press(key))
            {
                return Ok(());
            }
            drawn = None;
            if ended.load(Ordering::Acquire) {
                return Ok(());
            }
            if event::poll(Duration::ZERO).is_ok_and(|more| !more) {
                break;
            }
        }
    }
    Ok(())
}

/// Two looks an interval apart, so that there are rates, and one picture. Who did not answer the first is not asked
/// again: it ends within two patiences and the interval.
fn once(run_dir: &Path, interval: Duration, with_writers: bool) -> anyhow::Result<Outcome> {
    let mut monitor = Monitor::new(&sys::host_name(), interval, false);
    let services = control::list_services(run_dir)?;
    let answering = look(run_dir, services, &mut monitor);
    let mut followers = Followers::new(run_dir);
    let set = monitor.selected_set().filter(|_| with_writers);
    if let Some(set) = &set {
        followers.writers_of(set);
    }
    std::thread::sleep(interval);
    look(run_dir, answering, &mut monitor);
    if let Some(set) = &set {
        monitor.set_writers(Some(followers.writers_of(set)));
    }
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    let columns = columns.unwrap_or(ONCE_COLUMNS).clamp(80, 300);
    let mut terminal = Terminal::new(TestBackend::new(columns, ONCE_LINES))?;
    terminal.draw(|frame| monitor.draw(frame, Instant::now()))?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", plain(terminal.backend().buffer()))?;
    Ok(Outcome::Yes)
}

/// Asks all of these at once; returns who answered.
fn look(run_dir: &Path, services: Vec<Service>, monitor: &mut Monitor) -> Vec<Service> {
    let mut answering = Vec::new();
    for Asked { service, said } in ask_all(run_dir, services, &Request::Status, PATIENCE) {
        let has_answered = said.is_ok();
        if let Some(said) = understood(run_dir, &service, said) {
            monitor.hear(&shown(&service), said, Instant::now());
        }
        if has_answered {
            answering.push(service);
        }
    }
    answering
}

/// A picture as lines of text, without blanks at their ends.
pub fn plain(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let mut text = String::new();
    for line in buffer.content.chunks(width) {
        let mut shown = String::new();
        let mut covered = 0;
        for cell in line {
            // A wide sign covers the cell after it.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            let symbol = cell.symbol();
            covered = unicode_width::UnicodeWidthStr::width(symbol).saturating_sub(1);
            shown.push_str(symbol);
        }
        text += shown.trim_end();
        text.push('\n');
    }
    text
}
