//! Goal: clients of a file server on the mount do not notice that the worker below is replaced or dies.
//! Method: NFS and SMB clients work without a pause and check each answer, while `doppelfs restart` and
//! SIGKILL take turns; any error at any client fails the test. `DOPPELFS_KILLS` says how often.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::nfs_server::{export, mode, mount};
use crate::samba_server::{pausing, share};
use crate::support::nfs::{Handle, Nfs, User};
use crate::support::{
    Fixture, Ganesha, Samba, has_programs, is_ready, isolated, program, random_bytes, seed,
    target_kills, until,
};
use crate::takeover::{Load, kill_worker};

/// Clients of each kind at once.
const CLIENTS: u64 = 2;

/// Longest time between two changes of the worker.
const LIFE_US_MAX: u64 = 300_000;

/// The worker is replaced in order and killed, by turns; in between each the load gets on.
fn change_workers(fixture: &Fixture, load: &Load, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut restarts, mut kills) = (0, 0);
    load.advance(10);
    for number in 0..target_kills() {
        // Not a synchronisation: the moment is to be a random one.
        std::thread::sleep(Duration::from_micros(random.random_range(0..LIFE_US_MAX)));
        if number % 2 == 0 {
            let restart = fixture.doppelfs().args(["restart", "data"]);
            restart.succeed();
            restarts += 1;
        } else {
            kill_worker(fixture, Signal::SIGKILL);
            kills += 1;
        }
        load.advance(2);
    }
    load.advance(10);
    let told = fixture.supervision().expect("a supervisor");
    let number = |name: &str| told.get(name).and_then(Value::as_u64);
    assert_eq!(number("restarts"), Some(restarts + kills), "{told}");
    let longest = Duration::from_micros(number("longest_stall_us").unwrap_or(0));
    format!("{restarts} restarts, {kills} kills, longest stall {longest:?}")
}

/// The server is gone; everything that its clients did is on the replica.
fn finish(test: &str, fixture: Fixture, changes: &str, steps: u64) {
    until("the server's files to be closed", || {
        fixture.set().kernel("open_files") == 0
    });
    let report = fixture.finish();
    eprintln!("{test}: {changes}, {steps} steps of the clients, 0 errors; {report}");
}

/// New versions of a file, published by a rename, and names that come and go.
fn add_nfs_publisher(load: &mut Load, nfs: &Nfs, number: u64) {
    let mut nfs = nfs.again(User::root());
    let root = nfs.root();
    let dir = nfs.mkdir(&root, format!("client-{number}"), &mode(0o755));
    let dir = dir.expect("mkdir");
    let content = move |round: u64| random_bytes(number << 32 | round, 9_000);
    let (mut last, directory) = (nfs.again(User::root()), dir.clone());
    load.add(
        move |round| {
            let draft = nfs.create(&dir, "draft", &mode(0o644)).expect("create");
            nfs.write(&draft, 0, &content(round)).expect("write");
            nfs.link(&draft, &dir, "linked").expect("link");
            nfs.rename((&dir, "draft"), (&dir, "current"))
                .expect("rename");
            let current = nfs.lookup(&dir, "current").expect("lookup");
            assert_eq!(current, draft);
            let read = nfs.read_all(&current, 64 << 10).expect("read");
            assert!(read == content(round), "other bytes in round {round}");
            nfs.remove(&dir, "linked").expect("remove");
            assert_eq!(nfs.getattr(&current).expect("getattr").nlink, 1);
            let below = nfs.mkdir(&dir, "below", &mode(0o755)).expect("mkdir");
            nfs.symlink(&below, "link", "../current").expect("symlink");
            let mut names: Vec<Vec<u8>> = nfs
                .list(&dir)
                .expect("list")
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| !name.starts_with(b"."))
                .collect();
            names.sort();
            assert_eq!(names, [b"below".to_vec(), b"current".to_vec()]);
            nfs.remove(&below, "link").expect("remove");
            nfs.rmdir(&dir, "below").expect("rmdir");
        },
        move |count| {
            let current = last.lookup(&directory, "current").expect("lookup");
            let read = last.read_all(&current, 64 << 10).expect("read");
            assert!(read == content(count - 1), "other bytes at the end");
        },
    );
}

/// Writes and reads by a handle that was given out before any worker was replaced.
fn add_nfs_holder(load: &mut Load, nfs: &Nfs) {
    let mut nfs = nfs.again(User::root());
    let root = nfs.root();
    let held = nfs.create(&root, "held", &mode(0o600)).expect("create");
    let (mut last, file): (Nfs, Handle) = (nfs.again(User::root()), held.clone());
    let at = |round: u64| round % 1000 * 20;
    load.add(
        move |round| {
            let text = format!("{round:020}");
            nfs.write(&held, at(round), text.as_bytes()).expect("write");
            let (read, _) = nfs.read(&held, at(round), 20).expect("read");
            assert_eq!(String::from_utf8_lossy(&read), text);
        },
        move |count| {
            let read = last.read_all(&file, 64 << 10).expect("read");
            for round in count.saturating_sub(1000)..count {
                let from = at(round) as usize;
                assert_eq!(&read[from..from + 20], format!("{round:020}").as_bytes());
            }
        },
    );
}

