//! Listening, and one task per question.

use std::fs::{File, Permissions};
use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request as HttpRequest;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::access::{Access, Groups, denied_text};
use super::address::{self, Service};
use super::http::{self, Caller, ONE_VALUE};
use super::message::HEARTBEAT;
use super::patient::Patient;
use super::rundir;
use super::seats::{Seat, Seats};
use super::{Error, Item, Refusal, RefusalCode, Reply, Request};
use crate::sys;

/// How long a client may take to say what it wants, or to take what it is told.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// Longest head of a request: method, path, query and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Those who get no place and are told so, at the same time.
const LEAVING_MAX: usize = 64;

/// The answer to one request; it is dropped unfinished when the client has gone.
pub type Answer = Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>>;

/// Who answers.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`; what comes in many parts goes into `items` first. Must not block its
    /// thread: what reads disks or waits for locks goes through `tokio::task::spawn_blocking`.
    fn handle(self: Arc<Self>, request: Request, items: Items) -> Answer;
}

/// Takes the parts of a long answer.
#[derive(Debug, Clone)]
pub struct Items(mpsc::Sender<Item>);

impl Items {
    pub(super) fn new(sender: mpsc::Sender<Item>) -> Items {
        Items(sender)
    }

    /// Hands one over, waiting for a slow client; false when nobody listens any more.
    pub async fn send(&self, item: Item) -> bool {
        self.0.send(item).await.is_ok()
    }

    /// As [`Items::send`] for a thread outside the runtime.
    pub fn send_blocking(&self, item: Item) -> bool {
        self.0.blocking_send(item).is_ok()
    }

    /// Has the client gone?
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// A listening service. Dropping it ends every conversation, removes the socket and frees the name.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    accept: JoinHandle<()>,
    /// Held for as long as the name is ours.
    _lock: File,
}

/// On what terms a service listens.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The groups that may talk to it; `None`: looked up by name while it listens already, because
    /// that may take long, and root must not wait for it.
    pub groups: Option<Groups>,
    /// How long a client may take to say what it wants, or to take what it is told.
    pub patience: Duration,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            groups: None,
            patience: CLIENT_PATIENCE,
        }
    }
}

impl Server {
    /// Listens for `service` in `run_dir`, which is made (0700) when it is missing.
    ///
    /// # Errors
    /// [`Error::InUse`] when another live process has the name, [`Error::Exposed`], [`Error::Io`].
    pub fn start(
        run_dir: &Path,
        service: &Service,
        handler: Arc<dyn Handler>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Server, Error> {
        Server::start_on(run_dir, service, handler, runtime, Terms::default())
    }

    /// As [`Server::start`], on other terms.
    ///
    /// # Errors
    /// As there.
    pub fn start_on(
        run_dir: &Path,
        service: &Service,
        handler: Arc<dyn Handler>,
        runtime: &tokio::runtime::Handle,
        terms: Terms,
    ) -> Result<Server, Error> {
        let opened = rundir::make_run_dir(run_dir)?;
        let lock = take_name(run_dir, service)?;
        let path = service.socket(run_dir);
        // Having the lock, whatever socket is there is left over.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path)(e));
            }
            Ok(()) | Err(_) => {}
        }
        let (dir, short) = address::short_path(&path)?;
        let listener = std::os::unix::net::UnixListener::bind(&short)
            .map_err(Error::io("listen on", &path))?;
        drop(dir);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))
            .map_err(Error::io("protect", &path))?;
        let owner = std::fs::metadata(&path)
            .map_err(Error::io("examine", &path))?
            .uid();
        listener
            .set_nonblocking(true)
            .map_err(Error::io("listen on", &path))?;
        let listener = {
            let _context = runtime.enter();
            UnixListener::from_std(listener).map_err(Error::io("listen on", &path))?
        };
        let groups = rundir::let_in(opened, &path, terms.groups)?;
        let door = Arc::new(Door {
            router: http::router(&handler),
            owner,
            groups,
            patience: terms.patience,
        });
        let accept = runtime.spawn(accept(listener, door));
        Ok(Server {
            path,
            accept,
            _lock: lock,
        })
    }
}

