//! Goal: the process that `doppelfs target serve` really is, in every thread, has what its status says.
//! Method: the program itself, looked at from outside.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use doppelfs::confine::KEPT;
use doppelfs::sys;
use serde_json::Value;

use crate::confine_child::{child, is_ready, kept_here, scratch};
use crate::scratch::Scratch;

/// A target that serves.
pub struct Serving {
    child: Child,
    output: BufReader<ChildStdout>,
    run_dir: PathBuf,
}

fn command(scratch: &Scratch, confine: Option<&str>) -> Command {
    let dir = |name: &str| {
        let dir = scratch.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_doppelfs"));
    command
        .args([
            "target",
            "serve",
            "--insecure-loopback",
            "--listen",
            "127.0.0.1:0",
        ])
        .arg("--root")
        .arg(dir("root"))
        .arg("--state")
        .arg(dir("state"))
        .env("DOPPELFS_RUN_DIR", dir("run"))
        .args(confine.map(|wish| format!("--confine={wish}")))
        .stdin(Stdio::null());
    command
}

impl Serving {
    pub fn start(scratch: &Scratch, confine: Option<&str>) -> Serving {
        Serving::hear(scratch, &mut command(scratch, confine))
    }

    /// Starts it and waits for its word.
    fn hear(scratch: &Scratch, command: &mut Command) -> Serving {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving on") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended");
        }
        Serving {
            child,
            output,
            run_dir: scratch.path().join("run"),
        }
    }

    fn status(&self, words: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_doppelfs"))
            .arg("status")
            .args(words)
            .env("DOPPELFS_RUN_DIR", &self.run_dir)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn confinement(&self) -> Value {
        let all: Value = serde_json::from_str(&self.status(&["--json"])).unwrap();
        all["targets"][0]["confinement"].clone()
    }

    /// These fields of the status of each thread.
    fn threads(&self, fields: &[&str]) -> Vec<Vec<String>> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let entries = std::fs::read_dir(tasks).unwrap().flatten();
        let of = |path: PathBuf| -> Option<Vec<String>> {
            // A thread may have ended meanwhile.
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let field = |name: &&str| {
                let line = status.lines().find_map(|line| line.strip_prefix(*name));
                line.map(|rest| rest.trim_start_matches(':').trim().to_owned())
            };
            fields.iter().map(field).collect()
        };
        entries.filter_map(|entry| of(entry.path())).collect()
    }

    /// Its process, and so its main thread.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in order.
    pub fn end(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FIELDS: [&str; 7] = [
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
];

fn kept() -> String {
    format!("{:016x}", kept_here())
}

#[test]
fn every_thread_of_a_target_is_confined_by_default() {
    if !is_ready("every_thread_of_a_target_is_confined_by_default") {
        return;
    }
    let scratch = Scratch::new("confine-target");
    let target = Serving::start(&scratch, None);
    let (kept, none) = (kept(), "0".repeat(16));
    let expected = [&none, &kept, &kept, &kept, &none, "1", "2"];
    let threads = target.threads(&FIELDS);
    assert!(threads.len() >= 3, "{threads:?}");
    for thread in threads {
        assert_eq!(thread, expected, "{FIELDS:?}");
    }
    let shown = target.confinement();
    for layer in ["capabilities", "seccomp", "landlock"] {
        assert_eq!(shown[layer], "on", "{shown}");
    }
    assert_eq!(shown["asked"], "auto");
    assert_eq!(shown["landlock_version"], sys::landlock_version().unwrap());
    let here = KEPT
        .iter()
        .filter(|kept| kept_here() & (1 << kept.number) != 0);
    let names: Vec<&str> = here.map(|kept| kept.name).collect();
    assert_eq!(shown["capabilities_kept"], serde_json::json!(names));
    let text = target.status(&[]);
    let line = text
        .lines()
        .find(|line| line.contains("confinement"))
        .unwrap();
    assert!(line.contains("capabilities, seccomp, landlock ("), "{text}");
    target.end();
}

#[test]
fn a_target_is_confined_as_it_was_asked() {
    if !is_ready("a_target_is_confined_as_it_was_asked") {
        return;
    }
    let whole = std::fs::read_to_string("/proc/self/status").unwrap();
    let whole = whole.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let (whole, kept) = (whole.unwrap().trim().to_owned(), kept());
    for (wish, bounding, seccomp, on) in [
        ("no", &whole, "0", [false; 3]),
        ("required", &kept, "2", [true; 3]),
        ("capabilities,seccomp", &kept, "2", [true, true, false]),
        ("landlock", &whole, "0", [false, false, true]),
    ] {
        let scratch = Scratch::new("confine-asked");
        let target = Serving::start(&scratch, Some(wish));
        for thread in target.threads(&["CapBnd", "Seccomp"]) {
            assert_eq!(thread, [bounding.as_str(), seccomp], "{wish}");
        }
        let shown = target.confinement();
        let layers = ["capabilities", "seccomp", "landlock"];
        let expected = on.map(|on| if on { "on" } else { "off" });
        assert_eq!(layers.map(|layer| shown[layer].clone()), expected, "{wish}");
        assert_eq!(shown["asked"], wish);
        let text = target.status(&[]);
        assert_eq!(text.contains("confinement none"), wish == "no", "{text}");
        target.end();
    }
}

fn refused(scratch: &Scratch, wish: &str) -> Output {
    command(scratch, Some(wish)).output().unwrap()
}

#[test]
fn an_unknown_wish_is_refused_with_those_that_there_are() {
    let scratch = Scratch::new("confine-unknown");
    let output = refused(&scratch, "some");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("confine: \"some\" is not auto, no, required"),
        "{text}"
    );
}

/// Becomes a target on a kernel without Landlock.
pub fn target_without_landlock(dir: &Path) {
    use std::os::unix::process::CommandExt;
    let rule = sys::CallRule {
        number: libc::SYS_landlock_create_ruleset,
        when: sys::When::Always,
        errno: libc::EOPNOTSUPP,
    };
    sys::refuse_calls(&[rule]).unwrap();
    let wish = std::env::var("DOPPELFS_CONFINE_WISH").unwrap();
    let words = [
        "target",
        "serve",
        "--insecure-loopback",
        "--listen",
        "127.0.0.1:0",
    ];
    let error = Command::new(env!("CARGO_BIN_EXE_doppelfs"))
        .args(words)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--state")
        .arg(dir.join("state"))
        .arg(format!("--confine={wish}"))
        .env("DOPPELFS_RUN_DIR", dir.join("run"))
        .exec();
    panic!("{error}");
}

#[test]
fn a_target_without_landlock_says_so_or_does_not_start() {
    if !is_ready("a_target_without_landlock_says_so_or_does_not_start") {
        return;
    }
    const WISH: &str = "DOPPELFS_CONFINE_WISH";
    let scratch = scratch("confine-old-kernel");
    let old = |wish: &str| {
        let mut command = child("target without landlock", scratch.path());
        command.env(WISH, wish);
        command
    };
    let target = Serving::hear(&scratch, &mut old("auto"));
    let shown = target.confinement();
    assert_eq!(
        (&shown["landlock"], &shown["seccomp"]),
        (&"missing".into(), &"on".into())
    );
    let text = target.status(&[]);
    assert!(
        text.contains("not among the modules of this boot"),
        "{text}"
    );
    target.end();
    let output = old("required").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("--confine=required, and this cannot be had: landlock"),
        "{text}"
    );
    let target = Serving::hear(&scratch, &mut old("capabilities,seccomp"));
    assert_eq!(target.confinement()["lacks"], serde_json::json!([]));
    target.end();
}
