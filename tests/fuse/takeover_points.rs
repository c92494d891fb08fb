//! Goal: an operation happens exactly once, and its program is told so, wherever in it the worker dies;
//! when its program is killed, too, it happens once or not at all, and nobody sees anything else
//! afterwards. Method: the system calls by which the worker serves an operation are followed (ptrace), and
//! the worker is killed at one of them, before or after its effect; what the program learns and what is
//! there afterwards is compared with the same operation undisturbed, what the mount shows with the
//! directory below it, and the replica with the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Child;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::support::{
    Fixture, Moment, Seen, Tracer, is_ready, may_trace, points_max, program, seed, until,
};
use crate::takeover_cases::{Act, CASES, Case};

/// The stops of the next worker among which it decides what was left, and some before and after these.
const DECIDING: std::ops::Range<usize> = 60..200;

struct Rig {
    fixture: Fixture,
    /// The directory below the mount.
    below: File,
    random: StdRng,
    /// What was done where, for the look at the replica.
    done: Vec<String>,
    failures: Vec<String>,
    /// How many points were aimed at, and how many met.
    points: u64,
    kills: u64,
    /// How many workers died.
    deaths: u64,
}

/// An operation undisturbed.
struct Plain {
    said: String,
    /// What is there before each of its requests, and in the end.
    states: Vec<String>,
    points: usize,
}

impl Plain {
    fn last(&self) -> &String {
        self.states.last().expect("a state")
    }
}

impl Rig {
    fn new(test: &str) -> Option<Rig> {
        if !is_ready(test) {
            return None;
        }
        if !may_trace() {
            eprintln!("SKIPPED {test}: nobody may be followed by ptrace(2)");
            return None;
        }
        let random = StdRng::seed_from_u64(seed(test));
        let mut fixture = Fixture::new(test);
        let below = File::open(fixture.path("")).expect("open the directory before it is covered");
        fixture.start();
        Some(Rig {
            fixture,
            below,
            random,
            done: Vec::new(),
            failures: Vec::new(),
            points: 0,
            kills: 0,
            deaths: 0,
        })
    }

