//! Goal: mount(8) and fstab find their way to the program.
//! Method: the helpers with a program that writes down how it was called; mount(8) itself in a mount
//! namespace of the test (root only, skipped loudly otherwise).

use crate::cli_scratch::{Ran, Scratch};
use std::path::PathBuf;
use std::process::Command;

fn helper(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("mount-helpers")
        .join(name)
}

/// A program that notes each of its words on a line, and ends with the code in `DOPPELFS_CODE`.
fn recorder(scratch: &Scratch) -> PathBuf {
    let log = scratch.path().join("calls");
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >> {}\nexit ${{DOPPELFS_CODE:-0}}\n",
        log.display()
    );
    scratch.script("doppelfs", &text)
}

fn calls(scratch: &Scratch) -> Vec<String> {
    let text = std::fs::read_to_string(scratch.path().join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn call(scratch: &Scratch, name: &str, words: &[&str], code: &str) -> Ran {
    let output = Command::new(helper(name))
        .args(words)
        .env("DOPPELFS_BIN", recorder(scratch))
        .env("DOPPELFS_CODE", code)
        .output()
        .unwrap();
    Ran::of(&output)
}

#[test]
fn the_mount_helper_hands_over_directory_mount_point_and_options() {
    let scratch = Scratch::new();
    let options = "rw,target=h:1:a b,x-y=\"1,2\"";
    let words = [
        "/srv/my data",
        "/mnt/x",
        "-n",
        "-o",
        options,
        "-t",
        "doppelfs",
    ];
    assert_eq!(call(&scratch, "mount.doppelfs", &words, "0").code, 0);
    assert_eq!(
        calls(&scratch),
        ["mount", "-o", options, "--", "/srv/my data", "/mnt/x"]
    );
}

#[test]
fn the_mount_helper_knows_sloppy_fake_and_verbose() {
    let scratch = Scratch::new();
    let ran = call(
        &scratch,
        "mount.doppelfs",
        &["/a", "/b", "-sv", "-o", "zebra"],
        "0",
    );
    assert_eq!(ran.code, 0);
    assert!(
        ran.out.contains("mount --sloppy -o zebra -- /a /b"),
        "{}",
        ran.out
    );
    assert_eq!(
        calls(&scratch),
        ["mount", "--sloppy", "-o", "zebra", "--", "/a", "/b"]
    );
    let scratch = Scratch::new();
    assert_eq!(
        call(&scratch, "mount.doppelfs", &["/a", "/b", "-f"], "0").code,
        0
    );
    assert!(calls(&scratch).is_empty());
}

#[test]
fn the_helpers_answer_with_the_codes_of_mount() {
    let scratch = Scratch::new();
    assert_eq!(
        call(&scratch, "mount.doppelfs", &["/a", "/b"], "2").code,
        32
    );
    assert_eq!(call(&scratch, "mount.doppelfs", &["/a"], "0").code, 1);
    assert_eq!(
        call(&scratch, "mount.doppelfs", &["/a", "/b", "-q"], "0").code,
        1
    );
    assert_eq!(
        call(&scratch, "mount.doppelfs", &["/a", "/b", "-N", "/ns"], "0").code,
        1
    );
    assert_eq!(call(&scratch, "umount.doppelfs", &["/a"], "2").code, 32);
    assert_eq!(call(&scratch, "umount.doppelfs", &[], "0").code, 1);
    for name in ["mount.fuse.doppelfs", "umount.fuse.doppelfs"] {
        assert_eq!(call(&scratch, name, &["/a", "/b", "-q"], "0").code, 1);
        let output = Command::new(helper(name))
            .args(["/a", "/b"])
            .env("DOPPELFS_BIN", scratch.path().join("none"))
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(if name.starts_with('u') { 1 } else { 2 })
        );
    }
}

#[test]
fn the_umount_helper_hands_over_the_mount_point() {
    let scratch = Scratch::new();
    assert_eq!(
        call(&scratch, "umount.doppelfs", &["/mnt/x y", "-n"], "0").code,
        0
    );
    assert_eq!(calls(&scratch), ["umount", "--", "/mnt/x y"]);
}

/// mount(8) that notes how it was called.
fn with_recorded_mount(scratch: &Scratch, name: &str, words: &[&str]) -> Vec<String> {
    let bin = scratch.dir("bin");
    for tool in ["mount", "umount"] {
        let log = scratch.path().join("calls").display().to_string();
        let text = format!("#!/bin/sh\nprintf '%s\\n' {tool} \"$@\" >> {log}\n");
        scratch.script(&format!("bin/{tool}"), &text);
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new(helper(name))
        .args(words)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    calls(scratch)
}

#[test]
fn a_remount_goes_to_the_kernel_with_its_own_flags_only() {
    let scratch = Scratch::new();
    let options = "ro,relatime,remount,user_id=0,group_id=0,default_permissions,allow_other";
    let words = ["data", "/srv/data", "-o", options];
    let calls = with_recorded_mount(&scratch, "mount.doppelfs", &words);
    assert_eq!(
        calls,
        ["mount", "-i", "-o", "remount,ro,relatime", "/srv/data"]
    );
}

#[test]
fn a_lazy_umount_goes_to_the_kernel() {
    let scratch = Scratch::new();
    let calls = with_recorded_mount(&scratch, "umount.doppelfs", &["/srv/data", "-l"]);
    assert_eq!(calls, ["umount", "-i", "-l", "/srv/data"]);
}

/// Runs sh in a mount namespace in which /sbin has our helpers; none without root or overlayfs.
fn with_installed_helpers(scratch: &Scratch, script: &str) -> Option<Ran> {
    let helpers = scratch.dir("helpers");
    for name in ["mount.doppelfs", "umount.doppelfs"] {
        for link in [name.to_owned(), name.replace(".doppelfs", ".fuse.doppelfs")] {
            std::fs::copy(helper(&link), helpers.join(link)).unwrap();
        }
    }
    let sbin = std::fs::canonicalize("/sbin").unwrap();
    let prepare = format!(
        "mount -t overlay overlay -o lowerdir={}:{} {} || exit 77\n{script}",
        helpers.display(),
        sbin.display(),
        sbin.display()
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &prepare])
        .env("DOPPELFS_BIN", recorder(scratch))
        .output()
        .ok()?;
    let ran = Ran::of(&output);
    if ran.code == 77 || ran.err.contains("unshare") {
        eprintln!(
            "SKIPPED: no mount namespace with an overlay here: {}",
            ran.err
        );
        return None;
    }
    Some(ran)
}

#[test]
fn mount_dash_t_doppelfs_reaches_the_program() {
    let scratch = Scratch::new();
    let dir = scratch.dir("data").display().to_string();
    let script = format!("mount -t doppelfs -o insecure-loopback,_netdev {dir} {dir}");
    let Some(ran) = with_installed_helpers(&scratch, &script) else {
        return;
    };
    assert_eq!(ran.code, 0, "{}", ran.err);
    let calls = calls(&scratch);
    assert_eq!(calls[0..2], ["mount", "-o"]);
    assert!(
        calls[2].split(',').any(|o| o == "insecure-loopback"),
        "{calls:?}"
    );
    assert_eq!(calls[3..], ["--".to_owned(), dir.clone(), dir]);
}

/// README: "a line of type doppelfs in /etc/fstab".
#[test]
fn mount_all_mounts_the_lines_of_fstab() {
    let scratch = Scratch::new();
    let dir = scratch.dir("data").display().to_string();
    let fstab = scratch.path().join("fstab");
    let options = "target=127.0.0.1:7420,insecure-loopback,_netdev,nofail";
    std::fs::write(&fstab, format!("{dir} {dir} doppelfs {options} 0 0\n")).unwrap();
    let script = format!("mount -a -T {}", fstab.display());
    let Some(ran) = with_installed_helpers(&scratch, &script) else {
        return;
    };
    assert_eq!(ran.code, 0, "{}", ran.err);
    let calls = calls(&scratch);
    assert_eq!(
        calls.first().map(String::as_str),
        Some("mount"),
        "{calls:?}"
    );
    let wanted = |option: &str| calls[2].split(',').any(|o| o == option);
    assert!(
        wanted("target=127.0.0.1:7420") && wanted("insecure-loopback"),
        "{calls:?}"
    );
}
