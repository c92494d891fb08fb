//! The directory of one mount, and what is noted in it once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{self, SharedWords};

use super::flight::Flight;
use super::slab::{Found, Slab};

const MAGIC: u64 = u64::from_le_bytes(*b"DPLIVE01");
const WORD_MAGIC: usize = 0;
const WORD_BOOT: usize = 1;
const WORD_INCARNATION: usize = 2;
const WORD_FLAGS: usize = 3;
const WORD_MINOR: usize = 4;
const WORD_READAHEAD: usize = 5;
const WORD_CHECK_AFTER: usize = 6;
const WORD_CHECK_UNTIL: usize = 7;
const WORD_MISSES: usize = 8;
const WORD_NEXT_HANDLE: usize = 9;
const WORD_COUNT: usize = 16;

/// What the kernel offered when the mount was made, and offers again to who takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// `FUSE_*` flags of `FUSE_INIT`.
    pub flags: u64,
    /// Minor version of the protocol; the major one is 7.
    pub minor: u32,
    /// Bytes.
    pub max_readahead: u32,
}

/// A time without watch whose check is not done, nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenCheck {
    /// What has a later `ctime` than this is to be looked at,
    pub after_ns: u64,
    /// and not a later one than this.
    pub until_ns: u64,
}

#[derive(Debug)]
struct Kept {
    dir: PathBuf,
    words: SharedWords,
    whole: AtomicBool,
}

/// The tables of one mount.
#[derive(Debug, Clone)]
pub struct Live {
    kept: Option<Arc<Kept>>,
    flight: Arc<Flight>,
    is_taken_over: bool,
}

fn boot_word() -> io::Result<u64> {
    let boot = sys::boot_id()?;
    let hash = boot.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok(hash | 1)
}

impl Live {
    /// Nothing is kept.
    pub fn none() -> Live {
        Live {
            kept: None,
            flight: Arc::new(Flight::none()),
            is_taken_over: false,
        }
    }

    /// Begins anew in `dir`; what was there is removed.
    ///
    /// # Errors
    /// What making the files says.
    pub fn begin(dir: &Path, incarnation: u64) -> io::Result<Live> {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .recursive(true)
            .create(dir)?;
        let words = SharedWords::open(&dir.join("mount"), WORD_COUNT)?;
        words.store(WORD_BOOT, boot_word()?);
        words.store(WORD_INCARNATION, incarnation);
        words.store(WORD_NEXT_HANDLE, 1);
        let flight = Flight::open(&dir.join("flight"))?;
        words.store(WORD_MAGIC, MAGIC);
        Ok(Live::of(dir, words, flight, false))
    }

    /// Takes over what the last worker had.
    ///
    /// # Errors
    /// `InvalidData` where it is of another boot or version, or misses something; what opening the
    /// files says.
    pub fn open(dir: &Path) -> io::Result<Live> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let path = dir.join("mount");
        if !path.exists() {
            return Err(bad("there is nothing to take over"));
        }
        let words = SharedWords::open(&path, WORD_COUNT)?;
        if words.load(WORD_MAGIC) != MAGIC {
            return Err(bad("it is of another version"));
        }
        if words.load(WORD_BOOT) != boot_word()? {
            return Err(bad("it is of another boot"));
        }
        if words.load(WORD_MISSES) != 0 {
            return Err(bad("it misses something: its directory was full"));
        }
        let flight = Flight::open(&dir.join("flight"))?;
        Ok(Live::of(dir, words, flight, true))
    }

    fn of(dir: &Path, words: SharedWords, flight: Flight, is_taken_over: bool) -> Live {
        Live {
            kept: Some(Arc::new(Kept {
                dir: dir.to_path_buf(),
                words,
                whole: AtomicBool::new(true),
            })),
            flight: Arc::new(flight),
            is_taken_over,
        }
    }

    /// Was there a worker before this one?
    pub fn is_taken_over(&self) -> bool {
        self.is_taken_over
    }

    /// Is anything kept?
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Is everything kept that the next worker needs?
    pub fn is_whole(&self) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.whole.load(Ordering::Acquire))
    }

    /// Something could not be kept.
    pub fn note_missing(&self, error: &io::Error) {
        if let Some(kept) = &self.kept
            && kept.whole.swap(false, Ordering::AcqRel)
        {
            kept.words.store(WORD_MISSES, 1);
            tracing::error!(%error, dir = %kept.dir.display(), "what survives a worker cannot be kept: \
                should this worker end, the mount ends with it");
        }
    }

    fn load(&self, word: usize) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.words.load(word))
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(kept) = &self.kept {
            kept.words.store(word, value);
        }
    }

    /// The mount's incarnation; 0 where nothing is kept.
    pub fn incarnation(&self) -> u64 {
        self.load(WORD_INCARNATION)
    }

    /// What the kernel offered; `None` when it was never noted.
    pub fn offer(&self) -> Option<Offer> {
        let flags = self.load(WORD_FLAGS);
        (flags != 0).then(|| Offer {
            flags,
            minor: u32::try_from(self.load(WORD_MINOR)).unwrap_or(u32::MAX),
            max_readahead: u32::try_from(self.load(WORD_READAHEAD)).unwrap_or(u32::MAX),
        })
    }

    /// Notes what the kernel offers to the first worker.
    pub fn note_offer(&self, offer: Offer) {
        if self.is_taken_over {
            return;
        }
        self.store(WORD_MINOR, u64::from(offer.minor));
        self.store(WORD_READAHEAD, u64::from(offer.max_readahead));
        self.store(WORD_FLAGS, offer.flags);
    }

    /// The check that was not done.
    pub fn open_check(&self) -> Option<OpenCheck> {
        let until_ns = self.load(WORD_CHECK_UNTIL);
        (until_ns != 0).then(|| OpenCheck {
            after_ns: self.load(WORD_CHECK_AFTER),
            until_ns,
        })
    }

    /// Notes that a check begins, or with `None` that it is done.
    pub fn note_check(&self, check: Option<OpenCheck>) {
        match check {
            Some(check) => {
                self.store(WORD_CHECK_AFTER, check.after_ns);
                self.store(WORD_CHECK_UNTIL, check.until_ns);
            }
            None => self.store(WORD_CHECK_UNTIL, 0),
        }
    }

    /// The number that the next open file gets at least; numbers are never given twice.
    pub fn next_handle(&self) -> u64 {
        self.load(WORD_NEXT_HANDLE).max(1)
    }

    /// A number that is given out now.
    pub fn note_handle(&self, number: u64) {
        if let Some(kept) = &self.kept {
            kept.words
                .word(WORD_NEXT_HANDLE)
                .fetch_max(number + 1, Ordering::AcqRel);
        }
    }

    /// The requests under way.
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The table of this name with records of `width` words, and what it holds already. A table that
    /// cannot be opened keeps nothing.
    pub fn slab(&self, name: &str, width: usize) -> (Slab, Vec<Found>) {
        let Some(kept) = &self.kept else {
            return (Slab::none(), Vec::new());
        };
        Slab::open(&kept.dir.join(name), width).unwrap_or_else(|error| {
            self.note_missing(&error);
            (Slab::none(), Vec::new())
        })
    }

    /// Removes everything: the mount has ended.
    pub fn end(&self) {
        if let Some(kept) = &self.kept {
            kept.words.store(WORD_MAGIC, 0);
            if let Err(error) = std::fs::remove_dir_all(&kept.dir) {
                tracing::warn!(%error, dir = %kept.dir.display(), "cannot remove what the mount left");
            }
        }
    }
}
