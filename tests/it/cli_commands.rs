//! Goal: every command ends with the documented exit code and one clear message.
//! Method: the program itself, with workers that only talk behind its sockets.

use crate::cli_scratch::{Ran, Scratch, Talker, doppelfs, run, runtime, serve};
use doppelfs::control::status::TargetStatus;
use doppelfs::control::{Answer, CursorLine, Handler, Items, QueueLine, Reply, Request};
use doppelfs::control::{SegmentLine, Server, Service};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[test]
fn what_is_planned_says_so_and_ends_with_2() {
    let scratch = Scratch::new();
    for words in [
        "mirror pause data",
        "mirror resume data",
        "mirror stop data",
        "mirror start data --difference --checksum",
        "mirror start data --checksum-all",
        "verify data --checksum --remirror",
        "orphans list data --older-than 3d",
        "restore data --from t --to /x",
        "failover x",
        "failback x",
        "set rename a b",
        "set copy a b",
        "set delete a",
        "set size a",
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!(ran.code, 2, "{words}: {}", ran.err);
        assert!(
            ran.err.starts_with("doppelfs: `doppelfs "),
            "{words}: {}",
            ran.err
        );
        assert!(ran.err.contains("is not built yet"), "{words}: {}", ran.err);
        assert!(ran.err.contains("README.md"), "{words}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{words}: {}", ran.err);
        assert_eq!(ran.out, "", "{words}");
    }
}

#[test]
fn mistyped_words_get_a_suggestion_and_2() {
    let scratch = Scratch::new();
    for (words, hint) in [
        ("mout /srv", "'mount'"),
        ("mount /srv --traget x", "'--target'"),
        ("mount /srv --ste x", "'--set'"),
        ("mount /srv -o traget=x", "did you mean \"target\"?"),
        ("status --jsno", "'--json'"),
        ("wait", "--caught-up"),
        ("stats --interval x", "--interval"),
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!(ran.code, 2, "{words}: {}", ran.err);
        assert!(ran.err.starts_with("doppelfs: "), "{words}: {}", ran.err);
        assert!(ran.err.contains(hint), "{words}: {}", ran.err);
    }
}

#[test]
fn help_version_and_completions_end_with_0() {
    let scratch = Scratch::new();
    for words in [
        "--help",
        "--version",
        "mount --help",
        "completions bash",
        "completions zsh",
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!(ran.code, 0, "{words}: {}", ran.err);
        assert!(ran.out.contains("doppelfs"), "{words}");
    }
    assert!(!run(scratch.path(), "mount --help").out.contains("ready-on"));
}

#[test]
fn status_of_nothing_is_0_and_of_an_unknown_set_is_2() {
    let scratch = Scratch::new();
    let ran = run(scratch.path(), "status");
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("no set is mounted"), "{}", ran.out);
    let ran = run(scratch.path(), "status --json");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"version": 1, "sets": [], "targets": []})
    );
    for words in [
        "status data",
        "stats data",
        "wait data --caught-up",
        "queue show data",
    ] {
        let ran = run(scratch.path(), words);
        assert_eq!(ran.code, 2, "{words}");
        assert!(
            ran.err.contains("set data is not running here"),
            "{words}: {}",
            ran.err
        );
    }
    let ran = run(scratch.path(), "stats");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("no set is mounted"), "{}", ran.err);
}

/// A target that only talks.
struct TalkingTarget;

impl Handler for TalkingTarget {
    fn handle(self: Arc<Self>, _request: Request, _items: Items) -> Answer {
        let status = TargetStatus {
            listen: "127.0.0.1:7420".to_owned(),
            ..TargetStatus::default()
        };
        Box::pin(async move { Ok(Reply::Target(Box::new(status))) })
    }
}

#[test]
fn status_reports_live_and_dead_workers_side_by_side() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker::named("alive", scratch.path());
    let _server = serve(&runtime, scratch.path(), "alive", talker);
    let service = Service::Target(7420);
    let handler = Arc::new(TalkingTarget);
    let _target = Server::start(scratch.path(), &service, handler, runtime.handle()).unwrap();
    drop(UnixListener::bind(scratch.path().join("dead.sock")).unwrap());
    let ran = run(scratch.path(), "status --json");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["sets"][0]["name"], "alive");
    assert_eq!(json["sets"][1]["name"], "dead");
    assert_eq!(json["sets"][1]["state"], "error");
    let error = json["sets"][1]["error"].as_str().unwrap();
    assert!(error.contains("its worker does not answer"), "{error}");
    assert_eq!(json["targets"][0]["listen"], "127.0.0.1:7420");
    let ran = run(scratch.path(), "status alive");
    assert!(ran.out.starts_with("set alive: no target: "), "{}", ran.out);
    assert!(!ran.out.contains('\x1b'));
}

#[test]
fn a_stopped_worker_does_not_stop_status() {
    let scratch = Scratch::new();
    let _stopped = UnixListener::bind(scratch.path().join("stuck.sock")).unwrap();
    let begin = Instant::now();
    let ran = run(scratch.path(), "status");
    assert!(begin.elapsed().as_secs() < 30);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("set stuck: error"), "{}", ran.out);
    assert!(ran.out.contains("stopped or hangs"), "{}", ran.out);
}

