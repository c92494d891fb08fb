//! Goal: real programs work on a protected directory, and the replica follows them exactly.
//! Method: run one inside the mount, wait, compare the trees.

use std::path::Path;

use doppelfs::digest::{self, Options, What};

use crate::support::{
    Fixture, Scratch, has_programs, is_ready, plant_everything, plant_source_tree, program,
    random_bytes, seed,
};

/// Files of the unpacked source tree.
const SOURCE_FILES: u64 = 5_200;

fn is_ready_for(test: &str, programs: &[&str]) -> bool {
    is_ready(test) && has_programs(test, programs)
}

#[track_caller]
fn assert_trees_equal(left: &Path, right: &Path) {
    let report = digest::compare(left, right, &Options::default()).expect("compare");
    assert!(report.is_equal(), "{report}");
}

/// tar and rsync pass whole seconds only; all else must have come through the mount unchanged.
#[track_caller]
fn assert_only_times_differ(original: &Path, unpacked: &Path) {
    let report = digest::compare(original, unpacked, &Options::default()).expect("compare");
    let only_times = report.differences.iter().all(|d| d.what == What::Mtime);
    assert!(only_times, "{report}");
}

#[test]
fn tar_unpacks_a_source_tree_of_5000_files() {
    let test = "tar_unpacks_a_source_tree_of_5000_files";
    if !is_ready_for(test, &["tar"]) {
        return;
    }
    let fixture = Fixture::started("tar");
    let (original, archive) = (fixture.outside("original"), fixture.outside("tree.tar"));
    plant_source_tree(&original, seed(test), SOURCE_FILES);
    program("tar")
        .arg("-C")
        .arg(&original)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .succeed();
    std::fs::create_dir(fixture.path("tree")).expect("mkdir");
    program("tar")
        .arg("-C")
        .arg(fixture.path("tree"))
        .arg("-xpf")
        .arg(&archive)
        .succeed();
    assert_only_times_differ(&original, &fixture.path("tree"));
    let counts = fixture.finish().counts;
    assert!(counts.files >= SOURCE_FILES, "{counts:?}");
}

/// git with a fixed author, in `dir`.
fn git(dir: &Path, args: &[&str]) -> crate::support::Finished {
    program("git")
        .current_dir(dir)
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
        .args(["-c", "init.defaultBranch=main", "-c", "gc.auto=0"])
        .args(["-c", "safe.directory=*"])
        .args(args)
        .succeed()
}

#[test]
fn git_inits_commits_collects_clones_and_checks() {
    let test = "git_inits_commits_collects_clones_and_checks";
    if !is_ready_for(test, &["git"]) {
        return;
    }
    let fixture = Fixture::started("git");
    let repository = fixture.path("repository");
    std::fs::create_dir(&repository).expect("mkdir");
    git(&repository, &["init", "--quiet"]);
    plant_source_tree(&repository, seed(test), 400);
    for round in 0..5 {
        std::fs::write(repository.join("round"), round.to_string()).expect("write");
        git(&repository, &["add", "--all"]);
        git(
            &repository,
            &["commit", "--quiet", "--message", "Another round"],
        );
    }
    git(&repository, &["gc", "--quiet", "--prune=now"]);
    git(
        &fixture.path(""),
        &["clone", "--quiet", "--no-hardlinks", "repository", "clone"],
    );
    git(&repository, &["clone", "--quiet", ".", "../clone-of-links"]);
    for name in ["repository", "clone", "clone-of-links"] {
        git(&fixture.path(name), &["fsck", "--full", "--strict"]);
    }
    fixture.caught_up();
    git(
        &fixture.replica("repository"),
        &["fsck", "--full", "--strict"],
    );
    fixture.finish();
}

fn sqlite(database: &Path, script: &str) -> String {
    program("sqlite3")
        .arg("-batch")
        .arg(database)
        .arg(script)
        .succeed()
        .stdout
}

/// Runs `integrity_check` and a count on a copy of the replica's database.
fn check_replica(fixture: &Fixture, rows: u64) {
    let copy = fixture.outside("copy");
    program("cp")
        .arg("-a")
        .arg(fixture.replica("db"))
        .arg(&copy)
        .succeed();
    let said = sqlite(
        &copy.join("base.sqlite"),
        "pragma integrity_check; select count(*) from t;",
    );
    assert_eq!(said.trim(), format!("ok\n{rows}"));
}