    fn below(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.below.as_raw_fd().to_string())
            .join(name)
    }

    fn pid(&self, which: &str) -> Option<i32> {
        let pid = self.fixture.supervision()?.get(which)?.as_u64()?;
        i32::try_from(pid).ok().filter(|pid| *pid > 0)
    }

    fn worker(&self) -> i32 {
        self.pid("worker_pid").expect("a worker")
    }

    fn supervisor(&self) -> i32 {
        self.pid("pid").expect("a supervisor")
    }

    /// Waits for the worker after these, of which so many died; tells where the first of them did.
    fn after(&mut self, name: &str, seen: &Seen, deaths: u64) -> String {
        self.points += 1;
        if seen.killed {
            self.kills += 1;
            self.deaths += deaths;
            until("the worker after those that died to serve", || {
                let told = self.fixture.supervision();
                told.is_some_and(|told| {
                    let restarts = told.get("restarts").and_then(Value::as_u64);
                    let serves = told.get("serves").and_then(Value::as_bool);
                    restarts == Some(self.deaths) && serves == Some(true)
                })
            });
        }
        let last = seen.points.last().map_or("nowhere", String::as_str);
        format!("{name} (killed: {}, {last})", seen.killed)
    }

    /// Some of so many points, or all, in their order.
    fn choose(&mut self, points: usize) -> Vec<usize> {
        let count = points_max().min(points);
        let mut chosen = rand::seq::index::sample(&mut self.random, points, count).into_vec();
        chosen.sort_unstable();
        chosen
    }

    fn fail(&mut self, what: &str, how: &str) {
        let text = format!("{what}: {how}");
        eprintln!("{text}");
        self.failures.push(text);
    }

    /// A new directory for a case, and what is to be done in it.
    fn prepare(&mut self, case: &Case, label: &str) -> (String, Act) {
        let name = format!("{}-{label}", case.name);
        let dir = self.fixture.path(&name);
        std::fs::create_dir(&dir).expect("mkdir");
        let act = (case.prepare)(&dir);
        self.done.push(name.clone());
        (name, act)
    }

    fn undisturbed(&mut self, case: &Case) -> Plain {
        // The fixture is not to believe that nothing goes on any more.
        self.fixture.status();
        let (name, act) = self.prepare(case, "plain");
        let mut states = Vec::new();
        let tracer = Tracer::attach(self.worker()).on_request(|| {
            states.push(picture(&self.below(&name)));
        });
        let acting = std::thread::spawn(act);
        let seen = tracer.run(|| acting.is_finished());
        let said = acting.join().expect("the operation");
        self.compare_with_below(&name, &states);
        states.push(picture(&self.below(&name)));
        assert!(!seen.points.is_empty(), "{}: no request", case.name);
        Plain {
            said,
            states,
            points: seen.points.len(),
        }
    }

    /// What the mount shows of a directory is what is below it: first what is asked for by name - the
    /// names that were there at any time -, which what is cached may answer, then what is listed.
    fn compare_with_below(&mut self, name: &str, states: &[String]) {
        let (dir, below) = (self.fixture.path(name), self.below(name));
        // Pages of a mapping are written back by the kernel.
        let mount = File::open(&dir).expect("open");
        nix::unistd::syncfs(&mount).expect("sync");
        let now = picture(&below);
        for path in paths_of(states.iter().chain([&now])) {
            let (shown, real) = (attributes(&dir.join(path)), attributes(&below.join(path)));
            if shown != real {
                let how = format!("{path:?} is {shown:?} by the mount and {real:?} below");
                self.fail(name, &how);
            }
        }
        let shown = picture(&dir);
        if shown != now {
            self.fail(name, &format!("listed are\n{shown}\nnot\n{now}"));
        }
    }

    /// Has the kernel know everything that there is. Listing and reading have it forget attributes, so
    /// these come last.
    fn have_cached(&self, name: &str) {
        let dir = self.fixture.path(name);
        for path in paths_of([&picture(&dir)]) {
            let _ = attributes(&dir.join(path));
        }
    }

    /// The worker dies at this point, and where it is to, the next one before it serves; the program hears
    /// what it would have heard.
    fn kill_workers(&mut self, case: &Case, plain: &Plain, point: usize, twice: bool) {
        let (name, act) = self.prepare(case, &point.to_string());
        let mut tracer = Tracer::attach(self.worker()).kill_at(point);
        let (mut when, mut deaths) = (String::new(), 1);
        if twice {
            let after = self.random.random_range(DECIDING);
            tracer = tracer.at_next(self.supervisor(), Moment::Dies(after), || ());
            (when, deaths) = (format!(", next killed at its stop {after}"), 2);
        }
        let acting = std::thread::spawn(act);
        let seen = tracer.run(|| acting.is_finished());
        let what = self.after(&name, &seen, deaths) + &when;
        let said = acting.join().expect("the operation");
        if said != plain.said {
            self.fail(&what, &format!("said {said:?}, not {:?}", plain.said));
        }
        let found = picture(&self.below(&name));
        if found != *plain.last() {
            self.fail(&what, &format!("is\n{found}\nnot\n{}", plain.last()));
        }
        self.compare_with_below(&name, &plain.states);
    }

    /// The worker dies at this point, and the program is killed at a moment of the next one's life.
    fn kill_both(&mut self, case: &Case, plain: &Plain, point: usize, moment: Moment) {
        let mut client = Client::start(self, case, &format!("{point}-{moment:?}"));
        let name = client.name.clone();
        self.have_cached(&name);
        let (worker, supervisor) = (self.worker(), self.supervisor());
        let ends = case.is_killable && moment == Moment::Resent;
        let (go, said) = (client_go(&client.signs), client.signs.join("said"));
        let seen = {
            let tracer = Tracer::attach(worker)
                .kill_at(point)
                .at_next(supervisor, moment, || client.kill(ends));
            File::create(go).expect("create");
            tracer.run(|| said.exists())
        };
        let what = self.after(&name, &seen, 1);
        client.ended();
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        let (found, wanted) = (picture(&self.below(&name)), plain.last());
        if !said.is_empty() && (said != plain.said || found != *wanted) {
            let how = format!(
                "said {said:?}, is\n{found}\nnot {:?},\n{wanted}",
                plain.said
            );
            self.fail(&what, &how);
        }
        self.compare_with_below(&name, &plain.states);
        let found = picture(&self.below(&name));
        if !plain.states.contains(&found) {
            let states = plain.states.join("\n\n");
            self.fail(&what, &format!("is\n{found}\nnot one of\n{states}"));
        }
    }

    /// The replica has the same everywhere.
    fn finish(mut self, test: &str) {
        self.fixture.caught_up();
        for name in std::mem::take(&mut self.done) {
            let found = picture(&self.fixture.replica(&name));
            let wanted = picture(&self.below(&name));
            if found != wanted {
                self.fail(&name, &format!("the replica is\n{found}\nnot\n{wanted}"));
            }
        }
        let (failures, points) = (self.failures, self.points);
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
        // A worker may need fewer calls than the one that was watched: it knows more.
        let (kills, deaths) = (self.kills, self.deaths);
        assert!(kills * 4 >= points * 3, "only {kills} of {points} were met");
        let report = self.fixture.finish();
        eprintln!("{test}: {deaths} workers killed at {kills} points; {report}");
    }
}

