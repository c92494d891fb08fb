//! Goal: fstab says it, mount(8) does it: by name of a set and by directory, all lines and one, with the
//! options that stand there for others, remounts, and umount. Method: mount(8) itself, in namespaces of the
//! test, where /sbin has the helpers.

use std::path::{Path, PathBuf};

use crate::support::{Program, Scratch, has_programs, is_ready, isolated, program};

struct Machine {
    scratch: Scratch,
}

impl Machine {
    fn new(test: &str) -> Machine {
        let scratch = Scratch::new(test);
        let machine = Machine { scratch };
        for name in ["data", "dir", "etc", "etc/sets.d", "helpers"] {
            std::fs::create_dir(machine.path(name)).expect("make a directory");
        }
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers");
        for entry in std::fs::read_dir(from).expect("list").flatten() {
            let to = machine.path("helpers").join(entry.file_name());
            std::fs::copy(entry.path(), to).expect("copy a helper");
        }
        let sbin = std::fs::canonicalize("/sbin").expect("where /sbin is");
        let layers = format!(
            "lowerdir={}:{}",
            machine.path("helpers").display(),
            sbin.display()
        );
        program("mount")
            .args(["-t", "overlay", "overlay", "-o", &layers])
            .arg(&sbin)
            .succeed();
        machine.write(
            "etc/sets.d/data.toml",
            "path = \"@/data\"\nstate = \"@/state\"\n",
        );
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// `@` stands for the scratch directory.
    fn write(&self, name: &str, text: &str) {
        let text = text.replace('@', &self.scratch.path().display().to_string());
        std::fs::write(self.path(name), text).expect("write");
    }

    fn tool(&self, name: &str) -> Program {
        program(name)
            .current_dir("/")
            .env("DOPPELFS_BIN", env!("CARGO_BIN_EXE_doppelfs"))
            .env("DOPPELFS_CONFIG_DIR", self.path("etc"))
            .env("DOPPELFS_RUN_DIR", self.path("run"))
    }

    /// mount(8) with the fstab of the test.
    fn mount(&self, words: &[&str]) -> Program {
        let mount = self.tool("mount").arg("-T").arg(self.path("fstab"));
        mount.args(words)
    }

    fn flags(&self, name: &str) -> Option<Vec<String>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        let path = self.path(name).display().to_string();
        let lines = table
            .lines()
            .filter(|line| line.contains(" - fuse.doppelfs "));
        let fields: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
        let found = fields.into_iter().rfind(|fields| fields[4] == path)?;
        Some(found[5].split(',').map(str::to_owned).collect())
    }
}

