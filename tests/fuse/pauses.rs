//! Goal: a paused replica is one moment of the source and stays it, whatever is written, killed or started
//! again, and goes on with nothing but what came meanwhile; the moment is one for several sets. Method: writers
//! that never stop, replicas that are read between kills.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::support::{Fixture, Program, Scratch, Target, doppelfs, is_ready, kill_worker, until};

/// Appends numbered lines to several files in turn, one line each, until it is dropped.
struct Writer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    fn start(paths: Vec<PathBuf>) -> Writer {
        let ends = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let open = |path: &PathBuf| {
                let mut log = std::fs::File::options();
                log.create(true).append(true).open(path).expect("open")
            };
            let mut logs: Vec<std::fs::File> = paths.iter().map(open).collect();
            let mut number = 0;
            while !over.load(Ordering::Acquire) {
                for log in &mut logs {
                    log.write_all(format!("{number:09}\n").as_bytes())
                        .expect("append");
                }
                number += 1;
            }
            number
        });
        Writer {
            ends,
            thread: Some(thread),
        }
    }

    /// How many lines it has written to each.
    fn end(mut self) -> u64 {
        self.ends.store(true, Ordering::Release);
        let thread = self.thread.take().expect("once");
        thread.join().expect("the writer")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
    }
}

/// How many lines there are, each in its place and whole.
#[track_caller]
fn lines(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).expect("read");
    let mut count = 0;
    for line in text.lines() {
        assert_eq!(line.parse(), Ok(count), "{}", path.display());
        count += 1;
    }
    assert!(text.is_empty() || text.ends_with('\n'), "half a line");
    count
}

/// Waits until the source has captured so many operations more.
fn more_is_captured(fixture: &Fixture, count: u64) {
    let since = fixture.set().captured_seq();
    until("more to be captured", || {
        fixture
            .find_captured_seq()
            .is_some_and(|seq| seq > since + count)
    });
}

#[test]
fn a_paused_replica_stays_at_its_moment_through_kills_and_restarts() {
    if !is_ready("a_paused_replica_stays_at_its_moment_through_kills_and_restarts") {
        return;
    }
    let mut fixture = Fixture::started("pause");
    let writer = Writer::start(vec![fixture.path("log")]);
    more_is_captured(&fixture, 1000);
    let paused = fixture
        .doppelfs()
        .args(["pause", "data", "--mark", "backup-1"])
        .succeed();
    assert!(
        paused.stdout.contains("paused at mark backup-1"),
        "{paused:?}"
    );
    let count = lines(&fixture.replica("log"));
    assert!(count > 0, "nothing was replicated");
    let stays = |fixture: &Fixture, when: &str| {
        more_is_captured(fixture, 1000);
        assert_eq!(lines(&fixture.replica("log")), count, "{when}");
        let set = fixture.set();
        assert_eq!(
            set.text("/connections/0/pause/mark/name"),
            "backup-1",
            "{when}"
        );
    };
    stays(&fixture, "at first");
    assert_eq!(fixture.set().state(), "paused");
    assert_eq!(fixture.set().text("/connections/0/transmit"), "paused");
    assert_eq!(fixture.set().text("/mark/name"), "backup-1");
    let stream = fixture.find_stream().expect("a stream");
    assert_eq!(stream.text("/mark/name"), "backup-1");
    let again = fixture
        .doppelfs()
        .args(["pause", "data"])
        .run()
        .expect_code(2);
    again.expect_words(&["paused already", "backup-1"]);
    // The same once more, as from a second cron: it is not taken for a pause that came to nothing.
    let same = fixture
        .doppelfs()
        .args(["pause", "data", "--mark", "backup-1"]);
    same.run().expect_code(2).expect_words(&["paused already"]);
    stays(&fixture, "after the same command once more");
    let mirror = fixture
        .doppelfs()
        .args(["mirror", "start", "data", "--full"])
        .run();
    mirror.expect_code(2).expect_words(&["paused", "resume"]);
    let wait = fixture
        .doppelfs()
        .args(["wait", "data", "--caught-up", "--timeout", "5"])
        .run();
    let wait = wait.expect_code(1);
    let said = &wait.stdout;
    assert!(said.contains("doppelfs resume data"), "{said}");

    fixture.target.kill();
    fixture.target.start();
    until("the connection", || fixture.connection().is_connected());
    stays(&fixture, "after a kill of the target");
    fixture.doppelfs().args(["restart", "data"]).succeed();
    until("the connection", || fixture.connection().is_connected());
    stays(&fixture, "after another worker took over");
    kill_worker(fixture.set().worker_pid());
    until("the next worker", || {
        fixture
            .find_set()
            .is_some_and(|set| set.state() == "paused")
    });
    stays(&fixture, "after a kill of the worker");
    let written = writer.end();
    fixture.umount();
    fixture.mount();
    until("the connection", || fixture.connection().is_connected());
    std::fs::write(fixture.path("more"), "more").expect("write");
    more_is_captured_of(&fixture, "more");
    assert_eq!(
        lines(&fixture.replica("log")),
        count,
        "after umount and mount"
    );
    assert!(!fixture.replica("more").exists(), "after umount and mount");

    fixture.doppelfs().args(["resume", "data"]).succeed();
    fixture.caught_up();
    assert_eq!(lines(&fixture.replica("log")), written);
    fixture.assert_nothing_mirrored();
    fixture.finish();
}

