//! A target under test.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::command::{Program, doppelfs, program};
use super::until::until;

/// How long a target may take to end after SIGTERM.
const END_MAX: Duration = Duration::from_secs(20);

/// Where a target is and what it serves.
#[derive(Debug)]
pub(crate) struct Target {
    run_dir: PathBuf,
    root: PathBuf,
    state: PathBuf,
    log: PathBuf,
    port: u16,
    /// What the command is started by, where it is not started directly.
    prefix: Vec<String>,
    child: Option<Child>,
}

/// A port that nobody listens on now, nor is given to a connection before somebody does.
pub(crate) fn free_port() -> u16 {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let range = std::fs::read_to_string(RANGE).unwrap_or_default();
    let lowest = range.split_whitespace().next();
    let lowest: u16 = lowest.and_then(|port| port.parse().ok()).unwrap_or(32_768);
    let ports = (0..1000).map(|_| rand::random_range(1024..lowest.max(2048)));
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.into_iter().find(free).expect("a free port")
}

impl Target {
    /// A target that is not started yet; its root and state lie in `base`.
    pub(crate) fn new(run_dir: &Path, base: &Path) -> Target {
        let root = base.join("replicas");
        std::fs::create_dir_all(&root).expect("make the target's root");
        Target {
            run_dir: run_dir.to_path_buf(),
            root,
            state: base.join("target-state"),
            // Not in `base`, which a test may take away.
            log: run_dir.join("target.log"),
            port: free_port(),
            prefix: Vec::new(),
            child: None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Starts the next ones by this command, which runs what follows its arguments.
    pub(crate) fn set_prefix(&mut self, prefix: &[&str]) {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The command that serves.
    pub(crate) fn command(&self) -> Program {
        let listen = format!("127.0.0.1:{}", self.port);
        let command = match self.prefix.split_first() {
            Some((first, rest)) => program(first)
                .args(rest)
                .arg(env!("CARGO_BIN_EXE_doppelfs"))
                .env("DOPPELFS_RUN_DIR", &self.run_dir),
            None => doppelfs(&self.run_dir),
        };
        command
            .args(["target", "serve", "--insecure-loopback", "--listen"])
            .arg(listen)
            .arg("--root")
            .arg(&self.root)
            .arg("--state")
            .arg(&self.state)
    }

    /// Starts it.
    pub(crate) fn start_unwatched(&mut self) {
        assert!(self.child.is_none(), "the target runs already");
        self.child = Some(self.command().spawn(&self.log));
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_unwatched();
        until("the target to serve", || {
            let child = self.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("look at the target") {
                panic!("the target ended with {status}: {}", self.log());
            }
            self.answers()
        });
    }

    fn answers(&self) -> bool {
        let status = doppelfs(&self.run_dir).args(["status", "--json"]).run();
        let all: Value = serde_json::from_str(&status.stdout).unwrap_or(Value::Null);
        let port = format!(":{}", self.port);
        let targets = all
            .get("targets")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        targets.iter().any(|target| {
            let listen = target
                .get("listen")
                .and_then(Value::as_str)
                .unwrap_or_default();
            listen.ends_with(&port)
        })
    }

    /// Is its process alive?
    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_ok_and(|s| s.is_none()))
    }

    /// Ends it in order (SIGTERM).
    pub(crate) fn stop(&mut self) {
        if let Some(code) = self.end(Signal::SIGTERM) {
            assert_eq!(
                code,
                0,
                "the target's exit code after SIGTERM: {}",
                self.log()
            );
        }
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.child.take()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let start = Instant::now();
        let _ = kill(pid, signal);
        loop {
            if let Some(status) = child.try_wait().expect("wait for the target") {
                return status.code();
            }
            if start.elapsed() > END_MAX {
                let _ = child.kill();
                let _ = child.wait();
                assert!(
                    std::thread::panicking(),
                    "the target did not end within {END_MAX:?} after {signal}"
                );
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
