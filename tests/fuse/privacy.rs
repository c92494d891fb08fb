//! Goal: what a source and a target keep is for root alone, whatever the umask was when they were started
//! and the modes of their directories. Method: everything under umask 0; then a walk through the state,
//! run and table directories.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use doppelfs::sys;

use crate::support::{Fixture, is_ready, program};

/// What group or others may do something with, links left out: they have no modes of their own.
fn open_to_others(dir: &Path, seen: &mut usize) -> Vec<String> {
    let mut open = Vec::new();
    let mut pending: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        // It may go meanwhile.
        let Ok(found) = path.symlink_metadata() else {
            continue;
        };
        *seen += 1;
        // With a list, for the groups of a host that has them, their bits are its mask.
        let opened = std::fs::File::open(&path).ok();
        let has_list = opened.is_some_and(|file| {
            sys::getxattr(file.as_fd(), c"system.posix_acl_access", &mut []).is_ok()
        });
        let closed = if has_list || found.file_type().is_socket() {
            0o007
        } else {
            0o077
        };
        if !found.is_symlink() && found.mode() & closed != 0 {
            open.push(format!("{} {:o}", path.display(), found.mode() & 0o7777));
        }
        if found.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.map(|entry| entry.path()));
        }
    }
    open
}

#[test]
fn nothing_of_ours_is_open_to_others_whatever_the_umask_is() {
    let test = "nothing_of_ours_is_open_to_others_whatever_the_umask_is";
    if !is_ready(test) {
        return;
    }
    // The umask of this process would be that of other tests, too.
    let careless = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
    let mut fixture = Fixture::new(test).with_prefix(&careless);
    fixture.target.set_prefix(&careless);
    for dir in [fixture.state_dir(), fixture.target.state()] {
        std::fs::create_dir_all(dir).expect("make a directory");
        let wide = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir, wide).expect("open a directory");
    }
    fixture.start();
    let make = "umask 0; echo content > file; mkdir dir; mkfifo dir/pipe";
    let made = program("sh").args(["-c", make]);
    made.current_dir(fixture.path("")).succeed();
    fixture.caught_up();
    // What programs make has the modes they chose.
    for (name, bits) in [("file", 0o666), ("dir", 0o777), ("dir/pipe", 0o666)] {
        for side in [fixture.path(name), fixture.replica(name)] {
            let mode = side.symlink_metadata().expect("stat").mode() & 0o7777;
            assert_eq!(mode, bits, "{}", side.display());
        }
    }
    let id = std::fs::read_to_string(fixture.target.state().join("id")).expect("the target's id");
    let tables = ["/run/doppelfs-target", "/dev/shm/doppelfs-target"].map(Path::new);
    let tables = tables.into_iter().map(|dir| dir.join(&id));
    let tables = tables.filter(|dir| dir.exists());
    let tables: Vec<PathBuf> = tables.collect();
    assert_eq!(tables.len(), 1);
    let dirs = [
        fixture.run_dir(),
        fixture.state_dir(),
        fixture.target.state(),
        &tables[0],
        tables[0].parent().expect("a parent"),
    ];
    let mut open = Vec::new();
    for dir in dirs {
        let mut seen = 0;
        open.extend(open_to_others(dir, &mut seen));
        assert!(seen > 2, "{} holds {seen} files", dir.display());
    }
    // That one is the test's.
    open.retain(|line| !line.contains("/run/target.log "));
    assert!(open.is_empty(), "{open:#?}");
    fixture.finish();
}
