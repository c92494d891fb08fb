//! Writers whose every effect has a cause in another file or directory, and the check that no
//! replica shows an effect without its cause.
//!
//! Each writer does the cause, gets the answer, does the effect, and again. So in the source, at
//! every instant, and in every prefix of its operations, cause is never behind effect. Reads happen
//! on a tree that stands still.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pairs of cause and effect that are kept before old ones are removed.
const PAIRS_KEPT: u64 = 50;

/// A writer's pause after each pair: the load goes on for the whole test, the queue stays small.
const PACE: Duration = Duration::from_millis(5);

/// Makes what the steps need.
type Prepare = fn(&Path);

/// One pair of cause and effect.
type Step = fn(&Path, u64);

/// Says which effect has no cause.
type Check = fn(&Path) -> Result<(), String>;

/// Name, preparation, one step.
const WRITERS: [(&str, Prepare, Step); 6] = [
    ("write", prepare_write, step_write),
    ("rename", prepare_rename, step_rename),
    ("link", prepare_link, step_link),
    ("unlink", prepare_dirs, step_unlink),
    ("directory", prepare_dirs, step_directory),
    ("publish", prepare_dirs, step_publish),
];

/// The writers at work, one thread each.
#[derive(Debug)]
pub(crate) struct Causes {
    is_over: Arc<AtomicBool>,
    steps: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Causes {
    /// Starts all writers below `root`.
    pub(crate) fn start(root: &Path) -> Causes {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut causes = Causes {
            is_over,
            steps: Vec::new(),
            threads: Vec::new(),
        };
        for (name, prepare, step) in WRITERS {
            let dir = root.join(name);
            for below in ["cause", "effect"] {
                std::fs::create_dir_all(dir.join(below)).expect("make directories");
            }
            prepare(&dir);
            let steps = Arc::new(AtomicU64::new(0));
            causes.steps.push(Arc::clone(&steps));
            let is_over = Arc::clone(&causes.is_over);
            causes.threads.push(std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let number = steps.load(Ordering::Relaxed) + 1;
                    step(&dir, number);
                    steps.store(number, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
            }));
        }
        causes
    }

    /// Pairs done so far by each writer.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.steps.iter().map(|steps| steps.load(Ordering::Relaxed));
        WRITERS.iter().map(|writer| writer.0).zip(counts).collect()
    }

    /// Ends all writers; their counts.
    pub(crate) fn stop(mut self) -> Vec<(&'static str, u64)> {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer failed");
        }
        self.counts()
    }
}

impl Drop for Causes {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Every effect without its cause in the tree at `root`, one line each; empty when all is well. A
/// writer whose directories are not there yet is skipped.
pub(crate) fn check_causes(root: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let checks: [(&str, Check); 6] = [
        ("write", check_write),
        ("rename", check_rename),
        ("link", check_link),
        ("unlink", check_unlink),
        ("directory", check_link),
        ("publish", check_publish),
    ];
    for (name, check) in checks {
        let dir = root.join(name);
        if !dir.join("effect").is_dir() {
            continue;
        }
        if let Err(what) = check(&dir) {
            wrong.push(format!("{name}: {what}"));
        }
    }
    wrong
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .expect("read a directory")
            .file_name()
            .to_string_lossy()
            .into_owned()
    };
    entries.map(name).collect()
}

