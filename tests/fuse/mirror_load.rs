//! Goal: a mirror of a directory that is written all the while ends exact. Method: writers and
//! directory renamers work from before the connection until after the last image record; each round
//! begins with a new target. Sizes by environment (`DOPPELFS_MIRROR_FILES`, `DOPPELFS_MIRROR_BYTES`,
//! `DOPPELFS_ROUNDS`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{
    Causes, Fixture, is_ready, mirror_size, program, random_bytes, rounds, seed, until,
};

/// Directories that the files are spread over, two levels.
const DIRS: u64 = 40;

/// Calls made while the mirror ran.
#[derive(Debug, Default)]
struct Load {
    is_over: AtomicBool,
    writes: AtomicU64,
    renames: AtomicU64,
}

/// Ends the load when dropped.
struct EndOfLoad<'a>(&'a Load);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

fn plant(root: &Path, seed: u64, files: u64, bytes: u64) {
    let each = usize::try_from(bytes / files.max(1)).expect("a size");
    let content = random_bytes(seed, each + 4096);
    for number in 0..files {
        let dir = root.join(format!("top-{}/dir-{}", number % 8, number % DIRS));
        if number < DIRS * 8 {
            std::fs::create_dir_all(&dir).expect("mkdir");
        }
        let start = usize::try_from(number % 4096).expect("small");
        let path = dir.join(format!("file-{number}"));
        std::fs::write(path, &content[start..start + each]).expect("write");
    }
}

