//! Goal: a database server lives on a protected directory, and its replica is a database. Method:
//! PostgreSQL with checksums works inside a mount, and is stopped or killed; a copy of the replica is
//! started and checked, page by page and by its sums.

use crate::support::{Fixture, Postgres, pgbench_seconds, until};

fn server_in_mount(test: &str, label: &str) -> Option<(Fixture, Postgres)> {
    if !Postgres::is_ready(test) {
        return None;
    }
    let fixture = Fixture::started(label);
    let server = Postgres::in_mount(&fixture, "");
    Some((fixture, server))
}

#[test]
fn postgres_works_and_its_replica_starts() {
    let test = "postgres_works_and_its_replica_starts";
    let Some((fixture, server)) = server_in_mount(test, "postgres") else {
        return;
    };
    let said = server.bench(pgbench_seconds()).succeed().stdout;
    eprintln!("{said}");
    server.check();
    server.assert_sums_equal();
    let transactions = server.transactions();
    assert!(transactions > 0, "{said}");
    server.stop();
    fixture.assert_equal();
    let copy = server.of_copy(&fixture, "copy");
    copy.check();
    copy.assert_sums_equal();
    assert_eq!(copy.transactions(), transactions);
    copy.stop();
    fixture.finish();
}

#[test]
fn postgres_is_killed_and_its_replica_recovers() {
    let test = "postgres_is_killed_and_its_replica_recovers";
    let Some((fixture, server)) = server_in_mount(test, "postgres-killed") else {
        return;
    };
    let log = fixture.outside("pgbench");
    let mut bench = server.bench(600).spawn(&log);
    let start = std::time::Instant::now();
    let mut committed = 0;
    until("transactions of some seconds", || {
        committed = server.transactions();
        committed > 200 && start.elapsed().as_secs() >= pgbench_seconds()
    });
    assert!(server.kill(), "no server runs: {}", server.log());
    let mut ended = None;
    until("pgbench to see that the server is gone", || {
        ended = bench.try_wait().expect("wait for pgbench");
        ended.is_some()
    });
    assert!(
        !ended.is_some_and(|status| status.success()),
        "it had ended"
    );
    fixture.assert_equal();
    let copy = server.of_copy(&fixture, "copy");
    let said = copy.log();
    assert!(said.contains("automatic recovery in progress"), "{said}");
    copy.check();
    copy.assert_sums_equal();
    let survived = copy.transactions();
    eprintln!("{committed} transactions seen before the kill, {survived} after the recovery");
    assert!(
        survived >= committed,
        "{survived} of {committed} transactions"
    );
    copy.stop();
    fixture.finish();
}
