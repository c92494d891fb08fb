//! Goal: a database server lives on a protected directory, and its replica is a database. Method:
//! PostgreSQL with checksums works inside a mount, and is stopped or killed; a copy of the replica is
//! started and checked, page by page and by its sums.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    Finished, Fixture, Program, has_programs, is_ready, pgbench_seconds, program, until,
};

/// The newest of the installed versions; says loudly when there is none.
fn find_binaries(test: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut binaries: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, dir)| dir.join("initdb").exists() && dir.join("pg_amcheck").exists())
        .collect();
    binaries.sort();
    let has_user = matches!(nix::unistd::User::from_name("postgres"), Ok(Some(_)));
    let found = binaries.pop().filter(|_| has_user);
    if found.is_none() {
        eprintln!("SKIPPED {test}: no PostgreSQL with pg_amcheck, or no user `postgres`");
    }
    Some(found?.1)
}

/// A server that listens on nothing but a socket in the scratch directory; killed on drop.
struct Server {
    binaries: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
}

impl Server {
    /// A server of the database in `data`; nothing runs yet.
    fn new(binaries: &Path, data: PathBuf, sockets: PathBuf) -> Server {
        std::fs::create_dir(&sockets).expect("mkdir");
        give_away(&sockets);
        Server {
            binaries: binaries.to_path_buf(),
            data,
            sockets,
        }
    }

    /// One of the programs, as the user that it insists on.
    fn program(&self, name: &str) -> Program {
        program("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(self.binaries.join(name))
            .current_dir(&self.sockets)
            .env("PGHOST", &self.sockets)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
    }

    /// Makes an empty database, with checksums of its pages.
    fn init(&self) {
        std::fs::create_dir(&self.data).expect("mkdir");
        give_away(&self.data);
        self.program("initdb")
            .args(["--data-checksums", "--auth=trust", "-D"])
            .arg(&self.data)
            .succeed();
    }

    fn control(&self) -> Program {
        self.program("pg_ctl").arg("-D").arg(&self.data).arg("-w")
    }

    fn start(&self) {
        let options = format!("-k {} -c listen_addresses=''", self.sockets.display());
        let started = self
            .control()
            .args(["-o", &options, "-l"])
            .arg(self.log_file())
            .arg("start")
            .run();
        assert_eq!(started.code, Some(0), "{started:?}\n{}", self.log());
    }

    fn stop(&self) {
        self.control().args(["-m", "fast", "stop"]).succeed();
    }

    fn log_file(&self) -> PathBuf {
        self.sockets.join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// `pgbench` for so many seconds. Without `-n` it would empty the history first.
    fn bench(&self, seconds: u64) -> Program {
        self.program("pgbench")
            .args(["-n", "-c", "4", "-T", &seconds.to_string()])
            .deadline(Duration::from_secs(2 * seconds + 120))
    }

    fn plant_tables(&self) {
        self.program("pgbench")
            .args(["-i", "-s", "2", "-q"])
            .succeed();
    }

    fn ask(&self, query: &str) -> Vec<i64> {
        let said = self
            .program("psql")
            .args(["-X", "-At", "-F", " ", "-c", query]);
        let said = said.succeed().stdout;
        said.split_whitespace()
            .map(|number| number.parse().unwrap_or_else(|_| panic!("{query}: {said}")))
            .collect()
    }

    /// Transactions in the history.
    fn transactions(&self) -> i64 {
        self.ask("select count(*) from pgbench_history")[0]
    }

    /// Reads every page of every table and index.
    fn check(&self) -> Finished {
        self.program("pg_amcheck")
            .args(["--all", "--install-missing", "--heapallindexed"])
            .succeed()
    }

    /// Every transaction adds the same number to an account, a teller, a branch and the history.
    fn assert_sums_equal(&self) {
        let sums = self.ask(
            "select (select sum(abalance) from pgbench_accounts), \
             (select sum(tbalance) from pgbench_tellers), \
             (select sum(bbalance) from pgbench_branches), \
             (select sum(delta) from pgbench_history)",
        );
        assert_eq!(sums.len(), 4, "{sums:?}");
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    }

    /// The first process, from its file, if it is still this server.
    fn find_postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid: i32 = file.lines().next()?.parse().ok()?;
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let is_ours = program == self.binaries.join("postgres") && directory == self.data;
        is_ours.then(|| Pid::from_raw(pid))
    }

    /// Kills all its processes at once; false if none runs.
    fn kill(&self) -> bool {
        let Some(postmaster) = self.find_postmaster() else {
            return false;
        };
        // Stopped, it starts no more processes while the ones it has are looked up.
        kill(postmaster, Signal::SIGSTOP).expect("stop the first process");
        let mut family = children_of(postmaster);
        family.push(postmaster);
        for pid in &family {
            // Some may just have ended.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        until("the server to be gone", || {
            family.iter().all(|pid| has_ended(*pid))
        });
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("server log:\n{}", self.log());
        }
        if self.kill() {
            eprintln!("killed the server of {}", self.data.display());
        }
    }
}

fn give_away(dir: &Path) {
    program("chown").arg("postgres:postgres").arg(dir).succeed();
    program("chmod").arg("700").arg(dir).succeed();
}

/// The letter of its state and the parent, from the part of `/proc/PID/stat` after the name.
fn state_and_parent(pid: i32) -> Option<(String, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").expect("list processes");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| state_and_parent(*pid).is_some_and(|(_, of)| of == parent.as_raw()))
        .map(Pid::from_raw)
        .collect()
}

/// Gone, or waiting for a parent that reads its exit code.
fn has_ended(pid: Pid) -> bool {
    state_and_parent(pid.as_raw()).is_none_or(|(state, _)| state == "Z" || state == "X")
}

/// A fixture, and a server with tables in its mount.
fn server_in_mount(test: &str, label: &str) -> Option<(Fixture, Server)> {
    if !is_ready(test) || !has_programs(test, &["setpriv"]) {
        return None;
    }
    let binaries = find_binaries(test)?;
    let fixture = Fixture::started(label);
    for dir in [fixture.outside(""), fixture.path("")] {
        program("chmod").arg("755").arg(dir).succeed();
    }
    let server = Server::new(&binaries, fixture.path("db"), fixture.outside("sockets"));
    server.init();
    server.start();
    server.plant_tables();
    Some((fixture, server))
}

/// A server of a copy of the replica, started.
fn server_of_copy(fixture: &Fixture, original: &Server) -> Server {
    let data = fixture.outside("copy");
    program("cp")
        .arg("-a")
        .arg(fixture.replica("db"))
        .arg(&data)
        .succeed();
    // As on another machine: the number in it is of no process there, here it may be of any.
    let _ = std::fs::remove_file(data.join("postmaster.pid"));
    let copy = Server::new(&original.binaries, data, fixture.outside("copy-sockets"));
    copy.start();
    copy
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
    let copy = server_of_copy(&fixture, &server);
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
    let log = server.sockets.join("pgbench");
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
    let copy = server_of_copy(&fixture, &server);
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
