//! Goal: what stands in configuration files is understood as on the command line, or refused with file,
//! line, column and what to write instead; all of it at once. Method: the program on sample files, each of
//! which says in its comments what is to be found in it, and on directories of the test.

use crate::cli_scratch::{Ran, Scratch, doppelfs};
use doppelfs::config::{Configuration, MountOptions, Order, Settings};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/samples/config")
}

/// Copies, since root believes only files of root.
fn copy_samples(name: &str, to: &Path) {
    let mut pending = vec![samples().join(name)];
    while let Some(dir) = pending.pop() {
        let place = to.join(dir.strip_prefix(samples().join(name)).unwrap());
        std::fs::create_dir_all(&place).unwrap();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pending.push(path),
                false => {
                    std::fs::copy(&path, place.join(path.file_name().unwrap())).unwrap();
                }
            }
        }
    }
}

/// A configuration directory of the test.
pub(crate) struct Place {
    pub(crate) scratch: Scratch,
    pub(crate) dir: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let scratch = Scratch::new();
        let dir = scratch.dir("etc");
        scratch.dir("etc/sets.d");
        scratch.dir("run");
        Place { scratch, dir }
    }

    /// Writes a file; `@` stands for the test's directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        let base = self.scratch.path().display().to_string();
        std::fs::write(&path, text.replace('@', &base)).unwrap();
        path
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let output = doppelfs(&self.scratch.path().join("run"))
            .env("DOPPELFS_CONFIG_DIR", &self.dir)
            .env_remove("DOPPELFS_KEYS")
            .current_dir(self.scratch.path())
            .args(words)
            .output();
        Ran::of(&output.unwrap())
    }

    /// The problems that `config check` finds, without the test's directory in their text.
    pub(crate) fn problems(&self) -> Vec<String> {
        let fstab = self.dir.join("fstab");
        if !fstab.exists() {
            std::fs::write(&fstab, "").unwrap();
        }
        let ran = self.run(&["config", "check", "--fstab", fstab.to_str().unwrap()]);
        assert!(ran.code < 2, "{}", ran.err);
        let mut lines: Vec<String> = ran.out.lines().map(|line| self.shortened(line)).collect();
        let count = lines.pop().unwrap();
        assert_eq!(count.contains("no errors"), ran.code == 0, "{count}");
        lines
    }

    pub(crate) fn shortened(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.scratch.path().display()), "@/")
    }
}

#[test]
fn each_bad_sample_is_refused_with_its_message() {
    let scratch = Scratch::new();
    let mut count = 0;
    for kind in ["bad", "bad_general"] {
        copy_samples(kind, &scratch.dir(kind));
        let mut pending = vec![scratch.path().join(kind)];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let expected = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("# expect: "));
                let expected: Vec<String> = expected
                    .map(|line| format!("{}:{line}", path.display()))
                    .collect();
                let output = doppelfs(scratch.path())
                    .args(["config", "check"])
                    .arg(&path)
                    .output();
                let ran = Ran::of(&output.unwrap());
                let found = ran.out.lines().filter(|line| line.starts_with('/'));
                let found: Vec<&str> = found.filter(|line| !line.contains(": warning: ")).collect();
                assert_eq!(found, expected, "{}", path.display());
                assert_eq!(ran.code, 1, "{}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count} samples");
}

