//! Who may speak to which stream: from a `Hello` to a stream and its position.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use crate::sys;
use crate::types::{History, Name, Remap};
use crate::wire::{Hello, PROTOCOL, RefuseCode, Start, Welcome};

use super::error::{Error, state as failed};
use super::grants;
use super::greeting::Who;
use super::intake::Ending;
use super::position::{Gate, Way};
use super::registry::{self, StreamRecord};
use super::replay;
use super::site::{self, Ask, Missing};
use super::stream::{Places, Stream, open_journal};
use super::target::Shared;

/// How long the applier may take for what has come, before the source is told to come again.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// Replicas that one paired source may have.
const STREAMS_PER_PEER_MAX: usize = 64;

/// Whose stream a `Hello` is for, as far as this target knows.
struct Claim<'a> {
    hello: &'a Hello,
    who: &'a Who,
    /// The source's name here.
    source: String,
    /// The mirror path, without a doubled slash.
    path: String,
    /// The administrator has said that this source may have what lies there.
    is_named: bool,
}

impl Claim<'_> {
    fn peer_id(&self) -> Option<&str> {
        self.who.peer().map(|peer| peer.id.as_str())
    }
}

/// The stream that `hello` speaks for: a known one, or a new one. Blocks.
pub(super) fn admit(shared: &Shared, hello: &Hello, who: &Who) -> Result<Arc<Stream>, Error> {
    if hello.protocol != PROTOCOL {
        let theirs = hello.protocol;
        let source = crate::wire::Error::Version { theirs };
        return Err(Error::Wire { source });
    }
    let place = hello.place.as_ref();
    let state = &shared.options.state;
    let opened = File::open(state).map_err(failed("open", state))?;
    site::check_inside(opened.as_fd(), place, state)?;
    let (names, claim) = claim(hello, who)?;
    let mut streams = shared.streams.lock();
    let records: Vec<StreamRecord> = streams.values().map(|s| s.record()).collect();
    registry::check_free(&claim.path, records.iter())?;
    let known = streams.values().find(|s| s.record().path == claim.path);
    let known = known.map(Arc::clone);
    let (number, missing) = match &known {
        Some(stream) => {
            check_owner(shared, stream, &claim)?;
            (stream.number, Missing::Fail)
        }
        None => {
            check_count(&records, &claim)?;
            (registry::free_number(state)?, Missing::Create)
        }
    };
    let places = shared.places(number, claim.peer_id());
    let ask = Ask {
        root: &shared.options.root,
        place,
        missing,
        hidden: &places.hidden,
    };
    site::settle(&names, ask)?;
    let instance = format!("{:032x}", hello.instance);
    let owner = claim.peer_id().map(str::to_owned);
    if let Some(stream) = known {
        stream.update_record(|record| {
            record.instance = instance;
            record.source.clone_from(&claim.source);
            record.peer = owner;
        })?;
        stream
            .places
            .lease
            .pass_to(shared.terms_of(claim.peer_id()));
        return Ok(stream);
    }
    let path = claim.path.as_str();
    let mut record = StreamRecord::new(&claim.source, &hello.set, path, hello.instance);
    record.peer = owner;
    let stream = create(shared, number, places, record)?;
    info!(stream = number, source = claim.source, set = %hello.set, path, "new stream");
    streams.insert(number, Arc::clone(&stream));
    Ok(stream)
}

/// Where the source wants to go, if it may.
fn claim<'a>(hello: &'a Hello, who: &'a Who) -> Result<(Vec<Name>, Claim<'a>), Error> {
    let Who::Peer(peer, _) = who else {
        let names = site::components(&hello.source, &hello.set, hello.path.as_deref())?;
        let path = site::joined(&names);
        return Ok((
            names,
            Claim {
                hello,
                who,
                source: hello.source.clone(),
                path,
                is_named: true,
            },
        ));
    };
    let asked = match &hello.path {
        Some(path) => Some(site::joined(&site::components("", &hello.set, Some(path))?)),
        None => None,
    };
    let right = grants::right_of(peer, &hello.set, asked.as_deref())?;
    let names = site::components(&peer.name, &hello.set, Some(&right.path))?;
    let claim = Claim {
        hello,
        who,
        source: peer.name.clone(),
        path: site::joined(&names),
        is_named: right.is_named,
    };
    Ok((names, claim))
}

