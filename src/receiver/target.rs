//! The target as a whole: start, listen, look, stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::applier::{Limits, Terms, Usage};
use crate::keys::{Fingerprint, Key, Token};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::SetName;
use crate::wire::Acceptor;

use super::crowd::Crowd;
use super::error::{Error, state as failed};
use super::grants::{Grant, PeerTerms};
use super::intake::Ending;
use super::options::ServeOptions;
use super::own_keys::{KeyChange, OwnKeys};
use super::peers::{Peer, Peers};
use super::registry;
use super::session;
use super::site;
use super::snapshot::{Doors, StreamSnapshot, TargetSnapshot};
use super::stream::{Places, Stream, open_journal};
use super::welcome;

/// Connections at one time. In the door there are far fewer (`crowd.rs`), and behind it one for each replica, and
/// those that take turns: a source has some dozens of them, so that it takes many to fill this.
const CONNECTION_COUNT_MAX: usize = 4096;
/// Connections of one peer that wait for earlier ones to end. Without a limit a source that connects again
/// and again, and never reads, would have all of the above.
pub(super) const TURN_COUNT_MAX: usize = 16;
/// A connection beyond the limit waits so long for another to end: who was pushed out of the door is gone in
/// no time.
const ROOM_PATIENCE: Duration = Duration::from_millis(200);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: ServeOptions,
    /// Names this state directory's things elsewhere.
    id: String,
    run: PathBuf,
    /// Who is known here.
    pub(super) peers: Peers,
    /// Guards the target's own keys; replaced when they are changed.
    keys: Mutex<OwnKeys>,
    /// Connections that have not said yet who they are.
    pub(super) crowd: Arc<Crowd>,
    /// For each peer, by its number: its connections that wait for earlier ones to end. Guards the list.
    turns: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// Guards the streams; new ones are made under it, with I/O.
    pub(super) streams: Mutex<BTreeMap<u32, Arc<Stream>>>,
    /// Guards the appliers' threads.
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: watch::Sender<bool>,
}

impl Shared {
    /// Where a stream keeps what is its own.
    pub(super) fn places(&self, number: u32, owner: Option<&str>) -> Places {
        Places {
            state: registry::stream_dir(&self.options.state, number),
            table: self.run.join(&self.id).join(number.to_string()),
            root: self.options.root.clone(),
            hidden: format!("{}-{number}", self.id),
            lease: self.terms_of(owner).into(),
        }
    }

    /// The terms of a stream's owner, shared by all of its streams; none where nobody owns it.
    pub(super) fn terms_of(&self, owner: Option<&str>) -> Arc<Terms> {
        let terms = owner.and_then(|id| self.peers.terms(id));
        terms.unwrap_or_else(|| Arc::new(Terms::new("", Limits::default())))
    }

