//! Goal: a confined target applies everything that there is, also what nobody has looked up since it was
//! last in memory, wherever its root lies. Method: one of everything, mirrored and then changed, the
//! kernel's cache of names dropped before the changes are applied.

use std::ffi::CStr;
use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use doppelfs::confine::UNUSED_BY_SOURCE;
use doppelfs::sys;
use serde_json::Value;

use crate::support::{
    Fixture, Image, is_ready, open_dir, plant_everything, plant_source_tree, program, seed,
    set_xattr,
};

/// For user 1000: read and write; the mask allows both (`linux/posix_acl_xattr.h`).
fn acl() -> Vec<u8> {
    let entry = |tag: u16, permissions: u16, id: u32| {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes
    };
    let nobody = u32::MAX;
    let entries = [
        entry(1, 6, nobody),
        entry(2, 6, 1000),
        entry(4, 4, nobody),
        entry(16, 6, nobody),
        entry(32, 4, nobody),
    ];
    [2_u32.to_le_bytes().to_vec(), entries.concat()].concat()
}

/// `cap_net_raw+ep` (`linux/capability.h`, version 2).
fn capability() -> Vec<u8> {
    let mut value = vec![1, 0, 0, 2, 0, 0x20, 0, 0];
    value.extend([0; 12]);
    value
}

/// Takes the names, and the inodes that nobody has open, out of the kernel's memory.
fn forget_names(replicas: &Path) {
    sys::sync_file_system_of(replicas).expect("syncfs");
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop the caches");
}

fn change_everything(fixture: &Fixture) {
    let path = |name: &str| fixture.path(name);
    let file = File::options().write(true).open(path("dir/file"));
    let file = file.expect("open");
    set_xattr(&file, "system.posix_acl_access", &acl(), 0).expect("set an ACL");
    set_xattr(&file, "trusted.shape", b"round", 0).expect("setxattr");
    set_xattr(&file, "security.capability", &capability(), 0).expect("set a capability");
    sys::removexattr(file.as_fd(), c"user.colour").expect("removexattr");
    fs::hard_link(path("big"), path("dir/big-three")).expect("link");
    fs::hard_link(path("symlink"), path("dir/symlink-too")).expect("link a link");
    fs::rename(path("dir/below"), path("moved")).expect("rename");
    fs::rename(path("char"), path("moved/char")).expect("rename a device");
    fs::remove_file(path("block")).expect("unlink");
    let here = open_dir(&path("dir"));
    let devices: [(&CStr, u32, u64); 3] = [
        (c"disk", libc::S_IFBLK | 0o660, libc::makedev(7, 201)),
        (c"zero", libc::S_IFCHR | 0o666, libc::makedev(1, 5)),
        (c"fifo", libc::S_IFIFO | 0o600, 0),
    ];
    for (name, mode, device) in devices {
        sys::mknodat(here.as_fd(), name, mode, device).expect("mknod");
    }
    fs::write(path("sparse"), b"no more").expect("write");
    for (name, owner) in [("empty", 7), ("sparse", 8)] {
        std::os::unix::fs::chown(path(name), Some(owner), Some(owner)).expect("chown");
    }
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    mode("empty", 0o4755);
    mode("dir", 0o3777);
    mode("moved", 0o000);
}

/// What the status says of the target's confinement.
fn confinement(fixture: &Fixture) -> Value {
    let status = fixture.status();
    status["targets"][0]["confinement"].clone()
}

fn applies_everything(test: &str, mut fixture: Fixture, refuses: &str) -> Fixture {
    plant_everything(&fixture.path(""));
    plant_source_tree(&fixture.path("tree"), seed(test), 200);
    fixture.start();
    let confined = confinement(&fixture);
    for layer in ["capabilities", "seccomp", "landlock"] {
        assert_eq!(confined[layer], "on", "{confined}");
    }
    let all = confined["landlock_refuses"].to_string();
    assert!(all.contains(refuses), "{confined}");
    // The applier keeps some files open: a new process of it has none.
    fixture.target.stop();
    forget_names(fixture.target.root());
    change_everything(&fixture);
    for number in 0..200 {
        let part = format!("tree/crate-0/src/part-{}", number % 200 / 25);
        let (from, to) = (
            fixture.path(&part).join(format!("file-{number}.rs")),
            fixture.path(format!("dir/linked-{number}")),
        );
        fs::hard_link(&from, to).expect("link");
        File::options()
            .write(true)
            .open(&from)
            .expect("open")
            .set_len(number)
            .expect("cut");
    }
    fixture.target.start();
    fixture.caught_up();
    fixture
}

#[test]
fn a_confined_target_applies_everything() {
    let test = "a_confined_target_applies_everything";
    if is_ready(test) {
        let fixture = applies_everything(test, Fixture::new(test), "");
        fixture.finish();
    }
}

#[test]
fn a_confined_target_applies_everything_on_ext4() {
    let test = "a_confined_target_applies_everything_on_ext4";
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, "ext4", 512) else {
        return;
    };
    let fixture = Fixture::apart(test, None, Some(image.path()));
    applies_everything(test, fixture, "").finish();
}

/// The root of the replicas as a mount of its own, until the end.
struct OwnMount(PathBuf);

impl Drop for OwnMount {
    fn drop(&mut self) {
        // Nobody uses it any more, but for a test that failed.
        let umounted = sys::umount(&self.0, true);
        assert!(umounted.is_ok() || std::thread::panicking(), "{umounted:?}");
    }
}

#[test]
fn a_target_whose_root_is_a_mount_applies_everything_and_writes_nowhere_else() {
    let test = "a_target_whose_root_is_a_mount_applies_everything_and_writes_nowhere_else";
    if !is_ready(test) || !sys::is_landlock_fixed(3) {
        return;
    }
    let mut fixture = Fixture::new("own-mount");
    let root = fixture.target.root().to_path_buf();
    program("mount")
        .arg("--bind")
        .arg(&root)
        .arg(&root)
        .succeed();
    let mount = OwnMount(root);
    fixture = applies_everything(test, fixture, "writes-elsewhere");
    let report = fixture.report();
    assert!(report.is_equal(), "{report}");
    fixture.umount();
    fixture.target.stop();
    drop(mount);
}

/// The bounding set of every thread of a process.
fn bounding_sets(pid: u64) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).expect("look at its threads");
    let of = |path: PathBuf| {
        // A thread may have ended meanwhile.
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        u64::from_str_radix(line?.trim(), 16).ok()
    };
    entries
        .flatten()
        .filter_map(|entry| of(entry.path()))
        .collect()
}

#[test]
fn a_source_has_no_capability_that_is_not_about_files_and_its_successor_neither() {
    let test = "a_source_has_no_capability_that_is_not_about_files_and_its_successor_neither";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started(test);
    let unused = UNUSED_BY_SOURCE
        .iter()
        .fold(0, |bits, (number, _)| bits | 1 << number);
    let is_without = || {
        let worker = fixture.set().pids()[0];
        let sets = bounding_sets(worker);
        assert!(sets.len() > 4, "{sets:?}");
        for set in sets {
            assert_eq!(set & unused, 0, "{set:x}");
            // DAC_OVERRIDE, SETUID and SYS_PTRACE: what it acts for others with.
            assert_eq!(set & 0x8_0082, 0x8_0082, "{set:x}");
        }
        worker
    };
    let first = is_without();
    fixture.doppelfs().arg("restart").succeed();
    assert_ne!(is_without(), first);
    plant_everything(&fixture.path(""));
    fixture.caught_up();
    fixture.finish();
}
