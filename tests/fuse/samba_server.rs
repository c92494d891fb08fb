//! Goal: what SMB clients do on a share of the mount arrives on the replica, access lists of Windows
//! and alternate streams too, and clients come back after a remount. Method: Samba serves the mount,
//! smbclient works on it, the trees are compared.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::support::{
    Finished, Fixture, Program, Samba, has_programs, is_ready, isolated, program, random_bytes,
    seed, until,
};

/// Names in the large directory.
const LISTED: usize = 5_000;

/// Clients at once.
const CLIENTS: usize = 3;

fn is_ready_for(test: &str) -> bool {
    is_ready(test) && has_programs(test, &Samba::PROGRAMS)
}

/// A share of the mount that everybody may write to, and a directory with local files of clients.
pub(crate) fn share(fixture: &Fixture) -> Samba {
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(fixture.path(""), everybody).expect("chmod");
    std::fs::create_dir(fixture.outside("local")).expect("mkdir");
    Samba::start(&fixture.outside("samba"), &fixture.path(""))
}

/// Runs commands in one session and expects that the server refuses none.
#[track_caller]
fn run(samba: &Samba, fixture: &Fixture, user: &str, commands: &[&str]) -> Finished {
    let done = samba
        .commands(user, &fixture.outside("local"), commands)
        .succeed();
    assert!(!done.stdout.contains("NT_STATUS"), "{done:?}");
    done
}

fn same(left: &Path, right: &Path) -> bool {
    std::fs::read(left).expect("read") == std::fs::read(right).expect("read")
}

/// Files and directories made, overwritten, renamed, removed.
fn change_tree(samba: &Samba, fixture: &Fixture, seed: u64) {
    let local = fixture.outside("local");
    std::fs::write(local.join("small"), "some bytes").expect("write");
    std::fs::write(local.join("large"), random_bytes(seed, 20 << 20)).expect("write");
    std::fs::write(local.join("half"), random_bytes(seed, 3 << 20)).expect("write");
    run(
        samba,
        fixture,
        "alice",
        &[
            "mkdir dir",
            "mkdir dir\\below",
            "mkdir other",
            "put small dir\\small",
            "put small dir\\gone",
            "put small dir\\over",
            "put small dir\\linked",
            "put large dir\\large",
            "put large dir\\shorter",
            "put small dir\\shorter",
            "rename dir\\small dir\\renamed",
            "rename dir\\renamed dir\\over -f",
            "rename dir\\below other\\moved",
            "put small other\\moved\\deep",
            "hardlink dir\\linked other\\link",
            "del dir\\gone",
            "mkdir dir\\empty",
            "rmdir dir\\empty",
            "put small \"dir\\caf\u{e9} au lait\"",
            "setmode dir\\over +rhs",
            "utimes dir\\linked -1 -1 2001:02:03-04:05:06 -1",
            "get dir\\large large-again",
        ],
    );
    for (name, copy) in [("dir/large", "large-again"), ("dir/shorter", "small")] {
        assert!(same(&fixture.path(name), &local.join(copy)), "{name}");
    }
    let stat = |name: &str| std::fs::metadata(fixture.path(name)).expect(name);
    assert_eq!(
        (stat("dir/over").uid(), stat("dir/over").gid()),
        (2001, 2001)
    );
    assert_eq!(stat("dir/linked").mtime(), 981_173_106);
    assert_eq!(stat("other/link").ino(), stat("dir/linked").ino());
    assert!(stat("other/moved/deep").is_file());
    assert!(!fixture.path("dir/gone").exists() && !fixture.path("dir/empty").exists());
    let refused = samba.commands("bob", &local, &["put small dir\\no"]).run();
    assert!(
        refused.stdout.contains("NT_STATUS_ACCESS_DENIED"),
        "{refused:?}"
    );
}

/// An attribute of the replica's file, as getfattr(1) shows it.
fn attribute(fixture: &Fixture, path: &str, name: &str) -> String {
    let shown = program("getfattr")
        .args(["--only-values", "-e", "hex", "-n", name])
        .arg(fixture.replica(path))
        .run();
    shown.stdout
}

