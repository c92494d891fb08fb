//! Goal: what NFS clients do on an export of the mount arrives on the replica, and their file handles
//! outlive a remount and a restart of the server. Method: nfs-ganesha (FSAL_VFS) exports the mount;
//! a client of ours asks call by call, and the tools of libnfs as a second opinion.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::support::nfs::{
    ACCES, Attrs, EXIST, Handle, NOENT, NOTEMPTY, NewAttrs, Nfs, PERM, STALE, User,
};
use crate::support::{
    Fixture, Ganesha, Scratch, has_programs, is_ready, isolated, program, random_bytes, seed, until,
};

/// Names in the large directory.
const LISTED: usize = 5_000;

/// Other file systems that give their device numbers away. More than one: mounts of other tests take
/// some.
const OTHERS: usize = 8;

/// Clients at once.
const CLIENTS: u32 = 4;

fn is_ready_for(test: &str, programs: &[&str]) -> bool {
    is_ready(test) && has_programs(test, &Ganesha::PROGRAMS) && has_programs(test, programs)
}

pub(crate) fn export(fixture: &Fixture) -> Ganesha {
    Ganesha::start(&fixture.outside("ganesha"), &fixture.path(""))
}

pub(crate) fn mode(mode: u32) -> NewAttrs {
    NewAttrs {
        mode: Some(mode),
        ..NewAttrs::default()
    }
}

fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
    User {
        uid,
        gid,
        groups: groups.to_vec(),
    }
}

/// The mount's root as clients know it: a path without a slash at its end.
pub(crate) fn mount(fixture: &Fixture, user: User) -> Nfs {
    Nfs::mount(user, fixture.path("x").parent().expect("the root"))
}

/// Small, large, sparse, appended to, cut off, written over.
fn change_content(fixture: &Fixture, nfs: &mut Nfs, seed: u64) {
    let root = nfs.root();
    let dir = nfs.mkdir(&root, "content", &mode(0o755)).expect("mkdir");
    let small = nfs.create(&dir, "small", &mode(0o644)).expect("create");
    nfs.write(&small, 0, b"some bytes").expect("write");
    nfs.write(&small, 10, b", and more").expect("append");
    let text = std::fs::read_to_string(fixture.path("content/small"));
    assert_eq!(text.expect("read"), "some bytes, and more");
    assert_eq!(nfs.create(&dir, "small", &mode(0o644)), Err(EXIST));

    let bytes = random_bytes(seed, 20 << 20);
    let large = nfs.create(&dir, "large", &mode(0o600)).expect("create");
    nfs.write(&large, 0, &bytes).expect("write");
    nfs.write(&large, 7 << 20, &bytes[..123_457])
        .expect("write over");
    let read = nfs.read_all(&large, 1 << 20).expect("read");
    assert_eq!(read.len(), bytes.len());
    assert_eq!(read[7 << 20..][..123_457], bytes[..123_457]);
    assert_eq!(read[8 << 20..], bytes[8 << 20..]);

    let sparse = nfs.create(&dir, "sparse", &mode(0o644)).expect("create");
    nfs.write(&sparse, 5 << 30, b"island").expect("write");
    let blocks = std::fs::metadata(fixture.path("content/sparse"))
        .expect("stat")
        .blocks();
    assert!(blocks < 1_000, "{blocks} blocks of a sparse file");

    for (name, size) in [("shorter", 777), ("longer", 3 << 20)] {
        let file = nfs.create(&dir, name, &mode(0o644)).expect("create");
        nfs.write(&file, 0, &bytes[..1 << 20]).expect("write");
        let new = NewAttrs {
            size: Some(size),
            ..NewAttrs::default()
        };
        nfs.setattr(&file, &new).expect("set the size");
        assert_eq!(nfs.getattr(&file).expect("getattr").size, size);
    }
}

