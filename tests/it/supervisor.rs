//! Goal: who starts a worker hears whether it serves, whatever the worker does.
//! Method: workers written in sh that speak to the pipe, or do not.

use crate::cli_scratch::Scratch;
use doppelfs::supervisor::{LaunchError, Ready, start_worker};

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
