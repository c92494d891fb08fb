//! PostgreSQL: a server whose database lies in a directory that is given.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{Finished, Program, program};
use super::fixture::Fixture;
use super::scratch::Scratch;
use super::until::until;
use super::{has_programs, is_ready};

/// The newest of the installed versions.
fn find_binaries() -> Option<PathBuf> {
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
    Some(binaries.pop()?.1)
}

/// A server that listens on nothing but a socket in the scratch directory; killed on drop.
pub(crate) struct Postgres {
    binaries: PathBuf,
    data: PathBuf,
    /// Of its own: a socket's path has 107 bytes at most.
    sockets: Scratch,
}

impl Postgres {
    /// Can it run here? Says loudly when not.
    pub(crate) fn is_ready(test: &str) -> bool {
        if !is_ready(test) || !has_programs(test, &["setpriv"]) {
            return false;
        }
        let has_user = matches!(nix::unistd::User::from_name("postgres"), Ok(Some(_)));
        let is_there = has_user && find_binaries().is_some();
        if !is_there {
            eprintln!("SKIPPED {test}: no PostgreSQL with pg_amcheck, or no user `postgres`");
        }
        is_there
    }

    /// A server with tables in a fixture's mount, started. These lines are added to its configuration.
    pub(crate) fn in_mount(fixture: &Fixture, configuration: &str) -> Postgres {
        for dir in [fixture.outside(""), fixture.path("")] {
            program("chmod").arg("755").arg(dir).succeed();
        }
        let binaries = find_binaries().expect("PostgreSQL");
        let server = Postgres::new(&binaries, fixture.path("db"));
        server.init();
        let file = File::options()
            .append(true)
            .open(server.data.join("postgresql.conf"));
        let mut file = file.expect("open the configuration");
        file.write_all(configuration.as_bytes()).expect("append");
        file.sync_all().expect("sync");
        server.start();
        server.plant_tables();
        server
    }

    /// A server of a copy of the replica, as it stands now, started: it recovers what is to be recovered.
    pub(crate) fn of_copy(&self, fixture: &Fixture, name: &str) -> Postgres {
        let data = fixture.outside(name);
        let copy = program("cp").arg("-a").arg(fixture.replica("db"));
        copy.arg(&data).succeed();
        let copy = Postgres::new(&self.binaries, data);
        copy.start_elsewhere();
        copy
    }

    /// Starts it as on another machine, or after a boot: the number in its files is of no process there,
    /// here it may be of any.
    pub(crate) fn start_elsewhere(&self) {
        let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
        let _ = std::fs::remove_file(self.sockets.path().join(".s.PGSQL.5432.lock"));
        self.start();
    }

    /// A server of the database in `data`; nothing runs yet.
    fn new(binaries: &Path, data: PathBuf) -> Postgres {
        let sockets = Scratch::new("pg");
        give_away(sockets.path());
        Postgres {
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
            .current_dir(self.sockets.path())
            .env("PGHOST", self.sockets.path())
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
        let options = format!(
            "-k {} -c listen_addresses=''",
            self.sockets.path().display()
        );
        let started = self
            .control()
            .args(["-o", &options, "-l"])
            .arg(self.log_file())
            .arg("start")
            .run();
        assert_eq!(started.code, Some(0), "{started:?}\n{}", self.log());
    }

    pub(crate) fn stop(&self) {
        self.control().args(["-m", "fast", "stop"]).succeed();
    }

    fn log_file(&self) -> PathBuf {
        self.sockets.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// `pgbench` for so many seconds. Without `-n` it would empty the history first.
    pub(crate) fn bench(&self, seconds: u64) -> Program {
        self.program("pgbench")
            .args(["-n", "-c", "4", "-T", &seconds.to_string()])
            .deadline(Duration::from_secs(2 * seconds + 120))
    }

    fn plant_tables(&self) {
        self.program("pgbench")
            .args(["-i", "-s", "2", "-q"])
            .succeed();
    }

    pub(crate) fn ask(&self, query: &str) -> Vec<i64> {
        let said = self
            .program("psql")
            .args(["-X", "-q", "-At", "-F", " ", "-c", query]);
        let said = said.succeed().stdout;
        said.split_whitespace()
            .map(|number| number.parse().unwrap_or_else(|_| panic!("{query}: {said}")))
            .collect()
    }

    /// Transactions in the history.
    pub(crate) fn transactions(&self) -> i64 {
        self.ask("select count(*) from pgbench_history")[0]
    }

    /// Reads every page of every table and index.
    pub(crate) fn check(&self) -> Finished {
        self.program("pg_amcheck")
            .args(["--all", "--install-missing", "--heapallindexed"])
            .succeed()
    }

    /// Every transaction adds the same number to an account, a teller, a branch and the history.
    pub(crate) fn assert_sums_equal(&self) {
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
    pub(crate) fn find_postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid: i32 = file.lines().next()?.parse().ok()?;
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let is_ours = program == self.binaries.join("postgres") && directory == self.data;
        is_ours.then(|| Pid::from_raw(pid))
    }

    /// Kills all its processes at once; false if none runs.
    pub(crate) fn kill(&self) -> bool {
        let postmaster = self.find_postmaster();
        if let Some(postmaster) = postmaster {
            Postgres::kill_family(postmaster);
        }
        postmaster.is_some()
    }

    /// As [`Postgres::kill`], where the database cannot be read: of its first process, which may be dead.
    pub(crate) fn kill_family(postmaster: Pid) {
        // Stopped, it starts no more processes while the ones it has are looked up.
        let _ = kill(postmaster, Signal::SIGSTOP);
        let mut family = children_of(postmaster);
        family.push(postmaster);
        for pid in &family {
            // Some may just have ended.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        until("the server to be gone", || {
            family.iter().all(|pid| has_ended(*pid))
        });
    }

    /// A client that has commands read line by line, and answers each.
    pub(crate) fn client(&self) -> Client {
        let mut child = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(self.binaries.join("psql"))
            .args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"])
            .current_dir(self.sockets.path())
            .env("PGHOST", self.sockets.path())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start psql");
        let commands = child.stdin.take().expect("its standard input");
        let answers = BufReader::new(child.stdout.take().expect("its standard output"));
        Client {
            child,
            commands,
            answers,
        }
    }
}

/// A session of psql(1), killed on drop.
pub(crate) struct Client {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// The one line that a command answers; `None` once the server is gone or has refused one.
    pub(crate) fn ask(&mut self, command: &str) -> Option<String> {
        writeln!(self.commands, "{command}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        line.strip_suffix('\n').map(str::to_owned)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
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
