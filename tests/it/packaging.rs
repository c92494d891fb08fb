//! Goal: the Debian package has all that is shipped, and its scripts do what docs/packaging.md says.
//! Method: what Cargo.toml says of it against the tree; the scripts themselves, with directories of the test in
//! the place of the system's. `scripts/try-package` installs the whole in a system of its own.

use crate::cli_scratch::{Ran, Scratch, run};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Source pattern, place and mode of each asset.
fn assets() -> Vec<(String, String, String)> {
    let output = Command::new(env!("CARGO"))
        .current_dir(tree())
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .output()
        .unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = &all["packages"][0]["metadata"]["deb"];
    let assets = package["assets"].as_array().unwrap().iter();
    assets
        .map(|asset| {
            let word = |index: usize| asset[index].as_str().unwrap().to_owned();
            (word(0), word(1), word(2))
        })
        .collect()
}

/// The files that a pattern names; an asterisk stands in the last word only.
fn files_of(pattern: &str) -> Vec<PathBuf> {
    let (dir, name) = pattern.rsplit_once('/').unwrap_or((".", pattern));
    let Some((before, after)) = name.split_once('*') else {
        let file = tree().join(pattern);
        return if file.is_file() {
            vec![file]
        } else {
            Vec::new()
        };
    };
    let entries = std::fs::read_dir(tree().join(dir))
        .into_iter()
        .flatten()
        .flatten();
    let named = entries.filter(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.starts_with(before) && name.ends_with(after) && entry.path().is_file()
    });
    named.map(|entry| entry.path()).collect()
}

fn files_below(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![tree().join(dir)];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => pending.push(path),
                path => found.push(path),
            }
        }
    }
    found
}

#[test]
fn everything_that_is_shipped_is_in_the_package() {
    let mut packed = BTreeSet::new();
    for (source, place, mode) in assets() {
        if source.starts_with("target/") {
            continue;
        }
        let files = files_of(&source);
        assert!(!files.is_empty(), "no file is {source}, an asset");
        let is_program = place.starts_with("usr/bin") || place.starts_with("usr/sbin");
        assert_eq!(mode, if is_program { "755" } else { "644" }, "{source}");
        packed.extend(files);
    }
    for dir in ["systemd", "mount-helpers", "docs"] {
        for file in files_below(dir) {
            assert!(packed.contains(&file), "{} is no asset", file.display());
        }
    }
}

/// A drop-in under another name would be of another unit.
#[test]
fn each_unit_and_drop_in_lies_where_systemd_looks() {
    for (source, place, _) in assets() {
        let Some(rest) = source.strip_prefix("systemd/") else {
            continue;
        };
        let wanted = match rest.rsplit_once('/') {
            Some((dir, _)) => format!("usr/lib/systemd/system/{dir}/"),
            None if rest.ends_with(".catalog") => "usr/lib/systemd/catalog/".to_owned(),
            None if rest.contains("sysusers") => "usr/lib/sysusers.d/doppelfs.conf".to_owned(),
            None if rest.contains("tmpfiles") => "usr/lib/tmpfiles.d/doppelfs.conf".to_owned(),
            None => "usr/lib/systemd/system/".to_owned(),
        };
        assert_eq!(place, wanted, "{source}");
    }
}

#[test]
fn the_scripts_are_well_formed() {
    for name in [
        "debian/postinst",
        "debian/prerm",
        "debian/postrm",
        "package",
        "try-package",
    ] {
        let path = tree().join("scripts").join(name);
        let shell = if name.starts_with("debian/") {
            "sh"
        } else {
            "bash"
        };
        let output = Command::new(shell).arg("-n").arg(&path).output().unwrap();
        let ran = Ran::of(&output);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}");
        let checked = Command::new("shellcheck")
            .current_dir(tree())
            .arg("-x")
            .arg(&path)
            .output();
        let Ok(output) = checked else {
            eprintln!("SKIPPED: there is no shellcheck here");
            continue;
        };
        let ran = Ran::of(&output);
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{name}");
    }
}

/// Two ways to the same: with systemd at boot, by the script when the package is installed.
#[test]
fn the_script_makes_what_the_lists_of_systemd_have() {
    let text = |name: &str| std::fs::read_to_string(tree().join(name)).unwrap();
    let script = text("scripts/debian/postinst");
    for line in text("systemd/doppelfs.tmpfiles.conf").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The package itself has /etc/doppelfs, for the sample in it.
        if let ["d", path, mode, "root", "root", "-"] = words[..]
            && path != "/etc/doppelfs"
        {
            let made = format!("install -d -m {mode} {path}\n");
            assert!(script.contains(&made), "postinst has no: {made}");
        }
    }
    for line in text("systemd/doppelfs.sysusers.conf").lines() {
        if let Some(group) = line.strip_prefix("g ") {
            let group = group.split(' ').next().unwrap();
            assert!(script.contains(group), "postinst does not make {group}");
        }
    }
}

/// As shipped, and with every line that it has as a comment.
#[test]
fn the_sample_of_the_configuration_is_right() {
    let sample = std::fs::read_to_string(tree().join("docs/doppelfs.toml")).unwrap();
    let scratch = Scratch::new();
    let uncommented: String = sample
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(uncommented.contains("\n[target]\n"), "{uncommented}");
    for text in [sample, uncommented] {
        let dir = scratch.dir("etc");
        std::fs::write(dir.join("doppelfs.toml"), text).unwrap();
        std::fs::write(scratch.path().join("fstab"), "").unwrap();
        let here = scratch.path().display();
        let words = format!("config check --config-dir {here}/etc --fstab {here}/fstab");
        let ran = run(scratch.path(), &words);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    }
}

