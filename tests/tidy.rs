//! The house rules that a program can check: floors, files, names, what stands where.
//!
//! A rule that cannot fail is no rule: each check is also run on a planted violation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms by floor. A room uses rooms of lower floors only, never beside or above itself.
const FLOORS: [(&str, u8); 28] = [
    ("types", 0),
    ("sync", 0),
    ("sys", 1),
    ("codec", 1),
    ("stats", 1),
    ("keys", 2),
    ("live", 2),
    ("confine", 2),
    ("passthrough", 3),
    ("journal", 3),
    ("wire", 3),
    ("activity", 3),
    ("digest", 3),
    ("capture", 4),
    ("sender", 4),
    ("applier", 4),
    ("control", 4),
    ("fuse", 5),
    ("receiver", 5),
    ("mirror", 5),
    ("verify", 5),
    ("restore", 5),
    ("alerts", 5),
    ("metrics", 5),
    ("config", 6),
    ("supervisor", 6),
    ("daemon", 7),
    ("cli", 8),
];

/// Packages that only these rooms may name.
const OWNERS: [(&str, &[&str]); 25] = [
    ("prometheus_client", &["metrics"]),
    ("tar", &["cli"]),
    ("flate2", &["cli"]),
    ("parking_lot", &["sync"]),
    ("fuser", &["fuse"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("axum", &["control", "cli"]),
    ("hyper", &["control", "cli"]),
    ("hyper_util", &["control", "cli"]),
    ("http_body_util", &["control"]),
    ("form_urlencoded", &["control"]),
    ("percent_encoding", &["control"]),
    ("ratatui", &["cli"]),
    ("unicode_width", &["cli"]),
    ("globset", &["control"]),
    ("zstd", &["wire"]),
    ("rustls", &["wire"]),
    ("tokio_rustls", &["wire"]),
    ("ring", &["keys", "wire"]),
    ("data_encoding", &["keys"]),
    ("zeroize", &["keys", "control"]),
    ("sled", &["journal", "applier"]),
    ("toml", &["config"]),
];

/// Lines that a file may have.
const LINES_MAX: usize = 600;

/// Files that may be longer, with the reason.
const LONG_FILES: [(&str, &str); 5] = [
    (
        "tests/diff/calls.rs",
        "every raw call of the comparison in the one fenced file: one after the other",
    ),
    (
        "tests/diff/rig.rs",
        "one comparison from the images to the report of a difference",
    ),
    (
        "src/fuse/adapter.rs",
        "the one impl of the library's trait: decode, call, reply, again and again",
    ),
    (
        "tests/it/applier_world.rs",
        "one model of a file system, and the same as a replica; read from top to bottom",
    ),
    (
        "tests/it/journal_model.rs",
        "one model and its checker, with the tests that plant a violation beside it",
    ),
];

/// Rooms whose door holds more than doc and re-exports, with the reason.
const DOORS_WITH_LOGIC: [(&str, &str); 1] = [("sync", "the whole room is one short file")];

/// Rooms whose tests are not called after them.
const TESTED_IN: [(&str, &str); 2] = [
    ("fuse", "tests/fuse/main.rs"),
    ("daemon", "tests/fuse/restart.rs"),
];

/// The files outside of `sys` with raw system calls, with the reason.
const RAW_CALLS: [(&str, &str); 2] = [
    (
        "tests/diff/calls.rs",
        "raw system calls are what is compared, also those that no safe wrapper lets through",
    ),
    (
        "tests/it/confine_calls.rs",
        "what is to be refused is what no safe wrapper lets through",
    ),
];

/// Words that say nothing, as names of rooms, files and types.
const EMPTY_NAMES: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "manager", "misc", "stuff",
];

/// What no source file may contain.
const EMPTY_PROMISES: [&str; 4] = ["TODO", "FIXME", "XXX", "todo!("];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` of the repository with this extension: path from the root, content.
fn sources(dir: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(dir)];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = std::fs::read_to_string(&path).expect("read a source file");
                let shown = path.strip_prefix(root()).expect("below the root");
                found.push((shown.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

fn rooms() -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("src"))
        .expect("read src")
        .flatten();
    let dirs = entries.filter(|entry| entry.path().is_dir());
    dirs.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The room of a file `src/<room>/...`; none for lib.rs and main.rs.
fn room_of(path: &str) -> Option<&str> {
    let (room, _) = path.strip_prefix("src/")?.split_once('/')?;
    Some(room)
}

fn floor_of(room: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == room)
        .map(|(_, floor)| *floor)
}

/// Lines of code with their numbers: comments are left out, as far as they begin a line or follow
/// code after two blanks or one.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let code = line.split(" // ").next().unwrap_or_default();
        let is_comment = code.trim_start().starts_with("//");
        (!is_comment).then_some((index + 1, code))
    })
}

/// Does `line` contain `word` with no letter, digit or underscore around it, and no quote before?
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !is_part(before) && !is_part(after) && before != Some('"') && before != Some('`')
    })
}

