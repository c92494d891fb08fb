//! Who is in the door: connections that have not said yet who they are, or have not proved it.
//!
//! There are few places for them. When there is none, the one goes that has been in the door the longest:
//! a source that is in order is through within milliseconds, so whoever fills the places keeps none of
//! them from coming in, whatever the number of addresses that he comes from.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::sync::{Mutex, Rank};
use crate::sys;

/// Connections in the door, from all addresses.
const PLACE_COUNT_MAX: usize = 64;
/// Of one address (one /64 of IPv6).
const ADDRESS_COUNT_MAX: usize = 16;
/// Refusals remembered for `status`.
const REFUSAL_COUNT_MAX: usize = 16;
/// Refusals that are written to the log within [`LOG_PERIOD_NS`].
const LOG_COUNT_MAX: u32 = 20;
const LOG_PERIOD_NS: u64 = 10_000_000_000;

/// A connection that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// When: seconds since 1970.
    pub at: u64,
    /// From where.
    pub from: IpAddr,
    /// Why.
    pub text: String,
}

#[derive(Default)]
struct Inner {
    next: u64,
    waiting: VecDeque<(u64, IpAddr, Arc<Notify>)>,
    pushed_out: u64,
    refusals: VecDeque<Refusal>,
    refused: u64,
    logged: u32,
    unlogged: u64,
    log_since_ns: u64,
}

/// The places in the door.
pub(super) struct Crowd(Mutex<Inner>);

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd(Mutex::new(Rank::Leaf, Inner::default()))
    }
}

/// One place. Dropping it frees it.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    pushed_out: Arc<Notify>,
}

/// What counts as one address.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let mut parts = v6.segments();
            parts[4..].fill(0);
            IpAddr::V6(parts.into())
        }
    }
}

impl Crowd {
    /// A place for a new connection; somebody who has waited the longest may have to go for it.
    pub(super) fn enter(self: &Arc<Crowd>, from: SocketAddr) -> Place {
        let house = household(from.ip());
        let mut inner = self.0.lock();
        let of_house = |w: &&(u64, IpAddr, Arc<Notify>)| w.1 == house;
        let crowded = inner.waiting.iter().filter(of_house).count() >= ADDRESS_COUNT_MAX;
        let index = match crowded {
            true => inner.waiting.iter().position(|w| w.1 == house),
            false if inner.waiting.len() >= PLACE_COUNT_MAX => Some(0),
            false => None,
        };
        if let Some((_, _, gone)) = index.and_then(|index| inner.waiting.remove(index)) {
            gone.notify_one();
            inner.pushed_out += 1;
        }
        let (number, pushed_out) = (inner.next, Arc::new(Notify::new()));
        inner.next += 1;
        inner
            .waiting
            .push_back((number, house, Arc::clone(&pushed_out)));
        drop(inner);
        Place {
            crowd: Arc::clone(self),
            number,
            pushed_out,
        }
    }

    /// Remembers a refusal, if it was one. Whether the end is to be logged, and how many were not before it.
    pub(super) fn ended(&self, from: SocketAddr, refusal: Option<String>) -> Option<u64> {
        let now_ns = sys::monotonic_ns();
        let mut inner = self.0.lock();
        if let Some(text) = refusal {
            inner.refused += 1;
            inner.refusals.push_back(Refusal {
                at: sys::realtime_ns() / 1_000_000_000,
                from: from.ip().to_canonical(),
                text,
            });
        }
        if inner.refusals.len() > REFUSAL_COUNT_MAX {
            inner.refusals.pop_front();
        }
        if now_ns.saturating_sub(inner.log_since_ns) > LOG_PERIOD_NS {
            inner.log_since_ns = now_ns;
            inner.logged = 0;
        }
        inner.logged += 1;
        if inner.logged > LOG_COUNT_MAX {
            inner.unlogged += 1;
            return None;
        }
        Some(std::mem::take(&mut inner.unlogged))
    }

    /// The last refusals, newest last, and how many there were.
    pub(super) fn refusals(&self) -> (Vec<Refusal>, u64) {
        let inner = self.0.lock();
        (inner.refusals.iter().cloned().collect(), inner.refused)
    }
}

impl Place {
    /// Returns when somebody else has got the place.
    pub(super) async fn until_pushed_out(&self) {
        self.pushed_out.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.crowd.0.lock();
        inner
            .waiting
            .retain(|(number, _, _)| *number != self.number);
    }
}
