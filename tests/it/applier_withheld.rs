//! Goal: devices and set-id programs that a target withholds are not there, are told by the replica all the
//! same, follow what the source does with them, and are no difference. Method: records written by hand and
//! random ones, onto a real directory. Needs root.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use doppelfs::applier::{
    Applier, Backlog, FsReplica, Inode, InodeKind, Limits, Metered, Place, Replica, Terms,
    Withholding,
};
use doppelfs::digest::{self, What};
use doppelfs::sys;
use doppelfs::types::{Body, Node, Op, Position, Scope, Seq, Withheld};

use super::applier_model::{Source, ino_of};
use super::applier_stream::{
    Dirs, HISTORY, Stream, at, attrs, chmod, create, id, with_after, xattr,
};
use super::applier_world::{ROOT, World, file_type};
use crate::trees::{Trees, handle, is_root, make_node, set_mtime, set_xattr, stat};

const ALL: Limits = Limits {
    bytes_max: None,
    files_max: None,
    withholds_devices: true,
    withholds_set_id: true,
};

fn capability() -> Vec<u8> {
    // VFS_CAP_REVISION_2 | effective, CAP_NET_BIND_SERVICE permitted.
    let words: [u32; 5] = [0x0200_0001, 1 << 10, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn xattr_of(stream: &Stream, path: &str, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let fd = handle(&stream.dirs.path(path));
    let mut value = [0; 256];
    let length = sys::getxattr(fd.as_fd(), name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

fn record(stream: &Stream, path: &str) -> Option<String> {
    let text = xattr_of(stream, path, c"trusted.doppelfs.withheld")?;
    Some(String::from_utf8(text).unwrap())
}

#[test]
fn records_are_text_and_only_sound_ones_are_believed() {
    let sound = [
        "device c 1:3 mode 0000",
        "device b 259:70000 mode 6111",
        "mode 6000",
    ];
    for text in sound {
        let withheld = Withheld::decode(text.as_bytes()).unwrap();
        assert_eq!(withheld.encode(), text.as_bytes());
    }
    for text in [
        "",
        "mode",
        "mode 9",
        "mode 0777",
        "mode 4000 ",
        "device",
        "device d 1:3 mode 0000",
        "device c 1 mode 0000",
        "device c 1:3",
        "device c 1:3 mode 0777",
        "device c -1:3 mode 0000",
    ] {
        assert_eq!(Withheld::decode(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn a_device_is_an_empty_file_that_says_what_it_stands_for() {
    if !is_root("applier_withheld") {
        return;
    }
    let mut stream = Stream::new("device", ALL);
    let rdev = libc::makedev(8, 1);
    stream
        .apply(&create("disk", 10, Node::Block(rdev), 0o060_640))
        .unwrap();
    let found = stat(&stream.dirs.path("mirror/disk"));
    assert!(found.is_file() && found.size == 0);
    assert_eq!(found.mode & 0o7777, 0o640);
    assert_eq!(found.mtime.secs, 1_000);
    assert_eq!(
        record(&stream, "mirror/disk").unwrap(),
        "device b 8:1 mode 0000"
    );
    let limbo = std::fs::read_dir(stream.dirs.path("hidden/limbo")).unwrap();
    assert_eq!(limbo.count(), 0);
    let root = stream.applier().replica().root();
    let place = Place {
        dir: root,
        name: &super::applier_model::name("disk"),
    };
    stream.open();
    let shown = stream.applier().replica_mut().inspect(place).unwrap();
    assert_eq!(shown.unwrap().kind, InodeKind::Other);
    // What nobody may run as somebody else, or at all.
    stream.apply(&chmod(10, 0o064_755)).unwrap();
    assert_eq!(stat(&stream.dirs.path("mirror/disk")).mode & 0o7777, 0o644);
    assert_eq!(
        record(&stream, "mirror/disk").unwrap(),
        "device b 8:1 mode 4111"
    );
    stream.open();
    let rename = Op::Rename {
        id: id(10),
        node: Node::Block(rdev),
        from: at("disk"),
        to: at("moved"),
        replaced: None,
        mode: doppelfs::types::RenameMode::Plain,
    };
    stream.apply(&Body::of(rename)).unwrap();
    let link = Op::Link {
        id: id(10),
        at: at("again"),
        node: Node::Block(rdev),
    };
    stream.apply(&with_after(link, attrs(0o060_640))).unwrap();
    let before = stat(&stream.dirs.path("mirror/moved")).ino;
    // A mirror knows it for the device, and another device for another.
    let entries = |number| {
        vec![
            ("moved", 10, Node::Block(number)),
            ("again", 10, Node::Block(number)),
        ]
    };
    let image = |number| {
        let op = Op::Image {
            id: id(10),
            node: Node::Block(number),
            xattrs: Vec::new(),
        };
        with_after(op, attrs(0o060_640))
    };
    stream.mirror(2, Scope::Full, entries(rdev)).unwrap();
    stream.apply(&image(rdev)).unwrap();
    stream
        .apply(&Body::of(Op::MirrorEnd { mirror: 2 }))
        .unwrap();
    assert_eq!(stat(&stream.dirs.path("mirror/moved")).ino, before);
    assert_eq!(stat(&stream.dirs.path("mirror/again")).ino, before);
    stream
        .mirror(3, Scope::Full, entries(libc::makedev(8, 2)))
        .unwrap();
    stream.apply(&image(libc::makedev(8, 2))).unwrap();
    stream
        .apply(&Body::of(Op::MirrorEnd { mirror: 3 }))
        .unwrap();
    assert_ne!(stat(&stream.dirs.path("mirror/moved")).ino, before);
    assert_eq!(
        record(&stream, "mirror/again").unwrap(),
        "device b 8:2 mode 0000"
    );
    // It cannot be written to, and goes as it came.
    assert!(stream.write(10, 0, b"x").is_err());
}

#[test]
fn set_id_bits_and_capabilities_are_recorded_as_long_as_the_source_has_them() {
    if !is_root("applier_withheld") {
        return;
    }
    let mut stream = Stream::new("set-id", ALL);
    stream.file("program", 10, b"#!/bin/sh\n");
    let mode = |stream: &Stream| stat(&stream.dirs.path("mirror/program")).mode & 0o7777;
    stream.apply(&chmod(10, 0o106_755)).unwrap();
    assert_eq!(mode(&stream), 0o755);
    assert_eq!(record(&stream, "mirror/program").unwrap(), "mode 6000");
    stream.apply(&chmod(10, 0o104_755)).unwrap();
    assert_eq!(record(&stream, "mirror/program").unwrap(), "mode 4000");
    let op = Op::SetXattr {
        id: id(10),
        name: b"security.capability".to_vec(),
    };
    let set = with_after(op, attrs(0o104_755));
    stream.apply_with(&set, &capability()).unwrap();
    let real = c"security.capability";
    let recorded = c"trusted.doppelfs.capability";
    assert_eq!(xattr_of(&stream, "mirror/program", real), None);
    assert_eq!(
        xattr_of(&stream, "mirror/program", recorded),
        Some(capability())
    );
    stream.open();
    // A write takes both, as the source's says.
    stream.write(10, 0, b"#!/bin/zsh\n").unwrap();
    assert_eq!(xattr_of(&stream, "mirror/program", recorded), None);
    assert_eq!(record(&stream, "mirror/program"), None);
    stream.apply(&chmod(10, 0o104_755)).unwrap();
    stream.apply_with(&set, &capability()).unwrap();
    // So does another owner.
    let mut chown = chmod(10, 0o100_755);
    chown.after = chown
        .after
        .map(|after| doppelfs::types::Attrs { uid: 7, ..after });
    stream.apply(&chown).unwrap();
    assert_eq!(xattr_of(&stream, "mirror/program", recorded), None);
    assert_eq!(record(&stream, "mirror/program"), None);
    assert_eq!(mode(&stream), 0o755);
    // Directories keep theirs.
    stream
        .apply(&create("dir", 11, Node::Dir, 0o042_755))
        .unwrap();
    assert_eq!(stat(&stream.dirs.path("mirror/dir")).mode & 0o7777, 0o2755);
}

#[test]
fn terms_that_change_hold_for_what_is_applied_from_then_on() {
    if !is_root("applier_withheld") {
        return;
    }
    let mut stream = Stream::new("changed", Limits::default());
    stream.file("program", 10, b"x");
    stream.apply(&chmod(10, 0o104_755)).unwrap();
    let mode = |stream: &Stream| stat(&stream.dirs.path("mirror/program")).mode & 0o7777;
    assert_eq!(mode(&stream), 0o4755);
    stream.terms.set(ALL);
    assert_eq!(mode(&stream), 0o4755);
    stream.apply(&chmod(10, 0o104_711)).unwrap();
    assert_eq!(mode(&stream), 0o711);
    stream.terms.set(Limits::default());
    // The record is still followed, also after a restart.
    stream.open();
    stream.apply(&chmod(10, 0o100_711)).unwrap();
    assert_eq!(record(&stream, "mirror/program"), None);
    stream.apply(&chmod(10, 0o104_711)).unwrap();
    assert_eq!(mode(&stream), 0o4711);
    assert_eq!(record(&stream, "mirror/program"), None);
    stream
        .apply(&create(
            "null",
            11,
            Node::Char(libc::makedev(1, 3)),
            0o020_666,
        ))
        .unwrap();
    assert_eq!(stat(&stream.dirs.path("mirror/null")).kind(), libc::S_IFCHR);
}

/// The tree as the applier sees it through its replica.
fn assert_shows(world: &World, ino: u64, replica: &mut impl Replica, dir: Inode, seed: u64) {
    for (name, child) in &world.things[&ino].entries {
        let found = replica.inspect(Place { dir, name }).unwrap().unwrap();
        let thing = &world.things[child];
        let what = format!("seed {seed} {name:?} {:?}", thing.node);
        assert_eq!(found.kind, InodeKind::of(&thing.node), "{what}");
        let (shown, want) = (replica.attrs(found).unwrap(), world.attrs(*child).unwrap());
        if !matches!(thing.node, Node::Symlink(_)) {
            assert_eq!(
                shown.mode, want.mode,
                "{what}: {:o} {:o}",
                shown.mode, want.mode
            );
        }
        assert_eq!(
            (shown.uid, shown.gid, shown.mtime),
            (want.uid, want.gid, want.mtime),
            "{what}"
        );
        if let Node::Char(rdev) | Node::Block(rdev) = thing.node {
            let special = replica.special(found).unwrap();
            assert_eq!(special, (file_type(&thing.node), rdev), "{what}");
        }
        let mut xattrs = replica.xattrs(found).unwrap();
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(xattrs, world.xattr_list(*child).unwrap(), "{what}");
        if thing.node.is_dir() {
            assert_shows(world, *child, replica, found, seed);
        }
    }
}

fn assert_withheld(path: &std::path::Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let found = stat(&entry.path());
        let is_device = matches!(found.kind(), libc::S_IFCHR | libc::S_IFBLK) && found.rdev != 0;
        assert!(!is_device, "{:?}", entry.path());
        let set_id = found.is_file() && found.mode & 0o6000 != 0;
        assert!(!set_id, "{:?} {:o}", entry.path(), found.mode);
        if found.is_dir() {
            assert_withheld(&entry.path());
        }
    }
}

#[test]
fn random_sequences_are_shown_exact_with_everything_withheld() {
    if !is_root("applier_withheld") {
        return;
    }
    for seed in super::applier_rig::seeds(92, 8) {
        let dirs = Dirs::new("withheld");
        let mut source = Source::new(seed);
        let terms = Arc::new(Terms::new("web1", ALL));
        let (state, table) = (dirs.path("state"), dirs.path("table"));
        let open = || {
            let replica = Withholding::new(dirs.replica().unwrap(), Arc::clone(&terms)).unwrap();
            let replica = Metered::new(replica, Arc::clone(&terms)).unwrap();
            let opened = Applier::open(replica, &state, &table, Backlog::empty());
            opened.unwrap().0
        };
        let mut applier: Applier<Metered<Withholding<FsReplica>>> = open();
        let position = Position {
            history: HISTORY,
            seq: Seq::ZERO,
        };
        applier.reset_to(position).unwrap();
        for round in 1..4 {
            let begin = source.mirror_begin(round, Scope::Full);
            applier.apply(&source.seal(&begin, false)).unwrap();
            while !applier.mirror_done() {
                for id in applier.take_wants(100) {
                    let ino = ino_of(id);
                    let made = match source.world.things.get(&ino) {
                        Some(thing) if thing.node.is_dir() => source.listing(ino, 1000),
                        _ => vec![source.image(ino)],
                    };
                    for made in &made {
                        applier.apply(&source.seal(made, false)).unwrap();
                    }
                }
            }
            let end = Source::mirror_end(round);
            applier.apply(&source.seal(&end, false)).unwrap();
            for step in 0..120 {
                let made = source.step();
                let frame = source.seal(&made, false);
                applier
                    .apply(&frame)
                    .unwrap_or_else(|e| panic!("seed {seed} {:?}: {e}", made.0.op));
                if step == 60 {
                    drop(applier);
                    applier = open();
                }
            }
            let root = applier.replica().root();
            assert_shows(&source.world, ROOT, applier.replica_mut(), root, seed);
            assert_withheld(&dirs.path("mirror"));
        }
    }
}

fn compare(trees: &Trees) -> digest::Report {
    trees.report_with(&digest::Options::default())
}

#[test]
fn what_is_withheld_is_counted_and_no_difference() {
    if !is_root("applier_withheld") {
        return;
    }
    let trees = Trees::empty("withheld");
    let (disk, program) = (trees.left("disk"), trees.left("program"));
    make_node(&disk, libc::S_IFBLK | 0o640, libc::makedev(8, 1));
    std::fs::write(&program, "x").unwrap();
    set_xattr(&program, "security.capability", &capability());
    sys::chmod_fd(handle(&program).as_fd(), 0o4755).unwrap();
    trees.copy();
    let (disk_here, program_here) = (trees.right("disk"), trees.right("program"));
    std::fs::remove_file(&disk_here).unwrap();
    std::fs::write(&disk_here, "").unwrap();
    sys::chmod_fd(handle(&disk_here).as_fd(), stat(&disk).mode & 0o777).unwrap();
    set_xattr(
        &disk_here,
        "trusted.doppelfs.withheld",
        b"device b 8:1 mode 0000",
    );
    crate::trees::remove_xattr(&program_here, "security.capability");
    set_xattr(&program_here, "trusted.doppelfs.capability", &capability());
    set_xattr(&program_here, "trusted.doppelfs.withheld", b"mode 4000");
    sys::chmod_fd(handle(&program_here).as_fd(), 0o755).unwrap();
    for (left, right) in [(&disk, &disk_here), (&trees.left(""), &trees.right(""))] {
        set_mtime(right, stat(left).mtime);
    }
    let report = compare(&trees);
    assert!(report.is_equal(), "{report}");
    assert_eq!((report.withheld.devices, report.withheld.rights), (1, 1));
    let text = "; 2 withheld: 1 devices, 1 set-id or capabilities";
    assert!(report.to_string().ends_with(text), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["withheld"]["devices"], 1);
    assert_eq!(json["withheld"]["rights"], 1);
    // What is recorded wrongly is a difference.
    set_xattr(
        &disk_here,
        "trusted.doppelfs.withheld",
        b"device b 8:2 mode 0000",
    );
    set_xattr(&program_here, "trusted.doppelfs.withheld", b"mode 2000");
    trees.assert_differs(&[(b"disk", What::Device), (b"program", What::Mode)]);
}

#[test]
fn a_source_that_says_of_itself_that_something_is_withheld_is_not_believed() {
    if !is_root("applier_withheld") {
        return;
    }
    let trees = Trees::empty("forged");
    std::fs::write(trees.left("disk"), "").unwrap();
    set_xattr(
        &trees.left("disk"),
        "trusted.doppelfs.withheld",
        b"device b 8:1 mode 0000",
    );
    std::fs::write(trees.left("file"), "").unwrap();
    set_xattr(
        &trees.left("file"),
        "trusted.doppelfs.withheld",
        b"mode 4000",
    );
    trees.copy();
    // The copy's are believed: there it is a device, and a set-id program.
    trees.assert_differs(&[(b"disk", What::Type), (b"file", What::Mode)]);
    // A replica does not have them.
    for text in ["disk", "file"] {
        crate::trees::remove_xattr(&trees.right(text), "trusted.doppelfs.withheld");
    }
    assert!(compare(&trees).is_equal());
    let found = std::fs::metadata(trees.right("disk")).unwrap();
    assert_eq!(found.size(), 0);
    drop(xattr("a", b"b"));
}
