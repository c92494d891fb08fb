//! Goal: programs do not notice that the worker of their mount dies, at whatever moment, and the replica
//! is exact. Method: everybody changes something all the time and checks each result, while the worker
//! is killed again and again; every error fails the test, every count is compared at the end.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Fixture, has_programs, is_ready, kills, program, seed, until};

/// The load's threads, and how often each did what it does.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn new() -> Load {
        Load {
            stop: Arc::default(),
            steps: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Somebody who does `step` with the numbers 0, 1, 2... until the load ends, and then `check` with
    /// how many there were.
    pub(crate) fn add(
        &mut self,
        mut step: impl FnMut(u64) + Send + 'static,
        check: impl FnOnce(u64) + Send + 'static,
    ) {
        let (stop, steps) = (self.stop.clone(), self.steps.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                step(number);
                number += 1;
                steps.fetch_add(1, Ordering::Relaxed);
            }
            check(number);
        }));
    }

    /// Waits until it has done so many steps more.
    pub(crate) fn advance(&self, by: u64) {
        let wanted = self.steps.load(Ordering::Relaxed) + by;
        until("the load to go on", || {
            // Who panicked tells at the end.
            let is_alive = !self.threads.iter().any(JoinHandle::is_finished);
            !is_alive || self.steps.load(Ordering::Relaxed) >= wanted
        });
    }

    /// Ends it; the first panic of anybody is the test's.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.steps.load(Ordering::Relaxed)
    }
}

fn worker(fixture: &Fixture) -> Option<i32> {
    let pid = fixture.supervision()?.get("worker_pid")?.as_u64()?;
    i32::try_from(pid).ok().filter(|pid| *pid > 0)
}

pub(crate) fn kill_worker(fixture: &Fixture, signal: Signal) {
    let pid = worker(fixture).expect("a worker");
    kill(Pid::from_raw(pid), signal).expect("kill the worker");
    until("another worker to serve", || {
        let told = fixture.supervision().expect("a supervisor");
        let serves = told.get("serves").and_then(serde_json::Value::as_bool);
        serves == Some(true) && worker(fixture) != Some(pid)
    });
}

/// Lines with increasing numbers, appended by several.
fn add_appenders(load: &mut Load, dir: &Path) {
    for who in 0..3 {
        let path = dir.join("appended");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .expect("open to append");
        load.add(
            move |number| {
                let line = format!("{who}:{number}\n");
                file.write_all(line.as_bytes()).expect("append");
            },
            move |count| {
                let text = std::fs::read_to_string(&path).expect("read");
                let prefix = format!("{who}:");
                let own = text.lines().filter_map(|line| line.strip_prefix(&prefix));
                let own: Vec<u64> = own.map(|n| n.parse().expect("a number")).collect();
                assert_eq!(own, Vec::from_iter(0..count), "lines of {who}");
            },
        );
    }
}

/// Entries that come and go by every call that there is.
fn add_namers(load: &mut Load, base: &Path) {
    let dir = base.join("names");
    std::fs::create_dir(&dir).expect("mkdir");
    load.add(
        {
            let dir = dir.clone();
            move |number| {
                let path = |name: &str| dir.join(format!("{name}-{number}"));
                let mut new = OpenOptions::new();
                let new = new.write(true).create_new(true).mode(0o640);
                let mut file = new.open(path("file")).expect("create");
                file.write_all(b"content").expect("write");
                std::fs::hard_link(path("file"), path("link")).expect("link");
                assert_eq!(file.metadata().expect("stat").nlink(), 2);
                std::fs::rename(path("file"), path("moved")).expect("rename");
                std::os::unix::fs::symlink("moved", path("soft")).expect("symlink");
                std::fs::create_dir(path("dir")).expect("mkdir");
                std::fs::rename(path("link"), path("dir").join("inside")).expect("rename");
                nix::fcntl::renameat2(
                    nix::fcntl::AT_FDCWD,
                    &path("moved"),
                    nix::fcntl::AT_FDCWD,
                    &path("dir").join("inside"),
                    nix::fcntl::RenameFlags::RENAME_EXCHANGE,
                )
                .expect("exchange");
                std::fs::remove_file(path("soft")).expect("unlink");
                if number % 4 == 0 {
                    return;
                }
                std::fs::remove_file(path("moved")).expect("unlink");
                std::fs::remove_file(path("dir").join("inside")).expect("unlink");
                assert_eq!(file.metadata().expect("stat").nlink(), 0);
                std::fs::remove_dir(path("dir")).expect("rmdir");
            }
        },
        move |count| {
            let there: BTreeSet<String> = std::fs::read_dir(&dir)
                .expect("list")
                .map(|entry| {
                    entry
                        .expect("an entry")
                        .file_name()
                        .into_string()
                        .expect("text")
                })
                .collect();
            let wanted = (0..count).filter(|number| number % 4 == 0);
            let wanted = wanted.flat_map(|n| [format!("moved-{n}"), format!("dir-{n}")]);
            assert_eq!(there, wanted.collect());
        },
    );
}

