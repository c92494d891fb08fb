//! Trees with one of everything, as the tests of the comparer need them.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use doppelfs::digest::{Options, Report, What, compare};
use doppelfs::sys;
use doppelfs::types::Time;

use crate::scratch::Scratch;

/// Size of the sparse file `holes` in the tree.
pub(crate) const SPARSE_BYTES: u64 = 100 << 20;

/// Does this test run as root? Says so when not.
pub(crate) fn is_root(test: &str) -> bool {
    let root = sys::is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root (owners, devices, trusted attributes)");
    }
    root
}

/// Two equal trees: `left` has one of everything, `right` is its `cp -a`.
pub(crate) struct Trees {
    scratch: Scratch,
}

impl Trees {
    pub(crate) fn new(label: &str) -> Trees {
        let trees = Trees {
            scratch: Scratch::new(label),
        };
        std::fs::create_dir(trees.left("")).expect("make the left root");
        plant(&trees.left(""));
        trees.copy();
        trees
    }

    /// Two empty trees.
    pub(crate) fn empty(label: &str) -> Trees {
        let trees = Trees {
            scratch: Scratch::new(label),
        };
        std::fs::create_dir(trees.left("")).expect("make the left root");
        trees.copy();
        trees
    }

    pub(crate) fn left(&self, path: impl AsRef<OsStr>) -> PathBuf {
        self.scratch.path().join("left").join(path.as_ref())
    }

    pub(crate) fn right(&self, path: impl AsRef<OsStr>) -> PathBuf {
        self.scratch.path().join("right").join(path.as_ref())
    }

    /// Makes `right` a copy of `left`.
    pub(crate) fn copy(&self) {
        let (left, right) = (self.left("."), self.right(""));
        let status = Command::new("cp")
            .arg("-a")
            .arg("-T")
            .args([left, right])
            .status();
        assert!(status.expect("run cp").success(), "cp -a");
    }

    pub(crate) fn report(&self) -> Report {
        self.report_with(&Options::default())
    }

    pub(crate) fn report_with(&self, options: &Options) -> Report {
        compare(&self.left(""), &self.right(""), options).expect("compare")
    }

    /// Asserts that exactly these (path, what) differ; times of directories that a test's own change
    /// stamped are left out when `path` has more to say.
    pub(crate) fn assert_differs(&self, expected: &[(&[u8], What)]) {
        let report = self.report();
        let found: BTreeSet<(Vec<u8>, &str)> = report
            .differences
            .iter()
            .map(|d| (d.path.clone(), d.what.as_str()))
            .collect();
        let expected: BTreeSet<(Vec<u8>, &str)> = expected
            .iter()
            .map(|(path, what)| (path.to_vec(), what.as_str()))
            .collect();
        assert_eq!(found, expected, "\n{report}");
        assert_eq!(report.difference_count, found.len() as u64, "\n{report}");
    }
}

/// Keeps the times of `dir` over a change of its entries.
pub(crate) fn keeping_times(dir: &Path, change: impl FnOnce()) {
    let before = stat(dir);
    change();
    set_mtime(dir, before.mtime);
}

pub(crate) fn handle(path: &Path) -> OwnedFd {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    options.open(path).expect("open a path").into()
}

pub(crate) fn stat(path: &Path) -> sys::FileStat {
    sys::fstat(handle(path).as_fd()).expect("stat")
}

pub(crate) fn set_mtime(path: &Path, mtime: Time) {
    sys::utimens_fd(handle(path).as_fd(), None, Some(mtime)).expect("set the time");
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let name = CString::new(name).expect("no NUL");
    sys::setxattr(handle(path).as_fd(), &name, value, 0).expect("setxattr");
}

pub(crate) fn remove_xattr(path: &Path, name: &str) {
    let name = CString::new(name).expect("no NUL");
    sys::removexattr(handle(path).as_fd(), &name).expect("removexattr");
}

pub(crate) fn make_node(path: &Path, mode: u32, rdev: u64) {
    let dir = handle(path.parent().expect("a parent"));
    let name = path.file_name().expect("a name").as_bytes();
    let name = CString::new(name).expect("no NUL");
    sys::mknodat(dir.as_fd(), &name, mode, rdev).expect("mknod");
}

/// A POSIX ACL (version 2) that lets user 1234 do `perm` besides the usual.
pub(crate) fn acl(perm: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 7, u32::MAX), // ACL_USER_OBJ
        (0x02, perm, 1234),  // ACL_USER
        (0x04, 5, u32::MAX), // ACL_GROUP_OBJ
        (0x10, 7, u32::MAX), // ACL_MASK
        (0x20, 5, u32::MAX), // ACL_OTHER
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// One of everything below `root`.
fn plant(root: &Path) {
    std::fs::create_dir(root.join("dir")).expect("mkdir");
    std::fs::write(root.join("dir/file"), b"some bytes").expect("write");
    std::fs::write(root.join("empty"), b"").expect("write");
    let mut big = File::create(root.join("big")).expect("create");
    for block in 0..300u32 {
        big.write_all(&block.to_le_bytes().repeat(1024))
            .expect("write");
    }
    let sparse = File::create(root.join("holes")).expect("create");
    sparse.set_len(SPARSE_BYTES).expect("truncate");
    sparse
        .write_all_at(b"island", SPARSE_BYTES / 2)
        .expect("write");
    std::os::unix::fs::symlink("dir/../nowhere", root.join("symlink")).expect("symlink");
    make_node(&root.join("pipe"), libc::S_IFIFO | 0o640, 0);
    drop(UnixListener::bind(root.join("socket")).expect("socket"));
    make_node(
        &root.join("char"),
        libc::S_IFCHR | 0o600,
        libc::makedev(1, 3),
    );
    make_node(
        &root.join("block"),
        libc::S_IFBLK | 0o600,
        libc::makedev(7, 200),
    );
    std::fs::write(root.join("one"), b"linked").expect("write");
    std::fs::hard_link(root.join("one"), root.join("dir/two")).expect("link");
    std::fs::write(root.join("three"), b"alone").expect("write");
    for name in [
        &b"new\nline"[..],
        b"not utf-8 \xff\xfe",
        b" ",
        b"-rf",
        b"\\",
    ] {
        std::fs::write(root.join(OsStr::from_bytes(name)), name).expect("write");
    }
    std::fs::write(root.join("n".repeat(255)), b"long").expect("write");
    plant_attributes(root);
}

fn plant_attributes(root: &Path) {
    set_xattr(&root.join("dir/file"), "user.colour", b"blue");
    set_xattr(&root.join("dir/file"), "trusted.colour", b"red\0binary");
    set_xattr(&root.join("dir/file"), "security.colour", b"grey");
    set_xattr(&root.join("dir/file"), "system.posix_acl_access", &acl(6));
    set_xattr(&root.join("dir"), "system.posix_acl_default", &acl(5));
    set_xattr(&root.join("symlink"), "trusted.of_a_link", b"yes");
    let dir = handle(&root.join("big"));
    sys::chown_fd(dir.as_fd(), Some(1000), Some(1001)).expect("chown");
    sys::chmod_fd(dir.as_fd(), 0o4755).expect("chmod");
    let before_1970 = Time {
        secs: -5,
        nanos: 123_456_789,
    };
    set_mtime(&root.join("big"), before_1970);
    set_mtime(&root.join("symlink"), Time { secs: 7, nanos: 1 });
}
