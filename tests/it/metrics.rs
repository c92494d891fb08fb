//! Goal: what Prometheus reads is text that it takes, every metric has its name, and no file is named. Method:
//! statuses with everything in them, the text taken apart, promtool where it is installed.

use std::io::Write;
use std::process::{Command, Stdio};

use doppelfs::control::status::{
    ConnectionStatus, DataState, QueueStatus, SetState, SetStatus, StatusReport, StreamStatus,
    TargetStatus,
};
use doppelfs::metrics::{FAMILIES, FamilyKind, encode, gather};
use doppelfs::stats::{
    ConnectionSnapshot, Latencies, Percentiles, Snapshot, StreamNumbers, TargetNumbers,
};

fn report() -> StatusReport {
    let connection = ConnectionStatus {
        id: 1,
        target: "backup:7420".into(),
        data_state: DataState::Mirroring,
        last_path: Some("secret name".into()),
        ..ConnectionStatus::default()
    };
    let set = SetStatus {
        name: "da\"ta".into(),
        state: SetState::Behind,
        worker_pid: 7,
        worker_restarts: 2,
        queue: QueueStatus {
            used_percent: Some(25.0),
            ..QueueStatus::default()
        },
        connections: vec![connection],
        error: Some("secret name cannot be read".into()),
        ..SetStatus::default()
    };
    let stream = StreamStatus {
        source: "web".into(),
        set: "data".into(),
        path: "/srv/secret name".into(),
        received_seq: 10,
        applied_seq: 4,
        ..StreamStatus::default()
    };
    let target = TargetStatus {
        listen: "[::]:7420".into(),
        pid: 8,
        streams: vec![stream],
        ..TargetStatus::default()
    };
    StatusReport {
        version: 1,
        sets: vec![
            set,
            SetStatus::unreachable("dead", "it does not answer".into()),
        ],
        targets: vec![target],
    }
}

fn text() -> String {
    let snapshot = Snapshot {
        set: "da\"ta".into(),
        captured_bytes: 3_343_432,
        connections: vec![ConnectionSnapshot {
            id: 1,
            latency: Latencies {
                applied: Percentiles {
                    count: 1,
                    ..Percentiles::default()
                },
                ..Latencies::default()
            },
            ..ConnectionSnapshot::default()
        }],
        ..Snapshot::default()
    };
    let numbers = TargetNumbers {
        streams: vec![StreamNumbers {
            source: "web".into(),
            set: "data".into(),
            waiting_ops: 6,
            ..StreamNumbers::default()
        }],
        ..TargetNumbers::default()
    };
    encode(gather(&report(), &[snapshot], &[numbers]))
}

#[test]
fn every_family_is_there_with_help_type_and_samples() {
    let text = text();
    for family in FAMILIES {
        let kind = match family.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
        };
        let is_counter = family.name.ends_with("_total");
        assert_eq!(is_counter, kind == "counter", "{}", family.name);
        let name = family.name;
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        let sample = format!("\n{}{{", family.name);
        assert!(text.contains(&sample), "no sample of {}", family.name);
    }
    let names: std::collections::BTreeSet<&str> = FAMILIES.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), FAMILIES.len(), "a name is there twice");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(names.contains(name), "{line}");
    }
    assert!(text.ends_with('\n') && !text.contains("# EOF"));
}

#[test]
fn states_are_told_as_one_of_all_and_who_does_not_answer_is_down() {
    let text = text();
    for line in [
        r#"doppelfs_up{role="source",set="da\"ta"} 1.0"#,
        r#"doppelfs_up{role="source",set="dead"} 0.0"#,
        r#"doppelfs_up{role="target",target="[::]:7420"} 1.0"#,
        r#"doppelfs_set_state{set="da\"ta",state="behind"} 1.0"#,
        r#"doppelfs_set_state{set="da\"ta",state="ok"} 0.0"#,
        r#"doppelfs_queue_used_ratio{set="da\"ta"} 0.25"#,
        r#"doppelfs_captured_bytes_total{set="da\"ta"} 3343432.0"#,
        r#"doppelfs_worker_restarts_total{set="da\"ta"} 2.0"#,
        r#"doppelfs_waiting_ops{source="web",set="data"} 6.0"#,
        r#"doppelfs_data_state{set="da\"ta",connection="1",target="backup:7420",state="mirroring"} 1.0"#,
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert!(
        !text.contains(r#"doppelfs_queue_used_ratio{set="dead""#),
        "{text}"
    );
    assert!(!text.contains("secret name"), "{text}");
}

#[test]
fn promtool_has_no_complaint() {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        eprintln!("SKIPPED promtool_has_no_complaint: promtool is not installed");
        return;
    };
    let mut input = tool.stdin.take().expect("its input");
    input.write_all(text().as_bytes()).expect("write");
    drop(input);
    let ended = tool.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && said.is_empty(), "{said}");
    let rules = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/monitoring/prometheus-rules.yml"
    );
    let checked = Command::new("promtool")
        .args(["check", "rules", rules])
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
}

#[test]
fn rules_and_dashboard_name_metrics_that_there_are() {
    let read = |path: &str| {
        let path = format!("{}/docs/monitoring/{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("read")
    };
    let dashboard = read("grafana-dashboard.json");
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("JSON");
    let both = read("prometheus-rules.yml") + &dashboard;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = both
        .split(|c: char| !is_name(c))
        .filter(|word| word.starts_with("doppelfs_"));
    let mut count = 0;
    for name in named {
        assert!(FAMILIES.iter().any(|family| family.name == name), "{name}");
        count += 1;
    }
    assert!(count > 20, "{count}");
}
