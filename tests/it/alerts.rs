//! Goal: what needs an administrator is told once, under numbers that stay, to the journal or to syslog, and
//! nobody waits for either. Method: statuses one after another; sockets that read what arrives.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use doppelfs::alerts::{Alert, Alerts, Kind, SetWatch, Severity, TargetWatch};
use doppelfs::control::status::{
    ConnectionStatus, DataState, MarkStatus, PauseStatus, SetStatus, StreamStatus, TargetState,
    TargetStatus, Transmit,
};

use super::cli_scratch::{Scratch, run};

fn numbers(alerts: &[Alert]) -> Vec<u16> {
    alerts.iter().map(|alert| alert.kind.number()).collect()
}

fn set() -> SetStatus {
    SetStatus {
        name: "data".into(),
        connections: vec![ConnectionStatus {
            id: 1,
            target: "backup:7420".into(),
            transmit: Transmit::Started,
            connected_since: Some(1),
            ..ConnectionStatus::default()
        }],
        ..SetStatus::default()
    }
}

/// Looks so many seconds after the beginning.
struct Clock(Instant);

impl Clock {
    fn at(&self, seconds: u64) -> Instant {
        self.0 + Duration::from_secs(seconds)
    }
}

#[test]
fn numbers_names_and_message_ids_are_those_that_were_given_first() {
    let all: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| {
            format!(
                "{} {} {}",
                kind.number(),
                kind.name(),
                kind.severity().word()
            )
        })
        .collect();
    // To be added to; nothing in it may change.
    let given = "101 connection-lost error;102 connection-back notice;103 paused notice;104 resumed notice;\
        105 stopped warning;106 started notice;111 mirror-required warning;112 mirror-begun notice;\
        113 mirror-done notice;121 queue-filling warning;122 queue-drained notice;123 backlog-given-up error;\
        131 files-in-doubt warning;132 not-recorded error;141 worker-restarted warning;\
        142 supervisor-lost error;151 state-failing critical;152 below-failing critical;\
        190 alerts-lost warning;201 replica-held error;202 replica-goes-on notice;203 target-full error;\
        211 source-lost warning;212 source-back notice;213 source-refused warning;\
        221 replica-paused notice;222 replica-resumed notice";
    assert_eq!(all.join(";"), given);
    for kind in Kind::ALL {
        let id = kind.message_id();
        assert!(
            id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id}"
        );
        assert!(id.ends_with(&kind.number().to_string()), "{id}");
        assert_eq!(Kind::from_number(kind.number()), Some(*kind));
        assert!(
            kind.means().ends_with('.') && kind.todo().ends_with('.'),
            "{kind:?}"
        );
    }
    assert_eq!(Kind::from_number(100), None);
    assert_eq!(Severity::Critical as u8, 2);
}

#[test]
fn a_connection_is_lost_after_a_while_and_back_once() {
    let clock = Clock(Instant::now());
    let (up, mut down) = (set(), set());
    down.connections[0].connected_since = None;
    down.connections[0].error = Some("no route to host".into());
    let mut watch = SetWatch::new(50);
    assert_eq!(watch.look(&up, clock.at(0)), []);
    // A moment is no loss.
    assert_eq!(watch.look(&down, clock.at(1)), []);
    assert_eq!(watch.look(&up, clock.at(5)), []);
    assert_eq!(watch.look(&down, clock.at(6)), []);
    assert_eq!(watch.look(&down, clock.at(10)), []);
    let lost = watch.look(&down, clock.at(11));
    assert_eq!(numbers(&lost), [101]);
    let line = lost[0].line();
    assert_eq!(
        line,
        "DFS-101 connection-lost: data (backup:7420): no route to host"
    );
    assert_eq!(watch.look(&down, clock.at(100)), []);
    assert_eq!(numbers(&watch.look(&up, clock.at(101))), [102]);
    assert_eq!(watch.look(&up, clock.at(102)), []);
    // Who disconnects it by hand is told that, and nothing of a loss.
    down.connections[0].stopped = true;
    assert_eq!(numbers(&watch.look(&down, clock.at(103))), [105]);
    assert_eq!(watch.look(&down, clock.at(200)), []);
    assert_eq!(numbers(&watch.look(&up, clock.at(201))), [106]);
}