/// Files and directories made, renamed, linked, removed.
fn change_names(fixture: &Fixture, nfs: &mut Nfs) {
    let root = nfs.root();
    let dir = nfs.mkdir(&root, "names", &mode(0o755)).expect("mkdir");
    let other = nfs.mkdir(&root, "other", &mode(0o755)).expect("mkdir");
    for name in ["one", "two", "three", "gone"] {
        let file = nfs.create(&dir, name, &mode(0o644)).expect("create");
        nfs.write(&file, 0, name.as_bytes()).expect("write");
    }
    let one = nfs.lookup(&dir, "one").expect("lookup");
    nfs.rename((&dir, "one"), (&other, "moved"))
        .expect("rename");
    nfs.rename((&dir, "two"), (&dir, "three"))
        .expect("rename over");
    nfs.remove(&dir, "gone").expect("remove");
    nfs.link(&one, &dir, "linked").expect("link");
    nfs.symlink(&dir, "symlink", "../other/moved")
        .expect("symlink");
    nfs.mkfifo(&dir, "fifo", &mode(0o620)).expect("mkfifo");
    let link = nfs.lookup(&dir, "symlink").expect("lookup");
    assert_eq!(nfs.readlink(&link).expect("readlink"), b"../other/moved");
    assert_eq!(nfs.getattr(&one).expect("getattr").nlink, 2);
    assert_eq!(nfs.lookup(&dir, "gone"), Err(NOENT));

    let tree = nfs.mkdir(&dir, "tree", &mode(0o755)).expect("mkdir");
    let below = nfs.mkdir(&tree, "below", &mode(0o700)).expect("mkdir");
    nfs.create(&below, "deep", &mode(0o644)).expect("create");
    assert_eq!(nfs.rmdir(&tree, "below"), Err(NOTEMPTY));
    nfs.rename((&dir, "tree"), (&other, "tree"))
        .expect("rename a directory");
    nfs.mkdir(&dir, "empty", &mode(0o755)).expect("mkdir");
    nfs.rmdir(&dir, "empty").expect("rmdir");
    for name in ["new\nline", "-rf", "caf\u{e9}", &"n".repeat(255)] {
        nfs.create(&dir, name, &mode(0o644)).expect("create");
    }

    let kind = std::fs::symlink_metadata(fixture.path("names/fifo")).expect("lstat");
    assert!(kind.file_type().is_fifo());
    let text = |name: &str| std::fs::read_to_string(fixture.path(name)).expect("read");
    assert_eq!(
        (text("names/three"), text("names/linked")),
        ("two".into(), "one".into())
    );
    assert!(fixture.path("other/tree/below/deep").exists());
    assert!(!fixture.path("names/empty").exists() && !fixture.path("names/gone").exists());
}

