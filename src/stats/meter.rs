//! How fast counters grow now, asked at any moment.

use std::collections::VecDeque;
use std::time::Duration;

/// How far a rate looks back.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Between two readings that are kept.
const STEP: Duration = Duration::from_millis(900);

/// Readings of `N` counters, of the last [`RATE_WINDOW`]. Somebody notes them about once a second.
#[derive(Debug)]
pub struct Meter<const N: usize>(VecDeque<(u64, [u64; N])>);

impl<const N: usize> Default for Meter<N> {
    fn default() -> Self {
        Meter(VecDeque::new())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl<const N: usize> Meter<N> {
    /// Keeps a reading taken at `now_ns` of the monotonic clock.
    pub fn note(&mut self, now_ns: u64, totals: [u64; N]) {
        let since = |then: &(u64, [u64; N])| now_ns.saturating_sub(then.0);
        if self.0.back().is_some_and(|last| since(last) < nanos(STEP)) {
            return;
        }
        // One older than the window stays: the rate is over at least that long.
        while self
            .0
            .get(1)
            .is_some_and(|second| since(second) >= nanos(RATE_WINDOW))
        {
            self.0.pop_front();
        }
        self.0.push_back((now_ns, totals));
    }

    /// What each counter has grown per second. 0 before there are two readings, and where a counter
    /// went back.
    pub fn rates(&self, now_ns: u64, totals: [u64; N]) -> [f64; N] {
        let Some((then_ns, old)) = self.0.front() else {
            return [0.0; N];
        };
        let seconds = Duration::from_nanos(now_ns.saturating_sub(*then_ns)).as_secs_f64();
        if seconds <= 0.0 {
            return [0.0; N];
        }
        let mut rates = [0.0; N];
        for ((rate, new), old) in rates.iter_mut().zip(totals).zip(old) {
            *rate = super::snapshot::float(new.saturating_sub(*old)) / seconds;
        }
        rates
    }
}
