//! Goal: a host that loses its power loses nothing that it had said to be durable, and the replica is
//! exact again. Method: what a host has lies on a file system in a file, which is shut down under load
//! by the ioctl that file systems are tested with; every process of the host is killed, the file system
//! mounted anew. `DOPPELFS_POWER_CUTS` says how often.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{
    Fixture, Image, has_programs, is_ready, plant_source_tree, power_bytes, power_cuts, program,
    random_bytes, seed, until,
};
use crate::takeover::load_all;

/// Beside what nobody changes.
const IMAGE_MIB: u64 = 1024;

/// An image that can be cut; `None`, said loudly, where this host cannot.
pub(crate) fn disk(test: &str, kind: &str) -> Option<Image> {
    if !is_ready(test) || !has_programs(test, &["xfs_io"]) {
        return None;
    }
    Image::new(test, kind, IMAGE_MIB + (power_bytes() >> 20) * 5 / 4)
}

/// Not a synchronisation: the moment of a cut is to be a random one.
fn some_time(random: &mut StdRng, ms_max: u64) {
    std::thread::sleep(Duration::from_micros(random.random_range(0..ms_max * 1000)));
}

fn target_cut(test: &str, kind: &str) {
    let Some(image) = disk(test, kind) else {
        return;
    };
    let seed = seed(test);
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::apart(test, None, Some(image.path()));
    plant_source_tree(&fixture.path("tree"), seed, 100);
    fixture.start();
    let before = fixture.connection().mirror_bytes();
    let (rounds, mut cuts, mut steps) = (power_cuts(), 0, 0);
    let mut durable_names = Vec::new();
    for round in 0..rounds {
        let write = |name: String| {
            std::fs::write(fixture.path(&name), &name).expect("write");
            name
        };
        durable_names.push(write(format!("waited-{round}")));
        fixture.caught_up();
        let dir = fixture.path(format!("load-{round}"));
        std::fs::create_dir(&dir).expect("mkdir");
        let load = load_all(&dir, seed + round);
        some_time(&mut random, 200);
        let name = write(format!("loaded-{round}"));
        let captured = fixture.set().captured_seq();
        some_time(&mut random, 2000);
        let durable = fixture.connection().marks()[3];
        if durable >= captured {
            durable_names.push(name);
        }
        image.cut();
        // Enough is left to be applied; more would only take longer.
        steps += load.end();
        while {
            cuts += 1;
            fixture.target.kill();
            image.come_back();
            for name in &durable_names {
                let text = std::fs::read_to_string(fixture.replica(name));
                assert_eq!(&text.expect("read what was durable"), name);
            }
            random.random_bool(0.4)
        } {
            fixture.target.start_unwatched();
            some_time(&mut random, 300);
            image.cut();
        }
        fixture.target.start();
        until("the stream to be open", || {
            let stream = fixture.find_stream().map(|stream| stream.positions());
            stream.is_some_and(|(received, applied)| received >= durable && applied >= durable)
        });
        until("a connection", || fixture.connection().is_connected());
        assert_eq!(fixture.connection().mirror_bytes(), before, "round {round}");
    }
    let report = fixture.finish();
    eprintln!(
        "{test}: {rounds} rounds, {cuts} cuts, {steps} steps of the load, {} durable names, mirrored {before} bytes before \
         and none since; {report}",
        durable_names.len()
    );
}

#[test]
fn a_target_on_ext4_that_loses_power_resumes() {
    target_cut("a_target_on_ext4_that_loses_power_resumes", "ext4");
}

#[test]
fn a_target_on_xfs_that_loses_power_resumes() {
    target_cut("a_target_on_xfs_that_loses_power_resumes", "xfs");
}

/// One acknowledged step in a directory of its own.
type Step = fn(&Path, u64) -> io::Result<()>;

/// Is what so many steps made there?
type Check = fn(&Path, u64) -> Result<(), String>;

