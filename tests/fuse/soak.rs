//! Goal: hours of random faults, one after the other and several at once, leave no difference and no
//! error. Method: a mixed load that checks each of its results, and faults in an order that the seed
//! decides; after a few of them the load ends, the replica catches up, and all is compared. Started by
//! `scripts/soak`; runs only where `DOPPELFS_SOAK_MINUTES` says how long.
//!
//! Source and target share a network, and the link's faults are those of the proxy between them: the
//! product speaks to loopback addresses only, so between two network namespaces a relay would stand on each
//! side, and its sockets would see no more of the link than they do here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::held::holds;
use crate::power_cuts::{Programs, plant_old};
use crate::support::{
    Fixture, Image, has_programs, is_ready, program, random_bytes, seed, soak_minutes,
    soak_without, until,
};
use crate::takeover::{Load, add_database, add_mapper, kill_worker, load_all};

const TARGET_MIB: u64 = 2048;

/// Longer than either side bears a silent link.
const SILENCE_MS_MAX: u64 = 20_000;

/// Longest time that other faults last.
const FAULT_MS_MAX: u64 = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    WorkerKilled,
    Restarted,
    TargetKilled,
    LinkCut,
    LinkSilent,
    LinkSlow,
    TargetFull,
    SourceKilled,
    Remounted,
}

use Fault::*;

/// What happens at once; no caller may notice.
const MOMENTARY: &[Fault] = &[WorkerKilled, Restarted, TargetKilled];

/// What lasts; no caller may notice.
const LASTING: &[Fault] = &[LinkCut, LinkSilent, LinkSlow, TargetFull];

/// What ends a mount; the load has ended before, or ends with it.
const ENDING: &[Fault] = &[SourceKilled, Remounted];

/// Faults in random order, each as often as the others.
struct Deck {
    all: Vec<Fault>,
    left: Vec<Fault>,
}

impl Deck {
    /// All of these but those that are not wanted.
    fn new(faults: &[Fault]) -> Deck {
        let unwanted = soak_without();
        let is_wanted = |fault: &&Fault| !unwanted.contains(&format!("{fault:?}"));
        let all: Vec<Fault> = faults.iter().filter(is_wanted).copied().collect();
        assert!(!all.is_empty(), "one of {faults:?} has to remain");
        let left = Vec::new();
        Deck { all, left }
    }

    fn draw(&mut self, random: &mut StdRng) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.left.shuffle(random);
        }
        self.left.pop().expect("a fault")
    }
}

/// What was done so far; says so in one line at the end, however that comes.
struct Tally {
    seed: u64,
    start: Instant,
    faults: BTreeMap<Fault, u64>,
    steps: u64,
    comparisons: u64,
    differences: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        write!(f, "seed {}, {minutes:.1} minutes, faults:", self.seed)?;
        for (fault, count) in &self.faults {
            write!(f, " {fault:?} {count},")?;
        }
        write!(
            f,
            " {} steps of load, {} comparisons, {} differences",
            self.steps, self.comparisons, self.differences
        )
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let word = if failed { "FAILED" } else { "passed" };
        eprintln!("soak {word}: {self}");
    }
}

struct Soak {
    fixture: Fixture,
    image: Image,
    random: StdRng,
    momentary: Deck,
    lasting: Deck,
    ending: Deck,
    tally: Tally,
    /// Faults since the last comparison.
    recent: Vec<Fault>,
}

impl Soak {
    fn note(&mut self, fault: Fault) {
        *self.tally.faults.entry(fault).or_default() += 1;
        self.recent.push(fault);
    }

    /// Not a synchronisation: the moment is to be a random one.
    fn some_time(&mut self, ms_max: u64) {
        let us = self.random.random_range(0..ms_max * 1000);
        std::thread::sleep(Duration::from_micros(us));
    }

    fn momentary(&mut self) {
        let fault = self.momentary.draw(&mut self.random);
        self.note(fault);
        match fault {
            Restarted => {
                let restart = self.fixture.doppelfs().args(["restart", "data"]);
                restart.succeed();
            }
            TargetKilled => {
                self.fixture.target.kill();
                self.some_time(1_000);
                self.fixture.target.start();
            }
            _ => kill_worker(&self.fixture, Signal::SIGKILL),
        }
    }

    /// Begins, lasts, with other faults meanwhile, and ends.
    fn lasting(&mut self) {
        let fault = self.lasting.draw(&mut self.random);
        self.note(fault);
        let mut ms_max = FAULT_MS_MAX;
        let mut ballast = None;
        match fault {
            LinkSilent => {
                self.fixture.proxy.stall();
                ms_max = SILENCE_MS_MAX;
            }
            LinkSlow => {
                let pace = self.random.random_range(20_000..2_000_000);
                self.fixture.proxy.slow(pace);
            }
            TargetFull => {
                ballast = Some(fill(self.image.path()));
                holds(&self.fixture, "space");
            }
            _ => self.fixture.proxy.cut(),
        }
        self.some_time(ms_max);
        while self.random.random_bool(0.4) {
            self.momentary();
            self.some_time(FAULT_MS_MAX);
        }
        self.fixture.proxy.mend();
        if let Some(ballast) = ballast {
            std::fs::remove_file(ballast).expect("unlink");
        }
    }