/// The queue holds an operation on this file, which a paused connection does not send.
fn more_is_captured_of(fixture: &Fixture, name: &str) {
    until("the operation to be in the queue", || {
        let tail = fixture
            .doppelfs()
            .args(["queue", "tail", "data", "-n", "3"])
            .succeed();
        tail.stdout.contains(name)
    });
}

#[test]
fn a_pause_waits_for_a_replica_that_is_whole() {
    if !is_ready("a_pause_waits_for_a_replica_that_is_whole") {
        return;
    }
    let fixture = Fixture::started("pause-whole");
    std::fs::write(fixture.path("file"), "text").expect("write");
    fixture.caught_up();
    fixture.proxy.cut();
    std::fs::write(fixture.path("file"), "other").expect("write");
    let pause = || {
        fixture
            .doppelfs()
            .args(["pause", "data", "--mark", "m", "--timeout", "1"])
    };
    // Whole as far as is known, but it does not get there.
    let pending = pause().run().expect_code(1);
    assert!(pending.stdout.contains("pause pending"), "{pending:?}");
    assert!(
        pending.stdout.contains("cannot be reached") || pending.stdout.contains("connection to"),
        "{pending:?}"
    );
    fixture.proxy.mend();
    until("the pause to be reached", || {
        fixture.set().0.pointer("/connections/0/pause/reached") == Some(&true.into())
    });
    assert_eq!(
        std::fs::read(fixture.replica("file")).expect("read"),
        b"other"
    );
    fixture.doppelfs().args(["resume", "data"]).succeed();
    // Nor in the middle of a mirror of which the target does not know yet.
    fixture.caught_up();
    fixture.proxy.cut();
    fixture
        .doppelfs()
        .args(["mirror", "start", "data", "--full"])
        .succeed();
    let not = pause().run().expect_code(2);
    not.expect_words(&["at a point that is whole", "mirror"]);
    assert_eq!(
        fixture.set().0.pointer("/connections/0/pause"),
        Some(&serde_json::Value::Null)
    );
    fixture.proxy.mend();
    fixture.caught_up();
    // In need of a mirror, it is not begun at all.
    fixture.proxy.cut();
    fixture
        .doppelfs()
        .args(["disconnect", "data", "--forget"])
        .succeed();
    let not = pause().run().expect_code(1);
    assert!(
        not.stdout.contains("not paused") && not.stdout.contains("needs a mirror"),
        "{not:?}"
    );
    assert_eq!(
        fixture.set().0.pointer("/connections/0/pause"),
        Some(&serde_json::Value::Null)
    );
    fixture.proxy.mend();
    fixture.doppelfs().args(["connect", "data"]).succeed();
    fixture.caught_up();
    fixture.finish();
}

