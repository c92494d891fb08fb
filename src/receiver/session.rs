//! One connection: handshake, fence, then reading and writing until it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::keys::Fingerprint;
use crate::sync;
use crate::types::{Remap, limits};
use crate::wire::{
    Ack, CheckpointRequest, Done, Hello, Message, Phase, Refuse, RefuseCode, Start, Want,
    write_message,
};

use super::crowd::Place;
use super::error::Error;
use super::greeting::{self, Opened, Reader, Who, Wish, Writer};
use super::intake::{self, Ending, Intake};
use super::position::Way;
use super::stream::Stream;
use super::target::{Shared, TURN_COUNT_MAX};
use super::welcome;

/// A source has so long to come through the door, and for each step behind it.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A source that is not heard for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The source is told something at least this often.
const ACK_EVERY: Duration = Duration::from_secs(5);
/// Batches between the socket and the receiver thread.
const BATCHES_READY: usize = 4;
/// How long a refusal may take to get through.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The session under way of a stream.
pub(super) struct Current {
    pub(super) peer: SocketAddr,
    /// The key that the source has shown.
    pub(super) key: Option<Fingerprint>,
    /// The source's state directory.
    pub(super) instance: u128,
    /// How the connection is protected, for people.
    pub(super) protection: String,
    /// Ends it.
    ending: watch::Sender<Ending>,
    /// Closed when it has ended, its receiver joined.
    ended: watch::Receiver<()>,
}

impl Current {
    /// Is it still there?
    pub(super) fn is_up(&self) -> bool {
        self.ended.has_changed().is_ok()
    }

    /// Ends it and waits until its receiver has been joined.
    pub(super) async fn end(&mut self, stream: &Stream, how: Ending) {
        self.ending.send_replace(how);
        stream.nudge();
        // Nothing is ever sent: an error says that the other end is gone.
        while self.ended.changed().await.is_ok() {}
    }
}

pub(super) fn wire(source: crate::wire::Error) -> Error {
    Error::Wire { source }
}

pub(super) fn too_slow() -> Error {
    wire(crate::wire::Error::Silent {
        patience: HANDSHAKE_MAX,
    })
}

/// Serves one connection until it ends.
pub(super) async fn serve(shared: Arc<Shared>, socket: TcpStream, peer: SocketAddr, place: Place) {
    let outcome = converse(&shared, socket, (peer, place)).await;
    match outcome {
        Ok(()) => {}
        Err(Error::Fenced | Error::Stopping) => info!(%peer, "session ended"),
        Err(e) if e.is_of_the_peer() => note_refused(&shared, peer, &e),
        Err(e) => warn!(%peer, error = %e, "connection ended"),
    }
}

async fn converse(
    shared: &Arc<Shared>,
    socket: TcpStream,
    (peer, place): (SocketAddr, Place),
) -> Result<(), Error> {
    if socket.set_nodelay(true).is_err() {
        return Ok(());
    }
    let mut opened = tokio::select! {
        opened = greeting::open(shared, socket) => opened?,
        () = place.until_pushed_out() => return Err(too_slow()),
        () = shared.stopped() => return Err(Error::Stopping),
    };
    let greeted = tokio::select! {
        greeted = greeting::greet(shared, &mut opened, peer) => greeted,
        () = place.until_pushed_out() => return Err(too_slow()),
        () = shared.stopped() => Err(Error::Stopping),
    };
    match greeted {
        Ok(Wish::Replicate(hello, who)) => {
            admitted(shared, (&hello, &who), opened, (peer, place)).await
        }
        Ok(Wish::Acquainted) => {
            farewell(&mut opened.writer, None).await;
            linger(opened.reader).await;
            Ok(())
        }
        // Who does not read the last words does not keep the place from others.
        Err(e) => tokio::select! {
            away = turn_away(shared, peer, e, opened.writer, opened.reader) => away,
            () = place.until_pushed_out() => Ok(()),
        },
    }
}

fn note_refused(shared: &Shared, peer: SocketAddr, error: &Error) {
    // Who goes was not refused.
    let has_gone = matches!(
        error,
        Error::Wire {
            source: crate::wire::Error::Closed | crate::wire::Error::Cut
        }
    );
    let text = (!has_gone).then(|| error.to_string());
    if let Some(unlogged) = shared.crowd.ended(peer, text) {
        warn!(%peer, %error, unlogged, "connection ended");
    }
}

