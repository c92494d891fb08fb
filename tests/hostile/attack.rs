//! Attacks, one after the other on one target, and what must hold after each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::frames;
use super::scene::{ROOT, Scene, Verdict, hello};
use super::stage::{Source, Stage};

/// What a target may take with some dozens of streams.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
const FD_COUNT_MAX: usize = 3000;
const THREAD_COUNT_MAX: usize = 600;
/// The honest source is told that its record is applied within this.
const HONEST_PATIENCE: Duration = Duration::from_secs(8);

/// What an attack does.
pub type Act = fn(&mut Theatre, &str) -> Verdict;

/// One attack: what it is called, and what it does on a set of its own.
pub struct Attack {
    pub name: &'static str,
    pub act: Act,
}

/// An attack on a stream that began in order.
#[macro_export]
macro_rules! attack {
    ($name:literal, $act:expr) => {
        $crate::attack::Attack {
            name: $name,
            act: |theatre, set| {
                let act: fn(&mut $crate::scene::Scene<'_>) -> $crate::scene::Verdict = $act;
                let stage = &theatre.stage;
                act(&mut $crate::scene::Scene::open(
                    stage,
                    &theatre.mallory,
                    set,
                )?)
            },
        }
    };
}

/// The target, who attacks it, and who is served meanwhile.
pub struct Theatre {
    pub stage: Stage,
    pub mallory: Source,
    pub honest: Source,
    history: u128,
    written: u64,
    /// Bytes of the log that were looked at.
    read: usize,
}

impl Theatre {
    pub fn new(label: &str, terms: &[&str]) -> Option<Theatre> {
        let stage = Stage::start(label)?;
        let mallory = stage.source("mallory", terms);
        let honest = stage.source("honest", &[]);
        let mut theatre = Theatre {
            stage,
            mallory,
            honest,
            history: 0,
            written: 0,
            read: 0,
        };
        theatre.begin().unwrap();
        Some(theatre)
    }

    fn begin(&mut self) -> Verdict {
        let scene = Scene::open(&self.stage, &self.honest, "data")?;
        let (history, last) = (scene.hello.history, scene.last);
        drop(scene);
        self.history = history;
        self.written = last;
        self.beat()
    }

    /// The honest source connects, has one more file replicated, and goes.
    pub fn beat(&mut self) -> Verdict {
        let began = Instant::now();
        let again = super::scene::hello("data");
        let again = super::line::Hello {
            history: self.history,
            end: self.written,
            ..again
        };
        let mut scene = Scene::begin(&self.stage, &self.honest, again, false)?;
        if scene.last != self.written {
            return Err(format!("stands at {}, not {}", scene.last, self.written));
        }
        let name = format!("file{}", self.written);
        let id = frames::Id(1_000_000 + self.written, 1);
        let made = frames::create(ROOT, name.as_bytes(), id, frames::file(), 0o100_640);
        scene.put(&made);
        scene.put(&frames::write(id, 0, name.as_bytes()));
        scene.applied()?;
        let written = scene.last;
        let path = scene.replica().join(&name);
        drop(scene);
        self.written = written;
        match std::fs::read(&path) {
            Ok(content) if content == name.as_bytes() => {}
            other => return Err(format!("{}: {other:?}", path.display())),
        }
        match began.elapsed() {
            took if took < HONEST_PATIENCE => Ok(()),
            took => Err(format!("was served only after {took:?}")),
        }
    }

    /// Does the rest of the world stand?
    fn stands(&mut self) -> Verdict {
        if !self.stage.is_alive() {
            self.stage.restart();
            return Err("the target died".to_owned());
        }
        let log = self.stage.log();
        let fresh = log.get(self.read..).unwrap_or_default();
        self.read = log.len();
        if let Some(line) = fresh.lines().find(|line| line.contains("panicked at")) {
            return Err(format!("the target panicked: {line}"));
        }
        self.beat().map_err(|e| format!("the honest source {e}"))?;
        let sizes = (
            self.stage.memory_bytes(),
            self.stage.fd_count(),
            self.stage.thread_count(),
        );
        match sizes {
            (memory, _, _) if memory > MEMORY_BYTES_MAX => Err(format!("{memory} bytes of memory")),
            (_, fds, _) if fds > FD_COUNT_MAX => Err(format!("{fds} descriptors")),
            (_, _, threads) if threads > THREAD_COUNT_MAX => Err(format!("{threads} threads")),
            _ => Ok(()),
        }
    }
}

/// Carries out all of them, and tells of each that succeeded. `DOPPELFS_ATTACK` chooses by name.
pub fn carry_out(label: &str, attacks: &[Attack]) {
    carry_out_under(label, &[], attacks);
}

/// The same with a source that was invited under these terms.
pub fn carry_out_under(label: &str, terms: &[&str], attacks: &[Attack]) {
    let Some(mut theatre) = Theatre::new(label, terms) else {
        return;
    };
    let chosen = std::env::var("DOPPELFS_ATTACK").unwrap_or_default();
    let mut failed = Vec::new();
    let free = ["mallory", "honest"];
    for (number, attack) in attacks.iter().enumerate() {
        if !attack.name.contains(&chosen) {
            continue;
        }
        let began = Instant::now();
        let before = theatre.stage.canary(&free);
        let set = format!("set{number}");
        let acted = catch_unwind(AssertUnwindSafe(|| (attack.act)(&mut theatre, &set)));
        let mut wrong = match acted {
            Ok(Ok(())) => Vec::new(),
            Ok(Err(text)) => vec![text],
            Err(panic) => vec![format!("panicked: {:?}", panic.downcast_ref::<String>())],
        };
        wrong.extend(theatre.stands().err());
        wrong.extend(before.changes(&theatre.stage.canary(&free)));
        let memory = theatre.stage.memory_bytes() >> 20;
        let fds = theatre.stage.fd_count();
        eprintln!(
            "{}: {:?}, {memory} MiB, {fds} descriptors",
            attack.name,
            began.elapsed()
        );
        if !wrong.is_empty() {
            eprintln!("SUCCEEDED {}: {}", attack.name, wrong.join("; "));
            failed.push(attack.name);
        }
    }
    assert!(failed.is_empty(), "attacks that succeeded: {failed:?}");
}

/// A hello for an attack that begins a session by itself.
pub fn hello_to(set: &str, path: &str) -> super::line::Hello {
    super::line::Hello {
        path: Some(path.to_owned()),
        ..hello(set)
    }
}
