//! Goal: whatever a source sends, and whatever somebody does to the replica meanwhile, nothing outside of the
//! replica is touched, and nothing panics. Method: records written by hand, real directories, mounts and
//! links. Needs root, says so when it is skipped.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use doppelfs::applier::{Error, Limits, Place, Replica as _, Start};
use doppelfs::types::{Body, Node, Op, RenameMode, Scope, Seq, Time, limits};

use super::applier_model::name;
use super::applier_stream::{Dirs, ROOT, Stream, at, attrs, chmod, create, id, with_after, xattr};
use crate::trees::{is_root, stat};

fn run(command: &str, args: &[&str]) {
    let status = Command::new(command).args(args).status().unwrap();
    assert!(status.success(), "{command} {args:?}");
}

#[test]
fn what_is_mounted_in_the_replica_is_no_part_of_it() {
    if !is_root("applier_confined") {
        return;
    }
    let mut stream = Stream::new("mounted", Limits::default());
    std::fs::write(stream.dirs.path("outside/file"), "precious").unwrap();
    for part in ["mirror/dir", "mirror/file"] {
        match part {
            "mirror/dir" => std::fs::create_dir(stream.dirs.path(part)).unwrap(),
            _ => std::fs::write(stream.dirs.path(part), "").unwrap(),
        }
    }
    // Of the same file system, so that only the mount tells.
    let path = |part: &str| stream.dirs.path(part).display().to_string();
    run("mount", &["--bind", &path("outside"), &path("mirror/dir")]);
    run(
        "mount",
        &["--bind", &path("outside/file"), &path("mirror/file")],
    );
    let mut replica = stream.dirs.replica().unwrap();
    for text in ["dir", "file"] {
        let place = Place {
            dir: replica.root(),
            name: &name(text),
        };
        let found = replica.lookup(place).unwrap_err();
        assert_eq!(found.kind(), std::io::ErrorKind::CrossesDevices, "{text}");
        let found = replica.inspect(place).unwrap_err();
        assert_eq!(found.kind(), std::io::ErrorKind::CrossesDevices, "{text}");
    }
    // Neither is on the source: a mirror has to remove them.
    let held = stream.mirror(2, Scope::Full, Vec::new()).unwrap_err();
    let text = held.to_string();
    assert!(text.contains("mounted here"), "{text}");
    assert!(text.contains("mirror/"), "{text}");
    run(
        "umount",
        &[&stream.dirs.path("mirror/dir").display().to_string()],
    );
    run(
        "umount",
        &[&stream.dirs.path("mirror/file").display().to_string()],
    );
    let outside = std::fs::read(stream.dirs.path("outside/file")).unwrap();
    assert_eq!(outside, b"precious");
    // The same record, now that it can be done.
    let frame = stream.seal(
        &with_after(
            Op::Listing {
                id: ROOT,
                entries: Vec::new(),
                xattrs: Vec::new(),
            },
            attrs(0o040_755),
        ),
        &[],
        false,
    );
    stream.applier().apply(&frame).unwrap();
    assert!(!stream.is_there("dir") && !stream.is_there("file"));
}

#[test]
fn a_directory_that_was_taken_out_of_the_replica_is_left_where_it_is() {
    if !is_root("applier_confined") {
        return;
    }
    let mut stream = Stream::new("taken-out", Limits::default());
    stream
        .apply(&create("dir", 10, Node::Dir, 0o040_755))
        .unwrap();
    std::fs::rename(
        stream.dirs.path("mirror/dir"),
        stream.dirs.path("outside/dir"),
    )
    .unwrap();
    std::fs::write(stream.dirs.path("outside/dir/local"), "theirs").unwrap();
    let gap = Body::of(Op::Gap {
        ids: vec![ROOT],
        everything: false,
    });
    stream.apply(&gap).unwrap();
    stream
        .mirror(2, Scope::Partial, vec![("dir", 10, Node::Dir)])
        .unwrap();
    assert!(stream.is_there("dir"));
    assert!(stream.dirs.path("outside/dir/local").exists());
}

