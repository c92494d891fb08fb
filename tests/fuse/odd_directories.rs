//! Goal: whatever directory an administrator protects, it works, or it is refused with the reason by
//! name and nothing is left behind. Method: each odd directory once, with a target where it works.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{
    Finished, Fixture, Image, Scratch, doppelfs, has_programs, is_ready, program,
};

/// Something mounted beside the product; unmounted on drop.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this host cannot.
    fn new(test: &str, args: &[&str], what: &Path, on: &Path) -> Option<Mounted> {
        std::fs::create_dir_all(on).expect("make a mount point");
        let mounted = program("mount").args(args).arg(what).arg(on).run();
        if mounted.code != Some(0) {
            eprintln!("SKIPPED {test}: mount {args:?}: {}", mounted.stderr);
            return None;
        }
        Some(Mounted(on.to_path_buf()))
    }

    fn tmpfs(test: &str, on: &Path) -> Option<Mounted> {
        Mounted::new(test, &["-t", "tmpfs"], Path::new("tmpfs"), on)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if doppelfs::sys::umount(&self.0, false).is_err() {
            let _ = doppelfs::sys::umount(&self.0, true);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Protects `dir`, changes it, and finds the replica equal.
fn works(label: &str, dir: &Path) {
    let mut fixture = Fixture::over(label, dir);
    std::fs::write(fixture.path("before"), b"was here").expect("write");
    fixture.start();
    std::fs::create_dir(fixture.path("sub")).expect("mkdir");
    std::fs::write(fixture.path("sub/file"), b"content").expect("write");
    std::fs::rename(fixture.path("before"), fixture.path("sub/after")).expect("rename");
    fixture.finish();
}

/// Refuses `dir` with these words; neither mount nor state is left.
#[track_caller]
fn refused(scratch: &Scratch, dir: impl AsRef<OsStr>, words: &[&str]) -> Finished {
    let state = scratch.path().join("state");
    let run_dir = scratch.path().join("run");
    std::fs::create_dir_all(&run_dir).expect("mkdir");
    let said = doppelfs(&run_dir)
        .arg("mount")
        .arg(&dir)
        .args(["--set", "odd", "--state", text(&state)])
        .run()
        .expect_code(2)
        .expect_words(words);
    assert_eq!(said.stderr.trim().lines().count(), 1, "{}", said.stderr);
    // A log may be there, and is for whoever comes next.
    let claim = state.join("owner.json");
    assert!(!claim.exists(), "the state directory is claimed");
    let mounts = doppelfs::sys::read_mounts().expect("read the mount table");
    let ours = mounts.iter().find(|mount| {
        mount.fs_type == "fuse.doppelfs" && mount.mountpoint.starts_with(scratch.path())
    });
    assert!(ours.is_none(), "left mounted: {ours:?}");
    said
}

#[test]
fn directories_of_any_name_work() {
    if !is_ready("directories_of_any_name_work") {
        return;
    }
    let scratch = Scratch::new("names");
    for name in [
        "with space",
        "new\nline",
        "tab\there",
        "quote\"'back\\slash\\012",
        "comma,equals=colon:",
        "ünïcödé",
        "-o",
        "#hash",
    ] {
        let dir = scratch.path().join(name);
        std::fs::create_dir(&dir).expect("mkdir");
        works("names", &dir);
    }
}

#[test]
fn a_name_that_is_not_utf8_is_refused() {
    if !is_ready("a_name_that_is_not_utf8_is_refused") {
        return;
    }
    let scratch = Scratch::new("bytes");
    let dir = scratch
        .path()
        .join(OsString::from_vec(b"by\xffte".to_vec()));
    std::fs::create_dir(&dir).expect("mkdir");
    refused(&scratch, &dir, &["utf-8", "rename"]);
}

#[test]
fn a_directory_is_protected_by_a_link_and_a_relative_path() {
    if !is_ready("a_directory_is_protected_by_a_link_and_a_relative_path") {
        return;
    }
    let scratch = Scratch::new("link");
    let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
    let run_dir = scratch.path().join("run");
    for dir in [&real, &run_dir] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    std::os::unix::fs::symlink("real", &link).expect("symlink");
    for dir in [link.as_os_str(), OsStr::new("real"), OsStr::new("./link/.")] {
        let command = |verb: &str| {
            let command = doppelfs(&run_dir).arg(verb).arg(dir);
            command.current_dir(scratch.path())
        };
        let state = scratch.path().join("state");
        command("mount")
            .args(["--set", "odd", "--state", text(&state)])
            .succeed();
        let status = doppelfs(&run_dir).args(["status", "--json"]).succeed();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
        let shown = status.pointer("/sets/0/roots/0/path");
        assert_eq!(shown.and_then(|path| path.as_str()), Some(text(&real)));
        command("umount").succeed();
    }
}

#[test]
fn file_systems_without_lasting_handles_are_refused_by_their_type() {
    let test = "file_systems_without_lasting_handles_are_refused_by_their_type";
    if !is_ready(test) {
        return;
    }
    let scratch = Scratch::new("types");
    refused(&scratch, "/proc/sys", &["proc", "handles"]);
    refused(&scratch, "/sys/fs", &["sysfs", "handles"]);
    for options in ["", ",index=on,nfs_export=on"] {
        let base = scratch.path().join(format!("overlay{}", options.len()));
        let Some(_tmpfs) = Mounted::tmpfs(test, &base) else {
            return;
        };
        let dir = |name: &str| base.join(name);
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(dir(name)).expect("mkdir");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}{options}",
            text(&dir("lower")),
            text(&dir("upper")),
            text(&dir("work"))
        );
        let args = ["-t", "overlay", "-o", &options];
        let Some(_overlay) = Mounted::new(test, &args, Path::new("overlay"), &dir("merged")) else {
            return;
        };
        refused(&scratch, dir("merged"), &["overlay", "handles", "protect"]);
    }
}

