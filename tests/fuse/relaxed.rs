//! Goal: with `order=relaxed` the kernel's cache of writes loses nothing, hides nothing, and is written back in
//! time. Method: programs of every kind, also while workers die, on a full disk and before a cut of the
//! power; what is said at the mount, what is on the replica.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{
    Fixture, Image, get_xattr, has_programs, is_ready, kill_worker, kills, program, set_xattr,
    until,
};

const RELAXED: [&str; 2] = ["-o", "order=relaxed"];

/// Longer than any test takes: nothing comes by itself.
const NEVER: [&str; 2] = ["-o", "order=relaxed,flush-interval=60s"];

fn started(test: &str, flags: &[&str]) -> Fixture {
    let mut fixture = Fixture::new(test).with_flags(flags);
    fixture.start();
    fixture
}

fn worker(fixture: &Fixture) -> u64 {
    let told = fixture.supervision();
    let pid = told.and_then(|told| told.get("worker_pid").and_then(Value::as_u64));
    pid.unwrap_or(0)
}

/// A file that is open for reading and writing.
fn open(fixture: &Fixture, name: &str) -> File {
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).read(true).write(true);
    options.open(fixture.path(name)).expect("open")
}

#[test]
fn every_kind_of_write_is_seen_and_replicated() {
    let test = "every_kind_of_write_is_seen_and_replicated";
    if !is_ready(test) || !has_programs(test, &["xfs_io"]) {
        return;
    }
    let fixture = started(test, &NEVER);
    // Parts of pages, over what is there: the page is read first, also for who may only write.
    let whole = open(&fixture, "parts");
    whole.write_all_at(&[b'a'; 20_000], 0).expect("write");
    whole.sync_all().expect("fsync");
    let only_writes = OpenOptions::new()
        .write(true)
        .open(fixture.path("parts"))
        .expect("open");
    only_writes.write_all_at(b"part", 5000).expect("write");
    let mut back = [0; 6];
    whole.read_exact_at(&mut back, 4999).expect("read");
    assert_eq!(&back, b"aparta");
    // What is cached is no hole, and the size is known to everybody.
    let sparse = open(&fixture, "sparse");
    sparse.set_len(1 << 20).expect("truncate");
    sparse.write_all_at(b"data", 512 << 10).expect("write");
    let mut seen = File::open(fixture.path("sparse")).expect("open");
    let mut all = Vec::new();
    seen.read_to_end(&mut all).expect("read");
    drop(seen);
    assert_eq!((all.len(), &all[512 << 10..][..4]), (1 << 20, &b"data"[..]));
    program("cp")
        .arg("--sparse=always")
        .args([fixture.path("sparse"), fixture.path("copied")])
        .succeed();
    assert_eq!(std::fs::read(fixture.path("copied")).expect("read"), all);
    // Appended by two.
    let append = || {
        let mut options = OpenOptions::new();
        let options = options.create(true).append(true);
        options.open(fixture.path("appended")).expect("open")
    };
    let (mut one, mut two) = (append(), append());
    for number in 0..100 {
        let line = format!("{number}\n");
        let file = if number % 2 == 0 { &mut one } else { &mut two };
        file.write_all(line.as_bytes()).expect("append");
    }
    let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
    assert_eq!(
        std::fs::metadata(fixture.path("appended"))
            .expect("stat")
            .len(),
        expected.len() as u64
    );
    // Shorter and longer again: no bytes of before.
    let mut cut = open(&fixture, "cut");
    cut.write_all(&[b'c'; 10_000]).expect("write");
    cut.set_len(3000).expect("truncate");
    cut.set_len(9000).expect("truncate");
    cut.seek(SeekFrom::End(0)).expect("seek");
    cut.write_all(b"end").expect("write");
    // Moved while dirty, removed while dirty.
    let moved = open(&fixture, "moving");
    moved.write_all_at(b"moved", 0).expect("write");
    std::fs::rename(fixture.path("moving"), fixture.path("moved")).expect("rename");
    let gone = open(&fixture, "gone");
    gone.write_all_at(b"gone", 0).expect("write");
    std::fs::remove_file(fixture.path("gone")).expect("unlink");
    // By other ways, each over what is dirty.
    for commands in [
        &["pwrite 0 64k", "fpunch 8k 8k", "pwrite 1k 1k"][..],
        &["pwrite 0 64k", "fzero 3k 9k", "falloc 60k 40k"],
        &[
            "pwrite 0 64k",
            "mmap -rw 0 64k",
            "mwrite -S 0x5a 5k 7k",
            "pwrite 9k 9k",
        ],
        &["pwrite 0 64k", "copy_range -s 3k -d 100k -l 20k parts"],
        &["pwrite 3 5", "truncate 100", "pwrite 4k 10"],
    ] {
        let name = format!("by-{}", commands[1].split(' ').next().expect("a word"));
        let words = commands.iter().flat_map(|command| ["-c", command]);
        let xfs_io = program("xfs_io").arg("-f").args(words).arg(&name);
        xfs_io.current_dir(fixture.path("")).succeed();
    }
    // And past the cache.
    let direct = ["-d", "-f", "-c", "pwrite -b 4k 0 64k", "direct"];
    program("xfs_io")
        .args(direct)
        .current_dir(fixture.path(""))
        .succeed();
    fixture.assert_equal();
    drop((whole, only_writes, sparse, one, two, cut, moved, gone));
    assert_eq!(
        std::fs::read_to_string(fixture.replica("appended")).expect("read"),
        expected
    );
    let times = |path| {
        let stat = std::fs::metadata(path).expect("stat");
        (stat.len(), stat.mtime(), stat.mtime_nsec())
    };
    for name in ["parts", "appended", "cut", "moved"] {
        let through = times(fixture.path(name));
        assert_eq!(times(fixture.replica(name)), through, "{name}");
    }
    fixture.finish();
}