/// After a power cut files are found by name. Somebody may have linked a file of their neighbour's there.
#[test]
fn a_link_to_a_file_outside_is_not_taken_for_a_file_of_the_source() {
    if !is_root("applier_confined") {
        return;
    }
    let mut stream = Stream::new("linked", Limits::default());
    if let Some(job) = stream.applier().begin_checkpoint().unwrap() {
        job.run().unwrap();
    }
    stream.file("file", 10, b"from the source");
    stream.applier = None;
    for entry in std::fs::read_dir(stream.dirs.path("table")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (secret, file) = (
        stream.dirs.path("outside/secret"),
        stream.dirs.path("mirror/file"),
    );
    std::fs::write(&secret, "secret").unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::hard_link(&secret, &file).unwrap();
    let start = stream.open().start;
    assert!(
        matches!(start, Start::NeedsMirror { row: 'J', .. }),
        "{start:?}"
    );
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    assert_eq!(stat(&secret).mode & 0o777, 0o644);
}

/// Between making an inode and opening it somebody puts a link to another file at its name, as often as they
/// can. It is not taken for what was made, whenever they are quick enough.
#[test]
fn what_is_swapped_in_is_not_taken_for_what_was_made() {
    if !is_root("applier_confined") {
        return;
    }
    const TRIES: usize = 20_000;
    let dirs = Dirs::new("swapped");
    let (secret, next) = (dirs.path("outside/secret"), dirs.path("outside/next"));
    let swapped = dirs.path("mirror/fifo");
    std::fs::write(&secret, "secret").unwrap();
    let secret_ino = stat(&secret).ino;
    let mut replica = dirs.replica().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(std::fs::hard_link(&secret, &next));
                drop(std::fs::rename(&next, &swapped));
            }
        });
        let mut taken = 0;
        for _ in 0..TRIES {
            let place = Place {
                dir: replica.root(),
                name: &name("fifo"),
            };
            let made = replica.create(place, &Node::Fifo);
            taken += usize::from(made.is_ok_and(|made| made.object.ino == secret_ino));
            drop(std::fs::remove_file(&swapped));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(taken, 0, "of {TRIES}");
    });
}

#[test]
fn a_hidden_directory_that_others_can_write_to_is_refused() {
    if !is_root("applier_confined") {
        return;
    }
    let dirs = Dirs::new("writable");
    drop(dirs.replica().unwrap());
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dirs.path("hidden"), open).unwrap();
    let refused = dirs.replica().unwrap_err();
    assert!(matches!(refused, Error::Open { .. }), "{refused}");
}

/// Everything that no file has, each in a record of its own.
fn unfit() -> Vec<(Body, Vec<u8>)> {
    let (file, far) = (id(10), i64::MAX as u64);
    let fallocate = |mode, offset, length| {
        Body::of(Op::Fallocate {
            id: file,
            mode,
            offset,
            length,
        })
    };
    let set = |name: &[u8]| {
        Body::of(Op::SetXattr {
            id: file,
            name: name.to_vec(),
        })
    };
    let node = |node| create("odd", 11, node, 0o100_644);
    let owner = |uid, gid| {
        let mut body = chmod(10, 0o100_644);
        body.after = body
            .after
            .map(|after| doppelfs::types::Attrs { uid, gid, ..after });
        body
    };
    let late = Time {
        secs: 0,
        nanos: 1_000_000_000,
    };
    let mut late_dir = create("odd", 11, Node::File, 0o100_644);
    late_dir.dir_mtime = Some(late);
    let mut late_file = chmod(10, 0o100_644);
    late_file.after = late_file.after.map(|after| doppelfs::types::Attrs {
        mtime: late,
        ..after
    });
    let mut huge = chmod(10, 0o100_644);
    huge.after = huge.after.map(|after| doppelfs::types::Attrs {
        size: u64::MAX,
        ..after
    });
    let whiteout = Body::of(Op::Rename {
        id: file,
        node: Node::File,
        from: at("file"),
        to: at("moved"),
        replaced: None,
        mode: RenameMode::Whiteout {
            id: id(12),
            after: attrs(u32::MAX),
        },
    });
    let plain = vec![
        Body::of(Op::Truncate {
            id: file,
            size: u64::MAX,
        }),
        Body::of(Op::Truncate {
            id: file,
            size: far + 1,
        }),
        fallocate(0, u64::MAX, u64::MAX),
        fallocate(0, far, 1),
        fallocate(0x08, 1, u64::MAX),
        fallocate(0x20, u64::MAX, 1),
        fallocate(0x28, 0, 4096),
        fallocate(0x02, 0, 4096),
        fallocate(-1, 0, 4096),
        fallocate(0x4000, 0, 4096),
        set(b""),
        set(b"user.\0"),
        set(&[b'u'; 256]),
        set(b"system.nfs4_acl"),
        set(b"system.posix_acl_access2"),
        Body::of(Op::RemoveXattr {
            id: file,
            name: b"a\0b".to_vec(),
        }),
        node(Node::Symlink(Vec::new())),
        node(Node::Symlink(vec![b'a'; 4096])),
        node(Node::Symlink(b"a\0b".to_vec())),
        node(Node::Char(1 << 32)),
        node(Node::Block(u64::MAX)),
        owner(u32::MAX, 0),
        owner(0, u32::MAX),
        chmod(10, 0o1_000_000),
        late_dir,
        late_file,
        huge,
        whiteout,
    ];
    let mut all: Vec<_> = plain.into_iter().map(|body| (body, Vec::new())).collect();
    let write = |offset| Body::of(Op::Write { id: file, offset });
    all.push((write(u64::MAX), b"x".to_vec()));
    all.push((write(far), b"x".to_vec()));
    all.push((set(b"user.long"), vec![0; limits::XATTR_BYTES_MAX + 1]));
    let mut born = create("odd", 11, Node::File, 0o100_644);
    if let Op::Create { xattrs, .. } = &mut born.op {
        xattrs.push(xattr("system.data", b"x"));
    }
    all.push((born, Vec::new()));
    all
}

