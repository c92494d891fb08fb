//! The activity log: which files were changed since what lies below was last made durable.
//!
//! After a loss of power the file system below may have lost what was changed lately, data and names each
//! for itself, while the targets have it. Nothing that survives on the disk can tell which files these
//! are: an inode may be as it was before the change. So they are noted, durably, before they are changed.
//!
//! # How it stays small
//! A file is noted once in an *epoch*. An epoch ends ([`Activity::settle`]) when everything below and the
//! queue have been made durable; its file is removed then. What is made in a directory needs no mark of its
//! own: the directory has one, and whatever was made since is told by its change time, which is not older than
//! the epoch ([`Marks::since_ns`](super::Marks::since_ns)); so a marked directory stands for what was made in it, too. Whatever only
//! changes names marks directories alone. And programs wait for the log's disk for a third of the time at most.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard, Rank};
use crate::sys;
use crate::types::{FileId, Time};

use super::marks::{HEADER_BYTES, MARK_BYTES, Own, encode_header, encode_mark, epochs, read_epoch};

/// Room is made for so many marks at once: a write into room that is there needs no metadata.
const MARKS_MADE: u64 = 4096;
/// Marks of one epoch; beyond, everything is in doubt.
const MARKS_MAX: u64 = 64 << 10;
/// With so many an epoch is to end soon.
const MARKS_MANY: u64 = 16 << 10;
/// Who is known to need no mark; beyond, also new files get theirs.
const KNOWN_MAX: usize = 256 << 10;
/// With so many known an epoch is to end soon.
const KNOWN_MANY: usize = 64 << 10;
/// So long, at most, the programs of one epoch wait for the log's disk; beyond, everything is in doubt.
const WAIT_NS_MAX: u64 = 5_000_000_000;

/// What a log begins after.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    /// Is all durable that was changed below before?
    pub is_durable: bool,
    /// From when on changes are still to be looked for (nanoseconds since 1970): nothing of this may be
    /// forgotten before the first [`Activity::settle`], which comes when that is done.
    pub unlooked_since_ns: Option<u64>,
}

/// The log of a set that is served.
#[derive(Debug)]
pub struct Activity {
    dir: PathBuf,
    instance: u128,
    state: Mutex<State>,
    changed: Condvar,
    /// One at a time; I/O happens under it.
    settling: Mutex<()>,
    marked: AtomicU64,
}

#[derive(Debug)]
struct State {
    epoch: u64,
    file: Arc<File>,
    /// Slots of the file that hold marks, and that there is room for.
    slots: u64,
    room: u64,
    /// Who has a mark in this epoch, or needs none, and by which ticket it is durable.
    marked: HashMap<FileId, u64>,
    pending: Vec<FileId>,
    ticket: u64,
    durable: u64,
    is_flushing: bool,
    is_turning: bool,
    /// Everything is in doubt should the power fail now.
    is_coarse: bool,
    /// Operations under way, by the lowest bit of their epoch.
    under_way: [u64; 2],
    /// Files of earlier epochs are there.
    has_older: bool,
    /// The epoch speaks for changes from long before it began.
    is_since_old: bool,
    /// Why marks cannot be written.
    broken: Option<String>,
    /// The clock when it was last looked at.
    clock_ns: u64,
    /// How long marks of this epoch have been written.
    waited_ns: u64,
    nudges: u64,
}

impl State {
    fn new(epoch: u64, file: File, room: u64, has_older: bool) -> State {
        State {
            epoch,
            file: Arc::new(file),
            slots: 0,
            room,
            marked: HashMap::new(),
            pending: Vec::new(),
            ticket: 0,
            durable: 0,
            is_flushing: false,
            is_turning: false,
            is_coarse: false,
            under_way: [0; 2],
            has_older,
            is_since_old: false,
            broken: None,
            clock_ns: sys::realtime_ns(),
            waited_ns: 0,
            nudges: 0,
        }
    }

    fn is_large(&self) -> bool {
        self.slots >= MARKS_MANY || self.marked.len() >= KNOWN_MANY
    }
}

