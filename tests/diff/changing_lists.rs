//! Goal: a directory can be read while its entries come and go, and a remembered place in it stays
//! good: whatever is there all the time is listed exactly once, in one order. Method: getdents(2) in
//! small pieces, changes between them, lseek(2) back to places of earlier pieces; first beside the
//! mount, to see that the file system below keeps the promise itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::calls::{self, Entry};
use super::listing::entries;
use super::support::{Fixture, Image, is_ready, seed};

/// Entries that stay; enough for several levels of each file system's index.
const STAY: usize = 2_000;
/// Entries that come and go.
const COME: usize = 500;

fn touch(dir: &Path, name: &str) {
    File::create(dir.join(name)).expect("create");
}

fn plant(dir: &Path) {
    std::fs::create_dir(dir).expect("mkdir");
    for number in 0..STAY {
        touch(dir, &format!("stay-{number}"));
    }
    for number in 0..COME {
        touch(dir, &format!("come-{number}"));
    }
}

/// Some entries go, some come.
fn churn(dir: &Path, rng: &mut StdRng, there: &mut BTreeSet<usize>, next: &mut usize) {
    for _ in 0..rng.random_range(0..6) {
        let some = *there
            .range(rng.random_range(0..*next)..)
            .next()
            .unwrap_or(&0);
        if rng.random_bool(0.5) && there.remove(&some) {
            std::fs::remove_file(dir.join(format!("come-{some}"))).expect("unlink");
        } else {
            touch(dir, &format!("come-{next}"));
            there.insert(*next);
            *next += 1;
        }
    }
}

fn stays(entry: &Entry) -> bool {
    entry.name.starts_with(b"stay-")
}

/// Reads `dir` while it changes; what was listed wrongly.
fn read_while_changing(dir: &Path, seed: u64) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut there, mut next): (BTreeSet<usize>, usize) = ((0..COME).collect(), COME);
    let file = File::open(dir).expect("open a directory");
    let mut wrong = Vec::new();
    let mut listed: Vec<Entry> = Vec::new();
    let mut seeks = 40;
    loop {
        let size = [200, 512, 4096][rng.random_range(0..3)];
        let got = calls::getdents(file.as_raw_fd(), size, &mut listed);
        if got < 0 {
            wrong.push(format!("getdents: {got}"));
            break;
        }
        churn(dir, &mut rng, &mut there, &mut next);
        if seeks > 0 && !listed.is_empty() && (got == 0 || rng.random_ratio(1, 8)) {
            seeks -= 1;
            // Back to any place that was passed; what follows it is read again.
            let place = rng.random_range(0..listed.len());
            let passed = listed.split_off(place + 1);
            let at = listed[place].next;
            if calls::lseek(file.as_raw_fd(), at, libc::SEEK_SET) != at {
                wrong.push(format!("lseek to {at}"));
            }
            // The same entries follow, in the same order, as far as they were read before.
            let again = read_stays(&file, passed.iter().filter(|entry| stays(entry)).count());
            let passed: Vec<_> = passed.iter().filter(|entry| stays(entry)).collect();
            for (was, is) in passed.iter().zip(again.iter().filter(|entry| stays(entry))) {
                if was.name != is.name {
                    let (was, is) = (shown(was), shown(is));
                    wrong.push(format!("behind {at}: {is}, was {was}"));
                    break;
                }
            }
            listed.extend(again);
        } else if got == 0 {
            break;
        }
    }
    let mut names: Vec<String> = listed.iter().filter(|e| stays(e)).map(shown).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        wrong.push("an entry is listed twice".to_owned());
    }
    names.dedup();
    if names.len() != STAY {
        wrong.push(format!("{} of {STAY} entries are listed", names.len()));
    }
    // From the beginning, what is there now.
    if calls::lseek(file.as_raw_fd(), 0, libc::SEEK_SET) != 0 {
        wrong.push("no way back to the beginning".to_owned());
    }
    let now = entries(file.as_raw_fd(), 1000).1;
    if now.len() != 2 + STAY + there.len() {
        let wanted = 2 + STAY + there.len();
        wrong.push(format!("{} entries at last, of {wanted}", now.len()));
    }
    wrong
}

/// Reads on until there are `count` of those that stay.
fn read_stays(file: &File, count: usize) -> Vec<Entry> {
    let mut all = Vec::new();
    while all.iter().filter(|entry| stays(entry)).count() < count {
        if calls::getdents(file.as_raw_fd(), 400, &mut all) <= 0 {
            break;
        }
    }
    all
}

fn shown(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

fn keeps_places(test: &str, kind: &str) {
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, kind, 512) else {
        return;
    };
    let seed = seed(test);
    let beside = image.path().join("beside");
    plant(&beside);
    assert_eq!(read_while_changing(&beside, seed), [""; 0], "below itself");
    let mut fixture = Fixture::on(kind, image.path());
    fixture.start();
    let dir = fixture.path("dir");
    plant(&dir);
    for round in 0..3 {
        let wrong = read_while_changing(&dir, seed + round);
        assert_eq!(wrong, [""; 0], "round {round}");
        for entry in std::fs::read_dir(&dir).expect("list") {
            let name = entry.expect("an entry").file_name();
            if name.to_string_lossy().starts_with("come-") {
                std::fs::remove_file(dir.join(name)).expect("unlink");
            }
        }
        (0..COME).for_each(|number| touch(&dir, &format!("come-{number}")));
    }
    fixture.finish();
}

#[test]
fn a_changing_directory_keeps_places_on_ext4() {
    keeps_places("a_changing_directory_keeps_places_on_ext4", "ext4");
}

#[test]
fn a_changing_directory_keeps_places_on_xfs() {
    keeps_places("a_changing_directory_keeps_places_on_xfs", "xfs");
}

#[test]
fn a_changing_directory_keeps_places_on_btrfs() {
    keeps_places("a_changing_directory_keeps_places_on_btrfs", "btrfs");
}
