//! Goal: who starts a worker hears whether it serves, whatever the worker does.
//! Method: workers written in sh that speak to the pipe, or do not.

use crate::cli_scratch::{Scratch, runtime};
use doppelfs::supervisor::{EndSignal, LaunchError, Ready, start_worker, users_of};

/// A worker: its standard input is the pipe.
fn start(scratch: &Scratch, body: &str) -> Result<String, LaunchError> {
    let program = scratch.script("worker", &format!("#!/bin/sh\n{body}\n"));
    start_worker(&program, &[], &scratch.path().join("log/worker.log"))
}

#[test]
fn a_worker_that_serves_is_heard_and_left_alone() {
    let scratch = Scratch::new();
    let pid_file = scratch.path().join("pid").display().to_string();
    let body = format!("echo $$ > {pid_file}; echo ready at work >&0; exec sleep 1000");
    assert_eq!(start(&scratch, &body).unwrap(), "at work");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let status = std::process::Command::new("kill")
        .arg(pid.trim())
        .status()
        .unwrap();
    assert!(status.success(), "it had ended");
}

#[test]
fn a_worker_that_refuses_is_quoted_with_all_its_lines() {
    let scratch = Scratch::new();
    let error = start(&scratch, "printf 'refused no\\nand why' >&0; exit 2").unwrap_err();
    assert!(matches!(error, LaunchError::Refused(_)), "{error}");
    assert_eq!(error.to_string(), "no\nand why");
}

#[test]
fn a_worker_that_dies_without_a_word_leads_to_its_log() {
    let scratch = Scratch::new();
    let error = start(&scratch, "echo a trace >&2; kill -9 $$")
        .unwrap_err()
        .to_string();
    assert!(error.contains("ended before it served"), "{error}");
    assert!(error.contains("worker.log"), "{error}");
    let log = std::fs::read_to_string(scratch.path().join("log/worker.log")).unwrap();
    assert_eq!(log, "a trace\n");
}

#[test]
fn a_worker_that_cannot_be_started_is_an_error() {
    let scratch = Scratch::new();
    let program = scratch.path().join("none");
    let error = start_worker(&program, &[], &scratch.path().join("log")).unwrap_err();
    assert!(
        matches!(
            error,
            LaunchError::Io {
                operation: "start",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn only_a_waiting_parent_is_told_of_a_refusal() {
    let ready = Ready::silent();
    assert!(!ready.refuse("no"));
    assert!(!Ready::on_stdout().refuse("no"));
}

#[test]
fn users_of_a_tree_are_found_by_what_they_hold() {
    let scratch = Scratch::new();
    let inside = scratch.dir("tree/deep");
    let _open = std::fs::File::create(inside.join("file")).unwrap();
    let mut sleeper = std::process::Command::new("sleep")
        .arg("1000")
        .current_dir(&inside)
        .spawn()
        .unwrap();
    // The directory is changed between fork and exec, so it is there when spawn returns.
    let users = users_of(&scratch.path().join("tree"), &[]);
    let found = |pid, how| users.iter().any(|u| u.pid == pid && u.how == how);
    assert!(found(sleeper.id(), "cwd"), "{users:?}");
    assert!(found(std::process::id(), "open"), "{users:?}");
    let except = users_of(&scratch.path().join("tree"), &[sleeper.id()]);
    assert!(except.iter().all(|u| u.pid != sleeper.id()));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn a_request_to_end_is_heard() {
    let runtime = runtime();
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = std::sync::Arc::clone(&begun);
    let heard = runtime.spawn(async move {
        let mut end = EndSignal::listen().unwrap();
        told.notify_one();
        end.heard().await
    });
    runtime.block_on(begun.notified());
    let me = std::process::id().to_string();
    let status = std::process::Command::new("kill")
        .args(["-TERM", &me])
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(runtime.block_on(heard).unwrap(), "SIGTERM");
}
