//! Goal: ids lead to files, and only to the files they were given for.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use doppelfs::passthrough::{Handles, Open, OpenFile, Tree};
use doppelfs::sys;
use doppelfs::types::{Caller, Name};

use crate::scratch::Scratch;

fn tree(scratch: &Scratch) -> Tree {
    Tree::new(
        sys::clone_tree(scratch.path(), sys::Unstamped::AsBelow).unwrap(),
        16,
    )
    .unwrap()
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
    tree.note_removed(id, &tree.node(id).unwrap(), false);
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

/// A tree with the file `a` in it, opened `count` times, few descriptors kept.
fn opened(scratch: &Scratch, count: usize) -> (Tree, Handles<OpenFile>, Vec<u64>) {
    let tree = tree(scratch);
    std::fs::write(scratch.path().join("a"), b"content").unwrap();
    let name = Name::new(b"a").unwrap();
    let (id, _) = tree.lookup(tree.root_id(), &name).unwrap();
    let handles = Handles::new(8, &doppelfs::live::Live::none(), "files");
    let open = || {
        tree.note_open(id);
        let fd = tree.open(id, libc::O_RDONLY).unwrap();
        handles.insert(
            OpenFile::of(&tree, id, fd, Caller::default()),
            libc::O_RDONLY,
        )
    };
    let numbers = (0..count).map(|_| open()).collect();
    (tree, handles, numbers)
}

fn content(tree: &Tree, handles: &Handles<OpenFile>, number: u64) -> Vec<u8> {
    let file = handles.get(tree, number).unwrap().unwrap();
    let mut bytes = [0; 16];
    let read = sys::pread(file.fd.as_fd(), &mut bytes, 0).unwrap();
    bytes[..read].to_vec()
}

#[test]
fn numbers_of_open_things_are_not_reused() {
    let scratch = Scratch::new("numbers");
    let (tree, handles, numbers) = opened(&scratch, 1);
    assert_eq!(content(&tree, &handles, numbers[0]), b"content");
    let id = handles.remove(numbers[0]).unwrap();
    assert!(handles.get(&tree, numbers[0]).unwrap().is_none());
    let fd = tree.open(id, libc::O_RDONLY).unwrap();
    let second = handles.insert(
        OpenFile::of(&tree, id, fd, Caller::default()),
        libc::O_RDONLY,
    );
    assert_ne!(second, numbers[0]);
    assert_eq!(handles.count(), 1);
}

#[test]
fn open_things_without_a_descriptor_are_opened_again() {
    let scratch = Scratch::new("again");
    let (tree, handles, numbers) = opened(&scratch, 200);
    assert_eq!(handles.count(), 200);
    for number in numbers {
        assert_eq!(content(&tree, &handles, number), b"content");
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = open.filter(|fd| {
        std::fs::read_link(fd.path())
            .is_ok_and(|path| path.starts_with("/a") || path.ends_with("again/a"))
    });
    assert!(ours.count() < 100, "most of 200 have no descriptor");
}

#[test]
fn what_was_removed_while_open_is_kept_until_it_is_forgotten() {
    let scratch = Scratch::new("kept");
    let (tree, handles, numbers) = opened(&scratch, 200);
    let id = handles.id(numbers[0]).unwrap();
    let node = tree.node(id).unwrap();
    std::fs::remove_file(scratch.path().join("a")).unwrap();
    tree.note_removed(id, &node, false);
    drop(node);
    for &number in &numbers {
        assert_eq!(content(&tree, &handles, number), b"content");
    }
    for number in numbers {
        tree.note_closed(handles.remove(number).unwrap());
    }
    assert_eq!(tree.stat(id).unwrap().nlink, 0);
    tree.note_forgotten(id);
    assert_eq!(tree.stat(id).unwrap_err().errno(), libc::ESTALE);
}

/// docs/differences.md: file systems that are refused, though their handles look like known ones.
#[test]
fn fuse_fat_and_network_file_systems_are_unfit() {
    use doppelfs::passthrough::unfit;
    for (magic, words) in [
        (0x6573_5546, "FUSE"),
        (0x4d44, "FAT"),
        (0x2011_bab0, "FAT"),
        (0x6969, "network"),
        (0xff53_4d42, "network"),
        (0x00c3_6400, "network"),
    ] {
        let reason = unfit(magic).unwrap_or_default();
        assert!(reason.contains(words), "{magic:#x}: {reason:?}");
        assert!(reason.contains("protect"), "{magic:#x}: {reason:?}");
    }
    // ext, xfs, btrfs, tmpfs, f2fs, squashfs.
    for magic in [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x0102_1994,
        0xf2f5_2010,
        0x7371_7368,
    ] {
        assert_eq!(unfit(magic), None, "{magic:#x}");
    }
}