#[test]
fn one_set_needs_no_name_and_several_do() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let _a = serve(&runtime, scratch.path(), "a", Talker::default());
    assert_eq!(run(scratch.path(), "stats").code, 0);
    let _b = serve(&runtime, scratch.path(), "b", Talker::default());
    let ran = run(scratch.path(), "stats");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("name one: a, b"), "{}", ran.err);
    assert_eq!(run(scratch.path(), "stats b").code, 0);
}

#[test]
fn wait_is_0_when_caught_up_and_1_with_the_reason_when_not() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let caught_up = Talker::named("quick", scratch.path());
    let _quick = serve(&runtime, scratch.path(), "quick", caught_up);
    let mut behind = Talker::named("slow", scratch.path());
    behind.not_caught_up = Some("a mirror is under way".to_owned());
    let _slow = serve(&runtime, scratch.path(), "slow", behind);
    let ran = run(scratch.path(), "wait quick --caught-up");
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let ran = run(scratch.path(), "wait slow --caught-up --timeout 0.3");
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(ran.out, "not caught up: a mirror is under way\n");
    let ran = run(scratch.path(), "wait slow --caught-up --timeout -1");
    assert_eq!(ran.code, 2);
}

#[test]
fn wait_goes_on_with_the_next_worker() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let mut behind = Talker::named("data", scratch.path());
    behind.not_caught_up = Some("the target is away".to_owned());
    let waiting = Arc::clone(&behind.waiting);
    let first = serve(&runtime, scratch.path(), "data", behind);
    // What looks like the supervisor of the mount ends with its standard input.
    let mut supervisor = Command::new("sh")
        .args(["-c", "read -r _", "mount"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let told = serde_json::json!({
        "pid": supervisor.id(), "mountpoint": scratch.path(), "worker_pid": 0, "restarts": 0,
        "serves": true, "rests": false, "last_end": null, "last_stall_us": 0,
        "longest_stall_us": 0,
    });
    std::fs::write(scratch.path().join("data.supervisor"), told.to_string()).unwrap();
    let child = doppelfs(scratch.path())
        .args(["wait", "data", "--caught-up", "--timeout", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while waiting.load(Ordering::SeqCst) == 0 {
        assert!(start.elapsed().as_secs() < 30, "nobody asks");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(first);
    let next = Talker::named("data", scratch.path());
    let second = serve(&runtime, scratch.path(), "data", next);
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    drop(supervisor.stdin.take());
    supervisor.wait().unwrap();
    // Without a supervisor nobody follows.
    drop(second);
    let ran = run(scratch.path(), "wait data --caught-up --timeout 60");
    assert_eq!(ran.code, 2, "{}", ran.err);
}

#[test]
fn queue_tail_prints_one_line_for_each_operation() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let line = |seq, op: &str, to: Option<&str>| QueueLine {
        seq,
        op: op.to_owned(),
        path: "dir/a\\nb".to_owned(),
        to: to.map(str::to_owned),
        ..QueueLine::default()
    };
    let talker = Talker {
        lines: vec![line(1, "write", None), line(2, "rename", Some("c"))],
        ..Talker::default()
    };
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let ran = run(scratch.path(), "queue tail");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let expected = "1 1970-01-01T00:00:00.000Z write dir/a\\nb 0 0:0 0\n\
                    2 1970-01-01T00:00:00.000Z rename dir/a\\nb -> c 0 0:0 0\n";
    assert_eq!(ran.out, expected);
    let ran = run(scratch.path(), "queue tail --json -n 5");
    let seqs = ran
        .out
        .lines()
        .map(|l| serde_json::from_str::<QueueLine>(l).unwrap().seq);
    assert_eq!(seqs.collect::<Vec<u64>>(), [1, 2]);
}

#[test]
fn queue_tail_follow_shows_lines_at_once_and_ends_with_its_reader() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker {
        lines: vec![QueueLine::default(); 3],
        ..Talker::default()
    };
    let server = serve(&runtime, scratch.path(), "data", talker);
    let mut child = doppelfs(scratch.path())
        .args(["queue", "tail", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        assert!(lines.next().unwrap().unwrap().starts_with("0 1970"));
    }
    // The worker ends: so does who follows it, with an error.
    drop(server);
    let output = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(output.code, 2);
    assert!(
        output.err.contains("ended the conversation"),
        "{}",
        output.err
    );
}

#[test]
fn queue_show_lists_segments_and_cursors() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let mut talker = Talker::default();
    talker.queue.set = "data".to_owned();
    talker.queue.segments = vec![SegmentLine {
        first_seq: 1,
        last_seq: 9,
        bytes: 4096,
        sealed: true,
    }];
    talker.queue.cursors = vec![CursorLine {
        name: "conn-1".to_owned(),
        seq: 7,
        behind_ops: 2,
    }];
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let ran = run(scratch.path(), "queue show");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out
            .contains("00000000000000000001  1      9     4.0 KiB  sealed"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("conn-1  7     2"), "{}", ran.out);
    let json: serde_json::Value =
        serde_json::from_str(&run(scratch.path(), "queue show --json").out).unwrap();
    assert_eq!(json["cursors"][0]["behind_ops"], 2);
}

#[test]
fn stats_follow_repeats_its_header_every_20_lines() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let ran = run(scratch.path(), "stats --follow --interval 0 --count 21");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 23);
    let headers = [0, 21].map(|at| lines[at].starts_with("time "));
    assert_eq!(headers, [true, true]);
    // The talker counts 100 operations a second.
    assert!(lines[1].contains("       100 "), "{}", lines[1]);
    let ran = run(scratch.path(), "stats --json");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["metrics"][0]["name"], "doppelfs_captured_ops_total");
}