/// Notes why, says so, and goes. What is noted already is no error any more.
async fn turn_away(
    shared: &Shared,
    peer: SocketAddr,
    error: Error,
    mut writer: Writer,
    reader: Reader,
) -> Result<(), Error> {
    let is_noted = error.is_of_the_peer();
    if is_noted {
        note_refused(shared, peer, &error);
    }
    farewell(&mut writer, error.refusal()).await;
    linger(reader).await;
    match is_noted {
        true => Ok(()),
        false => Err(error),
    }
}

pub(super) fn unexpected(message: &Message, place: &'static str) -> Error {
    let kind = message.kind();
    wire(crate::wire::Error::Unexpected { kind, place })
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // It fails only when the work panicked or the runtime ends.
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Error::Stopping))
}

/// Leave to wait until another session of the stream has ended; none is needed where there is none.
fn turn(
    shared: &Shared,
    stream: &Stream,
    who: &Who,
) -> Result<Option<OwnedSemaphorePermit>, Error> {
    let Some(peer) = who.peer().filter(|_| stream.current.try_lock().is_err()) else {
        return Ok(None);
    };
    let turn = shared.turns_of(&peer.id).try_acquire_owned();
    turn.map(Some).map_err(|_| {
        Error::refuse(
            RefuseCode::Busy,
            format!("{TURN_COUNT_MAX} connections of source {} wait for earlier ones to end, which is the limit", peer.name),
        )
    })
}

/// Finds the stream, takes over from an older connection, and runs the session.
async fn admitted(
    shared: &Arc<Shared>,
    (hello, who): (&Hello, &Who),
    opened: Opened,
    (peer, place): (SocketAddr, Place),
) -> Result<(), Error> {
    let Opened {
        reader,
        writer,
        protection,
        ..
    } = opened;
    let admission = {
        let (shared, hello, who) = (Arc::clone(shared), hello.clone(), who.clone());
        blocking(move || welcome::admit(&shared, &hello, &who)).await
    };
    let turn = match &admission {
        Ok(stream) => turn(shared, stream, who),
        Err(_) => Ok(None),
    };
    let (stream, turn) = match admission.and_then(|stream| Ok((stream, turn?))) {
        Ok(admitted) => admitted,
        Err(e) => {
            return tokio::select! {
                away = turn_away(shared, peer, e, writer, reader) => away,
                () = place.until_pushed_out() => Ok(()),
            };
        }
    };
    drop(place);
    let (ending, mut ended) = watch::channel(Ending::No);
    // Dropped at the very end of this function: then the next connection may begin.
    let (_alive, alive) = watch::channel(());
    {
        let mut current = stream.current.lock().await;
        if let Some(older) = current.as_mut() {
            older.end(&stream, Ending::Fenced).await;
        }
        *current = Some(Current {
            peer,
            key: who.key(),
            instance: hello.instance,
            protection,
            ending: ending.clone(),
            ended: alive,
        });
    }
    drop(turn);
    if shared.is_stopping() {
        ending.send_replace(Ending::Stopping);
    } else if let Who::Peer(_, key) = who
        && shared.peers.of_key(key).is_none()
    {
        // While it was on its way in.
        ending.send_replace(Ending::Revoked);
    }
    let mut parts = Parts {
        stream,
        reader,
        writer,
        ending,
    };
    let agreed = tokio::select! {
        agreed = agree(shared, &mut parts, hello, who) => agreed,
        e = until_ended(&mut ended) => Err(e),
    };
    match agreed {
        Ok(agreed) => run(parts, ended, agreed, peer).await,
        Err(e) => turn_away(shared, peer, e, parts.writer, parts.reader).await,
    }
}

/// Returns when the session is told to end.
async fn until_ended(ending: &mut watch::Receiver<Ending>) -> Error {
    let how = ending.wait_for(|how| *how != Ending::No).await;
    match how.as_deref() {
        Ok(Ending::Fenced) => Error::Fenced,
        Ok(Ending::Revoked) => intake::revoked(),
        Ok(Ending::No | Ending::Drain | Ending::Stopping) | Err(_) => Error::Stopping,
    }
}

/// What a session works with.
struct Parts {
    stream: Arc<Stream>,
    reader: Reader,
    writer: Writer,
    ending: watch::Sender<Ending>,
}