/// An operation under way: its epoch does not end before it.
#[derive(Debug)]
pub struct Underway<'a> {
    activity: &'a Activity,
    epoch: u64,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        let count = &mut state.under_way[(self.epoch & 1) as usize];
        *count -= 1;
        // Only the end of an epoch that is over is waited for.
        let is_awaited = *count == 0 && self.epoch != state.epoch;
        drop(state);
        if is_awaited {
            self.activity.changed.notify_all();
        }
    }
}

impl Activity {
    /// Begins an epoch in `dir`, which is made where it is missing. Earlier ones stay until the first
    /// [`Activity::settle`].
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(dir: &Path, instance: u128, past: Past) -> io::Result<Activity> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir)?;
        let older = epochs(dir)?;
        let epoch = older.last().map_or(1, |(epoch, _)| epoch + 1);
        let now_ns = nanoseconds(sys::coarse_now());
        let since_ns = past
            .unlooked_since_ns
            .map_or(now_ns, |since| since.min(now_ns));
        let (file, room) = make_file(dir, epoch, instance, since_ns)?;
        let activity = Activity::with(
            dir,
            instance,
            State::new(epoch, file, room, !older.is_empty()),
        );
        activity.state.lock().is_since_old = past.unlooked_since_ns.is_some();
        if !past.is_durable {
            activity.doubt_everything()?;
        }
        Ok(activity)
    }

    /// Goes on with the epoch that another worker began, which takes less time than a new one. `None`: there
    /// is none that can be gone on with.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn resume(dir: &Path, instance: u128) -> io::Result<Option<Activity>> {
        let mut all = epochs(dir)?;
        let Some((epoch, path)) = all.pop() else {
            return Ok(None);
        };
        let Some(marks) = read_epoch(&path, epoch, instance)? else {
            return Ok(None);
        };
        let file = OpenOptions::new().write(true).open(&path)?;
        // The last worker may have died before its last marks were durable.
        sys::fdatasync(file.as_fd())?;
        let bytes = file.metadata()?.len().saturating_sub(HEADER_BYTES as u64);
        let room = bytes / MARK_BYTES as u64 / MARKS_MADE * MARKS_MADE;
        let mut state = State::new(epoch, file, room, !all.is_empty());
        state.slots = marks.ids.len() as u64 + u64::from(marks.everything);
        state.is_coarse = marks.everything;
        state.marked = marks.ids.into_iter().map(|id| (id, 0)).collect();
        // Perhaps; an epoch that ends for nothing costs little.
        state.is_since_old = true;
        Ok(Some(Activity::with(dir, instance, state)))
    }

    fn with(dir: &Path, instance: u128, state: State) -> Activity {
        Activity {
            dir: dir.to_path_buf(),
            instance,
            state: Mutex::new(Rank::Leaf, state),
            changed: Condvar::new(),
            settling: Mutex::new(Rank::Daemon, ()),
            marked: AtomicU64::new(0),
        }
    }

    /// Until the next epoch a loss of power puts everything in doubt.
    fn doubt_everything(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.is_flushing {
            self.changed.wait(&mut state);
        }
        if state.is_coarse {
            return Ok(());
        }
        state.is_flushing = true;
        let (file, slots, epoch) = (state.file.clone(), state.slots, state.epoch);
        let room = state.room;
        drop(state);
        let written = write_marks(&file, slots, room, &encode_mark(None, epoch));
        let mut state = self.state.lock();
        state.is_flushing = false;
        if written.is_ok() {
            state.is_coarse = true;
            state.slots += 1;
            state.room = state.room.max(room_for(state.slots));
        }
        drop(state);
        self.changed.notify_all();
        written
    }

    /// Marks `ids`, durably, before they are changed; the operation is under way until what is returned
    /// is dropped. Waits for the disk of the log, at most once an epoch for each of them.
    ///
    /// Where marks cannot be written the operation goes on: see [`Activity::trouble`].
    pub fn enter(&self, ids: &[FileId]) -> Underway<'_> {
        let mut state = self.state.lock();
        let mut needed = 0;
        if !state.is_coarse {
            for id in ids {
                let ticket = match state.marked.get(id) {
                    Some(ticket) => *ticket,
                    None => {
                        state.ticket += 1;
                        let ticket = state.ticket;
                        state.marked.insert(*id, ticket);
                        state.pending.push(*id);
                        ticket
                    }
                };
                needed = needed.max(ticket);
            }
        }
        let epoch = state.epoch;
        state.under_way[(epoch & 1) as usize] += 1;
        while state.durable < needed && state.broken.is_none() && !state.is_coarse {
            if state.is_flushing || state.is_turning {
                self.changed.wait(&mut state);
            } else {
                state = self.flush(state);
            }
        }
        drop(state);
        Underway {
            activity: self,
            epoch,
        }
    }

    /// `id` was made just now in a marked directory, by the operation under way.
    pub fn note_new(&self, id: FileId, underway: &Underway<'_>) {
        let mut state = self.state.lock();
        if state.epoch == underway.epoch && state.marked.len() < KNOWN_MAX {
            state.marked.entry(id).or_insert(0);
        }
    }

    /// Writes all marks that wait.
    fn flush<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.is_flushing = true;
        let pending = std::mem::take(&mut state.pending);
        let (ticket, epoch, slots) = (state.ticket, state.epoch, state.slots);
        let (file, room) = (state.file.clone(), state.room);
        let went_back = state.clock_ns > sys::realtime_ns();
        let is_slow = state.waited_ns > WAIT_NS_MAX;
        let began_ns = sys::monotonic_ns();
        drop(state);
        let count = pending.len() as u64;
        let is_coarse = slots + count > MARKS_MAX || went_back || is_slow;
        let bytes: Vec<u8> = match is_coarse {
            true => encode_mark(None, epoch).to_vec(),
            false => pending
                .iter()
                .flat_map(|id| encode_mark(Some(*id), epoch))
                .collect(),
        };
        let count = if is_coarse { 1 } else { count };
        let written = write_marks(&file, slots, room, &bytes);
        let mut state = self.state.lock();
        state.is_flushing = false;
        state.clock_ns = state.clock_ns.max(sys::realtime_ns());
        state.waited_ns += sys::monotonic_ns() - began_ns;
        match written {
            Ok(()) => {
                state.durable = ticket;
                state.slots += count;
                state.room = state.room.max(room_for(state.slots));
                state.is_coarse |= is_coarse;
                self.marked.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::error!(%error, "marks of the activity log cannot be written");
                state.broken = Some(error.to_string());
            }
        }
        self.changed.notify_all();
        state
    }

    /// Ends the epoch: a new one begins, `make_durable` makes durable what was changed until now (below,
    /// and in the queue), and the marks go. False: nothing was to be done.
    ///
    /// # Errors
    /// When the new file cannot be made, or what `make_durable` says; the marks stay.
    pub fn settle(&self, make_durable: impl Fn() -> io::Result<()>) -> io::Result<bool> {
        let _one = self.settling.lock();
        let look = || {
            let state = self.state.lock();
            let has_marks = state.slots > 0 || state.broken.is_some() || state.is_since_old;
            (has_marks, state.has_older, state.epoch)
        };
        let (_, had_older, epoch) = look();
        // Earlier ones first: they were left by another worker, or by a failure here, and nothing of
        // them is under way. There are never more than two files of one worker.
        if had_older {
            make_durable()?;
            self.remove_before(epoch)?;
        }
        let (has_marks, _, epoch) = look();
        if has_marks {
            let now_ns = nanoseconds(sys::coarse_now());
            let (file, room) = make_file(&self.dir, epoch + 1, self.instance, now_ns)?;
            self.turn(epoch + 1, file, room);
            make_durable()?;
            self.remove_before(epoch + 1)?;
        }
        Ok(had_older || has_marks)
    }

    fn remove_before(&self, epoch: u64) -> io::Result<()> {
        for (older, path) in epochs(&self.dir)? {
            if older < epoch {
                std::fs::remove_file(&path)?;
            }
        }
        self.state.lock().has_older = false;
        Ok(())
    }

    fn turn(&self, epoch: u64, file: File, room: u64) {
        let mut state = self.state.lock();
        state.is_turning = true;
        while state.is_flushing {
            self.changed.wait(&mut state);
        }
        state.is_turning = false;
        let before = state.epoch;
        state.epoch = epoch;
        state.file = Arc::new(file);
        state.slots = 0;
        state.room = room;
        state.has_older = true;
        state.is_since_old = false;
        if state.broken.is_some() {
            // Whoever waited has gone on without.
            state.pending.clear();
            state.durable = state.ticket;
        }
        // Who waits for its mark has not begun: it is marked in the new epoch.
        let durable = state.durable;
        state.marked.retain(|_, ticket| *ticket > durable);
        state.is_coarse = false;
        state.waited_ns = 0;
        state.broken = None;
        state.clock_ns = sys::realtime_ns();
        self.changed.notify_all();
        while state.under_way[(before & 1) as usize] > 0 {
            self.changed.wait(&mut state);
        }
    }

    /// What was made since is told by its time of change: where the clock went back, it is not. To be
    /// called every second or so.
    pub fn watch_clock(&self) {
        let mut state = self.state.lock();
        let (before, now) = (state.clock_ns, sys::realtime_ns());
        state.clock_ns = now;
        drop(state);
        if now < before
            && let Err(error) = self.doubt_everything()
        {
            tracing::error!(%error, "the clock went back, which the activity log cannot be told");
        }
    }

    /// Is it time for another epoch?
    pub fn is_large(&self) -> bool {
        self.state.lock().is_large()
    }

    /// Waits until the epoch is large, or [`Activity::nudge`], at most `patience`.
    pub fn wait(&self, patience: Duration) {
        let until = sys::monotonic_ns() + u64::try_from(patience.as_nanos()).unwrap_or(0);
        let mut state = self.state.lock();
        let nudges = state.nudges;
        while !state.is_large() && state.nudges == nudges {
            let left = until.saturating_sub(sys::monotonic_ns());
            if left == 0 {
                return;
            }
            self.changed
                .wait_for(&mut state, Duration::from_nanos(left));
        }
    }

    /// Wakes who waits.
    pub fn nudge(&self) {
        self.state.lock().nudges += 1;
        self.changed.notify_all();
    }

    /// Why a loss of power would be followed by a mirror that is not complete; for `status`.
    pub fn trouble(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    /// Marks written so far.
    pub fn marked(&self) -> u64 {
        self.marked.load(Ordering::Relaxed)
    }
}

