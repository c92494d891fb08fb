//! The line between a supervisor and its worker: what they tell each other, and hand over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::passthrough::Keeper;
use crate::sys;
use crate::types::FileId;

/// The variable that tells a worker the number of its descriptor.
pub(super) const VARIABLE: &str = "DOPPELFS_LINE";

/// Longest message.
pub(super) const MESSAGE_BYTES_MAX: usize = 256;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// To the worker: begin.
    First,
    /// To the worker: take over; with the connection to the kernel, the directory below and its claim.
    Again {
        /// How often a worker was started again.
        restarts: u64,
        /// Did the last one die by itself, and not of a kill from outside?
        crashed: bool,
    },
    /// To the worker: there is nothing more to hand over.
    Go,
    /// To the supervisor: the mount is made; with the connection, the directory below and its claim.
    Hold,
    /// An inode that has lost its names, with a descriptor of it; both ways.
    Keep(FileId),
    /// To the supervisor: this inode is not to be kept any more.
    Release(FileId),
    /// To the supervisor: requests are served.
    Serving,
    /// To the supervisor: the mount has ended.
    Ended,
}

pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: Message,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = rmp_serde::to_vec(&message).map_err(io::Error::other)?;
    sys::send_message(socket, &bytes, fds)
}

pub(super) fn receive(
    socket: BorrowedFd<'_>,
    waits: bool,
) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut buf = [0u8; MESSAGE_BYTES_MAX];
    let Some((length, fds)) = sys::receive_message(socket, &mut buf, waits)? else {
        return Ok(None);
    };
    let message = rmp_serde::from_slice(&buf[..length]).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}

/// The worker's end.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
}

/// What a worker is handed that takes over.
#[derive(Debug)]
pub struct Handover {
    /// The connection to the kernel.
    pub device: OwnedFd,
    /// The directory below the mount.
    pub tree: OwnedFd,
    /// The lock of the right to protect it.
    pub claim: Option<OwnedFd>,
    /// Inodes without a name that are still used.
    pub kept: Vec<(FileId, OwnedFd)>,
    /// How often a worker was started again.
    pub restarts: u64,
    /// Did the last one die by itself? Then perhaps of a request that it served.
    pub crashed: bool,
}

fn garbled() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the supervisor spoke out of turn",
    )
}

impl Line {
    /// The line that this process was started with; `None` when no supervisor started it. To be called
    /// once.
    pub fn inherited() -> Option<Arc<Line>> {
        let number: RawFd = std::env::var(VARIABLE).ok()?.parse().ok()?;
        let socket = sys::inherited(number)?;
        Some(Arc::new(Line { socket }))
    }

    /// Was this process started by a supervisor?
    pub fn is_there() -> bool {
        std::env::var_os(VARIABLE).is_some()
    }

    /// What the supervisor wants: `None` to begin, else to take this over.
    ///
    /// # Errors
    /// When it cannot be heard or makes no sense.
    pub fn begin(&self) -> io::Result<Option<Handover>> {
        let mut handover = None;
        loop {
            let heard = receive(self.socket.as_fd(), true)?;
            let (message, mut fds) = heard.ok_or_else(garbled)?;
            match message {
                Message::First => {}
                Message::Again { restarts, crashed } => {
                    let mut fds = fds.into_iter();
                    handover = Some(Handover {
                        device: fds.next().ok_or_else(garbled)?,
                        tree: fds.next().ok_or_else(garbled)?,
                        claim: fds.next(),
                        kept: Vec::new(),
                        restarts,
                        crashed,
                    });
                }
                Message::Keep(id) => {
                    let handover = handover.as_mut().ok_or_else(garbled)?;
                    handover.kept.push((id, fds.pop().ok_or_else(garbled)?));
                }
                Message::Go => return Ok(handover),
                _ => return Err(garbled()),
            }
        }
    }

    fn tell(&self, message: Message, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = send(self.socket.as_fd(), message, fds) {
            tracing::error!(%error, ?message, "the supervisor cannot be told: should this worker end, \
                the mount ends with it");
        }
    }

    /// The mount is made: all of it outlives this worker from now on.
    pub fn hold(
        &self,
        device: BorrowedFd<'_>,
        tree: BorrowedFd<'_>,
        claim: Option<BorrowedFd<'_>>,
    ) {
        let mut fds = vec![device, tree];
        fds.extend(claim);
        self.tell(Message::Hold, &fds);
    }

    /// Requests are served.
    pub fn serving(&self) {
        self.tell(Message::Serving, &[]);
    }

    /// The mount has ended: this worker needs no successor.
    pub fn ended(&self) {
        self.tell(Message::Ended, &[]);
    }
}

impl Keeper for Line {
    fn keep(&self, id: FileId, fd: BorrowedFd<'_>) {
        self.tell(Message::Keep(id), &[fd]);
    }

    fn release(&self, id: FileId) {
        self.tell(Message::Release(id), &[]);
    }
}