/// What both sides agreed on.
struct Agreed {
    start: Start,
    way: Way,
    remap: Option<Remap>,
    /// The session's number.
    session: u64,
}

/// `Welcome` and `Start`.
async fn agree(
    shared: &Arc<Shared>,
    parts: &mut Parts,
    hello: &Hello,
    who: &Who,
) -> Result<Agreed, Error> {
    let (stream, asked) = (Arc::clone(&parts.stream), hello.clone());
    let ending = parts.ending.subscribe();
    let position = blocking(move || welcome::position(&stream, &asked, &ending));
    let mut position = position.await?;
    position.next_key = who.peer().and_then(|_| shared.next_key());
    let message = Message::Welcome(position.clone());
    let sent = timeout(HANDSHAKE_MAX, write_message(&mut parts.writer, &message)).await;
    sent.map_err(|_| too_slow())?.map_err(wire)?;
    // The source may have to write the beginning of a mirror first.
    let start = timeout(SILENCE_MAX * 2, parts.reader.next(Phase::Handshake)).await;
    let start = match start.map_err(|_| too_slow())?.map_err(wire)? {
        Message::Start(start) => start,
        other => return Err(unexpected(&other, "where a start belongs")),
    };
    note_told(shared, who, start.next_key).await;
    let (way, session) = welcome::begin(&parts.stream, hello, &position, &start)?;
    Ok(Agreed {
        start,
        way,
        remap: position.remap,
        session,
    })
}

/// The source has written down the next key: for those who ask whether all have.
async fn note_told(shared: &Arc<Shared>, who: &Who, next: Option<Fingerprint>) {
    let next = next.filter(|next| shared.next_key() == Some(*next));
    let Some(peer) = who.peer().filter(|peer| peer.told != next) else {
        return;
    };
    let (shared, id) = (Arc::clone(shared), peer.id.clone());
    let noted = blocking(move || shared.peers.update(&id, |peer| peer.told = next)).await;
    if let Err(error) = noted {
        warn!(%error, "cannot note that a source knows the next key");
    }
}

/// Reads and writes until one side ends it; the receiver thread is joined before this returns.
async fn run(
    parts: Parts,
    mut ended: watch::Receiver<Ending>,
    agreed: Agreed,
    peer: SocketAddr,
) -> Result<(), Error> {
    let Parts {
        stream,
        mut reader,
        writer,
        ending,
    } = parts;
    let Agreed {
        start,
        way,
        remap,
        session,
    } = agreed;
    let number = stream.number;
    info!(stream = number, %peer, after = %start.after, jump = start.jump, "session begins");
    reader.set_patience(SILENCE_MAX);
    let (batches, queue) = mpsc::channel(BATCHES_READY);
    let (closing, close) = watch::channel(None);
    let writing = tokio::spawn(write_task(Arc::clone(&stream), writer, close));
    let (report, mut reported) = oneshot::channel();
    let intake = Intake::new(Arc::clone(&stream), (start, way), remap, ending.subscribe());
    let name = format!("dfs-recv-{number}");
    let thread = sync::spawn(&name, move || {
        // Nobody listens any more only when the runtime is gone.
        let _ = report.send(intake.run(queue));
    });
    let thread = thread.map_err(|source| Error::Thread { name, source });
    let outcome = match &thread {
        Err(_) => Ok(()),
        Ok(_) => tokio::select! {
            e = read_all(&mut reader, batches, &stream) => Err(e),
            taken = &mut reported => taken.unwrap_or(Err(Error::Panicked)),
            e = until_ended(&mut ended) => Err(e),
        },
    };
    ending.send_if_modified(|how| {
        let goes_on = *how == Ending::No;
        if goes_on {
            *how = Ending::Drain;
        }
        goes_on
    });
    stream.nudge();
    let outcome = join_intake(thread, reported, outcome).await;
    welcome::end(&stream, session);
    let refusal = outcome.as_ref().err().and_then(Error::refusal);
    closing.send_replace(Some(refusal));
    finish(writing).await;
    linger(reader).await;
    outcome
}