/// Attributes that root sets, to the nanosecond.
fn change_attributes(fixture: &Fixture, nfs: &mut Nfs) {
    let root = nfs.root();
    let file = nfs
        .create(&root, "attributes", &mode(0o600))
        .expect("create");
    let new = NewAttrs {
        mode: Some(0o4751),
        uid: Some(1234),
        gid: Some(4321),
        mtime: Some((1_234_567_890, 123_456_789)),
        size: None,
    };
    nfs.setattr(&file, &new).expect("setattr");
    let found = nfs.getattr(&file).expect("getattr");
    let stat = std::fs::metadata(fixture.path("attributes")).expect("stat");
    assert_eq!((stat.uid(), stat.gid()), (1234, 4321));
    assert_eq!(stat.permissions().mode() & 0o7777, found.mode);
    assert_eq!(
        (stat.mtime(), stat.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    assert_eq!(
        (found.fileid, found.mtime),
        (stat.ino(), (1_234_567_890, 123_456_789))
    );
}

/// The server acts with the ids of its client: ownership, permissions, set-user-id bits.
fn act_as_users(fixture: &Fixture, nfs: &mut Nfs) {
    let root = nfs.root();
    let shared = nfs.mkdir(&root, "shared", &mode(0o2775)).expect("mkdir");
    let group = NewAttrs {
        gid: Some(1001),
        mode: Some(0o2775),
        ..NewAttrs::default()
    };
    nfs.setattr(&shared, &group).expect("setattr");
    let program = nfs
        .create(&shared, "program", &mode(0o4775))
        .expect("create");
    nfs.setattr(
        &program,
        &NewAttrs {
            mode: Some(0o4775),
            ..group.clone()
        },
    )
    .expect("setattr");

    let mut member = nfs.again(user(1000, 1000, &[1001]));
    let file = member
        .create(&shared, "file", &mode(0o640))
        .expect("create");
    member.write(&file, 0, b"mine").expect("write");
    let dir = member.mkdir(&shared, "dir", &mode(0o750)).expect("mkdir");
    let owners = |attrs: Attrs| (attrs.uid, attrs.gid, attrs.mode);
    assert_eq!(member.getattr(&file).map(owners), Ok((1000, 1001, 0o640)));
    assert_eq!(member.getattr(&dir).map(owners), Ok((1000, 1001, 0o2750)));
    member
        .setattr(&file, &mode(0o600))
        .expect("chmod of one's own");
    let give = NewAttrs {
        uid: Some(1002),
        ..NewAttrs::default()
    };
    assert_eq!(member.setattr(&file, &give), Err(PERM));
    member.write(&program, 0, b"changed").expect("write");
    assert_eq!(
        member.getattr(&program).map(|a| a.mode & 0o4000),
        Ok(0),
        "suid stays"
    );

    let mut stranger = nfs.again(user(1002, 1002, &[]));
    assert_eq!(stranger.read(&file, 0, 10).map(drop), Err(ACCES));
    assert_eq!(stranger.create(&shared, "no", &mode(0o644)), Err(ACCES));
    assert_eq!(stranger.remove(&shared, "file"), Err(ACCES));
    assert!(fixture.path("shared/file").exists());
}

/// A large directory is listed whole, with attributes, while it is local programs that make it.
fn list_many(fixture: &Fixture, nfs: &mut Nfs) {
    let path = fixture.path("many");
    std::fs::create_dir(&path).expect("mkdir");
    for number in 0..LISTED {
        std::fs::write(path.join(format!("file-{number:05}")), number.to_string()).expect("write");
    }
    let dir = nfs.walk("many").expect("lookup");
    let mut found = nfs.list(&dir).expect("list");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found.len(), LISTED);
    for (number, (name, attrs)) in found.iter().enumerate() {
        assert_eq!(*name, format!("file-{number:05}").into_bytes());
        let size = attrs.as_ref().map(|attrs| attrs.size);
        assert_eq!(size, Some(number.to_string().len() as u64));
    }
    for number in (0..LISTED).step_by(5) {
        nfs.remove(&dir, format!("file-{number:05}"))
            .expect("remove");
    }
    let left = std::fs::read_dir(&path).expect("list").count();
    assert_eq!(left, LISTED - LISTED / 5);
}

/// Clients at once, each in a directory of its own and all in one file.
fn work_in_parallel(fixture: &Fixture, nfs: &mut Nfs) {
    let root = nfs.root();
    let shared = nfs.create(&root, "by-all", &mode(0o666)).expect("create");
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = nfs.again(user(0, 0, &[]));
            let (root, shared) = (root.clone(), shared.clone());
            std::thread::spawn(move || {
                let name = format!("client-{number}");
                let dir = client.mkdir(&root, &name, &mode(0o755)).expect("mkdir");
                for round in 0..60u32 {
                    let bytes = random_bytes(u64::from(number * 100 + round), 9_000);
                    let name = format!("draft-{round}");
                    let file = client.create(&dir, &name, &mode(0o644)).expect("create");
                    client.write(&file, 0, &bytes).expect("write");
                    client
                        .rename((&dir, &name), (&dir, "current"))
                        .expect("rename");
                    let at = u64::from(round * CLIENTS + number) * 4_096;
                    client.write(&shared, at, &bytes[..4_096]).expect("write");
                    assert_eq!(client.read_all(&file, 64 << 10).expect("read"), bytes);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
    let size = std::fs::metadata(fixture.path("by-all"))
        .expect("stat")
        .len();
    assert_eq!(size, u64::from(60 * CLIENTS) * 4_096);
}

/// What local programs change, clients see, and the other way.
fn see_each_other(fixture: &Fixture, nfs: &mut Nfs) {
    let root = nfs.root();
    let path = fixture.path("seen");
    std::fs::write(&path, "by a program").expect("write");
    let file = nfs.lookup(&root, "seen").expect("lookup");
    for round in 0..20 {
        let text = format!("program {round} {}", "x".repeat(round * 500));
        std::fs::write(&path, &text).expect("write");
        assert_eq!(
            nfs.read_all(&file, 64 << 10).expect("read"),
            text.as_bytes()
        );
        let text = format!("client {round}");
        nfs.write(&file, 3, text.as_bytes()).expect("write");
        let read = std::fs::read(&path).expect("read");
        assert_eq!(&read[3..3 + text.len()], text.as_bytes());
    }
    std::fs::rename(&path, fixture.path("seen-moved")).expect("rename");
    assert_eq!(nfs.lookup(&root, "seen"), Err(NOENT));
    assert_eq!(nfs.lookup(&root, "seen-moved"), Ok(file.clone()));
    // The server may have that one open and go on with it; this one it knows by its handle only.
    std::fs::write(fixture.path("unopened"), "").expect("write");
    let unopened = nfs.lookup(&root, "unopened").expect("lookup");
    std::fs::remove_file(fixture.path("unopened")).expect("unlink");
    assert_eq!(nfs.getattr(&unopened).map(drop), Err(STALE));
}

fn clients_work(test: &str) {
    let fixture = Fixture::started(test);
    let server = export(&fixture);
    let mut nfs = mount(&fixture, User::root());
    change_content(&fixture, &mut nfs, seed(test));
    change_names(&fixture, &mut nfs);
    change_attributes(&fixture, &mut nfs);
    act_as_users(&fixture, &mut nfs);
    fixture.assert_equal();
    list_many(&fixture, &mut nfs);
    work_in_parallel(&fixture, &mut nfs);
    see_each_other(&fixture, &mut nfs);
    fixture.assert_equal();
    drop(server);
    fixture.finish();
}

#[test]
fn what_nfs_clients_change_arrives_on_the_replica() {
    let test = "what_nfs_clients_change_arrives_on_the_replica";
    if is_ready_for(test, &[]) {
        isolated(module_path!(), test, clients_work);
    }
}

/// Files and directories whose handles a client holds, with what it knows of them.
struct Held {
    files: Vec<(String, Handle, u64)>,
    dirs: Vec<(String, Handle, u64)>,
    removed: Handle,
}

const HELD: usize = 40;

fn hold(nfs: &mut Nfs) -> Held {
    let root = nfs.root();
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    for number in 0..HELD {
        let name = format!("dir-{number}");
        let dir = nfs.mkdir(&root, &name, &mode(0o755)).expect("mkdir");
        let file = nfs.create(&dir, "file", &mode(0o644)).expect("create");
        let text = format!("content {number}");
        nfs.write(&file, 0, text.as_bytes()).expect("write");
        let fileid = |attrs: Attrs| attrs.fileid;
        files.push((
            text,
            file.clone(),
            nfs.getattr(&file).map(fileid).expect("getattr"),
        ));
        dirs.push((
            name,
            dir.clone(),
            nfs.getattr(&dir).map(fileid).expect("getattr"),
        ));
    }
    let removed = nfs.create(&root, "removed", &mode(0o644)).expect("create");
    nfs.remove(&root, "removed").expect("remove");
    assert_eq!(nfs.getattr(&removed).map(drop), Err(STALE));
    Held {
        files,
        dirs,
        removed,
    }
}

/// Each handle leads to what it led to.
fn check_held(nfs: &mut Nfs, held: &Held) {
    for (text, file, fileid) in &held.files {
        let found = nfs.getattr(file).map(|attrs| attrs.fileid);
        assert_eq!(found, Ok(*fileid), "{text}");
        let read = nfs.read_all(file, 64 << 10).expect("read");
        assert_eq!(read, text.as_bytes());
    }
    for (name, dir, fileid) in &held.dirs {
        assert_eq!(
            nfs.getattr(dir).map(|attrs| attrs.fileid),
            Ok(*fileid),
            "{name}"
        );
        let listed = nfs.list(dir).expect("list");
        assert!(listed.iter().any(|(name, _)| name == b"file"), "{name}");
    }
    assert_eq!(nfs.getattr(&held.removed).map(drop), Err(STALE));
}

/// Ends the clients, also when the test fails.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Two clients that write by the handles they hold, and never give up.
fn write_meanwhile(nfs: &Nfs, held: &Held, meanwhile: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let stopper = Stopper(&stop);
        let client = |(_, file, _): &'_ (String, Handle, u64)| {
            let (mut nfs, file) = (nfs.again(User::root()), file.clone());
            let (stop, rounds) = (&stop, &rounds);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    let round = rounds.fetch_add(1, Relaxed);
                    let text = format!("{round:20}");
                    nfs.write(&file, 4_096, text.as_bytes()).expect("write");
                }
            })
        };
        let clients: Vec<_> = held.files[..2].iter().map(client).collect();
        let advance = |by: u64| {
            let now = rounds.load(Relaxed);
            until("the clients to go on", || {
                assert!(clients.iter().all(|c| !c.is_finished()), "a client ended");
                rounds.load(Relaxed) >= now + by
            });
        };
        advance(20);
        meanwhile();
        advance(20);
        drop(stopper);
    });
    // What they wrote is not what `check_held` expects.
    let mut nfs = nfs.again(User::root());
    for (text, file, _) in &held.files[..2] {
        let new = NewAttrs {
            size: Some(text.len() as u64),
            ..NewAttrs::default()
        };
        nfs.setattr(file, &new).expect("set the size");
    }
}

