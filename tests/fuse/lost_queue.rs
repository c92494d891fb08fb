//! Goal: a queue that is taken away or damaged under a mount stops nobody, and the replica is exact again
//! by itself. Method: its files are removed or overwritten while programs write.

use std::os::unix::fs::FileExt;

use crate::support::{Fixture, is_ready, until};
use crate::takeover::load_all;

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
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let history = fixture.set().history();
    let load = load_all(&dir, 1);
    std::fs::remove_dir_all(fixture.state_dir()).expect("remove the state");
    until("another history to begin", || {
        fixture.find_set().is_some_and(|set| {
            set.worker_pid() > 0 && !set.history().is_empty() && set.history() != history
        })
    });
    let steps = load.end();
    let report = fixture.assert_equal();
    eprintln!("{test}: {steps} steps of the load, none failed; {report}");
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
