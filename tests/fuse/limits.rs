//! Goal: a process's limit on the size of files, and what statvfs(3) tells of the file system, are as
//! below. Method: the same calls in two copies of a file system, one mounted over; statvfs of a mount
//! and of a descriptor that leads below it.

use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};

use crate::support::{Fixture, Image, Pair, USER, is_ready, said_in};

#[test]
fn no_call_makes_a_file_larger_than_the_processs_limit() {
    let test = "no_call_makes_a_file_larger_than_the_processs_limit";
    if !is_ready(test) {
        return;
    }
    let Some(pair) = Pair::new(test, ("ext4", &[]), 64, "loop", |_| {}) else {
        return;
    };
    pair.same("0", "head -c 8192 /dev/zero > from");
    let calls = [
        ("pwrite -q 0 64k", true),
        ("pwrite -q 4096 1", true),
        ("pwrite -q 2000 8k", false),
        ("pwrite -q -b 1k 0 16k", true),
        ("truncate 64k", true),
        ("falloc 0 64k", true),
        ("copy_range -l 8192 -d 3000 from", true),
        ("truncate 4096", false),
    ];
    for (call, is_over) in calls {
        for caught in ["", "trap '' XFSZ;"] {
            let script = format!(
                "{caught} head -c 100 /dev/zero > f
                 (exec prlimit --fsize=4096 xfs_io -c '{call}' f) 2>&1; echo $?; stat -c '%s %Y' f > g
                 cut -d' ' -f1 g; rm f g"
            );
            let said = pair.same(USER, &script);
            if is_over {
                // 128 + SIGXFSZ, or what the call says where the signal is ignored.
                let wanted = if caught.is_empty() {
                    "153"
                } else {
                    "File too large"
                };
                assert!(said.contains(wanted), "{call}: {said}");
            }
        }
    }
    // By path.
    let script = ": > f; prlimit --fsize=4096 truncate -s 64k f; echo $?; stat -c %s f; rm f";
    assert!(pair.same("0", script).contains("153"));
    // The limit is the process's, not that of who serves the mount.
    pair.same("0", "head -c 100k /dev/zero > large; stat -c %s large");
    pair.finish();
}

fn numbers(of: &Statvfs) -> [u64; 8] {
    [
        of.block_size(),
        of.fragment_size(),
        of.blocks(),
        of.blocks_free(),
        of.blocks_available(),
        of.files(),
        of.files_free(),
        of.name_max(),
    ]
}

#[test]
fn a_mount_tells_the_space_of_the_file_system_below() {
    let test = "a_mount_tells_the_space_of_the_file_system_below";
    if !is_ready(test) {
        return;
    }
    let small: &[&str] = &["-m", "10", "-b", "1024"];
    for (make, mib) in [
        (("ext4", small), 64),
        (("xfs", &[]), 300),
        (("btrfs", &[]), 256),
    ] {
        let Some(image) = Image::with(test, make, mib, "loop") else {
            continue;
        };
        let below = std::fs::File::open(image.path()).expect("open the directory below");
        let mut fixture = Fixture::over(test, image.path());
        fixture.start();
        let content = vec![7; 5 << 20];
        std::fs::create_dir_all(fixture.path("a/b")).expect("mkdir");
        std::fs::write(fixture.path("a/b/file"), content).expect("write");
        // The free space of the file system below changes by itself until all is on the disk.
        nix::unistd::syncfs(&below).expect("sync the file system below");
        for place in ["", "a/b", "a/b/file"] {
            let through = statvfs(&fixture.path(place)).expect("statvfs");
            let below = fstatvfs(&below).expect("statvfs below");
            assert_eq!(numbers(&through), numbers(&below), "{make:?} {place}");
        }
        let ask = "stat -f -c '%a %b %c %d %f %l %s %S' a/b";
        let [root, user] = ["0", USER].map(|user| said_in(image.path(), user, ask));
        assert_eq!(root, user, "{make:?}");
        drop(below);
        fixture.finish();
    }
}
