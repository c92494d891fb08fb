//! Goal: holes and preallocation follow. Method: fallocate(2) in its modes, compared with holes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use doppelfs::sys;

use crate::support::{Fixture, is_ready, random_bytes};

const MIB: u64 = 1 << 20;

fn file_of(fixture: &Fixture, name: &str, bytes: usize) -> File {
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(fixture.path(name));
    let file = file.expect("create");
    file.write_all_at(&random_bytes(3, bytes), 0)
        .expect("write");
    file
}

#[test]
fn a_sparse_file_stays_sparse() {
    if !is_ready("a_sparse_file_stays_sparse") {
        return;
    }
    let fixture = Fixture::started("sparse");
    let file = file_of(&fixture, "sparse", 0);
    file.set_len(1 << 33).expect("truncate");
    file.write_all_at(b"far out", 1 << 32).expect("write");
    file.write_all_at(b"first", 12_345).expect("write");
    drop(file);
    fixture.assert_equal();
    let replica = fixture.replica("sparse").metadata().expect("stat");
    assert_eq!(replica.len(), 1 << 33);
    assert!(replica.blocks() * 512 < MIB, "{} blocks", replica.blocks());
    fixture.finish();
}

#[test]
fn punched_and_zeroed_ranges_follow() {
    if !is_ready("punched_and_zeroed_ranges_follow") {
        return;
    }
    let fixture = Fixture::started("ranges");
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let modes = [
        ("punch", libc::FALLOC_FL_PUNCH_HOLE | keep, MIB, 2 * MIB),
        (
            "punch-odd",
            libc::FALLOC_FL_PUNCH_HOLE | keep,
            5_000,
            MIB + 77,
        ),
        ("zero", libc::FALLOC_FL_ZERO_RANGE, MIB, MIB),
        (
            "zero-keep",
            libc::FALLOC_FL_ZERO_RANGE | keep,
            3 * MIB,
            4 * MIB,
        ),
        ("zero-grow", libc::FALLOC_FL_ZERO_RANGE, 3 * MIB, 4 * MIB),
        ("allocate", 0, 3 * MIB, 4 * MIB),
        ("allocate-keep", keep, 3 * MIB, 4 * MIB),
    ];
    for (name, mode, offset, length) in modes {
        let file = file_of(&fixture, name, 4 << 20);
        sys::fallocate(file.as_fd(), mode, offset, length)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let size = file.metadata().expect("stat").len();
        let grows = mode & keep == 0;
        let expected = if grows {
            (4 * MIB).max(offset + length)
        } else {
            4 * MIB
        };
        assert_eq!(size, expected, "{name}");
    }
    fixture.finish();
}

#[test]
fn copy_file_range_follows() {
    if !is_ready("copy_file_range_follows") {
        return;
    }
    let fixture = Fixture::started("copy-range");
    let from = file_of(&fixture, "from", 5 << 20);
    let to = file_of(&fixture, "to", 1000);
    let mut range = sys::CopyRange {
        from: 10,
        to: 500,
        length: 4 << 20,
    };
    while range.length > 0 {
        let count = sys::copy_file_range(from.as_fd(), to.as_fd(), range).expect("copy");
        assert!(count > 0, "copied nothing");
        range.from += count as u64;
        range.to += count as u64;
        range.length -= count;
    }
    drop((from, to));
    let original = std::fs::read(fixture.path("from")).expect("read");
    let copy = std::fs::read(fixture.path("to")).expect("read");
    assert!(
        copy[500..] == original[10..10 + (4 << 20)],
        "the copy differs"
    );
    fixture.finish();
}

#[test]
fn truncation_to_any_length_follows() {
    if !is_ready("truncation_to_any_length_follows") {
        return;
    }
    let fixture = Fixture::started("truncate");
    for (number, length) in [0, 1, 4095, 4096, 4097, MIB, MIB + 1, 9 * MIB]
        .into_iter()
        .enumerate()
    {
        let file = file_of(&fixture, &format!("open-{number}"), 2 << 20);
        file.set_len(length).expect("ftruncate");
        drop(file_of(&fixture, &format!("closed-{number}"), 2 << 20));
        let path = fixture.path(format!("closed-{number}"));
        let length = length.to_string();
        crate::support::program("truncate")
            .args(["-s", &length])
            .arg(path)
            .succeed();
    }
    fixture.finish();
}
