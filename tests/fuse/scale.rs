//! Goal: more files than descriptors. A million inodes known to the kernel, and more open files than
//! the worker may have descriptors: no EMFILE, memory bounded and given back. Method: the worker runs
//! with a small hard limit; counts and memory are read from status and /proc.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use doppelfs::sys;

use crate::support::{Fixture, Image, is_ready, nodes_max, program, until};

/// Descriptors that the worker may have.
const LIMIT: u64 = 1024;

/// More memory than this for each node is a defect (bytes).
const NODE_BYTES_MAX: u64 = 128;

fn memory_of(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.expect("VmRSS").trim().trim_end_matches(" kB");
    kib.trim().parse::<u64>().expect("a number") << 10
}

fn descriptors_of(pid: u64) -> u64 {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    listed.count() as u64
}

impl Fixture {
    /// Lowers the limit of the worker, which raises its soft limit to the hard one at its start.
    fn with_descriptors(self, limit: u64) -> Fixture {
        self.with_prefix(&["prlimit", &format!("--nofile={limit}:{limit}")])
    }
}

/// Makes `count` files below `root` in directories of 1,000, not through the mount.
fn plant_many(root: &Path, count: u64) {
    for number in 0..count {
        let dir = root.join((number / 1000).to_string());
        if number % 1000 == 0 {
            std::fs::create_dir(&dir).expect("mkdir");
        }
        File::create(dir.join((number % 1000).to_string())).expect("create");
    }
}

/// Looks at every file by its name; how many there were.
fn look_at_all(root: &Path) -> u64 {
    let mut count = 0;
    for dir in std::fs::read_dir(root).expect("list") {
        let dir = dir.expect("an entry").path();
        if !dir.is_dir() || dir.ends_with("lost+found") {
            continue;
        }
        for file in std::fs::read_dir(&dir).expect("list") {
            let stat = file.expect("an entry").metadata().expect("stat");
            assert_eq!((stat.nlink(), stat.size()), (1, 0));
            count += 1;
        }
    }
    count
}

#[test]
fn nodes_take_little_memory_and_no_descriptors() {
    let test = "nodes_take_little_memory_and_no_descriptors";
    if !is_ready(test) {
        return;
    }
    let count = nodes_max();
    let Some(image) = Image::new(test, "ext4", 256 + count / 60) else {
        return;
    };
    plant_many(image.path(), count);
    let fixture = Fixture::over(test, image.path())
        .without_target()
        .with_descriptors(LIMIT);
    fixture.mount();
    let pid = fixture.set().worker_pid();
    let before = memory_of(pid);
    assert_eq!(look_at_all(&fixture.path("")), count);
    let (known, lookups) = {
        let set = fixture.set();
        (set.kernel("nodes"), set.kernel("lookups"))
    };
    let (during, descriptors) = (memory_of(pid), descriptors_of(pid));
    eprintln!(
        "{count} files: {known} nodes, {lookups} lookups, {descriptors} descriptors, memory {before} + {} bytes, {} a node",
        during.saturating_sub(before),
        during.saturating_sub(before) / known.max(1)
    );
    assert!(known >= count, "the kernel knows {known} of {count} nodes");
    assert!(descriptors < LIMIT);
    let allowed = known * NODE_BYTES_MAX + (16 << 20);
    assert!(during < before + allowed, "{during} bytes");
    until("the kernel to forget the nodes", || {
        std::fs::write("/proc/sys/vm/drop_caches", "2").expect("drop caches");
        fixture.set().kernel("nodes") == 0
    });
    let set = fixture.set();
    assert_eq!(
        (set.kernel("lookups"), set.kernel("lookups_unknown")),
        (0, 0)
    );
    let after = memory_of(pid);
    eprintln!(
        "memory after the kernel forgot them: {before} + {}",
        after.saturating_sub(before)
    );
    assert!(
        after < before + (16 << 20) + (during - before.min(during)) / 4,
        "{after} bytes are left of {during}"
    );
    // And again: a name looked up anew finds its file.
    assert_eq!(look_at_all(&fixture.path("")), count);
    fixture.umount();
}

#[test]
fn more_files_are_open_than_the_worker_has_descriptors() {
    let test = "more_files_are_open_than_the_worker_has_descriptors";
    if !is_ready(test) {
        return;
    }
    let count = LIMIT * 2;
    if sys::open_files_limit() < count + 200 {
        eprintln!("SKIPPED {test}: this process may have only few open files");
        return;
    }
    let mut fixture = Fixture::new(test).with_descriptors(LIMIT);
    fixture.start();
    let pid = fixture.set().worker_pid();
    std::fs::create_dir(fixture.path("many")).expect("mkdir");
    let files: Vec<File> = (0..count)
        .map(|number| {
            let path = fixture.path(format!("many/{number}"));
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).open(path);
            file.unwrap_or_else(|e| panic!("file {number}: {e}"))
        })
        .collect();
    assert_eq!(fixture.set().kernel("open_files"), count);
    // Some lose their name while open: a few of those that hold no descriptor at that moment, too.
    let removed = |number: usize| number.is_multiple_of(17);
    for number in (0..files.len()).filter(|n| removed(*n)) {
        std::fs::remove_file(fixture.path(format!("many/{number}"))).expect("unlink");
    }
    for round in 0..3u64 {
        for (number, file) in files.iter().enumerate() {
            let text = format!("{number} in round {round}");
            file.write_all_at(text.as_bytes(), round * 32)
                .unwrap_or_else(|e| panic!("file {number}: {e}"));
        }
        for (number, file) in files.iter().enumerate().rev() {
            let text = format!("{number} in round {round}");
            let mut read = vec![0; text.len()];
            file.read_exact_at(&mut read, round * 32)
                .unwrap_or_else(|e| panic!("file {number}: {e}"));
            assert_eq!(String::from_utf8_lossy(&read), text);
            let links = file.metadata().expect("fstat").nlink();
            assert_eq!(links, u64::from(!removed(number)), "file {number}");
        }
    }
    let descriptors = descriptors_of(pid);
    eprintln!("{count} open files, {descriptors} descriptors");
    assert!(descriptors < LIMIT);
    drop(files);
    until("the files to be closed", || {
        fixture.set().kernel("open_files") == 0
    });
    fixture.finish();
}

#[test]
fn a_removed_working_directory_is_still_there() {
    let test = "a_removed_working_directory_is_still_there";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    let dir = fixture.path("here");
    std::fs::create_dir(&dir).expect("mkdir");
    let script = "rmdir ../here && stat -c %h . && ls -la . && ! mkdir x && ! touch y";
    let shown = program("sh").args(["-c", script]).current_dir(&dir).run();
    let below = fixture.outside("here");
    std::fs::create_dir(&below).expect("mkdir");
    let same = program("sh").args(["-c", script]).current_dir(&below).run();
    assert_eq!(
        (shown.code, &shown.stderr),
        (same.code, &same.stderr),
        "{shown:?}"
    );
    assert_eq!(shown.stdout.lines().next(), Some("0"), "{shown:?}");
    fixture.finish();
}
