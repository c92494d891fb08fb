//! Goal: every state that there is can be told apart, says what to do, and fits. Method: reports by hand.

use doppelfs::cli::{
    Ink, Level, of_connection, of_set, of_stream, of_target, set_line, status_text,
};
use doppelfs::control::status::{
    ConnectionRates, ConnectionStatus, DataState, MarkStatus, MirrorState, MirrorStatus,
    PauseStatus, Replication, ResyncStatus, RootStatus, SetState, SetStatus, StatusReport,
    StreamStatus, TargetState, TargetStatus, Transmit,
};
use doppelfs::stats::{Lag, Lags};

/// A connection that is well.
fn well() -> ConnectionStatus {
    ConnectionStatus {
        id: 1,
        target: "backup:7420".to_owned(),
        path: "/srv/replicas/host/data".to_owned(),
        transmit: Transmit::Started,
        target_state: TargetState::Ok,
        replication: Replication::Ready,
        ..ConnectionStatus::default()
    }
}

fn behind(seconds: f64) -> ConnectionStatus {
    let lag = Lag {
        ops: 1200,
        bytes: 4 << 20,
        seconds,
    };
    ConnectionStatus {
        lag_ops: lag.ops,
        lag_bytes: lag.bytes,
        lag_seconds: lag.seconds,
        lags: Lags {
            sent: Lag::default(),
            received: Lag::default(),
            applied: lag,
            durable: lag,
        },
        replication: Replication::Replicating,
        ..well()
    }
}

fn mirroring() -> ConnectionStatus {
    ConnectionStatus {
        data_state: DataState::Mirroring,
        mirror: MirrorStatus {
            state: MirrorState::Mirroring,
            percent: Some(42.0),
            number: Some(1),
            files_done: 420,
            files_known: 1000,
            seconds: 62.0,
            bytes_per_second: 12.5 * 1_048_576.0,
            seconds_left: Some(185.0),
            remaining_bytes: None,
        },
        ..behind(20.0)
    }
}

fn set_of(one: ConnectionStatus) -> SetStatus {
    SetStatus {
        name: "data".to_owned(),
        roots: vec![RootStatus {
            path: "/srv/data".to_owned(),
            mountpoint: "/srv/data".to_owned(),
            remap_links: false,
        }],
        worker_pid: 5,
        captured_seq: 1234,
        connections: vec![one],
        ..SetStatus::default()
    }
}

fn report(set: SetStatus) -> StatusReport {
    StatusReport {
        version: 1,
        sets: vec![set],
        targets: Vec::new(),
    }
}

fn with_error(error: &str, one: ConnectionStatus) -> ConnectionStatus {
    ConnectionStatus {
        error: Some(error.to_owned()),
        ..one
    }
}