#[test]
fn mirrors_pauses_and_queues_are_told_at_their_beginning_and_end() {
    let now = Instant::now();
    let mut watch = SetWatch::new(50);
    let mut status = set();
    status.queue.used_percent = Some(10.0);
    assert_eq!(watch.look(&status, now), []);
    for (data, told) in [
        (DataState::MirrorRequired, None),
        (DataState::Mirroring, Some(112)),
        (DataState::Mirroring, None),
        (DataState::Ok, Some(113)),
        (DataState::Recovering, None),
        (DataState::Ok, None),
    ] {
        status.connections[0].data_state = data;
        assert_eq!(
            numbers(&watch.look(&status, now)),
            Vec::from_iter(told),
            "{data:?}"
        );
    }
    status.connections[0].transmit = Transmit::Error;
    status.connections[0].data_state = DataState::MirrorRequired;
    assert_eq!(numbers(&watch.look(&status, now)), [111]);
    status = set();
    assert_eq!(numbers(&watch.look(&status, now)), [113]);
    for (percent, told) in [
        (49.9, None),
        (50.0, Some(121)),
        (99.0, None),
        (41.0, None),
        (51.0, None),
        (39.0, Some(122)),
        (39.0, None),
        (60.0, Some(121)),
    ] {
        status.queue.used_percent = Some(percent);
        assert_eq!(
            numbers(&watch.look(&status, now)),
            Vec::from_iter(told),
            "{percent}"
        );
    }
    status.connections[0].pause = Some(PauseStatus {
        mark: MarkStatus {
            name: "backup".into(),
            ..MarkStatus::default()
        },
        reached: false,
    });
    let paused = watch.look(&status, now);
    assert_eq!(numbers(&paused), [103]);
    assert!(paused[0].text.contains("backup"));
    status.connections[0].pause = None;
    assert_eq!(numbers(&watch.look(&status, now)), [104]);
}

fn target() -> TargetStatus {
    TargetStatus {
        listen: "[::]:7420".into(),
        streams: vec![StreamStatus {
            source: "host".into(),
            set: "data".into(),
            path: "/srv/replicas/host/data".into(),
            connected: true,
            target_state: TargetState::Ok,
            ..StreamStatus::default()
        }],
        ..TargetStatus::default()
    }
}

#[test]
fn a_target_tells_of_full_disks_held_replicas_sources_and_refusals() {
    let clock = Clock(Instant::now());
    let mut watch = TargetWatch::default();
    let mut status = target();
    assert_eq!(watch.look(&status, clock.at(0)), []);
    let full = "No space left on device; free space on the target's state directory";
    for (error, number) in [(full, 203), ("a name is taken by a file made by hand", 201)] {
        status.streams[0].target_state = TargetState::Retrying;
        status.streams[0].error = Some(error.into());
        let held = watch.look(&status, clock.at(1));
        assert_eq!(numbers(&held), [number]);
        assert!(held[0].line().contains(error), "{}", held[0].line());
        assert_eq!(watch.look(&status, clock.at(2)), []);
        status = target();
        assert_eq!(numbers(&watch.look(&status, clock.at(3))), [202]);
    }
    status.streams[0].target_state = TargetState::PausePending;
    assert_eq!(numbers(&watch.look(&status, clock.at(4))), [221]);
    status.streams[0].target_state = TargetState::Paused;
    assert_eq!(watch.look(&status, clock.at(5)), []);
    status.streams[0].target_state = TargetState::Ok;
    assert_eq!(numbers(&watch.look(&status, clock.at(6))), [222]);
    status.streams[0].connected = false;
    assert_eq!(watch.look(&status, clock.at(7)), []);
    assert_eq!(numbers(&watch.look(&status, clock.at(17))), [211]);
    status.streams[0].connected = true;
    assert_eq!(numbers(&watch.look(&status, clock.at(18))), [212]);
    // A crowd at the door is told of once a minute, with its number.
    status.refused = 3;
    status.last_refusal = Some("10.0.0.7: unknown key\u{1b}[2J".into());
    let refused = watch.look(&status, clock.at(19));
    assert_eq!(numbers(&refused), [213]);
    assert!(refused[0].text.starts_with("3 connections") && !refused[0].text.contains('\u{1b}'));
    status.refused = 500;
    assert_eq!(watch.look(&status, clock.at(20)), []);
    let refused = watch.look(&status, clock.at(80));
    assert!(
        refused[0].text.starts_with("497 connections"),
        "{refused:?}"
    );
}

