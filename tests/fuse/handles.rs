//! Goal: file handles of the mount (what NFS servers keep) lead to the same file for ever, to no other
//! file when it is gone, and never out of the set. Method: name_to_handle_at(2) and
//! open_by_handle_at(2) on the mount, with the kernel's memory of it dropped in between, on ext4, xfs
//! and btrfs, for a set that is a whole file system and for one that is a directory in it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use doppelfs::sys::{self, RawHandle};

use crate::support::{Fixture, Image, is_ready, open_dir, seed, until};

/// A set that is the file system, or lies in it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Whole,
    Part,
}

/// Type of FUSE's handles (`FILEID_INO64_GEN`): node number, high word first, and generation.
const FUSE_HANDLE: i32 = 0x81;

fn handle_of(path: &Path) -> RawHandle {
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let root = open_dir(Path::new("/"));
    let fd = sys::openat(root.as_fd(), &name, libc::O_PATH, 0);
    let fd = fd.unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    sys::name_to_handle_at(fd.as_fd(), c"").expect("name_to_handle_at")
}

fn fuse_handle(ino: u64, generation: u32) -> RawHandle {
    let words = [(ino >> 32) as u32, ino as u32, generation];
    let content: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    RawHandle::new(FUSE_HANDLE, &content).expect("a handle")
}

/// The handle by which the mount would know a file that lies below, outside of it.
fn forged(path: &Path) -> RawHandle {
    let below = handle_of(path);
    let codec = sys::HandleCodec::learn(&below).expect("a known layout");
    let id = codec.id(&below).expect("an id");
    fuse_handle(id.ino.0, id.generation.0 as u32)
}

impl Fixture {
    fn open_handle(&self, handle: &RawHandle, flags: i32) -> std::io::Result<OwnedFd> {
        let mount = open_dir(&self.path(""));
        sys::open_by_handle_at(mount.as_fd(), handle, flags)
    }

    /// Makes the kernel forget every node that is not in use.
    pub(crate) fn forget_nodes(&self) {
        until("the kernel to forget the nodes of the mount", || {
            std::fs::write("/proc/sys/vm/drop_caches", "2").expect("drop caches");
            self.set().kernel("nodes") == 0
        });
    }

    #[track_caller]
    fn assert_stale(&self, handle: &RawHandle, why: &str) {
        match self.open_handle(handle, libc::O_PATH) {
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {}
            other => panic!("{why}: {other:?}"),
        }
    }
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("readlink")
}

fn plant(root: &Path) {
    std::fs::create_dir_all(root.join("a/b/c")).expect("mkdir");
    std::fs::write(root.join("a/b/c/file"), "deep").expect("write");
    std::fs::write(root.join("top"), "top").expect("write");
    std::fs::hard_link(root.join("top"), root.join("a/top-too")).expect("link");
    std::os::unix::fs::symlink("top", root.join("link")).expect("symlink");
    nix::unistd::mkfifo(
        &root.join("pipe"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("mkfifo");
}

/// Each of the planted things is found by its handle, as itself.
fn check_planted(fixture: &Fixture, handles: &[(&str, RawHandle)]) {
    fixture.forget_nodes();
    for (name, handle) in handles {
        let flags = match *name {
            "link" | "pipe" => libc::O_PATH | libc::O_NOFOLLOW,
            _ => libc::O_RDONLY,
        };
        let fd = fixture.open_handle(handle, flags);
        let fd = fd.unwrap_or_else(|e| panic!("open {name} by its handle: {e}"));
        let found = sys::fstat(fd.as_fd()).expect("fstat");
        let named = std::fs::symlink_metadata(fixture.path(name)).expect("lstat");
        assert_eq!(
            (found.ino, found.mode),
            (named.ino(), named.mode()),
            "{name}"
        );
        if found.is_dir() {
            assert_eq!(path_of(&fd), fixture.path(name), "{name}");
            let listed = std::fs::read_dir(path_of(&fd)).expect("list").count();
            assert!(listed > 0, "{name} is empty");
        } else if found.is_file() {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).expect("read");
            assert_eq!(
                text,
                std::fs::read_to_string(fixture.path(name)).expect("read")
            );
        }
    }
}

/// A removed file is stale, also when another one has its inode number.
fn check_removed(fixture: &Fixture, kind: &str) {
    let path = fixture.path("a/b/removed");
    std::fs::write(&path, "removed").expect("write");
    let (handle, ino) = (
        handle_of(&path),
        std::fs::metadata(&path).expect("stat").ino(),
    );
    std::fs::remove_file(&path).expect("unlink");
    fixture.forget_nodes();
    fixture.assert_stale(&handle, "a removed file");
    // The replica lies on the same file system: what is still to be applied would take the number.
    fixture.caught_up();
    let reused = (0..3000).find(|number| {
        let path = fixture.path(format!("a/new-{number}"));
        std::fs::write(&path, "secret").expect("write");
        std::fs::metadata(&path).expect("stat").ino() == ino
    });
    match reused {
        Some(_) => fixture.forget_nodes(),
        None => eprintln!("{kind} did not use inode {ino} again"),
    }
    assert!(
        reused.is_some() || kind != "ext4",
        "ext4 reuses inodes at once"
    );
    fixture.assert_stale(&handle, "a file with the inode of a removed one");
}

/// Nothing outside is reached, whatever the handle says.
fn check_outside(fixture: &Fixture, outside: &Path) {
    for name in ["secret", "dir", "dir/deep", "dir/deep/secret", "link"] {
        let handle = forged(&outside.join(name));
        fixture.assert_stale(&handle, name);
    }
    // A name inside makes it a file of the set, its removal ends that.
    let shared = fixture.path("shared");
    let handle = handle_of(&shared);
    fixture.forget_nodes();
    fixture
        .open_handle(&handle, libc::O_RDONLY)
        .expect("a file with a name inside");
    std::fs::remove_file(&shared).expect("unlink");
    fixture.forget_nodes();
    fixture.assert_stale(&handle, "a file whose name inside is gone");
    assert_eq!(
        std::fs::read_to_string(outside.join("shared")).expect("read"),
        "shared"
    );
}

fn check_garbage(fixture: &Fixture, seed: u64) {
    for number in 0..300u64 {
        let ino =
            (seed.wrapping_mul(number + 1)) % [1 << 10, 1 << 20, u64::MAX][number as usize % 3];
        let handle = fuse_handle(ino, (seed ^ number) as u32);
        match fixture.open_handle(&handle, libc::O_PATH) {
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {}
            other => panic!("inode {ino}: {other:?}"),
        }
    }
}

fn handles_hold(test: &str, kind: &str, shape: Shape) {
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, kind, 512) else {
        return;
    };
    let mut fixture = match shape {
        Shape::Whole => Fixture::over(kind, image.path()),
        Shape::Part => Fixture::on(kind, image.path()),
    };
    plant(&fixture.path(""));
    let outside = image.path().join("outside");
    if shape == Shape::Part {
        std::fs::create_dir_all(outside.join("dir/deep")).expect("mkdir");
        std::fs::write(outside.join("secret"), "secret").expect("write");
        std::fs::write(outside.join("dir/deep/secret"), "secret").expect("write");
        std::fs::write(outside.join("shared"), "shared").expect("write");
        std::os::unix::fs::symlink("secret", outside.join("link")).expect("symlink");
        std::fs::hard_link(outside.join("shared"), fixture.path("shared")).expect("link");
    }
    fixture.start();
    let names = [
        "a",
        "a/b",
        "a/b/c",
        "a/b/c/file",
        "top",
        "a/top-too",
        "link",
        "pipe",
    ];
    let handles: Vec<(&str, RawHandle)> = names
        .iter()
        .map(|name| (*name, handle_of(&fixture.path(name))))
        .collect();
    check_planted(&fixture, &handles);
    if shape == Shape::Part {
        check_outside(&fixture, &outside);
    }
    check_removed(&fixture, kind);
    check_garbage(&fixture, seed(test));
    fixture.umount();
    fixture.mount();
    check_planted(&fixture, &handles);
    std::fs::rename(fixture.path("a/b"), fixture.path("moved")).expect("rename");
    let moved: Vec<(&str, RawHandle)> =
        [("moved", handles[1].1), ("moved/c/file", handles[3].1)].into();
    check_planted(&fixture, &moved);
    assert_eq!(fixture.set().kernel("lookups_unknown"), 0);
    fixture.finish();
}