#[test]
fn the_good_sample_is_what_the_command_line_would_be() {
    let scratch = Scratch::new();
    let dir = scratch.dir("etc");
    copy_samples("good", &dir);
    let config = Configuration::load(&dir).unwrap();
    assert_eq!(config.problems, []);
    assert_eq!(config.metrics_listen.as_ref().unwrap().0.port(), 7421);
    let target = config.target.options().unwrap();
    assert_eq!(target.root, Path::new("/srv/replicas"));
    let set = config.set("share").unwrap();
    let mountpoint = set.mountpoint.as_ref().map(|(path, _)| path.as_path());
    let from_file = MountOptions::new(&set.path.0, mountpoint, &config.settings_for(Some(set)));
    let mut settings = Settings::new();
    settings
        .add_options(
            "set=share,target=127.0.0.1:7420:elsewhere/share,state=/var/lib/doppelfs/share,\
             keys=/etc/doppelfs/keys,order=strict,flush-interval=50ms,insecure-loopback,atime,remap-links,\
             journal-wait=250ms,queue-disk-max=unlimited,queue-free-min=1G,queue-memory=64M,\
             queue-alert=80%,queue-dir=/var/lib/doppelfs/share-queue,auto-remirror,ro,suid,nodev,noexec,\
             noatime,nodiratime,nosymfollow",
        )
        .unwrap();
    let typed = MountOptions::new(Path::new("/usr/share"), Some(Path::new("/mnt")), &settings);
    assert_eq!(from_file.unwrap(), typed.unwrap());
    let other = config.set("lib").unwrap();
    let other = MountOptions::new(&other.path.0, None, &config.settings_for(Some(other))).unwrap();
    assert_eq!(other.order, Order::Strict);
    assert_eq!(other.queue_disk_max, Some(50 << 30), "of [defaults]");
    assert!(other.flags.no_suid, "of [defaults]");
}

/// Each key of `-o` stands in files, or says why not.
#[test]
fn every_key_of_mount_is_known_in_files() {
    let place = Place::new();
    for (key, _) in doppelfs::config::MOUNT_KEYS {
        place.write("sets.d/a.toml", &format!("path = \"/usr\"\n{key} = {{}}\n"));
        let problems = place.problems();
        assert!(
            problems
                .iter()
                .all(|problem| !problem.contains("unknown key"))
                || key == "target",
            "{problems:?}"
        );
    }
}

#[test]
fn sets_are_compared_with_each_other() {
    let place = Place::new();
    for dir in ["a/inner", "b", "c", "d"] {
        place.scratch.dir(dir);
    }
    std::os::unix::fs::symlink(
        place.scratch.path().join("a"),
        place.scratch.path().join("link"),
    )
    .unwrap();
    place.write("sets.d/a.toml", "path = \"@/a\"\nstate = \"@/state/a\"\n");
    assert_eq!(place.problems(), [] as [&str; 0]);
    for (text, expected) in [
        (
            "path = \"@/a\"",
            "1:8: path: @/a is the path of set a (@/etc/sets.d/a.toml:1), too",
        ),
        (
            "path = \"@/link\"",
            "1:8: path: @/a is the path of set a (@/etc/sets.d/a.toml:1), too",
        ),
        (
            "path = \"@/a/inner\"",
            "1:8: path: @/a/inner lies inside of @/a, the path of set a (@/etc/sets.d/a.toml:1); a file \
             cannot belong to two sets",
        ),
        (
            "path = \"@/b\"\nmountpoint = \"@/a\"",
            "2:14: mountpoint: @/a is the path of set a (@/etc/sets.d/a.toml:1), too",
        ),
        (
            "path = \"@/b\"\nstate = \"@/state/a\"",
            "2:9: state: @/state/a is the state directory of set a (@/etc/sets.d/a.toml:2), too; each set \
             has one of its own",
        ),
        (
            "path = \"@/b\"\nstate = \"@/state/a/b\"",
            "2:9: state: @/state/a/b lies inside of @/state/a, the state directory of set a \
             (@/etc/sets.d/a.toml:2)",
        ),
        (
            "path = \"@/b\"\nstate = \"@/a/state\"",
            "2:9: state: @/a/state lies inside of @/a, which set a protects: what is recorded would be \
             recorded again; put it elsewhere",
        ),
        (
            "path = \"@/none\"",
            "1:8: path: @/none: no such directory; create it first",
        ),
        (
            "path = \"@/etc/sets.d/a.toml\"",
            "1:8: path: @/etc/sets.d/a.toml is not a directory; only directories can be protected",
        ),
        (
            "path = \"@/b\"\nkeys = \"@/none\"\ntargets = [\"b\"]",
            "3:12: warning: target b:7420: not paired with b:7420: run `doppelfs target invite` there, and \
             then here `doppelfs pair b:7420 TOKEN` with the token that it prints",
        ),
    ] {
        place.write("sets.d/b.toml", text);
        let problems = place.problems();
        let expected = format!("@/etc/sets.d/b.toml:{expected}");
        assert_eq!(problems, [expected], "{text}");
    }
}