#[test]
fn what_was_closed_is_captured_before_what_comes_next() {
    let test = "what_was_closed_is_captured_before_what_comes_next";
    if !is_ready(test) {
        return;
    }
    let fixture = started(test, &NEVER);
    for number in 0..20 {
        let before = fixture.set().captured_seq();
        let file = open(&fixture, "fresh");
        let made = fixture.set().captured_seq();
        file.write_all_at(&[number; 5000], 0).expect("write");
        assert!(number > 0 || made > before);
        drop(file);
        assert!(
            fixture.set().captured_seq() > made,
            "it is not written at close"
        );
        std::fs::rename(fixture.path("fresh"), fixture.path("file")).expect("rename");
    }
    fixture.finish();
}

/// The process that writes back, of this worker.
fn flusher(worker: u64) -> Option<u64> {
    let children = std::fs::read_to_string(format!("/proc/{worker}/task/{worker}/children"));
    let of_thread = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("children")).unwrap_or_default()
    };
    let tasks = std::fs::read_dir(format!("/proc/{worker}/task"))
        .ok()?
        .flatten();
    let all: String = children.into_iter().chain(tasks.map(of_thread)).collect();
    all.split_whitespace().find_map(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_it = words
            .split(|&byte| byte == 0)
            .any(|word| word == b"flush-pages");
        is_it.then(|| pid.parse().ok()).flatten()
    })
}

/// How often a process has waited.
fn waits(pid: u64) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read its status");
    let line = status.lines().find(|line| line.starts_with("voluntary_"));
    line.expect("how often it waited").to_owned()
}

