//! Asking a worker, with patience that ends.

use std::error::Error as _;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::runtime::{self, Runtime};

use super::address::{self, Service};
use super::http::{IN_LINES, ONE_VALUE};
use super::message::{ANSWER_BYTES_MAX, Message};
use super::overheard::{Beginning, Overheard};
use super::routes::{Asked, encode_request};
use super::{Error, Item, Refusal, RefusalCode, Reply, Request};
use crate::sync;
use crate::sys;

/// How long a worker may be silent before it counts as stopped: several heartbeats, and what a busy
/// machine adds.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// A connection for one request.
#[derive(Debug)]
pub struct Client {
    service: Service,
    path: PathBuf,
    stream: UnixStream,
    patience: Duration,
}

impl Client {
    /// Connects to a service of `run_dir`; waits at most [`ANSWER_PATIENCE`], then and later.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Denied`], [`Error::Silent`] or [`Error::Io`].
    pub fn connect(run_dir: &Path, service: &Service) -> Result<Client, Error> {
        Client::connect_within(run_dir, service, ANSWER_PATIENCE)
    }

    /// As [`Client::connect`] with another patience.
    ///
    /// # Errors
    /// As there.
    pub fn connect_within(
        run_dir: &Path,
        service: &Service,
        patience: Duration,
    ) -> Result<Client, Error> {
        let path = service.socket(run_dir);
        let gone = |left_over| Error::NotRunning {
            service: service.to_string(),
            path: path.clone(),
            left_over,
        };
        let (dir, short) = match address::short_path(&path) {
            Ok(way) => way,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(gone(false));
            }
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                return Err(Error::Denied { path });
            }
            Err(other) => return Err(other),
        };
        // connect(2) waits while the queue of a stopped worker is full, and has no time limit of
        // its own: let a thread wait, and leave it behind.
        let (done, result) = mpsc::channel();
        sync::spawn("dfs-connect", move || {
            let stream = UnixStream::connect(&short);
            drop(dir);
            let _ = done.send(stream);
        })
        .map_err(Error::io("start a thread for", &path))?;
        let stream = match result.recv_timeout(patience) {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => match e.kind() {
                std::io::ErrorKind::NotFound => return Err(gone(false)),
                std::io::ErrorKind::ConnectionRefused => return Err(gone(true)),
                std::io::ErrorKind::PermissionDenied => return Err(Error::Denied { path }),
                _ => return Err(Error::io("connect to", &path)(e)),
            },
            Err(_) => {
                return Err(Error::Silent {
                    service: service.to_string(),
                    path,
                    patience,
                });
            }
        };
        Ok(Client {
            service: service.clone(),
            path,
            stream,
            patience,
        })
    }

    /// Asks and waits for the one answer. `limit` bounds the whole conversation; without it only
    /// silence ends it.
    ///
    /// # Errors
    /// [`Error::Silent`], [`Error::CutOff`], [`Error::Refused`] and their like.
    pub fn ask(self, request: &Request, limit: Option<Duration>) -> Result<Reply, Error> {
        let mut answers = self.send(request, limit)?;
        while answers.next_item()?.is_some() {}
        answers.reply()
    }

    /// Asks for a stream of items.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn follow(self, request: &Request) -> Result<Answers, Error> {
        self.send(request, None)
    }

    fn send(self, request: &Request, limit: Option<Duration>) -> Result<Answers, Error> {
        let asked = encode_request(request)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::io("prepare to talk to", &self.path))?;
        let beginning = Beginning::new();
        let listening = Listening {
            service: self.service,
            path: self.path,
            patience: self.patience,
            deadline_ns: limit.map(|limit| sys::monotonic_ns().saturating_add(nanos(limit))),
            limit: limit.unwrap_or_default(),
            beginning: beginning.clone(),
            has_heard: false,
            runtime,
        };
        let (stream, path) = (self.stream, &listening.path);
        let stream = stream.set_nonblocking(true).and_then(|()| {
            let _context = listening.runtime.enter();
            tokio::net::UnixStream::from_std(stream)
        });
        let stream = stream.map_err(Error::io("talk to", path))?;
        listening.ask(asked, Overheard { stream, beginning })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Waiting for a worker, as long as is allowed.
#[derive(Debug)]
struct Listening {
    service: Service,
    path: PathBuf,
    patience: Duration,
    deadline_ns: Option<u64>,
    limit: Duration,
    beginning: Beginning,
    has_heard: bool,
    /// Drives the connection, only while somebody waits.
    runtime: Runtime,
}

