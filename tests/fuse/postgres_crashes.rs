//! Goal: at whatever moment the source or the link is lost, what the replica then holds is a database
//! with every transaction that had come that far. Method: a client notes for each acknowledged commit how
//! much was captured by then; after the fault a copy of the replica, as it stands, is started, recovers,
//! is checked page by page, and must hold every commit whose number the target had applied.
//! `DOPPELFS_ROUNDS` says how often, `DOPPELFS_PGBENCH_SECONDS` how long each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{
    Fixture, Image, Postgres, database_crashes, has_programs, pgbench_seconds, program, seed, until,
};

/// Checkpoints, and log files used again, within seconds.
const CONFIGURATION: &str = "max_wal_size = 32MB\nmin_wal_size = 32MB\ncheckpoint_timeout = 30s\n";

/// Fewer acknowledged commits than these prove nothing.
const COMMITS_MIN: usize = 20;

const IMAGE_MIB: u64 = 1024;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    SourceDies,
    PowerFails,
    LinkIsCut,
}

/// An acknowledged transaction.
#[derive(Clone, Copy)]
struct Commit {
    number: i64,
    /// Captured when it was acknowledged; `None`: nobody could tell any more.
    captured_seq: Option<u64>,
}

/// What the client was told so far; it ends with the server, or when the test says so.
struct Noting {
    commits: Arc<Mutex<Vec<Commit>>>,
    is_over: Arc<AtomicBool>,
}

impl Noting {
    fn count(&self) -> usize {
        self.commits.lock().expect("the client").len()
    }
}

/// Inserts numbers from `first` on, each in a transaction of its own, and notes what is acknowledged.
fn insert(fixture: &Fixture, server: &Postgres, first: i64, noting: &Noting) {
    let mut client = server.client();
    for number in first.. {
        let insert = format!("insert into numbered values ({number}) returning n;");
        if noting.is_over.load(Ordering::Relaxed) || client.ask(&insert) != Some(number.to_string())
        {
            return;
        }
        let captured_seq = fixture.find_captured_seq();
        let commit = Commit {
            number,
            captured_seq,
        };
        noting.commits.lock().expect("a look").push(commit);
    }
}

/// The numbers that a database holds.
fn numbers(server: &Postgres) -> Vec<i64> {
    server.ask("select n from numbered order by n")
}

#[track_caller]
fn assert_holds(held: &[i64], commits: impl Iterator<Item = i64>, what: &str) -> usize {
    let mut count = 0;
    for number in commits {
        assert!(
            held.binary_search(&number).is_ok(),
            "{what}: transaction {number} is lost, the last of {} is {:?}",
            held.len(),
            held.last()
        );
        count += 1;
    }
    count
}

/// Source or link are lost; returns when the target stands still. The link has become silent a moment
/// before, so that some of what was acknowledged has not arrived.
fn strike(fixture: &Fixture, image: Option<&Image>, fault: Fault, random: &mut StdRng) {
    fixture.proxy.stall();
    some_time(random, 500);
    match fault {
        Fault::LinkIsCut => {}
        Fault::SourceDies => fixture.lose_source(),
        Fault::PowerFails => {
            image.expect("an image").cut();
            some_time(random, 100);
            fixture.lose_source();
        }
    }
    fixture.proxy.cut();
    fixture.stands_still();
}

/// Everything goes on as before.
fn come_back(fixture: &Fixture, image: Option<&Image>, server: &Postgres, fault: Fault) {
    fixture.proxy.mend();
    if fault == Fault::LinkIsCut {
        return;
    }
    if fault == Fault::PowerFails {
        image.expect("an image").come_back();
    }
    fixture.mount();
    server.start_elsewhere();
}

/// Not a synchronisation: the moment is to be a random one.
fn some_time(random: &mut StdRng, ms_max: u64) {
    std::thread::sleep(Duration::from_micros(random.random_range(0..ms_max * 1000)));
}

/// One fault under load; what is acknowledged, and how much of it had to be and was in the copy.
struct Round<'a> {
    fixture: &'a Fixture,
    image: Option<&'a Image>,
    server: &'a Postgres,
    fault: Fault,
}

