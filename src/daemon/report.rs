//! A set as `status` and `stats` show it: read from memory, never from the mount.

use std::sync::atomic::Ordering;

use crate::control::escape;
use crate::control::status::{
    ConnectionStatus, DataState, KernelStatus, MarkStatus, PauseStatus, QueueStatus, Replication,
    ResyncStatus, RootStatus, SetState, SetStatus, TargetState, Transmit,
};
use crate::control::{CursorLine, QueueReport, SegmentLine};
use crate::sender::{Link, SenderState, Wish};
use crate::stats::{ConnectionSnapshot, QueueSnapshot, Snapshot};
use crate::sys;
use crate::types::Seq;
use crate::wire;

use super::source::Source;

impl Source {
    /// Records that some connection still needs, and the age of the oldest.
    fn queue(&self) -> QueueSnapshot {
        let usage = self.journal.usage();
        let end = self.journal.end();
        let slowest = self.journal.cursors().into_iter().map(|(_, seq)| seq).min();
        let ops = slowest.map_or(0, |seq| end.0.saturating_sub(seq.0));
        let states: Vec<SenderState> = self.senders.lock().iter().map(|s| s.state()).collect();
        let behind = states
            .iter()
            .map(|s| s.lags.durable)
            .max_by_key(|lag| lag.ops);
        QueueSnapshot {
            ops,
            bytes: behind.map_or(0, |lag| lag.bytes).min(usage.bytes),
            disk_bytes: usage.disk_bytes,
            oldest_seconds: behind.map_or(0.0, |lag| lag.seconds),
        }
    }

    /// The share of its room that the queue takes.
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    fn queue_percent(&self) -> Option<f64> {
        let used = self.journal.usage().disk_bytes as f64;
        let all = used + self.journal.room() as f64;
        (all > 0.0).then(|| 100.0 * used / all)
    }

    /// The supervisor, if it has died.
    pub(super) fn lost_supervisor(&self) -> Option<u32> {
        // A process whose parent dies gets another one.
        let is_lost = |pid: &u32| std::os::unix::process::parent_id() != *pid;
        self.supervisor_pid.filter(is_lost)
    }

    fn warnings(&self) -> Vec<String> {
        let mut all = self.warnings.clone();
        let failed = self.mirrored.failed.load(Ordering::Relaxed);
        if failed > 0 {
            all.push(format!(
                "{failed} times a file could not be read for the mirror; the log names them, and \
                 they are tried again"
            ));
        }
        if self.supervisor_pid.is_some() {
            if let Some(pid) = self.lost_supervisor() {
                all.push(format!(
                    "its supervisor (process {pid}) has died: should the worker end, the mount ends with \
                     it; unmount it and mount it again at a quiet moment"
                ));
            } else if !self.capture.live().is_whole() {
                all.push(
                    "the run directory has no room for what survives a worker: should this one end, the \
                     mount ends with it; make room, unmount it and mount it again"
                        .to_owned(),
                );
            }
        }
        all.extend(self.below.trouble().map(|why| {
            format!(
                "the file system of {} could not write what programs wrote ({why}): its disk may have lost \
                 what the targets have; repair it and mount the set again, which mirrors what was changed since",
                self.options.dir.display()
            )
        }));
        match self.capture.activity() {
            Some(activity) => all.extend(activity.trouble().map(|why| {
                format!(
                    "what is changed cannot be noted in the activity log ({why}): a loss of power now can \
                     leave differences that only a full mirror finds; make room or repair the disk of the \
                     state directory"
                )
            })),
            None => all.push(
                "no activity log can be kept: a loss of power is followed by a full mirror; make room in \
                 the state directory, unmount the set and mount it again"
                    .to_owned(),
            ),
        }
        let mishaps = self.watcher.mishaps.lock();
        if let Some(why) = &mishaps.given_up {
            all.push(format!(
                "the backlog was given up ({why}); the targets are mirrored anew by themselves; \
                 give the queue more space if this comes again"
            ));
        }
        if let Some(why) = &mishaps.lost {
            all.push(format!(
                "{} operations could not be recorded ({why}); their files are mirrored anew",
                mishaps.lost_count
            ));
        }
        all
    }

    fn kernel(&self) -> KernelStatus {
        let counters = &self.counters.kernel;
        // What was forgotten is read first: it is never more than what was told.
        let nodes_forgotten = counters.nodes_forgotten.get();
        let lookups_forgotten = counters.lookups_forgotten.get();
        KernelStatus {
            nodes: counters.nodes_told.get().saturating_sub(nodes_forgotten),
            lookups: counters
                .lookups_told
                .get()
                .saturating_sub(lookups_forgotten),
            lookups_unknown: counters.lookups_unknown.get(),
            open_files: self.capture.files.count(),
            open_dirs: self.capture.dirs.count(),
        }
    }

