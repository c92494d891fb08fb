//! The supervisor: keeps a mount alive while its workers come and go.
//!
//! It does as little as can be: it holds the connection to the kernel, the directory below and the
//! inodes without a name, starts a worker, and when that one dies starts the next. It opens nothing of
//! the mount or below it, ever: it would wait for a worker that waits for it.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sync;
use crate::sys;
use crate::types::{FileId, SetName};

use super::line::{Message, VARIABLE, receive, send};

/// Workers that die one after the other without having served: after so many the supervisor rests.
const FAILURES_MAX: u32 = 5;

/// So many deaths of workers that did serve, other than by a kill from outside, are too many
const DEATHS_MAX: usize = 30;
/// in this time.
const DEATHS_WINDOW: Duration = Duration::from_secs(10);

/// The wait before the second try to start a worker that did not come to serve; four times as long
/// before each further one.
const BACKOFF: Duration = Duration::from_millis(100);

/// What a supervisor tells about itself, in a file of the run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervision {
    /// Its process.
    pub pid: u32,
    /// Where the set is mounted.
    pub mountpoint: PathBuf,
    /// The worker's; 0 while there is none.
    pub worker_pid: u32,
    /// How often a worker was started again.
    pub restarts: u64,
    /// Is a worker serving?
    pub serves: bool,
    /// Workers die again and again: none is started any more until somebody asks for it.
    pub rests: bool,
    /// How the last worker ended.
    pub last_end: Option<String>,
    /// How long nobody served the last time, in microseconds.
    pub last_stall_us: u64,
    /// The longest such time.
    pub longest_stall_us: u64,
}

impl Supervision {
    /// The file of a set's supervisor.
    pub fn path(run_dir: &Path, set: &SetName) -> PathBuf {
        run_dir.join(format!("{set}.supervisor"))
    }

    /// What a supervisor that lives says; `None` where there is none.
    pub fn read(run_dir: &Path, set: &SetName) -> Option<Supervision> {
        let text = std::fs::read(Supervision::path(run_dir, set)).ok()?;
        let found: Supervision = serde_json::from_slice(&text).ok()?;
        is_alive(found.pid).then_some(found)
    }

    /// Have all processes of the set been killed? What they hold is free a moment later.
    pub fn is_dead(run_dir: &Path, set: &SetName) -> bool {
        let text = std::fs::read(Supervision::path(run_dir, set));
        let found = text.map(|text| serde_json::from_slice::<Supervision>(&text));
        matches!(found, Ok(Ok(found)) if !is_alive(found.pid) && !is_alive(found.worker_pid))
    }

    /// The supervisor of what is mounted there.
    pub fn of_mount(run_dir: &Path, mountpoint: &Path) -> Option<Supervision> {
        let entries = std::fs::read_dir(run_dir).ok()?.flatten();
        let sets = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            SetName::new(name.strip_suffix(".supervisor")?).ok()
        });
        sets.filter_map(|set| Supervision::read(run_dir, &set))
            .find(|told| told.mountpoint == mountpoint)
    }

    fn signal(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        Ok(nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            signal,
        )?)
    }

    /// Has it start another worker in place of the one that there is.
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn ask_for_restart(&self) -> io::Result<()> {
        self.signal(nix::sys::signal::Signal::SIGUSR1)
    }

    /// Has it end, where it rests: the mount is dead then.
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn ask_for_end(&self) -> io::Result<()> {
        self.signal(nix::sys::signal::Signal::SIGTERM)
    }

    /// What people read about a worker that does not answer.
    pub fn describe(&self) -> String {
        let how = self.last_end.as_deref().unwrap_or("nothing known");
        if self.rests {
            format!(
                "its workers die again and again ({how}), and none is started any more; their log says \
                 why. The mount stays and its requests wait: `doppelfs restart` tries again, `doppelfs \
                 umount` ends it"
            )
        } else if self.serves && !is_alive(self.worker_pid) {
            format!(
                "its worker {} has died, and its supervisor {} starts no other; is it stopped? `kill -CONT {}` \
                 lets it go on. Requests wait",
                self.worker_pid, self.pid, self.pid
            )
        } else if self.serves {
            format!("its worker {} serves, but does not answer", self.worker_pid)
        } else {
            format!("its worker died ({how}), the next one is on its way; requests wait")
        }
    }

    fn write(&self, path: &Path) {
        let fresh = path.with_extension("supervisor.new");
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let written = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, path));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "cannot tell about the worker");
        }
    }
}