/// Name, step, check.
const PROGRAMS: [(&str, Step, Check); 5] = [
    ("append", step_append, check_append),
    ("o_sync", step_o_sync, check_append),
    ("create", step_create, check_create),
    ("replace", step_replace, check_replace),
    ("in-place", step_in_place, check_in_place),
];

/// Programs that count what fsync(2) has acknowledged, and one that never asks; all end at the first
/// error.
pub(crate) struct Programs {
    dir: PathBuf,
    acknowledged: Vec<Arc<AtomicU64>>,
    /// What was acknowledged before the cut: xfs lets an fsync(2) of a directory succeed after it was
    /// shut down.
    pub(crate) before_cut: Vec<u64>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Programs {
    /// In a directory of their own, and one with [`plant_old`] files.
    pub(crate) fn start(dir: &Path, old: &Path) -> Programs {
        let mut programs = Programs {
            dir: dir.to_path_buf(),
            acknowledged: Vec::new(),
            before_cut: Vec::new(),
            is_over: Arc::default(),
            threads: Vec::new(),
        };
        for (name, step, _) in PROGRAMS {
            let own = dir.join(name);
            std::fs::create_dir_all(&own).expect("mkdir");
            let count = Arc::new(AtomicU64::new(0));
            programs.acknowledged.push(Arc::clone(&count));
            programs.run(move |number| {
                step(&own, number)?;
                count.store(number + 1, Ordering::Release);
                Ok(())
            });
        }
        let own = dir.join("careless");
        std::fs::create_dir_all(&own).expect("mkdir");
        programs.run(move |number| step_careless(&own, number));
        let old = old.to_path_buf();
        programs.run(move |number| step_old(&old, number));
        programs
    }

    fn run(&mut self, mut step: impl FnMut(u64) -> io::Result<()> + Send + 'static) {
        let is_over = Arc::clone(&self.is_over);
        self.threads.push(std::thread::spawn(move || {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) && step(number).is_ok() {
                number += 1;
            }
        }));
    }

    pub(crate) fn counts(&self) -> Vec<u64> {
        let all = self.acknowledged.iter();
        all.map(|count| count.load(Ordering::Acquire)).collect()
    }

    /// Ends them all.
    pub(crate) fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a program failed");
        }
    }

    /// Everything acknowledged before the cut is there.
    #[track_caller]
    pub(crate) fn check(&self) {
        for ((name, _, check), &count) in PROGRAMS.into_iter().zip(&self.before_cut) {
            let checked = check(&self.dir.join(name), count);
            assert_eq!(checked, Ok(()), "{name}, {count} acknowledged");
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

const RECORD_BYTES: usize = 100;

fn record(number: u64) -> Vec<u8> {
    format!("{number:0>99}\n").into_bytes()
}

fn step_append(dir: &Path, number: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).open(dir.join("log"))?;
    file.write_all(&record(number))?;
    file.sync_all()
}

fn step_o_sync(dir: &Path, number: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true);
    let mut file = options.custom_flags(libc::O_SYNC).open(dir.join("log"))?;
    file.write_all(&record(number))
}

fn check_append(dir: &Path, count: u64) -> Result<(), String> {
    let bytes = std::fs::read(dir.join("log")).map_err(|e| e.to_string())?;
    let records: Vec<&[u8]> = bytes.chunks(RECORD_BYTES).collect();
    match (0..count).find(|&n| records.get(n as usize) != Some(&record(n).as_slice())) {
        Some(number) => Err(format!("record {number} of {} is lost", records.len())),
        None => Ok(()),
    }
}

fn created(number: u64) -> Vec<u8> {
    record(number).repeat(1 + number as usize % 90)
}

fn step_create(dir: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create_new(dir.join(number.to_string()))?;
    file.write_all(&created(number))?;
    file.sync_all()?;
    sync_dir(dir)
}

