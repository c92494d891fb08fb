//! Becoming known to a target, and changing the key that one is known by.

use crate::keys;
use crate::keys::{Key, PairedTarget, Pairings, Token};
use crate::sys;
use crate::wire::{
    Connector, Message, PROTOCOL, Pair, Paired, Phase, Rekey, TargetAddr, Transport,
};

use super::connect::{Conversation, Reach, converse, dial, encrypt, out_of_place};
use super::error::Error;

fn broken(endpoint: &str) -> impl FnOnce(crate::wire::Error) -> Error {
    let endpoint = endpoint.to_owned();
    |source| Error::Wire { endpoint, source }
}

fn unusable(endpoint: &str) -> impl FnOnce(keys::Error) -> Error {
    let endpoint = endpoint.to_owned();
    |source| Error::Keys { endpoint, source }
}

/// Says one message inside of TLS and hears whether the target knows us.
async fn ask(
    target: &TargetAddr,
    connector: &Connector,
    message: &Message,
) -> Result<Paired, Error> {
    let endpoint = target.endpoint();
    let socket = dial(target, Reach::Anywhere).await?;
    let (transport, _) = encrypt(&endpoint, connector, socket).await?;
    let paired = answer(&endpoint, transport, message).await?;
    Ok(paired)
}

async fn answer(endpoint: &str, transport: Transport, message: &Message) -> Result<Paired, Error> {
    let Conversation {
        mut reader,
        writer: _writer,
        answer,
        ..
    } = converse(endpoint, transport, message).await?;
    match answer {
        Message::Paired(paired) => {
            // Until the target has closed, so that its words are not cut off.
            let _ = reader.next(Phase::Handshake).await;
            Ok(paired)
        }
        other => Err(out_of_place(endpoint.to_owned(), &other)),
    }
}

fn seconds_now() -> u64 {
    sys::realtime_ns() / 1_000_000_000
}

/// Redeems an invitation: the target knows this host's key from then on, and this host the target's.
/// Returns what was written down and what the target allows.
///
/// # Errors
/// [`Error::Wire`] with [`crate::wire::Error::WrongKey`] where not the target answers that made the token,
/// [`Error::Refused`] with its words, and those of connecting.
pub async fn pair(
    target: &TargetAddr,
    token: &Token,
    name: &str,
    pairings: &Pairings,
) -> Result<(PairedTarget, Vec<String>), Error> {
    let endpoint = target.endpoint();
    let key = {
        let _lock = pairings.lock().map_err(unusable(&endpoint))?;
        pairings.own_key().map_err(unusable(&endpoint))?
    };
    let connector = Connector::new(&key, &[token.target]).map_err(broken(&endpoint))?;
    let message = Message::Pair(Pair {
        protocol: PROTOCOL,
        secret: token.secret.clone(),
        name: name.to_owned(),
    });
    let told = ask(target, &connector, &message).await?;
    let mut keys = vec![token.target];
    keys.extend(told.next_key);
    let paired = PairedTarget {
        endpoint: target.pairing(),
        name: told.target,
        keys,
        known_as: told.known_as,
        paired_at: seconds_now(),
    };
    let fresh = paired.clone();
    let _lock = pairings.lock().map_err(unusable(&endpoint))?;
    let written = pairings.change(|targets| {
        targets.retain(|known| known.endpoint != fresh.endpoint);
        targets.push(fresh);
        targets.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    });
    written.map_err(unusable(&endpoint))?;
    Ok((paired, told.grants))
}

/// Tells a target that `next` follows `key`; with the same key twice, that all others are to be forgotten.
///
/// # Errors
/// As [`pair`].
pub async fn announce_key(paired: &PairedTarget, key: &Key, next: &Key) -> Result<(), Error> {
    let target: Result<TargetAddr, _> = paired.endpoint.parse();
    let target = target.map_err(|e| Error::Protocol {
        endpoint: paired.endpoint.clone(),
        what: e.to_string(),
    })?;
    let connector = Connector::new(key, &paired.keys).map_err(broken(&paired.endpoint))?;
    let message = Message::Rekey(Rekey {
        protocol: PROTOCOL,
        next: next.fingerprint(),
        public: next.public().to_vec(),
        proof: next.vouch(&key.fingerprint()),
    });
    ask(&target, &connector, &message).await?;
    Ok(())
}
