//! Goal: whatever has stopped, died or filled up, who looks is answered within a stated time and told why.
//! Method: workers that are stopped and killed, a target that is gone, a disk of the state that is full; each
//! command that looks is run with a deadline.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Finished, Fixture, Image, Target, doppelfs, is_ready, program, until};

/// A worker may be silent so long, and a busy machine needs some time for itself. `top --once` asks twice.
const LIMIT: Duration = Duration::from_secs(12);

fn pid(set: u64) -> Pid {
    Pid::from_raw(i32::try_from(set).expect("a process id"))
}

/// Stops a process, and lets it go on when this is dropped: nothing of the test could end otherwise.
struct Stopped(Pid);

impl Stopped {
    fn new(process: u64) -> Stopped {
        kill(pid(process), Signal::SIGSTOP).expect("stop a process");
        // Each of its threads takes notice for itself.
        let tasks = format!("/proc/{process}/task");
        until("all of its threads to stand", || {
            let tasks = std::fs::read_dir(&tasks).expect("its threads").flatten();
            let mut states = tasks.map(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with('T'))
            });
            states.all(|stands| stands)
        });
        Stopped(pid(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Runs it; it has to end in time.
#[track_caller]
fn looked(fixture: &Fixture, words: &[&str]) -> Finished {
    let ran = fixture.doppelfs().args(words).deadline(LIMIT * 3).run();
    assert!(ran.took < LIMIT, "{} took {:?}", ran.shown, ran.took);
    eprintln!("{:?} {}: {:?}", ran.took, words.join(" "), ran.code);
    ran
}

/// What all commands that look say, by command.
#[track_caller]
fn look_at_all(fixture: &Fixture) -> [Finished; 4] {
    [
        &["status"][..],
        &["stats", "data"],
        &["top", "--once", "--interval", "0.2"],
        &["queue", "show", "data"],
    ]
    .map(|words| looked(fixture, words))
}

#[test]
fn a_stopped_worker_is_told_of_in_time_by_every_command() {
    let test = "a_stopped_worker_is_told_of_in_time_by_every_command";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    let worker = fixture.set().worker_pid();
    let stopped = Stopped::new(worker);
    let [status, stats, top, queue] = look_at_all(&fixture);
    status.expect_code(0);
    let status = looked(&fixture, &["status", "--check"]).expect_code(1);
    for words in [
        "set data: error",
        &format!("`kill -CONT {worker}`"),
        "doppelfs restart data",
    ] {
        assert!(status.stdout.contains(words), "{words}: {}", status.stdout);
    }
    stats.expect_code(2).expect_words(&["does not answer"]);
    queue.expect_code(2).expect_words(&["does not answer"]);
    let top = top.expect_code(0);
    assert!(top.stdout.contains("no answer"), "{}", top.stdout);
    assert!(top.stdout.contains("kill -CONT"), "{}", top.stdout);
    drop(stopped);
    // The target has not heard of it meanwhile, and may have to be met again.
    fixture.caught_up();
    looked(&fixture, &["status", "--check"]).expect_code(0);
    fixture.finish();
}

#[test]
fn two_stopped_workers_cost_one_patience() {
    let test = "two_stopped_workers_cost_one_patience";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    let second = fixture.outside("second");
    std::fs::create_dir(&second).expect("mkdir");
    fixture
        .doppelfs()
        .arg("mount")
        .arg(&second)
        .args(["--set", "second", "--state"])
        .arg(fixture.outside("second-state"))
        .succeed();
    let workers = |status: &Value| -> Vec<u64> {
        let sets = status["sets"].as_array().cloned().unwrap_or_default();
        sets.iter()
            .filter_map(|set| set["worker_pid"].as_u64())
            .collect()
    };
    let pids = workers(&fixture.status());
    assert_eq!(pids.len(), 2);
    let stopped: Vec<Stopped> = pids.into_iter().map(Stopped::new).collect();
    let ran = looked(&fixture, &["status"]).expect_code(0);
    assert!(
        ran.took < Duration::from_secs(9),
        "both were asked at once: {:?}",
        ran.took
    );
    assert_eq!(
        ran.stdout.matches("kill -CONT").count(),
        2,
        "{}",
        ran.stdout
    );
    drop(stopped);
    let umounted = fixture.doppelfs().arg("umount").arg(&second).run();
    umounted.expect_code(0);
    fixture.finish();
}

#[test]
fn a_dead_supervisor_and_a_dead_worker_are_told_of_in_time() {
    let test = "a_dead_supervisor_and_a_dead_worker_are_told_of_in_time";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    let set = fixture.set();
    let worker = set.worker_pid();
    let supervisor = set.pids().into_iter().find(|&other| other != worker);
    let supervisor = supervisor.expect("a supervisor");
    kill(pid(supervisor), Signal::SIGKILL).expect("kill the supervisor");
    until("status to tell of the supervisor", || {
        let status = looked(&fixture, &["status"]).expect_code(0);
        status.stdout.contains("has died")
    });
    kill(pid(worker), Signal::SIGKILL).expect("kill the worker");
    until("the worker to be gone", || {
        let status = looked(&fixture, &["status"]).expect_code(0);
        status.stdout.contains("set data: error")
    });
    let [status, stats, top, queue] = look_at_all(&fixture);
    assert!(
        status.stdout.contains("set data: error"),
        "{}",
        status.stdout
    );
    stats.expect_code(2).expect_words(&["is not running"]);
    queue.expect_code(2).expect_words(&["is not running"]);
    assert!(top.stdout.contains("no answer"), "{}", top.stdout);
    looked(&fixture, &["status", "--check"]).expect_code(1);
    // The dead mount goes with a new one.
    fixture.mount();
    fixture.finish();
}

#[test]
fn a_dead_target_is_told_of_on_both_sides() {
    let test = "a_dead_target_is_told_of_on_both_sides";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::started(test);
    fixture.target.kill();
    std::fs::write(fixture.path("waits"), b"waits").expect("write");
    until("the source to notice", || {
        let status = looked(&fixture, &["status"]).expect_code(0);
        status.stdout.contains("set data: error: ")
    });
    let [status, stats, top, queue] = look_at_all(&fixture);
    for words in [
        "transmit error",
        "it is tried again by itself",
        "operations wait",
        "nobody receives: start it again (`doppelfs target serve`)",
    ] {
        let text = status
            .stdout
            .replace("1 operation wait", "1 operations wait");
        assert!(text.contains(words), "{words}: {text}");
    }
    stats.expect_code(0);
    queue.expect_code(0);
    assert!(top.stdout.contains("error"), "{}", top.stdout);
    looked(&fixture, &["status", "--check"]).expect_code(1);
    looked(&fixture, &["stats", "--target"]).expect_code(2);
    fixture.target.start();
    fixture.finish();
}

#[test]
fn a_full_disk_of_the_state_is_told_of_and_looking_needs_none() {
    let test = "a_full_disk_of_the_state_is_told_of_and_looking_needs_none";
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, "ext4", 200) else {
        return;
    };
    let mut fixture = Fixture::with_state_on(test, image.path());
    fixture.start();
    let ballast = image.path().join("ballast");
    // The reserve is root's as well: only what is allocated in whole is full for the worker.
    program("sh")
        .args(["-c", "dd if=/dev/zero of=\"$0\" bs=64k 2>/dev/null; sync"])
        .arg(&ballast)
        .run();
    std::fs::write(fixture.path("written"), vec![7u8; 8 << 20]).expect("write");
    until("status to tell of the disk", || {
        let status = looked(&fixture, &["status"]).expect_code(0);
        status.stdout.contains("warning")
    });
    for ran in look_at_all(&fixture) {
        ran.expect_code(0);
    }
    std::fs::remove_file(&ballast).expect("make room");
    fixture.finish();
}

#[test]
fn numbers_of_both_sides_have_their_short_form() {
    let test = "numbers_of_both_sides_have_their_short_form";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    for number in 0..20 {
        let path = fixture.path(format!("file-{number}"));
        std::fs::write(&path, b"content").expect("write");
        std::fs::rename(&path, fixture.path(format!("moved-{number}"))).expect("rename");
    }
    std::fs::remove_file(fixture.path("moved-7")).expect("unlink");
    fixture.caught_up();
    let sent = looked(&fixture, &["stats", "data", "--brief"]).expect_code(0);
    assert!(sent.stdout.starts_with("Que/sent add="), "{}", sent.stdout);
    assert!(sent.stdout.contains("del=1/1 ren=20/20"), "{}", sent.stdout);
    let received = looked(&fixture, &["stats", "--target", "--brief"]).expect_code(0);
    assert!(
        received.stdout.starts_with("Received add="),
        "{}",
        received.stdout
    );
    assert!(
        received.stdout.contains("del=1 rename=20 failed=0"),
        "{}",
        received.stdout
    );
    let words = [
        "stats",
        "--target",
        "--follow",
        "--count",
        "2",
        "--interval",
        "0.1",
    ];
    let lines = looked(&fixture, &words).expect_code(0);
    assert_eq!(lines.stdout.lines().count(), 3, "{}", lines.stdout);
    let words = ["stats", "--target", "--json"];
    let json: Value = serde_json::from_str(&looked(&fixture, &words).stdout).expect("JSON");
    assert_eq!(
        json["snapshot"]["streams"][0]["counts"]["received"]["rename"],
        20
    );
    fixture.finish();
}

/// Lines of `queue tail` with these words.
fn tailed(fixture: &Fixture, words: &[&str]) -> Vec<String> {
    let all = [&["queue", "tail", "data"][..], words].concat();
    let ran = looked(fixture, &all).expect_code(0);
    ran.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn the_tail_of_the_queue_shows_what_was_asked_for() {
    let test = "the_tail_of_the_queue_shows_what_was_asked_for";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::started(test);
    // What waits stays in the queue.
    fixture.target.stop();
    std::fs::create_dir_all(fixture.path("mail/ann")).expect("mkdir");
    std::fs::create_dir_all(fixture.path("mailbox")).expect("mkdir");
    std::fs::set_permissions(
        fixture.path("mail/ann"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("chmod");
    std::fs::write(fixture.path("mail/ann/first"), b"x").expect("write");
    let user = program("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sh",
            "-c",
        ])
        .arg("echo $$; echo y > users")
        .current_dir(fixture.path("mail/ann"))
        .succeed();
    // Many others after them: what is asked for is not near the end.
    for number in 0..6000 {
        let path = fixture.path(format!("mailbox/{number}"));
        std::fs::write(path, b"").expect("write");
    }
    std::fs::rename(fixture.path("mailbox/1"), fixture.path("mail/ann/moved")).expect("rename");
    let all = tailed(&fixture, &["--path", "mail/ann", "-n", "100"]);
    assert!(all.iter().all(|line| line.contains(" mail/ann")), "{all:?}");
    let ops = |lines: &[String]| -> Vec<String> {
        let op = |line: &String| line.split(' ').nth(2).unwrap_or_default().to_owned();
        lines.iter().map(op).collect()
    };
    let writes = tailed(
        &fixture,
        &["--path", "mail/**", "--op", "write,rename", "-n", "100"],
    );
    assert_eq!(ops(&writes), ["write", "write", "rename"], "{writes:?}");
    assert!(
        writes[2].contains("mailbox/1 -> mail/ann/moved"),
        "{writes:?}"
    );
    let last = tailed(
        &fixture,
        &["--path", "mail/**", "--op", "write,rename", "-n", "2"],
    );
    assert_eq!(last, writes[1..], "the last ones that match");
    for filter in [
        ["--user", "65534"],
        ["--user", "nobody"],
        ["--pid", user.stdout.trim()],
    ] {
        let lines = tailed(&fixture, &[&filter[..], &["--op", "write"]].concat());
        assert_eq!(lines, writes[1..2], "{filter:?}");
    }
    assert!(
        tailed(&fixture, &["--path", "mail/*"])
            .iter()
            .all(|l| l.contains(" mail/ann "))
    );
    assert_eq!(tailed(&fixture, &["-n", "3"]).len(), 3);
    for (words, said) in [
        (["--op", "wirte"], "there is no such operation"),
        (["--path", "a[b"], "--path a[b"),
        (["--user", "nobody-of-this-name"], "there is no such user"),
    ] {
        let all = [&["queue", "tail", "data"][..], &words].concat();
        looked(&fixture, &all).expect_code(2).expect_words(&[said]);
    }
    fixture.target.start();
    fixture.finish();
}

#[test]
fn a_mirror_that_is_waited_for_ends_or_is_given_up() {
    let test = "a_mirror_that_is_waited_for_ends_or_is_given_up";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::started(test);
    for number in 0..200 {
        std::fs::write(fixture.path(format!("{number}")), vec![1; 9999]).expect("write");
    }
    fixture.caught_up();
    let start = |fixture: &Fixture, timeout: &str| {
        let words = [
            "mirror",
            "start",
            "data",
            "--full",
            "--wait",
            "--timeout",
            timeout,
        ];
        fixture.doppelfs().args(words).run()
    };
    let ran = start(&fixture, "100").expect_code(0);
    assert!(ran.stdout.contains("has begun"), "{}", ran.stdout);
    assert!(ran.stdout.contains("all targets"), "{}", ran.stdout);
    let connection = fixture.connection();
    assert_eq!(
        (connection.data_state(), connection.mirror_state()),
        ("ok".into(), "idle".into())
    );
    assert!(connection.mirror_bytes() > 200 * 9999, "{connection:?}");
    fixture.target.stop();
    let ran = start(&fixture, "1").expect_code(1);
    assert!(ran.stdout.contains("not caught up"), "{}", ran.stdout);
    fixture.target.start();
    fixture.finish();
}

#[test]
fn a_target_alone_is_asked_by_its_port() {
    let test = "a_target_alone_is_asked_by_its_port";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    let other_dir = fixture.outside("other");
    std::fs::create_dir(&other_dir).expect("mkdir");
    let mut other = Target::new(fixture.run_dir(), &other_dir);
    other.start();
    looked(&fixture, &["stats", "--target"])
        .expect_code(2)
        .expect_words(&["name one by its port"]);
    let port = other.port().to_string();
    let ran = doppelfs(fixture.run_dir())
        .args(["stats", "--target", &port, "--brief"])
        .run();
    assert_eq!(ran.stdout, "Received add=0 del=0 rename=0 failed=0\n");
    other.stop();
    fixture.finish();
}