/// Two sets with one target, and a writer that writes to the one, then to the other.
struct Two {
    dirs: [PathBuf; 2],
    target: Target,
    run_dir: PathBuf,
    _scratch: Scratch,
}

impl Two {
    fn start(label: &str) -> Two {
        let scratch = Scratch::new(label);
        let run_dir = scratch.path().join("run");
        std::fs::create_dir(&run_dir).expect("make a directory");
        let mut target = Target::new(&run_dir, scratch.path());
        target.start();
        let dirs = ["one", "two"].map(|name| scratch.path().join(name));
        let two = Two {
            dirs,
            target,
            run_dir,
            _scratch: scratch,
        };
        for dir in &two.dirs {
            std::fs::create_dir(dir).expect("make a directory");
            let name = dir
                .file_name()
                .expect("a name")
                .to_str()
                .expect("text")
                .to_owned();
            let target = format!("127.0.0.1:{}:{name}", two.target.port());
            let mount = two.doppelfs().arg("mount").arg(dir);
            let state = dir.with_extension("state");
            let mount = mount.arg("--state").arg(state);
            mount
                .args(["--insecure-loopback", "--target", &target])
                .succeed();
            two.caught_up(&name);
        }
        two
    }

    fn doppelfs(&self) -> Program {
        doppelfs(&self.run_dir)
    }

    fn caught_up(&self, set: &str) {
        self.doppelfs()
            .args(["wait", set, "--caught-up", "--timeout", "60"])
            .succeed();
    }

    fn counts(&self) -> [u64; 2] {
        ["one", "two"].map(|name| lines(&self.target.root().join(name).join("log")))
    }

    fn end(mut self) {
        for dir in &self.dirs {
            self.doppelfs().arg("umount").arg(dir).succeed();
        }
        self.target.stop();
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // Only a test that failed has left it.
            let _ = doppelfs::sys::umount(dir, true);
        }
    }
}

#[test]
fn all_sets_are_paused_at_one_point() {
    if !is_ready("all_sets_are_paused_at_one_point") {
        return;
    }
    let two = Two::start("pause-all");
    let writer = Writer::start(two.dirs.iter().map(|dir| dir.join("log")).collect());
    let mut seen = Vec::new();
    for _ in 0..10 {
        two.doppelfs().args(["pause", "--all"]).succeed();
        // The writer writes to the one first, and then to the two.
        let [one, two_] = two.counts();
        assert!(
            one == two_ || one == two_ + 1,
            "{one} lines and {two_}: no common moment"
        );
        assert!(
            seen.last().is_none_or(|last| *last < one),
            "it did not go on"
        );
        seen.push(one);
        two.doppelfs().args(["resume", "--all"]).succeed();
    }
    println!("common moments at lines {seen:?}");
    two.doppelfs()
        .args(["mark", "--all", "end-of-day"])
        .succeed();
    let written = writer.end();
    ["one", "two"]
        .into_iter()
        .for_each(|set| two.caught_up(set));
    assert_eq!(two.counts(), [written, written]);
    let refused = two.doppelfs().args(["mark", "one", "no/mark"]).run();
    refused
        .expect_code(2)
        .expect_words(&["not a name for a mark"]);
    two.end();
}

