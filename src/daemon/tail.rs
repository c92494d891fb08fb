//! The last operations of the queue, and those that come, for `queue tail`.

use std::time::Duration;

use crate::control::{
    FilterError, Item, Items, QueueFilter, QueueMatcher, Refusal, RefusalCode, Reply,
};
use crate::journal;
use crate::types::Seq;

use super::source::Source;

/// How long a tail waits for news before it looks whether its client is still there.
const TAIL_LOOK: Duration = Duration::from_secs(1);

/// Records looked through at a time, backwards: at first, and at most.
const STRIDE: u64 = 4096;
const STRIDE_MAX: u64 = 1 << 20;

/// Records between two looks whether the client is still there, where none is sent.
const LOOK_EVERY: u64 = 1024;

fn failed(error: journal::Error) -> Refusal {
    Refusal::new(RefusalCode::State, error.to_string())
}

/// After which record the last `count` begin that match, at most those in the queue. From the end backwards,
/// in strides that grow: what is asked for is mostly near the end. Kept are positions, no lines.
fn beginning(
    source: &Source,
    items: &Items,
    (end, count): (Seq, u64),
    matcher: &QueueMatcher,
) -> Result<Seq, journal::Error> {
    let before_first = source.journal.first().0.saturating_sub(1);
    let (mut upto, mut stride, mut wanted) = (end.0, STRIDE, count);
    while wanted > 0 && upto > before_first && !items.is_closed() {
        let from = upto.saturating_sub(stride).max(before_first);
        let found = match matching(source, items, (Seq(from), Seq(upto)), matcher) {
            Ok(found) => found,
            // What is older has gone meanwhile.
            Err(journal::Error::Trimmed { .. }) => break,
            Err(error) => return Err(error),
        };
        let surplus = (found.len() as u64).checked_sub(wanted);
        let first = surplus.and_then(|at| found.get(usize::try_from(at).unwrap_or(usize::MAX)));
        if let Some(first) = first {
            return Ok(Seq(first.0.saturating_sub(1)));
        }
        wanted -= found.len() as u64;
        upto = from;
        stride = (stride * 4).min(STRIDE_MAX);
    }
    Ok(Seq(upto))
}

/// Those that match after the one and up to the other.
fn matching(
    source: &Source,
    items: &Items,
    (after, upto): (Seq, Seq),
    matcher: &QueueMatcher,
) -> Result<Vec<Seq>, journal::Error> {
    let mut reader = source.journal.reader(after)?;
    let mut found = Vec::new();
    let mut looked = 0u64;
    while let Some(frame) = reader.next()? {
        let seq = frame.header().seq;
        if seq > upto {
            break;
        }
        if matcher.line(&frame).is_some() {
            found.push(seq);
        }
        looked += 1;
        if seq == upto || looked.is_multiple_of(LOOK_EVERY) && items.is_closed() {
            break;
        }
    }
    Ok(found)
}

/// Sends the last `count` that the filter lets through, then, if `follow`, each new one until the client goes.
pub(super) fn tail(
    source: &Source,
    items: &Items,
    (follow, count): (bool, u64),
    filter: &QueueFilter,
) -> Result<Reply, Refusal> {
    let matcher = filter
        .matcher()
        .map_err(|error: FilterError| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
    let (first, end) = (source.journal.first().0, source.journal.end());
    let mut after = if filter.is_empty() {
        Seq(end.0.saturating_sub(count).max(first.saturating_sub(1)))
    } else {
        beginning(source, items, (end, count), &matcher).map_err(failed)?
    };
    let mut reader = source.journal.reader(after).map_err(failed)?;
    let mut unsent = 0u64;
    loop {
        match reader.next() {
            Ok(Some(frame)) => {
                after = frame.header().seq;
                if !follow && after > end {
                    return Ok(Reply::Done);
                }
                let is_gone = match matcher.line(&frame) {
                    Some(line) => !items.send_blocking(Item::Record(line)),
                    None => {
                        unsent += 1;
                        unsent.is_multiple_of(LOOK_EVERY) && items.is_closed()
                    }
                };
                if is_gone || !follow && after >= end {
                    return Ok(Reply::Done);
                }
            }
            Ok(None) if !follow || items.is_closed() => return Ok(Reply::Done),
            Ok(None) => {
                source.journal.wait_beyond(after, TAIL_LOOK);
            }
            // It was read too slowly, and trimmed: go on with what there is.
            Err(journal::Error::Trimmed { first, .. }) => {
                reader = source
                    .journal
                    .reader(Seq(first.0.saturating_sub(1)))
                    .map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}
