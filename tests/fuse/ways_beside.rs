//! Goal: ways beside the mount are named or covered by the next check, and ours never allows what the
//! mount below forbids. Method: bind mounts and a second mount point; the mount's own flags.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::support::{Fixture, has_programs, is_ready, program};

/// Unmounted on drop.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        while doppelfs::sys::umount(&self.0, true).is_ok() {}
    }
}

fn bind(from: &Path, to: &Path) -> Mounted {
    let command = program("mount").arg("--bind");
    command.arg(from).arg(to).succeed();
    Mounted(to.to_owned())
}

#[test]
fn bind_mounts_that_lead_beside_the_mount_are_refused_by_strict_cover() {
    let test = "bind_mounts_that_lead_beside_the_mount_are_refused_by_strict_cover";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::new("bind").without_target();
    let elsewhere = fixture.outside("elsewhere");
    for dir in [&fixture.path("sub"), &elsewhere] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    let data = fixture.path("");
    let cases = [
        (fixture.outside(""), elsewhere.join("data")),
        (data, elsewhere.clone()),
        (fixture.path("sub"), elsewhere.clone()),
    ];
    for (from, shown) in cases {
        let _bound = bind(&from, &elsewhere);
        let refused = fixture.mount_command().arg("--strict-cover").run();
        let shown = shown.display().to_string().to_lowercase();
        refused
            .expect_code(2)
            .expect_words(&["strict-cover", &shown]);
    }
}

#[test]
fn the_mount_inherits_what_the_mount_below_forbids() {
    let test = "the_mount_inherits_what_the_mount_below_forbids";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::new("inherit").without_target();
    let flags = fixture.path("");
    let _bound = bind(&flags, &flags);
    program("mount")
        .args(["-o", "remount,bind,ro,nosuid,nodev,noexec"])
        .arg(&flags)
        .succeed();
    let command = fixture.mount_command().args(["-o", "suid,dev,exec,rw"]);
    command.succeed();
    let root = std::fs::File::open(fixture.path("")).expect("open");
    let seen = doppelfs::sys::statvfs(root.as_fd())
        .expect("statvfs")
        .f_flag;
    drop(root);
    let wanted = libc::ST_RDONLY | libc::ST_NOSUID | libc::ST_NODEV | libc::ST_NOEXEC;
    assert_eq!(seen & wanted, wanted, "flags {seen:#x}");
    fixture.umount();
}

#[test]
fn a_directory_on_fuse_is_refused_by_name() {
    let test = "a_directory_on_fuse_is_refused_by_name";
    if !is_ready(test) || !has_programs(test, &["bindfs"]) {
        return;
    }
    let fixture = Fixture::new("on-fuse").without_target();
    let from = fixture.outside("from");
    std::fs::create_dir(&from).expect("mkdir");
    program("bindfs").arg(&from).arg(fixture.path("")).succeed();
    let _bound = Mounted(fixture.path(""));
    fixture
        .mount_command()
        .run()
        .expect_code(2)
        .expect_words(&["fuse"]);
}

#[test]
fn what_was_changed_beside_a_mount_elsewhere_is_found_by_the_next() {
    let test = "what_was_changed_beside_a_mount_elsewhere_is_found_by_the_next";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::new("elsewhere");
    let point = fixture.outside("point");
    std::fs::create_dir(&point).expect("mkdir");
    std::fs::write(fixture.path("beside"), b"old").expect("write");
    fixture.target.start();
    let _mounted = Mounted(point.clone());
    let umount = || fixture.doppelfs().arg("umount").arg(&point).succeed();
    fixture.mount_command().arg(&point).succeed();
    fixture.caught_up();
    std::fs::write(fixture.path("beside"), b"changed").expect("write");
    std::fs::write(point.join("through"), b"captured later").expect("write");
    fixture.caught_up();
    umount();
    fixture.mount_command().arg(&point).succeed();
    fixture.assert_equal();
    umount();
}
