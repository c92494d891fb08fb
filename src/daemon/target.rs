//! The target: a listener with its control socket, until it is told to end.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::confined::{confine_target, shown};
use crate::alerts::Alerts;
use crate::config::{self, Role, StateOwner, TargetOptions};
use crate::control::status::{
    ConfinementStatus, DataState, MarkStatus, StreamStatus, TargetState, TargetStatus,
};
use crate::control::{self, Answer, Handler, Items, Refusal, RefusalCode, Reply, Request, escape};
use crate::journal;
use crate::receiver::{ServeOptions, StreamSnapshot, Target};
use crate::stats::{StreamNumbers, TargetNumbers};
use crate::supervisor::Ready;
use crate::sys;
use crate::wire;

use super::acquaintance::{self, Invitation};
use super::observe::Observing;
use super::pauses;
use super::rates::mirror_status;

/// Serves a target until it is told to end.
///
/// # Errors
/// What stands in the way, for people.
pub fn run_target(options: TargetOptions, ready: Ready) -> anyhow::Result<()> {
    if !sys::is_root() {
        anyhow::bail!(
            "a target gives files their owners and so has to run as root; run it with sudo"
        );
    }
    let owner = StateOwner {
        version: 1,
        role: Role::Target,
        name: "target".to_owned(),
        path: options.root.clone(),
    };
    check_root(&options)?;
    config::claim_state(&options.state_dir, &owner)?;
    let tables = Target::run_dir(None)?;
    control::make_run_dir(&options.run_dir)?;
    let socket = Target::bind(options.listen)?;
    // Everything is there that needs more than the process keeps, and no thread runs yet.
    let confinement = confine_target(&options, &tables)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dfs-net")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let serving = ServeOptions {
        listen: options.listen,
        root: options.root.clone(),
        state: options.state_dir.clone(),
        host_name: sys::host_name(),
        run: Some(tables),
        insecure_loopback: options.insecure_loopback,
        queue: journal::Options::default(),
        runtime: runtime.handle().clone(),
    };
    let target = Target::serve_on(socket, serving)?;
    let address = target.address();
    let target = Arc::new(target);
    let stop = Arc::new(Notify::new());
    let answers = Arc::new(Answers {
        options: options.clone(),
        target: target.clone(),
        confinement: shown(&confinement),
        stop: stop.clone(),
    });
    let service = control::Service::Target(address.port());
    let server = control::Server::start(
        &options.run_dir,
        &service,
        answers.clone(),
        runtime.handle(),
    )?;
    let alerts = Alerts::start().context("cannot start the thread that alerts")?;
    let looked_at = answers.clone();
    let observing = Observing::target(move || looked_at.status(), alerts);
    let observing = observing.context("cannot start the thread that looks")?;
    ready.serving(&format!(
        "doppelfs target: serving on {address}, root {}",
        options.root.display()
    ));
    runtime.block_on(async {
        let term = signal(SignalKind::terminate());
        let int = signal(SignalKind::interrupt());
        let (Ok(mut term), Ok(mut int)) = (term, int) else {
            stop.notified().await;
            return;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = stop.notified() => {}
        }
    });
    tracing::info!("asked to end");
    drop(observing);
    drop(server);
    drop(answers);
    end(target);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(())
}

/// The last answer may still hold the target for a moment.
fn end(target: Arc<Target>) {
    match Arc::try_unwrap(target) {
        Ok(target) => target.stop(),
        // Dropping it ends it too.
        Err(shared) => drop(shared),
    }
}

/// Is there a root that replicas can be written to?
fn check_root(options: &TargetOptions) -> anyhow::Result<()> {
    let root = &options.root;
    let meta = std::fs::metadata(root).with_context(|| {
        format!(
            "cannot use {} as the root of replicas; create it (mkdir -p) or give another with --root",
            root.display()
        )
    })?;
    if !meta.is_dir() {
        anyhow::bail!(
            "{} is not a directory; give another with --root",
            root.display()
        );
    }
    Ok(())
}

struct Answers {
    options: TargetOptions,
    target: Arc<Target>,
    confinement: ConfinementStatus,
    stop: Arc<Notify>,
}

