//! Who may speak to which stream: from a `Hello` to a stream and its position.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::sys;
use crate::types::{History, Remap};
use crate::wire::{Hello, PROTOCOL, RefuseCode, Start, Welcome};

use super::error::{Error, state as failed};
use super::position::{Gate, Way};
use super::registry::{self, StreamRecord};
use super::replay;
use super::site::{self, Ask, Missing};
use super::stream::{Places, Stream, open_journal};
use super::target::Shared;

/// How long the applier may take for what has come, before the source is told to come again.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// The stream that `hello` speaks for: a known one, or a new one. Blocks.
pub(super) fn admit(shared: &Shared, hello: &Hello) -> Result<Arc<Stream>, Error> {
    if hello.protocol != PROTOCOL {
        let theirs = hello.protocol;
        let source = crate::wire::Error::Version { theirs };
        return Err(Error::Wire { source });
    }
    let place = hello.place.as_ref();
    let state = &shared.options.state;
    let opened = File::open(state).map_err(failed("open", state))?;
    site::check_inside(opened.as_fd(), place, state)?;
    let names = site::components(&hello.source, &hello.set, hello.path.as_deref())?;
    let path = site::joined(&names);
    let mut streams = shared.streams.lock();
    let records: Vec<StreamRecord> = streams.values().map(|s| s.record()).collect();
    registry::check_free(&path, &hello.source, &hello.set, records.iter())?;
    let known = streams.values().find(|s| s.record().path == path);
    let known = known.map(Arc::clone);
    let (number, missing) = match &known {
        Some(stream) => (stream.number, Missing::Fail),
        None => (registry::free_number(state)?, Missing::Create),
    };
    let places = shared.places(number);
    let ask = Ask {
        root: &shared.options.root,
        place,
        missing,
        hidden: &places.hidden,
    };
    site::settle(&names, ask)?;
    if let Some(stream) = known {
        stream.update_record(|record| record.instance = format!("{:032x}", hello.instance))?;
        return Ok(stream);
    }
    let record = StreamRecord::new(&hello.source, &hello.set, &path, hello.instance);
    let stream = create(shared, number, places, record)?;
    info!(stream = number, source = hello.source, set = %hello.set, path, "new stream");
    streams.insert(number, Arc::clone(&stream));
    Ok(stream)
}

fn create(
    shared: &Shared,
    number: u32,
    places: Places,
    record: StreamRecord,
) -> Result<Arc<Stream>, Error> {
    registry::create_private(&places.state)?;
    let journal = open_journal(number, &places.state, shared.options.queue)?;
    registry::save(&places.state, &record)?;
    open(shared, Stream::new(number, places, record, journal))
}

/// Starts the stream's applier.
pub(super) fn open(shared: &Shared, stream: Stream) -> Result<Arc<Stream>, Error> {
    let stream = Arc::new(stream);
    let thread = replay::start(&stream)?;
    shared.threads.lock().push(thread);
    Ok(stream)
}

/// Waits until the stream's applier is open. Blocks.
fn await_open(stream: &Stream, patience: Duration) -> Result<(), Error> {
    let until = sys::monotonic_ns() + u64::try_from(patience.as_nanos()).unwrap_or(0);
    let mut board = stream.board();
    while !board.opened && !board.ended && sys::monotonic_ns() < until {
        stream.wait_until(&mut board, until);
    }
    if board.opened {
        return Ok(());
    }
    let text = match &board.apply_error {
        Some(text) => text.clone(),
        None => "the target is still recovering; it will be tried again".into(),
    };
    Err(Error::refuse(RefuseCode::NotReady, text))
}

/// Waits until everything received is applied, where the source is in another history, which may go on
/// from where the replica then stands. Blocks.
fn await_rest(stream: &Stream, forks: &[History]) -> Result<(), Error> {
    let patience = u64::try_from(REST_PATIENCE.as_nanos()).unwrap_or(0);
    let until = sys::monotonic_ns() + patience;
    let mut board = stream.board();
    while board.standing().is_awaited(forks) {
        if board.ended || sys::monotonic_ns() >= until {
            let text = board.apply_error.clone().unwrap_or_else(|| {
                "the target still applies what came before the source's loss of power".into()
            });
            return Err(Error::refuse(RefuseCode::NotReady, text));
        }
        stream.wait_until(&mut board, until);
    }
    Ok(())
}

/// How `hello` wants absolute links to be made, in this replica.
fn remap_asked(hello: &Hello, replica: &Path) -> Result<Option<Remap>, Error> {
    if hello.remap.is_empty() {
        return Ok(None);
    }
    let Some(to) = replica.to_str() else {
        let text = format!(
            "links cannot be remapped to {}, which is no UTF-8; choose another root",
            replica.display()
        );
        return Err(Error::refuse(RefuseCode::Path, text));
    };
    Ok(Some(Remap {
        from: hello.remap.clone(),
        to: to.to_owned(),
    }))
}

/// The stream's position, once everything that came is settled; none when links are to be made in
/// another way than they were: then only a full mirror makes all of them right. Blocks.
pub(super) fn position(stream: &Stream, hello: &Hello) -> Result<Welcome, Error> {
    await_open(stream, replay::OPEN_PATIENCE)?;
    stream.settle_received()?;
    await_rest(stream, &hello.forks)?;
    let record = stream.record();
    let replica = stream.places.root.join(&record.path);
    let remap = remap_asked(hello, &replica)?;
    let is_as_before = remap == record.remap;
    if !is_as_before {
        info!(stream = stream.number, ?remap, before = ?record.remap, "links are to be made otherwise");
    }
    let board = stream.board();
    Ok(Welcome {
        protocol: PROTOCOL,
        history: board.standing().history_told(&hello.forks, is_as_before),
        received: board.standing().received_told(&hello.forks),
        applied: board.applied,
        durable: board.durable,
        mirror: board.mirror.map(|mirror| mirror.mirror),
        replica_path: replica.display().to_string(),
        state: board.target_state(),
        remap,
    })
}

/// Checks where the source begins and opens the session on the board: how it begins, and its number.
pub(super) fn begin(
    stream: &Stream,
    hello: &Hello,
    welcome: &Welcome,
    start: &Start,
) -> Result<(Way, u64), Error> {
    if start.history != hello.history {
        return Err(Error::refuse(
            RefuseCode::Position,
            format!(
                "the source begins in history {} after it said {}",
                start.history, hello.history
            ),
        ));
    }
    let Some(way) = Way::of(welcome, start) else {
        return Err(Error::refuse(
            RefuseCode::Position,
            format!(
                "the source begins after record {} of history {}, but the target stands at record {} of {}",
                start.after,
                start.history,
                welcome.received,
                welcome.history.map_or("none".into(), |h| h.to_string())
            ),
        ));
    };
    let gate = way.gate(start, hello.end);
    let session = stream.post(|board| {
        board.session += 1;
        board.gate = gate;
        board.staged_bytes_max = Some(hello.staged_bytes_max);
        board.speaks = !way.is_anew();
        board.wants.clear();
        board.done = None;
        board.intake_error = None;
        board.session
    });
    Ok((way, session))
}

/// Closes the session on the board.
pub(super) fn end(stream: &Stream, session: u64) {
    stream.post(|board| {
        if board.session == session {
            board.gate = Gate::Closed;
            board.speaks = false;
            board.wants.clear();
            board.done = None;
            board.intake_error = None;
        }
    });
}