#[test]
fn all_problems_of_all_files_are_told_and_as_json() {
    let place = Place::new();
    place.write(
        "doppelfs.toml",
        "[target]\nroot = 1\n[defaults]\natmie = true\n",
    );
    place.write("sets.d/a.toml", "path = 1\nzzz = 2\n");
    place.write("sets.d/b.toml", "order = \"lax\"\n");
    let problems = place.problems();
    assert_eq!(problems.len(), 6, "{problems:#?}");
    let ran = place.run(&["config", "check", "--json", "--fstab", "/dev/null"]);
    assert_eq!(ran.code, 1);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 6);
    let first = &report["problems"][0];
    assert_eq!((&first["line"], &first["column"]), (&2.into(), &8.into()));
    assert_eq!(first["severity"], "error");
    assert_eq!(report["files"].as_array().unwrap().len(), 3);
}

#[test]
fn a_file_that_cannot_be_read_stands_in_the_way_of_its_own_set_only() {
    let place = Place::new();
    place.scratch.dir("data");
    place.write(
        "sets.d/data.toml",
        "path = \"@/data\"\nstate = \"@/data/state\"\n",
    );
    std::os::unix::fs::symlink("none", place.dir.join("sets.d/gone.toml")).unwrap();
    let pipe = place.dir.join("sets.d/pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let problems = place.problems();
    assert!(
        problems
            .iter()
            .any(|p| p.contains("gone.toml:1:1: cannot read")),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|p| p.contains("pipe.toml: it is no file")),
        "{problems:?}"
    );
    let ran = place.run(&["mount", "data"]);
    assert!(ran.err.contains("the state directory"), "{}", ran.err);
    for name in ["gone", "pipe"] {
        let ran = place.run(&["set", "check", name]);
        assert_ne!(ran.code, 0, "{name}: {}", ran.out);
    }
}

/// Who is not root and may not look there goes on as if nothing were there.
#[test]
fn a_target_of_another_user_does_without_a_closed_configuration() {
    if !doppelfs::sys::is_root() {
        eprintln!("SKIPPED: only root becomes another user");
        return;
    }
    let place = Place::new();
    let text = format!(
        "mount --bind {} /etc && exec setpriv --reuid 65534 --clear-groups {} target serve --root /none",
        place.scratch.dir("fake-etc").display(),
        env!("CARGO_BIN_EXE_doppelfs")
    );
    let closed = place.scratch.dir("fake-etc/doppelfs");
    std::fs::write(closed.join("doppelfs.toml"), "zzz = 1\n").unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    for dir in [place.scratch.path(), &place.scratch.path().join("fake-etc")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &text])
        .output();
    let ran = Ran::of(&output.unwrap());
    if ran.err.contains("unshare") || ran.err.contains("mount:") || ran.err.contains("setpriv") {
        eprintln!(
            "SKIPPED: no mount namespace or no setpriv here: {}",
            ran.err
        );
        return;
    }
    assert!(
        ran.err.contains("nothing is taken from there"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("root directory /none"), "{}", ran.err);
}