    /// The key to answer with.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.keys.lock().acceptor.clone()
    }

    /// The key that will follow, to be told to every source.
    pub(super) fn next_key(&self) -> Option<Fingerprint> {
        let keys = self.keys.lock();
        keys.next.as_ref().map(Key::fingerprint)
    }

    /// Is there a replica in or around that directory whose source is not paired (any more)?
    pub(super) fn has_unowned_below(&self, dir: &str) -> bool {
        let streams = self.streams.lock();
        let mut records = streams.values().map(|stream| stream.record());
        records.any(|record| {
            let owner = record.peer.as_deref();
            let is_owned = owner.is_some_and(|id| self.peers.of_id(id).is_some());
            registry::meets(dir, &record) && !is_owned
        })
    }

    /// Ends the sessions of a peer that came with a key which is not the peer's any more.
    pub(super) async fn end_sessions_without_key(&self, peer: &Peer) {
        let streams: Vec<Arc<Stream>> = self.streams.lock().values().map(Arc::clone).collect();
        for stream in streams {
            if stream.record().peer.as_ref() != Some(&peer.id) {
                continue;
            }
            if let Some(current) = stream.current.lock().await.as_mut()
                && current.key.is_none_or(|key| !peer.keys.contains(&key))
            {
                current.end(&stream, Ending::Revoked).await;
            }
        }
    }

    /// What a peer's connections take that wait for earlier ones to end.
    pub(super) fn turns_of(&self, id: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock();
        let fresh = || Arc::new(Semaphore::new(TURN_COUNT_MAX));
        Arc::clone(turns.entry(id.to_owned()).or_insert_with(fresh))
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
    pub(super) shared: Arc<Shared>,
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
    pub fn serve(options: ServeOptions) -> Result<Target, Error> {
        let socket = Target::bind(options.listen)?;
        Target::serve_on(socket, options)
    }

    /// Takes an address, for [`Target::serve_on`]; nobody can connect yet.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn bind(address: SocketAddr) -> Result<TcpSocket, Error> {
        let bound = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        bound().map_err(|source| Error::Listen { address, source })
    }

    /// As [`Target::serve`], on what [`Target::bind`] gave: for a process that cannot bind any more.
    ///
    /// # Errors
    /// As [`Target::serve`].
    pub fn serve_on(socket: TcpSocket, mut options: ServeOptions) -> Result<Target, Error> {
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
        let keys = OwnKeys::load(&options.state)?;
        let peers = Peers::load(&options.state)?;
        let run = Target::run_dir(options.run.as_deref())?;
        let shared = Arc::new(Shared {
            id,
            run,
            peers,
            keys: Mutex::new(Rank::Leaf, keys),
            crowd: Arc::default(),
            turns: Mutex::new(Rank::Leaf, BTreeMap::new()),
            streams: Mutex::new(Rank::Daemon, BTreeMap::new()),
            threads: Mutex::new(Rank::Leaf, Vec::new()),
            stopping: watch::Sender::new(false),
            options,
        });
        open_streams(&shared)?;
        let options = &shared.options;
        let address = options.listen;
        let listening = |source| Error::Listen { address, source };
        let listener = {
            let _runtime = options.runtime.enter();
            socket.listen(BACKLOG).map_err(listening)?
        };
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

    /// The directory for tables, made where it is missing: on a tmpfs, so that it survives this process
    /// and not the host.
    ///
    /// # Errors
    /// It cannot be made, or is on no tmpfs.
    pub fn run_dir(asked: Option<&Path>) -> Result<PathBuf, Error> {
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What this target answers with, who is known, who was refused.
    pub fn doors(&self) -> Doors {
        let (refusals, refused) = self.shared.crowd.refusals();
        Doors {
            key: self.shared.acceptor().fingerprint(),
            next_key: self.shared.next_key(),
            peers: self.shared.peers.list(),
            refusals,
            refused,
        }
    }

    /// An invitation for one source. Blocks.
    ///
    /// # Errors
    /// [`Error::Keys`], or [`Error::Refused`] with a text for a grant that nobody could use.
    pub fn invite(
        &self,
        mut grant: Grant,
        terms: PeerTerms,
        expires: Duration,
    ) -> Result<Token, Error> {
        if let Some(path) = &grant.path {
            // Any set will do to check the path.
            let names = site::components("", &SetName::any(), Some(path))?;
            grant.path = Some(site::joined(&names));
        }
        let own = self.shared.keys.lock().own.fingerprint();
        self.shared
            .peers
            .invite(own, grant, terms, expires.as_secs())
    }

    /// Forgets a source: its sessions end, its replicas stay. Not to be called from a task of the runtime.
    ///
    /// # Errors
    /// [`Error::NoPeer`], [`Error::Keys`].
    pub fn revoke(&self, name: &str) -> Result<Peer, Error> {
        let mut peer = self.shared.peers.revoke(name)?;
        info!(name = peer.name, "source revoked");
        let ended = Peer {
            keys: Vec::new(),
            ..peer.clone()
        };
        let runtime = &self.shared.options.runtime;
        runtime.block_on(self.shared.end_sessions_without_key(&ended));
        peer.told = None;
        Ok(peer)
    }

    /// Changes a source's limits. Blocks.
    ///
    /// # Errors
    /// [`Error::NoPeer`], [`Error::Keys`].
    pub fn set_terms(
        &self,
        name: &str,
        change: impl FnOnce(&mut PeerTerms),
    ) -> Result<Peer, Error> {
        let peer = self.shared.peers.named(name)?;
        self.shared
            .peers
            .update(&peer.id, |peer| change(&mut peer.terms))
    }

    /// Begins or ends the change of the target's own key: at first a new one is made and told to each source
    /// that connects; then, with `finish`, it is used. Blocks.
    ///
    /// # Errors
    /// [`Error::Untold`] while sources have not heard of it, unless `forced`; [`Error::Keys`].
    pub fn rotate_key(&self, finish: bool, forced: bool) -> Result<KeyChange, Error> {
        let state = &self.shared.options.state;
        if !finish {
            let next = OwnKeys::next(state)?;
            let fingerprint = next.fingerprint();
            self.shared.keys.lock().next = Some(next);
            let untold = self.untold(fingerprint);
            return Ok(KeyChange::Announced {
                next: fingerprint,
                untold,
            });
        }
        let next = self.shared.next_key().ok_or(Error::NoNextKey)?;
        let untold = self.untold(next);
        if !untold.is_empty() && !forced {
            let names = untold.join(", ");
            return Err(Error::Untold { names });
        }
        *self.shared.keys.lock() = OwnKeys::switch(state)?;
        info!(key = next.short(), "the target answers with its next key");
        Ok(KeyChange::Changed { key: next })
    }

    /// What all replicas of a source use; counted only where it has a quota. None where nobody is called so.
    pub fn usage(&self, id: &str) -> Option<Usage> {
        self.shared.peers.terms(id).map(|terms| terms.usage())
    }

    fn untold(&self, next: Fingerprint) -> Vec<String> {
        let peers = self.shared.peers.list().into_iter();
        let untold = peers.filter(|peer| peer.told != Some(next));
        untold.map(|peer| peer.name).collect()
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
    let current = current.as_ref().and_then(|c| c.as_ref());
    let current = current.filter(|c| c.is_up());
    let peer = current.map(|c| c.peer);
    let protection = current.map(|c| c.protection.clone());
    let board = stream.board();
    let (ack, mark) = (board.ack(), board.mark.clone());
    StreamSnapshot {
        number: stream.number,
        source: record.source,
        set: record.set,
        owner: record.peer,
        path: stream.places.root.join(&record.path),
        remap: record.remap,
        peer,
        protection,
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
        mark,
        queue_ops: usage.records,
        queue_disk_bytes: usage.disk_bytes,
        counts: stream.counters.get(),
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

fn open_streams(shared: &Arc<Shared>) -> Result<(), Error> {
    for (number, record) in registry::load(&shared.options.state)? {
        let places = shared.places(number, record.peer.as_deref());
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
            Ok((socket, peer)) => {
                let is_full = connections.len() >= CONNECTION_COUNT_MAX;
                if is_full
                    && timeout(ROOM_PATIENCE, connections.join_next())
                        .await
                        .is_err()
                {
                    warn!(%peer, "too many connections, one more is dropped");
                    continue;
                }
                // Here, and not where it is served, which may come in another order.
                let place = shared.crowd.enter(peer);
                connections.spawn(session::serve(Arc::clone(&shared), socket, peer, place));
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
