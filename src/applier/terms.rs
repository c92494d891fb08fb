//! What a source may take of a target, and what of its files the target does not make: set by whoever
//! registers sources, shared by all streams of one source, changed while they run.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::sync::{Mutex, Rank};

/// No limit, in an atomic.
const UNLIMITED: u64 = u64::MAX;

/// The terms as plain values. The default is: no limits, everything as on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Allocated bytes of all replicas of the source.
    pub bytes_max: Option<u64>,
    /// Inodes of all replicas of the source: files, directories and all else, each once.
    pub files_max: Option<u64>,
    /// Devices are not made; see [`Withholding`](super::Withholding).
    pub withholds_devices: bool,
    /// Programs do not run as their owner or group, and have no capabilities.
    pub withholds_set_id: bool,
}

/// What is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Allocated bytes (`st_blocks` in bytes).
    pub bytes: u64,
    /// Inodes.
    pub files: u64,
}

/// The terms of one source, with what its streams use of them.
///
/// A change holds for what is applied from then on. What was made before stays as it is until it changes:
/// switching the withholding on takes nothing away, switching it off gives nothing back.
#[derive(Debug)]
pub struct Terms {
    source: String,
    bytes_max: AtomicU64,
    files_max: AtomicU64,
    withholds_devices: AtomicBool,
    withholds_set_id: AtomicBool,
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Terms {
    /// Terms of the source of this name, which messages show.
    pub fn new(source: &str, limits: Limits) -> Terms {
        let terms = Terms {
            source: source.to_owned(),
            bytes_max: AtomicU64::new(UNLIMITED),
            files_max: AtomicU64::new(UNLIMITED),
            withholds_devices: AtomicBool::new(false),
            withholds_set_id: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
        };
        terms.set(limits);
        terms
    }

    /// Changes them, for what is applied from now on. A stream that is held by a quota goes on by itself.
    pub fn set(&self, limits: Limits) {
        let number = |max: Option<u64>| max.unwrap_or(UNLIMITED);
        self.bytes_max.store(number(limits.bytes_max), Relaxed);
        self.files_max.store(number(limits.files_max), Relaxed);
        self.withholds_devices
            .store(limits.withholds_devices, Relaxed);
        self.withholds_set_id
            .store(limits.withholds_set_id, Relaxed);
    }

    /// As they are now.
    pub fn get(&self) -> Limits {
        let limit = |max: &AtomicU64| Some(max.load(Relaxed)).filter(|max| *max != UNLIMITED);
        Limits {
            bytes_max: limit(&self.bytes_max),
            files_max: limit(&self.files_max),
            withholds_devices: self.withholds_devices(),
            withholds_set_id: self.withholds_set_id(),
        }
    }

    /// What all streams use together; counted only while there is a quota.
    pub fn usage(&self) -> Usage {
        Usage {
            bytes: self.bytes.load(Relaxed),
            files: self.files.load(Relaxed),
        }
    }

    pub(super) fn has_quota(&self) -> bool {
        let is_limit = |max: &AtomicU64| max.load(Relaxed) != UNLIMITED;
        is_limit(&self.bytes_max) || is_limit(&self.files_max)
    }

    pub(super) fn withholds_devices(&self) -> bool {
        self.withholds_devices.load(Relaxed)
    }

    pub(super) fn withholds_set_id(&self) -> bool {
        self.withholds_set_id.load(Relaxed)
    }

    pub(super) fn charge(&self, more: Usage) {
        self.bytes.fetch_add(more.bytes, Relaxed);
        self.files.fetch_add(more.files, Relaxed);
    }

    pub(super) fn give_back(&self, less: Usage) {
        self.bytes.fetch_sub(less.bytes, Relaxed);
        self.files.fetch_sub(less.files, Relaxed);
    }

    /// May this much more be taken? With nothing told beforehand: is there any room at all?
    pub(super) fn admit(&self, more: Usage) -> Result<(), QuotaReached> {
        let (limits, used) = (self.get(), self.usage());
        let refuse = |is_of_files, limit, used, more| {
            Err(QuotaReached {
                source: self.source.clone(),
                is_of_files,
                limit,
                used,
                more,
            })
        };
        if let Some(max) = limits.bytes_max
            && (used.bytes >= max || used.bytes.saturating_add(more.bytes) > max)
        {
            return refuse(false, max, used.bytes, more.bytes);
        }
        if let Some(max) = limits.files_max
            && more.files > 0
            && used.files.saturating_add(more.files) > max
        {
            return refuse(true, max, used.files, 0);
        }
        Ok(())
    }
}

/// The terms that a replica is under: those of the source that owns it, now.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Mutex<Arc<Terms>>>);

impl From<Arc<Terms>> for Lease {
    fn from(terms: Arc<Terms>) -> Lease {
        Lease(Arc::new(Mutex::new(Rank::Leaf, terms)))
    }
}

impl Lease {
    /// The terms of now.
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.0.lock())
    }

    /// Another source owns the replica from here on: what is in use counts for that one.
    pub fn pass_to(&self, terms: Arc<Terms>) {
        *self.0.lock() = terms;
    }
}

/// Nothing more may be taken. The operation was not begun; it is done when the quota is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QuotaReached {
    source: String,
    is_of_files: bool,
    limit: u64,
    used: u64,
    /// Bytes that were asked for beforehand.
    more: u64,
}

impl std::error::Error for QuotaReached {}

impl From<QuotaReached> for io::Error {
    fn from(reached: QuotaReached) -> io::Error {
        io::Error::new(io::ErrorKind::QuotaExceeded, reached)
    }
}

impl fmt::Display for QuotaReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |number| match self.is_of_files {
            true => format!("{number} files"),
            false => bytes_text(number),
        };
        let (limit, used) = (amount(self.limit), amount(self.used));
        write!(f, "quota of {limit} for source {} ", self.source)?;
        if self.more > 0 && self.used < self.limit {
            let more = amount(self.more);
            write!(f, "has no room for {more} more ({used} in use)")?;
        } else {
            write!(f, "is reached ({used} in use)")?;
        }
        write!(f, "; raise it with `doppelfs peers set`, or free space")
    }
}

/// Bytes for people: `10.0 GiB`.
fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = None;
    let mut tenths = u128::from(bytes) * 10;
    for name in UNITS {
        if tenths < 10 * 1024 {
            break;
        }
        tenths /= 1024;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} bytes"),
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}