#[test]
fn handles_hold_on_ext4() {
    handles_hold("handles_hold_on_ext4", "ext4", Shape::Whole);
}

#[test]
fn handles_hold_on_xfs() {
    handles_hold("handles_hold_on_xfs", "xfs", Shape::Whole);
}

#[test]
fn handles_hold_on_btrfs() {
    handles_hold("handles_hold_on_btrfs", "btrfs", Shape::Whole);
}

#[test]
fn handles_stay_inside_a_directory_of_ext4() {
    handles_hold(
        "handles_stay_inside_a_directory_of_ext4",
        "ext4",
        Shape::Part,
    );
}

#[test]
fn handles_stay_inside_a_directory_of_xfs() {
    handles_hold("handles_stay_inside_a_directory_of_xfs", "xfs", Shape::Part);
}

#[test]
fn handles_stay_inside_a_directory_of_btrfs() {
    handles_hold(
        "handles_stay_inside_a_directory_of_btrfs",
        "btrfs",
        Shape::Part,
    );
}

/// Each handle of a large directory leads back to its file, while others make and remove files.
#[test]
fn handles_of_a_busy_directory_lead_back() {
    let test = "handles_of_a_busy_directory_lead_back";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::new(test);
    std::fs::create_dir(fixture.path("busy")).expect("mkdir");
    for number in 0..500 {
        std::fs::write(fixture.path(format!("busy/{number}")), number.to_string()).expect("write");
    }
    fixture.start();
    let handles: Vec<(u32, RawHandle)> = (0..500)
        .map(|number| (number, handle_of(&fixture.path(format!("busy/{number}")))))
        .collect();
    fixture.forget_nodes();
    let churn = fixture.path("busy");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        let mut made = BTreeSet::new();
        for number in 0u64.. {
            let path = churn.join(format!("churn-{number}"));
            std::fs::write(&path, "other").expect("write");
            std::fs::rename(&path, churn.join("churn")).expect("rename");
            std::fs::create_dir_all(churn.join("x/y")).expect("mkdir");
            std::fs::rename(churn.join("x/y"), churn.join("y")).expect("rename");
            std::fs::remove_dir(churn.join("y")).expect("rmdir");
            made.insert(number);
            if !matches!(
                stopped.try_recv(),
                Err(std::sync::mpsc::TryRecvError::Empty)
            ) {
                break;
            }
        }
        made.len()
    });
    for (number, handle) in &handles {
        let fd = loop {
            match fixture.open_handle(handle, libc::O_RDONLY) {
                // Directories moved under each of many walks.
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                other => break other.unwrap_or_else(|e| panic!("file {number}: {e}")),
            }
        };
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).expect("read");
        assert_eq!(text, number.to_string());
    }
    drop(stop);
    assert!(other.join().expect("the other writer") > 0);
    assert_eq!(fixture.set().kernel("lookups_unknown"), 0);
    fixture.finish();
}
