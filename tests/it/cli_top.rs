//! Goal: the monitor shows what is, at every size, and leaves the terminal as it was. Method: reports by hand
//! drawn into memory; the program itself on a pseudo-terminal, with workers that only talk.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use doppelfs::cli::{Grouping, Key, Monitor, Said, WRITERS_SECONDS, Writers, plain};
use doppelfs::control::QueueLine;
use doppelfs::control::status::{
    ConnectionStatus, DataState, MirrorState, MirrorStatus, SetStatus, StreamStatus, TargetState,
    TargetStatus, Transmit,
};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use crate::cli_scratch::{Scratch, Talker, run, runtime, serve};

const SECOND: Duration = Duration::from_secs(1);

fn set_at(second: u64, name: &str, transmit: Transmit) -> SetStatus {
    SetStatus {
        name: name.to_owned(),
        worker_pid: 5,
        time_ns: second * 1_000_000_000,
        captured_ops: second * 100,
        captured_bytes: second * (1 << 20),
        connections: vec![ConnectionStatus {
            id: 1,
            target: "backup:7420".to_owned(),
            transmit,
            target_state: TargetState::Ok,
            sent_bytes: second * (2 << 20),
            wire_bytes: second * (1 << 19),
            applied_seq: second * 90,
            lag_ops: second * 10,
            lag_seconds: 0.5,
            ..ConnectionStatus::default()
        }],
        ..SetStatus::default()
    }
}

fn set(status: SetStatus) -> Result<Said, String> {
    Ok(Said::Set(Box::new(status)))
}

fn target() -> Result<Said, String> {
    Ok(Said::Target(Box::new(TargetStatus {
        listen: "[::]:7420".to_owned(),
        streams: vec![StreamStatus {
            source: "far".to_owned(),
            set: "mail".to_owned(),
            connected: true,
            target_state: TargetState::Ok,
            ..StreamStatus::default()
        }],
        ..TargetStatus::default()
    })))
}

/// Heard at two moments a second apart, the second one now.
fn monitor(now: Instant) -> Monitor {
    let mut monitor = Monitor::new("here", SECOND, true);
    for second in 1..=3 {
        monitor.hear(
            "set data",
            set(set_at(second, "data", Transmit::Started)),
            now,
        );
    }
    monitor.hear("set docs", set(set_at(1, "docs", Transmit::Paused)), now);
    monitor.hear("target 7420", target(), now);
    monitor
}

fn drawn(monitor: &Monitor, (width, height): (u16, u16), now: Instant) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| monitor.draw(frame, now)).unwrap();
    terminal
}

fn picture(monitor: &Monitor, now: Instant) -> String {
    plain(drawn(monitor, (80, 24), now).backend().buffer())
}

