//! Goal: the same on every supported file system below. Method: one of everything and some changes
//! on a loop image.

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::support::{Fixture, Image, is_ready, plant_everything, plant_source_tree, seed};

fn follows_on(test: &str, kind: &str) {
    if !is_ready(test) {
        return;
    }
    let Some(image) = Image::new(test, kind, 512) else {
        return;
    };
    let mut fixture = Fixture::on(kind, image.path());
    plant_everything(&fixture.path(""));
    fixture.start();
    plant_source_tree(&fixture.path("tree"), seed(test), 300);
    std::fs::rename(fixture.path("tree/crate-0"), fixture.path("moved")).expect("rename");
    // Whether that changes the times of what moves differs between file systems.
    std::fs::create_dir(fixture.path("tree/other")).expect("mkdir");
    std::fs::write(fixture.path("tree/file"), b"1").expect("write");
    for (one, other) in [("part-2", "other"), ("part-3", "file")] {
        let one = fixture.path("moved/src").join(one);
        let other = fixture.path("tree").join(other);
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).expect("exchange");
    }
    std::fs::remove_dir_all(fixture.path("moved/src/part-1")).expect("remove");
    std::fs::remove_file(fixture.path("big")).expect("unlink");
    fixture.finish();
}

#[test]
fn a_tree_on_ext4_follows() {
    follows_on("a_tree_on_ext4_follows", "ext4");
}

#[test]
fn a_tree_on_xfs_follows() {
    follows_on("a_tree_on_xfs_follows", "xfs");
}

#[test]
fn a_tree_on_btrfs_follows() {
    follows_on("a_tree_on_btrfs_follows", "btrfs");
}
