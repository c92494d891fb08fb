//! Asking a worker, with patience that ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::address::{self, Service};
use super::message::{ANSWER_BYTES_MAX, Message, encode_request};
use super::{Error, Item, Reply, Request};
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
        let client = Client {
            service: service.clone(),
            path,
            stream,
            patience,
        };
        client
            .stream
            .set_write_timeout(Some(patience))
            .map_err(Error::io("set a timeout on", &client.path))?;
        Ok(client)
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

    fn send(mut self, request: &Request, limit: Option<Duration>) -> Result<Answers, Error> {
        let line = encode_request(request) + "\n";
        match self.stream.write_all(line.as_bytes()) {
            Ok(()) => {}
            // It has closed already: what it said before that is to be read.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(e) => return Err(self.explain(e)),
        }
        let deadline_ns = limit.map(|limit| sys::monotonic_ns().saturating_add(nanos(limit)));
        Ok(Answers {
            client: self,
            deadline_ns,
            limit: limit.unwrap_or_default(),
            has_heard: false,
            buffer: Vec::new(),
            reply: None,
        })
    }

    fn silent(&self) -> Error {
        Error::Silent {
            service: self.service.to_string(),
            path: self.path.clone(),
            patience: self.patience,
        }
    }

    fn explain(&self, error: std::io::Error) -> Error {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, WouldBlock};
        match error.kind() {
            WouldBlock | TimedOut => self.silent(),
            BrokenPipe | ConnectionReset => Error::CutOff {
                service: self.service.to_string(),
            },
            _ => Error::io("talk to", &self.path)(error),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The answers to one request. Dropping it ends the request.
#[derive(Debug)]
pub struct Answers {
    client: Client,
    deadline_ns: Option<u64>,
    limit: Duration,
    has_heard: bool,
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
            let message = serde_json::from_slice(&line).map_err(|e| Error::NotUnderstood {
                service: self.client.service.to_string(),
                text: format!("{e} in {:.120}", String::from_utf8_lossy(&line)),
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
        self.reply.take().ok_or_else(|| Error::CutOff {
            service: self.client.service.to_string(),
        })
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
                return Err(Error::NotUnderstood {
                    service: self.client.service.to_string(),
                    text: format!("a line of more than {ANSWER_BYTES_MAX} bytes"),
                });
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<(), Error> {
        let mut patience = self.client.patience;
        if let Some(deadline) = self.deadline_ns {
            let left = Duration::from_nanos(deadline.saturating_sub(sys::monotonic_ns()));
            if left.is_zero() && !self.has_heard {
                return Err(self.client.silent());
            }
            if left.is_zero() {
                return Err(Error::Late {
                    service: self.client.service.to_string(),
                    limit: self.limit,
                });
            }
            // A little longer than the limit: so that its end is seen here, not taken for silence.
            patience = patience.min(left + Duration::from_millis(1));
        }
        let is_short = patience < self.client.patience;
        let mut stream = &self.client.stream;
        stream
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))
            .map_err(Error::io("set a timeout on", &self.client.path))?;
        let mut chunk = [0u8; 16 << 10];
        match stream.read(&mut chunk) {
            Ok(0) => Err(Error::CutOff {
                service: self.client.service.to_string(),
            }),
            Ok(count) => {
                self.has_heard = true;
                self.buffer.extend(chunk.iter().take(count));
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            // The limit ended before the patience did: the caller's loop comes back and sees it.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && is_short => Ok(()),
            Err(e) => Err(self.client.explain(e)),
        }
    }
}
