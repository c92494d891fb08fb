//! Goal: the options of the mount itself have the effect that they have on any mount. Method: a
//! set-user-id program, a device, a script and a write, with and without each option.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Fixture, has_programs, is_ready, program};

/// What a user gets under the mount's options: the program's user, and whether device, script and
/// write work.
pub(super) fn tried(fixture: &Fixture) -> (String, [bool; 3]) {
    let path = |name: &str| fixture.path(name).to_string_lossy().into_owned();
    let user = program("setpriv")
        .args(["--reuid", "65534", "--clear-groups", &path("id"), "-u"])
        .run();
    let works = |script: String| program("sh").args(["-c", &script]).run().code == Some(0);
    let device = works(format!("echo x > {}", path("null")));
    let script = works(path("script"));
    let write = works(format!("echo x > {}", path("file")));
    (user.stdout.trim().to_owned(), [device, script, write])
}

pub(super) fn plant(fixture: &Fixture) {
    std::fs::copy("/usr/bin/id", fixture.path("id")).expect("copy a program");
    std::fs::write(fixture.path("script"), "#!/bin/sh\nexit 0\n").expect("write");
    for (name, mode) in [("id", 0o4755), ("script", 0o755)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(fixture.path(name), mode).expect("chmod");
    }
    program("mknod")
        .args(["-m", "666"])
        .arg(fixture.path("null"))
        .args(["c", "1", "3"])
        .succeed();
}

fn has_effect(test: &str, option: &str, wanted: (&str, [bool; 3])) {
    if !is_ready(test) || !has_programs(test, &["setpriv", "mknod"]) {
        return;
    }
    let mut fixture = Fixture::new(test).with_flags(&["-o", option]);
    plant(&fixture);
    fixture.start();
    let (user, works) = tried(&fixture);
    assert_eq!((user.as_str(), works), wanted, "{option}");
    fixture.finish();
}

#[test]
fn programs_devices_and_writes_work_by_default() {
    let test = "programs_devices_and_writes_work_by_default";
    has_effect(test, "defaults", ("0", [true, true, true]));
}

#[test]
fn nosuid_keeps_the_callers_identity() {
    let test = "nosuid_keeps_the_callers_identity";
    has_effect(test, "nosuid", ("65534", [true, true, true]));
}

#[test]
fn nodev_refuses_devices() {
    has_effect("nodev_refuses_devices", "nodev", ("0", [false, true, true]));
}

#[test]
fn noexec_refuses_programs() {
    has_effect(
        "noexec_refuses_programs",
        "noexec",
        ("", [true, false, true]),
    );
}

#[test]
fn nosymfollow_follows_no_links() {
    let test = "nosymfollow_follows_no_links";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::new(test).with_flags(&["-o", "nosymfollow"]);
    std::fs::write(fixture.path("file"), b"content").expect("write");
    std::os::unix::fs::symlink("file", fixture.path("link")).expect("symlink");
    fixture.start();
    let refused = std::fs::read(fixture.path("link")).expect_err("follow a link");
    assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
    let target = std::fs::read_link(fixture.path("link")).expect("read a link");
    assert_eq!(target, std::path::Path::new("file"));
    fixture.finish();
}

#[test]
fn ro_refuses_writes_and_serves_the_target() {
    let test = "ro_refuses_writes_and_serves_the_target";
    has_effect(test, "ro", ("0", [true, true, false]));
}
