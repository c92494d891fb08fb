//! Goal: a long absence of the target costs disk, not memory, and no write waits for it. Method:
//! incompressible bytes with the target stopped (`DOPPELFS_BACKLOG_BYTES`); a small limit.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Fixture, backlog_bytes, is_ready, random_bytes, until};

const CHUNK_BYTES: usize = 1 << 20;
const RSS_BYTES_MAX: u64 = 150 << 20;
const RESTART_MAX: Duration = Duration::from_secs(20);

/// Longest time that one write of a MiB may take: far above a busy disk, far below a timeout.
const WRITE_MAX: Duration = Duration::from_secs(20);

/// Writes incompressible bytes in files of 64 MiB; returns the longest single write.
fn write_load(dir: &Path, bytes: u64) -> Duration {
    let block = random_bytes(9, CHUNK_BYTES + 4096);
    let mut longest = Duration::ZERO;
    let mut file = None;
    for number in 0..bytes / CHUNK_BYTES as u64 {
        if number % 64 == 0 {
            let path = dir.join(format!("load-{}", number / 64));
            file = Some(std::fs::File::create(path).expect("create"));
        }
        // Another part of the block each time: no two chunks are alike.
        let start = usize::try_from(number % 4096).expect("small");
        let begun = Instant::now();
        let file = file.as_mut().expect("opened above");
        file.write_all(&block[start..start + CHUNK_BYTES])
            .expect("write");
        longest = longest.max(begun.elapsed());
    }
    longest
}

fn rss_bytes(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a line VmRSS");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kib << 10
}

#[test]
fn a_backlog_costs_little_memory_survives_a_restart_and_drains() {
    if !is_ready("a_backlog_costs_little_memory_survives_a_restart_and_drains") {
        return;
    }
    let mut fixture = Fixture::started("backlog");
    fixture.target.stop();
    let bytes = backlog_bytes();
    let longest = write_load(&fixture.path(""), bytes);
    let set = fixture.set();
    let (rss, queued) = (rss_bytes(set.worker_pid()), set.queue_disk_bytes());
    assert!(queued >= bytes, "{queued} bytes queued of {bytes}");
    fixture.umount();
    let mounted = fixture.mount();
    println!(
        "backlog of {queued} bytes: source RSS {rss} bytes, restart {:?}, longest write {longest:?}",
        mounted.took
    );
    assert!(rss < RSS_BYTES_MAX, "source RSS {rss}");
    assert!(mounted.took < RESTART_MAX, "mount took {:?}", mounted.took);
    assert!(longest < WRITE_MAX, "a write took {longest:?}");
    assert!(
        fixture.set().queue_disk_bytes() >= bytes,
        "the queue became shorter by itself"
    );
    fixture.target.start();
    let drained = fixture.assert_equal().counts.bytes;
    assert!(drained >= bytes, "{drained} bytes compared");
    until("the disk space to come back", || {
        let disk_bytes = fixture.set().queue_disk_bytes();
        disk_bytes <= 2 * doppelfs::types::limits::SEGMENT_BYTES_MAX
    });
    assert!(
        rss_bytes(fixture.set().worker_pid()) < RSS_BYTES_MAX,
        "RSS after draining"
    );
    fixture.finish();
}

#[test]
fn a_queue_over_its_limit_is_given_up_visibly_and_mirrored_by_itself() {
    if !is_ready("a_queue_over_its_limit_is_given_up_visibly_and_mirrored_by_itself") {
        return;
    }
    let mut fixture = Fixture::new("limit").with_flags(&["-o", "queue-disk-max=100M"]);
    fixture.start();
    fixture.target.stop();
    let longest = write_load(&fixture.path(""), 300 << 20);
    let set = fixture.set();
    println!(
        "limit of 100M: longest write {longest:?}, queue {} bytes",
        set.queue_disk_bytes()
    );
    assert!(longest < WRITE_MAX, "a write waited for {longest:?}");
    assert!(
        set.queue_disk_bytes() <= 110 << 20,
        "{} bytes",
        set.queue_disk_bytes()
    );
    assert_eq!(set.connection().data_state(), "mirror-required");
    assert_ne!(set.state(), "ok");
    let waited = fixture.wait(Duration::from_secs(1));
    assert_eq!(waited.code, Some(1), "{waited:?}");
    fixture.target.start();
    fixture.assert_equal();
    assert!(
        fixture.connection().mirror_bytes() > 0,
        "nothing was mirrored"
    );
    assert_eq!(fixture.connection().data_state(), "ok");
    fixture.finish();
}
