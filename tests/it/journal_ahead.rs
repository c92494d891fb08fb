//! The zeroes that a journal writes ahead of its records: they are there while it is written to, and never
//! taken for anything else, whatever dies when.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::journal_support::{
    Scratch, append, change_boot, contents, flip, frame, frame_offsets, segment_files,
};
use doppelfs::journal::{Journal, Options, Recovery};
use doppelfs::types::Seq;

const RECORDS: u64 = 100;

fn open_large(dir: &Path) -> (std::sync::Arc<Journal>, Recovery) {
    let options = Options {
        segment_bytes: 4 << 20,
        disk_bytes_max: None,
        free_bytes_min: 0,
    };
    let (journal, recovery) = Journal::open(dir, options).unwrap();
    (std::sync::Arc::new(journal), recovery)
}

fn payload(number: u64) -> Vec<u8> {
    // Zeroes at the end, as the room behind the record has them.
    let mut bytes = vec![u8::try_from(number % 251).unwrap() + 1; 4000];
    bytes[3000..].fill(0);
    bytes
}

/// What a journal that is written to leaves when its process is killed, and what it held.
struct Killed {
    _scratch: Scratch,
    queue: PathBuf,
    wanted: Vec<(u64, Vec<u8>)>,
}

impl Killed {
    fn new(name: &str) -> Killed {
        let scratch = Scratch::new(name);
        let (journal, _) = open_large(&scratch.queue());
        for number in 1..=RECORDS {
            append(&journal, &payload(number));
        }
        let queue = scratch.path().join("killed");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&scratch.queue(), &queue])
            .status();
        assert!(copied.unwrap().success());
        let wanted = contents(&journal, Seq(0));
        Killed {
            _scratch: scratch,
            queue,
            wanted,
        }
    }

    fn last(&self) -> PathBuf {
        segment_files(&self.queue).pop().unwrap()
    }

    /// Where the records end in the last segment's file.
    fn end(&self) -> usize {
        *frame_offsets(&std::fs::read(self.last()).unwrap())
            .last()
            .unwrap()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let mut all = std::fs::read(self.last()).unwrap();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(self.last(), all).unwrap();
    }

    /// Opens what is left, twice.
    fn reopen(&self, letters: &str) -> (Recovery, Vec<(u64, Vec<u8>)>) {
        let (journal, first) = open_large(&self.queue);
        assert_eq!(first.letters, letters, "{first:?}");
        let found = contents(&journal, Seq(0));
        drop(journal);
        let (journal, second) = open_large(&self.queue);
        assert_eq!((second.letters.as_str(), second.last), ("B", first.last));
        assert_eq!(contents(&journal, Seq(0)), found);
        (first, found)
    }
}

#[test]
fn zeroes_behind_the_last_record_are_nothing_lost() {
    let killed = Killed::new("ahead");
    let (end, size) = (killed.end(), std::fs::read(killed.last()).unwrap().len());
    assert!(
        size > end,
        "{size} bytes, records up to {end}: nothing was written ahead"
    );
    let (recovery, found) = killed.reopen("B");
    assert_eq!(
        (recovery.truncated_bytes, recovery.records_lost),
        (0, false)
    );
    assert_eq!(found, killed.wanted);
    assert_eq!(std::fs::metadata(killed.last()).unwrap().len(), end as u64);
}

#[test]
fn a_record_torn_in_front_of_zeroes_was_never_appended() {
    for length in [1, 40, 64, 70, 300, 3000] {
        let killed = Killed::new("ahead-torn");
        let torn = frame(RECORDS, RECORDS + 1, false, &payload(7));
        killed.write(killed.end(), &torn.bytes()[..length]);
        let (recovery, found) = killed.reopen("C");
        assert!(!recovery.records_lost, "{length} bytes");
        assert_eq!(found, killed.wanted, "{length} bytes");
    }
}

#[test]
fn a_group_without_its_end_in_front_of_zeroes_is_cut_off_whole() {
    let killed = Killed::new("ahead-group");
    let part = frame(RECORDS, RECORDS + 1, true, &[7; 500]);
    killed.write(killed.end(), part.bytes());
    let (recovery, found) = killed.reopen("D");
    assert!(!recovery.records_lost && recovery.truncated_bytes > 0);
    assert_eq!(found, killed.wanted);
}

#[test]
fn damage_in_front_of_sound_records_is_no_end() {
    let killed = Killed::new("ahead-damage");
    let offsets = frame_offsets(&std::fs::read(killed.last()).unwrap());
    flip(&killed.last(), offsets[90] + 200);
    let (recovery, found) = killed.reopen("E");
    assert!(recovery.records_lost);
    assert_eq!(found, killed.wanted[..90]);
}

#[test]
fn zeroes_after_another_boot_are_nothing_lost() {
    let killed = Killed::new("ahead-boot");
    change_boot(&killed.queue);
    let (recovery, found) = killed.reopen("F");
    assert!(recovery.boot_changed && !recovery.records_lost);
    assert_eq!(found, killed.wanted);
}

#[test]
fn a_closed_journal_has_no_zeroes() {
    let scratch = Scratch::new("ahead-closed");
    let (journal, _) = open_large(&scratch.queue());
    for number in 1..=RECORDS {
        append(&journal, &payload(number));
    }
    drop(journal);
    let bytes = std::fs::read(segment_files(&scratch.queue()).pop().unwrap()).unwrap();
    assert_eq!(bytes.len(), *frame_offsets(&bytes).last().unwrap());
}
