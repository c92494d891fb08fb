//! Goal: `doppelfs compare` says equal (0), differs (1) or why it cannot tell (2).

use crate::support::{Scratch, doppelfs};

fn trees() -> Scratch {
    let scratch = Scratch::new("compare");
    for side in ["left", "right"] {
        std::fs::create_dir(scratch.path().join(side)).expect("mkdir");
        let file = std::fs::File::create(scratch.path().join(side).join("file")).expect("create");
        file.set_modified(std::time::UNIX_EPOCH)
            .expect("set a time");
        let dir = std::fs::File::open(scratch.path().join(side)).expect("open");
        dir.set_modified(std::time::UNIX_EPOCH).expect("set a time");
    }
    scratch
}

fn compare(scratch: &Scratch, flags: &[&str]) -> crate::support::Finished {
    doppelfs(scratch.path())
        .arg("compare")
        .arg(scratch.path().join("left"))
        .arg(scratch.path().join("right"))
        .args(flags)
        .run()
}

#[test]
fn equal_trees_exit_0() {
    let scratch = trees();
    let said = compare(&scratch, &[]).expect_code(0);
    assert!(said.stdout.contains("equal"), "{said:?}");
}

#[test]
fn different_trees_exit_1_and_name_the_difference() {
    let scratch = trees();
    std::fs::write(scratch.path().join("right/file"), b"x").expect("write");
    let said = compare(&scratch, &[]).expect_code(1);
    assert!(said.stdout.contains("file: size: 0 | 1"), "{said:?}");
    let json = compare(&scratch, &["--json"]).expect_code(1).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let whats: Vec<&str> = json["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|difference| difference["what"].as_str())
        .collect();
    assert!(whats.contains(&"size"), "{json}");
}

#[test]
fn metadata_only_sees_no_content() {
    let scratch = trees();
    for (side, bytes) in [("left", b"1"), ("right", b"2")] {
        let path = scratch.path().join(side).join("file");
        std::fs::write(&path, bytes).expect("write");
        let file = std::fs::File::options()
            .write(true)
            .open(path)
            .expect("open");
        file.set_modified(std::time::UNIX_EPOCH)
            .expect("set a time");
    }
    compare(&scratch, &[]).expect_code(1);
    compare(&scratch, &["--metadata-only"]).expect_code(0);
}

#[test]
fn a_missing_tree_exits_2_and_is_named() {
    let scratch = trees();
    std::fs::remove_dir_all(scratch.path().join("right")).expect("remove");
    compare(&scratch, &[])
        .expect_code(2)
        .expect_words(&["right"]);
}
