//! Goal: a queue that is taken away or damaged under a mount stops nobody, and the replica is exact again
//! by itself. Method: its files are removed or overwritten while programs write.

use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use crate::support::{Fixture, Image, is_ready, until};
use crate::takeover::{kill_worker, load_all};

/// The largest segment.
fn segment(fixture: &Fixture) -> std::path::PathBuf {
    let dir = fixture.state_dir().join("queue/seg");
    let entries = std::fs::read_dir(dir).expect("list the segments");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let largest = paths.max_by_key(|path| std::fs::metadata(path).map_or(0, |stat| stat.len()));
    largest.expect("a segment")
}

#[test]
fn a_state_directory_that_is_removed_under_a_mount_is_begun_anew() {
    let test = "a_state_directory_that_is_removed_under_a_mount_is_begun_anew";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    // All of it, and the queue alone, whose activity log is of another state then.
    for (number, below) in [None, Some("queue")].into_iter().enumerate() {
        let dir = fixture.path(format!("load-{number}"));
        std::fs::create_dir(&dir).expect("mkdir");
        let history = fixture.set().history();
        let load = load_all(&dir, 1);
        let state = fixture.state_dir();
        let lost = below.map_or(state.to_path_buf(), |below| state.join(below));
        // The worker may be writing there.
        until("the state to be removed", || {
            std::fs::remove_dir_all(&lost).is_ok()
        });
        until("another history to begin", || {
            fixture.find_set().is_some_and(|set| {
                set.worker_pid() > 0 && !set.history().is_empty() && set.history() != history
            })
        });
        let steps = load.end();
        let report = fixture.assert_equal();
        eprintln!("{test}: {steps} steps of the load, none failed; {report}");
    }
    fixture.umount();
    fixture.mount();
    fixture.finish();
}

#[test]
fn a_record_that_is_damaged_in_the_queue_is_passed_by_a_mirror() {
    let test = "a_record_that_is_damaged_in_the_queue_is_passed_by_a_mirror";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    fixture.proxy.cut();
    until("the link to be cut", || {
        !fixture.connection().is_connected()
    });
    for number in 0..200 {
        let path = fixture.path(number.to_string());
        std::fs::write(path, vec![number as u8; 10_000]).expect("write");
    }
    let path = segment(&fixture);
    let middle = std::fs::metadata(&path).expect("stat").len() / 2;
    let file = std::fs::File::options()
        .write(true)
        .open(&path)
        .expect("open");
    file.write_all_at(b"damage", middle).expect("damage");
    fixture.proxy.mend();
    let report = fixture.assert_equal();
    eprintln!("{test}: {report}");
    fixture.finish();
}

#[test]
fn a_worker_that_dies_on_a_full_disk_is_followed_by_one_that_serves() {
    let test = "a_worker_that_dies_on_a_full_disk_is_followed_by_one_that_serves";
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::with(test, ("ext4", &["-m", "0"]), 128, "loop") else {
        return;
    };
    let mut fixture = Fixture::apart(test, Some(image.path()), None);
    fixture.start();
    std::fs::write(fixture.path("small"), "1").expect("write");
    fixture.caught_up();
    // Below, beside what is protected: the queue and the data have nothing left.
    let filler = image.path().join("filler");
    let mut file = std::fs::File::create(&filler).expect("create");
    let block = vec![7u8; 64 << 10];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&[7]).is_ok() {}
    let full = file.sync_all();
    for _ in 0..5 {
        kill_worker(&fixture, Signal::SIGKILL);
        assert_eq!(std::fs::read(fixture.path("small")).expect("read"), b"1");
        // It may find room that the queue has given back.
        let _ = std::fs::write(fixture.path("large"), &block);
    }
    drop(file);
    std::fs::remove_file(&filler).expect("make room");
    std::fs::write(fixture.path("large"), &block).expect("write");
    let report = fixture.assert_equal();
    eprintln!("{test}: filled ({full:?}); {report}");
    fixture.finish();
}
