//! Trees to start from.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use doppelfs::sys;
use doppelfs::types::Time;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// A directory's descriptor.
pub(crate) fn open_dir(path: &Path) -> OwnedFd {
    File::open(path)
        .unwrap_or_else(|e| panic!("open {}: {e}", path.display()))
        .into()
}

/// Bytes that do not compress.
pub(crate) fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Something like a source tree: `count` files of 0 to 20,000 bytes, some executable, in nested
/// directories, with a few symbolic links.
pub(crate) fn plant_source_tree(root: &Path, seed: u64, count: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let text = "fn answer() -> u64 {\n    42 // of course\n}\n".repeat(500);
    for number in 0..count {
        let dir = root.join(format!(
            "crate-{}/src/part-{}",
            number / 500,
            number % 500 / 25
        ));
        std::fs::create_dir_all(&dir).expect("make directories");
        let path = dir.join(format!("file-{number}.rs"));
        let length = random.random_range(0..20_000.min(text.len()));
        let mut bytes = number.to_string().into_bytes();
        bytes.extend_from_slice(&text.as_bytes()[..length]);
        std::fs::write(&path, bytes).expect("write a file");
        if number % 50 == 0 {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("chmod");
            let link = dir.join(format!("link-{number}"));
            std::os::unix::fs::symlink(format!("../part-0/file-{number}.rs"), link).expect("link");
        }
    }
}

fn mknod(dir: &OwnedFd, name: &str, mode: u32, rdev: u64) {
    let name = CString::new(name).expect("no NUL");
    sys::mknodat(dir.as_fd(), &name, mode, rdev).expect("mknod");
}

/// One of everything that a directory can hold.
pub(crate) fn plant_everything(root: &Path) {
    std::fs::create_dir_all(root.join("dir/below")).expect("mkdir");
    std::fs::write(root.join("dir/file"), b"some bytes").expect("write");
    std::fs::write(root.join("empty"), b"").expect("write");
    std::fs::write(root.join("big"), random_bytes(1, 3_000_001)).expect("write");
    std::fs::hard_link(root.join("big"), root.join("dir/below/big-too")).expect("link");
    std::os::unix::fs::symlink("dir/../nowhere", root.join("symlink")).expect("symlink");
    let sparse = File::create(root.join("sparse")).expect("create");
    sparse.set_len(20 << 20).expect("truncate");
    sparse.write_all_at(b"island", 10 << 20).expect("write");
    let here = open_dir(root);
    mknod(&here, "pipe", libc::S_IFIFO | 0o640, 0);
    mknod(&here, "socket", libc::S_IFSOCK | 0o600, 0);
    mknod(&here, "char", libc::S_IFCHR | 0o600, libc::makedev(1, 3));
    mknod(&here, "block", libc::S_IFBLK | 0o600, libc::makedev(7, 200));
    for name in [&b"new\nline"[..], b"not utf-8 \xff\xfe", b" ", b"-rf"] {
        std::fs::write(root.join(OsStr::from_bytes(name)), name).expect("write");
    }
    plant_attributes(root);
}

fn plant_attributes(root: &Path) {
    let file = open_dir(&root.join("dir/file"));
    let attributes: [(&std::ffi::CStr, &[u8]); 3] = [
        (c"user.colour", b"blue"),
        (c"trusted.colour", b"red\0binary"),
        (c"security.colour", b"grey"),
    ];
    for (name, value) in attributes {
        sys::setxattr(file.as_fd(), name, value, 0).expect("setxattr");
    }
    sys::chown_fd(file.as_fd(), Some(1000), Some(1001)).expect("chown");
    sys::chmod_fd(file.as_fd(), 0o6755).expect("chmod");
    let before_1970 = Time {
        secs: -5,
        nanos: 123_456_789,
    };
    sys::utimens_fd(file.as_fd(), None, Some(before_1970)).expect("set a time");
}