    pub(super) fn status(&self) -> SetStatus {
        let states: Vec<SenderState> = self.senders.lock().iter().map(|s| s.state()).collect();
        let connections: Vec<ConnectionStatus> =
            states.iter().map(|state| self.connection(state)).collect();
        let queue = self.queue();
        let state = connections
            .iter()
            .map(one_word)
            .max_by_key(|word| severity(*word));
        let mut state = state.unwrap_or_default();
        if self.capture.is_checking() && severity(state) < severity(SetState::Synchronising) {
            state = SetState::Synchronising;
        }
        let error = self.capture.has_open_gap().then(|| {
            state = SetState::Error;
            let why = self.watcher.mishaps.lock().lost.clone();
            format!(
                "operations cannot be recorded ({}); the set is served, and their files are sent again as soon as \
                 the queue's disk takes records",
                why.unwrap_or_else(|| "no reason is known".to_owned())
            )
        });
        let pid = std::process::id();
        let captured = self.captured_totals();
        let [captured_ops, captured_bytes] = captured;
        SetStatus {
            name: self.options.set.to_string(),
            roots: vec![RootStatus {
                path: self.options.dir.display().to_string(),
                mountpoint: self.options.mountpoint.display().to_string(),
                remap_links: self.options.remap_links,
            }],
            state,
            supervisor_pid: self.supervisor_pid.unwrap_or(pid),
            worker_pid: pid,
            worker_restarts: self.restarts,
            history: self.covered.history.to_string(),
            captured_seq: self.journal.end().0,
            mark: self.pauses.last_mark(),
            time_ns: sys::realtime_ns(),
            captured_ops,
            captured_bytes,
            rates: self.rates.captured(captured),
            kernel: self.kernel(),
            queue: QueueStatus {
                ops: queue.ops,
                bytes: queue.bytes,
                disk_bytes: queue.disk_bytes,
                oldest_seconds: queue.oldest_seconds,
                used_percent: self.queue_percent(),
            },
            resync: ResyncStatus {
                suspects: self.suspects,
                checked: self.check.walked.load(Ordering::Relaxed),
                found: self.check.in_doubt.load(Ordering::Relaxed),
                resent_files: self.mirrored.imaged.load(Ordering::Relaxed),
                resent_bytes: self.mirrored.bytes.load(Ordering::Relaxed),
            },
            connections,
            state_dir: self.options.state_dir.display().to_string(),
            warnings: self.warnings(),
            error,
        }
    }