/// Its number may be another process's by now. One that ends has no command any more.
fn is_alive(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command
        .split(|&byte| byte == 0)
        .any(|word| word == b"mount")
}

/// What a supervisor starts and where it tells about it.
#[derive(Debug)]
pub struct Charge {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub words: Vec<OsString>,
    /// The set.
    pub set: SetName,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Standard input of the first worker: who waits at the other end hears whether it serves.
    pub stdin: Option<OwnedFd>,
}

/// What outlives a worker.
#[derive(Debug)]
struct Held {
    device: OwnedFd,
    tree: OwnedFd,
    claim: Option<OwnedFd>,
}

/// Closes what is not kept any more, on a thread of its own. The last descriptor of a removed file frees
/// its blocks, which takes seconds where they are many: meanwhile the loop would hear neither a signal
/// nor the worker, and a worker that tells it something, in the middle of an operation, would wait.
#[derive(Debug)]
struct Closer(Option<mpsc::Sender<OwnedFd>>);

impl Closer {
    /// Without a thread it closes in place: late answers are better than no mount.
    fn start() -> Closer {
        let (sender, fds) = mpsc::channel();
        match sync::spawn("dfs-close", move || fds.into_iter().for_each(drop)) {
            Ok(_) => Closer(Some(sender)),
            Err(error) => {
                tracing::warn!(%error, "no thread closes removed files, the supervisor does it between its answers");
                Closer(None)
            }
        }
    }

    fn close(&self, fd: OwnedFd) {
        match &self.0 {
            // Should the thread have ended, it comes back and is closed here.
            Some(thread) => drop(thread.send(fd)),
            None => drop(fd),
        }
    }
}

struct Supervisor {
    charge: Charge,
    told: Supervision,
    held: Option<Held>,
    kept: HashMap<FileId, OwnedFd>,
    closer: Closer,
    signals: Signals,
    failures: u32,
    deaths: VecDeque<Instant>,
    /// Did the last worker die by itself?
    crashed: bool,
}

struct Signals {
    end: Signal,
    interrupt: Signal,
    restart: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    End(nix::sys::signal::Signal),
    Restart,
}

impl Signals {
    async fn next(&mut self) -> Heard {
        use nix::sys::signal::Signal::{SIGINT, SIGTERM};
        tokio::select! {
            _ = self.end.recv() => Heard::End(SIGTERM),
            _ = self.interrupt.recv() => Heard::End(SIGINT),
            _ = self.restart.recv() => Heard::Restart,
        }
    }
}

/// How a worker ended.
struct End {
    status: ExitStatus,
    /// It said that the mount has ended, or never had one.
    is_over: bool,
    served: bool,
    noticed: Instant,
}

/// Runs workers until the mount has ended; the last one's exit code.
///
/// # Errors
/// When no worker can be started, or nothing can be heard.
pub fn supervise(charge: Charge) -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut supervisor = Supervisor {
            told: Supervision {
                pid: std::process::id(),
                mountpoint: charge.mountpoint.clone(),
                worker_pid: 0,
                restarts: 0,
                serves: false,
                rests: false,
                last_end: None,
                last_stall_us: 0,
                longest_stall_us: 0,
            },
            charge,
            held: None,
            kept: HashMap::new(),
            closer: Closer::start(),
            signals: Signals {
                end: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                restart: signal(SignalKind::user_defined1())?,
            },
            failures: 0,
            deaths: VecDeque::new(),
            crashed: false,
        };
        let code = supervisor.run().await;
        let path = supervisor.path();
        let _ = std::fs::remove_file(path);
        code
    })
}

