//! The repair of segments: one method per step of opening.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use super::core::{Bell, Core, Options, Tail, blocks_of};
use super::cursor::{Cursors, Mark};
use super::error::{Error, io};
use super::facts::{Facts, sync_dir};
use super::index::Index;
use super::scan::{Fault, Scan, end_of_bytes, fault_before_zeroes, scan};
use super::segment::{self, HEADER_BYTES, Header, Point, Segment};
use super::space::Ballast;
use super::survey::{Found, Survey};
use crate::sync::{Mutex, Rank};
use crate::sys;
use crate::types::Seq;

pub(super) struct Parts<'a> {
    pub(super) dir: &'a Path,
    pub(super) options: Options,
    pub(super) lock: File,
    pub(super) cursors: Cursors,
    pub(super) facts: Facts,
    pub(super) index: Arc<Index>,
    pub(super) ballast: Ballast,
}

/// The segments on their way from what was found to what the journal goes on with.
pub(super) struct Repair<'a> {
    seg_dir: &'a Path,
    boot: String,
    mark: Option<Mark>,
    pub(super) generation: u64,
    kept: Vec<Arc<Segment>>,
    durable: Seq,
    pub(super) letters: String,
    pub(super) truncated_bytes: u64,
    pub(super) boot_changed: bool,
    pub(super) records_lost: bool,
}