#[test]
fn a_picture_shows_states_rates_lag_and_what_to_do() {
    let now = Instant::now();
    let text = picture(&monitor(now), now);
    for words in [
        "doppelfs on here",
        "2 ok, 1 on the way, 0 in error",
        ">data       ok            backup:7420",
        " docs       paused",
        " mail       ok            from far",
        "data: ok: the replica is equal to the source 0.5 s ago",
        "captured            100/s",
        "captured        1.0 MiB/s",
        "sent            2.0 MiB/s",
        "on the wire   512.0 KiB/s",
        "applied              90/s",
        "lag                 0.5 s",
        "q ends",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
fn states_have_their_colours_and_none_where_none_are_wanted() {
    let now = Instant::now();
    let mut monitor = monitor(now);
    monitor.hear("set docs", set(set_at(2, "docs", Transmit::Error)), now);
    let terminal = drawn(&monitor, (80, 24), now);
    let colours: Vec<Color> = terminal
        .backend()
        .buffer()
        .content
        .iter()
        .map(|c| c.fg)
        .collect();
    for colour in [Color::Green, Color::Red, Color::Cyan] {
        assert!(colours.contains(&colour), "{colour:?}");
    }
    let mut plain = Monitor::new("here", SECOND, false);
    plain.hear("set docs", set(set_at(2, "docs", Transmit::Error)), now);
    let terminal = drawn(&plain, (80, 24), now);
    assert!(
        terminal
            .backend()
            .buffer()
            .content
            .iter()
            .all(|c| c.fg == Color::Reset)
    );
}

#[test]
fn a_worker_that_is_silent_is_shown_as_such() {
    let now = Instant::now();
    let monitor = monitor(now);
    let later = now + SECOND * 7;
    let text = picture(&monitor, later);
    assert!(text.contains("no answer"), "{text}");
    assert!(text.contains("does not answer since 7 s"), "{text}");
    let mut monitor = monitor;
    let error = "its worker 5 is stopped: `kill -CONT 5` lets it go on".to_owned();
    monitor.hear("set data", Err(error), later);
    let text = picture(&monitor, later);
    assert!(
        text.contains("since 7 s: its worker 5 is stopped"),
        "{text}"
    );
    // It is back.
    monitor.hear("set data", set(set_at(9, "data", Transmit::Started)), later);
    let text = picture(&monitor, later);
    assert!(text.contains(">data       ok"), "{text}");
}

#[test]
fn a_mirror_has_a_bar() {
    let now = Instant::now();
    let mut status = set_at(4, "data", Transmit::Started);
    status.connections[0].data_state = DataState::Mirroring;
    status.connections[0].mirror = MirrorStatus {
        state: MirrorState::Mirroring,
        percent: Some(50.0),
        files_done: 5,
        files_known: 10,
        seconds_left: Some(12.0),
        ..MirrorStatus::default()
    };
    let mut monitor = monitor(now);
    monitor.hear("set data", set(status), now);
    let text = picture(&monitor, now);
    assert!(text.contains("under way"), "{text}");
    assert!(text.contains("data to backup:7420"), "{text}");
    assert!(
        text.contains("50 % (5 of 10 files known so far), about 12.0 s left"),
        "{text}"
    );
}

#[test]
fn keys_select_hold_group_and_end() {
    let now = Instant::now();
    let mut monitor = monitor(now);
    assert_eq!(monitor.selected_set().as_deref(), Some("data"));
    assert!(!monitor.press(Key::Down));
    assert_eq!(monitor.selected_set().as_deref(), Some("docs"));
    for _ in 0..9 {
        monitor.press(Key::Down);
    }
    assert_eq!(monitor.selected_set(), None, "the last row is a target's");
    let text = picture(&monitor, now);
    assert!(text.contains(">mail"), "{text}");
    assert!(text.contains("received"), "{text}");
    for _ in 0..9 {
        monitor.press(Key::Up);
    }
    monitor.press(Key::Pause);
    monitor.hear("set data", set(set_at(9, "data", Transmit::Error)), now);
    let text = picture(&monitor, now + SECOND * 60);
    assert!(
        text.contains("HELD") && text.contains(">data       ok"),
        "{text}"
    );
    monitor.press(Key::Pause);
    monitor.press(Key::Help);
    let text = picture(&monitor, now);
    assert!(text.contains("hold the picture"), "{text}");
    monitor.press(Key::Help);
    monitor.press(Key::Group);
    let text = picture(&monitor, now);
    assert!(text.contains("by process (w)"), "{text}");
    assert!(monitor.press(Key::Quit));
}

#[test]
fn every_size_is_drawn() {
    let now = Instant::now();
    let mut monitor = monitor(now);
    for number in 0..40 {
        let name = format!("set-{number}");
        let status = set_at(1, &name, Transmit::Started);
        monitor.hear(&format!("set {name}"), set(status), now);
    }
    for _ in 0..35 {
        monitor.press(Key::Down);
    }
    for size in [(1, 1), (20, 5), (40, 10), (80, 24), (132, 50), (300, 3)] {
        drawn(&monitor, size, now);
    }
    let text = picture(&monitor, now);
    assert!(
        text.contains(">set-"),
        "the selected row is to be seen:\n{text}"
    );
}

#[test]
fn names_bring_no_control_characters() {
    let now = Instant::now();
    let mut status = set_at(4, "data", Transmit::Started);
    status.warnings.push("a\x1b[31mb\u{202e}c".to_owned());
    let mut monitor = monitor(now);
    monitor.hear("set data", set(status), now);
    let text = picture(&monitor, now);
    assert!(!text.contains(['\x1b', '\u{202e}']), "{text}");
    assert!(text.contains("warning: a\\u{1b}[31mb"), "{text}");
}

fn written(path: &str, size: u64, pid: u32, uid: u32) -> QueueLine {
    QueueLine {
        op: "write".to_owned(),
        path: path.to_owned(),
        size,
        pid,
        uid,
        ..QueueLine::default()
    }
}

#[test]
fn the_biggest_writers_of_the_last_minute_come_first() {
    let mut writers = Writers::default();
    writers.note(&written("old/file", 1 << 30, 1, 1), 1);
    let now = 1 + WRITERS_SECONDS;
    writers.note(&written("mail/ann/1", 100, 10, 1000), now);
    writers.note(&written("mail/ann/2", 100, 11, 1000), now);
    writers.note(&written("mail/bob/1", 150, 10, 1001), now);
    let mirror = QueueLine {
        op: "image-data".to_owned(),
        ..written("mail/all", 1 << 30, 0, 0)
    };
    writers.note(&mirror, now);
    let names = |grouping| -> Vec<(String, u64)> {
        let biggest = writers.biggest(grouping).into_iter();
        biggest.map(|(name, done)| (name, done.bytes)).collect()
    };
    let of = |all: &[(&str, u64)]| -> Vec<(String, u64)> {
        all.iter()
            .map(|(name, bytes)| ((*name).to_owned(), *bytes))
            .collect()
    };
    assert_eq!(
        names(Grouping::Path),
        of(&[("mail/ann/", 200), ("mail/bob/", 150)])
    );
    assert_eq!(names(Grouping::Process), of(&[("10", 250), ("11", 100)]));
    assert_eq!(names(Grouping::User), of(&[("1000", 200), ("1001", 150)]));
    for number in 0..100_000u32 {
        writers.note(&written("many/files/x", 1, number, 5), now);
    }
    assert!(
        writers.biggest(Grouping::Process).len() < 1000,
        "what is kept is bounded"
    );
}

#[test]
fn one_picture_needs_no_terminal_and_the_monitor_does() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker {
        status: set_at(1, "data", Transmit::Started),
        ..Talker::default()
    };
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let ran = run(scratch.path(), "top --once --interval 0.2");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains(">data"), "{}", ran.out);
    assert!(!ran.out.contains('\x1b'), "{}", ran.out);
    let ran = run(scratch.path(), "top");
    assert_eq!(ran.code, 2);
    for words in ["needs a terminal", "--once", "stats --follow"] {
        assert!(ran.err.contains(words), "{}", ran.err);
    }
}

