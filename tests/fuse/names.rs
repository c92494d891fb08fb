//! Goal: no name and no number of names is a problem. Method: odd, long, deep, many.

use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use doppelfs::sys;

use crate::support::{Fixture, files_max, is_ready, open_dir};

/// Levels of 255 bytes: four times `PATH_MAX`.
const LEVELS: usize = 64;

#[test]
fn names_of_any_bytes_follow() {
    if !is_ready("names_of_any_bytes_follow") {
        return;
    }
    let fixture = Fixture::started("odd-names");
    let long = [b'n'; 255];
    let every: Vec<u8> = (1..=255u8).filter(|&b| b != b'/').collect();
    let names: [&[u8]; 10] = [
        &long,
        &every[..127],
        &every[127..],
        b"new\nline",
        b"not utf-8 \xff\xfe\x80",
        b" ",
        b"...",
        b"-rf",
        b"\\",
        "\u{1F980} crab".as_bytes(),
    ];
    for name in names {
        let name = OsStr::from_bytes(name);
        std::fs::write(fixture.path(name), name.as_bytes()).expect("write");
        let dir = fixture.path("dirs").join(name);
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::os::unix::fs::symlink(name, dir.join(name)).expect("symlink");
    }
    std::fs::create_dir(fixture.path("moved")).expect("mkdir");
    for name in names {
        let name = OsStr::from_bytes(name);
        std::fs::rename(fixture.path(name), fixture.path("moved").join(name)).expect("rename");
    }
    std::fs::remove_file(fixture.path("moved").join(OsStr::from_bytes(names[4]))).expect("unlink");
    fixture.finish();
}

#[test]
fn a_name_of_256_bytes_is_refused_as_below() {
    if !is_ready("a_name_of_256_bytes_is_refused_as_below") {
        return;
    }
    let fixture = Fixture::started("too-long");
    let error = std::fs::write(fixture.path("n".repeat(256)), b"").expect_err("too long");
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    fixture.finish();
}

#[test]
fn a_path_longer_than_path_max_follows() {
    if !is_ready("a_path_longer_than_path_max_follows") {
        return;
    }
    let fixture = Fixture::started("deep");
    let name = CString::new("d".repeat(255)).expect("no NUL");
    let mut dir = open_dir(&fixture.path(""));
    for _ in 0..LEVELS {
        sys::mkdirat(dir.as_fd(), &name, 0o755).expect("mkdirat");
        dir = sys::openat(dir.as_fd(), &name, libc::O_RDONLY, 0).expect("openat");
    }
    let flags = libc::O_RDWR | libc::O_CREAT;
    let file = sys::openat(dir.as_fd(), c"file", flags, 0o640).expect("create");
    sys::pwrite(file.as_fd(), b"far down", 0).expect("write");
    sys::setxattr(file.as_fd(), c"user.deep", b"yes", 0).expect("setxattr");
    let root = open_dir(&fixture.path(""));
    sys::linkat_fd(file.as_fd(), root.as_fd(), c"link-at-the-top").expect("link");
    sys::renameat2(dir.as_fd(), c"file", dir.as_fd(), c"renamed", 0).expect("rename");
    sys::mkdirat(dir.as_fd(), c"moves-up", 0o700).expect("mkdir");
    sys::renameat2(dir.as_fd(), c"moves-up", root.as_fd(), c"moved-up", 0).expect("rename");
    sys::mknodat(dir.as_fd(), c"goes", libc::S_IFREG | 0o600, 0).expect("mknod");
    sys::unlinkat(dir.as_fd(), c"goes", 0).expect("unlink");
    drop((dir, file, root));
    let counts = fixture.finish().counts;
    assert!(counts.dirs > LEVELS as u64, "{counts:?}");
}

#[test]
fn many_files_in_one_directory_follow() {
    if !is_ready("many_files_in_one_directory_follow") {
        return;
    }
    let fixture = Fixture::started("many");
    std::fs::create_dir(fixture.path("many")).expect("mkdir");
    let dir = open_dir(&fixture.path("many"));
    let count = files_max();
    for number in 0..count {
        let name = CString::new(format!("file-{number}")).expect("no NUL");
        sys::mknodat(dir.as_fd(), &name, libc::S_IFREG | 0o644, 0).expect("mknod");
    }
    for number in (0..count).step_by(10) {
        let name = CString::new(format!("file-{number}")).expect("no NUL");
        sys::unlinkat(dir.as_fd(), &name, 0).expect("unlink");
    }
    drop(dir);
    let counts = fixture.finish().counts;
    assert_eq!(counts.files, count - count.div_ceil(10));
}