    fn connection(&self, state: &SenderState) -> ConnectionStatus {
        let data_state = match state.data {
            wire::DataState::Ok => DataState::Ok,
            wire::DataState::Mirroring => DataState::Mirroring,
            wire::DataState::Recovering => DataState::Recovering,
            wire::DataState::MirrorRequired => DataState::MirrorRequired,
        };
        let connected = state.link == Link::Connected;
        let target_state = match state.target_state {
            _ if !connected => TargetState::NotLoaded,
            wire::TargetState::Ok => TargetState::Ok,
            wire::TargetState::NotLoaded => TargetState::NotLoaded,
            wire::TargetState::PausePending => TargetState::PausePending,
            wire::TargetState::Paused => TargetState::Paused,
            wire::TargetState::Retrying => TargetState::Retrying,
        };
        let transmit = match (&state.wish, state.link) {
            (Wish::Disconnect { .. } | Wish::Stop, _) => Transmit::Stopped,
            (_, Link::Connecting) if state.error.is_some() => Transmit::Error,
            (Wish::Pause(_), _) => Transmit::Paused,
            (Wish::Run, Link::Connected) => Transmit::Started,
            (Wish::Run, Link::Stopped | Link::Connecting) => Transmit::Stopped,
        };
        let replication = match (connected, state.marks.applied < state.end) {
            _ if state.wish == Wish::Stop => Replication::Stopped,
            (false, _) => Replication::Pending,
            (true, true) => Replication::Replicating,
            (true, false) => Replication::Ready,
        };
        let pause = state.pause().map(|(point, reached)| PauseStatus {
            mark: MarkStatus {
                name: point.mark.to_string(),
                seq: point.seq.0,
                time: u64::try_from(point.since.secs).unwrap_or(0),
            },
            reached,
        });
        let (rates, mirror) = self.rates.link(state);
        ConnectionStatus {
            id: state.id,
            target: state.target.endpoint(),
            path: state
                .replica_path
                .clone()
                .or_else(|| state.target.path.clone())
                .unwrap_or_default(),
            transmit,
            data_state,
            target_state,
            replication,
            sent_seq: state.marks.sent.0,
            received_seq: state.marks.received.0,
            applied_seq: state.marks.applied.0,
            durable_seq: state.marks.durable.0,
            lag_ops: state.lags.applied.ops,
            lag_bytes: state.lags.applied.bytes,
            lag_seconds: state.lags.applied.seconds,
            lags: state.lags,
            latency: state.latencies,
            sent_bytes: state.sent_bytes,
            wire_bytes: state.wire_bytes,
            mirror_bytes: state.mirror_bytes,
            sent_ops: state.sent.total(),
            reconnects: state.sessions.saturating_sub(1),
            rates,
            connected_since: state
                .connected_since
                .map(|time| u64::try_from(time.secs).unwrap_or(0)),
            last_path: state.last_path.as_ref().map(|path| escape(path.as_bytes())),
            mirror,
            staged: state.is_staged,
            insecure: self.options.insecure_loopback,
            protection: state.protection.clone(),
            pause,
            stopped: !state.wish.is_connected(),
            error: state.error.clone(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let states: Vec<SenderState> = self.senders.lock().iter().map(|s| s.state()).collect();
        let connections = states.into_iter().map(|state| ConnectionSnapshot {
            id: state.id,
            target: state.target.endpoint(),
            sent: state.sent,
            sent_bytes: state.sent_bytes,
            wire_bytes: state.wire_bytes,
            mirror_bytes: state.mirror_bytes,
            reconnects: state.sessions.saturating_sub(1),
            lag: state.lags,
            latency: state.latencies,
        });
        let connections = connections.collect();
        Snapshot {
            set: self.options.set.to_string(),
            time_ns: sys::realtime_ns(),
            captured: self.counters.captured.get(),
            captured_bytes: self.counters.captured_bytes.get(),
            gaps: self.counters.gaps.get(),
            queue: self.queue(),
            connections,
        }
    }

    pub(super) fn queue_report(&self) -> QueueReport {
        let usage = self.journal.usage();
        let end = self.journal.end();
        let segments = self.journal.catalogue().into_iter().map(|entry| {
            let (last, bytes) = match &entry.sealed {
                Some(sealed) => (sealed.last, sealed.bytes),
                None => (
                    end,
                    self.journal.end_bytes().saturating_sub(entry.start_bytes),
                ),
            };
            SegmentLine {
                first_seq: entry.first.0,
                last_seq: last.0,
                bytes,
                sealed: entry.sealed.is_some(),
            }
        });
        let segments = segments.collect();
        let behind = |seq: Seq| end.0.saturating_sub(seq.0);
        let cursors = self
            .journal
            .cursors()
            .into_iter()
            .map(|(name, seq)| CursorLine {
                name,
                seq: seq.0,
                behind_ops: behind(seq),
            });
        QueueReport {
            set: self.options.set.to_string(),
            history: self.covered.history.to_string(),
            first_seq: self.journal.first().0,
            end_seq: end.0,
            ops: usage.records,
            bytes: usage.bytes,
            disk_bytes: usage.disk_bytes,
            disk_bytes_max: self.options.queue_disk_max,
            free_bytes_min: self.options.queue_free_min,
            oldest_seconds: usage.oldest_time_ns.map_or(0.0, |ns| {
                std::time::Duration::from_nanos(sys::realtime_ns().saturating_sub(ns)).as_secs_f64()
            }),
            segments,
            cursors: cursors.collect(),
        }
    }
}

fn one_word(connection: &ConnectionStatus) -> SetState {
    if connection.target_state == TargetState::Retrying {
        return SetState::Error;
    }
    match (connection.transmit, connection.data_state) {
        (Transmit::Error, _) => SetState::Error,
        (Transmit::Paused, _) => SetState::Paused,
        (Transmit::Stopped | Transmit::Scheduled, _) => SetState::Behind,
        (Transmit::Started, DataState::Mirroring | DataState::MirrorRequired) => {
            SetState::Synchronising
        }
        (Transmit::Started, DataState::Recovering) => SetState::Synchronising,
        (Transmit::Started, DataState::RestoreRequired) => SetState::Error,
        (Transmit::Started, DataState::Ok) if connection.staged => SetState::Synchronising,
        (Transmit::Started, DataState::Ok) if connection.lag_seconds > 30.0 => SetState::Behind,
        (Transmit::Started, DataState::Ok) => SetState::Ok,
    }
}

fn severity(state: SetState) -> u8 {
    match state {
        SetState::Ok => 0,
        SetState::Paused => 1,
        SetState::Behind => 2,
        SetState::Synchronising => 3,
        SetState::Error => 4,
    }
}
