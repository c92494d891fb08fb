//! Programs that are run with a deadline.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::scratch;
use super::settings::patience;

/// A program about to be run.
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
    shown: String,
    deadline: Duration,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) shown: String,
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// Is there such a program?
pub(crate) fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin".into(), "/sbin".into()]);
    name.contains('/') && Path::new(name).exists() || dirs.iter().any(|d| d.join(name).exists())
}

/// Any program, with the environment of the test but for cargo's.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Program {
    let name = name.as_ref();
    let mut command = Command::new(name);
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy().into_owned();
        if text.starts_with("CARGO_") && text != "CARGO_HOME" || text == "RUSTFLAGS" {
            command.env_remove(key);
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.env("LC_ALL", "C.UTF-8");
    Program {
        command,
        shown: name.to_string_lossy().into_owned(),
        deadline: patience(),
    }
}

/// The product, with its control sockets in `run_dir`.
pub(crate) fn doppelfs(run_dir: &Path) -> Program {
    program(env!("CARGO_BIN_EXE_doppelfs")).env("DOPPELFS_RUN_DIR", run_dir)
}

impl Program {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Program {
        args.into_iter().fold(self, Program::arg)
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Program {
        self.command.env(key, value);
        self
    }

    pub(crate) fn current_dir(mut self, dir: impl AsRef<Path>) -> Program {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Program {
        self.deadline = deadline;
        self
    }

    /// Starts it in the background; its output goes to `log`.
    pub(crate) fn spawn(mut self, log: &Path) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open a log");
        let twin = log.try_clone().expect("duplicate a descriptor");
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(twin)
            .spawn();
        child.unwrap_or_else(|e| panic!("start {}: {e}", self.shown))
    }

    /// Runs it to its end. Output goes through files, not pipes: a daemon that it leaves behind may
    /// keep them open.
    #[track_caller]
    pub(crate) fn run(mut self) -> Finished {
        let (mut out, mut err) = (nameless_file(), nameless_file());
        let start = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("duplicate a descriptor"))
            .stderr(err.try_clone().expect("duplicate a descriptor"))
            .spawn()
            .unwrap_or_else(|e| panic!("start {}: {e}", self.shown));
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait for a program") {
                break status;
            }
            if start.elapsed() > self.deadline {
                // Not waited for: a process inside a stopped mount cannot even be killed.
                let _ = child.kill();
                let err = text_of(&mut err);
                panic!(
                    "{} did not end within {:?}; it said: {err}",
                    self.shown, self.deadline
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Finished {
            shown: self.shown,
            code: status.code(),
            stdout: text_of(&mut out),
            stderr: text_of(&mut err),
            took: start.elapsed(),
        }
    }

    /// Runs it and expects success.
    #[track_caller]
    pub(crate) fn succeed(self) -> Finished {
        self.run().expect_code(0)
    }
}

impl Finished {
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Finished {
        let Finished {
            shown,
            stdout,
            stderr,
            ..
        } = &self;
        assert_eq!(
            self.code,
            Some(code),
            "{shown}\nstdout: {stdout}\nstderr: {stderr}"
        );
        self
    }

    /// Expects all of `words` in what it said on stderr, whatever the case.
    #[track_caller]
    pub(crate) fn expect_words(self, words: &[&str]) -> Finished {
        let said = self.stderr.to_lowercase();
        for word in words {
            let Finished { shown, stderr, .. } = &self;
            assert!(said.contains(word), "{shown}: no {word:?} in: {stderr}");
        }
        self
    }
}

fn nameless_file() -> File {
    let flags = libc::O_TMPFILE;
    let mut options = File::options();
    options.read(true).write(true);
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    options
        .open(scratch::base())
        .expect("make a file without a name")
}

fn text_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("rewind");
    file.read_to_end(&mut bytes).expect("read output");
    String::from_utf8_lossy(&bytes).into_owned()
}