fn handles_hold(test: &str) {
    let other = Scratch::new("other-mount");
    let others = 0..OTHERS;
    for _ in others.clone() {
        let mount = program("mount").args(["-t", "tmpfs", "tmpfs"]);
        mount.arg(other.path()).succeed();
    }
    let fixture = Fixture::started(test);
    let mut server = export(&fixture);
    let mut nfs = mount(&fixture, User::root());
    let held = hold(&mut nfs);
    check_held(&mut nfs, &held);
    let refused = fixture.doppelfs().arg("umount").arg(fixture.path("")).run();
    refused.expect_code(2).expect_words(&["ganesha"]);

    write_meanwhile(&nfs, &held, || {
        server.stop();
        // From here on lower device numbers are free: the handles have the mount's in them.
        for _ in others {
            doppelfs::sys::umount(other.path(), false).expect("umount");
        }
        fixture.umount();
        fixture.mount();
        fixture.forget_nodes();
        server.start_again();
    });
    check_held(&mut nfs, &held);
    fixture.assert_equal();

    // Names change under the handles.
    let root = nfs.root();
    let (first, second) = (&held.dirs[0].1, &held.dirs[1].1);
    nfs.rename((&root, "dir-0"), (second, "inside"))
        .expect("rename");
    nfs.rename((first, "file"), (first, "renamed"))
        .expect("rename");
    nfs.write(&held.files[0].1, 0, b"CONTENT").expect("write");
    let moved = std::fs::read_to_string(fixture.path("dir-1/inside/renamed"));
    assert_eq!(moved.expect("read"), "CONTENT 0");
    nfs.remove(first, "renamed").expect("remove");
    assert_eq!(nfs.getattr(&held.files[0].1).map(drop), Err(STALE));
    drop(server);
    fixture.finish();
}