/// Windows' access lists and alternate streams are attributes, and arrive as such.
fn change_attributes(samba: &Samba, fixture: &Fixture) {
    run(
        samba,
        fixture,
        "alice",
        &["put small listed", "put small listed:stream"],
    );
    let grant = ["-a", "ACL:bob:ALLOWED/0x0/CHANGE"];
    samba.access_list("alice", "listed", &grant).succeed();
    let shown = samba.access_list("bob", "listed", &[]).succeed();
    assert!(shown.stdout.contains("\\bob:ALLOWED"), "{shown:?}");
    let commands = ["get listed:stream streamed", "put large listed"];
    run(samba, fixture, "bob", &commands);
    // Who writes a file anew takes its streams away.
    run(samba, fixture, "alice", &["put small listed:stream"]);
    assert!(same(
        &fixture.outside("local/streamed"),
        &fixture.outside("local/small")
    ));
    fixture.caught_up();
    for name in [
        "security.NTACL",
        "user.DOSATTRIB",
        "user.DosStream.stream:$DATA",
    ] {
        assert!(
            !attribute(fixture, "listed", name).is_empty(),
            "no {name} on the replica"
        );
    }
}

/// A directory that local programs make is listed whole and taken down by a client.
fn list_many(samba: &Samba, fixture: &Fixture) {
    let path = fixture.path("many");
    std::fs::create_dir(&path).expect("mkdir");
    std::os::unix::fs::chown(&path, Some(2001), Some(2001)).expect("chown");
    for number in 0..LISTED {
        std::fs::write(path.join(format!("file-{number:05}")), "x").expect("write");
    }
    let listed = run(samba, fixture, "alice", &["ls many\\*"]).stdout;
    let names = listed
        .lines()
        .filter(|line| line.trim_start().starts_with("file-"));
    assert_eq!(names.count(), LISTED);
    run(samba, fixture, "alice", &["del many\\file-*7"]);
    let left = std::fs::read_dir(&path).expect("list").count();
    assert_eq!(left, LISTED - LISTED / 10);
}

/// Clients at once; each publishes new versions of a file by a rename.
fn work_in_parallel(samba: &Samba, fixture: &Fixture) {
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut commands = vec![
                    format!("mkdir client-{number}"),
                    format!("cd client-{number}"),
                ];
                for round in 0..25 {
                    commands.push(format!("put small draft-{round}"));
                    if round % 8 == 0 {
                        commands.push(format!("put half kept-{}", round % 3));
                    }
                    commands.push(format!("rename draft-{round} current -f"));
                }
                let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
                run(samba, fixture, "alice", &commands);
            });
        }
    });
    for number in 0..CLIENTS {
        let current = fixture.path(format!("client-{number}/current"));
        assert!(same(&current, &fixture.outside("local/small")));
    }
}

/// What local programs change, clients see, and the other way.
fn see_each_other(samba: &Samba, fixture: &Fixture) {
    for round in 0..5 {
        let text = format!("program {round} {}", "x".repeat(round * 2_000));
        std::fs::write(fixture.path("seen"), &text).expect("write");
        run(samba, fixture, "root", &["get seen seen", "put small seen"]);
        let read = std::fs::read_to_string(fixture.outside("local/seen"));
        assert_eq!(read.expect("read"), text);
        let read = std::fs::read_to_string(fixture.path("seen"));
        assert_eq!(read.expect("read"), "some bytes");
    }
}

fn clients_work(test: &str) {
    let fixture = Fixture::started(test);
    let samba = share(&fixture);
    change_tree(&samba, &fixture, seed(test));
    change_attributes(&samba, &fixture);
    fixture.assert_equal();
    list_many(&samba, &fixture);
    work_in_parallel(&samba, &fixture);
    see_each_other(&samba, &fixture);
    fixture.assert_equal();
    drop(samba);
    fixture.finish();
}