fn check_create(dir: &Path, count: u64) -> Result<(), String> {
    for number in 0..count {
        let bytes = std::fs::read(dir.join(number.to_string()));
        if bytes.map_err(|e| format!("file {number}: {e}"))? != created(number) {
            return Err(format!("file {number} differs"));
        }
    }
    Ok(())
}

fn step_replace(dir: &Path, number: u64) -> io::Result<()> {
    let fresh = dir.join("fresh");
    let mut file = File::create(&fresh)?;
    file.write_all(&created(number))?;
    file.sync_all()?;
    std::fs::rename(fresh, dir.join("file"))?;
    sync_dir(dir)
}

fn check_replace(dir: &Path, count: u64) -> Result<(), String> {
    let bytes = std::fs::read(dir.join("file")).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let number = text.lines().next().and_then(|line| line.parse().ok());
    // Later ones may have come that far.
    match number {
        Some(number) if number + 1 >= count && bytes == created(number) => Ok(()),
        _ => Err(format!("{number:?}, {} bytes", bytes.len())),
    }
}

const SLOTS: u64 = 64;

fn step_in_place(dir: &Path, number: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    let file = options.open(dir.join("slots"))?;
    file.write_all_at(&number.to_le_bytes(), number % SLOTS * 4096)?;
    file.sync_data()
}

fn check_in_place(dir: &Path, count: u64) -> Result<(), String> {
    let file = File::open(dir.join("slots")).map_err(|e| e.to_string())?;
    for number in count.saturating_sub(SLOTS)..count {
        let mut word = [0; 8];
        let read = file.read_exact_at(&mut word, number % SLOTS * 4096);
        read.map_err(|e| format!("slot of {number}: {e}"))?;
        let found = u64::from_le_bytes(word);
        // Later ones may have come that far.
        if found < number || found % SLOTS != number % SLOTS {
            return Err(format!("{found} instead of {number}"));
        }
    }
    Ok(())
}

/// Changes of every kind that nobody made durable.
fn step_careless(dir: &Path, number: u64) -> io::Result<()> {
    let path = |number: u64| dir.join(number.to_string());
    std::fs::write(path(number), created(number))?;
    let slots = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("slots"))?;
    slots.write_all_at(&record(number), number * 7919 % 1_000_000)?;
    match number.checked_sub(20) {
        Some(old) if old % 3 == 0 => std::fs::remove_file(path(old)),
        Some(old) if old % 3 == 1 => std::fs::rename(path(old), dir.join(format!("{old}-moved"))),
        _ => Ok(()),
    }
}

const OLD_FILES: u64 = 40;
const OLD_BYTES: u64 = 100_000;

/// Files in two directories that are there before the activity log is.
pub(crate) fn plant_old(dir: &Path, seed: u64) {
    for part in ["a", "b"] {
        std::fs::create_dir_all(dir.join(part)).expect("mkdir");
    }
    for number in 0..OLD_FILES {
        let content = random_bytes(seed ^ number, OLD_BYTES as usize);
        std::fs::write(dir.join(format!("a/{number}")), content).expect("write");
    }
}

