//! Goal: directories that are wrong in themselves, or through what else is there, are refused with
//! the reason and the remedy, and the next, right attempt works. Method: each once; every refusal is
//! followed by the attempt that it advises.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::support::{Program, Scratch, doppelfs, has_programs, is_ready, program};

/// A directory `data` with a file in it, a run directory, and what is mounted.
struct Place {
    scratch: Scratch,
}

impl Place {
    fn new(label: &str) -> Place {
        let place = Place {
            scratch: Scratch::new(label),
        };
        for name in ["run", "data/inside", "other"] {
            std::fs::create_dir_all(place.path(name)).expect("mkdir");
        }
        std::fs::write(place.path("data/file"), b"content").expect("write");
        place
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn doppelfs(&self) -> Program {
        doppelfs(&self.path("run"))
    }

    /// Protects `dir` as set `set`.
    fn mount(&self, dir: impl AsRef<Path>, set: &str) -> Program {
        self.mount_as(dir, set, &self.path(format!("state-{set}")))
    }

    fn mount_as(&self, dir: impl AsRef<Path>, set: &str, state: &Path) -> Program {
        let command = self.doppelfs().arg("mount").arg(self.path(dir));
        command.args(["--set", set, "--state"]).arg(state)
    }

    fn umount(&self, dir: &str) {
        self.doppelfs().arg("umount").arg(self.path(dir)).succeed();
    }

    fn bind(&self, from: &str, to: &str) {
        let to = self.path(to);
        std::fs::create_dir_all(&to).expect("mkdir");
        let command = program("mount").arg("--bind").arg(self.path(from));
        command.arg(to).succeed();
    }

    /// One line with these words and exit code 2; no new mount, and the set's state not claimed.
    #[track_caller]
    fn refused(&self, command: Program, set: &str, words: &[&str]) {
        let before = self.mounted();
        let said = command.run().expect_code(2).expect_words(words);
        assert_eq!(said.stderr.trim().lines().count(), 1, "{}", said.stderr);
        assert_eq!(self.mounted(), before);
        let claim = self.path(format!("state-{set}")).join("owner.json");
        assert!(!claim.exists(), "the state directory is claimed");
        let socket = self.path(format!("run/{set}.sock"));
        assert!(!socket.exists(), "the socket is left");
    }

    /// What is mounted below the scratch directory, oldest first.
    fn mounted(&self) -> Vec<PathBuf> {
        let mounts = doppelfs::sys::read_mounts().expect("read the mount table");
        let points = mounts.into_iter().map(|mount| mount.mountpoint);
        points
            .filter(|point| point.starts_with(self.scratch.path()))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for point in self.mounted().iter().rev() {
            let ended = self.doppelfs().arg("umount").arg(point).run();
            if ended.code != Some(0) {
                let _ = doppelfs::sys::umount(point, true);
            }
        }
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let test = "what_is_no_directory_is_refused";
    if !is_ready(test) || !has_programs(test, &["mkfifo"]) {
        return;
    }
    let place = Place::new("no-directory");
    program("mkfifo").arg(place.path("pipe")).succeed();
    for (target, name) in [("nowhere", "dangling"), ("loop", "loop"), ("data", "link")] {
        std::os::unix::fs::symlink(target, place.path(name)).expect("symlink");
    }
    let long = "x".repeat(300);
    let cases: [(&str, &[&str]); 7] = [
        ("pipe", &["pipe", "not a directory"]),
        ("/dev/null", &["/dev/null", "not a directory"]),
        ("data/file", &["data/file", "not a directory"]),
        ("data/file/below", &["data/file/below", "not a directory"]),
        ("dangling", &["dangling", "no such directory", "create"]),
        ("loop", &["loop", "symbolic links"]),
        (&long, &["name too long"]),
    ];
    for (dir, words) in cases {
        place.refused(place.mount(dir, "a"), "a", words);
        // As a mount point, too.
        let elsewhere = place.doppelfs().arg("mount").arg(place.path("data"));
        let elsewhere = elsewhere.arg(place.path(dir)).args(["--set", "a"]);
        let elsewhere = elsewhere.arg("--state").arg(place.path("state-a"));
        place.refused(elsewhere, "a", words);
    }
    place.mount("link/../data//.", "a").succeed();
    place.umount("link");
}

#[test]
fn a_current_directory_that_is_gone_is_told() {
    let test = "a_current_directory_that_is_gone_is_told";
    if !is_ready(test) {
        return;
    }
    let place = Place::new("gone");
    std::fs::create_dir(place.path("gone")).expect("mkdir");
    let script = "rmdir ../gone && exec \"$0\" mount . --set a --state \"$1\"";
    let command = program("sh").args(["-c", script, env!("CARGO_BIN_EXE_doppelfs")]);
    let command = command.arg(place.path("state-a"));
    let command = command.current_dir(place.path("gone"));
    let command = command.env("DOPPELFS_RUN_DIR", place.path("run"));
    place.refused(command, "a", &["absolute", "current directory"]);
}

#[test]
fn system_directories_are_refused() {
    if !is_ready("system_directories_are_refused") {
        return;
    }
    let place = Place::new("system");
    for dir in ["/proc", "/sys", "/dev"] {
        place.refused(place.mount(dir, "a"), "a", &[dir, "holds data"]);
        let elsewhere = place.doppelfs().arg("mount").arg(place.path("data"));
        let elsewhere = elsewhere.arg(dir).args(["--set", "a", "--state"]);
        let elsewhere = elsewhere.arg(place.path("state-a"));
        place.refused(elsewhere, "a", &[dir, "mount elsewhere"]);
    }
}

/// A directory whose own name cannot be the set's is protected under another.
#[test]
fn a_directory_whose_name_is_no_name_of_a_set_is_told_so() {
    if !is_ready("a_directory_whose_name_is_no_name_of_a_set_is_told_so") {
        return;
    }
    let place = Place::new("set-name");
    for name in ["with space", ".hidden", "new\nline", "target-7420"] {
        std::fs::create_dir(place.path(name)).expect("mkdir");
        let command = place.doppelfs().arg("mount").arg(place.path(name));
        let command = command.arg("--state").arg(place.path("state-a"));
        place.refused(command, "a", &["set name", "--set"]);
    }
    place.mount("with space", "a").succeed();
    place.umount("with space");
}

#[test]
fn file_systems_of_the_kernel_are_refused_by_their_type() {
    let test = "file_systems_of_the_kernel_are_refused_by_their_type";
    if !is_ready(test) {
        return;
    }
    let place = Place::new("kernel");
    for kind in [
        "ramfs",
        "hugetlbfs",
        "cgroup2",
        "devpts",
        "mqueue",
        "bpf",
        "debugfs",
        "tracefs",
        "securityfs",
    ] {
        let on = place.path(kind);
        std::fs::create_dir(&on).expect("mkdir");
        let mounted = program("mount").args(["-t", kind, "none"]).arg(&on).run();
        if mounted.code != Some(0) {
            eprintln!("SKIPPED {test} for {kind}: {}", mounted.stderr);
            continue;
        }
        place.refused(place.mount(&on, "a"), "a", &[kind, "handles", "protect"]);
    }
}

#[test]
fn a_directory_that_folds_case_is_refused() {
    let test = "a_directory_that_folds_case_is_refused";
    if !is_ready(test) || !has_programs(test, &["mkfs.ext4", "chattr"]) {
        return;
    }
    let place = Place::new("casefold");
    let (image, on) = (place.path("image"), place.path("mounted"));
    std::fs::create_dir(&on).expect("mkdir");
    let file = std::fs::File::create(&image).expect("create");
    file.set_len(64 << 20).expect("size an image");
    let made = program("mkfs.ext4").args(["-q", "-O", "casefold"]);
    made.arg(&image).succeed();
    let mounted = program("mount").args(["-o", "loop"]).arg(&image).arg(&on);
    let mounted = mounted.run();
    if mounted.code != Some(0) {
        eprintln!("SKIPPED {test}: no casefold here: {}", mounted.stderr);
        return;
    }
    let folding = on.join("folding");
    std::fs::create_dir(&folding).expect("mkdir");
    program("chattr").arg("+F").arg(&folding).succeed();
    place.refused(place.mount(&folding, "a"), "a", &["case", "replica"]);
}

#[test]
fn files_that_belong_to_a_set_belong_to_no_other() {
    if !is_ready("files_that_belong_to_a_set_belong_to_no_other") {
        return;
    }
    let place = Place::new("two-sets");
    place.bind("data", "whole");
    place.bind("data/inside", "part");
    let words = ["already", "(set a)", "two sets", "umount"];
    place.mount("data", "a").succeed();
    for dir in ["data", "data/inside"] {
        place.refused(place.mount(dir, "b"), "b", &["already"]);
    }
    for dir in ["whole", "part"] {
        place.refused(place.mount(dir, "b"), "b", &words);
    }
    // A bind mount of the mount itself is a directory on a doppelfs.
    place.bind("data", "late");
    place.refused(place.mount("late", "b"), "b", &["already", "late"]);
    doppelfs::sys::umount(&place.path("late"), false).expect("umount");
    place.umount("data");
    // The other way around, and where the set is served elsewhere.
    place.mount("part", "d").succeed();
    let words = ["already", "(set d)", "two sets", "umount"];
    for dir in ["data", "whole"] {
        place.refused(place.mount(dir, "b"), "b", &words);
    }
    place.umount("part");
    let served = place.mount("data", "c").arg(place.path("other"));
    served.succeed();
    place.refused(
        place.mount("data", "b"),
        "b",
        &["already", "set c", "/other"],
    );
    std::fs::write(place.path("other/file"), b"still served").expect("write");
    place.umount("other");
    place.mount("data", "c").succeed();
    place.umount("data");
    place.mount("whole", "b").succeed();
    place.umount("whole");
}

#[test]
fn directories_of_the_set_itself_are_refused_by_whatever_path() {
    if !is_ready("directories_of_the_set_itself_are_refused_by_whatever_path") {
        return;
    }
    let place = Place::new("own-inside");
    place.bind("data", "whole");
    let state = place.path("whole/deep/state");
    place.refused(
        place.mount_as("data", "a", &state),
        "a",
        &["state", "inside", "--state"],
    );
    let queue = place.mount("data", "a").arg("--queue-dir");
    let queue = queue.arg(place.path("whole/queue"));
    place.refused(queue, "a", &["queue", "inside", "--queue-dir"]);
    let run = place.mount("data", "a").arg("--run-dir");
    let run = run.arg(place.path("whole/run"));
    place.refused(run, "a", &["run", "inside", "--run-dir"]);
    let names = std::fs::read_dir(place.path("data")).expect("list");
    assert_eq!(names.count(), 2, "something was made inside");
    place.mount("data", "a").succeed();
    place.umount("data");
}

/// Records of one set that are recorded by another would never end where both do so.
#[test]
fn the_state_of_a_set_is_refused_inside_another() {
    if !is_ready("the_state_of_a_set_is_refused_inside_another") {
        return;
    }
    let place = Place::new("own-protected");
    place.mount("data", "a").succeed();
    let state = place.path("data/state");
    place.refused(
        place.mount_as("other", "b", &state),
        "b",
        &["state", "again", "--state"],
    );
    let queue = place.mount("other", "b").arg("--queue-dir");
    let queue = queue.arg(place.path("data/queue"));
    place.refused(queue, "b", &["queue", "again", "--queue-dir"]);
    place.mount("other", "b").succeed();
    place.umount("other");
    place.umount("data");
}

#[test]
fn own_directories_that_cannot_be_used_are_told() {
    if !is_ready("own_directories_that_cannot_be_used_are_told") {
        return;
    }
    let place = Place::new("own-bad");
    let file = place.path("data/../plain");
    std::fs::write(&file, b"x").expect("write");
    place.refused(place.mount_as("data", "a", &file), "a", &["plain"]);
    let run = place.mount("data", "a").arg("--run-dir").arg(&file);
    place.refused(run, "a", &["run directory", "plain", "--run-dir"]);
    let bytes = place.path(OsString::from_vec(b"run\xff".to_vec()));
    let run = place.mount("data", "a").arg("--run-dir").arg(&bytes);
    place.refused(run, "a", &["run directory", "utf-8", "--run-dir"]);
    let queue = place.mount("data", "a").arg("--queue-dir").arg(&file);
    queue.run().expect_code(2).expect_words(&["queue", "plain"]);
    assert_eq!(place.mounted(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read(&file).expect("read"), b"x");
    // What was claimed is the set's, and so is no hindrance.
    place.mount("data", "a").succeed();
    place.umount("data");
}

#[test]
fn the_mount_helper_passes_on_why_it_is_refused() {
    if !is_ready("the_mount_helper_passes_on_why_it_is_refused") {
        return;
    }
    let place = Place::new("helper");
    let helper = |dir: &Path, options: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/mount.doppelfs");
        let state = place.path("state-a");
        let options = format!("{options},set=a,state=\"{}\"", state.display());
        let command = program(script).arg(dir).arg(dir).args(["-o", &options]);
        let command = command.env("DOPPELFS_BIN", env!("CARGO_BIN_EXE_doppelfs"));
        command.env("DOPPELFS_RUN_DIR", place.path("run"))
    };
    let data = place.path("data");
    let cases: [(&Path, &str, &[&str]); 7] = [
        (&place.path("absent"), "rw", &["absent", "create"]),
        (&place.path("data/file"), "rw", &["not a directory"]),
        (Path::new("/"), "rw", &["/ cannot be protected"]),
        (&data, "rw,bind", &["bind"]),
        (&data, "ro=1", &["\"ro\" takes no value"]),
        (&data, "queue-dir", &["queue-dir", "needs a value"]),
        (&data, "order=lax", &["relaxed", "strict"]),
    ];
    for (dir, options, words) in cases {
        let said = helper(dir, options).run().expect_code(32);
        said.expect_words(words);
        assert_eq!(place.mounted(), Vec::<PathBuf>::new());
        assert!(!place.path("state-a/owner.json").exists());
    }
    // Of options that exclude each other the last holds, as for every mount.
    helper(&data, "ro,rw,nosuid,suid,noauto,nofail,x-systemd.automount").succeed();
    std::fs::write(data.join("file"), b"writable").expect("write");
    place.umount("data");
    helper(&data, "rw,ro").succeed();
    let refused = std::fs::write(data.join("file"), b"x").expect_err("write");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    place.umount("data");
}