    /// Faults that programs do not notice, under load.
    fn unnoticed(&mut self, dir: &Path, seed: u64) {
        let load = start_load(dir, seed);
        for _ in 0..self.random.random_range(1..=4) {
            self.some_time(FAULT_MS_MAX);
            if self.random.random_bool(0.5) {
                self.momentary();
            } else {
                self.lasting();
            }
            load.advance(10);
        }
        self.tally.steps += load.end();
    }

    /// Supervisor and worker die under programs that end with them, and whose acknowledged work stays.
    fn source_killed(&mut self, dir: &Path) {
        self.note(SourceKilled);
        let old = dir.join("old");
        plant_old(&old, 1);
        let mut programs = Programs::start(dir, &old);
        until("every program to work", || {
            programs.counts().iter().all(|&count| count > 3)
        });
        let is_silent = self.random.random_bool(0.5);
        if is_silent {
            self.fixture.proxy.stall();
        }
        self.some_time(FAULT_MS_MAX);
        self.fixture.lose_source();
        programs.end();
        self.fixture.mount();
        programs.before_cut = programs.counts();
        programs.check();
        self.tally.steps += programs.before_cut.iter().sum::<u64>();
        self.fixture.proxy.mend();
    }

    /// Unmounted in order, changed meanwhile, mounted again.
    fn remounted(&mut self, seed: u64) {
        self.note(Remounted);
        self.fixture.umount();
        for number in 0..self.random.random_range(0..20) {
            let path = self.fixture.path(format!("unmounted-{number}"));
            std::fs::write(path, random_bytes(seed + number, 10_000)).expect("write");
        }
        self.fixture.mount();
    }

    fn compare(&mut self) {
        self.fixture.caught_up();
        let report = self.fixture.report();
        self.tally.comparisons += 1;
        self.tally.differences += report.difference_count;
        let minute = self.tally.start.elapsed().as_secs() / 60;
        let faults = std::mem::take(&mut self.recent);
        eprintln!("soak: minute {minute}, after {faults:?}: {report}");
        assert!(report.is_equal(), "{}", self.fixture.status());
    }
}

fn start_load(dir: &Path, seed: u64) -> Load {
    std::fs::create_dir(dir).expect("mkdir");
    let stop = dir.with_file_name("mapper-stop");
    let _ = std::fs::remove_file(stop);
    let mut load = load_all(dir, seed);
    add_mapper(&mut load, dir);
    add_database(&mut load, dir);
    load
}

/// Takes all the space of a file system; the file that has it.
fn fill(file_system: &Path) -> PathBuf {
    let path = file_system.join("ballast");
    let free = nix::sys::statvfs::statvfs(file_system).expect("statvfs");
    let most = (free.blocks_free() * free.fragment_size()).saturating_sub(16 << 20);
    // Others may be faster; what is left is written then.
    let fallocate = program("fallocate").args(["-l", &most.max(1).to_string()]);
    fallocate.arg(&path).run();
    let mut file = File::options().append(true).open(&path).expect("open");
    let chunk = random_bytes(1, 64 << 10);
    while file.write_all(&chunk).is_ok() {}
    let _ = file.sync_all();
    path
}

#[test]
#[ignore = "scripts/soak runs it"]
fn soak() {
    let test = "soak";
    let Some(minutes) = soak_minutes() else {
        return eprintln!("SKIPPED {test}: DOPPELFS_SOAK_MINUTES does not say how long");
    };
    if !is_ready(test) || !has_programs(test, &["sqlite3", "python3", "fallocate"]) {
        return;
    }
    let Some(image) = Image::new(test, "ext4", TARGET_MIB) else {
        return;
    };
    let seed = seed(test);
    let mut soak = Soak {
        fixture: Fixture::apart(test, None, Some(image.path())),
        image,
        random: StdRng::seed_from_u64(seed),
        momentary: Deck::new(MOMENTARY),
        lasting: Deck::new(LASTING),
        ending: Deck::new(ENDING),
        tally: Tally {
            seed,
            start: Instant::now(),
            faults: BTreeMap::new(),
            steps: 0,
            comparisons: 0,
            differences: 0,
        },
        recent: Vec::new(),
    };
    soak.fixture.start();
    let mut dirs = Vec::new();
    for round in 0.. {
        if soak.tally.start.elapsed() >= Duration::from_secs(minutes * 60) {
            break;
        }
        let dir = soak.fixture.path(format!("round-{round}"));
        soak.unnoticed(&dir, seed + round);
        dirs.push(dir);
        if soak.random.random_bool(0.6) {
            match soak.ending.draw(&mut soak.random) {
                Remounted => soak.remounted(seed + round),
                _ => {
                    let dir = soak.fixture.path(format!("killed-{round}"));
                    soak.source_killed(&dir);
                    dirs.push(dir);
                }
            }
        }
        soak.compare();
        while dirs.len() > 3 {
            std::fs::remove_dir_all(dirs.remove(0)).expect("remove a tree");
        }
    }
    soak.compare();
    let fixture = &soak.fixture;
    let compare = fixture.doppelfs().arg("compare").arg(fixture.path(""));
    compare.arg(fixture.replica("")).succeed();
    fixture.umount();
    let report = fixture.report();
    assert!(report.is_equal(), "below the mount: {report}");
    soak.tally.comparisons += 2;
}