/// Refuses a replica that somebody else has.
fn check_owner(shared: &Shared, stream: &Stream, claim: &Claim<'_>) -> Result<(), Error> {
    let record = stream.record();
    let taken = |why: String| Err(Error::refuse(RefuseCode::Taken, why));
    let (path, theirs, set) = (&claim.path, &record.source, &record.set);
    if !record.is_of(claim.peer_id(), &claim.source, &claim.hello.set) {
        let owner = record.peer.as_deref();
        let is_owned = owner.is_some_and(|id| shared.peers.of_id(id).is_some());
        let may_take = claim.who.peer().is_some() && !is_owned && claim.is_named;
        if !may_take || record.set != claim.hello.set {
            let advice = match claim.who.peer().is_some() && !is_owned {
                true => format!(
                    "; to let this source go on with it, pair it once more with a token of `doppelfs target invite --set {set} --path {path}`"
                ),
                false => "; choose another path".to_owned(),
            };
            return taken(format!(
                "mirror path {path:?} holds the replica of set {set} of {theirs}{advice}"
            ));
        }
        info!(stream = stream.number, from = %theirs, to = claim.source, "replica taken over");
    }
    // While one connection takes over from another there is nobody to be asked.
    let current = stream.current.try_lock().ok();
    let other = current.as_ref().and_then(|current| current.as_ref());
    let other = other.filter(|c| c.is_up() && c.instance != claim.hello.instance);
    if let Some(other) = other {
        return taken(format!(
            "set {set} of {theirs} is connected from {} with another state directory: a copy of a machine must not replicate under the name of the first; remove its state and keys and pair it anew",
            other.peer
        ));
    }
    Ok(())
}

/// Refuses more replicas than a source may have.
fn check_count(records: &[StreamRecord], claim: &Claim<'_>) -> Result<(), Error> {
    let Some(id) = claim.peer_id() else {
        return Ok(());
    };
    let own = |record: &&StreamRecord| record.peer.as_deref() == Some(id);
    if records.iter().filter(own).count() < STREAMS_PER_PEER_MAX {
        return Ok(());
    }
    Err(Error::refuse(
        RefuseCode::Forbidden,
        format!(
            "source {} has {STREAMS_PER_PEER_MAX} replicas here, which is the limit",
            claim.source
        ),
    ))
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

/// Whether the session is to end that a thread waits for.
type Watch = watch::Receiver<Ending>;

/// Nobody waits for the answer any more: the thread is needed for others.
fn check_awaited(ending: &Watch) -> Result<(), Error> {
    match *ending.borrow() {
        Ending::No | Ending::Drain => Ok(()),
        Ending::Fenced | Ending::Revoked | Ending::Stopping => Err(Error::Stopping),
    }
}

/// Waits until the stream's applier is open. Blocks.
fn await_open(stream: &Stream, patience: Duration, ending: &Watch) -> Result<(), Error> {
    let until = sys::monotonic_ns() + u64::try_from(patience.as_nanos()).unwrap_or(0);
    let mut board = stream.board();
    while !board.opened && !board.ended && sys::monotonic_ns() < until {
        check_awaited(ending)?;
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
fn await_rest(stream: &Stream, forks: &[History], ending: &Watch) -> Result<(), Error> {
    let patience = u64::try_from(REST_PATIENCE.as_nanos()).unwrap_or(0);
    let until = sys::monotonic_ns() + patience;
    let mut board = stream.board();
    while board.standing().is_awaited(forks) {
        check_awaited(ending)?;
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
pub(super) fn position(stream: &Stream, hello: &Hello, ending: &Watch) -> Result<Welcome, Error> {
    await_open(stream, replay::OPEN_PATIENCE, ending)?;
    stream.settle_received()?;
    await_rest(stream, &hello.forks, ending)?;
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
        next_key: None,
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