#[test]
fn what_no_file_has_is_refused_before_anything_is_done() {
    if !is_root("applier_confined") {
        return;
    }
    let mut stream = Stream::new("unfit", Limits::default());
    stream.file("file", 10, b"content");
    let before = stream.applier().applied();
    for (body, payload) in unfit() {
        let refused = stream.apply_with(&body, &payload);
        let what = format!("{:?}", body.op);
        assert!(
            matches!(refused, Err(Error::Unfit { .. })),
            "{what}: {refused:?}"
        );
        assert_eq!(stream.applier().applied(), before, "{what}");
    }
    assert!(!stream.is_there("odd") && !stream.is_there("moved"));
    assert_eq!(
        std::fs::read(stream.dirs.path("mirror/file")).unwrap(),
        b"content"
    );
    // Nothing is in the way of what comes instead.
    stream.write(10, 0, b"CONTENT").unwrap();
}

/// Within what a file may have, and more than this file system can do: an error that says so.
#[test]
fn what_the_file_system_cannot_do_is_an_error() {
    if !is_root("applier_confined") {
        return;
    }
    let mut stream = Stream::new("far", Limits::default());
    stream.file("file", 10, b"content");
    stream
        .apply(&create("dir", 11, Node::Dir, 0o040_755))
        .unwrap();
    let (file, far) = (id(10), i64::MAX as u64);
    for (offset, length) in [(0, far), (far - 1, 1), (1 << 60, 1 << 60)] {
        for mode in [0, 0x10, 0x20] {
            let op = Op::Fallocate {
                id: file,
                mode,
                offset,
                length,
            };
            let held = stream.apply(&with_after(op, attrs(0o100_644)));
            assert!(held.is_err(), "{mode} {offset} {length}");
        }
    }
    stream.write(10, far - 1, b"x").unwrap_err();
    let op = Op::Truncate {
        id: file,
        size: far,
    };
    stream.apply(&Body::of(op)).unwrap_err();
    let held = stream.write(11, 0, b"x").unwrap_err();
    assert!(held.to_string().contains("of another kind"), "{held}");
    for op in [
        Op::Truncate {
            id: id(11),
            size: 0,
        },
        Op::Fallocate {
            id: id(11),
            mode: 0x08,
            offset: 0,
            length: 4096,
        },
    ] {
        let held = stream.apply(&with_after(op, attrs(0o040_755)));
        assert!(held.unwrap_err().to_string().contains("of another kind"));
    }
}

