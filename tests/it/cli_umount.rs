//! Goal: `doppelfs umount` ends a mount whatever its worker is, and names who keeps it busy.
//! Method: FUSE mounts without a file system behind them, in this process (root and /dev/fuse only,
//! skipped loudly otherwise).

use crate::cli_scratch::{Ran, Scratch, Talker, doppelfs, run, runtime, serve};
use doppelfs::sys;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount that nobody serves.
struct Hollow {
    dir: PathBuf,
    device: Option<OwnedFd>,
}

impl Hollow {
    fn new(scratch: &Scratch) -> Option<Hollow> {
        let dir = scratch.dir("data");
        let mounted = sys::fuse_open().and_then(|device| {
            let how = sys::FuseMount {
                is_beneath: false,
                source: "hollow".to_owned(),
                max_read: 1 << 20,
                ..sys::FuseMount::default()
            };
            sys::mount_fuse(device.as_fd(), &dir, &how).map(|()| device)
        });
        match mounted {
            Ok(device) => Some(Hollow {
                dir,
                device: Some(device),
            }),
            Err(error) => {
                eprintln!("SKIPPED: cannot mount FUSE here: {error}");
                None
            }
        }
    }

    fn is_mounted(&self) -> bool {
        sys::read_mounts()
            .unwrap()
            .iter()
            .any(|m| m.mountpoint == self.dir)
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = sys::umount(&self.dir, true);
        }
    }
}

fn umount(run_dir: &Path, dir: &Path) -> Ran {
    Ran::of(&doppelfs(run_dir).arg("umount").arg(dir).output().unwrap())
}

#[test]
fn a_dead_mount_is_unmounted() {
    let scratch = Scratch::new();
    let Some(mut hollow) = Hollow::new(&scratch) else {
        return;
    };
    hollow.device = None;
    let dead = std::fs::metadata(&hollow.dir).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(107), "{dead}");
    let ran = umount(scratch.path(), &hollow.dir);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(!hollow.is_mounted());
}

#[test]
fn a_dead_mount_is_not_protected_again_and_the_remedy_is_named() {
    let scratch = Scratch::new();
    let Some(mut hollow) = Hollow::new(&scratch) else {
        return;
    };
    hollow.device = None;
    let ran = run(scratch.path(), &format!("mount {}", hollow.dir.display()));
    assert_eq!(ran.code, 2);
    let remedy = format!("`doppelfs umount {}` ends it", hollow.dir.display());
    assert!(ran.err.contains(&remedy), "{}", ran.err);
}

#[test]
fn a_busy_mount_stays_and_names_its_users() {
    let scratch = Scratch::new();
    let Some(hollow) = Hollow::new(&scratch) else {
        return;
    };
    // O_PATH: the root itself asks nobody.
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(0o10_000_000)
        .open(&hollow.dir)
        .unwrap();
    let ran = umount(scratch.path(), &hollow.dir);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("is in use and stays mounted, by:"),
        "{}",
        ran.err
    );
    let me = format!("\n  {} (", std::process::id());
    assert!(ran.err.contains(&me), "{}", ran.err);
    assert!(hollow.is_mounted());
    drop(held);
    assert_eq!(umount(scratch.path(), &hollow.dir).code, 0);
}

#[test]
fn a_symbolic_link_to_a_mount_leads_to_it() {
    let scratch = Scratch::new();
    let Some(hollow) = Hollow::new(&scratch) else {
        return;
    };
    let up = scratch.path().join("up");
    std::os::unix::fs::symlink(scratch.path(), &up).unwrap();
    assert_eq!(umount(scratch.path(), &up.join("data")).code, 0);
    assert!(!hollow.is_mounted());
}

/// The worker is a process that ends when it is told to, after the umount.
#[test]
fn umount_waits_until_the_worker_has_ended() {
    let scratch = Scratch::new();
    let Some(hollow) = Hollow::new(&scratch) else {
        return;
    };
    let run_dir = scratch.dir("run");
    let runtime = runtime();
    let mut worker = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut talker = Talker::named("data", &hollow.dir);
    talker.status.worker_pid = worker.id();
    let _server = serve(&runtime, &run_dir, "data", talker);
    let mut command = doppelfs(&run_dir);
    command
        .args(["umount", "--timeout", "0.2"])
        .arg(&hollow.dir);
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("has not ended within 200ms"),
        "{}",
        ran.err
    );
    // The talker refuses to prepare: that is said, and is no reason to stay mounted.
    assert!(ran.err.contains("warning:"), "{}", ran.err);
    assert!(!hollow.is_mounted());
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[test]
fn wait_and_status_do_not_hang_on_a_mount_that_nobody_serves() {
    let scratch = Scratch::new();
    let Some(hollow) = Hollow::new(&scratch) else {
        return;
    };
    let run_dir = scratch.dir("run");
    let runtime = runtime();
    let talker = Talker::named("data", &hollow.dir);
    let _server = serve(&runtime, &run_dir, "data", talker);
    let ran = run(&run_dir, "wait --caught-up --timeout 0.3");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let expected = format!(
        "dirty pages of {} are not written back",
        hollow.dir.display()
    );
    assert!(ran.out.contains(&expected), "{}", ran.out);
    assert_eq!(run(&run_dir, "status").code, 0);
}
