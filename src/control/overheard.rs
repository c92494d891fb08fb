//! What somebody said first, for when it was not HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::sync::{Mutex, Rank};

/// So much is remembered.
const BYTES_KEPT: usize = 4096;

/// The beginning of what was read. Rank: leaf; no I/O under it.
#[derive(Debug, Clone)]
pub(super) struct Beginning(Arc<Mutex<Vec<u8>>>);

impl Beginning {
    pub(super) fn new() -> Beginning {
        Beginning(Arc::new(Mutex::new(Rank::Leaf, Vec::new())))
    }

    /// It so far.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }

    fn note(&self, bytes: &[u8]) {
        let mut kept = self.0.lock();
        let room = BYTES_KEPT.saturating_sub(kept.len());
        kept.extend(bytes.iter().take(room));
    }
}

/// A connection, the beginning of which is remembered.
pub(super) struct Overheard {
    pub(super) stream: UnixStream,
    pub(super) beginning: Beginning,
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.beginning
            .note(buffer.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
