//! Goal: requests that wait for a disk keep no other from being served, and a mount ends whoever rests.
//! Method: the file system below is frozen, so that writes wait, while names are looked at that nobody knows yet.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::power_cuts::disk;
use crate::support::{Fixture, until};

/// Fewer than there are threads that serve.
const WRITERS: usize = 3;
const NAMES: usize = 50;
/// More requests than it takes to be seen as the only program.
const ALONE: u64 = 64;
/// Far more than 50 lookups take, far less than the frozen writes do.
const PATIENCE: Duration = Duration::from_secs(10);

/// A frozen file system; thawed with the value.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: &Path) -> Frozen {
        let frozen = Command::new("fsfreeze").arg("-f").arg(path).status();
        assert!(frozen.expect("fsfreeze runs").success());
        Frozen(path.to_path_buf())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).status();
    }
}

/// Threads of the worker that serve and wait for a disk.
fn waiting_threads(worker: u64) -> usize {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{worker}/task")) else {
        return 0;
    };
    let stats = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter(|stat| stat.contains("(fuser-") && stat.contains(") D "))
        .count()
}

fn make_names(fixture: &Fixture) {
    for number in 0..NAMES {
        std::fs::write(fixture.path(format!("name-{number}")), b"x").expect("write");
    }
}

fn look_at_names(fixture: &Fixture) {
    let began = Instant::now();
    for number in 0..NAMES {
        let stat = std::fs::metadata(fixture.path(format!("name-{number}")));
        assert_eq!(stat.expect("stat").len(), 1);
        assert!(
            began.elapsed() < PATIENCE,
            "served too late after {number} names"
        );
    }
}

/// One that was alone so far, so that no second thread reads requests beside the one that serves it.
#[test]
fn a_request_that_waits_keeps_no_other_from_being_served_though_its_program_was_alone() {
    let test = "a_request_that_waits_keeps_no_other_from_being_served_though_its_program_was_alone";
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let mut fixture = Fixture::with_data_on(test, image.path());
    make_names(&fixture);
    fixture.start();
    let path = fixture.path("written");
    let worker = fixture.set().worker_pid();
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        let file = File::create(path).expect("create");
        for offset in 0..ALONE {
            file.write_all_at(b"written", offset).expect("write");
        }
        tell.send(()).expect("somebody listens");
        gone.recv().expect("somebody tells");
        file.write_all_at(b"frozen", 0).expect("write");
    });
    told.recv().expect("the writer is there");
    let frozen = Frozen::new(image.path());
    go.send(()).expect("the writer listens");
    until("the write to wait", || waiting_threads(worker) == 1);
    look_at_names(&fixture);
    assert!(!writer.is_finished(), "the write did not wait");
    drop(frozen);
    writer.join().expect("the writer");
    fixture.assert_equal();
    fixture.finish();
}

#[test]
fn requests_that_wait_for_a_disk_keep_no_other_from_being_served() {
    let test = "requests_that_wait_for_a_disk_keep_no_other_from_being_served";
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let mut fixture = Fixture::with_data_on(test, image.path());
    make_names(&fixture);
    fixture.start();
    let open = |number: usize| -> File {
        let path = fixture.path(format!("written-{number}"));
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .expect("open")
    };
    let files: Vec<File> = (0..WRITERS).map(open).collect();
    let worker = fixture.set().worker_pid();
    let done = Arc::new(AtomicUsize::new(0));
    let frozen = Frozen::new(image.path());
    let writers: Vec<_> = files
        .into_iter()
        .map(|file| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                file.write_all_at(b"written", 0).expect("write");
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    until("the writes to wait", || waiting_threads(worker) == WRITERS);
    look_at_names(&fixture);
    assert_eq!(
        done.load(Ordering::SeqCst),
        0,
        "a write did not wait for the frozen file system"
    );
    drop(frozen);
    for writer in writers {
        writer.join().expect("a writer");
    }
    fixture.assert_equal();
    fixture.finish();
}