impl Listening {
    /// Sends the request and waits for the head of the answer.
    fn ask(mut self, asked: Asked, stream: Overheard) -> Result<Answers, Error> {
        let request = hyper::Request::builder()
            .method(asked.route.method)
            .uri(asked.target())
            .header(HOST, "doppelfs")
            .header(ACCEPT, IN_LINES)
            .header(CONTENT_TYPE, ONE_VALUE)
            .body(Full::new(Bytes::from(asked.body)));
        let request = request.map_err(|e| {
            let text = format!("request {}: {e}", asked.route.name);
            Refusal::new(RefusalCode::Malformed, text)
        })?;
        let response = self.wait(async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender.send_request(request).await
        })?;
        let response = response.map_err(|e| self.explain(&e))?;
        let kind = response.headers().get(CONTENT_TYPE);
        let is_in_lines = kind.is_some_and(|kind| kind == IN_LINES);
        let status = response.status();
        let mut answers = Answers {
            body: response.into_body(),
            listening: self,
            buffer: Vec::new(),
            reply: None,
        };
        if is_in_lines {
            return Ok(answers);
        }
        // It had no lines for this: there was no place, or it is no worker of ours.
        while answers.buffer.len() <= ANSWER_BYTES_MAX && answers.read_more()? {}
        match serde_json::from_slice::<Refusal>(&answers.buffer) {
            Ok(refusal) if !status.is_success() => Err(refusal.into()),
            _ => {
                let text = String::from_utf8_lossy(&answers.buffer);
                Err(answers
                    .listening
                    .not_understood(format!("{status} {text:.120}")))
            }
        }
    }

    /// Waits for what the worker says next.
    fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, Error> {
        let mut patience = self.patience;
        if let Some(deadline) = self.deadline_ns {
            let left = Duration::from_nanos(deadline.saturating_sub(sys::monotonic_ns()));
            patience = patience.min(left);
        }
        let is_short = patience < self.patience;
        let timed = async { tokio::time::timeout(patience, next).await };
        match self.runtime.block_on(timed) {
            Ok(heard) => {
                self.has_heard = true;
                Ok(heard)
            }
            Err(_) if is_short && self.has_heard => Err(Error::Late {
                service: self.service.to_string(),
                limit: self.limit,
            }),
            Err(_) => Err(Error::Silent {
                service: self.service.to_string(),
                path: self.path.clone(),
                patience: self.patience,
            }),
        }
    }

    fn cut_off(&self) -> Error {
        Error::CutOff {
            service: self.service.to_string(),
        }
    }

    fn not_understood(&self, text: String) -> Error {
        Error::NotUnderstood {
            service: self.service.to_string(),
            text,
        }
    }

    fn explain(&self, error: &hyper::Error) -> Error {
        let beginning = self.beginning.bytes();
        if beginning.starts_with(OLDER) {
            return Error::Older {
                service: self.service.to_string(),
                remedy: match &self.service {
                    Service::Set(set) => format!(
                        "`doppelfs restart {set}` gives the mount to a worker of this version"
                    ),
                    Service::Target(_) => "stop that target and serve it again".to_owned(),
                },
            };
        }
        if error.is_parse() {
            let text = String::from_utf8_lossy(&beginning);
            return self.not_understood(format!("{error} in {text:.120}"));
        }
        match error
            .source()
            .and_then(|e| e.downcast_ref::<std::io::Error>())
        {
            Some(io) => match io.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
                    self.cut_off()
                }
                kind => Error::io("talk to", &self.path)(kind.into()),
            },
            None => self.cut_off(),
        }
    }
}

/// What a worker of an older version begins every answer with.
const OLDER: &[u8] = b"{\"kind\":";

/// The answers to one request. Dropping it ends the request.
#[derive(Debug)]
pub struct Answers {
    body: Incoming,
    listening: Listening,
    buffer: Vec<u8>,
    reply: Option<Reply>,
}

impl Answers {
    /// The next item; `None` when the answer is complete.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn next_item(&mut self) -> Result<Option<Item>, Error> {
        if self.reply.is_some() {
            return Ok(None);
        }
        loop {
            let line = self.read_line()?;
            let message = serde_json::from_slice(&line).map_err(|e| {
                let text = String::from_utf8_lossy(&line);
                self.listening.not_understood(format!("{e} in {text:.120}"))
            })?;
            match message {
                Message::Alive => {}
                Message::Item(item) => return Ok(Some(item)),
                Message::Done(reply) => {
                    self.reply = Some(reply);
                    return Ok(None);
                }
                Message::Refused(refusal) => return Err(Error::Refused(refusal)),
            }
        }
    }

    /// The last answer, after the items.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn reply(mut self) -> Result<Reply, Error> {
        while self.next_item()?.is_some() {}
        self.reply.take().ok_or_else(|| self.listening.cut_off())
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Error> {
        let mut searched = 0;
        loop {
            let fresh = self.buffer.get(searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=searched + end).collect();
                line.pop();
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched > ANSWER_BYTES_MAX {
                let text = format!("a line of more than {ANSWER_BYTES_MAX} bytes");
                return Err(self.listening.not_understood(text));
            }
            if !self.read_more()? {
                return Err(self.listening.cut_off());
            }
        }
    }

    /// False at the end.
    fn read_more(&mut self) -> Result<bool, Error> {
        match self.listening.wait(self.body.frame())? {
            None => Ok(false),
            Some(Ok(frame)) => {
                self.buffer.extend(frame.into_data().unwrap_or_default());
                Ok(true)
            }
            Some(Err(error)) => Err(self.listening.explain(&error)),
        }
    }
}