fn counter_at(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

// Write: a counter in one file, then the same in another.

fn prepare_write(dir: &Path) {
    for side in ["cause", "effect"] {
        std::fs::write(dir.join(side).join("counter"), 0u64.to_le_bytes()).expect("write");
    }
}

fn step_write(dir: &Path, number: u64) {
    for side in ["cause", "effect"] {
        let file = File::options()
            .write(true)
            .open(dir.join(side).join("counter"));
        file.expect("open")
            .write_all_at(&number.to_le_bytes(), 0)
            .expect("write");
    }
}

fn check_write(dir: &Path) -> Result<(), String> {
    let cause = counter_at(&dir.join("cause/counter"));
    let effect = counter_at(&dir.join("effect/counter"));
    if effect > cause {
        return Err(format!("effect {effect:?} before cause {cause:?}"));
    }
    Ok(())
}

// Rename: a file's name counts up in one directory, then one's in another.

fn prepare_rename(dir: &Path) {
    for side in ["cause", "effect"] {
        std::fs::write(dir.join(side).join("0"), b"").expect("write");
    }
}

fn step_rename(dir: &Path, number: u64) {
    for side in ["cause", "effect"] {
        let side = dir.join(side);
        let (old, new) = (
            side.join((number - 1).to_string()),
            side.join(number.to_string()),
        );
        std::fs::rename(old, new).expect("rename");
    }
}

fn check_rename(dir: &Path) -> Result<(), String> {
    let number = |side: &str| -> Result<Option<u64>, String> {
        let names = names(&dir.join(side));
        if names.len() > 1 {
            return Err(format!("{side} has several names: {names:?}"));
        }
        Ok(names.first().and_then(|name| name.parse().ok()))
    };
    let (cause, effect) = (number("cause")?, number("effect")?);
    if effect > cause {
        return Err(format!("effect {effect:?} before cause {cause:?}"));
    }
    Ok(())
}

// Link: a name in one directory, then in another; removed in the opposite order.

fn prepare_link(dir: &Path) {
    std::fs::write(dir.join("base"), b"linked").expect("write");
}

fn step_link(dir: &Path, number: u64) {
    let (cause, effect) = (dir.join("cause"), dir.join("effect"));
    std::fs::hard_link(dir.join("base"), cause.join(number.to_string())).expect("link");
    std::fs::hard_link(dir.join("base"), effect.join(number.to_string())).expect("link");
    if let Some(old) = number.checked_sub(PAIRS_KEPT).filter(|&old| old > 0) {
        std::fs::remove_file(effect.join(old.to_string())).expect("unlink");
        std::fs::remove_file(cause.join(old.to_string())).expect("unlink");
    }
}

fn check_link(dir: &Path) -> Result<(), String> {
    let (cause, effect) = (names(&dir.join("cause")), names(&dir.join("effect")));
    let orphans: Vec<&String> = effect.difference(&cause).collect();
    if orphans.is_empty() {
        return Ok(());
    }
    Err(format!("effects without cause: {orphans:?}"))
}

// Unlink: pairs are made effect first, so that removing the cause comes first.

fn prepare_dirs(_dir: &Path) {}

fn step_unlink(dir: &Path, number: u64) {
    let path = |side: &str, number: u64| dir.join(side).join(number.to_string());
    std::fs::write(path("effect", number), b"").expect("write");
    std::fs::write(path("cause", number), b"").expect("write");
    if let Some(old) = number.checked_sub(PAIRS_KEPT).filter(|&old| old > 0) {
        std::fs::remove_file(path("cause", old)).expect("unlink");
        std::fs::remove_file(path("effect", old)).expect("unlink");
    }
}

/// Gone from `effect` means gone from `cause` before.
fn check_unlink(dir: &Path) -> Result<(), String> {
    let (cause, effect) = (names(&dir.join("cause")), names(&dir.join("effect")));
    let early: Vec<&String> = cause.difference(&effect).collect();
    if early.is_empty() {
        return Ok(());
    }
    Err(format!("removed before their cause: {early:?}"))
}

// Directory: as link, with directories.

fn step_directory(dir: &Path, number: u64) {
    let path = |side: &str, number: u64| dir.join(side).join(number.to_string());
    std::fs::create_dir(path("cause", number)).expect("mkdir");
    std::fs::create_dir(path("effect", number)).expect("mkdir");
    if let Some(old) = number.checked_sub(PAIRS_KEPT).filter(|&old| old > 0) {
        std::fs::remove_dir(path("effect", old)).expect("rmdir");
        std::fs::remove_dir(path("cause", old)).expect("rmdir");
    }
}

// Publish: a file is written whole in one directory, then renamed over the one that readers see.

const PUBLISHED_BYTES: usize = 20_000;

fn published(number: u64) -> Vec<u8> {
    let byte = number.to_le_bytes()[0];
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(PUBLISHED_BYTES, byte);
    bytes
}

fn step_publish(dir: &Path, number: u64) {
    let (draft, current): (PathBuf, PathBuf) = (dir.join("cause/draft"), dir.join("effect/file"));
    let bytes = published(number);
    let file = File::create(&draft).expect("create");
    for (index, chunk) in bytes.chunks(4_096).enumerate() {
        file.write_all_at(chunk, index as u64 * 4_096)
            .expect("write");
    }
    std::fs::rename(draft, current).expect("rename");
}

fn check_publish(dir: &Path) -> Result<(), String> {
    let Ok(bytes) = std::fs::read(dir.join("effect/file")) else {
        return Ok(());
    };
    let number = bytes
        .first_chunk::<8>()
        .map_or(0, |head| u64::from_le_bytes(*head));
    if bytes == published(number) {
        return Ok(());
    }
    Err(format!(
        "file {number} of {} bytes was published unfinished",
        bytes.len()
    ))
}
