//! A table of small records of one size in a mapped file.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::SharedWords;

/// Records of a new table.
const FIRST_RECORDS: usize = 128;

/// A record that was in the table when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub slot: u32,
    /// Its words.
    pub words: Vec<u64>,
}

#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    words: SharedWords,
}

/// The table. A record is in use while its first word is not 0. Whoever owns it sees to it that one
/// thread changes it at a time.
#[derive(Debug)]
pub struct Slab {
    mapped: Option<Mapped>,
    width: usize,
    /// Records that there is room for.
    room: usize,
    /// Slots from here on were never used.
    end: usize,
    free: Vec<u32>,
}

impl Slab {
    /// A table that keeps nothing.
    pub fn none() -> Slab {
        Slab {
            mapped: None,
            width: 0,
            room: 0,
            end: 0,
            free: Vec::new(),
        }
    }

    /// Opens or makes the table in a file.
    ///
    /// # Errors
    /// What making, growing or mapping it says.
    pub(super) fn open(path: &Path, width: usize) -> io::Result<(Slab, Vec<Found>)> {
        let bytes = std::fs::metadata(path).map_or(0, |data| data.len());
        let there = usize::try_from(bytes).unwrap_or(0) / (width * 8);
        let room = there.max(FIRST_RECORDS);
        let words = SharedWords::open(path, room * width)?;
        let mut found = Vec::new();
        let mut free = Vec::new();
        let mut end = 0;
        for slot in 0..there {
            if words.load(slot * width) != 0 {
                free.extend((end..slot).filter_map(|slot| u32::try_from(slot).ok()));
                end = slot + 1;
                found.push(Found {
                    slot: u32::try_from(slot).unwrap_or(u32::MAX),
                    words: (0..width)
                        .map(|word| words.load(slot * width + word))
                        .collect(),
                });
            }
        }
        let slab = Slab {
            mapped: Some(Mapped {
                path: path.to_path_buf(),
                words,
            }),
            width,
            room,
            end,
            free,
        };
        Ok((slab, found))
    }

    fn grow(&mut self) -> io::Result<()> {
        let Some(mapped) = &mut self.mapped else {
            return Ok(());
        };
        let room = self.room * 2;
        mapped.words = SharedWords::open(&mapped.path, room * self.width)?;
        self.room = room;
        Ok(())
    }

    /// Puts a record in; its first word must not be 0. Returns its slot, 0 where nothing is kept.
    ///
    /// # Errors
    /// When the table cannot grow.
    pub fn insert(&mut self, record: &[u64]) -> io::Result<u32> {
        if self.mapped.is_none() {
            return Ok(0);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None => {
                if self.end == self.room {
                    self.grow()?;
                }
                self.end += 1;
                self.end - 1
            }
        };
        self.write(slot, record);
        u32::try_from(slot).map_err(|_| io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn write(&self, slot: usize, record: &[u64]) {
        if let Some(mapped) = &self.mapped {
            let base = slot * self.width;
            for (word, value) in record.iter().enumerate().skip(1) {
                mapped.words.store(base + word, *value);
            }
            mapped
                .words
                .store(base, record.first().copied().unwrap_or(0));
        }
    }

    /// Changes one word of a record; the slot `u32::MAX` is none.
    pub fn set(&self, slot: u32, word: usize, value: u64) {
        if let Some(mapped) = self.mapped.as_ref().filter(|_| slot != u32::MAX) {
            mapped.words.store(slot as usize * self.width + word, value);
        }
    }

    /// Takes a record out.
    pub fn remove(&mut self, slot: u32) {
        if let Some(mapped) = self.mapped.as_ref().filter(|_| slot != u32::MAX) {
            mapped.words.store(slot as usize * self.width, 0);
            self.free.push(slot);
        }
    }

    /// Is much more room taken than `count` records need?
    pub fn is_sparse(&self, count: usize) -> bool {
        self.mapped.is_some() && self.room > 4 * count + 8 * FIRST_RECORDS
    }

    /// Makes the table anew of these records, in a file of its own that then takes the place of the old
    /// one, so that it is the one or the other whenever this process dies. Their slots are 0, 1, 2...
    ///
    /// # Errors
    /// What making it says; the table is then as it was.
    pub fn rebuild(&mut self, records: impl Iterator<Item = Vec<u64>>) -> io::Result<()> {
        let Some(path) = self.mapped.as_ref().map(|mapped| mapped.path.clone()) else {
            return Ok(());
        };
        // Beside it, and no other table's: names differ in what follows their dot.
        let mut fresh = path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let (mut slab, _) = Slab::open(&fresh, self.width)?;
        for record in records {
            slab.insert(&record)?;
        }
        std::fs::rename(&fresh, &path)?;
        if let Some(mapped) = &mut slab.mapped {
            mapped.path = path;
        }
        *self = slab;
        Ok(())
    }
}
