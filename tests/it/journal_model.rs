//! Random sequences of operations against a simple model, with crashes of process and host.
//!
//! Method: the model holds every record that must be readable. After each operation positions are
//! compared, now and then everything is read. A crash closes the journal, changes its files after
//! the last sync point as a crash may, and opens it twice: what is there is a prefix of what was
//! appended, at least up to the sync point, and the second opening finds nothing more to do.
//! `DOPPELFS_CASES` sets the number of sequences, `DOPPELFS_SEED` repeats one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::journal_support::{
    FRAMES_AT, Scratch, body, change_boot, contents, frame, index_content, open, segment_files,
    stored_mark,
};
use doppelfs::codec::{Draft, parse_header};
use doppelfs::journal::{Error, Journal};
use doppelfs::types::Seq;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One record: position and payload. Records of one group share `group`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    seq: u64,
    payload: Vec<u8>,
    group: u64,
}

/// Is `recovered` what may be left of `appended` (from `first` on) when everything up to `synced`
/// was durable?
fn check_prefix(
    appended: &[Record],
    recovered: &[(u64, Vec<u8>)],
    synced: u64,
) -> Result<usize, String> {
    for (index, (seq, payload)) in recovered.iter().enumerate() {
        let Some(wanted) = appended.get(index) else {
            return Err(format!("record {seq} was never appended"));
        };
        if wanted.seq != *seq {
            return Err(format!("record {} is missing before {seq}", wanted.seq));
        }
        if wanted.payload != *payload {
            return Err(format!("record {seq} is not what was appended"));
        }
    }
    let kept = recovered.len();
    if let Some(lost) = appended.get(kept) {
        if lost.seq <= synced {
            return Err(format!("record {} was durable and is gone", lost.seq));
        }
        let is_cut = kept > 0 && appended[kept - 1].group == lost.group;
        if is_cut {
            return Err(format!("the group of record {} is cut in two", lost.seq));
        }
    }
    Ok(kept)
}

struct Case {
    scratch: Scratch,
    rng: StdRng,
    journal: Option<Arc<Journal>>,
    /// Records that must be readable or are no longer needed; from the journal's first on.
    records: Vec<Record>,
    end: u64,
    bytes: u64,
    group: u64,
    cursors: BTreeMap<String, u64>,
    synced: u64,
    /// Length of each segment at the last sync.
    synced_files: BTreeMap<PathBuf, u64>,
    facts: BTreeMap<String, Vec<u8>>,
}

impl Case {
    fn new(seed: u64) -> Case {
        let scratch = Scratch::new("model");
        let (journal, _) = open(&scratch.queue());
        Case {
            scratch,
            rng: StdRng::seed_from_u64(seed),
            journal: Some(journal),
            records: Vec::new(),
            end: 0,
            bytes: 0,
            group: 0,
            cursors: BTreeMap::new(),
            synced: 0,
            synced_files: BTreeMap::new(),
            facts: BTreeMap::new(),
        }
    }

    fn journal(&self) -> &Arc<Journal> {
        self.journal.as_ref().unwrap()
    }