/// A file replaced by renaming a new one over it, as editors do.
fn add_replacer(load: &mut Load, base: &Path) {
    let (path, fresh) = (base.join("replaced"), base.join("replaced.new"));
    load.add(
        {
            let path = path.clone();
            move |number| {
                std::fs::write(&fresh, number.to_string()).expect("write");
                std::fs::rename(&fresh, &path).expect("rename");
                let text = std::fs::read_to_string(&path).expect("read");
                assert_eq!(text, number.to_string());
            }
        },
        move |count| {
            let text = std::fs::read_to_string(&path).expect("read");
            assert_eq!(text, (count - 1).to_string());
        },
    );
}

/// One file changed in place, its shadow in memory.
fn add_writer(load: &mut Load, base: &Path, seed: u64) {
    let path = base.join("in-place");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true);
    let file = options.open(&path).expect("open");
    let mut shadow: Vec<u8> = Vec::new();
    let mut rng = StdRng::seed_from_u64(seed);
    load.add(
        move |number| {
            let at = rng.random_range(0..200_000usize);
            if number % 7 == 0 {
                file.set_len(at as u64).expect("truncate");
                shadow.resize(at, 0);
            } else {
                let bytes = vec![number as u8; rng.random_range(1..9000)];
                file.write_all_at(&bytes, at as u64).expect("write");
                let end = at + bytes.len();
                shadow.resize(shadow.len().max(end), 0);
                shadow[at..end].copy_from_slice(&bytes);
            }
            if number % 16 == 0 {
                let mut found = Vec::new();
                let mut reader = &file;
                reader.seek(SeekFrom::Start(0)).expect("seek");
                reader.read_to_end(&mut found).expect("read");
                assert!(found == shadow, "content differs after step {number}");
                file.sync_data().expect("sync");
            }
        },
        |_| {},
    );
}

/// Attributes whose presence matters, and those that are set.
fn add_attributer(load: &mut Load, base: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let path = base.join("attributes");
    let file = File::create(&path).expect("create");
    let created = nix::libc::XATTR_CREATE;
    load.add(
        move |number| {
            let value = number.to_string();
            crate::support::set_xattr(&file, "user.note", value.as_bytes(), created)
                .expect("setxattr of a new one");
            let found = crate::support::get_xattr(&file, "user.note").expect("getxattr");
            assert_eq!(found, value.as_bytes());
            crate::support::remove_xattr(&file, "user.note").expect("removexattr");
            let mode = [0o600, 0o644, 0o640][number as usize % 3];
            file.set_permissions(std::fs::Permissions::from_mode(mode))
                .expect("chmod");
            let seen = std::fs::metadata(&path).expect("stat").mode();
            assert_eq!(seen & 0o777, mode);
        },
        |_| {},
    );
}

/// A file without a name, a directory and a lock that stay open all the time.
fn add_holder(load: &mut Load, base: &Path) {
    let path = base.join("nameless");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(&path).expect("create");
    std::fs::remove_file(&path).expect("unlink");
    let locked = File::create(base.join("locked")).expect("create");
    let locked = Flock::lock(locked, FlockArg::LockExclusive).expect("lock");
    let dir = base.join("listed");
    std::fs::create_dir(&dir).expect("mkdir");
    for number in 0..300 {
        File::create(dir.join(number.to_string())).expect("create");
    }
    load.add(
        move |number| {
            file.write_all_at(&number.to_le_bytes(), 8 * (number % 1000))
                .expect("write");
            let mut back = [0u8; 8];
            file.read_exact_at(&mut back, 8 * (number % 1000))
                .expect("read");
            assert_eq!(u64::from_le_bytes(back), number);
            assert_eq!(file.metadata().expect("stat").nlink(), 0);
            // Another open of it does not get the lock.
            let second = File::open(dir.with_file_name("locked")).expect("open");
            let second = Flock::lock(second, FlockArg::LockExclusiveNonblock);
            assert!(second.is_err(), "the lock is lost");
            let listed = std::fs::read_dir(&dir)
                .expect("list")
                .map(|e| e.expect("an entry"));
            assert_eq!(listed.count(), 300);
        },
        move |_| drop(locked),
    );
}