/// The moments at which a program is killed. The kernel may go on believing what it knew where it cannot be
/// told to doubt all names (`FUSE_NOTIFY_INC_EPOCH`).
fn moments(test: &str) -> &'static [Moment] {
    let release = nix::sys::utsname::uname().expect("uname");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    let version: (Option<u32>, Option<u32>) = (numbers.next().flatten(), numbers.next().flatten());
    if version < (Some(6), Some(16)) {
        eprintln!(
            "SKIPPED in {test}: {:?} needs Linux 6.16, this is {release}",
            Moment::Resent
        );
        return &[Moment::Started];
    }
    &[Moment::Resent, Moment::Started]
}

/// The paths in pictures of a directory.
fn paths_of<'a>(pictures: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let lines = pictures.into_iter().flat_map(|picture| picture.lines());
    lines.filter_map(|line| line.split(" = ").next()).collect()
}

/// What is known of a path without opening it.
fn attributes(path: &Path) -> Result<Vec<i64>, Option<i32>> {
    let stat = path.symlink_metadata().map_err(|e| e.raw_os_error())?;
    let size = if stat.is_dir() { 0 } else { stat.len() };
    let words = [stat.ino(), stat.nlink(), size, stat.rdev()].map(u64::cast_signed);
    let owner = [stat.mode(), stat.uid(), stat.gid()].map(i64::from);
    let times = [
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
    ];
    Ok([&words[..], &owner, &times].concat())
}

/// All that can be seen of a directory, but for times and numbers.
fn picture(dir: &Path) -> String {
    let mut inodes = BTreeMap::new();
    let mut lines = Vec::new();
    draw(dir, Path::new(""), &mut inodes, &mut lines);
    lines.join("\n")
}

