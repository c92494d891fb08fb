//! Opening after a crash: one test per row of the recovery table, named with its letter; and that
//! what is not ours is not touched. Method: the files of a closed journal are changed by hand.

use std::path::Path;

use crate::journal_support::{
    FRAMES_AT, Scratch, append, change_boot, contents, filled, filled_synced, flip, frame,
    frame_offsets, index_content, open, read_all, seal_header, segment_files, small,
};
use doppelfs::journal::{Damage, Error, Journal, Recovery};
use doppelfs::types::Seq;

fn last_file(scratch: &Scratch) -> std::path::PathBuf {
    segment_files(&scratch.queue()).pop().unwrap()
}

/// Opens, expects these letters, and that a second opening finds nothing more to do.
fn reopen(scratch: &Scratch, letters: &str) -> (std::sync::Arc<Journal>, Recovery) {
    let (journal, first) = open(&scratch.queue());
    assert_eq!(first.letters, letters, "{first:?}");
    let kept = journal.catalogue();
    drop(journal);
    let (journal, second) = open(&scratch.queue());
    assert_eq!(second.letters, "B", "{second:?}");
    assert_eq!((second.first, second.last), (first.first, first.last));
    assert_eq!(journal.catalogue(), kept);
    (journal, first)
}

#[test]
fn a_missing_directory_becomes_an_empty_journal() {
    let scratch = Scratch::new("A");
    let (journal, recovery) = reopen(&scratch, "A");
    assert_eq!((recovery.first, recovery.last), (Seq(1), Seq(0)));
    assert!(!recovery.boot_changed && !recovery.records_lost && !recovery.index_rebuilt);
    assert_eq!(append(&journal, b"x"), Seq(1));
}

#[test]
fn b_whole_tail_is_taken_as_it_is() {
    let scratch = Scratch::new("B");
    let wanted = filled(&scratch, 60);
    let (journal, recovery) = reopen(&scratch, "B");
    assert_eq!(recovery.truncated_bytes, 0);
    assert_eq!(contents(&journal, Seq(0)), wanted);
}

#[test]
fn c_torn_record_is_cut_off_and_its_number_used_again() {
    let scratch = Scratch::new("C");
    let wanted = filled(&scratch, 60);
    let torn = frame(60, 61, false, &[7; 500]);
    let path = last_file(&scratch);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(&torn.bytes()[..300]);
    std::fs::write(&path, bytes).unwrap();
    let (journal, recovery) = reopen(&scratch, "C");
    assert_eq!(recovery.truncated_bytes, 300);
    assert!(!recovery.records_lost, "it was never appended");
    assert_eq!(contents(&journal, Seq(0)), wanted);
    assert_eq!(append(&journal, b"x"), Seq(61));
}

#[test]
fn d_group_without_its_end_is_cut_off_whole() {
    let scratch = Scratch::new("D");
    let wanted = filled(&scratch, 5);
    let (journal, _) = open(&scratch.queue());
    journal.append_frame(&frame(5, 6, true, b"part 1")).unwrap();
    journal.append_frame(&frame(6, 7, true, b"part 2")).unwrap();
    drop(journal);
    let (journal, recovery) = reopen(&scratch, "D");
    assert!(recovery.truncated_bytes > 0 && !recovery.records_lost);
    assert_eq!(contents(&journal, Seq(0)), wanted);
}

#[test]
fn e_damage_in_the_tail_ends_the_prefix_and_is_reported_as_loss() {
    let scratch = Scratch::new("E");
    let wanted = filled(&scratch, 10);
    let path = last_file(&scratch);
    let offsets = frame_offsets(&std::fs::read(&path).unwrap());
    flip(&path, offsets[6] + 200);
    let (journal, recovery) = reopen(&scratch, "E");
    assert!(recovery.records_lost && !recovery.boot_changed);
    assert_eq!(contents(&journal, Seq(0)), wanted[..6]);
}