/// Every state of a connection: its sentence, how much somebody has to care, and whether `--check` tells.
fn sentences() -> Vec<(ConnectionStatus, Level, bool, &'static str)> {
    let stopped = ConnectionStatus {
        transmit: Transmit::Stopped,
        ..behind(3.0)
    };
    let failing = ConnectionStatus {
        transmit: Transmit::Error,
        ..behind(3.0)
    };
    let retrying = ConnectionStatus {
        target_state: TargetState::Retrying,
        ..behind(3.0)
    };
    let data = |state| ConnectionStatus {
        data_state: state,
        ..well()
    };
    let fast = ConnectionStatus {
        rates: ConnectionRates {
            applied_ops: 120.0,
            ..ConnectionRates::default()
        },
        ..behind(35.0)
    };
    vec![
        (
            well(),
            Level::Good,
            false,
            "ok: the replica is equal to the source",
        ),
        (
            behind(0.2),
            Level::Good,
            false,
            "ok: the replica is equal to the source 0.2 s ago",
        ),
        (
            behind(0.01),
            Level::Good,
            false,
            "ok: the replica is equal to the source less than 0.1 s ago",
        ),
        (
            fast,
            Level::Busy,
            true,
            "behind: the replica is equal to the source 35.0 s ago; 1200 operations to go, 120 are applied in a \
             second, about 10.0 s left if nothing is added",
        ),
        (
            behind(35.0),
            Level::Busy,
            true,
            "behind: the replica is equal to the source 35.0 s ago; 1200 operations to go",
        ),
        (
            mirroring(),
            Level::Busy,
            false,
            "synchronising: mirror, 42 % (420 of 1000 files known so far), 12.5 MiB/s, about 3 min 5 s left; the \
             replica is no consistent copy until it ends",
        ),
        (
            ConnectionStatus {
                staged: true,
                data_state: DataState::Ok,
                ..mirroring()
            },
            Level::Busy,
            false,
            "synchronising: what differs is collected on the target, 42 % (420 of 1000 files known so far), \
             12.5 MiB/s, about 3 min 5 s left; the replica stays as it was 20.0 s ago until all of it is there",
        ),
        (
            data(DataState::MirrorRequired),
            Level::Busy,
            false,
            "synchronising: a full mirror is required and begins by itself; the replica is no consistent copy until \
             it ends",
        ),
        (
            data(DataState::Recovering),
            Level::Busy,
            false,
            "synchronising: the target repairs the replica after a crash; it is no consistent copy until that is done",
        ),
        (
            data(DataState::RestoreRequired),
            Level::Bad,
            true,
            "error: the target was promoted: bring its changes back before anything else",
        ),
        (
            with_error("no space; free some", retrying),
            Level::Bad,
            true,
            "error: no space; free some; the target tries again by itself; 1200 operations wait, 4.0 MiB",
        ),
        (
            with_error("target backup:7420 cannot be reached", failing),
            Level::Bad,
            true,
            "error: target backup:7420 cannot be reached; it is tried again by itself; 1200 operations wait, 4.0 MiB",
        ),
        (
            stopped,
            Level::Busy,
            true,
            "behind: not connected, it is tried; 1200 operations wait, 4.0 MiB",
        ),
        (
            ConnectionStatus {
                transmit: Transmit::Paused,
                ..behind(3.0)
            },
            Level::Busy,
            false,
            "paused: somebody paused it; 1200 operations wait, 4.0 MiB; `doppelfs resume` goes on",
        ),
        (
            ConnectionStatus {
                transmit: Transmit::Paused,
                pause: Some(PauseStatus {
                    mark: MarkStatus {
                        name: "backup".to_owned(),
                        seq: 34,
                        time: 951_782_400,
                    },
                    reached: true,
                }),
                ..behind(3.0)
            },
            Level::Busy,
            false,
            "paused: the replica stands at mark backup; 1200 operations wait, 4.0 MiB; `doppelfs resume` goes on",
        ),
        (
            ConnectionStatus {
                target_state: TargetState::Paused,
                ..behind(3.0)
            },
            Level::Busy,
            false,
            "paused: the target keeps what comes and does not apply it; 1200 operations wait, 4.0 MiB; `doppelfs \
             target resume` there goes on",
        ),
        (
            ConnectionStatus {
                transmit: Transmit::Scheduled,
                ..behind(3.0)
            },
            Level::Busy,
            true,
            "behind: it waits for its time; 1200 operations wait, 4.0 MiB",
        ),
    ]
}

#[test]
fn every_state_of_a_connection_is_a_sentence_of_its_own() {
    for (one, level, attention, sentence) in sentences() {
        let verdict = of_connection(&one);
        assert_eq!(format!("{}: {}", verdict.word, verdict.text), sentence);
        assert_eq!(
            (verdict.level, verdict.needs_attention()),
            (level, attention),
            "{sentence}"
        );
        let text = status_text(&report(set_of(one)), Ink::NONE, None);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            format!("set data: {sentence}"),
            "the first line is the verdict"
        );
    }
}

#[test]
fn the_first_line_is_green_yellow_or_red() {
    for (one, level, ..) in sentences() {
        let text = status_text(&report(set_of(one)), Ink::COLOURED, None);
        let first = text.lines().next().unwrap();
        let code = match level {
            Level::Good => "\x1b[32m",
            Level::Busy => "\x1b[33m",
            Level::Bad => "\x1b[31m",
        };
        assert!(first.contains(code), "{first:?}");
    }
}

#[test]
fn a_set_tells_of_its_worst_connection_and_of_what_none_of_them_knows() {
    let mut set = set_of(well());
    set.connections.push(with_error(
        "cannot be reached",
        ConnectionStatus {
            id: 2,
            target: "far:7420".to_owned(),
            transmit: Transmit::Error,
            ..well()
        },
    ));
    let verdict = of_set(&set);
    assert_eq!(verdict.word, "error");
    assert!(
        verdict.text.starts_with("far:7420: cannot be reached"),
        "{verdict:?}"
    );
    let mut set = set_of(well());
    set.state = SetState::Synchronising;
    set.resync = ResyncStatus {
        checked: 7,
        found: 2,
        ..ResyncStatus::default()
    };
    let verdict = of_set(&set);
    assert_eq!(
        (verdict.word, verdict.text.as_str()),
        (
            "synchronising",
            "what was changed while it was not mounted is looked for (7 files looked at, 2 found)"
        )
    );
    set.connections.clear();
    let verdict = of_set(&set);
    assert_eq!(verdict.word, "no target");
    assert!(verdict.needs_attention());
    set.error = Some("its worker 5 is stopped".to_owned());
    assert_eq!(of_set(&set).text, "its worker 5 is stopped");
}