fn draw(base: &Path, at: &Path, inodes: &mut BTreeMap<u64, PathBuf>, lines: &mut Vec<String>) {
    let path = base.join(at);
    let stat = path
        .symlink_metadata()
        .unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
    let first = inodes.entry(stat.ino()).or_insert_with(|| at.to_path_buf());
    let mut line = format!(
        "{} = {} {:o} links {} bytes {} owner {}:{} device {}",
        at.display(),
        first.display(),
        stat.mode(),
        stat.nlink(),
        if stat.is_dir() { 0 } else { stat.len() },
        stat.uid(),
        stat.gid(),
        stat.rdev(),
    );
    if stat.is_file() {
        let file = File::open(&path).expect("open");
        let xattrs = doppelfs::sys::list_all_xattrs(file.as_fd()).expect("listxattr");
        let content = std::fs::read(&path).expect("read");
        let sum = content.iter().fold(0u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        line += &format!(" content {sum:x} {xattrs:?}");
    }
    assert!(!stat.file_type().is_socket(), "no case makes any");
    lines.push(line);
    if stat.is_dir() {
        let listed = std::fs::read_dir(&path).expect("list");
        let mut names: Vec<_> = listed.map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        for name in names {
            draw(base, &at.join(name), inodes, lines);
        }
    }
}

/// What [`acts_alone`] is to do, where, and with which sign that it is ready.
const CASE: &str = "DOPPELFS_TAKEOVER_CASE";
const DIR: &str = "DOPPELFS_TAKEOVER_DIR";
const SIGNS: &str = "DOPPELFS_TAKEOVER_SIGNS";

fn client_go(signs: &Path) -> PathBuf {
    signs.join("go")
}

/// Not a test: the program that is killed, started by [`Client::start`].
#[test]
fn acts_alone() {
    let Some(name) = std::env::var_os(CASE) else {
        return;
    };
    let of = |key: &str| PathBuf::from(std::env::var_os(key).expect("a variable"));
    let case = CASES.iter().find(|case| name == case.name);
    let act = (case.expect("a case").prepare)(&of(DIR));
    let signs = of(SIGNS);
    File::create(signs.join("ready")).expect("create");
    until("the word to go", || client_go(&signs).exists());
    let said = act();
    // It appears at once and whole.
    std::fs::write(signs.join("saying"), said).expect("write");
    std::fs::rename(signs.join("saying"), signs.join("said")).expect("rename");
}

/// A program of its own that does what a case is about.
struct Client {
    child: Child,
    signs: PathBuf,
    name: String,
}

impl Client {
    fn start(rig: &mut Rig, case: &Case, label: &str) -> Client {
        let name = format!("{}-{label}", case.name);
        let dir = rig.fixture.path(&name);
        let signs = rig.fixture.outside(format!("signs-{name}"));
        for dir in [&dir, &signs] {
            std::fs::create_dir(dir).expect("mkdir");
        }
        rig.done.push(name.clone());
        let child = program(std::env::current_exe().expect("the path of this program"))
            .args(["--exact", "takeover_points::acts_alone", "--nocapture"])
            .env(CASE, case.name)
            .env(DIR, &dir)
            .env(SIGNS, &signs)
            .spawn(&signs.join("log"));
        let mut client = Client { child, signs, name };
        until("the client to be ready", || {
            let ended = client.child.try_wait().expect("wait");
            let log = || std::fs::read_to_string(client.signs.join("log"));
            assert!(ended.is_none(), "{ended:?}: {:?}", log());
            client.signs.join("ready").exists()
        });
        client
    }

    /// Before the kernel was asked to send its request again, the request keeps it alive.
    fn kill(&mut self, ends: bool) {
        self.child.kill().expect("kill the client");
        if ends {
            self.ended();
        }
    }

    fn ended(&mut self) {
        until("the client to end", || {
            self.child.try_wait().expect("wait").is_some()
        });
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn an_operation_happens_once_wherever_its_worker_dies() {
    let test = "an_operation_happens_once_wherever_its_worker_dies";
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    for case in CASES {
        let plain = rig.undisturbed(case);
        for point in rig.choose(plain.points) {
            rig.kill_workers(case, &plain, point, false);
        }
    }
    rig.finish(test);
}

#[test]
fn an_operation_happens_once_when_the_next_worker_dies_too() {
    let test = "an_operation_happens_once_when_the_next_worker_dies_too";
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    for case in CASES {
        let plain = rig.undisturbed(case);
        // Each takes longer: the start of a worker is followed, too.
        for point in rig.choose(plain.points).into_iter().step_by(2) {
            rig.kill_workers(case, &plain, point, true);
        }
    }
    rig.finish(test);
}

#[test]
fn an_operation_happens_once_or_not_when_its_program_is_killed_too() {
    let test = "an_operation_happens_once_or_not_when_its_program_is_killed_too";
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    let moments = moments(test);
    for case in CASES {
        let plain = rig.undisturbed(case);
        for (number, point) in rig.choose(plain.points).into_iter().enumerate() {
            // Where some points are chosen only, the moments take turns.
            let all = points_max() >= plain.points;
            for (turn, moment) in moments.iter().enumerate() {
                if all || number % moments.len() == turn {
                    rig.kill_both(case, &plain, point, *moment);
                }
            }
        }
    }
    rig.finish(test);
}