#[test]
fn f_another_boot_is_reported_and_gets_a_segment_of_its_own() {
    let scratch = Scratch::new("F");
    let wanted = filled(&scratch, 60);
    change_boot(&scratch.queue());
    let before = segment_files(&scratch.queue()).len();
    let (journal, recovery) = reopen(&scratch, "F");
    assert!(recovery.boot_changed && !recovery.records_lost);
    assert_eq!(segment_files(&scratch.queue()).len(), before + 1);
    assert_eq!(contents(&journal, Seq(0)), wanted);
    assert_eq!(append(&journal, b"x"), Seq(61));
}

#[test]
fn g_after_another_boot_the_first_hole_ends_the_prefix_and_later_segments_go() {
    let scratch = Scratch::new("G");
    let wanted = filled_synced(&scratch, 10, 100);
    change_boot(&scratch.queue());
    let path = segment_files(&scratch.queue()).remove(1);
    let mut bytes = std::fs::read(&path).unwrap();
    let offsets = frame_offsets(&bytes);
    bytes[offsets[3] + 10..offsets[3] + 20].fill(0);
    let first: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    std::fs::write(&path, bytes).unwrap();
    let (journal, recovery) = reopen(&scratch, "FG");
    assert!(recovery.boot_changed && recovery.records_lost);
    assert_eq!(contents(&journal, Seq(0)), wanted[..first - 1 + 3]);
}

/// Found by the random test: where the first segment ends was taken from a header that was lost.
#[test]
fn g_lost_header_right_after_the_synced_mark_ends_the_prefix_there() {
    let probe = Scratch::new("probe");
    filled(&probe, 100);
    let (journal, _) = open(&probe.queue());
    let last = journal.catalogue()[0].sealed.unwrap().last.0;
    let scratch = Scratch::new("G2");
    let mut wanted = filled_synced(&scratch, last, 100);
    let path = segment_files(&scratch.queue()).remove(1);
    flip(&path, 30);
    change_boot(&scratch.queue());
    let (journal, recovery) = reopen(&scratch, "FGK");
    assert!(recovery.records_lost);
    wanted.truncate(last as usize);
    wanted.push((append(&journal, b"x").0, b"x".to_vec()));
    assert_eq!(contents(&journal, Seq(0)), wanted);
    assert_eq!(journal.usage().records, last + 1);
}

#[test]
fn h_damage_in_what_was_durable_stays_for_the_reader_to_report() {
    let scratch = Scratch::new("H");
    let wanted = filled_synced(&scratch, 8, 12);
    let path = last_file(&scratch);
    let offsets = frame_offsets(&std::fs::read(&path).unwrap());
    flip(&path, offsets[4] + 100);
    // The damage stays, so each opening finds it.
    let (journal, recovery) = open(&scratch.queue());
    assert_eq!(recovery.letters, "H");
    assert_eq!((recovery.last, recovery.truncated_bytes), (Seq(12), 0));
    let (frames, error) = read_all(&mut journal.reader(Seq(0)).unwrap());
    assert_eq!(frames.len(), 4);
    let at = offsets[4] as u64;
    assert!(
        matches!(error, Some(Error::Corrupt { segment: Seq(1), offset, .. }) if offset == at),
        "{error:?}"
    );
    assert_eq!(contents(&journal, Seq(8)), wanted[8..]);
    assert_eq!(append(&journal, b"x"), Seq(13));
}

#[test]
fn i_segment_whose_header_never_reached_the_disk_is_removed() {
    let scratch = Scratch::new("I");
    let wanted = filled(&scratch, 60);
    change_boot(&scratch.queue());
    let path = last_file(&scratch);
    let first: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    std::fs::write(&path, b"").unwrap();
    let (journal, recovery) = reopen(&scratch, "FI");
    assert!(recovery.boot_changed && recovery.records_lost);
    assert_eq!(contents(&journal, Seq(0)), wanted[..first as usize - 1]);
}