#[test]
fn a_tmpfs_works() {
    let test = "a_tmpfs_works";
    if !is_ready(test) {
        return;
    }
    let scratch = Scratch::new("tmpfs");
    let dir = scratch.path().join("dir");
    if let Some(_tmpfs) = Mounted::tmpfs(test, &dir) {
        works("tmpfs", &dir);
    }
}

#[test]
fn a_bind_mount_and_a_directory_without_permissions_work() {
    let test = "a_bind_mount_and_a_directory_without_permissions_work";
    if !is_ready(test) {
        return;
    }
    let scratch = Scratch::new("bind");
    let (from, on) = (scratch.path().join("from"), scratch.path().join("on"));
    std::fs::create_dir(&from).expect("mkdir");
    if let Some(_bind) = Mounted::new(test, &["--bind"], &from, &on) {
        works("bind", &on);
    }
    let closed = scratch.path().join("closed");
    std::fs::create_dir(&closed).expect("mkdir");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("chmod");
    works("closed", &closed);
}

/// A directory that cannot be written is served and mirrored all the same.
fn is_served_read_only(label: &str, dir: &Path) {
    let mut fixture = Fixture::over(label, dir);
    fixture.start();
    let refused = std::fs::write(fixture.path("new"), b"x").expect_err("write");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let content = std::fs::read(fixture.path("sub/file")).expect("read");
    assert_eq!(content, b"content");
    fixture.finish();
}

#[test]
fn a_file_system_mounted_read_only_is_served_read_only() {
    let test = "a_file_system_mounted_read_only_is_served_read_only";
    if !is_ready(test) {
        return;
    }
    let scratch = Scratch::new("read-only");
    let dir = scratch.path().join("dir");
    let Some(_tmpfs) = Mounted::tmpfs(test, &dir) else {
        return;
    };
    std::fs::create_dir(dir.join("sub")).expect("mkdir");
    std::fs::write(dir.join("sub/file"), b"content").expect("write");
    program("mount")
        .args(["-o", "remount,ro"])
        .arg(&dir)
        .succeed();
    is_served_read_only("read-only", &dir);
    if !has_programs(test, &["mksquashfs"]) {
        return;
    }
    let (image, on) = (
        scratch.path().join("image"),
        scratch.path().join("squashed"),
    );
    program("mksquashfs")
        .arg(&dir)
        .arg(&image)
        .arg("-quiet")
        .succeed();
    let args = ["-t", "squashfs", "-o", "loop"];
    if let Some(_squashfs) = Mounted::new(test, &args, &image, &on) {
        is_served_read_only("squashfs", &on);
    }
}

#[test]
fn a_mount_inside_is_named_and_not_shown() {
    let test = "a_mount_inside_is_named_and_not_shown";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::new("nested");
    let inside = fixture.path("inside");
    let Some(nested) = Mounted::tmpfs(test, &inside) else {
        return;
    };
    std::fs::write(inside.join("unseen"), b"x").expect("write");
    fixture.start();
    let warnings = fixture.set().warnings();
    assert!(
        warnings
            .iter()
            .any(|w| w.contains(text(&inside)) && w.contains("mounted inside")),
        "{warnings:?}"
    );
    assert!(!inside.join("unseen").exists());
    fixture.assert_equal();
    fixture.umount();
    drop(nested);
    assert!(fixture.report().is_equal());
}