/// Pages of a mapping, synchronised.
pub(crate) fn add_mapper(load: &mut Load, base: &Path) {
    let path = base.join("mapped");
    let script = "import mmap,os,sys\n\
        f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT,0o644)\n\
        os.ftruncate(f,1<<20)\n\
        m=mmap.mmap(f,1<<20)\n\
        n=0\n\
        import struct\n\
        while not os.path.exists(sys.argv[2]):\n\
        \x20   struct.pack_into('<Q',m,(n%1000)*1048,n)\n\
        \x20   n+=1\n\
        \x20   if n%50==0: m.flush()\n\
        m.flush()\n\
        print(n)\n";
    let (stop, wanted) = (base.with_file_name("mapper-stop"), path.clone());
    let child = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .arg(&stop)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start python3");
    load.add(
        |_| std::thread::sleep(Duration::from_millis(20)),
        move |_| {
            File::create(&stop).expect("create");
            let ended = child.wait_with_output().expect("wait");
            assert!(ended.status.success(), "{ended:?}");
            let text = String::from_utf8_lossy(&ended.stdout);
            let count: u64 = text.trim().parse().expect("a number");
            let bytes = std::fs::read(wanted).expect("read");
            for number in count.saturating_sub(1000)..count {
                let at = (number % 1000) as usize * 1048;
                let word = bytes[at..at + 8].try_into().expect("eight bytes");
                assert_eq!(u64::from_le_bytes(word), number);
            }
        },
    );
}

/// Transactions of a database.
pub(crate) fn add_database(load: &mut Load, base: &Path) {
    let path = base.join("base.sqlite");
    let sql = move |path: &PathBuf, text: &str| {
        let ended = program("sqlite3").arg(path).arg(text).succeed();
        ended.stdout.trim().to_owned()
    };
    sql(&path, "create table t (n integer primary key, text);");
    let at = path.clone();
    load.add(
        move |number| {
            let insert = format!("insert into t values ({number}, hex(randomblob(200)));");
            sql(&at, &insert);
        },
        move |count| {
            assert_eq!(sql(&path, "pragma integrity_check;"), "ok");
            assert_eq!(sql(&path, "select count(*) from t;"), count.to_string());
        },
    );
}

pub(crate) fn load_all(dir: &Path, seed: u64) -> Load {
    let mut load = Load::new();
    add_appenders(&mut load, dir);
    add_namers(&mut load, dir);
    add_replacer(&mut load, dir);
    add_writer(&mut load, dir, seed);
    add_attributer(&mut load, dir);
    add_holder(&mut load, dir);
    load
}

#[test]
fn programs_do_not_notice_that_workers_die() {
    let test = "programs_do_not_notice_that_workers_die";
    if !is_ready(test) || !has_programs(test, &["sqlite3", "python3"]) {
        return;
    }
    let seed = seed(test);
    let mut rng = StdRng::seed_from_u64(seed);
    let fixture = Fixture::started("takeover");
    let dir = fixture.path("load");
    std::fs::create_dir(&dir).expect("mkdir");
    let mut load = load_all(&dir, seed);
    add_mapper(&mut load, &dir);
    add_database(&mut load, &dir);
    let start = Instant::now();
    for round in 0..kills() {
        // Not a synchronisation: the moment is to be a random one. Every other time several workers die
        // as soon as they serve, with the same requests.
        if round % 8 < 4 {
            std::thread::sleep(Duration::from_micros(rng.random_range(0..300_000)));
        }
        kill_worker(&fixture, Signal::SIGKILL);
    }
    let took = start.elapsed();
    let steps = load.end();
    let told = fixture.supervision().expect("a supervisor");
    let restarts = told.get("restarts").and_then(serde_json::Value::as_u64);
    assert_eq!(restarts, Some(kills()), "{told}");
    let longest = told
        .get("longest_stall_us")
        .and_then(serde_json::Value::as_u64);
    eprintln!(
        "{} kills in {took:?}, {steps} steps of the load, longest stall {:?}",
        kills(),
        Duration::from_micros(longest.unwrap_or(0))
    );
    fixture.finish();
}