#[test]
fn nfs_handles_hold_over_a_remount() {
    let test = "nfs_handles_hold_over_a_remount";
    if is_ready_for(test, &[]) {
        isolated(module_path!(), test, handles_hold);
    }
}

fn server_dies(test: &str) {
    let fixture = Fixture::started(test);
    let mut server = export(&fixture);
    let mut nfs = mount(&fixture, User::root());
    let held = hold(&mut nfs);
    for _ in 0..3 {
        write_meanwhile(&nfs, &held, || {
            server.kill();
            server.start_again();
        });
        check_held(&mut nfs, &held);
    }
    assert_eq!(fixture.set().kernel("lookups_unknown"), 0);
    drop(server);
    until("the dead servers' files to be closed", || {
        fixture.set().kernel("open_files") == 0
    });
    fixture.finish();
}

#[test]
fn nfs_clients_go_on_when_the_server_is_killed() {
    let test = "nfs_clients_go_on_when_the_server_is_killed";
    if is_ready_for(test, &[]) {
        isolated(module_path!(), test, server_dies);
    }
}

/// A client that is not ours, with both versions of the protocol.
fn libnfs_agrees(test: &str) {
    let fixture = Fixture::started(test);
    let server = export(&fixture);
    let bytes = random_bytes(seed(test), 3_000_001);
    let (local, again) = (fixture.outside("local"), fixture.outside("again"));
    std::fs::write(&local, &bytes).expect("write");
    let export = format!("nfs://127.0.0.1{}", fixture.path("").display());
    let file = format!("{}/copied", export.trim_end_matches('/'));
    program("nfs-cp").arg(&local).arg(&file).succeed();
    assert_eq!(std::fs::read(fixture.path("copied")).expect("read"), bytes);
    std::fs::create_dir(fixture.path("dir")).expect("mkdir");
    std::fs::write(fixture.path("dir/local"), "by a program").expect("write");
    let listed = program("nfs-ls").arg("-R").arg(&export).succeed().stdout;
    for name in ["copied", "dir", "dir/local"] {
        assert!(listed.contains(name), "{listed}");
    }
    let fourth = "nfs://127.0.0.1/data";
    let listed = program("nfs-ls")
        .arg(format!("{fourth}?version=4"))
        .succeed();
    assert!(listed.stdout.contains("copied"), "{listed:?}");
    let said = program("nfs-cat")
        .arg(format!("{fourth}/dir/local?version=4"))
        .succeed();
    assert_eq!(said.stdout, "by a program");
    program("nfs-cp")
        .arg(format!("{fourth}/copied?version=4"))
        .arg(&again)
        .succeed();
    assert_eq!(std::fs::read(again).expect("read"), bytes);
    drop(server);
    fixture.finish();
}

#[test]
fn libnfs_copies_lists_and_reads() {
    let test = "libnfs_copies_lists_and_reads";
    if is_ready_for(test, &["nfs-cp", "nfs-ls", "nfs-cat"]) {
        isolated(module_path!(), test, libnfs_agrees);
    }
}