#[test]
fn what_smb_clients_change_arrives_on_the_replica() {
    let test = "what_smb_clients_change_arrives_on_the_replica";
    if is_ready_for(test) && has_programs(test, &["getfattr"]) {
        isolated(module_path!(), test, clients_work);
    }
}

/// Waits in a session, after it said so, until the test goes on.
const PAUSE_SCRIPT: &str = "touch paused; until [ -e go ]; do sleep 0.02; done; rm go";
const PAUSE: &str = "!sh pause";

/// Runs a session that pauses once, and `meanwhile` during the pause.
pub(crate) fn pausing(session: Program, fixture: &Fixture, meanwhile: impl FnOnce()) {
    let local = fixture.outside("local");
    std::fs::write(local.join("pause"), PAUSE_SCRIPT).expect("write");
    std::thread::scope(|scope| {
        let session = scope.spawn(|| {
            let done = session.succeed();
            assert!(!done.stdout.contains("NT_STATUS"), "{done:?}");
        });
        // Goes on in any case: a session that waits for ever would keep a failed test.
        let go = Go(local.join("go"));
        until("the session to pause", || {
            assert!(!session.is_finished(), "the session ended early");
            std::fs::remove_file(local.join("paused")).is_ok()
        });
        meanwhile();
        drop(go);
    });
}

/// Ends the pause of a session.
struct Go(PathBuf);

impl Drop for Go {
    fn drop(&mut self) {
        std::fs::write(&self.0, "").expect("write");
    }
}

#[track_caller]
fn expect_busy(fixture: &Fixture) {
    let refused = fixture.doppelfs().arg("umount").arg(fixture.path("")).run();
    refused.expect_code(2).expect_words(&["smbd"]);
    assert!(fixture.is_mounted());
}

fn clients_come_back(test: &str) {
    let fixture = Fixture::started(test);
    let mut samba = share(&fixture);
    let local = fixture.outside("local");
    std::fs::write(local.join("small"), "some bytes").expect("write");
    // An open file keeps the mount, and so does the server's working directory; it is told whose.
    let session = ["put small kept", "open kept", PAUSE, "close 1"];
    pausing(samba.session("alice", &local, &session), &fixture, || {
        expect_busy(&fixture)
    });
    let session = ["mkdir dir", "put small dir\\before", "ls", PAUSE];
    pausing(samba.session("alice", &local, &session), &fixture, || {
        expect_busy(&fixture);
        samba.stop();
        until("the sessions of the stopped server to end", || {
            let umount = fixture.doppelfs().arg("umount").arg(fixture.path(""));
            umount.run().code == Some(0)
        });
        samba.start_again();
        // While nothing is mounted there, nobody gets at the directory below.
        let refused = samba.commands("alice", &local, &["put small lost"]).run();
        assert_ne!(refused.code, Some(0), "{refused:?}");
        assert!(!fixture.path("lost").exists());
        fixture.mount();
    });
    let session = ["cd dir", "get before got", "put small after"];
    run(&samba, &fixture, "alice", &session);
    assert!(same(&local.join("got"), &local.join("small")));
    assert!(fixture.path("dir/after").is_file());
    fixture.assert_equal();
    // It dies with a file open.
    let session = ["put small dir\\open", "open dir\\open", PAUSE];
    pausing(samba.session("alice", &local, &session), &fixture, || {
        samba.kill();
        samba.start_again();
    });
    let session = [
        "cd dir",
        "put small open",
        "rename open since",
        "get since got",
    ];
    run(&samba, &fixture, "alice", &session);
    fixture.assert_equal();
    drop(samba);
    until("the sessions of the dead servers to end", || {
        fixture.set().kernel("open_files") == 0
    });
    fixture.finish();
}

#[test]
fn smb_clients_come_back_after_a_remount() {
    let test = "smb_clients_come_back_after_a_remount";
    if is_ready_for(test) {
        isolated(module_path!(), test, clients_come_back);
    }
}