    fn payload(&mut self) -> Vec<u8> {
        let size = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(0..20_000),
            1..6 => self.rng.random_range(0..4000),
            _ => self.rng.random_range(0..300),
        };
        let byte = self.rng.random();
        vec![byte; size]
    }

    fn note(&mut self, seq: u64, payload: Vec<u8>, frame_len: usize) {
        self.end = seq;
        self.bytes += frame_len as u64;
        let group = self.group;
        self.records.push(Record {
            seq,
            payload,
            group,
        });
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => self.append(),
            40..46 => self.append_group(),
            46..62 => self.frames(),
            62..64 => self.wrong_frame(),
            64..74 => self.advance(),
            74..78 => self.register(),
            78..79 => self.unregister(),
            79..83 => self.sync(),
            83..86 => drop(self.journal().trim().unwrap()),
            86..88 => self.put(),
            88..89 => self.give_up(),
            89..90 => self.reset(),
            90..92 => self.reopen(),
            92..94 => self.crash_of_host(),
            94..95 => self.crash_of_process(),
            _ => self.read_all(),
        }
        self.check();
    }

    fn append(&mut self) {
        let payload = self.payload();
        let attributes = body(self.end);
        let draft = Draft::new(&attributes, &payload);
        let frame_len = draft.frame_len();
        let seq = self.journal().append(&draft).unwrap();
        assert_eq!(seq.0, self.end + 1);
        self.group += 1;
        self.note(seq.0, payload, frame_len);
    }

    fn append_group(&mut self) {
        let count = self.rng.random_range(2..6);
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        let drafts: Vec<Draft<'_>> = payloads
            .iter()
            .enumerate()
            .map(|(i, payload)| {
                let draft = Draft::new(&body(1), payload);
                if i + 1 < count {
                    draft.with_more()
                } else {
                    draft
                }
            })
            .collect();
        let lens: Vec<usize> = drafts.iter().map(Draft::frame_len).collect();
        let last = self.journal().append_group(&drafts).unwrap();
        assert_eq!(last.0, self.end + count as u64);
        drop(drafts);
        self.group += 1;
        for (payload, frame_len) in payloads.into_iter().zip(lens) {
            self.note(self.end + 1, payload, frame_len);
        }
    }

    /// A group of one or more frames, numbers left out here and there, sometimes never finished.
    fn frames(&mut self) {
        let count = self.rng.random_range(1..4);
        let is_finished = count == 1 || self.rng.random_bool(0.7);
        let mut prev = self.end;
        let mut waiting = Vec::new();
        for i in 0..count {
            let more = i + 1 < count || !is_finished;
            let seq = prev + 1 + self.rng.random_range(0..3) / 2;
            let payload = self.payload();
            let stored = frame(prev, seq, more, &payload);
            self.journal().append_frame(&stored).unwrap();
            waiting.push((seq, payload, stored.bytes().len()));
            prev = seq;
        }
        assert!(!is_finished || self.journal().end().0 == prev);
        if is_finished {
            self.group += 1;
            for (seq, payload, frame_len) in waiting {
                self.note(seq, payload, frame_len);
            }
        }
    }

    fn wrong_frame(&mut self) {
        let end = self.end;
        let wrong = if end > 3 { end - 2 } else { end + 100 };
        let error = self
            .journal()
            .append_frame(&frame(wrong, wrong + 1, false, b"x"))
            .unwrap_err();
        assert!(matches!(error, Error::NotNext { .. }), "{error}");
    }

    fn cursor_name(&mut self) -> String {
        ["one", "two", "conn-3"][self.rng.random_range(0..3)].to_owned()
    }

    fn advance(&mut self) {
        let name = self.cursor_name();
        let seq = self.end.saturating_sub(self.rng.random_range(0..40));
        self.journal().advance(&name, Seq(seq));
        if let Some(at) = self.cursors.get_mut(&name) {
            *at = seq.max(*at);
        }
    }

    fn register(&mut self) {
        let name = self.cursor_name();
        let first = self.journal().first().0;
        let seq = self.rng.random_range(first - 1..=self.end);
        self.journal().register(&name, Seq(seq)).unwrap();
        self.cursors.insert(name, seq);
    }

    fn unregister(&mut self) {
        let name = self.cursor_name();
        self.journal().unregister(&name);
        self.cursors.remove(&name);
    }

    fn sync(&mut self) {
        let durable = self.journal().sync().unwrap();
        assert_eq!(durable.0, self.end);
        self.synced = self.end;
        let files = segment_files(&self.scratch.queue()).into_iter();
        let with_length = files.map(|p| (p.clone(), std::fs::metadata(p).unwrap().len()));
        self.synced_files = with_length.collect();
    }

    fn put(&mut self) {
        let key = ["history", "a/b%", "next"][self.rng.random_range(0..3)].to_owned();
        let value = self.payload();
        self.journal().put(&key, &value).unwrap();
        self.facts.insert(key, value);
    }

    fn give_up(&mut self) {
        let lost = self.journal().give_up().unwrap();
        let first = self.journal().first().0;
        let behind = self.cursors.iter().filter(|(_, seq)| **seq + 1 < first);
        let mut wanted: Vec<String> = behind.map(|(name, _)| name.clone()).collect();
        wanted.sort();
        assert_eq!(lost, wanted);
        for name in &lost {
            self.cursors.remove(name);
        }
    }

    fn reset(&mut self) {
        let seq = self.rng.random_range(0..self.end + 50);
        self.journal().reset(Seq(seq)).unwrap();
        self.records.clear();
        self.cursors.clear();
        self.end = seq;
        self.sync();
    }

    fn reopen(&mut self) {
        self.journal = None;
        let is_index_lost = self.rng.random_bool(0.3);
        let queue = self.scratch.queue();
        let before = index_content(&queue);
        if is_index_lost {
            std::fs::remove_dir_all(queue.join("index")).unwrap();
        }
        let (journal, recovery) = open(&queue);
        assert!(
            !recovery.records_lost && !recovery.boot_changed,
            "{recovery:?}"
        );
        drop(journal);
        assert_eq!(
            index_content(&queue),
            before,
            "index differs after reopening"
        );
        self.journal = Some(open(&queue).0);
    }

    fn crash_of_process(&mut self) {
        self.journal = None;
        let path = segment_files(&self.scratch.queue()).pop().unwrap();
        let payload = self.payload();
        let torn = frame(self.end, self.end + 1, false, &payload);
        let cut = self.rng.random_range(0..torn.bytes().len());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&torn.bytes()[..cut]);
        std::fs::write(&path, bytes).unwrap();
        let (journal, recovery) = open(&self.scratch.queue());
        assert!(
            !recovery.records_lost && !recovery.boot_changed,
            "{recovery:?}"
        );
        assert_eq!(recovery.last.0, self.end, "{recovery:?}");
        self.journal = Some(journal);
    }

    fn crash_of_host(&mut self) {
        let first = self.journal().first().0;
        let catalogue = self.journal().catalogue();
        self.journal = None;
        let queue = self.scratch.queue();
        // A backlog is flushed in the background.
        let mark = stored_mark(&queue);
        let flushed = catalogue
            .iter()
            .filter(|e| e.sealed.is_some_and(|s| s.last.0 <= mark));
        for entry in flushed {
            let path = queue.join(format!("seg/{:020}.seg", entry.first.0));
            let length = std::fs::metadata(&path).unwrap().len();
            self.synced_files.insert(path, length);
        }
        for path in segment_files(&queue) {
            let synced = self.synced_files.get(&path).copied().unwrap_or(0);
            self.damage(&path, synced as usize);
        }
        change_boot(&queue);
        let (journal, recovery) = open(&queue);
        assert!(recovery.boot_changed, "{recovery:?}");
        let kept = contents(&journal, Seq(journal.first().0 - 1));
        let bytes = journal.end_bytes();
        drop(journal);
        let from = self.records.partition_point(|r| r.seq < recovery.first.0);
        let appended = &self.records[from..];
        let count = check_prefix(appended, &kept, self.synced)
            .unwrap_or_else(|why| panic!("{why}; {recovery:?}, synced {}", self.synced));
        assert!(recovery.first.0 >= first);
        self.records.truncate(from + count);
        self.end = recovery.last.0;
        self.bytes = bytes;
        let (journal, second) = open(&queue);
        assert_eq!(second.letters, "B", "{second:?} after {recovery:?}");
        assert_eq!(contents(&journal, Seq(second.first.0 - 1)), kept);
        let end = self.end;
        self.cursors
            .values_mut()
            .for_each(|seq| *seq = end.min(*seq));
        self.journal = Some(journal);
        self.sync();
    }

    /// What a power cut may do to a file after the bytes that were durable.
    fn damage(&mut self, path: &Path, synced: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        if bytes.len() <= synced {
            return;
        }
        match self.rng.random_range(0..4) {
            0 => bytes.truncate(self.rng.random_range(synced..=bytes.len())),
            1 | 2 => {
                let page_count = self.rng.random_range(1..3);
                for _ in 0..page_count {
                    let page = self
                        .rng
                        .random_range(synced / 4096..=(bytes.len() - 1) / 4096);
                    let from = (page * 4096).max(synced);
                    let to = (page * 4096 + 4096).min(bytes.len());
                    if self.rng.random_bool(0.7) {
                        bytes[from..to].fill(0);
                    } else {
                        self.rng.fill(&mut bytes[from..to]);
                    }
                }
            }
            _ => {}
        }
        std::fs::write(path, bytes).unwrap();
    }

    fn read_all(&mut self) {
        let first = self.journal().first().0;
        let after = self.rng.random_range(first - 1..=self.end);
        let wanted = self.records.iter().filter(|r| r.seq > after);
        let wanted: Vec<_> = wanted.map(|r| (r.seq, r.payload.clone())).collect();
        assert_eq!(contents(self.journal(), Seq(after)), wanted);
        let mut reader = self.journal().reader(Seq(after)).unwrap();
        while reader.next().unwrap().is_some() {}
        assert_eq!(reader.bytes(), self.journal().end_bytes());
        if first > 1 {
            let error = self.journal().reader(Seq(first - 2)).unwrap_err();
            assert!(matches!(error, Error::Trimmed { .. }), "{error}");
        }
        for (key, value) in &self.facts {
            assert_eq!(self.journal().get(key).unwrap().as_ref(), Some(value));
        }
    }

    fn check(&mut self) {
        let journal = Arc::clone(self.journal());
        assert_eq!(journal.end().0, self.end);
        assert_eq!(journal.end_bytes(), self.bytes);
        let cursors: BTreeMap<String, u64> = journal
            .cursors()
            .into_iter()
            .map(|(n, s)| (n, s.0))
            .collect();
        assert_eq!(cursors, self.cursors);
        let first = journal.first().0;
        if let Some(min) = self.cursors.values().min() {
            assert!(first <= min + 1, "first {first} beyond the cursor {min}");
        }
        self.records.retain(|r| r.seq >= first);
        let usage = journal.usage();
        assert_eq!(usage.records, self.records.len() as u64);
        assert_eq!(usage.oldest_time_ns.is_some(), usage.records > 0);
    }
}

