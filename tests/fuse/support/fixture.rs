//! A source, a target and the link between them, all in one scratch directory.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use doppelfs::digest::{self, Options, Report};
use doppelfs::sys;
use serde_json::Value;

use super::command::{Finished, Program, doppelfs, program};
use super::proxy::Proxy;
use super::scratch::Scratch;
use super::settings::patience;
use super::status::{Connection, SetView, StreamView};
use super::target::Target;
use super::until::until;

/// The only set of a fixture.
const SET: &str = "data";

/// Where the replica lies below the target's root.
const REPLICA: &str = "mirror";

/// One protected directory that is mounted over itself, one target, one link.
#[derive(Debug)]
pub(crate) struct Fixture {
    run_dir: PathBuf,
    data: PathBuf,
    state: PathBuf,
    mount_flags: Vec<String>,
    /// What the mount's command is started by, where it is not started directly.
    mount_prefix: Vec<String>,
    has_target: bool,
    is_paired: bool,
    pub(crate) proxy: Proxy,
    pub(crate) target: Target,
    watchdog: Option<mpsc::Sender<()>>,
    scratch: Scratch,
}

impl Fixture {
    /// Directories and ports; nothing runs yet.
    pub(crate) fn new(label: &str) -> Fixture {
        Fixture::at(label, None, None)
    }

    /// As [`Fixture::new`], with data and state of the source, or root and state of the target, on
    /// other file systems.
    pub(crate) fn apart(label: &str, source: Option<&Path>, target: Option<&Path>) -> Fixture {
        let mut fixture = Fixture::at(label, source, target);
        if let Some(source) = source {
            fixture.state = source.join("source-state");
        }
        fixture
    }

    /// As [`Fixture::new`], with the data, and nothing else, on another file system.
    pub(crate) fn with_data_on(label: &str, file_system: &Path) -> Fixture {
        Fixture::at(label, Some(file_system), None)
    }

    /// As [`Fixture::new`], with the source's state, and nothing else, on another file system.
    pub(crate) fn with_state_on(label: &str, file_system: &Path) -> Fixture {
        let mut fixture = Fixture::at(label, None, None);
        fixture.state = file_system.join("source-state");
        fixture
    }

    /// As [`Fixture::new`], protecting a directory that exists: the root of a file system.
    pub(crate) fn over(label: &str, data: &Path) -> Fixture {
        let mut fixture = Fixture::at(label, None, None);
        std::fs::remove_dir(&fixture.data).expect("remove the directory that is not used");
        fixture.watchdog = Some(watch(label, data));
        fixture.data = data.to_path_buf();
        fixture
    }

    /// As [`Fixture::new`], with data and replicas on another file system.
    pub(crate) fn on(label: &str, file_system: &Path) -> Fixture {
        Fixture::at(label, Some(file_system), Some(file_system))
    }

    fn at(label: &str, source: Option<&Path>, target: Option<&Path>) -> Fixture {
        let scratch = Scratch::new(label);
        let base = source.unwrap_or(scratch.path()).to_path_buf();
        let run_dir = scratch.path().join("run");
        let data = base.join("data");
        std::fs::create_dir(&data).expect("make a directory");
        let mut private = std::fs::DirBuilder::new();
        private
            .mode(0o700)
            .create(&run_dir)
            .expect("make a directory");
        let target = Target::new(&run_dir, target.unwrap_or(scratch.path()));
        let proxy = Proxy::new(target.port());
        Fixture {
            watchdog: Some(watch(label, &data)),
            state: scratch.path().join("source-state"),
            run_dir,
            data,
            mount_flags: Vec::new(),
            mount_prefix: Vec::new(),
            has_target: true,
            is_paired: false,
            proxy,
            target,
            scratch,
        }
    }

    /// Everything runs, the first mirror is done.
    pub(crate) fn started(label: &str) -> Fixture {
        let mut fixture = Fixture::new(label);
        fixture.start();
        fixture
    }

    pub(crate) fn start(&mut self) {
        self.target.start();
        self.pair();
        self.mount();
        self.caught_up();
    }

