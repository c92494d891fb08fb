//! Goal: an administrator replaces the worker of a mount, also by another build, while programs go on;
//! and workers that cannot start do not take the mount with them. Method: the product runs from a copy
//! that the test replaces under it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::{Finished, Program, Scratch, is_ready, program, until};

/// A set that is mounted from a program of our own.
struct Site {
    scratch: Scratch,
}

impl Site {
    fn new(label: &str) -> Site {
        let site = Site {
            scratch: Scratch::new(label),
        };
        for dir in ["run", "data"] {
            std::fs::create_dir(site.path(dir)).expect("mkdir");
        }
        site.install(Path::new(env!("CARGO_BIN_EXE_doppelfs")), "");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Puts a program in the place of the last one, as package managers do, with some bytes at its end.
    fn install(&self, from: &Path, more: &str) {
        let fresh = self.path("program.new");
        // Written by another process: a descriptor of this one is for a moment also that of every child
        // which another test starts, and would make the program busy.
        let script = "cp -- \"$1\" \"$3\" && printf %s \"$2\" >> \"$3\" && chmod 755 \"$3\"";
        program("sh")
            .args(["-c", script, "sh"])
            .arg(from)
            .arg(more)
            .arg(&fresh)
            .succeed();
        std::fs::rename(&fresh, self.path("program")).expect("rename");
    }

    /// The product, as it is installed for the command line.
    fn doppelfs(&self) -> Program {
        crate::support::doppelfs(&self.path("run"))
    }

    fn mount(&self) {
        let state = self.path("state");
        program(self.path("program"))
            .env("DOPPELFS_RUN_DIR", self.path("run"))
            .arg("mount")
            .arg(self.path("data"))
            .args(["--set", "data", "--state"])
            .arg(state)
            .succeed();
    }

    fn umount(&self) -> Finished {
        self.doppelfs()
            .arg("umount")
            .arg(self.path("data"))
            .succeed()
    }

    fn supervision(&self) -> serde_json::Value {
        let text = std::fs::read(self.path("run/data.supervisor")).expect("a supervisor");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn worker(&self) -> u64 {
        self.supervision()["worker_pid"]
            .as_u64()
            .expect("a process")
    }

    /// The inode of the program that the worker runs.
    fn worker_program(&self) -> u64 {
        let exe = format!("/proc/{}/exe", self.worker());
        std::fs::metadata(exe).expect("the worker's program").ino()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("state/log/worker.log"));
            eprintln!("{}", log.unwrap_or_default());
            let pid = self.path("run/data.supervisor");
            let told = std::fs::read(pid).unwrap_or_default();
            eprintln!("{}", String::from_utf8_lossy(&told));
            let _ = self.doppelfs().arg("umount").arg(self.path("data")).run();
            let _ = doppelfs::sys::umount(&self.path("data"), true);
        }
    }
}

#[test]
fn restart_replaces_the_worker_by_another_build_under_load() {
    if !is_ready("restart_replaces_the_worker_by_another_build_under_load") {
        return;
    }
    let site = Site::new("another-build");
    site.mount();
    let data = site.path("data");
    let mut open = File::create(data.join("open")).expect("create");
    let stop = site.path("stop");
    let (load_stop, load_data) = (stop.clone(), data.clone());
    let load = std::thread::spawn(move || {
        let mut number = 0u64;
        while !load_stop.exists() {
            let path = load_data.join(format!("file-{number}"));
            std::fs::write(&path, number.to_string()).expect("write");
            assert_eq!(
                std::fs::read_to_string(&path).expect("read"),
                number.to_string()
            );
            number += 1;
        }
        number
    });
    for round in 0..4u8 {
        let (before, old_program) = (site.worker(), site.worker_program());
        site.install(
            Path::new(env!("CARGO_BIN_EXE_doppelfs")),
            &format!("build {round}"),
        );
        let said = site
            .doppelfs()
            .args(["restart", "data", "--json"])
            .succeed();
        let said: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
        assert_eq!(said["old_worker_pid"].as_u64(), Some(before));
        assert_eq!(said["new_worker_pid"].as_u64(), Some(site.worker()));
        assert_ne!(
            site.worker_program(),
            old_program,
            "the old program runs on"
        );
        assert!(
            said["stall_seconds"]
                .as_f64()
                .is_some_and(|s| s > 0.0 && s < 60.0),
            "{said}"
        );
        writeln!(open, "round {round}").expect("write to what is open");
    }
    let said = site.doppelfs().args(["restart"]).succeed();
    assert!(said.stdout.contains("took over from"), "{}", said.stdout);
    let status = site.doppelfs().args(["status", "--json"]).succeed();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status["sets"][0]["worker_restarts"].as_u64(), Some(5));
    File::create(&stop).expect("create");
    let count = load.join().expect("the load");
    assert!(count > 0);
    drop(open);
    site.umount();
    let text = std::fs::read_to_string(data.join("open")).expect("read");
    assert_eq!(text, "round 0\nround 1\nround 2\nround 3\n");
    let files = std::fs::read_dir(&data).expect("list").count() as u64;
    assert_eq!(files, count + 1);
}

/// Breaks the program, kills the worker, and waits until the supervisor gives up.
fn break_it(site: &Site) {
    site.install(Path::new("/bin/false"), "");
    let pid = i32::try_from(site.worker()).expect("a process");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill");
    until("the supervisor to rest", || {
        site.supervision()["rests"] == true
    });
    let status = site.doppelfs().args(["status"]).succeed();
    for words in ["doppelfs restart", "doppelfs umount", "die again and again"] {
        assert!(status.stdout.contains(words), "{words}: {}", status.stdout);
    }
}

#[test]
fn workers_that_cannot_start_leave_the_mount_to_the_next_that_can() {
    if !is_ready("workers_that_cannot_start_leave_the_mount_to_the_next_that_can") {
        return;
    }
    let site = Site::new("cannot-start");
    site.mount();
    let data = site.path("data");
    std::fs::write(data.join("before"), b"content").expect("write");
    break_it(&site);
    let path = data.join("waits");
    let waits = std::thread::spawn(move || std::fs::write(path, b"waited"));
    site.install(Path::new(env!("CARGO_BIN_EXE_doppelfs")), "");
    site.doppelfs().args(["restart", "data"]).succeed();
    waits.join().expect("the writer").expect("write");
    assert_eq!(
        std::fs::read(data.join("before")).expect("read"),
        b"content"
    );
    site.umount();
    assert_eq!(std::fs::read(data.join("waits")).expect("read"), b"waited");
}

#[test]
fn a_mount_whose_workers_cannot_start_is_unmounted() {
    if !is_ready("a_mount_whose_workers_cannot_start_is_unmounted") {
        return;
    }
    let site = Site::new("given-up");
    site.mount();
    std::fs::write(site.path("data/file"), b"content").expect("write");
    break_it(&site);
    site.umount();
    assert_eq!(
        std::fs::read(site.path("data/file")).expect("read"),
        b"content"
    );
    assert!(!site.path("run/data.supervisor").exists());
    // And it is protected again.
    site.install(Path::new(env!("CARGO_BIN_EXE_doppelfs")), "");
    site.mount();
    site.umount();
}

#[test]
fn restart_of_what_is_not_mounted_says_so() {
    if !is_ready("restart_of_what_is_not_mounted_says_so") {
        return;
    }
    let site = Site::new("not-mounted");
    let said = site.doppelfs().args(["restart", "data"]).run();
    said.expect_code(2)
        .expect_words(&["no supervisor", "not mounted"]);
}
