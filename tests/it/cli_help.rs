//! Goal: every command explains itself and ends with the exit code that is promised: 0 for its help, 2 for what it
//! cannot do, and then with one message and nothing on standard output. Method: the table of commands itself, each
//! run as a process in a place where nothing is mounted.

use std::process::Command;

use super::cli_scratch::{Scratch, run};

/// Every command with its sub-commands, as words, and whether it has any below it.
fn all() -> Vec<(Vec<String>, bool)> {
    fn visit(command: &clap::Command, words: &[String], all: &mut Vec<(Vec<String>, bool)>) {
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            let mut words = words.to_vec();
            words.push(sub.get_name().to_owned());
            all.push((words.clone(), sub.has_subcommands()));
            visit(sub, &words, all);
        }
    }
    let mut every = Vec::new();
    visit(&doppelfs::cli::command(), &[], &mut every);
    every
}

#[test]
fn every_command_has_help_and_refuses_what_it_does_not_know() {
    let scratch = Scratch::new();
    let all = all();
    assert!(all.len() > 40, "the table is gone: {}", all.len());
    for (words, _) in &all {
        let words = words.join(" ");
        let helped = run(scratch.path(), &format!("{words} --help"));
        assert_eq!(
            (helped.code, helped.err.as_str()),
            (0, ""),
            "{words} --help"
        );
        assert!(
            helped.out.contains("Usage: doppelfs"),
            "{words}: {}",
            helped.out
        );
        let first = helped.out.lines().next().unwrap_or_default();
        assert!(
            first.len() > 10 && !first.starts_with("Usage"),
            "{words} says nothing of itself"
        );
        let short = run(scratch.path(), &format!("{words} -h"));
        assert_eq!(short.code, 0, "{words} -h");
    }
    for (words, _) in &all {
        let words = words.join(" ");
        // What is planned takes any words, to say that it is planned.
        if run(scratch.path(), &format!("{words} --help"))
            .out
            .contains("not built yet")
        {
            continue;
        }
        let refused = run(scratch.path(), &format!("{words} --no-such-flag"));
        assert_eq!(refused.code, 2, "{words} --no-such-flag: {}", refused.out);
        assert_eq!(refused.out, "", "{words} --no-such-flag");
        assert!(
            refused.err.contains("--no-such-flag"),
            "{words}: {}",
            refused.err
        );
    }
}

#[test]
fn where_nothing_is_mounted_each_command_says_so_and_ends_with_2() {
    let scratch = Scratch::new();
    for words in [
        "stats",
        "stats --follow",
        "stats --target",
        "queue show",
        "queue tail",
        "queue tail --follow --op write",
        "wait --caught-up --timeout 1",
        "mirror start --full",
        "mirror start --wait",
        "restart",
        "pause",
        "pause --all",
        "resume",
        "resume --all",
        "mark noon",
        "mark --all noon",
        "connect",
        "disconnect",
        "disconnect --forget",
        "replication start",
        "replication stop",
        "target pause",
        "target resume",
        "target invite",
        "umount /nowhere",
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!(ran.code, 2, "{words}: {}{}", ran.out, ran.err);
        assert_eq!(ran.out, "", "{words}");
        assert!(ran.err.starts_with("doppelfs: "), "{words}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{words}: {}", ran.err);
    }
    for words in [
        "status",
        "status --json",
        "top --once",
        "metrics",
        "alerts",
        "alerts --json",
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words}");
        assert!(!ran.out.is_empty(), "{words}");
    }
}

#[test]
fn bad_values_are_refused_before_anything_is_asked() {
    let scratch = Scratch::new();
    for (words, says) in [
        ("pause data --timeout -1", "-1"),
        ("pause data --mark no/mark", "not a name for a mark"),
        ("mark data .hidden", "not a name for a mark"),
        ("mark a b c", "unexpected"),
        ("pause --all data", "cannot be used with"),
        ("stats --interval nothing", "invalid value"),
        ("queue tail --op wirte", "wirte"),
        ("status no/set", "not a set name"),
        ("metrics serve --listen here", "invalid value"),
        (
            "metrics serve --listen 203.0.113.1:1",
            "cannot listen on 203.0.113.1:1",
        ),
        (
            "diag --output /nowhere/at/all.tar.gz",
            "cannot make /nowhere/at/all.tar.gz",
        ),
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!(ran.code, 2, "{words}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(says), "{words}: {}", ran.err);
    }
}

#[test]
fn readers_that_have_had_enough_are_no_error() {
    let scratch = Scratch::new();
    let script = "\"$0\" --run-dir \"$1\" alerts | head -n 1; exit ${PIPESTATUS[0]}";
    let ran = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_doppelfs")])
        .arg(scratch.path())
        .output()
        .expect("run bash");
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout).lines().count(), 1);
}
