//! Directories of a test's own, the program, and a worker that only talks.

use doppelfs::control::status::{RootStatus, SetStatus};
use doppelfs::control::{
    Answer, Error, Handler, Item, Items, QueueLine, QueueReport, Refusal, RefusalCode, Reply,
    Request, Server, Service,
};
use doppelfs::stats::Snapshot;
use doppelfs::types::SetName;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A directory that goes with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("doppelfs-it-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        // It serves as a run directory, too, which is closed to others.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.unwrap();
        Scratch(dir.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A directory in it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A program in it, written in sh.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program, with a run directory of the test.
pub(crate) fn doppelfs(run_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doppelfs"));
    command
        .env("DOPPELFS_RUN_DIR", run_dir)
        .env("NO_COLOR", "1");
    command
}

/// Runs the program with words split at blanks.
pub(crate) fn run(run_dir: &Path, words: &str) -> Ran {
    let output = doppelfs(run_dir).args(words.split_whitespace()).output();
    Ran::of(&output.unwrap())
}

/// A worker without a file system: it answers from a script.
#[derive(Default)]
pub(crate) struct Talker {
    pub(crate) status: SetStatus,
    pub(crate) queue: QueueReport,
    pub(crate) lines: Vec<QueueLine>,
    pub(crate) stats: Snapshot,
    pub(crate) not_caught_up: Option<String>,
    /// Counts the requests that wait.
    pub(crate) waiting: Arc<AtomicU64>,
    /// Counts the requests that were dropped unanswered.
    pub(crate) dropped: Arc<AtomicU64>,
    pub(crate) captured: AtomicU64,
}

/// Counts when it is dropped.
struct OnDrop(Arc<AtomicU64>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Talker {
    pub(crate) fn named(name: &str, root: &Path) -> Talker {
        let root = root.display().to_string();
        Talker {
            status: SetStatus {
                name: name.to_owned(),
                roots: vec![RootStatus {
                    path: root.clone(),
                    mountpoint: root,
                    remap_links: false,
                }],
                worker_pid: std::process::id(),
                ..SetStatus::default()
            },
            ..Talker::default()
        }
    }
}

impl Handler for Talker {
    fn handle(self: Arc<Self>, request: Request, items: Items) -> Answer {
        Box::pin(async move {
            match request {
                Request::Status => Ok(Reply::Set(Box::new(self.status.clone()))),
                Request::Stats => {
                    // Each question a second later, with 100 operations more.
                    let round = self.captured.fetch_add(1, Ordering::SeqCst);
                    let mut snapshot = self.stats.clone();
                    snapshot.time_ns += round * 1_000_000_000;
                    snapshot.captured.add += round * 100;
                    Ok(Reply::Stats(Box::new(snapshot)))
                }
                Request::QueueShow => Ok(Reply::Queue(Box::new(self.queue.clone()))),
                Request::QueueTail { follow, .. } | Request::QueueFind { follow, .. } => {
                    for line in &self.lines {
                        items.send(Item::Record(line.clone())).await;
                    }
                    if follow {
                        let _gone = OnDrop(Arc::clone(&self.dropped));
                        std::future::pending::<()>().await;
                    }
                    Ok(Reply::Done)
                }
                Request::Wait { timeout_ms, .. } => match &self.not_caught_up {
                    None => Ok(Reply::Waited {
                        caught_up: true,
                        reason: None,
                    }),
                    Some(reason) => {
                        let _gone = OnDrop(Arc::clone(&self.dropped));
                        self.waiting.fetch_add(1, Ordering::SeqCst);
                        let time = timeout_ms.map_or(Duration::MAX, Duration::from_millis);
                        tokio::time::sleep(time).await;
                        Ok(Reply::Waited {
                            caught_up: false,
                            reason: Some(reason.clone()),
                        })
                    }
                },
                Request::MirrorStart { .. } => Ok(Reply::MirrorStarted { mirror: 7 }),
                Request::Stop => panic!("planted"),
                Request::PrepareUmount
                | Request::AbandonUmount
                | Request::Invite { .. }
                | Request::Peers
                | Request::RevokePeer { .. }
                | Request::SetPeer { .. }
                | Request::RotateKey { .. }
                | Request::Hold { .. }
                | Request::Mark { .. }
                | Request::Pause { .. }
                | Request::Resume
                | Request::Disconnect { .. }
                | Request::Connect
                | Request::StopReplication
                | Request::StartReplication
                | Request::PauseReplicas { .. }
                | Request::ResumeReplicas { .. } => Err(Refusal::new(
                    RefusalCode::State,
                    "nothing is mounted; mount first",
                )),
            }
        })
    }
}

/// A runtime for servers of a test.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) fn set(name: &str) -> Service {
    Service::Set(SetName::new(name).unwrap())
}

/// Starts a talker as the worker of `name`. One that was dropped just now may still be locked: a program that another
/// test starts at this moment has our descriptors until it is one.
pub(crate) fn serve(
    runtime: &tokio::runtime::Runtime,
    run_dir: &Path,
    name: &str,
    talker: Talker,
) -> Server {
    let (service, talker) = (set(name), Arc::new(talker));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Server::start(run_dir, &service, talker.clone(), runtime.handle()) {
            Err(Error::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            started => return started.unwrap(),
        }
    }
}