#[test]
fn what_cannot_be_looked_at_ends_with_2() {
    let place = Place::new();
    let none = place.scratch.path().join("none");
    let ran = place.run(&["--config-dir", none.to_str().unwrap(), "config", "check"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("there is no configuration directory"),
        "{}",
        ran.err
    );
    let ran = place.run(&["config", "check", none.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.out);
    let ran = place.run(&["config", "check", "--fstab", none.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.out);
    for words in [["set", "check", "dta"], ["set", "show", "dta"]] {
        place.write("sets.d/data.toml", "path = \"/usr\"\n");
        let ran = place.run(&words);
        assert_eq!(ran.code, 2, "{}", ran.out);
        assert!(ran.err.contains("did you mean \"data\"?"), "{}", ran.err);
    }
}

/// docs/configuration.md: "root refuses what others may write".
#[test]
fn files_that_others_may_write_are_refused_by_root() {
    if !doppelfs::sys::is_root() {
        eprintln!("SKIPPED: only root refuses them");
        return;
    }
    let place = Place::new();
    let file = place.write("sets.d/a.toml", "path = \"/usr\"\n");
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
    mode(0o646).unwrap();
    let problems = place.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("everybody may write to it"),
        "{problems:?}"
    );
    let ran = place.run(&["mount", "a"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("everybody may write to it"), "{}", ran.err);
    mode(0o644).unwrap();
    assert_eq!(place.problems(), [] as [&str; 0]);
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    assert!(place.problems()[0].contains("it belongs to user 65534"));
    std::os::unix::fs::chown(&file, Some(0), Some(65534)).unwrap();
    mode(0o664).unwrap();
    assert!(place.problems()[0].contains("warning: group 65534 may write to it"));
    mode(0o644).unwrap();
    let sets = place.dir.join("sets.d");
    std::fs::set_permissions(&sets, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(place.problems()[0].contains("sets.d:1:1: everybody may write to it"));
}

#[test]
fn create_writes_a_file_that_says_what_was_asked_and_never_replaces_one() {
    let place = Place::new();
    place.scratch.dir("data");
    let words = "set create data --path data --target 127.0.0.1:1:x --insecure-loopback -o nosuid,ro \
                 --state st --queue-memory 64M --auto-remirror=no --atime";
    let words: Vec<&str> = words.split_whitespace().collect();
    let ran = place.run(&words);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let file = place.dir.join("sets.d/data.toml");
    let text = place.shortened(&std::fs::read_to_string(&file).unwrap());
    assert_eq!(
        text,
        "# Set data of doppelfs: docs/configuration.md lists the keys.\npath = \"@/data\"\ntargets = \
         [\"127.0.0.1:1:x\"]\nnosuid = true\nread-only = true\nstate = \"@/st\"\nqueue-memory = \
         \"64M\"\nauto-remirror = false\ninsecure-loopback = true\natime = true\n"
    );
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let ran = place.run(&words);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("exists already"), "{}", ran.err);
    // Nor is one written that would be refused.
    for (words, expected) in [
        ("set create b --path data", "is the path of set data"),
        ("set create b --path none", "no such directory"),
        (
            "set create b --path data -o foreground",
            "it belongs to a command line",
        ),
        (
            "set create b --path data --order lax",
            "not strict or relaxed",
        ),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let ran = place.run(&words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.err.contains(expected), "{words:?}: {}", ran.err);
    }
    let left = std::fs::read_dir(place.dir.join("sets.d")).unwrap().count();
    assert_eq!(left, 1, "nothing is left behind");
}

#[test]
fn show_says_where_each_value_comes_from() {
    let place = Place::new();
    place.scratch.dir("data");
    place.write(
        "doppelfs.toml",
        "[defaults]\natime = true\nqueue-memory = \"64M\"\n",
    );
    place.write(
        "sets.d/data.toml",
        "path = \"@/data\"\nqueue-memory = 67_108_865\n",
    );
    let ran = place.run(&["config", "show", "data", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let of = |key: &str| {
        let values = shown["values"].as_array().unwrap();
        let value = values.iter().find(|value| value["key"] == key).unwrap();
        let from = place.shortened(value["from"].as_str().unwrap());
        (value["value"].clone(), from)
    };
    assert_eq!(
        of("atime"),
        (true.into(), "@/etc/doppelfs.toml:2".to_owned())
    );
    assert_eq!(
        of("queue-memory"),
        ("67108865".into(), "@/etc/sets.d/data.toml:2".to_owned())
    );
    assert_eq!(of("queue-free-min"), ("50M".into(), "default".to_owned()));
    // What is shown is a file again that says the same.
    let ran = place.run(&["set", "show", "data"]);
    place.write("sets.d/data.toml", &ran.out);
    assert_eq!(place.problems(), [] as [&str; 0]);
    let again = place.run(&["set", "show", "data", "--json"]);
    let again: serde_json::Value = serde_json::from_str(&again.out).unwrap();
    let values = |shown: &serde_json::Value| -> Vec<serde_json::Value> {
        let values = shown["values"].as_array().unwrap();
        values.iter().map(|value| value["value"].clone()).collect()
    };
    assert_eq!(values(&again), values(&shown));
    let ran = place.run(&["config", "show"]);
    assert!(
        ran.out.contains("listen = \"127.0.0.1:7421\""),
        "{}",
        ran.out
    );
    let ran = place.run(&["set", "list"]);
    assert!(ran.out.contains("data"), "{}", ran.out);
}

/// What a mount would be told, found out by what it refuses.
#[test]
fn mount_takes_a_set_by_name_and_by_directory() {
    let place = Place::new();
    place.scratch.dir("data");
    place.scratch.dir("elsewhere/data");
    place.write(
        "sets.d/data.toml",
        "path = \"@/data\"\nstate = \"@/data/state\"\n",
    );
    let inside = "the state directory";
    for spec in ["data", "./data", "../data"] {
        let spec = spec.replace(
            "../data",
            &place.scratch.path().join("data").display().to_string(),
        );
        let ran = place.run(&["mount", &spec]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(inside), "{spec}: {}", ran.err);
        let says = ran.err.contains("for the directory here write ./data");
        assert_eq!(says, spec == "data", "{}", ran.err);
    }
    // The command line is above the file.
    let ran = place.run(&["mount", "data", "--state", "none", "--order", "lax"]);
    assert!(ran.err.contains("not strict or relaxed"), "{}", ran.err);
    for (words, expected) in [
        (
            &["mount", "data", "--set", "web"][..],
            "the name of a configured set is that of its file",
        ),
        (
            &["mount", "elsewhere/data"][..],
            "data is the name of the set of",
        ),
        (
            &["mount", "elsewhere/data", "--set", "data"][..],
            "give another with --set NAME",
        ),
        (&["mount", "dat"][..], "did you mean \"data\"?"),
    ] {
        let ran = place.run(words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.err.contains(expected), "{words:?}: {}", ran.err);
    }
    place.write("sets.d/broken.toml", "path = \n");
    let ran = place.run(&["mount", "broken"]);
    assert!(
        ran.err.contains("sets.d/broken.toml:1:8: no TOML"),
        "{}",
        ran.err
    );
    // A broken file stands in the way of its own set only, and the general one of all.
    let ran = place.run(&["mount", "data"]);
    assert!(ran.err.contains(inside), "{}", ran.err);
    place.write("doppelfs.toml", "[defaults]\nzzz = 1\n");
    let ran = place.run(&["mount", "data"]);
    assert!(
        ran.err.contains("doppelfs.toml:2:1: unknown key"),
        "{}",
        ran.err
    );
    let ran = place.run(&["target", "serve"]);
    assert!(
        ran.err.contains("doppelfs.toml:2:1: unknown key"),
        "{}",
        ran.err
    );
}

#[test]
fn the_target_is_what_its_section_says_below_its_flags() {
    let place = Place::new();
    let text = "[target]\nroot = \"@/none\"\nlisten = \"127.0.0.1:0\"\ninsecure-loopback = true\n";
    place.write("doppelfs.toml", text);
    let ran = place.run(&["target", "serve"]);
    assert_eq!(ran.code, 2);
    assert!(
        place.shortened(&ran.err).contains("root directory @/none"),
        "{}",
        ran.err
    );
    let ran = place.run(&["target", "serve", "--root", "other"]);
    assert!(ran.err.contains("root directory"), "{}", ran.err);
    assert!(place.shortened(&ran.err).contains("@/other"), "{}", ran.err);
}

/// mount(8) says `rw` by itself.
#[test]
fn what_is_read_only_in_a_file_is_not_undone_by_the_rw_of_mount() {
    let settings = |text: &str| {
        let mut settings = Settings::new();
        settings.add_options(text).unwrap();
        settings
    };
    let is_read_only = |upper: &str, lower: &str| {
        let settings = settings(upper).over(&settings(lower));
        let options = MountOptions::new(Path::new("/a"), None, &settings).unwrap();
        options.flags.read_only
    };
    assert!(is_read_only("rw", "read-only"));
    assert!(!is_read_only("rw", "read-only=no"));
    assert!(!is_read_only("read-only=no", "read-only"));
    assert!(!is_read_only("rw,read-only=no", "read-only"));
    assert!(is_read_only("ro", ""));
    let targets = settings("target=a").over(&settings("target=b,atime"));
    let options = MountOptions::new(Path::new("/a"), None, &targets).unwrap();
    assert_eq!(options.targets[0].host, "a");
    assert!(options.atime);
}
