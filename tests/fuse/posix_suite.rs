//! Goal: the file system below, as a POSIX suite sees it. Method: pjdfstest (about 400 cases: errors,
//! permissions, times, sticky and set-id bits, as root and as users) runs below and through the mount;
//! what fails or is skipped must be the same, and the replica equal at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::support::{Fixture, Image, has_programs, is_ready, program};

/// Cases whose outcome differs, and why.
const EXPLAINED: [(&str, &str); 1] = [(
    "link::link_count_max",
    "pathconf(3) knows the most links of a file by the file system's type, and says 127 for FUSE",
)];

/// Users that every Debian and Ubuntu has.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

fn suite() -> String {
    std::env::var("DOPPELFS_PJDFSTEST").unwrap_or_else(|_| "pjdfstest".to_owned())
}

/// Each case with its outcome.
fn outcomes(configuration: &Path, dir: &Path) -> BTreeMap<String, String> {
    let run = program(suite())
        .arg("-c")
        .arg(configuration)
        .arg("-p")
        .arg(dir)
        .current_dir(dir)
        .deadline(Duration::from_secs(300))
        .run();
    let mut outcomes = BTreeMap::new();
    for line in run.stdout.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [case, outcome @ ("ok" | "FAILED" | "skipped")] = words[..] {
            outcomes.insert(case.to_owned(), outcome.to_owned());
        }
    }
    assert!(outcomes.len() > 300, "few cases ran: {run:?}");
    outcomes
}

fn suite_agrees(test: &str, kind: &str) {
    if !is_ready(test) || !has_programs(test, &[&suite()]) {
        return;
    }
    let (Some(plain), Some(image)) = (Image::new(test, kind, 512), Image::new(test, kind, 512))
    else {
        return;
    };
    let mut fixture = Fixture::on(kind, image.path());
    fixture.start();
    let configuration = fixture.outside("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).expect("write");
    for dir in [fixture.outside(""), image.path().to_path_buf()] {
        program("chmod").arg("755").arg(dir).succeed();
    }
    let below = outcomes(&configuration, plain.path());
    let through = outcomes(&configuration, &fixture.path(""));
    let mut different = Vec::new();
    for (case, outcome) in &below {
        let here = through.get(case);
        let explained = EXPLAINED.iter().any(|(name, _)| name == case);
        if here != Some(outcome) && !explained {
            different.push(format!(
                "{case}: below {outcome}, through the mount {here:?}"
            ));
        }
    }
    let passed = through.values().filter(|o| *o == "ok").count();
    eprintln!(
        "{kind}: {} cases, {passed} pass through the mount",
        through.len()
    );
    assert!(different.is_empty(), "{different:#?}");
    fixture.finish();
}

#[test]
fn a_posix_suite_agrees_on_ext4() {
    suite_agrees("a_posix_suite_agrees_on_ext4", "ext4");
}

#[test]
fn a_posix_suite_agrees_on_xfs() {
    suite_agrees("a_posix_suite_agrees_on_xfs", "xfs");
}

#[test]
fn a_posix_suite_agrees_on_btrfs() {
    suite_agrees("a_posix_suite_agrees_on_btrfs", "btrfs");
}