/// Changes of every kind to old files, that nobody makes durable: in place, so that nothing on the disk
/// tells of them when their inode is lost.
fn step_old(dir: &Path, number: u64) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(number);
    let places =
        ["a", "b"].map(|part| dir.join(format!("{part}/{}", random.random_range(0..OLD_FILES))));
    let [one, other] = &places;
    let path = if one.exists() { one } else { other };
    if !path.exists() {
        // Removed and not written again before a cut.
        return std::fs::write(one, random_bytes(number, OLD_BYTES as usize));
    }
    let done = match random.random_range(0..8) {
        0 => std::fs::rename(path, if path == one { other } else { one }),
        1 => std::fs::set_permissions(
            path,
            PermissionsExt::from_mode(0o600 | (number as u32 % 64)),
        ),
        2 => std::fs::remove_file(path).and_then(|()| std::fs::write(path, record(number))),
        3 => {
            let opened = OpenOptions::new().write(true).open(path);
            opened.and_then(|file| file.set_len(random.random_range(OLD_BYTES / 2..OLD_BYTES)))
        }
        _ => {
            let opened = OpenOptions::new().write(true).open(path);
            opened.and_then(|file| {
                file.write_all_at(&record(number), random.random_range(0..OLD_BYTES))
            })
        }
    };
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn source_cut(test: &str, kind: &str, flags: &[&str]) {
    let Some(image) = disk(test, kind) else {
        return;
    };
    let seed = seed(test);
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::apart(test, Some(image.path()), None).with_flags(flags);
    plant_source_tree(&fixture.path("tree"), seed, 300);
    let ballast = power_bytes();
    plant_ballast(&fixture.path("ballast"), seed, ballast);
    let old = fixture.path("old");
    plant_old(&old, seed);
    fixture.start();
    let mut all: Vec<Programs> = Vec::new();
    let (mut cuts, mut resent) = (0, 0);
    // Made durable below, as the first time is when it is mounted.
    until("the activity log to be small", || epochs(&fixture) == 1);
    for round in 0..power_cuts() {
        let history = fixture.find_stream().map(|stream| stream.history());
        let mut programs = Programs::start(&fixture.path(format!("round-{round}")), &old);
        until("every program to work", || {
            programs.counts().iter().all(|&count| count > 3)
        });
        // The target is behind, with a queue that it is still to get, or ahead of what survives.
        if random.random_bool(0.3) {
            some_time(&mut random, 200);
            fixture.proxy.cut();
        }
        some_time(&mut random, 500);
        programs.before_cut = programs.counts();
        image.cut();
        some_time(&mut random, 100);
        fixture.lose_source();
        programs.end();
        image.come_back();
        fixture.mount();
        fixture.proxy.mend();
        // They get inode numbers of files that were lost, while the target has those.
        let again = fixture.path(format!("again-{round}"));
        std::fs::create_dir(&again).expect("mkdir");
        for number in 0..100 {
            std::fs::write(again.join(number.to_string()), record(number)).expect("write");
        }
        let suspects = fixture.set().resync().suspects;
        assert!(suspects > 0, "the activity log was not believed");
        cuts += 1;
        while random.random_bool(0.4) {
            // Or only its processes die, while they look for what was lost.
            some_time(&mut random, 300);
            let loses_power = random.random_bool(0.7);
            if loses_power {
                image.cut();
            }
            fixture.lose_source();
            if loses_power {
                image.come_back();
                cuts += 1;
            }
            fixture.mount();
        }
        let counts = programs.before_cut.clone();
        all.push(programs);
        all.iter().for_each(Programs::check);
        let report = fixture.assert_equal();
        let now = fixture.find_stream().map(|stream| stream.history());
        assert_ne!(now, history, "the queue was believed");
        let resync = fixture.set().resync();
        resent += resync.resent_bytes;
        assert!(
            resync.resent_bytes < ballast / 20,
            "cut {round}: sent again {resync:?}, of {ballast} bytes and more"
        );
        eprintln!(
            "{test}: cut {round}, acknowledged {counts:?}, {suspects} suspects, last {resync:?}; {report}"
        );
    }
    let report = fixture.finish();
    eprintln!("{test}: {cuts} cuts, sent again {resent} bytes in all; {report}");
}

/// Files of the activity log.
pub(crate) fn epochs(fixture: &Fixture) -> usize {
    let dir = fixture.state_dir().join("activity");
    std::fs::read_dir(dir)
        .expect("list the activity log")
        .count()
}

/// Files that nobody changes, so many bytes.
pub(crate) fn plant_ballast(dir: &Path, seed: u64, bytes: u64) {
    const FILE_BYTES: usize = 4 << 20;
    std::fs::create_dir(dir).expect("mkdir");
    for number in 0..bytes / FILE_BYTES as u64 {
        let content = random_bytes(seed + number, FILE_BYTES);
        std::fs::write(dir.join(number.to_string()), content).expect("write");
    }
}