fn signal_child(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    if pid.as_raw() > 0 {
        let _ = nix::sys::signal::kill(pid, signal);
    }
}

impl Supervisor {
    fn path(&self) -> PathBuf {
        Supervision::path(&self.charge.run_dir, &self.charge.set)
    }

    fn tell(&self) {
        // Before there is a mount the name may be another's.
        if self.held.is_some() {
            self.told.write(&self.path());
        }
    }

    async fn run(&mut self) -> io::Result<u8> {
        let mut down_since = None;
        loop {
            let worker = match self.start() {
                Ok(worker) => worker,
                // The system has no process or descriptor left, or the program is just being replaced: the
                // mount must not end for that.
                Err(error) if self.held.is_some() => {
                    let how = format!("it could not be started: {error}");
                    tracing::error!(%error, "no worker can be started; the mount stays, its requests wait");
                    self.told.last_end = Some(how);
                    down_since = down_since.or_else(|| Some(Instant::now()));
                    if self.is_hopeless(false, false) && !self.rest().await {
                        return Ok(2);
                    }
                    self.tell();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let end = self.run_worker(worker, down_since).await?;
            if end.is_over || self.held.is_none() {
                return Ok(end
                    .status
                    .code()
                    .and_then(|c| u8::try_from(c).ok())
                    .unwrap_or(2));
            }
            let how = match end.status.signal() {
                Some(signal) => format!("killed by signal {signal}"),
                None => end.status.to_string(),
            };
            tracing::error!(
                "the worker ended ({how}); the mount stays, its requests wait for the next"
            );
            self.told.worker_pid = 0;
            self.told.serves = false;
            self.told.last_end = Some(how);
            // The time without service began with the first of several deaths.
            let since = if end.served {
                end.noticed
            } else {
                down_since.unwrap_or(end.noticed)
            };
            down_since = Some(since);
            let killed = end.status.signal() == Some(nix::sys::signal::Signal::SIGKILL as i32);
            self.crashed = !killed;
            if self.is_hopeless(end.served, killed) && !self.rest().await {
                return Ok(2);
            }
            self.told.restarts += 1;
            self.tell();
        }
    }

    /// Do workers die too often? Waits a little where they do not come to serve.
    fn is_hopeless(&mut self, served: bool, killed: bool) -> bool {
        let now = Instant::now();
        if !served {
            self.failures += 1;
            if self.failures >= FAILURES_MAX {
                return true;
            }
            if self.failures > 1 {
                std::thread::sleep(BACKOFF * 4u32.pow(self.failures - 2));
            }
            return false;
        }
        self.failures = 0;
        if killed {
            return false;
        }
        self.deaths.push_back(now);
        while self
            .deaths
            .front()
            .is_some_and(|death| now - *death > DEATHS_WINDOW)
        {
            self.deaths.pop_front();
        }
        self.deaths.len() >= DEATHS_MAX
    }

    /// Starts nothing until somebody asks for it; false when the end is asked for.
    async fn rest(&mut self) -> bool {
        self.told.rests = true;
        self.tell();
        tracing::error!(
            "workers die again and again; none is started any more. The mount stays, and its \
             requests wait: `doppelfs restart {}` tries again, `doppelfs umount` ends it",
            self.charge.set
        );
        let heard = self.signals.next().await;
        self.told.rests = false;
        self.failures = 0;
        self.deaths.clear();
        heard == Heard::Restart
    }

    fn start(&mut self) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = sys::message_pair()?;
        sys::keep_over_exec(theirs.as_fd())?;
        let mut command = Command::new(&self.charge.program);
        command
            .args(&self.charge.words)
            .env(VARIABLE, theirs.as_raw_fd().to_string());
        // Who waits for the first one has heard from it when there is another.
        command.stdin(
            self.charge
                .stdin
                .take()
                .map_or_else(Stdio::null, Stdio::from),
        );
        let child = command.spawn()?;
        drop((command, theirs));
        let socket = ours.as_fd();
        // A worker that died meanwhile cannot be told; its end is noticed next.
        let _ = match &self.held {
            None => send(socket, Message::First, &[]),
            Some(held) => {
                let (restarts, crashed) = (self.told.restarts, self.crashed);
                let mut fds = vec![held.device.as_fd(), held.tree.as_fd()];
                fds.extend(held.claim.as_ref().map(AsFd::as_fd));
                let mut kept = self.kept.iter();
                send(socket, Message::Again { restarts, crashed }, &fds).and_then(|()| {
                    kept.try_for_each(|(id, fd)| send(socket, Message::Keep(*id), &[fd.as_fd()]))
                })
            }
        }
        .and_then(|()| send(socket, Message::Go, &[]));
        Ok((child, ours))
    }

    async fn run_worker(
        &mut self,
        (mut child, socket): (Child, OwnedFd),
        down_since: Option<Instant>,
    ) -> io::Result<End> {
        self.told.worker_pid = child.id();
        self.tell();
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        // Only its readiness is asked for: messages of this kind of socket are read by ourselves.
        let socket = UnixDatagram::from_std(socket)?;
        let (mut is_over, mut served) = (false, false);
        // A worker that takes over does not listen yet; it would die of what is to end the mount.
        let mut waiting = None;
        loop {
            tokio::select! {
                ready = socket.readable() => {
                    ready?;
                    let heard = socket.try_io(Interest::READABLE, || receive(socket.as_fd(), false));
                    match heard {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Ok(Some((Message::Serving, _))) => {
                            served = true;
                            self.now_serves(down_since);
                            if let Some(signal) = waiting.take() {
                                signal_child(&child, signal);
                            }
                        }
                        Ok(Some((Message::Ended, _))) => is_over = true,
                        Ok(Some((message, fds))) => self.note(message, fds),
                        Ok(None) => break,
                        Err(error) => {
                            tracing::error!(%error, "cannot hear the worker");
                            break;
                        }
                    }
                }
                heard = self.signals.next() => {
                    let signal = match heard {
                        Heard::End(signal) => signal,
                        Heard::Restart => nix::sys::signal::Signal::SIGKILL,
                    };
                    if !served && self.held.is_some() && matches!(heard, Heard::End(_)) {
                        waiting = Some(signal);
                    } else {
                        signal_child(&child, signal);
                    }
                }
            }
        }
        let noticed = Instant::now();
        // All its calls below have ended when it has.
        let status = child.wait()?;
        Ok(End {
            status,
            is_over: is_over || status.success(),
            served,
            noticed,
        })
    }

    fn note(&mut self, message: Message, mut fds: Vec<OwnedFd>) {
        match message {
            Message::Hold => {
                let mut fds = fds.into_iter();
                if let (Some(device), Some(tree)) = (fds.next(), fds.next()) {
                    let claim = fds.next();
                    self.held = Some(Held {
                        device,
                        tree,
                        claim,
                    });
                    self.tell();
                }
            }
            Message::Keep(id) => {
                if let Some(fd) = fds.pop() {
                    self.kept.insert(id, fd);
                }
            }
            Message::Release(id) => {
                if let Some(fd) = self.kept.remove(&id) {
                    self.closer.close(fd);
                }
            }
            _ => {}
        }
    }

    fn now_serves(&mut self, down_since: Option<Instant>) {
        if let Some(since) = down_since {
            let stall = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.told.last_stall_us = stall;
            self.told.longest_stall_us = self.told.longest_stall_us.max(stall);
            tracing::info!(stall_us = stall, "the mount is served again");
        }
        self.told.serves = true;
        self.tell();
    }
}
