//! Goal: numbers mean what their names say. Method: snapshots by hand.

use doppelfs::stats::{
    ConnectionSnapshot, Latency, Meter, OpCounters, OpCounts, Percentiles, RATE_WINDOW, Rates,
    Snapshot, StreamNumbers, StreamSnapshot, TargetNumbers, names,
};
use doppelfs::types::Kind;

fn snapshot(time_ns: u64, add: u64) -> Snapshot {
    Snapshot {
        set: "data".to_owned(),
        time_ns,
        captured: OpCounts {
            add,
            delete: 612,
            rename: 3,
        },
        captured_bytes: 3_343_432,
        connections: vec![ConnectionSnapshot {
            id: 1,
            sent: OpCounts {
                add: 611,
                delete: 610,
                rename: 3,
            },
            ..ConnectionSnapshot::default()
        }],
        ..Snapshot::default()
    }
}

#[test]
fn the_one_line_form_shows_what_is_queued_and_sent() {
    let expected = "Que/sent add=612/611 (3343432 bytes) del=612/610 ren=3/3";
    assert_eq!(snapshot(0, 612).one_line(), expected);
    let line = StreamSnapshot::default().one_line();
    assert_eq!(line, "Received add=0 del=0 rename=0 failed=0");
}

#[test]
fn the_slowest_connection_counts_as_sent() {
    let mut snapshot = snapshot(0, 612);
    snapshot.connections.push(ConnectionSnapshot::default());
    assert!(snapshot.one_line().contains("add=612/0 "));
    snapshot.connections.clear();
    assert!(snapshot.one_line().contains("add=612/0 "));
}

#[test]
fn every_operation_is_counted_once_and_no_record_of_a_mirror() {
    let counters = OpCounters::default();
    for kind in Kind::ALL {
        counters.note(kind);
    }
    let counts = counters.get();
    assert_eq!((counts.delete, counts.rename), (2, 1));
    let is_ours = |kind: &Kind| kind.is_mirror() || *kind == Kind::Mark;
    let operations = Kind::ALL.iter().filter(|kind| !is_ours(kind)).count();
    assert_eq!(counts.total(), operations as u64);
}

#[test]
fn a_rate_is_the_difference_over_the_time() {
    let rates = Rates::between(&snapshot(0, 100), &snapshot(2_000_000_000, 300));
    assert!((rates.captured_ops - 100.0).abs() < 1e-9);
}

#[test]
fn a_restart_between_two_snapshots_gives_no_negative_rate() {
    let rates = Rates::between(&snapshot(0, 300), &snapshot(1_000_000_000, 100));
    assert!(rates.captured_ops >= 0.0);
    let rates = Rates::between(&snapshot(5, 1), &snapshot(5, 9));
    assert!(rates.captured_ops.abs() < 1e-9);
}

#[test]
fn every_metric_has_our_prefix_and_a_unit() {
    let units = ["_total", "_bytes", "_seconds", "_ops"];
    let samples = snapshot(0, 1).samples();
    assert!(samples.iter().any(|s| s.name == names::LAG_SECONDS));
    for sample in samples {
        assert!(sample.name.starts_with("doppelfs_"), "{}", sample.name);
        assert!(
            units.iter().any(|u| sample.name.ends_with(u)),
            "{}",
            sample.name
        );
        assert_eq!(sample.labels[0], ("set", "data".to_owned()));
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn a_meter_tells_the_rate_of_the_last_seconds_only() {
    let mut meter = Meter::<2>::default();
    assert_eq!(meter.rates(5, [1, 1]), [0.0, 0.0], "nothing is known yet");
    let window = RATE_WINDOW.as_secs();
    // 100 in a second for a minute, then nothing.
    for second in 0..=60 {
        meter.note(second * SECOND_NS, [second * 100, 7]);
    }
    let [fast, still] = meter.rates(60 * SECOND_NS, [6000, 7]);
    assert!(
        (fast - 100.0).abs() < 1e-6 && still.abs() < 1e-9,
        "{fast} {still}"
    );
    for second in 61..=60 + 2 * window {
        meter.note(second * SECOND_NS, [6000, 7]);
    }
    let [rate, _] = meter.rates((60 + 2 * window) * SECOND_NS, [6000, 7]);
    assert!(
        rate.abs() < 1e-9,
        "what was long ago does not count: {rate}"
    );
    // Asked between two readings, and after a restart.
    let [rate, _] = meter.rates((60 + 2 * window) * SECOND_NS + SECOND_NS / 2, [7050, 7]);
    assert!((rate - 100.0).abs() < 6.0, "{rate}");
    assert_eq!(meter.rates(100 * SECOND_NS, [0, 0]), [0.0, 0.0]);
}

#[test]
fn a_target_sums_its_streams_up() {
    let stream = |add, failed| StreamNumbers {
        source: "host".to_owned(),
        set: "data".to_owned(),
        counts: StreamSnapshot {
            received: OpCounts {
                add,
                delete: 2,
                rename: 1,
            },
            failed,
            ..StreamSnapshot::default()
        },
        ..StreamNumbers::default()
    };
    let numbers = TargetNumbers {
        streams: vec![stream(5, 0), stream(6, 3)],
        ..TargetNumbers::default()
    };
    assert_eq!(
        numbers.one_line(),
        "Received add=11 del=4 rename=2 failed=3"
    );
    let samples = numbers.samples();
    assert!(
        samples
            .iter()
            .any(|s| s.name == names::APPLY_FAILURES && s.value > 2.0)
    );
    for sample in samples {
        assert_eq!(sample.labels[1], ("set", "data".to_owned()));
    }
}

#[test]
fn percentiles_tell_how_long_most_took() {
    let latency = Latency::default();
    assert_eq!(latency.percentiles(), Percentiles::default());
    for milliseconds in 1..=1000u64 {
        latency.note(milliseconds * 1_000_000);
    }
    let told = latency.percentiles();
    assert_eq!(told.count, 1000);
    for (told, exact) in [(told.p50_seconds, 0.5), (told.p99_seconds, 0.99)] {
        assert!(told >= exact && told <= exact * 1.25, "{told} for {exact}");
    }
    assert!((told.max_seconds - 1.0).abs() < 1e-9);
}

#[test]
fn percentiles_hold_for_the_shortest_and_the_longest() {
    for ns in [0, 1, 65_535, 65_536, 1 << 43, u64::MAX] {
        let latency = Latency::default();
        latency.note(ns);
        let told = latency.percentiles();
        let exact = ns as f64 / 1e9;
        assert!(
            told.p50_seconds <= exact && told.p99_seconds <= exact,
            "{ns}: {told:?}"
        );
        assert!(
            (told.max_seconds - exact).abs() <= exact * 1e-9,
            "{ns}: {told:?}"
        );
    }
}
