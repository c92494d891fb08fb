//! Goal: bad input on the source is refused with one clear message that says what to do, exit code
//! 2, and nothing half done. Method: each bad thing once; keywords of the message.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{
    Finished, Fixture, Program, Scratch, doppelfs, has_programs, is_ready, program, random_bytes,
    until,
};

/// A directory to protect, and a command that would do so but for what is wrong with it.
struct Bad {
    scratch: Scratch,
}

impl Bad {
    fn new(label: &str) -> Bad {
        let scratch = Scratch::new(label);
        for dir in ["run", "data"] {
            std::fs::create_dir(scratch.path().join(dir)).expect("mkdir");
        }
        std::fs::write(scratch.path().join("data/file"), b"content").expect("write");
        Bad { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn mount(&self, dir: &Path, state: &Path) -> Program {
        doppelfs(&self.path("run"))
            .arg("mount")
            .arg(dir)
            .arg("--state")
            .arg(state)
    }

    fn usual_mount(&self) -> Program {
        self.mount(&self.path("data"), &self.path("state"))
    }

    /// Runs it: exit code 2, these words, one message, nothing left behind.
    #[track_caller]
    fn assert_refused(&self, command: Program, words: &[&str]) -> Finished {
        let said = command.run().expect_code(2).expect_words(words);
        assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
        let mounts = doppelfs::sys::read_mounts().expect("read the mount table");
        let ours = mounts
            .iter()
            .find(|m| m.mountpoint.starts_with(self.scratch.path()));
        assert!(ours.is_none(), "left mounted: {ours:?}");
        let sockets = std::fs::read_dir(self.path("run")).expect("read").flatten();
        let sockets: Vec<_> = sockets
            .filter(|e| e.path().extension().is_some_and(|x| x == "sock"))
            .collect();
        assert!(sockets.is_empty(), "left behind: {sockets:?}");
        assert_eq!(
            std::fs::read(self.path("data/file")).expect("read"),
            b"content"
        );
        said
    }
}

#[test]
fn an_unknown_flag_is_refused_with_the_nearest_name() {
    let bad = Bad::new("flag");
    bad.assert_refused(
        bad.usual_mount().args(["--ordr", "strict"]),
        &["--ordr", "--order"],
    );
}

#[test]
fn an_unknown_mount_option_is_refused_with_the_nearest_name() {
    let bad = Bad::new("option");
    let command = bad.usual_mount().args(["-o", "queue-disc-max=1G"]);
    bad.assert_refused(command, &["queue-disc-max", "queue-disk-max"]);
}

#[test]
fn an_unknown_command_is_refused_with_the_nearest_name() {
    let bad = Bad::new("command");
    bad.assert_refused(doppelfs(&bad.path("run")).arg("mout"), &["mout", "mount"]);
}

#[test]
fn bad_values_are_refused_with_their_name() {
    let bad = Bad::new("values");
    let values = [
        (["-o", "queue-disk-max=lots"], "queue-disk-max"),
        (["--order", "sometimes"], "order"),
        (["--set", "no/slash"], "set"),
        (["--target", "no-port"], "target"),
    ];
    for (flags, word) in values {
        bad.assert_refused(
            bad.usual_mount().args(flags),
            &[word, flags[1].rsplit('=').next().unwrap_or("")],
        );
    }
}

#[test]
fn the_root_directory_is_refused() {
    if !is_ready("the_root_directory_is_refused") {
        return;
    }
    let bad = Bad::new("root");
    bad.assert_refused(bad.mount(Path::new("/"), &bad.path("state")), &["/"]);
}

#[test]
fn a_file_is_refused() {
    if !is_ready("a_file_is_refused") {
        return;
    }
    let bad = Bad::new("file");
    let command = bad.mount(&bad.path("data/file"), &bad.path("state"));
    bad.assert_refused(command, &["data/file", "directory"]);
}

#[test]
fn a_directory_that_does_not_exist_is_refused() {
    if !is_ready("a_directory_that_does_not_exist_is_refused") {
        return;
    }
    let bad = Bad::new("absent");
    bad.assert_refused(
        bad.mount(&bad.path("absent"), &bad.path("state")),
        &["absent"],
    );
}

#[test]
fn a_state_directory_inside_the_set_is_refused() {
    if !is_ready("a_state_directory_inside_the_set_is_refused") {
        return;
    }
    let bad = Bad::new("state-inside");
    let command = bad.mount(&bad.path("data"), &bad.path("data/state"));
    bad.assert_refused(command, &["state", "data/state"]);
    assert!(
        !bad.path("data/state").exists(),
        "the state directory was made"
    );
}

#[test]
fn a_directory_already_protected_is_refused() {
    if !is_ready("a_directory_already_protected_is_refused") {
        return;
    }
    let fixture = Fixture::started("already");
    let state = fixture.outside("other-state");
    let again = fixture.doppelfs().arg("mount").arg(fixture.path(""));
    let again = again.args(["--set", "other", "--state"]).arg(&state);
    again.run().expect_code(2).expect_words(&["already"]);
    std::fs::create_dir(fixture.path("below")).expect("mkdir");
    std::fs::write(fixture.path("below/file"), b"still served").expect("write");
    fixture.finish();
}

#[test]
fn a_set_name_in_use_is_refused() {
    if !is_ready("a_set_name_in_use_is_refused") {
        return;
    }
    let fixture = Fixture::started("name");
    let (other, state) = (fixture.outside("other"), fixture.outside("other-state"));
    std::fs::create_dir(&other).expect("mkdir");
    let command = fixture
        .doppelfs()
        .arg("mount")
        .arg(&other)
        .args(["--set", "data", "--state"]);
    command
        .arg(&state)
        .run()
        .expect_code(2)
        .expect_words(&["data"]);
    fixture.finish();
}

#[test]
fn the_state_directory_of_another_set_is_refused() {
    if !is_ready("the_state_directory_of_another_set_is_refused") {
        return;
    }
    let fixture = Fixture::started("foreign");
    std::fs::write(fixture.path("file"), b"content").expect("write");
    fixture.caught_up();
    fixture.umount();
    let bad = Bad::new("foreign-other");
    let command = bad
        .mount(&bad.path("data"), fixture.state_dir())
        .args(["--set", "other"]);
    bad.assert_refused(command, &["state"]);
    // Its owner still gets it.
    fixture.mount();
    fixture.finish();
}

#[test]
fn a_user_who_is_not_root_is_told_so() {
    let test = "a_user_who_is_not_root_is_told_so";
    if !is_ready(test) || !has_programs(test, &["setpriv"]) {
        return;
    }
    let bad = Bad::new("not-root");
    let binary = bad.path("doppelfs");
    std::fs::copy(env!("CARGO_BIN_EXE_doppelfs"), &binary).expect("copy the binary");
    let command = program("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&binary)
        .arg("mount")
        .arg(bad.path("data"))
        .env("DOPPELFS_RUN_DIR", bad.path("run"));
    bad.assert_refused(command, &["root"]);
}

#[test]
fn a_host_without_dev_fuse_is_told_so() {
    let test = "a_host_without_dev_fuse_is_told_so";
    if !is_ready(test) || !has_programs(test, &["unshare"]) {
        return;
    }
    let bad = Bad::new("no-fuse");
    // A /dev of its own, with nothing in it but what every program needs.
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && \
                  mknod -m 666 /dev/urandom c 1 9 && exec \"$@\"";
    let command = program("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(env!("CARGO_BIN_EXE_doppelfs"))
        .arg("mount")
        .arg(bad.path("data"))
        .arg("--state")
        .arg(bad.path("state"))
        .env("DOPPELFS_RUN_DIR", bad.path("run"));
    bad.assert_refused(command, &["/dev/fuse"]);
}

#[test]
fn a_target_that_is_not_paired_is_refused() {
    if !is_ready("a_target_that_is_not_paired_is_refused") {
        return;
    }
    let bad = Bad::new("unpaired");
    let command = bad.usual_mount().args(["--target", "127.0.0.1:7420"]);
    let command = command.arg("--keys").arg(bad.path("keys"));
    bad.assert_refused(command, &["not paired", "target invite", "doppelfs pair"]);
}

#[test]
fn plain_tcp_to_another_host_is_refused() {
    if !is_ready("plain_tcp_to_another_host_is_refused") {
        return;
    }
    let bad = Bad::new("not-loopback");
    let command = bad
        .usual_mount()
        .args(["--insecure-loopback", "--target", "192.0.2.1:7420"]);
    bad.assert_refused(command, &["loopback", "192.0.2.1"]);
}

#[test]
fn a_damaged_segment_is_never_skipped_silently() {
    if !is_ready("a_damaged_segment_is_never_skipped_silently") {
        return;
    }
    let mut fixture = Fixture::started("damaged");
    fixture.target.stop();
    for number in 0..90 {
        let bytes = random_bytes(number, 1 << 20);
        std::fs::write(fixture.path(format!("file-{number}")), bytes).expect("write");
    }
    fixture.umount();
    damage_first_segment(fixture.state_dir());
    fixture.target.start();
    let mounted = fixture.mount_command().run();
    if mounted.code == Some(2) {
        mounted.expect_words(&["segment"]);
        return;
    }
    mounted.expect_code(0);
    until(
        "status to name the damage, or a mirror to repair it",
        || {
            let set = fixture.set();
            let said = format!(
                "{} {}",
                set.complaints(),
                set.0.get("warnings").unwrap_or(&set.0)
            );
            said.contains("segment") || set.connection().mirror_bytes() > 0
        },
    );
    // The source serves whatever its queue is like.
    std::fs::write(fixture.path("after"), b"served").expect("write");
}

/// Flips one byte in the middle of the oldest segment.
fn damage_first_segment(state: &Path) {
    let found = program("find")
        .arg(state)
        .args(["-name", "*.seg"])
        .succeed()
        .stdout;
    let mut segments: Vec<&str> = found.lines().collect();
    segments.sort_unstable();
    assert!(segments.len() > 1, "expected sealed segments: {segments:?}");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(segments[0])
        .expect("open");
    let middle = file.metadata().expect("stat").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], middle).expect("write");
}
