//! Goal: ids lead to files, and only to the files they were given for.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use doppelfs::passthrough::{Handles, Tree};
use doppelfs::sys;
use doppelfs::types::Name;

use crate::scratch::Scratch;

fn tree(scratch: &Scratch) -> Tree {
    Tree::new(sys::clone_tree(scratch.path()).unwrap(), 16).unwrap()
}

#[test]
fn an_id_finds_its_file_after_renames_and_never_another() {
    let scratch = Scratch::new("ids");
    let tree = tree(&scratch);
    let path = scratch.path().join("a");
    std::fs::write(&path, b"x").unwrap();
    let (id, stat) = tree
        .lookup(tree.root_id(), &Name::new(b"a").unwrap())
        .unwrap();
    assert_eq!(stat.ino, std::fs::metadata(&path).unwrap().ino());
    std::fs::rename(&path, scratch.path().join("b")).unwrap();
    assert_eq!(tree.stat(id).unwrap().ino, stat.ino);
    tree.uncache(id);
    std::fs::remove_file(scratch.path().join("b")).unwrap();
    // The number is used again, for something else; the id stays dead.
    for index in 0..64 {
        std::fs::write(scratch.path().join(format!("n{index}")), b"y").unwrap();
    }
    assert_eq!(tree.stat(id).unwrap_err().errno(), libc::ESTALE);
}

#[test]
fn more_files_than_descriptors_are_reachable() {
    let scratch = Scratch::new("many");
    let tree = tree(&scratch);
    let mut ids = Vec::new();
    for index in 0..500 {
        let name = format!("f{index}");
        std::fs::write(scratch.path().join(&name), name.as_bytes()).unwrap();
        ids.push(
            tree.lookup(tree.root_id(), &Name::new(name.as_bytes()).unwrap())
                .unwrap(),
        );
    }
    for (id, stat) in ids {
        assert_eq!(tree.stat(id).unwrap().ino, stat.ino);
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 400, "{open} descriptors are open");
}

#[test]
fn the_path_of_an_open_file_is_relative_to_the_root() {
    let scratch = Scratch::new("path");
    let tree = tree(&scratch);
    std::fs::create_dir(scratch.path().join("d")).unwrap();
    std::fs::write(scratch.path().join("d/f"), b"x").unwrap();
    let (dir, _) = tree
        .lookup(tree.root_id(), &Name::new(b"d").unwrap())
        .unwrap();
    let (id, _) = tree.lookup(dir, &Name::new(b"f").unwrap()).unwrap();
    let fd = tree.node(id).unwrap();
    assert_eq!(tree.path_of(fd.as_fd()), b"d/f");
    assert_eq!(tree.path_of(tree.root()), b"");
}

#[test]
fn numbers_of_open_things_are_not_reused() {
    let handles = Handles::default();
    let first = handles.insert("a");
    assert_eq!(handles.get(first).as_deref(), Some(&"a"));
    handles.remove(first);
    assert_ne!(handles.insert("b"), first);
    assert!(handles.get(first).is_none());
}