impl Server {
    /// Does a live process hold this name? Asks the lock, not the process, so it answers at once
    /// also when that one is stopped.
    pub fn is_running(run_dir: &Path, service: &Service) -> bool {
        File::open(service.lock(run_dir))
            .and_then(|lock| sys::is_file_locked(lock.as_fd()))
            .unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes the lock that owns the service's name.
fn take_name(run_dir: &Path, service: &Service) -> Result<File, Error> {
    let path = service.lock(run_dir);
    let lock = sys::open_private(&path).map_err(Error::io("open", &path))?;
    match sys::lock_file(lock.as_fd()) {
        Ok(true) => Ok(lock),
        Ok(false) => Err(Error::InUse {
            service: service.to_string(),
            path,
        }),
        Err(e) => Err(Error::io("lock", &path)(e)),
    }
}

/// What every conversation needs to know.
struct Door {
    router: Router,
    /// The server's own user.
    owner: u32,
    /// Empty until they have been looked up.
    groups: Arc<OnceLock<Groups>>,
    patience: Duration,
}

async fn accept(listener: UnixListener, door: Arc<Door>) {
    let mut clients = JoinSet::new();
    let mut leaving = JoinSet::new();
    let seats = Seats::new();
    loop {
        while clients.try_join_next().is_some() {}
        while leaving.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back.
                warn!(%error, "control socket cannot accept");
                tokio::time::sleep(HEARTBEAT).await;
                continue;
            }
        };
        let (access, seat) = match admit(&stream, &door, &seats) {
            Ok(admitted) => admitted,
            Err(refusal) if leaving.len() < LEAVING_MAX => {
                leaving.spawn(send_away(stream, refusal));
                continue;
            }
            Err(refusal) => {
                // The buffer of a new socket has room for it.
                let _ = stream.try_write(&head_and_body(&refusal));
                continue;
            }
        };
        let door = Arc::clone(&door);
        clients.spawn(async move {
            if let Err(error) = converse(stream, &door, access).await {
                debug!(%error, "control client went");
            }
            drop(seat);
        });
    }
}

/// What the client may do, and a place for it.
fn admit(stream: &UnixStream, door: &Door, seats: &Arc<Seats>) -> Result<(Access, Seat), Refusal> {
    let unknown = |error| {
        let text = format!("cannot tell who asks: {error}");
        Refusal::new(RefusalCode::Denied, text)
    };
    let peer = sys::peer_of(stream.as_fd()).map_err(unknown)?;
    let groups = door.groups.get().copied().unwrap_or_default();
    let Some(access) = groups.access_of(&peer, door.owner) else {
        return Err(Refusal::new(RefusalCode::Denied, denied_text()));
    };
    let is_owner = peer.uid == 0 || peer.uid == door.owner;
    match seats.take(peer.uid, is_owner) {
        Some(seat) => Ok((access, seat)),
        None => {
            let text = format!(
                "too many questions at a time (user {}); end some of them",
                peer.uid
            );
            Err(Refusal::new(RefusalCode::Busy, text))
        }
    }
}

/// The whole response for who gets no place; whatever form was asked for.
fn head_and_body(refusal: &Refusal) -> Vec<u8> {
    let body = serde_json::to_string(refusal).unwrap_or_default() + "\n";
    let status = refusal.code.status();
    let length = body.len();
    format!(
        "HTTP/1.1 {status} \r\ncontent-type: {ONE_VALUE}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Tells who gets no place why. Clients of HTTP want to have asked before they listen, and lose what they were
/// told when the connection is closed while they still write: they are heard for a moment.
async fn send_away(mut stream: UnixStream, refusal: Refusal) {
    let mut chunk = [0; 4096];
    let until = Instant::now() + HEARTBEAT;
    let mut heard = Vec::new();
    let is_asked = |heard: &[u8]| heard.windows(4).any(|four| four == b"\r\n\r\n");
    while !is_asked(&heard) && heard.len() < HEAD_BYTES_MAX {
        match timeout_at(until, stream.read(&mut chunk)).await {
            Ok(Ok(count)) if count > 0 => heard.extend(chunk.iter().take(count)),
            _ => break,
        }
    }
    let told = async {
        stream.write_all(&head_and_body(&refusal)).await?;
        stream.shutdown().await?;
        while stream.read(&mut chunk).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(HEARTBEAT, told).await;
}

/// One request and its answer.
async fn converse(
    stream: UnixStream,
    door: &Door,
    access: Access,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let line = stream.as_fd().try_clone_to_owned()?;
    let caller = Caller {
        line: Arc::new(line.into()),
        access,
        until: Instant::now() + door.patience,
    };
    let router = TowerToHyperService::new(door.router.clone());
    let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.call(request.map(axum::body::Body::new) as HttpRequest)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(door.patience)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Patient::new(stream, door.patience)), answer)
        .await?;
    Ok(())
}