    /// Pairs source and target, which has to run: the next mounts speak TLS. Without it they speak plain TCP.
    pub(crate) fn pair(&mut self) {
        let token = self
            .doppelfs()
            .args(["target", "invite", "--path", REPLICA])
            .succeed();
        self.doppelfs()
            .args(["pair", &self.endpoint(), token.stdout.trim(), "--keys"])
            .arg(self.keys_dir())
            .succeed();
        self.is_paired = true;
    }

    /// The test itself has paired them.
    pub(crate) fn set_paired(&mut self) {
        self.is_paired = true;
    }

    /// Where the source reaches the target.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// The source's key and pairings.
    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.scratch.path().join("keys")
    }

    /// More flags for the next mounts.
    pub(crate) fn with_flags(mut self, flags: &[&str]) -> Fixture {
        self.mount_flags
            .extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Mounts without a target.
    pub(crate) fn without_target(mut self) -> Fixture {
        self.has_target = false;
        self
    }

    /// Starts the next mounts by this command, which runs what follows its arguments.
    pub(crate) fn with_prefix(mut self, prefix: &[&str]) -> Fixture {
        self.mount_prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// A path in the protected directory, through the mount while there is one.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.data.join(name)
    }

    /// A path in the replica.
    pub(crate) fn replica(&self, name: impl AsRef<Path>) -> PathBuf {
        self.target.root().join(REPLICA).join(name)
    }

    /// A path in the scratch directory, outside of data and replica.
    pub(crate) fn outside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The product's command line with this fixture's sockets.
    pub(crate) fn doppelfs(&self) -> Program {
        if let Some(watchdog) = &self.watchdog {
            // Nobody listens any more only when the watchdog has struck already.
            let _ = watchdog.send(());
        }
        doppelfs(&self.run_dir)
    }

    /// The command that mounts.
    pub(crate) fn mount_command(&self) -> Program {
        let target = format!("127.0.0.1:{}:{REPLICA}", self.proxy.port());
        let command = match self.mount_prefix.split_first() {
            Some((first, rest)) => program(first)
                .args(rest)
                .arg(env!("CARGO_BIN_EXE_doppelfs"))
                .env("DOPPELFS_RUN_DIR", &self.run_dir),
            None => self.doppelfs(),
        };
        let command = command.arg("mount").arg(&self.data);
        let command = command.args(["--set", SET, "--state"]).arg(&self.state);
        let command = command.args(&self.mount_flags);
        if self.has_target {
            let command = command.args(["--target", &target]);
            match self.is_paired {
                true => command.arg("--keys").arg(self.keys_dir()),
                false => command.arg("--insecure-loopback"),
            }
        } else {
            command
        }
    }

    /// Mounts; returns when the file system serves.
    pub(crate) fn mount(&self) -> Finished {
        let mounted = self.mount_command().succeed();
        assert!(self.is_mounted(), "mount succeeded but nothing is mounted");
        mounted
    }

    /// Kills supervisor and worker, as the loss of power does, and takes the dead mount away.
    pub(crate) fn lose_source(&self) {
        // The supervisor first: it would start another worker, or has just done so.
        let told = self.supervision().expect("a supervisor");
        let pid = told.get("pid").and_then(Value::as_u64);
        kill_worker(pid.expect("its process"));
        // What they hold is free when they are.
        until("the processes to be gone", || {
            let pids = self.processes();
            pids.iter().for_each(|&pid| kill_worker(pid));
            pids.is_empty()
        });
        until("the mount to be gone", || {
            !self.is_mounted() || sys::umount(&self.data, true).is_err()
        });
        assert!(!self.is_mounted(), "the dead mount cannot be unmounted");
    }

    /// Supervisor and workers of the set.
    fn processes(&self) -> Vec<u64> {
        let names = std::fs::read_dir("/proc").expect("list /proc").flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let run_dir = self.run_dir.as_os_str().as_encoded_bytes();
        let is_ours = |pid: &u64| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split(|&byte| byte == 0);
            is_worker(*pid)
                && words.any(|word| word == b"mount")
                && words.any(|word| word == run_dir)
        };
        pids.filter(is_ours).collect()
    }

    /// Unmounts in order, as soon as nobody uses it: a program that another test starts holds what this process
    /// has open until it has become that program.
    pub(crate) fn umount(&self) {
        const BUSY: i32 = 2;
        let umount = || self.doppelfs().arg("umount").arg(&self.data).run();
        let mut last = umount();
        until("the mount to be free", || {
            let is_busy = last.code == Some(BUSY) && last.stderr.contains("is in use");
            if is_busy {
                last = umount();
            }
            !is_busy
        });
        last.expect_code(0);
        assert!(
            !self.is_mounted(),
            "umount succeeded but something is mounted"
        );
        assert_none_aborted(&self.state.join("log"));
    }

    pub(crate) fn is_mounted(&self) -> bool {
        is_mounted(&self.data)
    }

    /// All that `status --json` says.
    pub(crate) fn status(&self) -> Value {
        let status = self.doppelfs().args(["status", "--json"]).run();
        serde_json::from_str(&status.stdout).unwrap_or_else(|e| panic!("{e} in {status:?}"))
    }

    /// What the supervisor tells about itself, when there is one.
    pub(crate) fn supervision(&self) -> Option<Value> {
        let text = std::fs::read(self.run_dir.join(format!("{SET}.supervisor"))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The set, when it answers.
    pub(crate) fn find_set(&self) -> Option<SetView> {
        let status = self.status();
        let sets = status.get("sets")?.as_array()?;
        let set = sets
            .iter()
            .find(|set| set.get("name").is_some_and(|name| name == SET))?;
        Some(SetView(set.clone()))
    }

    /// What the set has captured by now; `None` when nobody can tell, as while the source dies.
    pub(crate) fn find_captured_seq(&self) -> Option<u64> {
        let status = self.doppelfs().args(["status", "--json"]).run();
        let status: Value = serde_json::from_str(&status.stdout).ok()?;
        let captured = status.pointer("/sets/0/captured_seq")?.as_u64()?;
        // All numbers of a set that does not answer are 0.
        (captured > 0).then_some(captured)
    }

    #[track_caller]
    pub(crate) fn set(&self) -> SetView {
        self.find_set()
            .unwrap_or_else(|| panic!("no set in {}", self.status()))
    }

    #[track_caller]
    pub(crate) fn connection(&self) -> Connection {
        self.set().connection()
    }

    /// The target's own view of the stream, when there is one.
    pub(crate) fn find_stream(&self) -> Option<StreamView> {
        let status = self.status();
        Some(StreamView(status.pointer("/targets/0/streams/0")?.clone()))
    }

    /// `wait --caught-up` with this timeout; its exit code.
    pub(crate) fn wait(&self, timeout: Duration) -> Finished {
        let seconds = timeout.as_secs().to_string();
        self.doppelfs()
            .args(["wait", SET, "--caught-up", "--timeout", &seconds])
            .deadline(timeout + Duration::from_secs(30))
            .run()
    }

    /// Waits until the replica has everything.
    #[track_caller]
    pub(crate) fn caught_up(&self) {
        let waited = self.wait(patience());
        let (status, log) = (self.status(), self.target.log());
        assert_eq!(waited.code, Some(0), "{waited:?}\n{status}\ntarget: {log}");
    }

    /// Waits until the target stands still after a cut of the link: no connection, and everything
    /// received is applied or held, at two looks in a row.
    pub(crate) fn stands_still(&self) {
        let mut before = None;
        until("the applier to stand still", || {
            let Some(stream) = self.find_stream() else {
                return false;
            };
            let (received, applied) = stream.positions();
            let stands = received == applied || stream.is_staged();
            let now = (!stream.is_connected() && stands).then_some(applied);
            let still = now.is_some() && now == before;
            before = now;
            still
        });
    }

    /// Source (as mounted) against replica.
    pub(crate) fn report(&self) -> Report {
        let compared = digest::compare(&self.data, &self.replica(""), &Options::default());
        compared.unwrap_or_else(|e| panic!("compare: {:?}", anyhow::Error::from(e)))
    }

    /// The source's side was mounted anew: nothing had to be mirrored. Not so where somebody on this host
    /// has a way beside the mount - any process in a mount namespace of its own -, since what is changed
    /// by that way is looked for, rightly.
    #[track_caller]
    pub(crate) fn assert_nothing_mirrored(&self) {
        let connection = self.connection();
        let beside = self.set().warnings();
        let is_reached = beside
            .iter()
            .any(|warning| warning.contains("beside the mount"));
        if is_reached && connection.mirror_bytes() > 0 {
            eprintln!("mirrored, as somebody can change files beside the mount: {beside:?}");
        } else {
            assert_eq!(connection.mirror_bytes(), 0, "mirrored: {connection:?}");
        }
    }

    /// Waits for the replica and compares.
    #[track_caller]
    pub(crate) fn assert_equal(&self) -> Report {
        self.caught_up();
        let report = self.report();
        assert!(report.is_equal(), "{report}\n{}", self.status());
        report
    }

    /// The usual end: equal through the mount, then unmounted, then equal again without it.
    #[track_caller]
    pub(crate) fn finish(self) -> Report {
        self.assert_equal();
        self.umount();
        let report = self.report();
        assert!(report.is_equal(), "below the mount: {report}");
        report
    }

    /// Records captured by `change`, nobody else writing.
    pub(crate) fn captured_by(&self, change: impl FnOnce()) -> u64 {
        let before = self.set().captured_seq();
        change();
        self.set().captured_seq() - before
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target log:\n{}", self.target.log());
            print_logs(&self.state.join("log"));
            let space = program("df").args(["-h", "/var/tmp"]).run();
            eprintln!("{}{}", space.stdout, space.stderr);
        }
        if self.is_mounted() {
            let pids = self.find_set().map(|set| set.pids()).unwrap_or_default();
            // A link that is cut must not keep the mount.
            self.proxy.mend();
            let umounted = self.doppelfs().arg("umount").arg(&self.data);
            let umounted = umounted.deadline(Duration::from_secs(30));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| umounted.run()));
            if self.is_mounted() {
                eprintln!("umount failed ({ended:?}), lazy umount");
                for pid in pids {
                    kill_worker(pid);
                }
                while self.is_mounted() && sys::umount(&self.data, true).is_ok() {}
            }
        }
        drop(self.watchdog.take());
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = sys::read_mounts().expect("read the mount table");
    mounts
        .iter()
        .any(|mount| mount.mountpoint == path && mount.fs_type == "fuse.doppelfs")
}