/// Moves directories about, for ever in and out of each other.
fn rename_directories(root: &Path, seed: u64, load: &Load) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut places: Vec<PathBuf> = Vec::new();
    for number in 0..DIRS {
        places.push(root.join(format!("top-{}/dir-{number}", number % 8)));
    }
    while !load.is_over.load(Ordering::Relaxed) {
        let which = random.random_range(0..places.len());
        let top = random.random_range(0..8);
        let number = load.renames.fetch_add(1, Ordering::Relaxed);
        let new = root.join(format!("top-{top}/moved-{which}-{number}"));
        std::fs::rename(&places[which], &new).expect("rename a directory");
        places[which] = new;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Changes files wherever they are at the moment; one that was just moved away is left.
fn write_files(root: &Path, seed: u64, files: u64, load: &Load) {
    let mut random = StdRng::seed_from_u64(seed);
    let walk = |random: &mut StdRng| -> Option<PathBuf> {
        let top = root.join(format!("top-{}", random.random_range(0..8)));
        let dirs: Vec<_> = std::fs::read_dir(top).ok()?.flatten().collect();
        let dir = dirs.get(random.random_range(0..dirs.len().max(1)))?.path();
        let names: Vec<_> = std::fs::read_dir(dir).ok()?.flatten().take(50).collect();
        Some(
            names
                .get(random.random_range(0..names.len().max(1)))?
                .path(),
        )
    };
    while !load.is_over.load(Ordering::Relaxed) {
        let Some(path) = walk(&mut random) else {
            continue;
        };
        let number = load.writes.fetch_add(1, Ordering::Relaxed);
        match random.random_range(0..6) {
            0 => drop(std::fs::remove_file(&path)),
            1 => {
                let new = path.with_file_name(format!("new-{}", files + number));
                drop(std::fs::rename(&path, new));
            }
            2 => {
                let link = root
                    .join(format!("top-{}", number % 8))
                    .join(format!("link-{number}"));
                drop(std::fs::hard_link(&path, link));
            }
            3 => drop(std::fs::write(
                path.with_extension("more"),
                number.to_string(),
            )),
            _ => {
                let Ok(file) = File::options().write(true).open(&path) else {
                    continue;
                };
                let at = random.random_range(0..100_000);
                file.write_all_at(&random_bytes(number, 3_000), at)
                    .expect("write");
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
}

/// One round: connect while everything moves, mirror, stop, compare.
fn mirror_once(round: u64, seed: u64) {
    let (files, bytes) = mirror_size();
    let mut fixture = Fixture::new(&format!("mirror-{round}"));
    plant(&fixture.path(""), seed, files, bytes);
    fixture.target.start();
    fixture.proxy.cut();
    fixture.mount();
    let load = Load::default();
    let (root, load) = (fixture.path(""), &load);
    std::thread::scope(|scope| {
        scope.spawn(|| rename_directories(&root, seed, load));
        for writer in 1..=2 {
            let root = &root;
            scope.spawn(move || write_files(root, seed + writer, files, load));
        }
        // Also when an assertion below fails: the scope waits for these threads.
        let _end = EndOfLoad(load);
        let causes = Causes::start(&root.join("causes"));
        let done = || {
            let (writes, renames) = (&load.writes, &load.renames);
            (
                writes.load(Ordering::Relaxed),
                renames.load(Ordering::Relaxed),
            )
        };
        until("the load to have begun", || done().0 > 50 && done().1 > 5);
        let before = done();
        fixture.proxy.mend();
        until("the mirror to have begun", || {
            fixture.connection().mirror_bytes() > 0
        });
        until("the mirror to have ended", || {
            let connection = fixture.connection();
            connection.mirror_state() == "idle" && connection.data_state() == "ok"
        });
        let during = (done().0 - before.0, done().1 - before.1);
        let sent = fixture.connection().mirror_bytes();
        let pairs = causes.stop();
        println!(
            "round {round}: {files} files, {sent} bytes mirrored, during it {} writes and {} \
             directory renames, pairs {pairs:?}",
            during.0, during.1
        );
        assert!(during.0 > 0 && during.1 > 0, "no load while the mirror ran");
    });
    fixture.finish();
}

#[test]
fn a_mirror_under_load_ends_equal_in_every_round() {
    let test = "a_mirror_under_load_ends_equal_in_every_round";
    if !is_ready(test) {
        return;
    }
    let seed = seed(test);
    for round in 1..=rounds() {
        mirror_once(round, seed + round * 10);
    }
}

#[test]
fn a_mirror_goes_on_after_cuts_and_kills_of_the_target() {
    let test = "a_mirror_goes_on_after_cuts_and_kills_of_the_target";
    if !is_ready(test) {
        return;
    }
    let mut random = StdRng::seed_from_u64(seed(test));
    let mut fixture = Fixture::new("mirror-cuts");
    let (files, bytes) = mirror_size();
    plant(&fixture.path(""), 1, files, bytes);
    fixture.target.start();
    fixture.mount();
    let part = bytes / 8;
    for interruption in 0..6u64 {
        let before = fixture.proxy.forwarded_bytes();
        let enough = random.random_range(1..part.max(2));
        until("a part of the mirror or its end", || {
            let moved = fixture.proxy.forwarded_bytes() > before + enough;
            moved
                || fixture
                    .find_set()
                    .is_some_and(|set| set.connection().data_state() == "ok")
        });
        if interruption % 2 == 0 {
            fixture.proxy.cut();
            fixture.stands_still();
            fixture.proxy.mend();
        } else {
            fixture.target.kill();
            fixture.target.start();
        }
    }
    fixture.finish();
}

#[test]
fn a_mirror_goes_on_after_a_restart_of_the_source() {
    if !is_ready("a_mirror_goes_on_after_a_restart_of_the_source") {
        return;
    }
    let mut fixture = Fixture::new("mirror-restart");
    let (files, bytes) = mirror_size();
    plant(&fixture.path(""), 1, files, bytes);
    fixture.target.start();
    fixture.mount();
    // Not what went over the wire: files that are alike are small there.
    until("a part of the mirror", || {
        let set = fixture.find_set();
        set.is_some_and(|set| set.connection().mirror_bytes() > bytes / 10)
    });
    fixture.umount();
    std::fs::remove_dir_all(fixture.path("top-3")).expect("remove while nobody watches");
    fixture.mount();
    std::fs::write(fixture.path("after"), b"the restart").expect("write");
    fixture.finish();
}

#[test]
fn a_mirror_on_demand_repairs_a_replica_changed_by_hand() {
    if !is_ready("a_mirror_on_demand_repairs_a_replica_changed_by_hand") {
        return;
    }
    let fixture = Fixture::started("by-hand");
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    for number in 0..50 {
        std::fs::write(fixture.path(format!("dir/file-{number}")), b"content").expect("write");
    }
    fixture.caught_up();
    std::fs::write(fixture.replica("dir/file-7"), b"CONTENT").expect("write");
    std::fs::write(fixture.replica("dir/surplus"), b"").expect("write");
    program("rm").arg(fixture.replica("dir/file-9")).succeed();
    assert!(!fixture.report().is_equal());
    fixture
        .doppelfs()
        .args(["mirror", "start", "data", "--full"])
        .succeed();
    fixture.finish();
}