#[test]
fn a_target_tells_of_its_worst_stream() {
    let stream = StreamStatus {
        source: "host".to_owned(),
        set: "data".to_owned(),
        connected: true,
        target_state: TargetState::Ok,
        ..StreamStatus::default()
    };
    let target = |streams| TargetStatus {
        listen: "[::]:7420".to_owned(),
        peers: 1,
        streams,
        ..TargetStatus::default()
    };
    let said = |streams| {
        let verdict = of_target(&target(streams));
        (verdict.level, format!("{}: {}", verdict.word, verdict.text))
    };
    assert_eq!(
        said(vec![]),
        (
            Level::Good,
            "ok: it listens; no source has come yet".to_owned()
        )
    );
    assert_eq!(
        said(vec![stream.clone()]),
        (Level::Good, "ok: its replica follows".to_owned())
    );
    let held = StreamStatus {
        error: Some("no space; free some".to_owned()),
        received_seq: 5,
        applied_seq: 3,
        ..stream.clone()
    };
    let expected = "error: data of host: no space; free some; it is tried again by itself; 2 operations wait here";
    assert_eq!(
        said(vec![stream.clone(), held]),
        (Level::Bad, expected.to_owned())
    );
    for (state, word) in [
        (DataState::Mirroring, "synchronising"),
        (DataState::Recovering, "synchronising"),
        (DataState::MirrorRequired, "synchronising"),
        (DataState::RestoreRequired, "error"),
        (DataState::Ok, "ok"),
    ] {
        let stream = StreamStatus {
            data_state: state,
            ..stream.clone()
        };
        assert_eq!(of_stream(&stream).word, word, "{state:?}");
    }
    let text = status_text(
        &StatusReport {
            version: 1,
            sets: Vec::new(),
            targets: vec![target(vec![stream])],
        },
        Ink::NONE,
        None,
    );
    assert!(text.contains("1 source is paired with key"), "{text}");
}

#[test]
fn everything_fits_into_a_hundred_columns() {
    let long = "x".repeat(250);
    for (one, ..) in sentences() {
        let mut set = set_of(ConnectionStatus {
            last_path: Some(format!("a/{long}/the-end")),
            path: format!("/srv/{long}"),
            protection: Some("TLS 1.3 TLS13_AES_256_GCM_SHA384".to_owned()),
            connected_since: Some(1),
            sent_ops: u64::MAX,
            sent_bytes: u64::MAX,
            wire_bytes: u64::MAX,
            mirror_bytes: u64::MAX,
            sent_seq: u64::MAX,
            ..with_error(&format!("cannot apply {long} there; free some space"), one)
        });
        set.warnings
            .push(format!("a file system of {long} is full"));
        set.roots[0].path = format!("/{long}");
        set.captured_seq = u64::MAX;
        let text = status_text(&report(set), Ink::NONE, Some(100));
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}\n{text}");
        }
        assert!(
            text.contains("the-end"),
            "the end of a path matters: {text}"
        );
    }
}

#[test]
fn a_command_is_not_broken_in_two() {
    let mut set = set_of(well());
    for blanks in 1..100 {
        let words = "w ".repeat(blanks);
        set.error = Some(format!("{words}`doppelfs restart data` tries again"));
        let text = status_text(&report(set.clone()), Ink::NONE, Some(60));
        assert!(text.contains("`doppelfs restart data`"), "{text}");
    }
}

#[test]
fn no_byte_of_a_name_reaches_the_terminal_as_a_command() {
    let evil = "a\x1b[31mb\u{202e}c\nd\u{9b}e";
    let mut set = set_of(with_error(evil, well()));
    set.connections[0].last_path = Some(evil.to_owned());
    set.connections[0].path = evil.to_owned();
    set.roots[0].path = evil.to_owned();
    set.warnings.push(evil.to_owned());
    let text = status_text(&report(set.clone()), Ink::NONE, None);
    let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!text.contains(bad), "{text:?}");
    assert!(!text.contains("c\nd"), "{text}");
}

#[test]
fn the_table_of_stages_shows_where_it_waits() {
    let text = status_text(&report(set_of(behind(75.0))), Ink::NONE, None);
    let rows = [
        "    stage           position      ops behind  bytes behind     time behind\n",
        "    captured            1234\n",
        "    sent                   0               0           0 B           0.0 s\n",
        "    applied                0            1200       4.0 MiB      1 min 15 s\n",
    ];
    for row in rows {
        assert!(text.contains(row), "{row} is not in:\n{text}");
    }
}

#[test]
fn how_far_it_is_stands_on_one_line() {
    let moving = ConnectionStatus {
        rates: ConnectionRates {
            applied_ops: 100.0,
            ..ConnectionRates::default()
        },
        ..behind(3.0)
    };
    let cases = [
        (
            moving,
            "backup:7420: 1200 operations and 4.0 MiB to go, 100 ops/s, about 12.0 s left",
        ),
        (
            mirroring(),
            "backup:7420: mirror 42 % (420 of 1000 files known so far), 12.5 MiB/s, about 3 min 5 s left",
        ),
        (
            with_error("cannot be reached", well()),
            "backup:7420: cannot be reached",
        ),
    ];
    for (one, line) in cases {
        assert_eq!(set_line(&set_of(one)), line);
    }
}
