//! Goal: systemd takes the units that are shipped, and makes of fstab what docs/boot-order.md says.
//! Method: systemd-analyze and systemd's own generator of mount units, run by hand.

use crate::cli_scratch::{Ran, Scratch};
use std::path::{Path, PathBuf};
use std::process::Command;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(shipped().join(name)).unwrap()
}

/// The value of each line `key=`.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(key));
    lines.filter_map(|rest| rest.strip_prefix('=')).collect()
}

#[test]
fn the_units_pass_systemd_analyze_verify() {
    let scratch = Scratch::new();
    let units = scratch.dir("units");
    // An instance, too: its path must come out of its name.
    for (file, unit) in [
        ("doppelfs@.service", "doppelfs@data.service"),
        ("doppelfs@.service", "doppelfs@my-data.2.service"),
        ("doppelfs-dir@.service", "doppelfs-dir@srv-data.service"),
        ("doppelfs-target.service", "doppelfs-target.service"),
        ("doppelfs-mounts.target", "doppelfs-mounts.target"),
    ] {
        let text = text_of(file).replace("/usr/bin/doppelfs", env!("CARGO_BIN_EXE_doppelfs"));
        std::fs::write(units.join(unit), text).unwrap();
    }
    // The file servers' own units are not ours: any service will do below the drop-ins.
    for entry in std::fs::read_dir(shipped()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(server) = name.strip_suffix(".d") {
            std::fs::write(units.join(server), "[Service]\nExecStart=/bin/true\n").unwrap();
            let dropin = scratch.dir(&format!("units/{name}")).join("doppelfs.conf");
            std::fs::copy(path.join("doppelfs.conf"), dropin).unwrap();
        }
    }
    for unit in std::fs::read_dir(&units).unwrap() {
        let unit = unit.unwrap().path();
        if unit.is_dir() {
            continue;
        }
        let verify = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
            .output();
        let Ok(output) = verify else {
            eprintln!("SKIPPED: there is no systemd-analyze here");
            return;
        };
        let ran = Ran::of(&output);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", unit.display());
    }
}

/// docs/boot-order.md: who is ordered behind whom.
#[test]
fn file_servers_are_ordered_behind_what_is_protected() {
    for unit in ["doppelfs@.service", "doppelfs-dir@.service"] {
        let text = text_of(unit);
        assert_eq!(
            values(&text, "Before"),
            ["doppelfs-mounts.target"],
            "{unit}"
        );
        assert_eq!(
            values(&text, "WantedBy"),
            ["multi-user.target doppelfs-mounts.target"],
            "{unit}"
        );
        assert_eq!(values(&text, "KillMode"), ["mixed"], "{unit}");
        assert_eq!(values(&text, "Type"), ["notify"], "{unit}");
        assert!(values(&text, "WatchdogSec").is_empty(), "{unit}");
        // Each of these would give the service a mount namespace, and the mount with it.
        for word in [
            "ProtectSystem",
            "PrivateTmp",
            "PrivateMounts",
            "ReadOnlyPaths",
        ] {
            assert!(values(&text, word).is_empty(), "{unit}: {word}");
        }
    }
    for server in ["nfs-server", "smbd", "nmbd", "nfs-ganesha"] {
        let text = text_of(&format!("{server}.service.d/doppelfs.conf"));
        // nfs-utils orders the kernel's server before the host's own NFS mounts, which are in remote-fs.target.
        let after = match server {
            "nfs-server" => "doppelfs-mounts.target",
            _ => "doppelfs-mounts.target remote-fs.target",
        };
        assert_eq!(values(&text, "After"), [after], "{server}");
        assert_eq!(
            values(&text, "Wants"),
            ["doppelfs-mounts.target"],
            "{server}"
        );
    }
}

/// docs/boot-order.md states the figures.
#[test]
fn the_exposure_of_the_units_is_what_is_stated() {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/boot-order.md");
    let doc = std::fs::read_to_string(doc).unwrap();
    let scratch = Scratch::new();
    for (file, instance) in [
        ("doppelfs@.service", "doppelfs@data.service"),
        ("doppelfs-target.service", "doppelfs-target.service"),
    ] {
        let unit = scratch.path().join(instance);
        let text = text_of(file).replace("/usr/bin/doppelfs", env!("CARGO_BIN_EXE_doppelfs"));
        std::fs::write(&unit, text).unwrap();
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true"])
            .arg(&unit)
            .output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            eprintln!("SKIPPED: no systemd-analyze here that looks at units offline");
            return;
        };
        let ran = Ran::of(&output);
        let last = ran.out.lines().last().unwrap_or_default();
        let figure = last
            .split(": ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        // Another version weighs other things; the figures are those of 252.
        let version = Command::new("systemd-analyze")
            .arg("--version")
            .output()
            .unwrap();
        if !String::from_utf8_lossy(&version.stdout).starts_with("systemd 252") {
            eprintln!("SKIPPED: figures are those of systemd 252; here: {last}");
            return;
        }
        let stated = format!("`{file}` {}", figure.unwrap());
        assert!(
            doc.contains(&stated),
            "docs/boot-order.md does not say: {stated}"
        );
    }
}

