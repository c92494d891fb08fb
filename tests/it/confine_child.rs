//! Confinement cannot be undone, so each case runs in a process of its own: this test binary again, with
//! the name of the case in its environment.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};

use doppelfs::confine::{Confinement, Error, KEPT, Part, Places, Wish, confine_thread};
use doppelfs::sys;

use crate::confine::{by_handle, calls_are_told, foreign, foreign_x32, landlock_is_told};
use crate::confine_parts::{
    no_landlock, no_seccomp, parts, sets, several_threads, what_needs_what,
};
use crate::confine_target::target_without_landlock;
use crate::scratch::Scratch;

pub const CASE: &str = "DOPPELFS_CONFINE_CASE";
const DIR: &str = "DOPPELFS_CONFINE_DIR";

type Case = fn(&Path);

/// What can run in a process of its own.
const CASES: [(&str, Case); 16] = [
    ("calls", calls_are_told),
    ("calls confined", |dir| {
        confine_in(&Wish::Required, dir);
        calls_are_told(dir);
    }),
    ("i386", |_| foreign()),
    ("i386 confined", |dir| {
        confine_in(&Wish::Required, dir);
        foreign();
    }),
    ("x32 confined", |dir| {
        confine_in(&Wish::Required, dir);
        foreign_x32();
    }),
    ("landlock", landlock_is_told),
    ("landlock confined", |dir| {
        confine_in(&Wish::Only(vec![Part::Landlock]), dir);
        landlock_is_told(dir);
    }),
    ("handles", |dir| by_handle(dir, None)),
    ("handles confined", |dir| {
        by_handle(dir, Some(&Wish::Required));
    }),
    ("needs", what_needs_what),
    ("sets", sets),
    ("parts", parts),
    ("threads", several_threads),
    ("no landlock", no_landlock),
    ("no seccomp", no_seccomp),
    ("target without landlock", target_without_landlock),
];

/// The process of a case. Alone it does nothing.
#[test]
fn child_of_the_others() {
    let Some(name) = std::env::var_os(CASE) else {
        return;
    };
    let dir = std::env::var_os(DIR).unwrap();
    let case = CASES.iter().find(|(case, _)| *case == name).unwrap();
    case.1(Path::new(&dir));
}

/// Runs a case and returns its lines `name: what`.
pub fn run_with(
    case: &str,
    dir: &Path,
    environment: &[(&str, &str)],
) -> (ExitStatus, Vec<(String, String)>) {
    let mut command = child(case, dir);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("told "));
    let lines = lines.filter_map(|line| line.split_once(": "));
    let lines = lines
        .map(|(name, what)| (name.to_owned(), what.to_owned()))
        .collect();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        eprintln!("case {case}: {}\n{text}\n{errors}", output.status);
    }
    (output.status, lines)
}

/// The process of a case, not started.
pub fn child(case: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "--nocapture",
            "confine_child::child_of_the_others",
        ])
        .env(CASE, case)
        .env(DIR, dir);
    command
}

/// As [`run_with`], with nothing more.
pub fn run(case: &str, dir: &Path) -> (ExitStatus, Vec<(String, String)>) {
    run_with(case, dir, &[])
}

/// As [`run`], to its end.
pub fn run_well(case: &str, dir: &Path) -> Vec<(String, String)> {
    let (status, lines) = run(case, dir);
    assert!(status.success(), "case {case}: {status}");
    assert!(!lines.is_empty(), "case {case} told nothing");
    lines
}

/// Capabilities that a confined process has here: what is kept, as far as this host gave it to us.
pub fn kept_here() -> u64 {
    let kept = KEPT
        .iter()
        .fold(0, |bits, kept| bits | 1_u64 << kept.number);
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    kept & u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

/// Can it be tested here? Says loudly when not.
pub fn is_ready(test: &str) -> bool {
    let ready = sys::is_root() && sys::landlock_version().is_ok();
    if !ready {
        eprintln!("SKIPPED {test}: needs root and a kernel with Landlock");
    }
    ready
}

/// Says a line `name: what`.
pub fn told(name: &str, what: &str) {
    // The test's own line may have begun.
    println!("\ntold {name}: {what}");
}

/// Says how a call ended.
pub fn tell<T>(name: &str, result: io::Result<T>) {
    let what = match result {
        Ok(_) => "fine".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
            None => error.to_string(),
        },
    };
    told(name, &what);
}

/// Confines this thread. `dir/elsewhere` is none of its places.
pub fn confine_in(wish: &Wish, dir: &Path) -> Confinement {
    try_in(wish, dir).unwrap()
}

/// As [`confine_in`], which may fail.
pub fn try_in(wish: &Wish, dir: &Path) -> Result<Confinement, Error> {
    let (root, state) = (dir.join("root"), dir.join("state"));
    let places = Places {
        root: &root,
        own: &[&state],
    };
    confine_thread(wish, &places)
}

/// Directories for a case.
pub fn scratch(test: &str) -> Scratch {
    let scratch = Scratch::new(test);
    for dir in ["root", "state", "elsewhere"] {
        std::fs::create_dir(scratch.path().join(dir)).unwrap();
    }
    scratch
}