/// The rooms that a line of code names as `crate::room`.
fn rooms_named(line: &str) -> Vec<&str> {
    let after = line
        .match_indices("crate::")
        .map(|(at, word)| &line[at + word.len()..]);
    let end = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    after
        .map(|rest| &rest[..end(rest).unwrap_or(rest.len())])
        .collect()
}

fn wrong_floors(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(room) = room_of(path) else {
        return wrong;
    };
    let Some(floor) = floor_of(room) else {
        return vec![format!("{path}: room {room} has no floor in tests/tidy.rs")];
    };
    for (number, line) in code(text) {
        if line.contains("use crate::{") || line.contains("crate::*") {
            wrong.push(format!(
                "{path}:{number}: one `use crate::room` line per room: {line}"
            ));
        }
        for named in rooms_named(line) {
            let lower = floor_of(named).is_some_and(|other| other < floor);
            if named != room && !named.is_empty() && !lower {
                wrong.push(format!(
                    "{path}:{number}: {room} (floor {floor}) uses {named}"
                ));
            }
        }
    }
    wrong
}

fn wrong_owners(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let room = room_of(path).unwrap_or_default();
    for (number, line) in code(text) {
        for (package, owners) in OWNERS {
            let names = has_word(line, package) && line.contains(&format!("{package}::"));
            if names && !owners.contains(&room) {
                wrong.push(format!("{path}:{number}: {package} belongs to {owners:?}"));
            }
        }
    }
    wrong
}

fn wrong_words(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let in_sys = room_of(path) == Some("sys") || RAW_CALLS.iter().any(|(raw, _)| *raw == path);
    for (number, line) in code(text) {
        if !in_sys && has_word(line, "unsafe") {
            wrong.push(format!("{path}:{number}: unsafe outside of src/sys"));
        }
        let own_lock = [
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::Condvar",
        ];
        let in_src = path.starts_with("src/") && room_of(path) != Some("sync");
        if in_src && own_lock.iter().any(|lock| line.contains(lock)) {
            wrong.push(format!(
                "{path}:{number}: locks come from crate::sync: {line}"
            ));
        }
        if in_src && line.contains("thread::spawn(") {
            wrong.push(format!(
                "{path}:{number}: threads come from crate::sync: {line}"
            ));
        }
    }
    for (index, line) in text.lines().enumerate() {
        for promise in EMPTY_PROMISES {
            if line.contains(promise) {
                wrong.push(format!("{path}:{}: {promise}: {line}", index + 1));
            }
        }
    }
    wrong
}

/// Tests that never run: Cargo.toml says that there are none in `src`, so that it is compiled once.
fn wrong_tests(path: &str, text: &str) -> Vec<String> {
    let is_test = |line: &str| line.contains("#[test]") || line.contains("cfg(test)");
    let lines = code(text).filter(|(_, line)| path.starts_with("src/") && is_test(line));
    lines
        .map(|(number, line)| format!("{path}:{number}: tests stand in tests: {line}"))
        .collect()
}