#[test]
fn a_subvolume_inside_is_named_and_not_followed() {
    let test = "a_subvolume_inside_is_named_and_not_followed";
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, "btrfs", 256) else {
        return;
    };
    let create = |path: &Path| {
        let command = program("btrfs").args(["-q", "subvolume", "create"]);
        command.arg(path).succeed();
    };
    let mut fixture = Fixture::on("subvolume", image.path());
    std::fs::create_dir(fixture.path("plain")).expect("mkdir");
    std::fs::write(fixture.path("plain/file"), b"content").expect("write");
    for name in ["plain/inner", "outer"] {
        create(&fixture.path(name));
        std::fs::write(fixture.path(name).join("unseen"), b"x").expect("write");
    }
    create(&image.path().join("beside"));
    program("btrfs")
        .args(["-q", "subvolume", "snapshot"])
        .args([fixture.path("outer"), fixture.path("plain/snapshot")])
        .succeed();
    fixture.start();
    let warnings = fixture.set().warnings();
    for name in ["plain/inner", "plain/snapshot", "outer"] {
        let path = fixture.path(name);
        let named = warnings
            .iter()
            .any(|w| w.contains(text(&path)) && w.contains("subvolume"));
        assert!(named, "{name}: {warnings:?}");
        let seen = std::fs::symlink_metadata(&path).expect_err("stat");
        assert_eq!(seen.raw_os_error(), Some(libc::EXDEV), "{name}");
        let made = std::fs::create_dir(&path).expect_err("mkdir");
        assert_eq!(made.raw_os_error(), Some(libc::EXDEV), "{name}");
        let moved = std::fs::rename(fixture.path("plain/file"), &path).expect_err("rename");
        assert_eq!(moved.raw_os_error(), Some(libc::EXDEV), "{name}");
    }
    assert!(
        !warnings.iter().any(|w| w.contains("beside/")),
        "{warnings:?}"
    );
    // The first listing comes with attributes, a second one may not.
    for _ in 0..3 {
        let listed: Vec<_> = std::fs::read_dir(fixture.path("plain"))
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(listed, ["file"]);
    }
    fixture.assert_equal();
    assert!(!fixture.replica("outer").exists() && !fixture.replica("plain/inner").exists());
    fixture.umount();
    // A subvolume itself is a directory like others.
    drop(fixture);
    works("subvolume", &image.path().join("beside"));
}

#[test]
fn directories_around_and_inside_a_protected_one_are_refused() {
    if !is_ready("directories_around_and_inside_a_protected_one_are_refused") {
        return;
    }
    let scratch = Scratch::new("around");
    let around = scratch.path().join("around");
    std::fs::create_dir_all(around.join("dir/inside")).expect("mkdir");
    let mut fixture = Fixture::over("around", &around.join("dir"));
    fixture.start();
    let refused = |dir: &Path, on: &Path, words: &[&str]| {
        let state = fixture.outside("other-state");
        let command = fixture.doppelfs().arg("mount").arg(dir).arg(on);
        command
            .args(["--set", "other", "--state", text(&state)])
            .run()
            .expect_code(2)
            .expect_words(words);
        assert!(!state.join("owner.json").exists(), "it is claimed");
    };
    let elsewhere = scratch.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("mkdir");
    refused(&around, &around, &["already", "two sets", "umount"]);
    refused(&around, &elsewhere, &["already", "two sets", "umount"]);
    refused(&elsewhere, &around, &["already", "two sets", "umount"]);
    let inside = around.join("dir/inside");
    refused(&inside, &inside, &["already", "inside"]);
    std::fs::write(fixture.path("inside/file"), b"goes on").expect("write");
    fixture.finish();
}

#[test]
fn a_state_directory_without_room_is_refused_and_works_when_there_is() {
    let test = "a_state_directory_without_room_is_refused_and_works_when_there_is";
    if !is_ready(test) {
        return;
    }
    let scratch = Scratch::new("no-room");
    let small = scratch.path().join("small");
    let args = ["-t", "tmpfs", "-o", "size=64m"];
    let Some(_small) = Mounted::new(test, &args, Path::new("tmpfs"), &small) else {
        return;
    };
    let dir = scratch.path().join("dir");
    let run_dir = scratch.path().join("run");
    for dir in [&dir, &run_dir] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    let mount = || {
        let state = small.join("state");
        let command = doppelfs(&run_dir).arg("mount").arg(&dir);
        command.args([
            "--set",
            "odd",
            "--queue-free-min",
            "0",
            "--state",
            text(&state),
        ])
    };
    program("mount")
        .args(["-o", "remount,ro"])
        .arg(&small)
        .succeed();
    mount()
        .run()
        .expect_code(2)
        .expect_words(&["read-only", text(&small)]);
    program("mount")
        .args(["-o", "remount,rw"])
        .arg(&small)
        .succeed();
    let filled = program("dd").args(["if=/dev/zero", "bs=64k"]);
    let file = small.join("filler");
    filled
        .arg(format!("of={}", text(&file)))
        .run()
        .expect_code(1);
    mount()
        .run()
        .expect_code(2)
        .expect_words(&["no space left", text(&small)]);
    std::fs::remove_file(&file).expect("unlink");
    mount().succeed();
    std::fs::write(dir.join("file"), b"content").expect("write");
    doppelfs(&run_dir).arg("umount").arg(&dir).succeed();
    assert_eq!(std::fs::read(dir.join("file")).expect("read"), b"content");
}