/// A maintainer script, with the directories of the test in the place of the system's. It makes no groups.
fn run_script(scratch: &Scratch, name: &str, words: &[&str]) -> Ran {
    let script = std::fs::read_to_string(tree().join("scripts/debian").join(name)).unwrap();
    let here = scratch.path().display().to_string();
    let mut text = script;
    for path in [
        "/etc/doppelfs",
        "/etc/systemd/system",
        "/run/doppelfs",
        "/run/systemd/system",
        "/var/lib/doppelfs",
        "/proc/self/mountinfo",
        "/usr/bin/doppelfs",
    ] {
        text = text.replace(path, &format!("{here}{path}"));
    }
    text = text.replace("addgroup", "true");
    let file = scratch.script(name, &text);
    Ran::of(&Command::new("sh").arg(file).args(words).output().unwrap())
}

fn put(scratch: &Scratch, path: &str, text: &str) -> PathBuf {
    let path = scratch.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn nothing_is_removed_while_a_set_is_mounted() {
    let scratch = Scratch::new();
    let other = "28 1 0:25 / /srv/x rw - fuse.other x rw\n";
    put(&scratch, "proc/self/mountinfo", other);
    let ran = run_script(&scratch, "prerm", &["remove"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ours = "40 28 0:50 / /srv/data rw shared:1 - fuse.doppelfs data rw,user_id=0\n";
    put(&scratch, "proc/self/mountinfo", &format!("{other}{ours}"));
    let ran = run_script(&scratch, "prerm", &["remove"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("data on /srv/data"), "{}", ran.err);
    assert!(!ran.err.contains("/srv/x"), "{}", ran.err);
    let ran = run_script(&scratch, "prerm", &["upgrade"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn a_purge_takes_states_and_keys_and_nothing_else() {
    let scratch = Scratch::new();
    let key = put(&scratch, "etc/doppelfs/keys/key", "");
    let state = "var/lib/doppelfs/data";
    let owner = "{\n  \"role\": \"source\",\n  \"path\": \"/srv/data\"\n}\n";
    let queue = put(&scratch, &format!("{state}/queue/segment"), "");
    put(&scratch, &format!("{state}/owner.json"), owner);
    let foreign = put(&scratch, "var/lib/doppelfs/mine/file", "");
    for word in ["remove", "purge", "purge"] {
        let ran = run_script(&scratch, "postrm", &[word]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{word}");
        assert_eq!(key.exists(), word == "remove");
        assert_eq!(queue.exists(), word == "remove");
        assert!(foreign.exists());
    }
    std::fs::remove_dir_all(foreign.parent().unwrap()).unwrap();
    assert_eq!(run_script(&scratch, "postrm", &["purge"]).code, 0);
    assert!(!scratch.path().join("var/lib/doppelfs").exists());
}

/// Somebody keeps replicas below a state directory.
#[test]
fn a_purge_leaves_replicas_wherever_they_are() {
    let scratch = Scratch::new();
    let here = scratch.path().display();
    let root = "var/lib/doppelfs/target/replicas";
    let replica = put(&scratch, &format!("{root}/host/data/file"), "");
    let owner = format!("{{\"role\": \"target\", \"path\": \"{here}/{root}\"}}\n");
    put(&scratch, "var/lib/doppelfs/target/owner.json", &owner);
    let ran = run_script(&scratch, "postrm", &["purge"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("stays"), "{}", ran.out);
    assert!(replica.exists());
}

/// A program that notes how it is called, and fails with these words.
fn put_program(scratch: &Scratch, fails_with: &str) {
    let here = scratch.path().display();
    let text = format!(
        "#!/bin/sh\necho \"$*\" >>{here}/calls\ncase \"$*\" in {fails_with}) exit 2 ;; esac\n"
    );
    scratch.dir("usr/bin");
    scratch.script("usr/bin/doppelfs", &text);
    let _ = std::fs::remove_file(scratch.path().join("calls"));
}

fn calls(scratch: &Scratch) -> String {
    std::fs::read_to_string(scratch.path().join("calls")).unwrap_or_default()
}

#[test]
fn an_upgrade_replaces_workers_and_goes_on_when_one_cannot_be() {
    let scratch = Scratch::new();
    let run_dir = scratch.dir("run/doppelfs");
    scratch.dir("etc/doppelfs");
    let listen = |name: &str| UnixListener::bind(run_dir.join(name)).unwrap();
    let _sockets = ["data.sock", "web.sock", "target-7420.sock"].map(listen);
    put(&scratch, "run/doppelfs/file.sock", "no socket");
    put_program(&scratch, "*data");
    let ran = run_script(&scratch, "postinst", &["configure", ""]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(calls(&scratch), "", "a first installation");
    let keys = scratch.path().join("etc/doppelfs/keys");
    let mode = std::fs::metadata(&keys).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let ran = run_script(&scratch, "postinst", &["configure", "0.0.1-1"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let asked = "restart --keep-options --timeout 60";
    assert_eq!(
        calls(&scratch),
        format!("--version\n{asked} data\n{asked} web\n")
    );
    assert!(
        ran.out.contains("set data was NOT taken over"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("set web"), "{}", ran.out);
    assert!(ran.out.contains("target on port 7420"), "{}", ran.out);
}

/// Another libc, another processor: the workers of before are better than none.
#[test]
fn a_program_that_does_not_start_replaces_no_worker() {
    let scratch = Scratch::new();
    let run_dir = scratch.dir("run/doppelfs");
    scratch.dir("etc/doppelfs");
    let _socket = UnixListener::bind(run_dir.join("data.sock")).unwrap();
    put_program(&scratch, "--version");
    let ran = run_script(&scratch, "postinst", &["configure", "0.0.1-1"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(calls(&scratch), "--version\n");
    assert!(ran.out.contains("does not start"), "{}", ran.out);
}