fn wrong_names(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let parts = path.trim_end_matches(".rs").split(['/', '_', '-']);
    for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
        wrong.push(format!("{path}: {part} is no name"));
    }
    for (number, line) in code(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let declared = words
            .windows(2)
            .filter(|pair| ["struct", "enum", "trait", "type", "mod"].contains(&pair[0]));
        for name in declared.map(|pair| pair[1].to_lowercase()) {
            if EMPTY_NAMES
                .iter()
                .any(|empty| name.trim_end_matches([';', '{']).ends_with(empty))
            {
                wrong.push(format!("{path}:{number}: {name} is no name"));
            }
        }
    }
    wrong
}

fn wrong_lengths(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let listed = LONG_FILES.iter().any(|(long, _)| *long == path);
    if lines > LINES_MAX && !listed {
        return vec![format!("{path} has {lines} lines, {LINES_MAX} are enough")];
    }
    Vec::new()
}

fn wrong_doors(path: &str, text: &str) -> Vec<String> {
    let Some(room) = room_of(path).filter(|room| path == format!("src/{room}/mod.rs")) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push(format!("{path}: a room's door begins with its doc"));
    }
    let logic = ["fn", "impl", "struct", "enum", "trait", "static"];
    let has_logic =
        code(text).any(|(_, line)| logic.iter().any(|word| line.split(' ').any(|w| w == *word)));
    if has_logic && !DOORS_WITH_LOGIC.iter().any(|(listed, _)| *listed == room) {
        wrong.push(format!("{path}: a door has doc and re-exports, no logic"));
    }
    wrong
}

