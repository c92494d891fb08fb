//! Goal: a start believes exactly what it may. One test per row of the table in `activity`.

use doppelfs::activity::{Clean, Covered, Mounts, Now, Verdict, assess};
use doppelfs::types::{FileId, History, Seq};

const MOUNTS: Mounts = Mounts { data: 3, queue: 4 };
const BEGAN: u64 = 50_000_000_000;
const CTIME: u64 = 100_000_000_000;
const ENDED: u64 = 101_000_000_000;

fn covered(clean: bool) -> Covered {
    Covered {
        instance: 7,
        history: History(9),
        root: FileId::new(2, 0),
        directory: "/srv/data".into(),
        boot: "boot-1".into(),
        mounts: MOUNTS,
        began_ns: BEGAN,
        bypassed: false,
        clean: clean.then_some(Clean {
            last_ctime_ns: CTIME,
            ended_ns: ENDED,
            end: Seq(40),
        }),
        forks: Vec::new(),
    }
}

fn now(boot: &str, now_ns: u64, last_record_ns: Option<u64>) -> Now<'_> {
    Now {
        root: FileId::new(2, 0),
        boot,
        mounts: MOUNTS,
        now_ns,
        last_record_ns,
        end: Seq(40),
        records_lost: false,
    }
}

#[test]
fn row_a_without_a_last_run_nothing_is_believed() {
    assert_eq!(assess(None, &now("boot-1", ENDED, None)), Verdict::Unknown);
}

#[test]
fn row_b_after_a_clean_end_later_changes_are_in_doubt_also_after_a_reboot() {
    for boot in ["boot-1", "boot-2"] {
        let verdict = assess(Some(&covered(true)), &now(boot, ENDED + 1, None));
        assert_eq!(verdict, Verdict::DoubtAfter(CTIME));
    }
}

#[test]
fn row_c_a_clock_that_went_back_puts_everything_in_doubt() {
    let verdict = assess(Some(&covered(true)), &now("boot-1", ENDED - 1, None));
    assert_eq!(verdict, Verdict::DoubtAll);
}

#[test]
fn row_d_after_a_crash_on_the_same_boot_the_history_goes_on() {
    let last_record = 90_000_000_000;
    let verdict = assess(
        Some(&covered(false)),
        &now("boot-1", ENDED, Some(last_record)),
    );
    assert_eq!(verdict, Verdict::DoubtAfter(80_000_000_000));
}

#[test]
fn row_e_after_a_crash_of_the_host_a_new_history_begins() {
    let verdict = assess(Some(&covered(false)), &now("boot-2", ENDED, Some(CTIME)));
    assert_eq!(verdict, Verdict::PowerCut);
}

#[test]
fn row_e_after_a_crash_on_another_mount_of_data_or_queue_a_new_history_begins() {
    for (data, queue) in [(30, 4), (3, 40)] {
        let mut elsewhere = now("boot-1", ENDED, Some(CTIME));
        elsewhere.mounts = Mounts { data, queue };
        let verdict = assess(Some(&covered(false)), &elsewhere);
        assert_eq!(verdict, Verdict::PowerCut);
        // A clean end leaves nothing in a page cache.
        let verdict = assess(Some(&covered(true)), &elsewhere);
        assert_eq!(verdict, Verdict::DoubtAfter(CTIME));
    }
}

#[test]
fn row_f_another_directory_is_another_history() {
    let mut other = now("boot-1", ENDED, None);
    other.root = FileId::new(3, 0);
    assert_eq!(assess(Some(&covered(true)), &other), Verdict::NewHistory);
    assert_eq!(assess(Some(&covered(false)), &other), Verdict::NewHistory);
}

#[test]
fn row_f_a_journal_that_misses_records_is_another_history() {
    let mut lost = now("boot-1", ENDED, None);
    lost.records_lost = true;
    assert_eq!(assess(Some(&covered(true)), &lost), Verdict::NewHistory);
    let mut cut = now("boot-1", ENDED, None);
    cut.end = Seq(39);
    assert_eq!(assess(Some(&covered(true)), &cut), Verdict::NewHistory);
}

#[test]
fn the_stored_fact_reads_back_and_garbage_does_not() {
    let fact = covered(true);
    let bytes = fact.to_bytes();
    assert_eq!(Covered::from_bytes(&bytes), Some(fact));
    for cut in 0..bytes.len() {
        assert_eq!(Covered::from_bytes(&bytes[..cut]), None, "cut at {cut}");
    }
}

#[test]
fn after_a_crash_with_a_way_beside_the_mount_all_since_its_beginning_is_in_doubt() {
    let mut last = covered(false);
    last.bypassed = true;
    let verdict = assess(Some(&last), &now("boot-1", ENDED, Some(90_000_000_000)));
    assert_eq!(verdict, Verdict::DoubtAfter(BEGAN - 10_000_000_000));
}
