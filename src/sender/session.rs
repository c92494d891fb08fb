//! The two tasks of a session: one writes, one reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::types::Seq;
use crate::wire::{
    CheckpointRequest, Message, MessageReader, Packed, Phase, Transport, write_bytes, write_message,
};

use super::beginning::is_mirror_due;
use super::error::Error;
use super::shared::Shared;

/// A source that has nothing to send says so this often.
const PING_EVERY: Duration = Duration::from_secs(5);

/// A batch ready for the socket.
pub(super) struct Outgoing {
    pub(super) packed: Packed,
    /// The last record in it.
    pub(super) seq: Seq,
    /// Bytes in it that a mirror wrote.
    pub(super) mirror_bytes: u64,
}

fn broken(shared: &Shared, source: crate::wire::Error) -> Error {
    let endpoint = shared.options.target.endpoint();
    Error::Wire { endpoint, source }
}

/// Writes batches, requests and pings until the session is over.
pub(super) async fn write_task(
    shared: Arc<Shared>,
    mut io: WriteHalf<Transport>,
    mut batches: mpsc::Receiver<Outgoing>,
) {
    let ended = tokio::select! {
        ended = write_all(&shared, &mut io, &mut batches) => ended,
        () = shared.until_over() => return,
    };
    if let Err(source) = ended {
        shared.end_session(broken(&shared, source));
    }
}

async fn write_all(
    shared: &Shared,
    io: &mut WriteHalf<Transport>,
    batches: &mut mpsc::Receiver<Outgoing>,
) -> Result<(), crate::wire::Error> {
    if shared.checkpoint_wanted().is_some() {
        shared.urgent.notify_one();
    }
    loop {
        let wrote = tokio::select! {
            biased;
            () = shared.urgent.notified() => match shared.checkpoint_wanted() {
                Some(upto) => {
                    let request = CheckpointRequest { upto };
                    write_message(io, &Message::CheckpointRequest(request)).await?
                }
                None => 0,
            },
            batch = batches.recv() => {
                let Some(batch) = batch else { return Ok(()) };
                shared.sending(batch.seq);
                let wrote = write_bytes(io, &batch.packed.bytes).await?;
                shared.sent(batch.packed.raw_bytes as u64, batch.mirror_bytes);
                wrote
            }
            () = tokio::time::sleep(PING_EVERY) => write_message(io, &Message::Ping).await?,
        };
        shared.wrote(wrote);
    }
}

/// Reads what the target says until the session is over.
pub(super) async fn read_task(
    shared: Arc<Shared>,
    mut reader: MessageReader<BufReader<ReadHalf<Transport>>>,
) {
    let ended = tokio::select! {
        ended = read_all(&shared, &mut reader) => ended,
        () = shared.until_over() => {
            // Our side broke: a refusal that is on its way says why.
            let patience = Duration::from_millis(500);
            match tokio::time::timeout(patience, read_all(&shared, &mut reader)).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    shared.end_session(ended);
}

async fn read_all(
    shared: &Shared,
    reader: &mut MessageReader<BufReader<ReadHalf<Transport>>>,
) -> Error {
    loop {
        match reader.next(Phase::FromTarget).await {
            Ok(message) => {
                if let Err(e) = take(shared, message) {
                    return e;
                }
            }
            Err(source) => return broken(shared, source),
        }
    }
}

fn take(shared: &Shared, message: Message) -> Result<(), Error> {
    let options = &shared.options;
    let endpoint = || options.target.endpoint();
    match message {
        Message::Ack(ack) => {
            let is_due = is_mirror_due(&ack, options.journal.end());
            let durable = shared.acknowledge(ack)?;
            if is_due {
                options.events.mirror_due(options.id);
            }
            options.journal.advance(&options.cursor(), durable);
            shared.announce();
            Ok(())
        }
        Message::Want(want) => {
            if options.events.wanted(options.id, want.ids) {
                return Ok(());
            }
            Err(Error::Protocol {
                endpoint: endpoint(),
                what: "asks for more files than there are".to_owned(),
            })
        }
        Message::Done(done) => {
            options.events.mirror_done(options.id, done.mirror);
            Ok(())
        }
        Message::Ping => Ok(()),
        Message::Refuse(refuse) => Err(Error::Refused {
            endpoint: endpoint(),
            code: refuse.code,
            text: refuse.text,
        }),
        other @ (Message::Hello(_)
        | Message::Welcome(_)
        | Message::Start(_)
        | Message::Batch(_)
        | Message::Pair(_)
        | Message::Paired(_)
        | Message::Rekey(_)
        | Message::CheckpointRequest(_)) => Err(Error::Protocol {
            endpoint: endpoint(),
            what: format!("sends {:?}", other.kind()),
        }),
    }
}
