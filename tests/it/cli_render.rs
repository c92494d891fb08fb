//! Goal: people read facts right. Method: reports by hand, text expected.

use doppelfs::cli::{Ink, STATS_HEADER, bytes_text, duration_text, queue_line_text, stats_line};
use doppelfs::cli::{TARGET_HEADER, status_text, table, target_line};
use doppelfs::control::QueueLine;
use doppelfs::control::status::{
    ConnectionStatus, DataState, MirrorState, MirrorStatus, SetState, SetStatus, StatusReport,
    StreamStatus, TargetState, TargetStatus, Transmit,
};
use doppelfs::stats::{Snapshot, TargetNumbers};

fn report() -> StatusReport {
    let connection = ConnectionStatus {
        id: 1,
        target: "127.0.0.1:7420".to_owned(),
        path: "/srv/doppelfs/host/data".to_owned(),
        transmit: Transmit::Error,
        data_state: DataState::Mirroring,
        target_state: TargetState::Retrying,
        mirror: MirrorStatus {
            state: MirrorState::Mirroring,
            percent: Some(41.6),
            remaining_bytes: Some(5 << 30),
            ..MirrorStatus::default()
        },
        lag_ops: 12,
        lag_bytes: 4096,
        lag_seconds: 75.0,
        insecure: true,
        last_path: Some("a\\nb".to_owned()),
        error: Some("no space on the target; free some".to_owned()),
        ..ConnectionStatus::default()
    };
    let set = SetStatus {
        name: "data".to_owned(),
        state: SetState::Synchronising,
        worker_pid: 5,
        connections: vec![connection],
        warnings: vec!["process 7 has a file open".to_owned()],
        ..SetStatus::default()
    };
    let target = TargetStatus {
        listen: "127.0.0.1:7420".to_owned(),
        root: "/srv/doppelfs".to_owned(),
        pid: 6,
        streams: vec![StreamStatus {
            source: "host".to_owned(),
            set: "data".to_owned(),
            ..StreamStatus::default()
        }],
        ..TargetStatus::default()
    };
    StatusReport {
        version: 1,
        sets: vec![set],
        targets: vec![target],
    }
}

#[test]
fn of_a_set_that_does_not_answer_only_what_is_known_is_told() {
    let mut set = SetStatus::unreachable("data", "its worker 5 does not answer".to_owned());
    set.worker_pid = 5;
    let report = StatusReport {
        version: 1,
        sets: vec![set],
        targets: Vec::new(),
    };
    let text = status_text(&report, Ink::NONE, None);
    assert!(text.contains("does not answer"), "{text}");
    assert!(text.contains("process 5"), "{text}");
    for unknown in ["captured", "queue", "connection"] {
        assert!(!text.contains(unknown), "{unknown} is not known: {text}");
    }
}

#[test]
fn status_shows_states_lag_and_what_to_do() {
    let text = status_text(&report(), Ink::NONE, None);
    for line in [
        "set data: error: no space on the target; free some; the target tries again by itself; 12 operations wait, 4.0 KiB\n",
        "    warning     process 7 has a file open\n",
        "  connection 1 to 127.0.0.1:7420, /srv/doppelfs/host/data\n",
        "    states      data mirroring, target retrying, transmit error, mirror mirroring, replication pending\n",
        "    connected   no\n",
        "    mirror      under way, 42 %, 5.0 GiB left\n",
        "    last file   a\\nb\n",
        "    error       no space on the target; free some\n",
        "target 127.0.0.1:7420: behind: data of host: its source is not connected; the source's `doppelfs status` says why\n",
        "    root        /srv/doppelfs\n",
        "    peers       no source is paired with key \n",
        "    counts      Received add=0 del=0 rename=0 failed=0; 0 B, 0 records applied, 0 B on disk\n",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    assert!(text.contains("plain TCP without authentication"));
}

#[test]
fn colours_change_no_word() {
    let plain = status_text(&report(), Ink::NONE, None);
    assert!(!plain.contains('\x1b'));
    let mut coloured = status_text(&report(), Ink::COLOURED, None);
    assert!(coloured.contains("\x1b[31m"));
    for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
        coloured = coloured.replace(code, "");
    }
    assert_eq!(coloured, plain);
}

#[test]
fn a_set_without_a_worker_shows_why_and_no_numbers() {
    let report = StatusReport {
        version: 1,
        sets: vec![SetStatus::unreachable("data", "it is stopped".to_owned())],
        targets: Vec::new(),
    };
    let expected = "set data: error: it is stopped\n";
    assert_eq!(status_text(&report, Ink::NONE, None), expected);
}

#[test]
fn an_operation_is_one_line() {
    let mut line = QueueLine {
        seq: 17,
        time_ns: 1_763_643_067_123_000_000,
        op: "rename".to_owned(),
        path: "a\\nb".to_owned(),
        to: Some("c d".to_owned()),
        size: 0,
        offset: None,
        uid: 1000,
        gid: 100,
        pid: 42,
    };
    let expected = "17 2025-11-20T12:51:07.123Z rename a\\nb -> c d 0 1000:100 42";
    assert_eq!(queue_line_text(&line), expected);
    line.to = None;
    line.op = "write".to_owned();
    line.size = 4096;
    line.time_ns = 951_782_400_000_000_000;
    let expected = "17 2000-02-29T00:00:00.000Z write a\\nb 4096 1000:100 42";
    assert_eq!(queue_line_text(&line), expected);
}

#[test]
fn sizes_and_ages_have_units() {
    let sizes = [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_048_575, "1.0 MiB"),
        (1_610_612_736, "1.5 GiB"),
        (u64::MAX, "16.0 EiB"),
    ];
    for (bytes, text) in sizes {
        assert_eq!(bytes_text(bytes), text);
    }
    let ages = [
        (0.04, "0.0 s"),
        (59.4, "59.4 s"),
        (59.9, "1 min 0 s"),
        (7500.0, "2 h 5 min"),
        (273_600.0, "3 d 4 h"),
    ];
    for (seconds, text) in ages {
        assert_eq!(duration_text(seconds), text);
    }
}

#[test]
fn columns_are_aligned() {
    let rows = [["a", "b"], ["long", "c"]].map(|row| row.map(str::to_owned).to_vec());
    assert_eq!(table(&rows), "a     b\nlong  c\n");
}

#[test]
fn a_line_of_statistics_stands_under_its_header() {
    let new = Snapshot {
        time_ns: 1_000_000_000,
        connections: vec![Default::default()],
        ..Snapshot::default()
    };
    let line = stats_line(&Snapshot::default(), &new);
    let stages = STATS_HEADER.find("lag:").unwrap();
    assert_eq!(
        line.find("0/0 B/0.0 |"),
        Some(stages),
        "\n{STATS_HEADER}\n{line}"
    );
    assert!(stats_line(&new, &Snapshot::default()).ends_with("no target"));
}

#[test]
fn a_line_of_a_targets_statistics_stands_under_its_header() {
    let new = TargetNumbers {
        time_ns: 1_000_000_000,
        ..TargetNumbers::default()
    };
    let line = target_line(&TargetNumbers::default(), &new);
    for (word, end) in [
        ("received/s", "0"),
        ("applied/s", "0"),
        ("waiting", "0"),
        ("failed", "0"),
    ] {
        let at = TARGET_HEADER.find(word).unwrap() + word.len();
        assert!(line[..at].ends_with(end), "{word}\n{TARGET_HEADER}\n{line}");
        assert!(
            line[at..].starts_with(' '),
            "{word}\n{TARGET_HEADER}\n{line}"
        );
    }
}
