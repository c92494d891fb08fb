//! Goal: what fstab says beside the configured sets is found before the machine starts with it.
//! Method: `doppelfs config check` with an fstab of the test.

use crate::config_files::Place;
use doppelfs::config::{read_fstab, unit_instance};
use std::path::Path;
use std::process::Command;

fn checked(place: &Place, fstab: &str) -> Vec<String> {
    place.write("fstab", fstab);
    place.problems()
}

fn place() -> Place {
    let place = Place::new();
    for dir in ["data", "mnt"] {
        place.scratch.dir(dir);
    }
    place.write(
        "sets.d/data.toml",
        "path = \"@/data\"\nqueue-memory = \"64M\"\n",
    );
    place
}

#[test]
fn lines_that_mean_the_same_are_fine() {
    let place = place();
    for line in [
        "",
        "# data @/mnt doppelfs zzz",
        "/dev/sda1 / ext4 defaults 0 1\nnone /proc proc defaults",
        "data @/data doppelfs _netdev,nofail,x-systemd.device-timeout=1 0 0",
        "@/data @/data fuse.doppelfs defaults,noauto 0 0",
        "data @/data/ doppelfs queue-memory=65536K",
        "/srv/other /srv/other doppelfs target=b:1,_netdev 0 0",
    ] {
        assert_eq!(checked(&place, line), [] as [&str; 0], "{line}");
    }
}

#[test]
fn lines_with_another_meaning_are_told() {
    let place = place();
    for (line, expected) in [
        (
            "data @/mnt doppelfs defaults",
            "1:1: set data is mounted on @/mnt by this line and on @/data by @/etc/sets.d/data.toml:1; \
             make them one",
        ),
        (
            "data @/data doppelfs queue-memory=32M,atime",
            "1:@: warning: atime, queue-memory of this line differ from @/etc/sets.d/data.toml; what \
             fstab says counts where the set is mounted by this line, and not where `doppelfs mount` or \
             its unit mounts it",
        ),
        (
            "data @/data doppelfs quene-memory=1G",
            "1:@: unknown mount option \"quene-memory\"; did you mean \"queue-memory\"?",
        ),
        (
            "@/data @/data doppelfs set=web",
            "1:@: set=web: @/data is the path of set data (@/etc/sets.d/data.toml:1)",
        ),
        (
            "/srv/other /srv/other doppelfs order=lax",
            "1:32: order: \"lax\" is not strict or relaxed",
        ),
    ] {
        let problems = checked(&place, line);
        let base = place.scratch.path().display().to_string();
        let long = line.replace('@', &base);
        let column = long.rfind(' ').unwrap() + 2;
        let expected = expected.replacen("1:@:", &format!("1:{column}:"), 1);
        assert_eq!(problems, [format!("@/etc/fstab:{expected}")], "{line}");
    }
    let problems = checked(&place, "dta @/data doppelfs defaults");
    assert!(
        problems[0].contains("there is no set \"dta\""),
        "{problems:?}"
    );
    assert!(
        problems[0].contains("did you mean \"data\"?"),
        "{problems:?}"
    );
}

#[test]
fn a_second_line_for_a_mount_point_gets_a_unit_proposed() {
    let place = place();
    let fstab = "/dev/sdb1 @/data ext4 defaults 0 2\n\ndata @/data doppelfs defaults 0 0\n";
    let problems = checked(&place, fstab);
    assert_eq!(
        problems,
        [
            "@/etc/fstab:3:1: line 1 mounts @/data already, and of two lines with one mount point systemd \
          passes over the second at boot; take the line of type doppelfs out and have a unit protect the \
          directory: `systemctl enable --now 'doppelfs@data.service'`"
        ]
    );
    // Without a set it is the unit of the directory; and the other way round the other is passed over.
    let fstab =
        "/srv/my-data /srv/my-data doppelfs defaults\n/dev/sdb1 /srv/my-data/ ext4 defaults\n";
    let problems = checked(&place, fstab);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("@/etc/fstab:2:1: line 1 mounts"),
        "{problems:?}"
    );
    assert!(
        problems[0].contains("'doppelfs-dir@srv-my\\x2ddata.service'"),
        "{problems:?}"
    );
}

#[test]
fn fields_of_fstab_are_unescaped() {
    let place = place();
    let path = place.write("fstab", "  \t/a\\040b\t/c\\134d\tdoppelfs\n");
    let lines = read_fstab(&path).unwrap();
    assert_eq!(lines[0].spec, "/a b");
    assert_eq!(lines[0].mountpoint, Path::new("/c\\d"));
    assert_eq!((lines[0].place.line, lines[0].place.column), (1, 4));
}

#[test]
fn instances_of_units_are_those_of_systemd() {
    for path in [
        "/",
        "/srv/data",
        "/srv/my data-1/",
        "/.hidden/x.y",
        "/a//b",
        "/ü",
    ] {
        let escaped = Command::new("systemd-escape")
            .args(["--path", path])
            .output();
        let Ok(escaped) = escaped else {
            eprintln!("SKIPPED: there is no systemd-escape here");
            return;
        };
        let escaped = String::from_utf8(escaped.stdout).unwrap();
        assert_eq!(unit_instance(Path::new(path)), escaped.trim_end(), "{path}");
    }
}
