//! Goal: no input that was found or chosen once makes anything panic again. Method: the fuzzer's
//! targets, without the fuzzer, on the inputs that are checked in.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use targets::{ALL, Target};

fn dir(kind: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fuzz").join(kind)
}

/// The inputs that are kept for a target.
fn inputs(kind: &str, target: Target) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir(kind).join(target.name));
    let entries = entries.into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Those at which it panics; the panics say why.
fn refused(target: Target, kind: &str) -> Vec<PathBuf> {
    let fails = |path: &PathBuf| {
        let bytes = std::fs::read(path).expect("read an input");
        catch_unwind(|| (target.run)(&bytes)).is_err()
    };
    inputs(kind, target).into_iter().filter(fails).collect()
}

fn assert_all_taken(kind: &str) {
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        let under_way = ALL.map(|target| scope.spawn(move || refused(target, kind)));
        for of_target in under_way {
            wrong.extend(of_target.join().expect("panics are caught"));
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_fuzzing_found_is_taken_now() {
    assert_all_taken("regressions");
}

#[test]
fn what_fuzzing_begins_with_is_taken() {
    assert_all_taken("corpus");
}

#[test]
fn every_target_has_inputs_and_all_inputs_have_a_target() {
    let names: BTreeSet<String> = ALL.iter().map(|target| target.name.to_owned()).collect();
    for target in ALL {
        assert!(!inputs("corpus", target).is_empty(), "{}", target.name);
    }
    for kind in ["corpus", "regressions"] {
        for entry in std::fs::read_dir(dir(kind)).expect("list inputs").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(names.contains(&name), "{kind}/{name} is of no target");
        }
    }
}
