//! Goal: what is for one user alone is so, whoever was there first. Method: directories and links in scratch
//! space, as others could have left them; the part with other owners needs root, says so when skipped.

use crate::scratch::Scratch;
use doppelfs::sys::{NotPrivate, is_root, make_private_dir, open_private, share_with_groups};
use std::ffi::OsStr;
use std::fs::{File, create_dir, create_dir_all, write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(bits)).unwrap();
}

fn nothing(_: &OsStr) -> bool {
    false
}

#[test]
fn a_directory_is_made_with_its_parents_for_one_user() {
    let scratch = Scratch::new("private");
    let dir = scratch.path().join("a/b/c");
    make_private_dir(&dir, false, nothing).unwrap();
    for part in ["a", "a/b", "a/b/c"] {
        assert_eq!(mode(&scratch.path().join(part)), 0o700, "{part}");
    }
}

#[test]
fn one_that_is_wide_is_closed_only_when_it_is_ours() {
    let scratch = Scratch::new("private");
    let dir = scratch.path().join("wide");
    create_dir(&dir).unwrap();
    write(dir.join("file"), "").unwrap();
    set_mode(&dir, 0o755);
    let error = make_private_dir(&dir, false, nothing).unwrap_err();
    assert!(matches!(error, NotPrivate::Shared { .. }), "{error}");
    assert_eq!(mode(&dir), 0o755);
    make_private_dir(&dir, false, |name| name == "file").unwrap();
    assert_eq!(mode(&dir), 0o700);
    // Whoever could write there may have put the file there.
    set_mode(&dir, 0o770);
    let error = make_private_dir(&dir, false, |_| true).unwrap_err();
    assert!(matches!(error, NotPrivate::Writable { .. }), "{error}");
    assert_eq!(mode(&dir), 0o770);
}

#[test]
fn one_that_others_could_exchange_is_refused() {
    let scratch = Scratch::new("private");
    let above = scratch.path().join("above");
    create_dir_all(above.join("dir")).unwrap();
    set_mode(&above, 0o777);
    for dir in ["dir", "new"] {
        let error = make_private_dir(&above.join(dir), false, nothing).unwrap_err();
        assert!(matches!(error, NotPrivate::Writable { .. }), "{error}");
    }
    assert!(!above.join("new").exists());
    // As in /tmp: only the owner renames there.
    set_mode(&above, 0o1777);
    make_private_dir(&above.join("dir"), false, nothing).unwrap();
    if !is_root() {
        eprintln!("SKIPPED the part with other owners: needs root");
        return;
    }
    chown(above.join("dir"), Some(54_101), None).unwrap();
    let error = make_private_dir(&above.join("dir"), false, nothing).unwrap_err();
    assert!(
        matches!(error, NotPrivate::Owner { uid: 54_101, .. }),
        "{error}"
    );
    let error = make_private_dir(&above.join("dir/below"), false, nothing).unwrap_err();
    assert!(
        matches!(error, NotPrivate::Owner { uid: 54_101, .. }),
        "{error}"
    );
}

#[test]
fn a_link_is_followed_only_where_its_owner_is_trusted() {
    let scratch = Scratch::new("private");
    let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
    create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    make_private_dir(&link, false, nothing).unwrap();
    make_private_dir(&link.join("below"), false, nothing).unwrap();
    assert_eq!(mode(&real), 0o700);
    // Where the link leads counts, too.
    let open = scratch.path().join("open");
    create_dir_all(open.join("dir")).unwrap();
    set_mode(&open, 0o777);
    symlink(open.join("dir"), scratch.path().join("out")).unwrap();
    for path in ["out", "out/below"] {
        let error = make_private_dir(&scratch.path().join(path), false, nothing).unwrap_err();
        assert!(
            matches!(error, NotPrivate::Writable { .. }),
            "{path}: {error}"
        );
    }
    if !is_root() {
        eprintln!("SKIPPED the part with other owners: needs root");
        return;
    }
    std::os::unix::fs::lchown(&link, Some(54_101), None).unwrap();
    for path in ["link", "link/below"] {
        let error = make_private_dir(&scratch.path().join(path), false, nothing).unwrap_err();
        assert!(matches!(error, NotPrivate::Owner { .. }), "{path}: {error}");
    }
}

#[test]
fn a_private_file_is_narrowed_and_never_reached_through_a_link() {
    let scratch = Scratch::new("private");
    let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
    write(&file, "old").unwrap();
    set_mode(&file, 0o666);
    open_private(&file).unwrap();
    assert_eq!(mode(&file), 0o600);
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    symlink(&file, &link).unwrap();
    let error = open_private(&link).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    symlink(scratch.path().join("gone"), scratch.path().join("dangling")).unwrap();
    assert!(open_private(&scratch.path().join("dangling")).is_err());
    assert!(!scratch.path().join("gone").exists());
}

#[test]
fn a_list_for_groups_is_what_the_system_understands() {
    let scratch = Scratch::new("private");
    let dir = scratch.path().join("dir");
    let opened = make_private_dir(&dir, true, nothing).unwrap();
    if let Err(error) = share_with_groups(opened.as_fd(), 7, 5, &[54_002, 54_001]) {
        eprintln!("SKIPPED: no access control lists here: {error}");
        return;
    }
    assert_eq!(mode(&dir), 0o750);
    if let Ok(shown) = Command::new("getfacl").args(["-cnp"]).arg(&dir).output() {
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let lines: Vec<&str> = text.split_whitespace().collect();
        let wanted = [
            "user::rwx",
            "group::---",
            "group:54001:r-x",
            "group:54002:r-x",
            "mask::r-x",
            "other::---",
        ];
        assert_eq!(lines, wanted);
    }
    // It stays where it may be, and goes where it may not; and with the last group.
    make_private_dir(&dir, true, nothing).unwrap();
    assert_eq!(mode(&dir), 0o750);
    make_private_dir(&dir, false, nothing).unwrap();
    assert_eq!(mode(&dir), 0o700);
    share_with_groups(opened.as_fd(), 7, 5, &[54_001]).unwrap();
    share_with_groups(opened.as_fd(), 7, 5, &[]).unwrap();
    assert_eq!(mode(&dir), 0o700);
    drop(File::open(&dir).unwrap());
}
