//! Goal: no program sees an error when a worker dies while it reads a request. Method: workers are killed
//! that have served next to nothing, while large requests come all the time: the memory that a request is
//! read into is new to a thread then, and the kernel gives none to a thread that is being killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Fixture, is_ready, kills, seed};
use crate::takeover::{Load, kill_worker};

/// Programs that write at once.
const WRITERS: usize = 6;

/// Bytes of one write: as many as one request has.
const WRITE_BYTES: usize = 1 << 20;

/// Longest life of a worker that serves.
const LIFE_US_MAX: u64 = 3_000;

#[test]
fn a_worker_that_dies_while_it_reads_a_request_is_not_noticed() {
    let test = "a_worker_that_dies_while_it_reads_a_request_is_not_noticed";
    if !is_ready(test) {
        return;
    }
    let mut random = StdRng::seed_from_u64(seed(test));
    let fixture = Fixture::started(test);
    let mut load = Load::new();
    for number in 0..WRITERS {
        let file = File::create(fixture.path(number.to_string())).expect("create");
        let bytes = vec![7; WRITE_BYTES];
        load.add(
            move |round| {
                let written = file.write_at(&bytes, 0);
                let written = written.unwrap_or_else(|e| panic!("write {round}: {e}"));
                assert_eq!(written, WRITE_BYTES);
            },
            |_| {},
        );
    }
    for _ in 0..kills() {
        // Not a synchronisation: the moment is to be a random one.
        std::thread::sleep(Duration::from_micros(random.random_range(0..LIFE_US_MAX)));
        kill_worker(&fixture, Signal::SIGKILL);
    }
    load.advance(10);
    let steps = load.end();
    let report = fixture.finish();
    eprintln!("{test}: {} kills, {steps} writes; {report}", kills());
}