#[test]
fn i_the_only_segment_without_a_header_tells_the_position_by_its_name() {
    let scratch = Scratch::new("I2");
    filled(&scratch, 60);
    let files = segment_files(&scratch.queue());
    let (last, others) = files.split_last().unwrap();
    for path in others {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(last, vec![0u8; 5000]).unwrap();
    let first: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let (journal, recovery) = reopen(&scratch, "I");
    assert!(recovery.records_lost);
    assert_eq!(append(&journal, b"x"), Seq(first));
}

#[test]
fn j_leftovers_of_a_crash_are_removed() {
    let scratch = Scratch::new("J");
    filled(&scratch, 60);
    let old = segment_files(&scratch.queue());
    let old: Vec<_> = old.iter().map(|p| (p, std::fs::read(p).unwrap())).collect();
    let (journal, _) = open(&scratch.queue());
    journal.reset(Seq(30)).unwrap();
    append(&journal, b"new");
    drop(journal);
    for (path, bytes) in &old {
        std::fs::write(path, bytes).unwrap();
    }
    let unfinished = scratch.queue().join("seg/00000000000000000099.new");
    std::fs::write(&unfinished, b"half").unwrap();
    let (journal, recovery) = reopen(&scratch, "J");
    assert!(!unfinished.exists());
    assert_eq!((recovery.first, recovery.last), (Seq(31), Seq(31)));
    assert_eq!(contents(&journal, Seq(30)), [(31, b"new".to_vec())]);
    assert_eq!(journal.cursors(), []);
}

#[test]
fn k_missing_segment_is_reported_by_the_reader_and_not_skipped() {
    let scratch = Scratch::new("K");
    let wanted = filled(&scratch, 100);
    let path = segment_files(&scratch.queue()).remove(1);
    let first: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    std::fs::remove_file(path).unwrap();
    let (journal, recovery) = open(&scratch.queue());
    assert_eq!((recovery.letters.as_str(), recovery.last), ("K", Seq(100)));
    let (frames, error) = read_all(&mut journal.reader(Seq(0)).unwrap());
    assert_eq!(frames.len(), first - 1);
    assert!(
        matches!(
            error,
            Some(Error::Corrupt {
                source: Damage::Chain,
                ..
            })
        ),
        "{error:?}"
    );
    let after = journal.catalogue().last().unwrap().start_records;
    assert_eq!(contents(&journal, Seq(after)), wanted[after as usize..]);
}

#[test]
fn k_unreadable_header_in_the_middle_is_reported_by_the_reader() {
    let scratch = Scratch::new("K2");
    filled(&scratch, 100);
    let path = segment_files(&scratch.queue()).remove(1);
    let first: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    flip(&path, 30);
    let (journal, recovery) = open(&scratch.queue());
    assert_eq!((recovery.letters.as_str(), recovery.last), ("K", Seq(100)));
    let (frames, error) = read_all(&mut journal.reader(Seq(0)).unwrap());
    assert_eq!(frames.len(), first - 1);
    assert!(
        matches!(
            error,
            Some(Error::Corrupt {
                source: Damage::Header,
                ..
            })
        ),
        "{error:?}"
    );
}

#[test]
fn l_without_any_segment_no_number_is_given_twice() {
    let scratch = Scratch::new("L");
    filled_synced(&scratch, 20, 30);
    for path in segment_files(&scratch.queue()) {
        std::fs::remove_file(path).unwrap();
    }
    let (journal, recovery) = reopen(&scratch, "L");
    assert!(recovery.records_lost);
    assert_eq!(append(&journal, b"x"), Seq(21));
}

fn rebuild(spoil: fn(&Path)) {
    let scratch = Scratch::new("M");
    filled(&scratch, 100);
    let (journal, _) = open(&scratch.queue());
    journal.put("history", b"abc").unwrap();
    journal.advance("one", Seq(40));
    drop(journal);
    let before = index_content(&scratch.queue());
    assert!(before.len() > 4);
    spoil(&scratch.queue().join("index"));
    let (journal, recovery) = reopen(&scratch, "M");
    assert!(recovery.index_rebuilt);
    drop(journal);
    assert_eq!(index_content(&scratch.queue()), before);
}

#[test]
fn m_missing_index_is_rebuilt_identically() {
    rebuild(|index| std::fs::remove_dir_all(index).unwrap());
}

#[test]
fn m_index_that_cannot_be_opened_is_set_aside_and_rebuilt_identically() {
    rebuild(|index| {
        std::fs::remove_dir_all(index).unwrap();
        std::fs::write(index, b"no directory").unwrap();
    });
}

#[test]
fn m_scrambled_index_is_corrected_or_rebuilt_identically() {
    let scratch = Scratch::new("M3");
    filled(&scratch, 100);
    let before = index_content(&scratch.queue());
    for entry in std::fs::read_dir(scratch.queue().join("index")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = std::fs::metadata(&path).unwrap().len() as usize;
            (0..length).step_by(97).for_each(|at| flip(&path, at));
        }
    }
    let (journal, _) = open(&scratch.queue());
    drop(journal);
    assert_eq!(index_content(&scratch.queue()), before);
}

