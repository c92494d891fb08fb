//! A target as it is run: the real program, confined, with a source that attacks, one that is honest, and
//! things around that nobody may touch.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::line::{Heard, Key, Line, PAIR, PATIENCE, pair};
use super::scratch::Scratch;

const PROGRAM: &str = env!("CARGO_BIN_EXE_doppelfs");

/// A target and what is around it.
pub struct Stage {
    scratch: Scratch,
    pub address: SocketAddr,
    child: Option<Child>,
}

/// A source of our own: its key, and TLS with it.
#[derive(Clone)]
pub struct Source {
    pub name: String,
    pub key: Key,
    pub config: Arc<ClientConfig>,
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A port that nobody listens on, nor is given to a connection.
fn free_port() -> u16 {
    let mut ports = (0..1000).map(|_| rand::random_range(2048..32_000u16));
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(format!("waited in vain: {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Stage {
    /// Serves, with things around it; `None` without root.
    pub fn start(label: &str) -> Option<Stage> {
        if !is_root() {
            eprintln!("SKIPPED {label}: not root");
            return None;
        }
        let scratch = Scratch::new(&format!("hostile-{label}"));
        let mut stage = Stage {
            scratch,
            address: (Ipv4Addr::LOCALHOST, free_port()).into(),
            child: None,
        };
        std::fs::create_dir_all(stage.root()).unwrap();
        stage.plant();
        stage.serve();
        Some(stage)
    }

    /// Files outside of every replica, some of which would be worth something.
    fn plant(&self) {
        let make = |path: PathBuf, content: &str, mode: u32| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        for place in [self.outside(), self.root().join("victim/data")] {
            make(place.join("passwd"), "root:x:0:0::/root:/bin/sh\n", 0o644);
            make(place.join("shadow"), "root:secret:1::::::\n", 0o600);
            make(place.join("bin/su"), "a program\n", 0o4755);
            std::fs::create_dir_all(place.join("deep/er")).unwrap();
            std::os::unix::fs::symlink("passwd", place.join("link")).unwrap();
        }
        make(self.root().join("file"), "at the root\n", 0o640);
    }

    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// What stands for the rest of the host.
    pub fn outside(&self) -> PathBuf {
        self.scratch.path().join("outside")
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("DOPPELFS_RUN_DIR", self.scratch.path().join("run"));
        command.stdin(Stdio::null());
        command
    }

    fn serve(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.unwrap();
        let mut command = self.command();
        command.args(["target", "serve", "--listen", &self.address.to_string()]);
        command.arg("--root").arg(self.root());
        command.arg("--state").arg(self.state());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let serves = until("the target serves", || {
            std::net::TcpStream::connect(self.address).is_ok()
                && !self.run(&["peers", "list"]).contains("nobody")
        });
        serves.unwrap_or_else(|e| panic!("{e}: {}", self.log()));
    }

    /// Ends it hard and starts it again.
    pub fn restart(&mut self) {
        self.end();
        self.serve();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What a command prints, both ways.
    pub fn run(&self, args: &[&str]) -> String {
        let done = self.command().args(args).output().unwrap();
        let (out, err) = (done.stdout, done.stderr);
        String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&err)
    }

    /// The secret in a fresh invitation.
    pub fn invite(&self, terms: &[&str]) -> Vec<u8> {
        let args = [&["target", "invite", "--json"], terms].concat();
        let told = self.run(&args);
        let told: serde_json::Value =
            serde_json::from_str(&told).unwrap_or_else(|e| panic!("{args:?}: {e}: {told}"));
        let token = told.get("token").and_then(|token| token.as_str()).unwrap();
        let letters = token.strip_prefix("dfs1-").unwrap().to_uppercase();
        let all = data_encoding::BASE32_NOPAD
            .decode(letters.as_bytes())
            .unwrap();
        all[32..48].to_vec()
    }

    /// Redeems a secret; what the target says.
    pub fn redeem(&self, config: &Arc<ClientConfig>, secret: &[u8], name: &str) -> Heard {
        let Ok(mut line) = Line::open(self.address, config) else {
            return Heard::Closed;
        };
        match line.say(PAIR, &pair(secret, name).encode()) {
            Ok(()) => line.hear(PATIENCE),
            Err(_) => Heard::Closed,
        }
    }

    /// A source that is paired in order.
    pub fn source(&self, name: &str, terms: &[&str]) -> Source {
        let key = Key::generate();
        let config = Arc::new(key.config());
        let secret = self.invite(terms);
        match self.redeem(&config, &secret, name) {
            Heard::Paired(paired) => assert_eq!(paired.known_as, name),
            other => panic!("not paired: {other:?}\n{}", self.log()),
        }
        let name = name.to_owned();
        Source { name, key, config }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn is_alive(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Open descriptors of the target.
    pub fn fd_count(&self) -> usize {
        let dir = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    }

    /// Threads of the target.
    pub fn thread_count(&self) -> usize {
        let dir = format!("/proc/{}/task", self.pid());
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    }

    /// Memory of the target that is its own: not the program's file, nor the pages of mapped ones.
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Seconds of processor time that the target has used.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<f64> = rest
            .split_whitespace()
            .map(|f| f.parse().unwrap_or(0.0))
            .collect();
        let ticks = fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0);
        ticks / 100.0
    }

    /// Everything that no source may touch, as it is now; `free`: names in the root that are not meant.
    pub fn canary(&self, free: &[&str]) -> Canary {
        let mut found = BTreeMap::new();
        walk(&self.outside(), &mut found);
        for name in ["key", "id"] {
            note(&self.state().join(name), &mut found);
        }
        for entry in std::fs::read_dir(self.root()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != ".doppelfs" && !free.contains(&name.as_str()) {
                walk(&entry.path(), &mut found);
            }
        }
        Canary(found)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end();
        // Its table on the tmpfs is called after this.
        if let Ok(id) = std::fs::read_to_string(self.state().join("id")) {
            let _ = std::fs::remove_dir_all(Path::new("/run/doppelfs-target").join(id.trim()));
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("the target's log:\n{}", tail.join("\n"));
        }
    }
}

/// Things that nobody may touch: each path with all that stat says (but the time of the last look) and its
/// content. Whatever changes an inode changes its ctime, extended attributes included.
#[derive(Debug, PartialEq, Eq)]
pub struct Canary(BTreeMap<PathBuf, String>);

fn note(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    let content = match stat.is_file() {
        true => blake3::hash(&std::fs::read(path).unwrap()).to_string(),
        false => String::new(),
    };
    let shown = format!(
        "ino {} mode {:o} owner {}:{} links {} size {} mtime {}.{} ctime {}.{} {content}",
        stat.ino(),
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.nlink(),
        stat.size(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
    );
    found.insert(path.to_owned(), shown);
}

fn walk(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    note(path, found);
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            walk(&entry.path(), found);
        }
    }
}

impl Canary {
    /// What is not as it was; empty when nothing was touched.
    pub fn changes(&self, now: &Canary) -> Vec<String> {
        let paths: std::collections::BTreeSet<&PathBuf> =
            self.0.keys().chain(now.0.keys()).collect();
        let differs = paths
            .into_iter()
            .filter(|path| self.0.get(*path) != now.0.get(*path));
        let shown = differs.map(|path| {
            let side = |canary: &Canary| canary.0.get(path).cloned().unwrap_or("nothing".into());
            format!("{}: {} -> {}", path.display(), side(self), side(now))
        });
        shown.collect()
    }
}
