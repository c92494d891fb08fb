//! A link that can be cut, slow, or silent: a TCP proxy on the loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes moved at a time: less than a record, so that a cut tears records.
const CHUNK_BYTES: usize = 4 << 10;

/// The pace of a link that is whole.
const NO_LIMIT: u64 = u64::MAX;

/// Forwards connections to one address until it is cut.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// Bytes in a second, in each direction of each connection.
    pace: AtomicU64,
    /// Both ends of every connection that may be alive.
    streams: Mutex<Vec<TcpStream>>,
    accepted: AtomicU64,
    forwarded_bytes: AtomicU64,
}

impl Proxy {
    /// A proxy on a free port to `port` of this host; whole at first.
    pub(crate) fn new(port: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        let own_port = listener.local_addr().expect("ask for the port").port();
        let shared = Arc::new(Shared {
            upstream: (Ipv4Addr::LOCALHOST, port).into(),
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            pace: AtomicU64::new(NO_LIMIT),
            streams: Mutex::new(Vec::new()),
            accepted: AtomicU64::new(0),
            forwarded_bytes: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &theirs));
        Proxy {
            port: own_port,
            shared,
            accepting: Some(accepting),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection in the middle of whatever it carries; new ones are closed at once.
    pub(crate) fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
        self.shared.close_all();
    }

    /// Half open: nothing gets through in either direction, and nobody is told; new connections, too, are
    /// accepted and stay silent. What was on its way arrives when the link is mended.
    pub(crate) fn stall(&self) {
        self.slow(0);
    }

    /// Lets so many bytes through in a second.
    pub(crate) fn slow(&self, bytes_per_second: u64) {
        self.shared.pace.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Lets connections through again, as fast as they come.
    pub(crate) fn mend(&self) {
        self.slow(NO_LIMIT);
        self.shared.is_cut.store(false, Ordering::SeqCst);
    }

    /// Connections that were let through so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Bytes carried towards the target so far.
    pub(crate) fn forwarded_bytes(&self) -> u64 {
        self.shared.forwarded_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    /// Waits until so many bytes may go on; false when the proxy ends.
    fn may_pass(&self, bytes: u64) -> bool {
        let start = Instant::now();
        loop {
            let pace = self.pace.load(Ordering::SeqCst);
            let took = bytes.saturating_mul(1_000_000).checked_div(pace);
            let is_time = took.is_some_and(|us| start.elapsed() >= Duration::from_micros(us));
            if is_time || self.is_over.load(Ordering::SeqCst) {
                return is_time;
            }
            // Not a synchronisation: the pace above decides.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn close_all(&self) {
        let mut streams = self.streams.lock().expect("no thread panicked");
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if shared.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(server) = TcpStream::connect(shared.upstream) else {
            continue;
        };
        if connect(shared, client, server).is_ok() {
            shared.accepted.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    let (client_end, server_end) = (client.try_clone()?, server.try_clone()?);
    let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
    shared
        .streams
        .lock()
        .expect("no thread panicked")
        .extend([client_too, server_too]);
    if shared.is_cut.load(Ordering::SeqCst) {
        shared.close_all();
    }
    let (there, back) = (Arc::clone(shared), Arc::clone(shared));
    std::thread::spawn(move || {
        copy(&there, client, server, |bytes| {
            there.forwarded_bytes.fetch_add(bytes, Ordering::SeqCst);
        });
    });
    std::thread::spawn(move || copy(&back, server_end, client_end, |_| {}));
    Ok(())
}

fn copy(shared: &Shared, mut from: TcpStream, mut to: TcpStream, moved: impl Fn(u64)) {
    let mut buffer = [0; CHUNK_BYTES];
    while let Ok(count) = from.read(&mut buffer) {
        let bytes = count as u64;
        if !shared.may_pass(bytes) || count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        moved(bytes);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