#[test]
fn sqlite_with_a_write_ahead_log_survives_on_the_replica() {
    let test = "sqlite_with_a_write_ahead_log_survives_on_the_replica";
    if !is_ready_for(test, &["sqlite3"]) {
        return;
    }
    let fixture = Fixture::started("sqlite-wal");
    std::fs::create_dir(fixture.path("db")).expect("mkdir");
    let database = fixture.path("db/base.sqlite");
    let mode = sqlite(
        &database,
        "pragma journal_mode=wal; create table t(n, text);",
    );
    assert_eq!(mode.trim(), "wal");
    let mut script = "pragma wal_autocheckpoint=0;\n".to_owned();
    for number in 0..500 {
        script.push_str(&format!(
            "insert into t values({number}, hex(randomblob(200)));\n"
        ));
    }
    // The log stays: the replica must be good with it, not only after a checkpoint.
    let feed = fixture.outside("script.sql");
    std::fs::write(&feed, format!(".dbconfig no_ckpt_on_close on\n{script}")).expect("write");
    sqlite(&database, &format!(".read {}", feed.display()));
    assert!(
        fixture.path("db/base.sqlite-wal").exists(),
        "the log was taken away"
    );
    fixture.caught_up();
    check_replica(&fixture, 500);
    sqlite(
        &database,
        "pragma wal_checkpoint(truncate); delete from t where n % 2; vacuum;",
    );
    fixture.finish();
}

#[test]
fn sqlite_with_a_rollback_journal_survives_on_the_replica() {
    let test = "sqlite_with_a_rollback_journal_survives_on_the_replica";
    if !is_ready_for(test, &["sqlite3"]) {
        return;
    }
    let fixture = Fixture::started("sqlite-journal");
    std::fs::create_dir(fixture.path("db")).expect("mkdir");
    let database = fixture.path("db/base.sqlite");
    sqlite(
        &database,
        "pragma journal_mode=delete; create table t(n, text);",
    );
    let insert: String = (0..200)
        .map(|number| format!("insert into t values({number}, hex(randomblob(200)));\n"))
        .collect();
    sqlite(&database, &insert);
    sqlite(
        &database,
        "begin; update t set text='gone'; rollback; update t set n=n+1;",
    );
    fixture.caught_up();
    check_replica(&fixture, 200);
    fixture.finish();
}

#[test]
fn cargo_builds_a_crate_inside_the_mount() {
    let test = "cargo_builds_a_crate_inside_the_mount";
    if !is_ready_for(test, &["cargo"]) {
        return;
    }
    let fixture = Fixture::started("cargo");
    let krate = fixture.path("hello");
    program("cargo")
        .args(["init", "--quiet", "--vcs", "none"])
        .arg(&krate)
        .succeed();
    program("cargo")
        .args(["build", "--quiet", "--offline"])
        .current_dir(&krate)
        .succeed();
    let binary = "hello/target/debug/hello";
    assert_eq!(
        program(fixture.path(binary)).succeed().stdout,
        "Hello, world!\n"
    );
    fixture.caught_up();
    // A copy: the target may have the replica's file open for writing, then nobody may run it.
    let copy = fixture.outside("hello");
    program("cp")
        .arg(fixture.replica(binary))
        .arg(&copy)
        .succeed();
    assert_eq!(program(copy).succeed().stdout, "Hello, world!\n");
    fixture.finish();
}

#[test]
fn rsync_brings_everything_in() {
    let test = "rsync_brings_everything_in";
    if !is_ready_for(test, &["rsync"]) {
        return;
    }
    let fixture = Fixture::started("rsync");
    let original = fixture.outside("original");
    std::fs::create_dir(&original).expect("mkdir");
    plant_everything(&original);
    plant_source_tree(&original.join("tree"), seed(test), 300);
    let (from, to) = (
        format!("{}/", original.display()),
        format!("{}/", fixture.path("").display()),
    );
    program("rsync")
        .args(["-aHAXS", "--numeric-ids", &from, &to])
        .succeed();
    assert_only_times_differ(&original, &fixture.path(""));
    fixture.finish();
}

#[test]
fn rsync_finds_the_replica_equal() {
    let test = "rsync_finds_the_replica_equal";
    if !is_ready_for(test, &["rsync"]) {
        return;
    }
    let fixture = Fixture::started("rsync-proof");
    plant_everything(&fixture.path(""));
    fixture.caught_up();
    let (from, to) = (
        format!("{}/", fixture.path("").display()),
        format!("{}/", fixture.replica("").display()),
    );
    let proof = [
        "-aHAXn",
        "--delete",
        "-c",
        "--itemize-changes",
        "--numeric-ids",
    ];
    let said = program("rsync")
        .args(proof)
        .args([&from, &to])
        .succeed()
        .stdout;
    assert_eq!(said, "");
    fixture.finish();
}

#[test]
fn files_that_were_there_before_are_mirrored() {
    if !is_ready("files_that_were_there_before_are_mirrored") {
        return;
    }
    let mut fixture = Fixture::new("before");
    plant_everything(&fixture.path(""));
    let large = random_bytes(2, 5 << 20);
    std::fs::write(fixture.path("large"), &large).expect("write");
    fixture.start();
    let scratch = Scratch::new("before-copy");
    let copy = scratch.path().join("copy");
    program("cp")
        .arg("-a")
        .arg(fixture.replica(""))
        .arg(&copy)
        .succeed();
    assert_trees_equal(&copy, &fixture.path(""));
    assert!(fixture.connection().mirror_bytes() >= large.len() as u64);
    fixture.finish();
}