fn room_for(slots: u64) -> u64 {
    slots.div_ceil(MARKS_MADE) * MARKS_MADE
}

fn at(slot: u64) -> u64 {
    HEADER_BYTES as u64 + slot * MARK_BYTES as u64
}

/// Writes marks from `slot` on; there is room for `room` marks.
fn write_marks(file: &File, slot: u64, room: u64, bytes: &[u8]) -> io::Result<()> {
    let end = slot + (bytes.len() / MARK_BYTES) as u64;
    if end > room {
        let zeroes = vec![0u8; MARK_BYTES * MARKS_MADE as usize];
        for part in (room..room_for(end)).step_by(MARKS_MADE as usize) {
            write_all(file, &zeroes, at(part))?;
        }
        write_all(file, bytes, at(slot))?;
        return file.sync_all();
    }
    write_all(file, bytes, at(slot))?;
    sys::fdatasync(file.as_fd())
}

fn write_all(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let wrote = sys::pwrite(file.as_fd(), bytes, offset)?;
        if wrote == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[wrote..];
        offset += wrote as u64;
    }
    Ok(())
}

fn make_file(dir: &Path, epoch: u64, instance: u128, since_ns: u64) -> io::Result<(File, u64)> {
    let (unfinished, path) = (dir.join("new"), dir.join(format!("{epoch:016x}")));
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let made = file.open(&unfinished).and_then(|file| {
        let own = Own::of(&file.metadata()?);
        let mut bytes = encode_header(epoch, since_ns, instance, own).to_vec();
        bytes.resize(HEADER_BYTES + MARK_BYTES * MARKS_MADE as usize, 0);
        write_all(&file, &bytes, 0)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    });
    if made.is_err() {
        // It takes up room at most.
        let _ = std::fs::remove_file(&unfinished);
    }
    made.map(|file| (file, MARKS_MADE))
}

fn nanoseconds(time: Time) -> u64 {
    let secs = u64::try_from(time.secs).unwrap_or(0);
    secs.saturating_mul(1_000_000_000) + u64::from(time.nanos)
}