impl Handler for Answers {
    fn handle(self: Arc<Self>, request: Request, _items: Items) -> Answer {
        Box::pin(async move {
            match request {
                Request::Status => Ok(Reply::Target(Box::new(self.status()))),
                Request::Stats => Ok(Reply::TargetStats(Box::new(self.numbers()))),
                Request::Stop => {
                    self.stop.notify_one();
                    Ok(Reply::Done)
                }
                Request::Invite {
                    set,
                    path,
                    terms,
                    expires_seconds,
                } => {
                    let invitation = Invitation {
                        set,
                        path,
                        terms,
                        expires_seconds,
                    };
                    self.blocking(move |target| acquaintance::invite(target, invitation))
                        .await
                }
                Request::Peers => self.blocking(acquaintance::peers).await,
                Request::RevokePeer { name } => {
                    self.blocking(move |target| acquaintance::revoke(target, &name))
                        .await
                }
                Request::SetPeer { name, terms } => {
                    self.blocking(move |target| acquaintance::set(target, &name, terms))
                        .await
                }
                Request::RotateKey { finish, force } => {
                    self.blocking(move |target| acquaintance::rotate(target, finish, force))
                        .await
                }
                Request::PauseReplicas { path, now } => {
                    self.blocking(move |target| pauses::pause_replicas(target, path, now))
                        .await
                }
                Request::ResumeReplicas { path } => {
                    self.blocking(move |target| pauses::resume_replicas(target, path))
                        .await
                }
                Request::Hold { .. }
                | Request::Mark { .. }
                | Request::Pause { .. }
                | Request::Resume
                | Request::Disconnect { .. }
                | Request::Connect
                | Request::StopReplication
                | Request::StartReplication
                | Request::Wait { .. }
                | Request::QueueTail { .. }
                | Request::QueueFind { .. }
                | Request::QueueShow
                | Request::MirrorStart { .. }
                | Request::PrepareUmount
                | Request::AbandonUmount => Err(Refusal::new(
                    RefusalCode::State,
                    "this is a target; ask the source's worker",
                )),
            }
        })
    }
}

impl Answers {
    /// Does what writes files or waits for sessions to end.
    async fn blocking(
        &self,
        work: impl FnOnce(&Target) -> Result<Reply, Refusal> + Send + 'static,
    ) -> Result<Reply, Refusal> {
        let target = Arc::clone(&self.target);
        tokio::task::spawn_blocking(move || work(&target))
            .await
            .unwrap_or_else(|_| Err(Refusal::new(RefusalCode::State, "the target is ending")))
    }

    fn status(&self) -> TargetStatus {
        let snapshot = self.target.snapshot();
        let doors = self.target.doors();
        let last = doors.refusals.last();
        TargetStatus {
            listen: snapshot.address.to_string(),
            root: snapshot.root.display().to_string(),
            state_dir: self.options.state_dir.display().to_string(),
            pid: std::process::id(),
            insecure: self.options.insecure_loopback,
            key: doors.key.to_string(),
            peers: doors.peers.len() as u64,
            refused: doors.refused,
            last_refusal: last.map(|refusal| format!("{}: {}", refusal.from, refusal.text)),
            confinement: self.confinement.clone(),
            time_ns: sys::realtime_ns(),
            streams: snapshot.streams.iter().map(stream).collect(),
            error: None,
        }
    }

    fn numbers(&self) -> TargetNumbers {
        let snapshot = self.target.snapshot();
        let streams = snapshot.streams.into_iter().map(|stream| StreamNumbers {
            source: stream.source,
            set: stream.set.to_string(),
            counts: stream.counts,
            waiting_ops: stream.received.0.saturating_sub(stream.applied.0),
            queue_disk_bytes: stream.queue_disk_bytes,
        });
        TargetNumbers {
            listen: snapshot.address.to_string(),
            time_ns: sys::realtime_ns(),
            streams: streams.collect(),
        }
    }
}

fn stream(snapshot: &StreamSnapshot) -> StreamStatus {
    StreamStatus {
        source: snapshot.source.clone(),
        set: snapshot.set.to_string(),
        path: snapshot.path.display().to_string(),
        remap_from: snapshot
            .remap
            .as_ref()
            .map(|remap| remap.from.clone())
            .unwrap_or_default(),
        connected: snapshot.peer.is_some(),
        protection: snapshot.protection.clone(),
        history: snapshot
            .history
            .map(|history| history.to_string())
            .unwrap_or_default(),
        received_seq: snapshot.received.0,
        applied_seq: snapshot.applied.0,
        durable_seq: snapshot.durable.0,
        data_state: match snapshot.data {
            wire::DataState::Ok => DataState::Ok,
            wire::DataState::Mirroring => DataState::Mirroring,
            wire::DataState::Recovering => DataState::Recovering,
            wire::DataState::MirrorRequired => DataState::MirrorRequired,
        },
        staged: snapshot.is_staged,
        mark: snapshot.mark.as_ref().map(|mark| MarkStatus {
            name: mark.name.to_string(),
            seq: mark.seq.0,
            time: mark.time_ns / 1_000_000_000,
        }),
        target_state: match snapshot.state {
            wire::TargetState::Ok => TargetState::Ok,
            wire::TargetState::NotLoaded => TargetState::NotLoaded,
            wire::TargetState::PausePending => TargetState::PausePending,
            wire::TargetState::Paused => TargetState::Paused,
            wire::TargetState::Retrying => TargetState::Retrying,
        },
        mirror: mirror_status(snapshot.mirror),
        last_path: snapshot
            .last_path
            .as_ref()
            .map(|path| escape(path.as_bytes())),
        queue_disk_bytes: snapshot.queue_disk_bytes,
        stats: snapshot.counts,
        error: snapshot.error.clone(),
    }
}
