//! How fast a set and its connections work, for `status`: read once a second.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::control::status::{ConnectionRates, MirrorState, MirrorStatus, SetRates};
use crate::sender::SenderState;
use crate::stats::Meter;
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::wire::MirrorProgress;

use super::source::Source;

/// Between two readings.
const TICK: Duration = Duration::from_secs(1);

/// Sent operations, sent bytes, wire bytes, applied position, mirror bytes, files of the mirror done.
type LinkMeter = Meter<6>;

#[derive(Debug, Default)]
struct Meters {
    captured: Meter<2>,
    links: HashMap<u32, LinkMeter>,
}

/// The readings of a set.
#[derive(Debug)]
pub(super) struct Rates(Mutex<Meters>);

fn link_totals(state: &SenderState) -> [u64; 6] {
    [
        state.sent.total(),
        state.sent_bytes,
        state.wire_bytes,
        state.marks.applied.0,
        state.mirror_bytes,
        state.mirror.map_or(0, |mirror| mirror.done),
    ]
}

impl Rates {
    pub(super) fn new() -> Rates {
        Rates(Mutex::new(Rank::Leaf, Meters::default()))
    }

    /// Reads the counters of `source` once a second, as long as it lives.
    pub(super) fn read_on(source: &Arc<Source>, runtime: &Runtime) {
        let source: Weak<Source> = Arc::downgrade(source);
        runtime.spawn(async move {
            loop {
                let Some(source) = source.upgrade() else {
                    return;
                };
                source.read_counters();
                drop(source);
                tokio::time::sleep(TICK).await;
            }
        });
    }

    pub(super) fn captured(&self, totals: [u64; 2]) -> SetRates {
        let [captured_ops, captured_bytes] =
            self.0.lock().captured.rates(sys::monotonic_ns(), totals);
        SetRates {
            captured_ops,
            captured_bytes,
        }
    }

    /// What a connection does, and its mirror with what can be said of its end.
    pub(super) fn link(&self, state: &SenderState) -> (ConnectionRates, MirrorStatus) {
        let meters = self.0.lock();
        let meter = meters.links.get(&state.id);
        let rates = meter.map(|m| m.rates(sys::monotonic_ns(), link_totals(state)));
        let [
            sent_ops,
            sent_bytes,
            wire_bytes,
            applied_ops,
            mirror_bytes,
            files,
        ] = rates.unwrap_or_default();
        let rates = ConnectionRates {
            sent_ops,
            sent_bytes,
            wire_bytes,
            applied_ops,
        };
        let mut mirror = mirror_status(state.mirror);
        if state.mirror.is_some() {
            mirror.bytes_per_second = mirror_bytes;
            let left = mirror.files_known.saturating_sub(mirror.files_done);
            mirror.seconds_left = (files > 0.0).then(|| float(left) / files);
        }
        (rates, mirror)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "shown with three digits; the loss begins at 2^53"
)]
fn float(value: u64) -> f64 {
    value as f64
}

/// A mirror as its target reports it, without speed. Its end is known only when every directory has been
/// listed: until then the share is that of what is known.
pub(super) fn mirror_status(progress: Option<MirrorProgress>) -> MirrorStatus {
    let Some(progress) = progress else {
        return MirrorStatus::default();
    };
    let files_known = progress.done + progress.pending;
    let percent = (files_known > 0).then(|| float(progress.done) * 100.0 / float(files_known));
    // A mirror's number is the time at which it was begun.
    let nanos = sys::realtime_ns().saturating_sub(progress.mirror);
    MirrorStatus {
        state: MirrorState::Mirroring,
        percent,
        remaining_bytes: None,
        number: Some(progress.mirror),
        files_done: progress.done,
        files_known,
        seconds: Duration::from_nanos(nanos).as_secs_f64(),
        bytes_per_second: 0.0,
        seconds_left: None,
    }
}

impl Source {
    fn read_counters(&self) {
        let states: Vec<SenderState> = self.senders.lock().iter().map(|s| s.state()).collect();
        let now_ns = sys::monotonic_ns();
        let mut meters = self.rates.0.lock();
        meters.captured.note(now_ns, self.captured_totals());
        for state in &states {
            let meter = meters.links.entry(state.id).or_default();
            meter.note(now_ns, link_totals(state));
        }
    }

    /// Operations captured, bytes of them.
    pub(super) fn captured_totals(&self) -> [u64; 2] {
        [
            self.counters.captured.get().total(),
            self.counters.captured_bytes.get(),
        ]
    }
}