#[test]
fn what_stays_open_is_written_back_in_time_and_an_idle_mount_rests() {
    let test = "what_stays_open_is_written_back_in_time_and_an_idle_mount_rests";
    if !is_ready(test) {
        return;
    }
    let fixture = started(test, &RELAXED);
    assert_eq!(flusher(worker(&fixture)), None, "nothing was written yet");
    let file = open(&fixture, "open");
    for number in 0..5u8 {
        let start = Instant::now();
        file.write_all_at(&[number; 10], u64::from(number) * 5000)
            .expect("write");
        let size = u64::from(number) * 5000 + 10;
        until("the bytes to be on the replica", || {
            let stat = std::fs::metadata(fixture.replica("open"));
            stat.is_ok_and(|stat| stat.len() == size)
        });
        // The kernel by itself takes half a minute by default.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    let process = flusher(worker(&fixture)).expect("a process that writes back");
    drop(file);
    until("the process to rest", || {
        let before = waits(process);
        // Not a synchronisation: some intervals, in which it would wake up.
        std::thread::sleep(Duration::from_millis(500));
        waits(process) == before
    });
    fixture.finish();
}

#[test]
fn a_program_that_writes_on_does_not_notice_that_workers_die() {
    let test = "a_program_that_writes_on_does_not_notice_that_workers_die";
    if !is_ready(test) {
        return;
    }
    let fixture = started(test, &RELAXED);
    let is_over = Arc::new(AtomicBool::new(false));
    let program = |name: &str, syncs: bool| {
        let (file, is_over) = (open(&fixture, name), is_over.clone());
        std::thread::spawn(move || {
            let mut number = 0u64;
            while !is_over.load(Ordering::Relaxed) {
                let at = number * 7919 % 1000 * 1000;
                file.write_all_at(&[number as u8; 1000], at).expect("write");
                if syncs && number.is_multiple_of(50) {
                    file.sync_data().expect("fdatasync");
                }
                number += 1;
            }
            file.sync_all().expect("fsync");
            number
        })
    };
    let programs = [program("careless", false), program("careful", true)];
    for _ in 0..kills() {
        let before = worker(&fixture);
        kill_worker(before);
        until("the next worker to serve", || {
            let told = fixture.supervision();
            let serves = told.and_then(|told| told.get("serves").and_then(Value::as_bool));
            serves == Some(true) && worker(&fixture) != before
        });
    }
    is_over.store(true, Ordering::Relaxed);
    for program in programs {
        let count = program.join().expect("a program had an error");
        assert!(count > 50, "{count}");
    }
    for name in ["careless", "careful"] {
        let through = std::fs::read(fixture.path(name)).expect("read");
        fixture.caught_up();
        assert!(
            std::fs::read(fixture.replica(name)).expect("read") == through,
            "{name}"
        );
    }
    fixture.finish();
}

#[test]
fn an_umount_right_after_a_write_loses_nothing() {
    let test = "an_umount_right_after_a_write_loses_nothing";
    if !is_ready(test) {
        return;
    }
    let fixture = started(test, &["-o", "order=relaxed,flush-interval=10ms"]);
    for number in 0..5u8 {
        let content = vec![number; 3_000_000];
        let file = open(&fixture, "file");
        file.write_all_at(&content, u64::from(number))
            .expect("write");
        drop(file);
        fixture.umount();
        let below = std::fs::read(fixture.path("file")).expect("read below");
        assert!(below[usize::from(number)..] == content, "round {number}");
        fixture.mount();
        fixture.assert_equal();
    }
    fixture.finish();
}

#[test]
fn a_disk_that_is_full_is_told_at_fsync_and_at_close() {
    let test = "a_disk_that_is_full_is_told_at_fsync_and_at_close";
    if !is_ready(test) || !has_programs(test, &["xfs_io"]) {
        return;
    }
    let Some(image) = Image::with(test, ("ext4", &[]), 64, "loop,nodelalloc") else {
        return;
    };
    let mut fixture = Fixture::with_data_on(test, image.path()).with_flags(&RELAXED);
    fixture.start();
    let file = open(&fixture, "large");
    let mut said = None;
    for mib in 0..100 {
        // The cache takes it; at times the error of before is told here already.
        let _ = file.write_all_at(&[1; 1 << 20], mib << 20);
        said = said.or(file.sync_all().err());
    }
    assert_eq!(
        said.and_then(|said| said.raw_os_error()),
        Some(libc::ENOSPC)
    );
    let other = ["-f", "-c", "pwrite -q 0 4m", "-c", "fsync", "other"];
    let ran = program("xfs_io")
        .args(other)
        .current_dir(fixture.path(""))
        .run();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("No space left on device"), "{said}");
    drop(file);
    for name in ["large", "other"] {
        std::fs::remove_file(fixture.path(name)).expect("unlink");
    }
    std::fs::write(fixture.path("after"), "there is space again").expect("write");
    // Pages were lost, which a wait that writes back says, once.
    let _ = fixture.wait(Duration::from_secs(60));
    fixture.finish();
}

#[test]
fn a_write_takes_set_id_bits_and_capabilities() {
    let test = "a_write_takes_set_id_bits_and_capabilities";
    if !is_ready(test) || !has_programs(test, &["setpriv"]) {
        return;
    }
    let fixture = started(test, &NEVER);
    let capability =
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    for name in ["set-id", "capable"] {
        std::fs::write(fixture.path(name), "before").expect("write");
        std::os::unix::fs::chown(fixture.path(name), Some(65534), Some(65534)).expect("chown");
    }
    let mode = std::fs::Permissions::from_mode(0o6777);
    std::fs::set_permissions(fixture.path("set-id"), mode).expect("chmod");
    let capable = File::open(fixture.path("capable")).expect("open");
    set_xattr(&capable, "security.capability", capability, 0).expect("set capabilities");
    drop(capable);
    for name in ["set-id", "capable"] {
        let script = format!("printf after 1<> {}", fixture.path(name).display());
        let user = [
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sh",
            "-c",
        ];
        program("setpriv").args(user).arg(script).succeed();
    }
    for path in [fixture.path("set-id"), fixture.replica("set-id")] {
        fixture.caught_up();
        let stat = std::fs::metadata(&path).expect("stat");
        assert_eq!(stat.mode() & 0o7777, 0o777, "{}", path.display());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "aftere");
    }
    for path in [fixture.path("capable"), fixture.replica("capable")] {
        let file = File::open(&path).expect("open");
        assert!(
            get_xattr(&file, "security.capability").is_err(),
            "{}",
            path.display()
        );
    }
    fixture.finish();
}

#[test]
fn order_is_of_the_mount() {
    let test = "order_is_of_the_mount";
    if !is_ready(test) {
        return;
    }
    let fixture = started(test, &RELAXED);
    let before = worker(&fixture);
    fixture.doppelfs().args(["restart", "data"]).succeed();
    assert_ne!(worker(&fixture), before);
    let file = open(&fixture, "file");
    file.write_all_at(b"written by the next worker", 0)
        .expect("write");
    until("the next worker's process to write back", || {
        std::fs::read(fixture.replica("file")).is_ok_and(|bytes| bytes.ends_with(b"next worker"))
    });
    drop(file);
    fixture.finish();
}