/// A worker that dies of itself, also while it ends, is followed by another one and easily overlooked.
fn assert_none_aborted(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let text = std::fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("fatal runtime error"), "{text}");
    }
}

fn print_logs(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") {
            let text = std::fs::read(&path).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(8 << 10)..];
            eprintln!("{}:\n{}", path.display(), String::from_utf8_lossy(tail));
        }
    }
}

/// Kills a process, if it still is the product.
fn is_worker(pid: u64) -> bool {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe == Path::new(env!("CARGO_BIN_EXE_doppelfs"))
}

pub(crate) fn kill_worker(pid: u64) {
    if is_worker(pid) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Frees tests that hang inside a mount that answers no more: when the test has not used the command
/// line for many times the patience, the FUSE connection is aborted. Ends with the sender.
fn watch(label: &str, data: &Path) -> mpsc::Sender<()> {
    let (alive, signs) = mpsc::channel();
    let (label, data) = (label.to_owned(), data.to_path_buf());
    std::thread::spawn(move || {
        loop {
            match signs.recv_timeout(patience() * 8) {
                Ok(()) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("{label}: hangs, its mount is aborted");
                    return abort_connection(&data);
                }
            }
        }
    });
    alive
}

/// Aborts the FUSE connection of the mount at `data` (its device's minor number is its name).
fn abort_connection(data: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = data.to_string_lossy();
    for line in table
        .lines()
        .filter(|l| l.contains(" - fuse") && l.contains(&*path))
    {
        let device = line.split(' ').nth(2).unwrap_or_default();
        let minor = device.split(':').nth(1).unwrap_or_default();
        let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    }
}
