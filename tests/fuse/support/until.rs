//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use super::settings::patience;

const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `is_true`; fails with `what` when it takes longer than the patience of this run.
#[track_caller]
pub(crate) fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(
            start.elapsed() < patience(),
            "no end of waiting for: {what}"
        );
        // Not a synchronisation: the condition above decides, this only spares the processor.
        std::thread::sleep(PAUSE);
    }
}