impl<'a> Repair<'a> {
    pub(super) fn new(seg_dir: &'a Path, boot: String, mark: Option<Mark>) -> Repair<'a> {
        Repair {
            seg_dir,
            boot,
            mark,
            generation: mark.map_or(1, |m| m.generation),
            kept: Vec::new(),
            durable: Seq::ZERO,
            letters: String::new(),
            truncated_bytes: 0,
            boot_changed: false,
            records_lost: false,
        }
    }

    pub(super) fn note(&mut self, letter: char) {
        if !self.letters.contains(letter) {
            self.letters.push(letter);
        }
    }

    pub(super) fn letters(&self) -> String {
        let mut letters: Vec<char> = self.letters.chars().collect();
        letters.sort_unstable();
        if letters.is_empty() {
            letters.push('B');
        }
        letters.into_iter().collect()
    }

    pub(super) fn end(&self) -> Point {
        let none = Point {
            offset: HEADER_BYTES,
            seq: Seq::ZERO,
            records: 0,
            crc: 0,
        };
        self.kept.last().map_or(none, |s| s.end())
    }

    /// Removes what a crash left half made, and segments from before a reset.
    /// `of_cursors` is the newest generation among them.
    pub(super) fn sweep(
        &mut self,
        survey: &mut Survey,
        of_cursors: Option<u64>,
    ) -> Result<(), Error> {
        for path in survey.leftovers.drain(..) {
            std::fs::remove_file(&path).map_err(io("unlink", &path))?;
            self.note('J');
        }
        let sound = survey.segments.iter().filter_map(|f| f.header.as_ref());
        let newest = sound.map(|h| h.generation).max();
        // Without any header left, what is known otherwise.
        let otherwise = self.generation.max(of_cursors.unwrap_or(0));
        self.generation = newest.unwrap_or(otherwise);
        let generation = self.generation;
        let is_old = |f: &Found| f.header.as_ref().is_some_and(|h| h.generation < generation);
        let old: Vec<Found> = survey.segments.extract_if(.., |f| is_old(f)).collect();
        for found in &old {
            std::fs::remove_file(&found.path).map_err(io("unlink", &found.path))?;
            self.note('J');
        }
        self.mark = self.mark.filter(|m| m.generation == generation);
        Ok(())
    }

    pub(super) fn segments(&mut self, survey: &Survey, position: Option<Seq>) -> Result<(), Error> {
        let sound = survey.segments.iter().rev().find_map(|f| f.header.as_ref());
        self.boot_changed = sound.is_some_and(|h| h.boot != self.boot);
        let durable = survey.segments.iter().filter_map(|f| f.header.as_ref());
        let durable = durable.map(|h| h.durable).max();
        self.durable = durable.max(self.mark.map(|m| m.seq)).unwrap_or(Seq::ZERO);
        if survey.segments.is_empty() {
            return self.begin(position);
        }
        let found = self.cut_headless_tail(&survey.segments)?;
        if found.is_empty() {
            return self.begin_at_name(survey.segments.first());
        }
        self.take_all(found)?;
        self.scan_tail()?;
        if self.boot_changed {
            self.note('F');
            self.begin_boot()?;
        }
        self.durable = self.durable.min(self.end().seq);
        Ok(())
    }

    /// A journal without segments: new, or one whose segments somebody removed.
    fn begin(&mut self, position: Option<Seq>) -> Result<(), Error> {
        let last = position.max(self.mark.map(|m| m.seq));
        match last {
            None => self.note('A'),
            Some(_) => {
                self.note('L');
                self.records_lost = true;
            }
        }
        let last = last.unwrap_or(Seq::ZERO);
        let bytes = self.mark.map_or(0, |m| m.bytes);
        self.durable = last;
        self.begin_segment(last, bytes, 0, 0)
    }

    /// Only a segment whose header never reached the disk is left: its name tells the position.
    fn begin_at_name(&mut self, found: Option<&Found>) -> Result<(), Error> {
        self.note('I');
        self.records_lost = true;
        self.boot_changed = true;
        let first = found.map_or(Seq(1), |f| f.first);
        if let Some(f) = found {
            self.remove(&f.path, f.size)?;
        }
        let (durable, bytes) = self.mark.map_or((Seq::ZERO, 0), |m| (m.seq, m.bytes));
        let last = Seq(first.0.saturating_sub(1)).max(durable);
        self.durable = last;
        self.begin_segment(last, bytes, 0, 0)
    }

    /// A new last segment, durable with its name.
    fn begin_segment(
        &mut self,
        last: Seq,
        start_bytes: u64,
        start_records: u64,
        chain: u32,
    ) -> Result<(), Error> {
        let header = Header {
            first: last.next(),
            generation: self.generation,
            start_bytes,
            start_records,
            durable: self.durable.min(last),
            chain,
            boot: self.boot.clone(),
        };
        let file = segment::create(self.seg_dir, &header)?;
        let path = segment::path_of(self.seg_dir, header.first);
        file.sync_all().map_err(io("flush", &path))?;
        sync_dir(self.seg_dir)?;
        let start = Point::start(&header);
        let new = Segment::new(path, header, start);
        new.note_synced(new.len());
        self.kept.push(Arc::new(new));
        Ok(())
    }

    fn remove(&mut self, path: &Path, size: u64) -> Result<(), Error> {
        std::fs::remove_file(path).map_err(io("unlink", path))?;
        self.truncated_bytes += size.saturating_sub(HEADER_BYTES);
        Ok(())
    }

    /// Segments at the end whose headers are unreadable are removed: what is in them, if anything,
    /// was never durable.
    fn cut_headless_tail<'f>(&mut self, found: &'f [Found]) -> Result<&'f [Found], Error> {
        let mut rest = found;
        while let Some((last, before)) = rest.split_last() {
            if last.header.is_some() {
                break;
            }
            if before.is_empty() {
                return Ok(&[]);
            }
            self.note('I');
            self.records_lost = true;
            self.remove(&last.path, last.size)?;
            rest = before;
        }
        Ok(rest)
    }

    /// Enters all segments; where each but the last ends, the next one's header says.
    fn take_all(&mut self, found: &[Found]) -> Result<(), Error> {
        let mut before: Option<Point> = None;
        let mut bytes = 0;
        for (index, f) in found.iter().enumerate() {
            let next = found.get(index + 1);
            let header = f.header.clone().unwrap_or_else(|| Header {
                first: f.first,
                generation: self.generation,
                start_bytes: bytes,
                start_records: before.map_or(0, |p| p.records),
                durable: Seq::ZERO,
                chain: before.map_or(0, |p| p.crc),
                boot: String::new(),
            });
            if f.header.is_none() {
                self.note('K');
            }
            let end = match next {
                None => Point::start(&header),
                Some(next) => self.planned_end(&header, f, next),
            };
            bytes = header.start_bytes + end.offset.saturating_sub(HEADER_BYTES);
            before = Some(end);
            let mut segment = Segment::new(f.path.clone(), header, end);
            segment.is_damaged = f.header.is_none();
            segment.note_first_time(f.first_time_ns);
            segment.note_disk_bytes(f.disk_bytes);
            if next.is_some() {
                segment.seal();
            }
            self.kept.push(Arc::new(segment));
        }
        Ok(())
    }

    fn planned_end(&mut self, header: &Header, found: &Found, next: &Found) -> Point {
        let last = Seq(next.first.0.saturating_sub(1));
        let Some(after) = &next.header else {
            return Point {
                offset: found.size.max(HEADER_BYTES),
                seq: last,
                records: 0,
                crc: header.chain,
            };
        };
        let offset = HEADER_BYTES + after.start_bytes.saturating_sub(header.start_bytes);
        if offset > found.size {
            self.note('K');
        }
        Point {
            offset: offset.min(found.size.max(HEADER_BYTES)),
            seq: last,
            records: after.start_records.saturating_sub(header.start_records),
            crc: after.chain,
        }
    }

    /// Scans what a crash may have damaged: after a crash of the process the last segment, after one
    /// of the host everything from the first segment that was not durable as a whole.
    fn scan_tail(&mut self) -> Result<(), Error> {
        let last = self.kept.len().saturating_sub(1);
        let mut index = last;
        if self.boot_changed {
            let is_due = |(index, s): (usize, &Arc<Segment>)| {
                // Its end was not known without the header that was lost.
                let is_guessed = self.kept.get(index + 1).is_some_and(|next| next.is_damaged);
                !s.is_sealed()
                    || s.last() > self.durable
                    || (is_guessed && s.last() == self.durable)
            };
            let mut all = self.kept.iter().enumerate();
            index = all.position(is_due).unwrap_or(last);
        }
        while let Some(segment) = self.kept.get(index).cloned() {
            if !self.scan_one(&segment)? {
                self.end_with(index)?;
            }
            index += 1;
        }
        Ok(())
    }

    /// Scans one segment and cuts it after its last sound group; false when it does not reach to the
    /// next segment.
    fn scan_one(&mut self, segment: &Arc<Segment>) -> Result<bool, Error> {
        if segment.is_damaged {
            segment.publish(Point::start(&segment.header));
            self.records_lost = true;
            return Ok(false);
        }
        let file = segment.open()?;
        let size = file.metadata().map_err(io("stat", &segment.path))?.len();
        let planned = segment.end();
        let limit = if segment.is_sealed() {
            planned.offset
        } else {
            size
        };
        let start = Point::start(&segment.header);
        let mut found = scan(&file, &segment.path, start, limit)?;
        let mark = self.mark.filter(|m| {
            m.segment == segment.header.first && m.offset > found.end.offset && m.offset <= limit
        });
        if let Some(mark) = mark {
            found = self.scan_beyond_damage(segment, &file, mark, limit)?;
        }
        for point in &found.landmarks {
            segment.note_landmark(*point);
        }
        let is_whole = found.fault.is_none() && found.end == found.sound;
        if segment.is_sealed() && is_whole && found.end == planned {
            return Ok(true);
        }
        let is_last = !segment.is_sealed();
        let written = match found.fault {
            Some(_) if is_last => {
                let end = end_of_bytes(&file, &segment.path, found.sound.offset, size)?;
                found.fault = fault_before_zeroes(&file, &found, end);
                end
            }
            _ => size,
        };
        self.cut(segment, &file, &found, (written, size))?;
        Ok(is_last)
    }

    /// Damage in what was durable is no torn write: it stays, for the reader to report.
    fn scan_beyond_damage(
        &mut self,
        segment: &Segment,
        file: &File,
        mark: Mark,
        limit: u64,
    ) -> Result<Scan, Error> {
        self.note('H');
        tracing::warn!(path = %segment.path.display(), "durable records are damaged");
        let point = Point {
            offset: mark.offset,
            seq: mark.seq,
            records: mark.records,
            crc: mark.crc,
        };
        segment.insist_landmark(point);
        scan(file, &segment.path, point, limit)
    }

    fn cut(
        &mut self,
        segment: &Segment,
        file: &File,
        found: &Scan,
        (written, size): (u64, u64),
    ) -> Result<(), Error> {
        let is_short_of_mark = self
            .mark
            .is_some_and(|m| m.segment == segment.header.first && m.offset > found.end.offset);
        let letter = match (self.boot_changed, found.fault) {
            (true, Some(_)) => Some('G'),
            (false, Some(Fault::Damaged)) => Some('E'),
            (false, Some(Fault::Torn)) => Some('C'),
            (_, None) => None,
        };
        letter.into_iter().for_each(|l| self.note(l));
        if found.sound != found.end {
            self.note('D');
        }
        let is_torn_write = !self.boot_changed && found.fault != Some(Fault::Damaged);
        let is_cut = found.end.offset < written;
        self.records_lost |= is_short_of_mark || (is_cut && !is_torn_write);
        let path = &segment.path;
        if found.end.offset < size {
            sys::ftruncate(file.as_fd(), found.end.offset).map_err(io("cut", path))?;
            sys::fdatasync(file.as_fd()).map_err(io("flush", path))?;
        }
        if is_cut {
            self.truncated_bytes += written - found.end.offset;
            tracing::warn!(path = %path.display(), at = found.end.offset, "tail cut");
        }
        segment.publish(found.end);
        if found.end.records == 0 {
            segment.note_first_time(0);
        }
        Ok(())
    }

    /// The prefix ends in this segment: later ones are removed, it becomes the last.
    fn end_with(&mut self, index: usize) -> Result<(), Error> {
        self.note('G');
        self.records_lost = true;
        for segment in self.kept.split_off(index + 1).iter().rev() {
            let size = file_size(&segment.path);
            self.remove(&segment.path, size)?;
        }
        let Some(old) = self.kept.pop() else {
            return Ok(());
        };
        if old.is_damaged {
            let size = file_size(&old.path);
            self.remove(&old.path, size)?;
            let header = &old.header;
            let last = Seq(header.first.0.saturating_sub(1));
            self.begin_segment(last, header.start_bytes, header.start_records, header.chain)?;
            return Ok(());
        }
        sync_dir(self.seg_dir)?;
        let end = old.end();
        let last = Segment::new(old.path.clone(), old.header.clone(), end);
        last.note_first_time(old.first_time_ns());
        self.kept.push(Arc::new(last));
        Ok(())
    }

    /// After a new start of the host: what is kept becomes durable, and a new segment says so.
    fn begin_boot(&mut self) -> Result<(), Error> {
        for segment in &self.kept {
            if segment.last() > self.durable && !segment.is_damaged {
                let file = segment.open()?;
                sys::fdatasync(file.as_fd()).map_err(io("flush", &segment.path))?;
            }
        }
        let end = self.end();
        self.durable = end.seq;
        let Some(last) = self.kept.last().cloned() else {
            return Ok(());
        };
        let (bytes, records) = (last.header.start_bytes, last.header.start_records);
        if end.records == 0 {
            // The new file takes the name of the old.
            self.kept.pop();
        }
        last.seal();
        let bytes = bytes + end.offset - HEADER_BYTES;
        self.begin_segment(end.seq, bytes, records + end.records, end.crc)
    }

    /// The open journal.
    pub(super) fn build(&mut self, parts: Parts<'_>) -> Result<Arc<Core>, Error> {
        let Some(active) = self.kept.last().cloned() else {
            return Err(Error::Foreign {
                path: self.seg_dir.to_path_buf(),
            });
        };
        for segment in self.kept.iter().filter(|s| s.last() <= self.durable) {
            segment.note_synced(segment.len());
        }
        let file = active.open()?;
        active.keep_file(Some(Arc::clone(&file)));
        let sealed = self.kept.iter().filter(|s| s.is_sealed());
        let sealed_bytes = sealed.map(|s| s.fixed_disk_bytes(blocks_of)).sum();
        let first = self.kept.first().map_or(Seq(1), |s| s.header.first);
        let end = active.end();
        let end_bytes = active.header.start_bytes + end.offset - HEADER_BYTES;
        let tail = Tail {
            segment: Arc::clone(&active),
            file,
            at: end,
            free_budget: 0,
            zeroed_to: 0,
        };
        Ok(Arc::new(Core {
            dir: parts.dir.to_path_buf(),
            seg_dir: self.seg_dir.to_path_buf(),
            options: parts.options,
            boot: self.boot.clone(),
            lock: parts.lock,
            flush: Mutex::new(Rank::Flush, ()),
            tail: Mutex::new(Rank::Journal, tail),
            segments: Mutex::new(
                Rank::Catalogue,
                VecDeque::from(std::mem::take(&mut self.kept)),
            ),
            cursors: parts.cursors,
            facts: parts.facts,
            index: parts.index,
            ballast: parts.ballast,
            generation: AtomicU64::new(self.generation),
            first: AtomicU64::new(first.0),
            end: AtomicU64::new(end.seq.0),
            end_bytes: AtomicU64::new(end_bytes),
            durable: AtomicU64::new(self.durable.0),
            active_bytes: AtomicU64::new(end.offset),
            sealed_bytes: AtomicU64::new(sealed_bytes),
            poison: OnceLock::new(),
            bell: Bell::new(),
            graves: Mutex::new(Rank::Leaf, Vec::new()),
        }))
    }
}

fn file_size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