/// Kills worker and supervisor; the mount is dead then.
fn kill_both(fixture: &Fixture) {
    kill_both_at_once(fixture);
    until("the mount to be dead", || {
        doppelfs::sys::is_dead_mount(&fixture.path(""))
    });
}

fn kill_both_at_once(fixture: &Fixture) {
    let told = fixture.supervision().expect("a supervisor");
    for who in ["pid", "worker_pid"] {
        let pid = told.get(who).and_then(serde_json::Value::as_i64);
        let pid = i32::try_from(pid.expect("a process")).expect("a process");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
    }
}

#[test]
fn a_mount_whose_processes_were_just_killed_is_mounted_again_at_once() {
    let test = "a_mount_whose_processes_were_just_killed_is_mounted_again_at_once";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started("just-killed");
    for round in 0..12 {
        let dir = fixture.path(format!("load-{round}"));
        std::fs::create_dir(&dir).expect("mkdir");
        std::fs::write(dir.join("file"), vec![7; 1 << 20]).expect("write");
        kill_both_at_once(&fixture);
        fixture.mount();
    }
    fixture.finish();
}

#[test]
fn a_mount_whose_processes_all_died_is_replaced_by_mounting_again() {
    let test = "a_mount_whose_processes_all_died_is_replaced_by_mounting_again";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started("both-died");
    let below = |name: &str| fixture.path(name);
    for round in 0..3 {
        std::fs::write(below(&format!("before-{round}")), b"captured").expect("write");
        let open = File::create(below(&format!("open-{round}"))).expect("create");
        kill_both(&fixture);
        // At every moment the path leads to a mount: the dead one or the next.
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, path) = (stop.clone(), below(""));
        let watch = std::thread::spawn(move || {
            while !watched.load(Ordering::Relaxed) {
                let name = path.join(".watched");
                if let Ok(file) = OpenOptions::new().create(true).append(true).open(&name) {
                    let seen = nix::sys::statfs::fstatfs(&file)
                        .expect("statfs")
                        .filesystem_type();
                    assert_eq!(seen, nix::sys::statfs::FUSE_SUPER_MAGIC, "uncovered");
                }
            }
        });
        fixture.mount();
        stop.store(true, Ordering::Relaxed);
        watch.join().expect("the watch");
        let gone = open
            .set_len(1)
            .expect_err("truncate what the dead mount had open");
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ENOTCONN));
        drop(open);
        let mounts = doppelfs::sys::read_mounts().expect("read the mount table");
        let ours = mounts
            .iter()
            .filter(|mount| mount.mountpoint == fixture.path(""));
        assert_eq!(ours.count(), 1, "the dead mount is still there");
        std::fs::write(below(&format!("after-{round}")), b"captured").expect("write");
        fixture.assert_equal();
    }
    fixture.finish();
}

#[test]
fn a_mount_whose_supervisor_died_goes_on_and_says_so() {
    let test = "a_mount_whose_supervisor_died_goes_on_and_says_so";
    if !is_ready(test) {
        return;
    }
    let fixture = Fixture::started("alone");
    let told = fixture.supervision().expect("a supervisor");
    let pid = told.get("pid").and_then(serde_json::Value::as_i64);
    let pid = i32::try_from(pid.expect("a process")).expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
    until("the status to tell", || {
        let warnings = fixture.set().warnings();
        warnings
            .iter()
            .any(|text| text.contains("supervisor") && text.contains("has died"))
    });
    // What is removed while it is open would be handed to the supervisor.
    let file = File::create(fixture.path("removed")).expect("create");
    std::fs::remove_file(fixture.path("removed")).expect("unlink");
    file.set_len(100).expect("truncate");
    std::fs::write(fixture.path("file"), b"content").expect("write");
    let said = fixture.doppelfs().args(["restart"]).run();
    said.expect_code(2).expect_words(&["no supervisor"]);
    drop(file);
    fixture.finish();
}
