//! Goal: unusual ways to write are captured whole. Method: do them through the mount, compare.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use doppelfs::sys::SharedWords;

use crate::support::{Fixture, is_ready, open_dir, program, random_bytes, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const APPENDERS: u32 = 4;
const LINES_EACH: u32 = 500;

#[test]
fn four_processes_append_to_one_file_without_losing_a_line() {
    if !is_ready("four_processes_append_to_one_file_without_losing_a_line") {
        return;
    }
    let fixture = Fixture::started("append");
    let log = fixture.path("log");
    let script = "i=0; while [ $i -lt $1 ]; do i=$((i+1)); echo \"$0 line $i\"; done >> \"$2\"";
    std::thread::scope(|scope| {
        for process in 0..APPENDERS {
            let log = &log;
            scope.spawn(move || {
                let (process, lines) = (process.to_string(), LINES_EACH.to_string());
                program("sh")
                    .args(["-c", script, &process, &lines])
                    .arg(log)
                    .succeed();
            });
        }
    });
    fixture.caught_up();
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    let text = std::fs::read_to_string(fixture.replica("log")).expect("read");
    for line in text.lines() {
        let (process, number) = line.split_once(" line ").expect("a whole line");
        let last = next.entry(process.to_owned()).or_default();
        *last += 1;
        assert_eq!(number, last.to_string(), "process {process}");
    }
    assert_eq!(next.values().sum::<u32>(), APPENDERS * LINES_EACH);
    fixture.finish();
}

#[test]
fn a_shared_mapping_is_captured() {
    if !is_ready("a_shared_mapping_is_captured") {
        return;
    }
    let fixture = Fixture::started("mapping");
    let path = fixture.path("words");
    let count = 64 << 10;
    let words = SharedWords::open(&path, count).expect("map a file");
    for index in (0..count).step_by(7) {
        words.store(index, index as u64 * 3 + 1);
    }
    // Dirty pages of a mapping that still exists are flushed by `wait`.
    fixture.assert_equal();
    words.store(5, 77);
    drop(words);
    fixture.finish();
}

#[test]
fn a_file_written_by_calls_and_a_mapping_at_once_is_captured() {
    if !is_ready("a_file_written_by_calls_and_a_mapping_at_once_is_captured") {
        return;
    }
    let fixture = Fixture::started("mixed");
    let path = fixture.path("words");
    let words = SharedWords::open(&path, 8 << 10).expect("map a file");
    let file = std::fs::File::options()
        .write(true)
        .open(&path)
        .expect("open");
    for round in 0..50u64 {
        words.store(round as usize, round);
        file.write_all_at(&round.to_le_bytes(), 32 << 10 | round << 3)
            .expect("write");
        if round % 10 == 0 {
            file.sync_all().expect("fsync");
        }
    }
    assert_eq!(
        words.load(4 << 10 | 7),
        7,
        "the mapping shows what a call wrote"
    );
    drop((words, file));
    fixture.finish();
}

#[test]
fn random_writes_truncations_and_reopens_follow() {
    let test = "random_writes_truncations_and_reopens_follow";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started("random");
    let first = seed(test);
    for round in 0..4 {
        exercise(&fixture.path(format!("file-{round}")), first + round);
    }
    fixture.finish();
}

/// Random operations on one file, mirrored in memory and checked against it.
fn exercise(path: &std::path::Path, seed: u64) {
    const BYTES_MAX: usize = 1 << 20;
    let mut random = StdRng::seed_from_u64(seed);
    let mut model: Vec<u8> = Vec::new();
    let open = || {
        let mut options = std::fs::File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(path).expect("open")
    };
    let mut file = open();
    for step in 0..1_000u64 {
        let at = random.random_range(0..BYTES_MAX);
        let length = random.random_range(1..40_000.min(BYTES_MAX - at + 1).max(2));
        match random.random_range(0..10) {
            0..5 => {
                let bytes = random_bytes(seed ^ step, length);
                file.write_all_at(&bytes, at as u64).expect("write");
                model.resize(model.len().max(at + length), 0);
                model[at..at + length].copy_from_slice(&bytes);
            }
            5..7 => {
                file.set_len(at as u64).expect("truncate");
                model.resize(at, 0);
            }
            7 => {
                file.sync_data().expect("fdatasync");
            }
            8 => file = open(),
            _ => {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(0)).expect("rewind");
                file.read_to_end(&mut bytes).expect("read");
                assert!(bytes == model, "seed {seed}, step {step}: content differs");
            }
        }
    }
}

#[test]
fn files_unlinked_while_open_leave_nothing_behind() {
    if !is_ready("files_unlinked_while_open_leave_nothing_behind") {
        return;
    }
    let fixture = Fixture::started("unlinked");
    let mut files = Vec::new();
    for number in 0..20u8 {
        let path = fixture.path(format!("file-{number}"));
        let mut options = std::fs::File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("create");
        file.write_all(&[number; 10_000]).expect("write");
        std::fs::remove_file(&path).expect("unlink");
        file.write_all(&[number ^ 0xff; 10_000])
            .expect("write after unlink");
        file.set_len(15_000).expect("truncate after unlink");
        files.push(file);
    }
    fixture.assert_equal();
    for (number, file) in files.iter().enumerate() {
        let mut bytes = vec![0; 15_000];
        file.read_exact_at(&mut bytes, 0)
            .expect("read after unlink");
        let number = u8::try_from(number).expect("few");
        assert_eq!(
            (bytes[0], bytes[9_999], bytes[10_000]),
            (number, number, number ^ 0xff)
        );
    }
    // A name taken again is another file.
    std::fs::write(fixture.path("file-3"), b"new").expect("write");
    drop(files);
    fixture.finish();
}

#[test]
fn an_open_file_replaced_by_rename_keeps_its_readers() {
    if !is_ready("an_open_file_replaced_by_rename_keeps_its_readers") {
        return;
    }
    let fixture = Fixture::started("replaced");
    std::fs::write(fixture.path("file"), b"old").expect("write");
    let old = std::fs::File::open(fixture.path("file")).expect("open");
    std::fs::write(fixture.path("draft"), b"new content").expect("write");
    std::fs::rename(fixture.path("draft"), fixture.path("file")).expect("rename");
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(&bytes, b"old");
    drop(old);
    fixture.finish();
}

#[test]
fn synchronous_and_direct_writes_are_captured() {
    if !is_ready("synchronous_and_direct_writes_are_captured") {
        return;
    }
    let fixture = Fixture::started("sync-flags");
    let flags = [
        libc::O_SYNC,
        libc::O_DSYNC,
        libc::O_APPEND | libc::O_SYNC,
        libc::O_TRUNC,
    ];
    for (number, flag) in flags.into_iter().enumerate() {
        let path = fixture.path(format!("file-{number}"));
        std::fs::write(&path, b"here before").expect("write");
        let mut options = std::fs::File::options();
        let mut file = options
            .write(true)
            .custom_flags(flag)
            .open(&path)
            .expect("open");
        file.write_all(&random_bytes(number as u64, 100_000))
            .expect("write");
    }
    doppelfs::sys::syncfs(std::os::fd::AsFd::as_fd(&open_dir(&fixture.path("")))).expect("sync");
    fixture.finish();
}