#[test]
fn a_paused_target_keeps_what_comes_and_applies_nothing() {
    if !is_ready("a_paused_target_keeps_what_comes_and_applies_nothing") {
        return;
    }
    let mut fixture = Fixture::started("target-pause");
    let writer = Writer::start(vec![fixture.path("log")]);
    more_is_captured(&fixture, 1000);
    let paused = fixture.doppelfs().args(["target", "pause"]).succeed();
    assert!(paused.stdout.contains("mirror: paused"), "{paused:?}");
    let count = lines(&fixture.replica("log"));
    let stays = |fixture: &Fixture, when: &str| {
        let received = fixture
            .find_stream()
            .expect("a stream")
            .number("/received_seq");
        until("more to be received", || {
            let stream = fixture.find_stream();
            stream.is_some_and(|stream| stream.number("/received_seq") > received + 1000)
        });
        assert_eq!(lines(&fixture.replica("log")), count, "{when}");
        let stream = fixture.find_stream().expect("a stream");
        assert_eq!(stream.text("/target_state"), "paused", "{when}");
    };
    stays(&fixture, "at first");
    assert_eq!(fixture.connection().target_state(), "paused");
    let told = fixture.doppelfs().arg("status").succeed().stdout;
    assert!(
        told.contains("paused: what comes is kept and not applied"),
        "{told}"
    );
    fixture.target.kill();
    fixture.target.start();
    stays(&fixture, "after a kill");
    // Whatever a mirror would change waits as well.
    fixture
        .doppelfs()
        .args(["mirror", "start", "data", "--full"])
        .succeed();
    stays(&fixture, "in a mirror");
    fixture
        .doppelfs()
        .args(["target", "pause", "nowhere"])
        .run()
        .expect_code(2);
    let written = writer.end();
    fixture
        .doppelfs()
        .args(["target", "resume", "mirror"])
        .succeed();
    fixture.caught_up();
    assert_eq!(lines(&fixture.replica("log")), written);
    // In a mirror, only at once: otherwise it waits for its end.
    fixture.finish();
}

#[test]
fn a_disconnected_set_keeps_its_queue_and_a_forgotten_one_does_not() {
    if !is_ready("a_disconnected_set_keeps_its_queue_and_a_forgotten_one_does_not") {
        return;
    }
    let fixture = Fixture::started("disconnect");
    let write = |name: &str| std::fs::write(fixture.path(name), name).expect("write");
    write("a");
    fixture.caught_up();
    fixture.doppelfs().args(["disconnect", "data"]).succeed();
    write("b");
    assert!(fixture.set().queue_ops() > 0, "nothing is kept");
    assert_eq!(fixture.set().text("/connections/0/transmit"), "stopped");
    fixture.doppelfs().args(["restart", "data"]).succeed();
    assert!(!fixture.replica("b").exists(), "it was sent");
    let wait = fixture
        .doppelfs()
        .args(["wait", "data", "--caught-up", "--timeout", "1"])
        .run();
    assert!(wait.expect_code(1).stdout.contains("doppelfs connect data"));
    fixture.doppelfs().args(["connect", "data"]).succeed();
    fixture.caught_up();
    fixture.assert_nothing_mirrored();
    fixture.assert_equal();

    for (stop, start) in [
        (["disconnect", "data", "--forget"], ["connect", "data", ""]),
        (
            ["replication", "stop", "data"],
            ["replication", "start", "data"],
        ),
    ] {
        fixture.doppelfs().args(stop).succeed();
        write("c");
        let set = fixture.set();
        assert_eq!(set.queue_ops(), 0, "{stop:?}");
        assert_eq!(set.connection().data_state(), "mirror-required", "{stop:?}");
        if stop[0] == "replication" {
            assert_eq!(set.text("/connections/0/replication"), "stopped");
        }
        fixture.doppelfs().args(["restart", "data"]).succeed();
        write("d");
        assert_eq!(fixture.set().queue_ops(), 0, "{stop:?}");
        std::fs::remove_file(fixture.path("a")).expect("remove");
        fixture
            .doppelfs()
            .args(start.iter().filter(|word| !word.is_empty()))
            .succeed();
        fixture.caught_up();
        fixture.assert_equal();
        write("a");
        fixture.caught_up();
    }
    fixture.finish();
}