/// The tools of libnfs: a copy by version 3 of the protocol, read by version 4.
fn add_libnfs(load: &mut Load, fixture: &Fixture, seed: u64) {
    let (local, again) = (fixture.outside("local"), fixture.outside("again"));
    let export = format!("nfs://127.0.0.1{}", fixture.path("x").display());
    let export = export.trim_end_matches("/x").to_owned();
    load.add(
        move |round| {
            let bytes = random_bytes(seed + round, 300_001);
            std::fs::write(&local, &bytes).expect("write");
            let to = format!("{export}/copied-{round}");
            program("nfs-cp").arg(&local).arg(to).succeed();
            let from = format!("nfs://127.0.0.1/data/copied-{round}?version=4");
            program("nfs-cp").arg(from).arg(&again).succeed();
            assert!(std::fs::read(&again).expect("read") == bytes, "other bytes");
            std::fs::remove_file(&again).expect("unlink");
        },
        |_| {},
    );
}

fn nfs_clients_work(test: &str) {
    let seed = seed(test);
    let fixture = Fixture::started(test);
    let server = export(&fixture);
    let nfs = mount(&fixture, User::root());
    let mut load = Load::new();
    for number in 0..CLIENTS {
        add_nfs_publisher(&mut load, &nfs, number);
    }
    add_nfs_holder(&mut load, &nfs);
    if has_programs(test, &["nfs-cp"]) {
        add_libnfs(&mut load, &fixture, seed);
    }
    let changes = change_workers(&fixture, &load, seed);
    let steps = load.end();
    drop(server);
    finish(test, fixture, &changes, steps);
}

#[test]
fn nfs_clients_do_not_notice_that_workers_are_replaced_or_die() {
    let test = "nfs_clients_do_not_notice_that_workers_are_replaced_or_die";
    if is_ready(test) && has_programs(test, &Ganesha::PROGRAMS) {
        isolated(module_path!(), test, nfs_clients_work);
    }
}

/// A directory with local files of one SMB client.
fn local_files(fixture: &Fixture, name: &str, seed: u64) -> PathBuf {
    let dir = fixture.outside(name);
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::write(dir.join("small"), "some bytes").expect("write");
    std::fs::write(dir.join("large"), random_bytes(seed, 2 << 20)).expect("write");
    dir
}

fn same(left: &Path, right: &Path) -> bool {
    std::fs::read(left).expect("read") == std::fs::read(right).expect("read")
}

/// Sessions of many commands, one after the other; none is refused.
fn add_smb_client(load: &mut Load, samba: &Arc<Samba>, local: PathBuf, number: u64) {
    let samba = Arc::clone(samba);
    load.add(
        move |round| {
            let mut commands = vec![
                format!("mkdir client-{number}-{round}"),
                format!("cd client-{number}-{round}"),
            ];
            for version in 0..8 {
                commands.extend([
                    format!("put small draft-{version}"),
                    format!("rename draft-{version} current -f"),
                    "get current got".to_owned(),
                ]);
            }
            commands.extend(
                [
                    "put large large",
                    "put small large:stream",
                    "hardlink current linked",
                    "ls",
                    "get large large-again",
                    "del linked",
                    "mkdir below",
                    "put small below\\gone",
                    "del below\\gone",
                    "rmdir below",
                ]
                .map(str::to_owned),
            );
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            let done = samba.commands("alice", &local, &commands).succeed();
            assert!(!done.stdout.contains("NT_STATUS"), "{done:?}");
            for (left, right) in [("got", "small"), ("large-again", "large")] {
                let (left, right) = (local.join(left), local.join(right));
                assert!(same(&left, &right), "{left:?} differs in round {round}");
                std::fs::remove_file(left).expect("unlink");
            }
        },
        |_| {},
    );
}

fn smb_clients_work(test: &str) {
    let seed = seed(test);
    let fixture = Fixture::started(test);
    let samba = Arc::new(share(&fixture));
    let mut load = Load::new();
    for number in 0..CLIENTS {
        let local = local_files(&fixture, &format!("local-{number}"), seed + number);
        add_smb_client(&mut load, &samba, local, number);
    }
    // One more has a file open in one session all the time.
    let local = fixture.outside("local");
    std::fs::write(local.join("small"), "some bytes").expect("write");
    let session = [
        "put small kept",
        "open kept",
        "!sh pause",
        "close 1",
        "rename kept moved",
        "get moved got",
    ];
    let mut changes = String::new();
    let session = samba.session("alice", &local, &session);
    pausing(session, &fixture, || {
        changes = change_workers(&fixture, &load, seed);
    });
    assert!(same(&local.join("got"), &local.join("small")));
    let steps = load.end();
    drop(samba);
    finish(test, fixture, &changes, steps);
}

#[test]
fn smb_clients_do_not_notice_that_workers_are_replaced_or_die() {
    let test = "smb_clients_do_not_notice_that_workers_are_replaced_or_die";
    if is_ready(test) && has_programs(test, &Samba::PROGRAMS) {
        isolated(module_path!(), test, smb_clients_work);
    }
}