/// `doppelfs top` on a pseudo-terminal.
struct OnTerminal {
    child: Child,
    screen: std::fs::File,
    /// The program's end: what it did to the terminal is seen here.
    terminal: OwnedFd,
    seen: String,
}

impl OnTerminal {
    fn start(run_dir: &std::path::Path) -> OnTerminal {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_doppelfs"));
        command
            .args(["top", "--interval", "0.2"])
            .env("DOPPELFS_RUN_DIR", run_dir)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .process_group(0);
        let child = command.spawn().unwrap();
        drop(command);
        OnTerminal {
            child,
            screen: std::fs::File::from(pty.master),
            terminal: pty.slave,
            seen: String::new(),
        }
    }

    /// Reads what is shown until `words` are among it.
    fn until_seen(&mut self, words: &str) {
        let begin = Instant::now();
        while !self.seen.contains(words) {
            assert!(
                begin.elapsed() < SECOND * 30,
                "{words:?} is not in {:?}",
                self.seen
            );
            self.read_more(Duration::from_millis(200));
        }
    }

    fn read_more(&mut self, patience: Duration) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut waited = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
        let millis = PollTimeout::try_from(patience).unwrap();
        if poll(&mut waited, millis).unwrap() > 0 {
            let mut bytes = [0; 16 << 10];
            let count = self.screen.read(&mut bytes).unwrap();
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal)
            .unwrap()
            .local_flags
            .contains(LocalFlags::ICANON)
    }

    /// Waits for its end; the terminal has to be as it was.
    fn ends(mut self) {
        let begin = Instant::now();
        let status = loop {
            self.read_more(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < SECOND * 30, "it does not end");
        };
        self.read_more(Duration::from_millis(200));
        assert_eq!(status.code(), Some(0), "{:?}", self.seen);
        assert!(!self.is_raw(), "the terminal is left raw");
        assert!(
            self.seen.contains("\x1b[?1049h"),
            "it had a screen of its own"
        );
        assert!(
            self.seen.ends_with("\x1b[?25h") || self.seen.contains("\x1b[?1049l"),
            "{:?}",
            self.seen
        );
        let after = self.seen.rsplit("\x1b[?1049l").next().unwrap();
        assert!(
            !after.contains("?1049h") && self.seen.contains("\x1b[?1049l"),
            "{after:?}"
        );
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_monitor_leaves_the_terminal_as_it_was() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker {
        status: set_at(1, "data", Transmit::Started),
        ..Talker::default()
    };
    let _server = serve(&runtime, scratch.path(), "data", talker);
    for how in ["q", "SIGINT", "SIGTERM"] {
        let mut top = OnTerminal::start(scratch.path());
        top.until_seen("backup:7420");
        assert!(top.is_raw(), "keys are read one by one");
        let pid = Pid::from_raw(i32::try_from(top.child.id()).unwrap());
        match how {
            "q" => top.screen.write_all(b"?\x1b[Bpq").unwrap(),
            "SIGINT" => kill(pid, Signal::SIGINT).unwrap(),
            _ => kill(pid, Signal::SIGTERM).unwrap(),
        }
        top.ends();
    }
}

#[test]
fn a_silent_worker_keeps_neither_the_picture_nor_the_keys() {
    let scratch = Scratch::new();
    let _stopped =
        std::os::unix::net::UnixListener::bind(scratch.path().join("stuck.sock")).unwrap();
    let runtime = runtime();
    let talker = Talker {
        status: set_at(1, "data", Transmit::Started),
        ..Talker::default()
    };
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let mut top = OnTerminal::start(scratch.path());
    top.until_seen("backup:7420");
    top.until_seen("no answer");
    top.screen.write_all(b"q").unwrap();
    top.ends();
}