#[test]
fn n_lost_cursor_file_is_replaced_by_the_index() {
    let scratch = Scratch::new("N");
    filled(&scratch, 50);
    let (journal, _) = open(&scratch.queue());
    journal.register("two", Seq(7)).unwrap();
    journal.advance("one", Seq(9));
    drop(journal);
    std::fs::write(scratch.queue().join("cursors"), b"short").unwrap();
    let (journal, _) = reopen(&scratch, "N");
    let wanted = [("one".to_owned(), Seq(9)), ("two".to_owned(), Seq(7))];
    assert_eq!(journal.cursors(), wanted);
}

#[test]
fn n_torn_slot_of_a_cursor_leaves_the_one_before() {
    let scratch = Scratch::new("N2");
    filled(&scratch, 50);
    let (journal, _) = open(&scratch.queue());
    journal.register("one", Seq(3)).unwrap();
    journal.register("one", Seq(4)).unwrap();
    drop(journal);
    std::fs::remove_dir_all(scratch.queue().join("index")).unwrap();
    let path = scratch.queue().join("cursors");
    let bytes = std::fs::read(&path).unwrap();
    let is_newest = |at: &usize| bytes[at + 24] == 4 && bytes[at + 32..].starts_with(b"one");
    let at = (256..bytes.len()).step_by(128).find(is_newest).unwrap();
    flip(&path, at + 25);
    let (journal, recovery) = open(&scratch.queue());
    assert_eq!(recovery.letters, "M");
    assert_eq!(journal.cursor("one"), Some(Seq(3)));
}

fn fingerprint(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(fingerprint(&path));
        } else {
            files.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn o_foreign_directory_is_refused_and_not_touched() {
    for name in [
        "letter.txt",
        "seg/letter.txt",
        "seg/00000000000000000001.seg",
    ] {
        let scratch = Scratch::new("O");
        let path = scratch.queue().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, vec![b'x'; 9000]).unwrap();
        let before = fingerprint(scratch.path());
        let error = Journal::open(&scratch.queue(), small()).unwrap_err();
        assert!(
            matches!(&error, Error::Foreign { path: p } if *p == path),
            "{error}"
        );
        assert_eq!(fingerprint(scratch.path()), before);
    }
}

#[test]
fn o_newer_format_is_refused_and_not_touched() {
    let scratch = Scratch::new("O2");
    filled(&scratch, 60);
    let path = last_file(&scratch);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    seal_header(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let before = fingerprint(scratch.path());
    let error = Journal::open(&scratch.queue(), small()).unwrap_err();
    assert!(
        matches!(error, Error::UnknownVersion { found: 2, .. }),
        "{error}"
    );
    assert_eq!(fingerprint(scratch.path()), before);
}

#[test]
fn p_journal_in_use_is_refused_and_works_on() {
    let scratch = Scratch::new("P");
    filled(&scratch, 5);
    let (journal, _) = open(&scratch.queue());
    let error = Journal::open(&scratch.queue(), small()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert_eq!(append(&journal, b"x"), Seq(6));
    drop(journal);
    assert_eq!(open(&scratch.queue()).1.last, Seq(6));
}

#[test]
fn header_page_of_the_frames_begins_after_the_header() {
    let scratch = Scratch::new("layout");
    filled(&scratch, 1);
    let bytes = std::fs::read(last_file(&scratch)).unwrap();
    assert_eq!(&bytes[..8], b"DPFSSEG1");
    assert_eq!(&bytes[FRAMES_AT..FRAMES_AT + 4], b"DPR1");
}