fn seeds(default_count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match number("DOPPELFS_SEED") {
        Some(seed) => vec![seed],
        None => {
            let start: u64 = rand::random();
            let count = number("DOPPELFS_CASES").unwrap_or(default_count);
            (0..count).map(|i| start.wrapping_add(i)).collect()
        }
    }
}

#[test]
fn random_operations_and_crashes_agree_with_the_model() {
    for seed in seeds(8) {
        eprintln!("DOPPELFS_SEED={seed}");
        let mut case = Case::new(seed);
        for _ in 0..250 {
            case.step();
        }
        case.read_all();
    }
}

/// Records of a few segments, the sync point in the second.
fn two_part_journal(scratch: &Scratch) -> (Vec<Record>, u64, BTreeMap<PathBuf, u64>) {
    let mut case = Case::new(7);
    case.register();
    while segment_files(&case.scratch.queue()).len() < 2 {
        case.append();
    }
    case.append_group();
    case.sync();
    let synced = case.synced;
    while segment_files(&case.scratch.queue()).len() < 4 {
        case.append();
        case.append_group();
    }
    case.journal = None;
    change_boot(&case.scratch.queue());
    std::fs::rename(case.scratch.queue(), scratch.queue()).unwrap();
    let moved = case.synced_files.iter();
    let moved = moved.map(|(p, len)| (PathBuf::from(p.file_name().unwrap()), *len));
    (case.records.clone(), synced, moved.collect())
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Recovers a copy with `change` done to the named segment; returns how many records are left.
fn recover_changed(
    scratch: &Scratch,
    name: &Path,
    change: impl FnOnce(&mut Vec<u8>),
) -> Vec<(u64, Vec<u8>)> {
    let copy = Scratch::new("copy");
    copy_dir(&scratch.queue().join("seg"), &copy.queue().join("seg"));
    std::fs::copy(
        scratch.queue().join("cursors"),
        copy.queue().join("cursors"),
    )
    .unwrap();
    let path = copy.queue().join("seg").join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let (journal, first) = open(&copy.queue());
    let kept = contents(&journal, Seq(0));
    drop(journal);
    let (journal, second) = open(&copy.queue());
    assert_eq!(second.letters, "B", "{second:?} after {first:?}");
    assert_eq!(contents(&journal, Seq(0)), kept);
    kept
}

#[test]
fn a_cut_at_every_record_boundary_leaves_a_prefix_with_all_that_was_durable() {
    let scratch = Scratch::new("boundaries");
    let (records, synced, synced_files) = two_part_journal(&scratch);
    let mut counts = std::collections::BTreeSet::new();
    for path in segment_files(&scratch.queue()) {
        let name = PathBuf::from(path.file_name().unwrap());
        let durable = synced_files.get(&name).copied().unwrap_or(0) as usize;
        let bytes = std::fs::read(&path).unwrap();
        let mut cuts = crate::journal_support::frame_offsets(&bytes);
        let inside: Vec<usize> = cuts.iter().flat_map(|at| [at + 1, at + 63]).collect();
        cuts.extend(inside.into_iter().step_by(7));
        cuts.push(0);
        for cut in cuts {
            if cut >= durable && cut < bytes.len() {
                let kept = recover_changed(&scratch, &name, |bytes| bytes.truncate(cut));
                let count = check_prefix(&records, &kept, synced);
                counts.insert(count.unwrap_or_else(|why| panic!("{name:?} cut at {cut}: {why}")));
            }
        }
    }
    assert!(
        counts.len() > 20,
        "cuts gave {} different prefixes",
        counts.len()
    );
}

#[test]
fn damaged_pages_after_the_sync_point_leave_a_prefix_with_all_that_was_durable() {
    let scratch = Scratch::new("pages");
    let (records, synced, synced_files) = two_part_journal(&scratch);
    for path in segment_files(&scratch.queue()) {
        let name = PathBuf::from(path.file_name().unwrap());
        let durable = synced_files.get(&name).copied().unwrap_or(0) as usize;
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        for page in durable / 4096..length.div_ceil(4096) {
            let from = (page * 4096).max(durable);
            let to = (page * 4096 + 4096).min(length);
            if from >= to {
                continue;
            }
            let kept = recover_changed(&scratch, &name, |bytes| bytes[from..to].fill(0));
            if let Err(why) = check_prefix(&records, &kept, synced) {
                panic!("{name:?} without page {page}: {why}");
            }
        }
    }
}

/// What a recovery without checksums would deliver: frames by their lengths only.
fn read_without_checksums(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    let mut at = FRAMES_AT;
    while let Some(head) = bytes.get(at..).and_then(|b| b.first_chunk()) {
        let Ok(header) = parse_header(head) else {
            break;
        };
        let Some(stored) = bytes.get(at..at + header.frame_len()) else {
            break;
        };
        let payload = stored[64 + header.meta_len as usize..].to_vec();
        records.push((header.seq.0, payload));
        at += header.frame_len();
    }
    records
}

#[test]
fn checker_notices_a_recovery_that_skips_the_checksums() {
    let scratch = Scratch::new("planted");
    let (journal, _) = open(&scratch.queue());
    let mut records = Vec::new();
    for i in 1..=9u64 {
        let payload = vec![i as u8; 500];
        journal.append(&Draft::new(&body(i), &payload)).unwrap();
        records.push(Record {
            seq: i,
            payload,
            group: i,
        });
    }
    drop(journal);
    let path = segment_files(&scratch.queue()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(
        check_prefix(&records, &read_without_checksums(&bytes), 0),
        Ok(9)
    );
    let offsets = crate::journal_support::frame_offsets(&bytes);
    bytes[offsets[4] + 300] ^= 1;
    let wrong = read_without_checksums(&bytes);
    assert_eq!(wrong.len(), 9, "such a recovery takes the damaged record");
    assert!(
        check_prefix(&records, &wrong, 0)
            .unwrap_err()
            .contains("not what was appended")
    );
    std::fs::write(&path, bytes).unwrap();
    let right = contents(&open(&scratch.queue()).0, Seq(0));
    assert_eq!(check_prefix(&records, &right, 0), Ok(4));
}

#[test]
fn checker_notices_holes_losses_inventions_and_torn_groups() {
    let record = |seq: u64, group: u64| Record {
        seq,
        payload: vec![seq as u8],
        group,
    };
    let appended = [record(1, 1), record(2, 2), record(3, 2), record(4, 3)];
    let kept = |seqs: &[u64]| -> Vec<(u64, Vec<u8>)> {
        seqs.iter().map(|s| (*s, vec![*s as u8])).collect()
    };
    let check = |seqs: &[u64], synced| check_prefix(&appended, &kept(seqs), synced);
    assert_eq!(check(&[1, 2, 3], 3), Ok(3));
    assert!(check(&[1, 3, 4], 1).unwrap_err().contains("missing"));
    assert!(check(&[1], 3).unwrap_err().contains("durable"));
    assert!(check(&[1, 2, 3, 4, 5], 1).unwrap_err().contains("never"));
    assert!(check(&[1, 2], 1).unwrap_err().contains("cut in two"));
}