fn fstab_works(test: &str) {
    let machine = Machine::new(test);
    let (data, dir) = (machine.path("data"), machine.path("dir"));
    machine.write(
        "fstab",
        "data @/data doppelfs defaults,_netdev,nofail,x-systemd.requires=a.service,comment=b,nosuid 0 0\n\
         @/dir @/dir fuse.doppelfs set=dir,state=@/dstate,noauto,user,dev,X-a=b 0 0\n",
    );
    let fstab = machine.path("fstab").display().to_string();
    let verified = machine
        .tool("findmnt")
        .args(["--verify", "--tab-file", &fstab])
        .succeed();
    assert!(verified.stderr.contains("0 errors"), "{verified:?}");

    machine.mount(&["-a"]).succeed();
    let has = |name: &str, flag: &str| {
        let flags = machine.flags(name).expect("it is mounted");
        flags.iter().any(|found| found == flag)
    };
    assert!(has("data", "nosuid") && has("data", "rw"));
    assert_eq!(machine.flags("dir"), None, "noauto");
    machine.mount(&["-a"]).succeed();
    let dir_text = dir.display().to_string();
    machine.mount(&[&dir_text]).succeed();
    // As mount(8) has it: `user` stands for all three, and `dev` takes one of them back.
    assert!(has("dir", "nosuid") && has("dir", "noexec") && !has("dir", "nodev"));

    let remount = |flag: &str| {
        let remount = machine
            .tool("mount")
            .args(["-o", &format!("remount,{flag}")]);
        remount.arg(&data).succeed();
    };
    remount("ro");
    let refused = std::fs::write(data.join("file"), "x").expect_err("it is read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(has("data", "nosuid"), "the other flags stay");
    remount("rw");
    std::fs::write(data.join("file"), "x").expect("write");

    machine.tool("umount").arg(&dir).succeed();
    assert_eq!(machine.flags("dir"), None);
    // One line by its first field, too.
    machine.tool("umount").arg(&data).succeed();
    machine.mount(&["data"]).succeed();
    assert!(data.join("file").exists());
    machine
        .tool("umount")
        .args(["-a", "-t", "fuse.doppelfs"])
        .succeed();
    assert_eq!(machine.flags("data"), None);

    // The set's file says read-only; mount(8) always says rw.
    machine.write(
        "etc/sets.d/data.toml",
        "path = \"@/data\"\nstate = \"@/state\"\nread-only = true\n",
    );
    machine.mount(&["-a"]).succeed();
    assert!(has("data", "ro"));
    machine.tool("umount").arg(&data).succeed();
}

/// By itself umount(8) would not wait for the worker: statfs(2) does not tell it whose mount it is. Of options such as
/// `_netdev` it keeps a note, and looks closer then; here there are none.
fn umount_finds_the_helper(test: &str) {
    let machine = Machine::new(test);
    machine.write("fstab", "data @/data doppelfs defaults 0 0\n");
    let data = machine.path("data");
    for _ in 0..3 {
        machine.mount(&["data"]).succeed();
        let said = machine.tool("umount").arg("-v").arg(&data).succeed();
        assert!(said.stdout.contains("umount.doppelfs: "), "{said:?}");
    }
}

fn mistakes_are_told(test: &str) {
    let machine = Machine::new(test);
    let data = machine.path("data").display().to_string();
    for (line, code, words) in [
        (
            "data @/data doppelfs quene-memory=1G",
            32,
            [
                "unknown mount option \"quene-memory\"",
                "did you mean \"queue-memory\"?",
            ],
        ),
        (
            "data @/data doppelfs queue-memory=1M",
            32,
            ["queue-memory: \"1m\"", "at least 32m"],
        ),
        (
            "dta @/data doppelfs defaults",
            32,
            ["there is no set \"dta\"", "did you mean \"data\"?"],
        ),
        (
            "@/none @/data doppelfs defaults",
            32,
            ["@/none", "no such directory"],
        ),
    ] {
        machine.write("fstab", line);
        let base = machine.scratch.path().display().to_string();
        let words = words.map(|word| word.replace('@', &base));
        let finished = machine.mount(&[&data]).run().expect_code(code);
        finished.expect_words(&words.each_ref().map(String::as_str));
        assert_eq!(machine.flags("data"), None, "{line}");
    }
    let helper = machine.path("helpers/mount.doppelfs");
    machine
        .tool("sh")
        .arg(&helper)
        .arg("data")
        .run()
        .expect_code(1);
    machine
        .tool("sh")
        .arg(&helper)
        .args(["data", &data])
        .env("DOPPELFS_BIN", "/none")
        .run()
        .expect_code(2);
}

#[test]
fn fstab_mounts_remounts_and_unmounts_sets_and_directories() {
    let test = "fstab_mounts_remounts_and_unmounts_sets_and_directories";
    if is_ready(test) && has_programs(test, &["mount", "umount", "findmnt"]) {
        isolated(module_path!(), test, fstab_works);
    }
}

#[test]
fn mistakes_in_fstab_are_told_with_the_codes_of_mount() {
    let test = "mistakes_in_fstab_are_told_with_the_codes_of_mount";
    if is_ready(test) && has_programs(test, &["mount"]) {
        isolated(module_path!(), test, mistakes_are_told);
    }
}

#[test]
fn umount8_finds_our_helper_without_options_of_its_own() {
    let test = "umount8_finds_our_helper_without_options_of_its_own";
    if is_ready(test) && has_programs(test, &["mount", "umount", "findmnt"]) {
        isolated(module_path!(), test, umount_finds_the_helper);
    }
}