/// Runs a check over all Rust files of the repository but this one.
fn assert_tidy(check: fn(&str, &str) -> Vec<String>) {
    let mut wrong = Vec::new();
    for (path, text) in sources("src", "rs")
        .into_iter()
        .chain(sources("tests", "rs"))
    {
        if path != "tests/tidy.rs" {
            wrong.extend(check(&path, &text));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn rooms_use_lower_floors_only() {
    assert!(wrong_floors("src/sys/a.rs", "use crate::types::Seq;\n").is_empty());
    assert!(wrong_floors("src/sys/a.rs", "use crate::sys::fs;\n").is_empty());
    assert!(wrong_floors("src/sys/a.rs", "/// See [`crate::cli`].\n").is_empty());
    assert_eq!(
        wrong_floors("src/sys/a.rs", "use crate::codec::Frame;\n").len(),
        1
    );
    assert_eq!(
        wrong_floors("src/types/a.rs", "fn f(x: crate::sys::FileStat) {}\n").len(),
        1
    );
    assert_eq!(
        wrong_floors("src/cli/a.rs", "use crate::{sys, types};\n").len(),
        1
    );
    assert_eq!(wrong_floors("src/unheard/a.rs", "").len(), 1);
    assert_tidy(wrong_floors);
}

#[test]
fn packages_stay_in_their_rooms() {
    assert_eq!(
        wrong_owners("src/capture/a.rs", "use fuser::ReplyEntry;").len(),
        1
    );
    assert!(wrong_owners("src/fuse/a.rs", "use fuser::ReplyEntry;").is_empty());
    let mut wrong = Vec::new();
    for (path, text) in sources("src", "rs") {
        wrong.extend(wrong_owners(&path, &text));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_locks_threads_and_empty_promises_stand_where_they_may() {
    assert_eq!(
        wrong_words("src/fuse/a.rs", "let x = unsafe { f() };").len(),
        1
    );
    assert!(wrong_words("src/sys/a.rs", "let x = unsafe { f() };").is_empty());
    assert!(wrong_words("src/fuse/a.rs", "// unsafe is elsewhere").is_empty());
    assert_eq!(
        wrong_words("src/fuse/a.rs", "use std::sync::Mutex;").len(),
        1
    );
    assert_eq!(
        wrong_words("src/fuse/a.rs", "std::thread::spawn(|| {});").len(),
        1
    );
    assert_eq!(wrong_words("tests/it/a.rs", "// TODO: later").len(), 1);
    assert_tidy(wrong_words);
}

#[test]
fn tests_stand_where_they_run() {
    assert_eq!(wrong_tests("src/fuse/a.rs", "#[test]\nfn f() {}").len(), 1);
    assert_eq!(
        wrong_tests("src/fuse/a.rs", "#[cfg(test)]\nmod t;").len(),
        1
    );
    assert!(wrong_tests("tests/it/a.rs", "#[test]\nfn f() {}").is_empty());
    assert_tidy(wrong_tests);
}

#[test]
fn names_say_something() {
    assert_eq!(wrong_names("src/journal/util.rs", "").len(), 1);
    assert_eq!(wrong_names("tests/it/common/mod.rs", "").len(), 1);
    assert_eq!(
        wrong_names("src/journal/a.rs", "pub struct SegmentManager {").len(),
        1
    );
    assert!(wrong_names("src/journal/segment.rs", "pub struct Segment {").is_empty());
    assert_tidy(wrong_names);
}

#[test]
fn files_are_short_or_listed_with_a_reason() {
    assert_eq!(
        wrong_lengths("src/a/b.rs", &"\n".repeat(LINES_MAX + 1)).len(),
        1
    );
    assert_tidy(wrong_lengths);
    for (path, reason) in LONG_FILES {
        let text = std::fs::read_to_string(root().join(path)).expect("a listed file exists");
        assert!(
            text.lines().count() > LINES_MAX,
            "{path} is short now, take it off the list"
        );
        assert!(!reason.is_empty());
    }
}

#[test]
fn doors_have_doc_and_no_logic() {
    assert_eq!(
        wrong_doors("src/wire/mod.rs", "//! Doc.\nfn f() {}\n").len(),
        1
    );
    assert_eq!(wrong_doors("src/wire/mod.rs", "mod a;\n").len(), 1);
    assert!(wrong_doors("src/wire/mod.rs", "//! Doc.\nmod a;\npub use a::fun;\n").is_empty());
    assert_tidy(wrong_doors);
}

#[test]
fn every_room_has_tests_and_a_place_on_the_map() {
    let map = std::fs::read_to_string(root().join("src/lib.rs")).expect("read lib.rs");
    let tests: Vec<String> = ["tests/it", "tests/fuse"]
        .iter()
        .flat_map(|dir| sources(dir, "rs"))
        .map(|(path, _)| path)
        .collect();
    let mut wrong = Vec::new();
    for room in rooms() {
        let listed = TESTED_IN
            .iter()
            .find(|(name, _)| *name == room)
            .map(|(_, path)| *path);
        let is_test = |path: &String| {
            let name = Path::new(path).strip_prefix("tests").ok();
            let name = name.and_then(|n| n.components().nth(1));
            let name = name.map(|n| n.as_os_str().to_string_lossy().into_owned());
            name.is_some_and(|n| {
                n == room || n == format!("{room}.rs") || n.starts_with(&format!("{room}_"))
            })
        };
        if !tests.iter().any(is_test) && !listed.is_some_and(|path| root().join(path).exists()) {
            wrong.push(format!("room {room} has no tests/it/{room}*.rs"));
        }
        if !map.contains(&format!("pub mod {room};")) {
            wrong.push(format!("room {room} is not on the map in src/lib.rs"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Names in the last column of the interleavings' tables that are none of a test in `tests`.
fn wrong_interleavings(doc: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let part = doc.split("## Interleavings").nth(1).unwrap_or_default();
    let part = part.split("\n## ").next().unwrap_or_default();
    let rows = part.lines().filter(|line| line.starts_with("| "));
    let mut wrong = Vec::new();
    for row in rows {
        let last = row.trim_end_matches('|').rsplit(" | ").next();
        let last = last.unwrap_or_default().trim();
        if last == "test" {
            continue;
        }
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("no test in: {row}"));
        }
        let missing = names.iter().filter(|name| !tests.contains(**name));
        wrong.extend(missing.map(|name| format!("there is no test {name}: {row}")));
    }
    wrong
}

/// What is compiled as a test, by name.
fn names_of_tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in ["tests/it", "tests/fuse"]
        .iter()
        .flat_map(|dir| sources(dir, "rs"))
    {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
                names.extend(rest.split('(').next().map(str::to_owned));
            }
            is_test = line == "#[test]" || is_test && line.starts_with("#[");
        }
    }
    names
}

#[test]
fn every_interleaving_names_tests_that_exist() {
    let some = BTreeSet::from(["is_there".to_owned()]);
    let doc = |row: &str| format!("# A\n## Interleavings\n| a | test |\n|---|---|\n{row}\n## B\n");
    assert!(wrong_interleavings(&doc("| a | `is_there` |"), &some).is_empty());
    let gone = wrong_interleavings(&doc("| a `b` | `is_there`, `is_gone` |"), &some);
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(wrong_interleavings(&doc("| a | nothing |"), &some).len(), 1);
    let path = root().join("docs/architecture.md");
    let doc = std::fs::read_to_string(path).expect("read the document");
    let rows = doc.lines().filter(|line| line.contains("` |")).count();
    assert!(rows > 50, "the tables are gone: {rows} rows");
    let wrong = wrong_interleavings(&doc, &names_of_tests());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_of_test_binaries_are_all_compiled() {
    let mut wrong = Vec::new();
    for binary in ["tests/it", "tests/fuse", "tests/diff", "tests/hostile"] {
        let main = std::fs::read_to_string(root().join(binary).join("main.rs")).expect("read");
        let entries = std::fs::read_dir(root().join(binary))
            .expect("read a directory")
            .flatten();
        for entry in entries {
            let name = entry
                .file_name()
                .to_string_lossy()
                .trim_end_matches(".rs")
                .to_owned();
            let is_module = !["main", "README.md", "checks", "samples"].contains(&name.as_str());
            if is_module && !main.contains(&format!("mod {name};")) {
                wrong.push(format!(
                    "{binary}/{name} is not in main.rs: its tests never run"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_readme_shows_the_two_commands_and_what_works() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README.md");
    for words in [
        "scripts/quickstart",
        "scripts/test",
        "| works",
        "not yet",
        "sled",
    ] {
        assert!(
            readme.contains(words),
            "README.md does not mention {words:?}"
        );
    }
}

#[test]
fn scripts_are_executable_and_stop_at_the_first_error() {
    use std::os::unix::fs::PermissionsExt;
    for script in [
        "scripts/audit",
        "scripts/fuzz",
        "scripts/prove-checks",
        "scripts/quickstart",
        "scripts/soak",
        "scripts/test",
        ".ci/run",
    ] {
        let path = root().join(script);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{script}: {e}"));
        let mode = path.metadata().expect("stat").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
        assert!(
            text.lines().any(|line| line.starts_with("set -e")),
            "{script}: no `set -e`"
        );
    }
}

/// Names of the packages in the dependency tables of a Cargo.toml.
fn dependencies_of(manifest: &str) -> Vec<String> {
    let mut is_in_table = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            is_in_table = table.contains("dependencies]");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| is_in_table) {
            names.extend((!name.starts_with('#')).then(|| name.to_owned()));
        }
    }
    names
}

/// Packages of a lock file that are from elsewhere than crates.io, or without a checksum.
fn from_elsewhere(lock: &str) -> Vec<String> {
    let packages = lock.split("[[package]]").skip(1);
    let is_wrong = |package: &&str| {
        let is_own = package.contains("name = \"doppelfs\"\n");
        let registry = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        !(is_own || package.contains(registry) && package.contains("checksum = "))
    };
    packages.filter(is_wrong).map(str::to_owned).collect()
}

#[test]
fn dependencies_are_explained_and_from_one_place() {
    let planted =
        "[dependencies]\n# Why.\na = \"1\"\n[dev-dependencies]\nb = { x = 1 }\n[lints]\nc = 1\n";
    assert_eq!(dependencies_of(planted), ["a", "b"]);
    let planted =
        "[[package]]\nname = \"a\"\nsource = \"git+https://example.org/a\"\nchecksum = \"1\"\n";
    assert_eq!(from_elsewhere(planted).len(), 1);
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("read");
    let explained = read("docs/dependencies.md");
    let names = dependencies_of(&read("Cargo.toml"));
    assert!(names.len() > 20, "the tables are gone: {names:?}");
    let missing = names
        .iter()
        .filter(|name| !explained.contains(&format!("| `{name}` |")));
    let missing: Vec<&String> = missing.collect();
    assert!(missing.is_empty(), "docs/dependencies.md: {missing:?}");
    let elsewhere = from_elsewhere(&read("Cargo.lock"));
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}