fn received(socket: &UnixDatagram) -> String {
    let mut bytes = vec![0; 64 << 10];
    let length = socket.recv(&mut bytes).expect("an entry");
    String::from_utf8(bytes[..length].to_vec()).expect("text")
}

fn listening(path: &std::path::Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("bind");
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("a timeout");
    socket
}

#[test]
fn the_journal_gets_fields_and_syslog_a_line_where_there_is_no_journal() {
    let scratch = Scratch::new();
    let (journal, syslog) = (scratch.path().join("journal"), scratch.path().join("log"));
    let (alerts, thread) = Alerts::start_at(&journal, &syslog).expect("a thread");
    let odd = Alert::new(Kind::ReplicaHeld, "a\nset", "file\nPRIORITY=0\u{7f}").with("b\u{1b}c");
    let reader = listening(&syslog);
    alerts.raise(odd.clone());
    let line = received(&reader);
    assert!(line.starts_with(&format!(
        "<27>doppelfs[{}]: DFS-201 replica-held: ",
        std::process::id()
    )));
    assert!(!line.contains(['\n', '\u{1b}', '\u{7f}']), "{line:?}");
    let reader = listening(&journal);
    alerts.raise(odd);
    let entry = received(&reader);
    let fields: Vec<(&str, &str)> = entry
        .lines()
        .map(|line| line.split_once('=').expect("a field"))
        .collect();
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let expected = [
        "MESSAGE",
        "MESSAGE_ID",
        "PRIORITY",
        "SYSLOG_IDENTIFIER",
        "SYSLOG_FACILITY",
        "SYSLOG_PID",
        "DOPPELFS_ALERT",
        "DOPPELFS_ALERT_NAME",
        "DOPPELFS_SUBJECT",
        "DOPPELFS_PEER",
    ];
    assert_eq!(names, expected, "{entry}");
    assert_eq!(fields[2].1, "3");
    assert_eq!(fields[6].1, "201");
    drop(alerts);
    thread.join().expect("the thread ends with its last user");
}

#[test]
fn a_journal_that_takes_nothing_makes_nobody_wait_and_losses_are_told() {
    let scratch = Scratch::new();
    let (journal, syslog) = (scratch.path().join("journal"), scratch.path().join("log"));
    let reader = listening(&journal);
    let (alerts, _thread) = Alerts::start_at(&journal, &syslog).expect("a thread");
    let start = Instant::now();
    for _ in 0..5000 {
        alerts.raise(Alert::new(Kind::Paused, "data", "x"));
    }
    assert!(start.elapsed() < Duration::from_secs(2), "raising waited");
    let mut entries = std::iter::repeat_with(|| received(&reader));
    let lost = entries
        .find(|entry| entry.contains("DOPPELFS_ALERT=190"))
        .expect("one");
    assert!(lost.contains("alerts could not be delivered"), "{lost}");
}

#[test]
fn what_is_shipped_for_journalctl_is_what_the_program_says() {
    let scratch = Scratch::new();
    let said = run(scratch.path(), "alerts --catalog").out;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/doppelfs.catalog");
    let shipped = std::fs::read_to_string(shipped).expect("the catalog");
    assert_eq!(
        shipped, said,
        "doppelfs alerts --catalog > systemd/doppelfs.catalog"
    );
    let listed = run(scratch.path(), "alerts --json").out;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed.len(), Kind::ALL.len());
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.md");
    let page = std::fs::read_to_string(page).expect("the page");
    for kind in Kind::ALL {
        let row = format!(
            "| DFS-{} | `{}` | {} |",
            kind.number(),
            kind.name(),
            kind.severity().word()
        );
        assert!(page.contains(&row), "docs/alerts.md has no row {row}");
    }
}
