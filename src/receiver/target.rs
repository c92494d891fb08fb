//! The target as a whole: start, listen, look, stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::applier::{Limits, Terms};
use crate::sync::{Mutex, Rank};
use crate::sys;

use super::error::{Error, state as failed};
use super::intake::Ending;
use super::options::ServeOptions;
use super::registry;
use super::session;
use super::site;
use super::snapshot::{StreamSnapshot, TargetSnapshot};
use super::stream::{Places, Stream, open_journal};
use super::welcome;

/// Connections at one time, those in the handshake included.
const CONNECTION_COUNT_MAX: usize = 256;
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: ServeOptions,
    /// Names this state directory's things elsewhere.
    id: String,
    run: PathBuf,
    /// Guards the streams; new ones are made under it, with I/O.
    pub(super) streams: Mutex<BTreeMap<u32, Arc<Stream>>>,
    /// Guards the appliers' threads.
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: watch::Sender<bool>,
}

impl Shared {
    /// Where a stream keeps what is its own.
    pub(super) fn places(&self, number: u32) -> Places {
        Places {
            state: registry::stream_dir(&self.options.state, number),
            table: self.run.join(&self.id).join(number.to_string()),
            root: self.options.root.clone(),
            hidden: format!("{}-{number}", self.id),
            // The one place where terms come in: those of the stream's source, shared by all its streams.
            terms: Arc::new(Terms::new("", Limits::default())),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns when the target stops.
    pub(super) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // An error says that the target is gone.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// A target, serving.
pub struct Target {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<tokio::task::JoinHandle<()>>,
    /// Held as long as the target lives.
    _lock: File,
}

impl Target {
    /// Opens the streams that the state directory knows, and listens. Returns when connections are
    /// accepted. Blocks: not to be called from a task of the runtime.
    ///
    /// # Errors
    /// Any [`Error`] that stands for the target as a whole; a stream that cannot be opened is shown
    /// by [`Target::snapshot`] instead.
    pub fn serve(mut options: ServeOptions) -> Result<Target, Error> {
        if !sys::is_root() {
            return Err(Error::NotRoot);
        }
        if options.insecure_loopback && !options.listen.ip().to_canonical().is_loopback() {
            let address = options.listen;
            return Err(Error::NotLoopback { address });
        }
        site::prepare_root(&options.root)?;
        registry::create_private(&options.state)?;
        options.root = absolute(&options.root)?;
        options.state = absolute(&options.state)?;
        let lock = lock_state(&options.state)?;
        let id = own_id(&options.state)?;
        let run = run_dir(options.run.as_deref())?;
        let shared = Arc::new(Shared {
            id,
            run,
            streams: Mutex::new(Rank::Daemon, BTreeMap::new()),
            threads: Mutex::new(Rank::Leaf, Vec::new()),
            stopping: watch::Sender::new(false),
            options,
        });
        open_streams(&shared)?;
        let options = &shared.options;
        let address = options.listen;
        let listening = |source| Error::Listen { address, source };
        let listener = options.runtime.block_on(TcpListener::bind(address));
        let listener = listener.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let accepting = options.runtime.spawn(accept(Arc::clone(&shared), listener));
        info!(%address, root = %options.root.display(), "target serves");
        Ok(Target {
            shared,
            address,
            accepting: Some(accepting),
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The target at this moment. Never waits for disk or network.
    pub fn snapshot(&self) -> TargetSnapshot {
        let streams: Vec<Arc<Stream>> = {
            let streams = self.shared.streams.lock();
            streams.values().map(Arc::clone).collect()
        };
        TargetSnapshot {
            address: self.address,
            root: self.shared.options.root.clone(),
            streams: streams.iter().map(|stream| show(stream)).collect(),
        }
    }

    /// Ends every session, finishes the operations under way, takes last checkpoints, closes the
    /// journals. Blocks: not to be called from a task of the runtime.
    pub fn stop(mut self) {
        self.shared.stopping.send_replace(true);
        let runtime = self.shared.options.runtime.clone();
        if let Some(accepting) = self.accepting.take() {
            // A panic in it has ended all connections as well.
            let _ = runtime.block_on(accepting);
        }
        self.stop_streams();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                warn!("an applier thread panicked");
            }
        }
        self.shared.streams.lock().clear();
        info!("target stopped");
    }

    fn stop_streams(&self) {
        for stream in self.shared.streams.lock().values() {
            stream.post(|board| board.stopping = true);
        }
    }
}

impl Drop for Target {
    /// Tells everything to end, without waiting for it; [`Target::stop`] waits.
    fn drop(&mut self) {
        self.shared.stopping.send_replace(true);
        self.stop_streams();
    }
}

fn show(stream: &Stream) -> StreamSnapshot {
    let record = stream.record();
    let usage = stream.journal.usage();
    // While one connection takes over from another there is no peer.
    let current = stream.current.try_lock().ok();
    let peer = current.and_then(|c| c.as_ref().filter(|c| c.is_up()).map(|c| c.peer));
    let board = stream.board();
    let ack = board.ack();
    StreamSnapshot {
        number: stream.number,
        source: record.source,
        set: record.set,
        path: stream.places.root.join(&record.path),
        remap: record.remap,
        peer,
        history: board.history,
        received: ack.received,
        applied: ack.applied,
        durable: ack.durable,
        data: ack.data,
        state: ack.state,
        error: ack.error,
        last_path: ack.last_path,
        mirror: ack.mirror,
        is_staged: ack.is_staged,
        queue_ops: usage.records,
        queue_disk_bytes: usage.disk_bytes,
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(failed("resolve", path))
}

fn lock_state(state: &Path) -> Result<File, Error> {
    let path = state.join("lock");
    let file = File::create(&path).map_err(failed("create", &path))?;
    match sys::flock_exclusive(file.as_fd()).map_err(failed("lock", &path))? {
        true => Ok(file),
        false => Err(Error::StateInUse { path: state.into() }),
    }
}

/// The state directory's own id, made once.
fn own_id(state: &Path) -> Result<String, Error> {
    let path = state.join("id");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let text = text.trim();
        if text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(text.to_owned());
        }
    }
    let random = sys::random_u128().map_err(failed("take random bits for", &path))?;
    let mut id = format!("{random:032x}");
    id.truncate(16);
    registry::write_durably(&path, id.as_bytes())?;
    Ok(id)
}

/// The directory for tables: on a tmpfs, so that it survives this process and not the host.
fn run_dir(asked: Option<&Path>) -> Result<PathBuf, Error> {
    let is_tmpfs = |path: &Path| {
        let opened = File::open(path).map_err(failed("open", path))?;
        let magic = sys::file_system_magic(opened.as_fd()).map_err(failed("statfs", path))?;
        Ok::<bool, Error>(magic == libc::TMPFS_MAGIC)
    };
    let dir = match asked {
        Some(dir) => dir.to_owned(),
        None if is_tmpfs(Path::new("/run")).unwrap_or(false) => "/run/doppelfs-target".into(),
        None => "/dev/shm/doppelfs-target".into(),
    };
    registry::create_private(&dir)?;
    match is_tmpfs(&dir)? {
        true => Ok(dir),
        false => Err(Error::NotTmpfs { path: dir }),
    }
}

fn open_streams(shared: &Arc<Shared>) -> Result<(), Error> {
    for (number, record) in registry::load(&shared.options.state)? {
        let places = shared.places(number);
        let journal = open_journal(number, &places.state, shared.options.queue)?;
        let stream = Stream::new(number, places, record, journal);
        let stream = welcome::open(shared, stream)?;
        shared.streams.lock().insert(number, stream);
    }
    Ok(())
}

/// Accepts connections until the target stops, then ends the sessions.
async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shared.stopped() => break,
        };
        match accepted {
            Ok((_, peer)) if connections.len() >= CONNECTION_COUNT_MAX => {
                warn!(%peer, "too many connections, one more is dropped");
            }
            Ok((socket, peer)) => {
                connections.spawn(session::serve(Arc::clone(&shared), socket, peer));
            }
            Err(error) => {
                warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let streams: Vec<Arc<Stream>> = shared.streams.lock().values().map(Arc::clone).collect();
    for stream in streams {
        if let Some(current) = stream.current.lock().await.as_mut() {
            current.end(&stream, Ending::Stopping).await;
        }
    }
    while connections.join_next().await.is_some() {}
}