#[test]
fn a_source_on_ext4_that_loses_power_keeps_what_fsync_acknowledged() {
    let test = "a_source_on_ext4_that_loses_power_keeps_what_fsync_acknowledged";
    source_cut(test, "ext4", &[]);
}

#[test]
fn a_source_on_xfs_that_loses_power_keeps_what_fsync_acknowledged() {
    let test = "a_source_on_xfs_that_loses_power_keeps_what_fsync_acknowledged";
    source_cut(test, "xfs", &[]);
}

#[test]
fn a_source_that_caches_writes_keeps_what_fsync_acknowledged() {
    let test = "a_source_that_caches_writes_keeps_what_fsync_acknowledged";
    source_cut(test, "ext4", &["-o", "order=relaxed"]);
}

/// The target has everything of a set that was unmounted in order; so must the source.
#[test]
fn power_lost_after_a_clean_end_takes_nothing_that_the_target_has() {
    let test = "power_lost_after_a_clean_end_takes_nothing_that_the_target_has";
    for kind in ["ext4", "xfs"] {
        let Some(image) = disk(test, kind) else {
            continue;
        };
        let mut fixture = Fixture::apart(test, Some(image.path()), None);
        fixture.start();
        for number in 0..50 {
            let path = fixture.path(number.to_string());
            std::fs::write(path, created(number)).expect("write");
        }
        fixture.caught_up();
        fixture.umount();
        image.cut();
        image.come_back();
        fixture.mount();
        check_create(&fixture.path(""), 50).expect("what was there at the umount");
        fixture.finish();
    }
}

/// What was changed since the backup is in no log of its own.
#[test]
fn a_state_directory_that_is_lost_or_restored_is_not_believed() {
    let test = "a_state_directory_that_is_lost_or_restored_is_not_believed";
    if !is_ready(test) {
        return;
    }
    for (is_restored, is_cut) in [(true, true), (true, false), (false, true)] {
        let fixture = Fixture::started(test);
        std::fs::write(fixture.path("before"), "1").expect("write");
        fixture.caught_up();
        let (state, copy) = (fixture.state_dir(), fixture.path("../state-copy"));
        if !is_cut {
            fixture.umount();
        }
        program("cp").arg("-a").arg(state).arg(&copy).succeed();
        if !is_cut {
            fixture.mount();
        }
        std::fs::write(fixture.path("before"), "2").expect("write");
        std::fs::write(fixture.path("after"), "3").expect("write");
        fixture.caught_up();
        let history = fixture.set().history();
        fixture.lose_source();
        // The disk did not keep what came after the backup either.
        std::fs::write(fixture.path("before"), "1").expect("write below");
        std::fs::remove_file(fixture.path("after")).expect("remove below");
        std::fs::remove_dir_all(fixture.state_dir()).expect("lose the state");
        if is_restored {
            program("cp")
                .arg("-a")
                .arg(&copy)
                .arg(fixture.state_dir())
                .succeed();
            if is_cut {
                pretend_another_boot(&fixture);
            }
        }
        std::fs::remove_dir_all(&copy).expect("remove the copy");
        fixture.mount();
        let report = fixture.assert_equal();
        assert_ne!(fixture.set().history(), history);
        assert_eq!(
            fixture.set().resync().suspects,
            0,
            "a copied log was believed"
        );
        eprintln!("{test}: restored: {is_restored}, of a run: {is_cut}; {report}");
        fixture.finish();
    }
}

/// The fact that tells of the last run names another boot.
fn pretend_another_boot(fixture: &Fixture) {
    let path = fixture.state_dir().join("queue/facts/covered");
    let bytes = std::fs::read(&path).expect("read the fact");
    let own = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read the boot id");
    let own = own.trim().as_bytes();
    let at = bytes[8..]
        .windows(own.len())
        .position(|window| window == own);
    let mut bytes = bytes;
    bytes[8 + at.expect("the boot's id")] ^= 1;
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).expect("write the fact");
}
