//! From what sets and targets say to samples.

use serde::Serialize;

use crate::control::status::{
    ConnectionStatus, DataState, SetState, SetStatus, StatusReport, StreamStatus, TargetState,
    TargetStatus, Transmit,
};
use crate::stats::{Sample, Snapshot, TargetNumbers};

use super::families::{
    CONNECTED, DATA_STATE, INFO, PEERS, QUEUE_USED, REFUSED, SET_STATE, STREAM_CONNECTED,
    STREAM_DATA_STATE, STREAM_STATE, TARGET_STATE, TRANSMIT_STATE, UP, WORKER_RESTARTS,
};

type Labels = Vec<(&'static str, String)>;

const SET_STATES: [SetState; 5] = [
    SetState::Ok,
    SetState::Synchronising,
    SetState::Behind,
    SetState::Paused,
    SetState::Error,
];
const DATA_STATES: [DataState; 5] = [
    DataState::Ok,
    DataState::Mirroring,
    DataState::Recovering,
    DataState::MirrorRequired,
    DataState::RestoreRequired,
];
const TRANSMITS: [Transmit; 5] = [
    Transmit::Started,
    Transmit::Stopped,
    Transmit::Paused,
    Transmit::Scheduled,
    Transmit::Error,
];
const TARGET_STATES: [TargetState; 5] = [
    TargetState::Ok,
    TargetState::NotLoaded,
    TargetState::PausePending,
    TargetState::Paused,
    TargetState::Retrying,
];

/// All samples of this host: of the status, and of what those sets and targets have counted that were asked.
pub fn gather(
    report: &StatusReport,
    snapshots: &[Snapshot],
    targets: &[TargetNumbers],
) -> Vec<Sample> {
    let mut samples = Samples::default();
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    samples.put(INFO, version, 1.0);
    for set in &report.sets {
        samples.set(set);
    }
    for target in &report.targets {
        samples.target(target);
    }
    let mut all = samples.0;
    all.extend(snapshots.iter().flat_map(Snapshot::samples));
    all.extend(targets.iter().flat_map(TargetNumbers::samples));
    all
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn put(&mut self, name: &'static str, labels: Labels, value: f64) {
        self.0.push(Sample {
            name,
            labels,
            value,
        });
    }

    /// One sample for each state that there can be, 1 for the one that is.
    fn states<S: Copy + PartialEq + Serialize>(
        &mut self,
        name: &'static str,
        labels: &Labels,
        (all, now): (&[S], S),
    ) {
        for state in all {
            let mut labels = labels.clone();
            labels.push(("state", word(*state)));
            self.put(name, labels, f64::from(u8::from(*state == now)));
        }
    }

    fn set(&mut self, set: &SetStatus) {
        let labels = vec![("set", set.name.clone())];
        // A worker that does not answer has no process to be named.
        let is_up = set.worker_pid != 0;
        let up = vec![("role", "source".to_owned()), ("set", set.name.clone())];
        self.put(UP, up, f64::from(u8::from(is_up)));
        self.states(SET_STATE, &labels, (&SET_STATES, set.state));
        if !is_up {
            return;
        }
        self.put(WORKER_RESTARTS, labels.clone(), float(set.worker_restarts));
        if let Some(percent) = set.queue.used_percent {
            self.put(QUEUE_USED, labels, percent / 100.0);
        }
        for connection in &set.connections {
            self.connection(set, connection);
        }
    }

    fn connection(&mut self, set: &SetStatus, connection: &ConnectionStatus) {
        let labels = vec![
            ("set", set.name.clone()),
            ("connection", connection.id.to_string()),
            ("target", connection.target.clone()),
        ];
        let is_connected = connection.connected_since.is_some();
        self.put(CONNECTED, labels.clone(), f64::from(u8::from(is_connected)));
        self.states(TRANSMIT_STATE, &labels, (&TRANSMITS, connection.transmit));
        self.states(DATA_STATE, &labels, (&DATA_STATES, connection.data_state));
        let target_state = connection.target_state;
        self.states(TARGET_STATE, &labels, (&TARGET_STATES, target_state));
    }

    fn target(&mut self, target: &TargetStatus) {
        let labels = vec![("target", target.listen.clone())];
        let is_up = target.pid != 0;
        let up = vec![
            ("role", "target".to_owned()),
            ("target", target.listen.clone()),
        ];
        self.put(UP, up, f64::from(u8::from(is_up)));
        if !is_up {
            return;
        }
        self.put(REFUSED, labels.clone(), float(target.refused));
        self.put(PEERS, labels, float(target.peers));
        for stream in &target.streams {
            self.stream(target, stream);
        }
    }

    fn stream(&mut self, target: &TargetStatus, stream: &StreamStatus) {
        let labels = vec![
            ("target", target.listen.clone()),
            ("source", stream.source.clone()),
            ("set", stream.set.clone()),
        ];
        let is_connected = f64::from(u8::from(stream.connected));
        self.put(STREAM_CONNECTED, labels.clone(), is_connected);
        self.states(
            STREAM_DATA_STATE,
            &labels,
            (&DATA_STATES, stream.data_state),
        );
        let state = stream.target_state;
        self.states(STREAM_STATE, &labels, (&TARGET_STATES, state));
    }
}

/// As in the JSON of `status`.
fn word(state: impl Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floats everywhere")]
fn float(value: u64) -> f64 {
    value as f64
}