impl Round<'_> {
    fn run(&self, round: u64, random: &mut StdRng, all: &mut Vec<Commit>) -> [usize; 3] {
        let Round {
            fixture, server, ..
        } = self;
        fixture.caught_up();
        let first = all.last().map_or(0, |commit| commit.number + 1);
        let mut bench = server.bench(600).spawn(&fixture.outside("pgbench"));
        let postmaster = server.find_postmaster().expect("a server");
        let noting = Noting {
            commits: Arc::default(),
            is_over: Arc::default(),
        };
        let applied = std::thread::scope(|scope| {
            scope.spawn(|| insert(fixture, server, first, &noting));
            let start = Instant::now();
            until("commits of some seconds", || {
                noting.count() >= COMMITS_MIN && start.elapsed().as_secs() >= pgbench_seconds()
            });
            some_time(random, 1000);
            strike(fixture, self.image, self.fault, random);
            let stream = fixture.find_stream().expect("a stream");
            if self.fault != Fault::LinkIsCut {
                Postgres::kill_family(postmaster);
            }
            noting.is_over.store(true, Ordering::Relaxed);
            stream.positions().1
        });
        let copy = server.of_copy(fixture, &format!("copy-{round}"));
        let said = copy.log();
        assert!(said.contains("automatic recovery in progress"), "{said}");
        copy.check();
        copy.assert_sums_equal();
        let held = numbers(&copy);
        copy.stop();
        let before = all.iter().map(|commit| commit.number);
        assert_holds(&held, before, "acknowledged before this round");
        let commits = noting.commits.lock().expect("the client").clone();
        let told = commits.iter().filter_map(|commit| commit.captured_seq);
        assert!(told.is_sorted(), "what was captured went back");
        let is_due = |commit: &&Commit| commit.captured_seq.is_some_and(|seq| seq <= applied);
        let due = commits.iter().filter(is_due).map(|commit| commit.number);
        let due = assert_holds(&held, due, &format!("applied {applied}"));
        assert!(due > 0, "nothing was applied that a client was told of");

        let _ = bench.kill();
        let _ = bench.wait();
        come_back(fixture, self.image, server, self.fault);
        // The source has kept what it acknowledged, too.
        all.extend(&commits);
        let numbers_now = numbers(server);
        let acknowledged = all.iter().map(|commit| commit.number);
        assert_holds(&numbers_now, acknowledged, "the source");
        // One may have been done whose acknowledgement was lost.
        if let Some(&number) = numbers_now.last() {
            all.push(Commit {
                number,
                captured_seq: None,
            });
        }
        let of_this = held.iter().filter(|number| **number >= first);
        [commits.len(), due, of_this.count()]
    }
}

fn replica_recovers(test: &str, fault: Fault) {
    if !Postgres::is_ready(test) {
        return;
    }
    let image = if fault == Fault::PowerFails {
        let image = has_programs(test, &["xfs_io"]).then(|| Image::new(test, "ext4", IMAGE_MIB));
        let Some(Some(image)) = image else { return };
        Some(image)
    } else {
        None
    };
    let mut random = StdRng::seed_from_u64(seed(test));
    let mut fixture = Fixture::apart(test, image.as_ref().map(Image::path), None);
    fixture.start();
    let server = Postgres::in_mount(&fixture, CONFIGURATION);
    server.ask("create table numbered (n bigint primary key)");
    let mut all = Vec::new();
    let mut total = [0; 3];
    for round in 0..database_crashes() {
        let this = Round {
            fixture: &fixture,
            image: image.as_ref(),
            server: &server,
            fault,
        };
        let counts = this.run(round, &mut random, &mut all);
        total = std::array::from_fn(|index| total[index] + counts[index]);
        let copy = fixture.outside(format!("copy-{round}"));
        program("rm").arg("-rf").arg(copy).succeed();
    }
    let transactions = server.transactions();
    server.stop();
    let report = fixture.finish();
    let [acknowledged, due, held] = total;
    eprintln!(
        "{test}: {} rounds, {transactions} transactions of pgbench, {acknowledged} commits acknowledged, \
         {due} of them applied by their numbers, {held} held by the copies, 0 lost; {report}",
        database_crashes()
    );
}

#[test]
fn a_replica_is_a_database_after_the_source_died() {
    let test = "a_replica_is_a_database_after_the_source_died";
    replica_recovers(test, Fault::SourceDies);
}

#[test]
fn a_replica_is_a_database_after_the_source_lost_power() {
    let test = "a_replica_is_a_database_after_the_source_lost_power";
    replica_recovers(test, Fault::PowerFails);
}

#[test]
fn a_replica_is_a_database_after_the_link_was_cut() {
    let test = "a_replica_is_a_database_after_the_link_was_cut";
    replica_recovers(test, Fault::LinkIsCut);
}
