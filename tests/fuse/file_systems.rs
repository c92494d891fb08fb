//! Goal: the same on every supported file system below. Method: one of everything and some changes
//! on a loop image.

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::support::{
    Fixture, Image, has_programs, is_ready, plant_everything, plant_source_tree, program, seed,
    until,
};

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

/// xfs lists an access control list under a second name, which is none of the source's.
#[test]
fn access_control_lists_stay_when_a_replica_on_xfs_is_mirrored_again() {
    let test = "access_control_lists_stay_when_a_replica_on_xfs_is_mirrored_again";
    if !is_ready(test) || !has_programs(test, &["setfacl", "getfattr"]) {
        return;
    }
    for (source, kind) in [("ext4", "xfs"), ("xfs", "ext4")] {
        let (Some(source), Some(target)) =
            (Image::new(test, source, 512), Image::new(test, kind, 512))
        else {
            return;
        };
        let mut fixture = Fixture::apart(test, Some(source.path()), Some(target.path()));
        for (name, acl) in [("dir", "d:u:1234:rwx"), ("dir/file", "u:1234:rw,m::r")] {
            match name {
                "dir" => std::fs::create_dir(fixture.path(name)).expect("mkdir"),
                _ => std::fs::write(fixture.path(name), name).expect("write"),
            }
            let setfacl = program("setfacl").args(["-m", acl]);
            setfacl.arg(fixture.path(name)).succeed();
        }
        fixture.start();
        fixture.assert_equal();
        let before = fixture.connection().mirror_bytes();
        fixture
            .doppelfs()
            .args(["mirror", "start", "data", "--full"])
            .run()
            .expect_code(0);
        until("a second mirror", || {
            fixture.connection().mirror_bytes() > before
        });
        fixture.assert_equal();
        let listed = program("getfattr").args(["-d", "-m", "-"]);
        let listed = listed.arg(fixture.replica("dir/file")).run().stdout;
        assert!(listed.contains("system.posix_acl_access"), "{listed}");
        let is_doubled = listed.contains("SGI_ACL");
        assert_eq!(is_doubled, kind == "xfs", "{listed}");
        fixture.finish();
    }
}