#[test]
fn shifts_that_are_emulated_copy_no_holes() {
    if !is_root("applier_confined") {
        return;
    }
    const SIZE: u64 = 8 << 40;
    let mut stream = Stream::new("sparse", Limits::default());
    stream.file("file", 10, b"0123456789");
    let path = stream.dirs.path("mirror/file");
    let shift = |mode, offset, length, size| {
        let op = Op::Fallocate {
            id: id(10),
            mode,
            offset,
            length,
        };
        let mut after = attrs(0o100_644);
        after.size = size;
        with_after(op, after)
    };
    let op = Op::Truncate {
        id: id(10),
        size: SIZE,
    };
    let mut after = attrs(0o100_644);
    after.size = SIZE;
    stream.apply(&with_after(op, after)).unwrap();
    // Not at blocks, so that no file system does it itself.
    stream.apply(&shift(0x08, 2, 3, SIZE - 3)).unwrap();
    stream
        .apply(&shift(0x20, 4, 1 << 40, SIZE - 3 + (1 << 40)))
        .unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.size(), SIZE - 3 + (1 << 40));
    assert!(found.blocks() < 100, "{} blocks", found.blocks());
    let file = std::fs::File::open(&path).unwrap();
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0156");
    file.read_exact_at(&mut bytes, 4 + (1 << 40)).unwrap();
    assert_eq!(&bytes, b"789\0");
    file.read_exact_at(&mut bytes, 4).unwrap();
    assert_eq!(bytes, [0; 4]);
}

#[track_caller]
fn assert_no_own(stream: &Stream) {
    for path in ["mirror/file", "mirror"] {
        let fd = crate::trees::handle(&stream.dirs.path(path));
        let found = doppelfs::sys::list_all_xattrs(std::os::fd::AsFd::as_fd(&fd)).unwrap();
        let own = |x: &doppelfs::types::Xattr| x.name.starts_with(b"trusted.doppelfs.");
        assert!(!found.iter().any(own), "{path}: {found:?}");
    }
}

#[test]
fn our_own_attributes_are_never_taken_from_a_source() {
    if !is_root("applier_confined") {
        return;
    }
    const OWN: [&str; 3] = [
        "trusted.doppelfs.withheld",
        "trusted.doppelfs.position",
        "trusted.doppelfs.link",
    ];
    let mut stream = Stream::new("own-names", Limits::default());
    let mut born = create("file", 10, Node::File, 0o100_644);
    if let Op::Create { xattrs, .. } = &mut born.op {
        xattrs.extend(OWN.map(|name| xattr(name, b"device b 8:0 mode 0000")));
        xattrs.push(xattr("trusted.other", b"kept"));
    }
    stream.apply(&born).unwrap();
    for own in OWN {
        let op = Op::SetXattr {
            id: id(10),
            name: own.as_bytes().to_vec(),
        };
        stream
            .apply_with(&with_after(op, attrs(0o100_644)), b"device b 8:0 mode 0000")
            .unwrap();
    }
    assert_no_own(&stream);
    stream
        .apply(&Body::of(Op::MirrorBegin {
            mirror: 2,
            scope: Scope::Partial,
            root: ROOT,
        }))
        .unwrap();
    let image = Op::Image {
        id: id(10),
        node: Node::File,
        xattrs: vec![xattr(OWN[0], b"mode 4000"), xattr("trusted.other", b"kept")],
    };
    stream.apply(&with_after(image, attrs(0o100_644))).unwrap();
    let listing = Op::Listing {
        id: ROOT,
        entries: vec![doppelfs::types::Entry {
            name: name("file"),
            id: id(10),
            node: Node::File,
        }],
        xattrs: vec![xattr(OWN[0], b"mode 4000")],
    };
    stream
        .apply(&with_after(listing, attrs(0o040_755)))
        .unwrap();
    assert_no_own(&stream);
    let fd = crate::trees::handle(&stream.dirs.path("mirror/file"));
    let found = doppelfs::sys::list_all_xattrs(std::os::fd::AsFd::as_fd(&fd)).unwrap();
    assert_eq!(found, [xattr("trusted.other", b"kept")]);
}

#[test]
fn a_listing_without_end_is_refused() {
    if !is_root("applier_confined") {
        return;
    }
    let mut stream = Stream::new("endless", Limits::default());
    let part = Body::of(Op::Listing {
        id: ROOT,
        entries: Vec::new(),
        xattrs: Vec::new(),
    });
    let payload = vec![0; limits::PAYLOAD_BYTES_MAX];
    let first = stream.applier().applied().0;
    let mut refused = None;
    for number in 0..600 {
        let (prev, seq) = (Seq(first + number), Seq(first + number + 1));
        let frame = super::applier_model::frame(&part, &payload, prev, seq, true);
        if let Err(error) = stream.applier().apply(&frame) {
            refused = Some((number, error));
            break;
        }
    }
    let (number, error) = refused.unwrap();
    assert!(matches!(error, Error::ListingTooLong { .. }), "{error}");
    assert!(number > 500, "{number}");
}