/// Waits for the receiver thread; what it says explains more than a closed connection.
async fn join_intake(
    thread: Result<std::thread::JoinHandle<()>, Error>,
    reported: oneshot::Receiver<Result<(), Error>>,
    outcome: Result<(), Error>,
) -> Result<(), Error> {
    let thread = thread?;
    let taken = if reported.is_terminated() {
        Ok(())
    } else {
        reported.await.unwrap_or(Err(Error::Panicked))
    };
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        warn!("receiver thread panicked");
    }
    match (taken, outcome) {
        (Err(e), Err(Error::Wire { .. })) if !matches!(e, Error::Stopping | Error::Fenced) => {
            Err(e)
        }
        (_, outcome) => outcome,
    }
}

async fn read_all(reader: &mut Reader, batches: mpsc::Sender<Vec<u8>>, stream: &Stream) -> Error {
    loop {
        match reader.next(Phase::FromSource).await {
            Ok(Message::Batch(batch)) => {
                if batches.send(batch).await.is_err() {
                    // The receiver thread has ended and says why.
                    std::future::pending::<()>().await;
                }
            }
            Ok(Message::CheckpointRequest(CheckpointRequest { upto })) => {
                stream.post(|board| board.checkpoint_upto = board.checkpoint_upto.max(upto));
            }
            Ok(Message::Ping) => {}
            Ok(other) => return unexpected(&other, "from a source"),
            Err(source) => return wire(source),
        }
    }
}

/// Writes what there is to tell, then the farewell.
async fn write_task(
    stream: Arc<Stream>,
    mut writer: Writer,
    mut close: watch::Receiver<Option<Option<Refuse>>>,
) {
    let mut told = None;
    // Counted from the last words: news that change nothing, such as one more attempt at what fails, must
    // not put it off, or the source takes this side for dead.
    let mut due_at = Instant::now();
    loop {
        let last = close.borrow_and_update().clone();
        if let Some(refusal) = last {
            farewell(&mut writer, refusal).await;
            return;
        }
        let is_due = Instant::now() >= due_at;
        match tell(&stream, &mut writer, &mut told, is_due).await {
            Ok(true) => due_at = Instant::now() + ACK_EVERY,
            Ok(false) => {}
            // The reading side sees the end, too.
            Err(_) => return,
        }
        tokio::select! {
            biased;
            _ = close.changed() => {}
            () = stream.news.notified() => {}
            () = tokio::time::sleep_until(due_at) => {}
        }
    }
}

/// Wants, a finished mirror, and the marks where they changed or are `due`. False: there was nothing.
async fn tell(
    stream: &Stream,
    writer: &mut Writer,
    told: &mut Option<Ack>,
    due: bool,
) -> Result<bool, crate::wire::Error> {
    let (wants, done, ack) = {
        let mut board = stream.board();
        let ack = board.speaks.then(|| board.ack());
        (std::mem::take(&mut board.wants), board.done.take(), ack)
    };
    let mut is_heard = !wants.is_empty() || done.is_some();
    for ids in wants.chunks(limits::WANT_COUNT_MAX) {
        let want = Message::Want(Want { ids: ids.to_vec() });
        write_message(writer, &want).await?;
    }
    match ack {
        Some(ack) if due || told.as_ref() != Some(&ack) => {
            write_message(writer, &Message::Ack(ack.clone())).await?;
            *told = Some(ack);
            is_heard = true;
        }
        None if due => {
            write_message(writer, &Message::Ping).await?;
            is_heard = true;
        }
        Some(_) | None => {}
    }
    if let Some(mirror) = done {
        write_message(writer, &Message::Done(Done { mirror })).await?;
    }
    Ok(is_heard)
}

/// The last words: why, where there is something to say, and the end.
async fn farewell(writer: &mut Writer, refusal: Option<Refuse>) {
    let words = async {
        if let Some(refusal) = refusal {
            // The peer may be gone; it learns the reason when it comes back.
            let _ = write_message(writer, &Message::Refuse(refusal)).await;
        }
        let _ = writer.shutdown().await;
    };
    let _ = timeout(FAREWELL_MAX, words).await;
}

async fn finish(mut writing: tokio::task::JoinHandle<()>) {
    if timeout(FAREWELL_MAX, &mut writing).await.is_err() {
        writing.abort();
    }
}

/// Reads on for a moment: closing a socket with unread bytes resets the connection, and the peer
/// would never see the last words.
async fn linger(reader: Reader) {
    let mut io = reader.into_inner();
    let drain = async {
        let mut sink = vec![0u8; 64 << 10];
        while matches!(io.read(&mut sink).await, Ok(n) if n > 0) {}
    };
    let _ = timeout(FAREWELL_MAX, drain).await;
}
