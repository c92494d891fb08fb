//! The byte stream below the messages: plain or encrypted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A connection.
#[derive(Debug)]
pub struct Transport(Inner);

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Bytes as they are: for this host only.
    pub fn plain(socket: TcpStream) -> Transport {
        Transport(Inner::Plain(socket))
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Transport {
        Transport(Inner::Tls(Box::new(stream)))
    }

    /// How it is protected, for people: `plain`, or protocol, cipher and whether a session was resumed.
    pub fn protection(&self) -> String {
        let Inner::Tls(stream) = &self.0 else {
            return "plain".to_owned();
        };
        let (_, connection) = stream.get_ref();
        let suite = connection.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str());
        let suite = suite.unwrap_or("TLS13").trim_start_matches("TLS13_");
        match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => format!("TLS 1.3 {suite}, resumed"),
            _ => format!("TLS 1.3 {suite}"),
        }
    }
}

/// How bytes end: TLS says it, or the network does. Messages have lengths, so one is as good as the other.
fn as_end(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        other => other,
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Inner::Tls(stream) => as_end(Pin::new(stream).poll_read(context, buffer)),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(socket) => Pin::new(socket).poll_flush(context),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