#[test]
fn mirror_start_tells_the_number() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let ran = run(scratch.path(), "mirror start data --full");
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "mirror 7 of set data has begun\n")
    );
}

#[test]
fn umount_of_what_is_not_ours_touches_nothing() {
    let scratch = Scratch::new();
    let mut command = doppelfs(scratch.path());
    let ran = Ran::of(&command.arg("umount").arg(scratch.path()).output().unwrap());
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("nothing is mounted on"), "{}", ran.err);
    let ran = run(scratch.path(), "umount /proc");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("is no doppelfs; use umount(8)"),
        "{}",
        ran.err
    );
}

#[test]
fn target_serve_checks_its_directories() {
    let scratch = Scratch::new();
    let serve = |words: &str| run(scratch.path(), &format!("target serve {words}"));
    let base = scratch.path().display();
    let ran = serve("--insecure-loopback --root /nonexistent-root");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("create it first"), "{}", ran.err);
    let ran = serve(&format!(
        "--insecure-loopback --root {base} --state {base}/state"
    ));
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("among the replicas"), "{}", ran.err);
    assert!(!scratch.path().join("state").exists());
}

#[test]
fn mount_refuses_before_it_changes_anything() {
    let scratch = Scratch::new();
    let base = scratch.path().display();
    for (words, expected) in [
        ("mount /", "cannot be protected as a whole"),
        ("mount /nonexistent-directory", "no such directory"),
        ("mount /etc/passwd", "is not a directory"),
        ("mount /etc --set a/b", "not a set name"),
        (
            "mount /etc --target 10.1.2.3:7420 --insecure-loopback",
            "loopback addresses only",
        ),
        ("mount /etc --order lax", "not strict or relaxed"),
    ] {
        let ran = run(scratch.path(), &format!("{words} --state {base}/state"));
        assert_eq!(ran.code, 2, "{words}");
        assert!(ran.err.contains(expected), "{words}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{words}: {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// Runs the program in a mount namespace of its own, after `prepare`.
fn run_apart(scratch: &Scratch, prepare: &str, words: &str) -> Option<Ran> {
    let program = env!("CARGO_BIN_EXE_doppelfs");
    let script = format!("{prepare} || exit 77; exec {program} {words}");
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .env("DOPPELFS_RUN_DIR", scratch.path().join("run"))
        .output()
        .ok()?;
    let ran = Ran::of(&output);
    if ran.code == 77 || ran.err.contains("unshare") {
        eprintln!("SKIPPED: no mount namespace here: {}", ran.err);
        return None;
    }
    Some(ran)
}

#[test]
fn without_dev_fuse_nothing_is_half_done() {
    let scratch = Scratch::new();
    let dir = scratch.dir("data");
    let visible = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), visible).unwrap();
    let words = format!(
        "mount {} --state {}/state",
        dir.display(),
        scratch.path().display()
    );
    let Some(ran) = run_apart(&scratch, "mount -t tmpfs none /dev", &words) else {
        return;
    };
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("there is no /dev/fuse"), "{}", ran.err);
    assert!(!scratch.path().join("state").exists());
}

#[test]
fn without_root_nothing_is_half_done() {
    let scratch = Scratch::new();
    let dir = scratch.dir("data");
    let visible = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), visible).unwrap();
    let words = format!(
        "mount {} --state {}/state",
        dir.display(),
        scratch.path().display()
    );
    let program = env!("CARGO_BIN_EXE_doppelfs");
    // The program may lie where only root may look: a descriptor of it will do.
    let script = format!(
        "exec 3< {program}; exec setpriv --reuid 65534 --regid 65534 --clear-groups \
         /proc/self/fd/3 {words}"
    );
    let output = doppelfs_sh(&script);
    if output.err.contains("setpriv") {
        eprintln!("SKIPPED: cannot be another user here: {}", output.err);
        return;
    }
    assert_eq!(output.code, 2);
    assert!(output.err.contains("mounting needs root"), "{}", output.err);
    assert!(!scratch.path().join("state").exists());
}

fn doppelfs_sh(script: &str) -> Ran {
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .output();
    Ran::of(&output.unwrap())
}