/// What systemd makes of an fstab: the units' directory and what it said.
fn generated(scratch: &Scratch, fstab: &str) -> Option<(PathBuf, Ran)> {
    let generator = [
        "/usr/lib/systemd/system-generators/systemd-fstab-generator",
        "/lib/systemd/system-generators/systemd-fstab-generator",
    ];
    let Some(generator) = generator.into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("SKIPPED: systemd has no generator of mount units here");
        return None;
    };
    let file = scratch.path().join("fstab");
    std::fs::write(&file, fstab).unwrap();
    let dirs = ["normal", "early", "late"].map(|name| scratch.dir(name));
    let output = Command::new(generator)
        .args(&dirs)
        .env("SYSTEMD_FSTAB", &file)
        .env("SYSTEMD_LOG_TARGET", "console")
        .env("SYSTEMD_PROC_CMDLINE", "")
        .output()
        .unwrap();
    Some((dirs[0].clone(), Ran::of(&output)))
}

#[test]
fn lines_of_fstab_become_units_in_the_stated_order() {
    let scratch = Scratch::new();
    let fstab = "data /srv/data doppelfs defaults 0 0\n\
                 web /srv/web fuse.doppelfs _netdev 0 0\n\
                 late /srv/late doppelfs _netdev,nofail,x-systemd.before=doppelfs-mounts.target 0 0\n\
                 manual /srv/manual doppelfs noauto 0 0\n";
    let Some((units, ran)) = generated(&scratch, fstab) else {
        return;
    };
    assert_eq!(ran.code, 0, "{}", ran.err);
    let unit = |name: &str| std::fs::read_to_string(units.join(name)).unwrap();
    let data = unit("srv-data.mount");
    assert_eq!(values(&data, "What"), ["data"]);
    assert_eq!(values(&data, "Type"), ["doppelfs"]);
    assert!(
        values(&data, "Before").contains(&"local-fs.target"),
        "{data}"
    );
    let wanted = |dir: &str, name: &str| units.join(dir).join(name).exists();
    assert!(wanted("local-fs.target.requires", "srv-data.mount"));
    let web = unit("srv-web.mount");
    assert!(
        values(&web, "Before").contains(&"remote-fs.target"),
        "{web}"
    );
    assert!(wanted("remote-fs.target.requires", "srv-web.mount"));
    // With nofail nothing waits for it, unless it is told to.
    let late = unit("srv-late.mount");
    assert_eq!(
        values(&late, "Before"),
        ["doppelfs-mounts.target"],
        "{late}"
    );
    assert!(wanted("remote-fs.target.wants", "srv-late.mount"));
    assert!(!wanted("local-fs.target.requires", "srv-manual.mount"));
}

/// `doppelfs config check` finds the same, before the machine starts with it.
#[test]
fn of_two_lines_for_one_mount_point_the_second_is_passed_over() {
    let scratch = Scratch::new();
    let fstab = "/dev/sdb1 /srv/data ext4 defaults 0 2\n/srv/data /srv/data doppelfs _netdev 0 0\n";
    let Some((units, ran)) = generated(&scratch, fstab) else {
        return;
    };
    assert!(ran.err.contains("Duplicate entry"), "{}", ran.err);
    let unit = std::fs::read_to_string(units.join("srv-data.mount")).unwrap();
    assert_eq!(values(&unit, "Type"), ["ext4"]);
}

#[test]
fn the_directories_and_groups_of_the_package_are_understood() {
    for (program, file) in [
        ("systemd-tmpfiles", "doppelfs.tmpfiles.conf"),
        ("systemd-sysusers", "doppelfs.sysusers.conf"),
    ] {
        let scratch = Scratch::new();
        let root = scratch.dir("root/etc");
        for name in ["passwd", "group"] {
            std::fs::write(root.join(name), "root:x:0:\n").unwrap();
        }
        std::fs::write(root.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let mut command = Command::new(program);
        if program == "systemd-tmpfiles" {
            command.arg("--create");
        }
        let output = command
            .arg(format!("--root={}", scratch.path().join("root").display()))
            .arg(shipped().join(file))
            .output();
        let Ok(output) = output else {
            eprintln!("SKIPPED: there is no {program} here");
            continue;
        };
        let ran = Ran::of(&output);
        if !doppelfs::sys::is_root() {
            eprintln!("SKIPPED: {program} needs root");
            continue;
        }
        assert_eq!(ran.code, 0, "{program}: {}", ran.err);
        let made = if program == "systemd-tmpfiles" {
            root.join("doppelfs/keys").is_dir()
        } else {
            let groups = std::fs::read_to_string(root.join("group")).unwrap();
            groups.contains("doppelfs-monitor")
        };
        assert!(made, "{program}");
    }
}
