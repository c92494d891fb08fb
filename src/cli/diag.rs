//! `doppelfs diag`: one file with what support needs, without secrets.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::paper::{Ink, clock_text};
use super::render::status_text;
use super::run::Outcome;
use super::show::collect_status;
use crate::control::status::StatusReport;
use crate::control::{self, Client, Reply, Request, Service};
use crate::sync;
use crate::sys;

/// Of each log, the end of so many bytes.
const LOG_BYTES_MAX: u64 = 2 << 20;

/// Of each other file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a program that is asked for facts may take.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(5);

/// Facts of the kernel and the host that are files.
const FACTS: [&str; 12] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/self/mountinfo",
    "/proc/filesystems",
    "/proc/sys/fs/file-nr",
    "/proc/sys/fs/fuse/max_pages_limit",
    "/etc/fstab",
];

/// Programs that know more.
const PROGRAMS: [(&str, &[&str]); 5] = [
    ("df.txt", &["df", "-PT"]),
    (
        "dmesg.txt",
        &["dmesg", "--ctime", "--level", "emerg,alert,crit,err,warn"],
    ),
    (
        "journal.txt",
        &[
            "journalctl",
            "-t",
            "doppelfs",
            "-n",
            "1000",
            "--no-pager",
            "-o",
            "short-iso",
        ],
    ),
    (
        "units.txt",
        &[
            "systemctl",
            "status",
            "doppelfs@*",
            "doppelfs-target.service",
            "--no-pager",
            "-n",
            "0",
        ],
    ),
    (
        "processes.txt",
        &["ps", "-eo", "pid,ppid,stat,wchan:32,etime,rss,comm"],
    ),
];

/// And so long to end, once its time is over.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// What follows one of these words on its line is not for others.
const SECRET_WORDS: [&str; 8] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credentials",
    "pass=",
    "pw=",
];

/// The bundle that is being written.
struct Bundle {
    tar: tar::Builder<GzEncoder<File>>,
    /// Where everything lies in it.
    top: PathBuf,
    seconds: u64,
    /// What could not be had.
    lacks: Vec<String>,
    count: usize,
}

impl Bundle {
    fn put(&mut self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        self.count += 1;
        self.tar
            .append_data(&mut header, self.top.join(name), bytes)
    }

    fn put_json(&mut self, name: &str, value: &impl Serialize) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::other)?;
        self.put(name, &text)
    }

    fn lack(&mut self, name: &str, why: &dyn std::fmt::Display) {
        self.lacks.push(format!("{name}: {why}"));
    }

    /// The file, or why it is not there.
    fn put_file(&mut self, name: &str, path: &Path, bytes_max: u64) -> std::io::Result<()> {
        match end_of(path, bytes_max) {
            Ok(bytes) => self.put(name, &without_secrets(&bytes)),
            Err(error) => {
                self.lack(name, &error);
                Ok(())
            }
        }
    }
}

/// The end of a file that may be long.
fn end_of(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > bytes_max {
        file.seek(SeekFrom::Start(length - bytes_max))?;
    }
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lines that set a secret lose what they set.
fn without_secrets(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        clean.push_str(&without_secret(line));
    }
    clean.into_bytes()
}

fn without_secret(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let word = SECRET_WORDS.iter().filter_map(|word| {
        let start = lower.find(word)?;
        Some((start, start + word.len()))
    });
    // A user and a password before a host: scheme://user:password@host.
    let url = lower.find("://").and_then(|scheme| {
        let rest = lower.get(scheme + 3..)?;
        let word = rest.split_whitespace().next()?;
        let is_given = word
            .split_once('@')
            .is_some_and(|(user, _)| user.contains(':'));
        is_given.then_some((scheme, scheme + 3))
    });
    match word.chain(url).min() {
        // Cut at a character's beginning: what was found is ASCII, of a text of the same length.
        Some((_, end)) => match line.get(..end) {
            Some(kept) => format!("{kept} (removed)\n"),
            None => "(removed)\n".to_owned(),
        },
        None => line.to_owned(),
    }
}

/// What a program prints, when it ends in time.
fn output_of(words: &[&str]) -> std::io::Result<Vec<u8>> {
    let (program, arguments) = words
        .split_first()
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (done, result) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        sync::spawn("dfs-output", move || {
            let mut bytes = Vec::new();
            let read = out.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
            // Nobody waits any more when the time is over.
            let _ = done.send(read.map(|_| bytes));
        })?;
    }
    let bytes = result.recv_timeout(PROGRAM_PATIENCE);
    // It has ended, or its output is not read any more, or its time is over.
    let _ = child.kill();
    let begun = Instant::now();
    while child.try_wait()?.is_none() && begun.elapsed() < END_PATIENCE {
        // One that waits for a mount that does not answer cannot be killed: it is left behind.
        std::thread::sleep(Duration::from_millis(5));
    }
    bytes.map_err(|_| std::io::Error::other("it did not end in time"))?
}

/// Writes the bundle.
pub(super) fn collect(
    run_dir: &Path,
    config_dir: &Path,
    output: Option<&Path>,
) -> anyhow::Result<Outcome> {
    let now = sys::realtime_ns();
    let digits: String = clock_text(now)
        .chars()
        .filter(char::is_ascii_digit)
        .take(14)
        .collect();
    let top = PathBuf::from(format!("doppelfs-diag-{}-{digits}", sys::host_name()));
    let path = match output {
        Some(path) => path.to_owned(),
        None => PathBuf::from(format!("{}.tar.gz", top.display())),
    };
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = file
        .with_context(|| format!("cannot make {}; name another with --output", path.display()))?;
    let mut bundle = Bundle {
        tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
        top,
        seconds: now / 1_000_000_000,
        lacks: Vec::new(),
        count: 0,
    };
    let written = fill(&mut bundle, run_dir, config_dir).and_then(|()| {
        let count = bundle.count;
        bundle.tar.into_inner()?.finish()?.sync_all()?;
        Ok(count)
    });
    let count = match written {
        Ok(count) => count,
        Err(error) => {
            // Half a bundle helps nobody.
            let _ = std::fs::remove_file(&path);
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {count} files. Keys and tokens are not in it; names of files and hosts are: look before you send it.",
        path.display()
    )?;
    Ok(Outcome::Yes)
}

fn fill(bundle: &mut Bundle, run_dir: &Path, config_dir: &Path) -> std::io::Result<()> {
    let version = format!(
        "doppelfs {}\nrun directory {}\n",
        env!("CARGO_PKG_VERSION"),
        run_dir.display()
    );
    bundle.put("version.txt", version.as_bytes())?;
    match collect_status(run_dir, None) {
        Ok(report) => {
            bundle.put_json("status.json", &report)?;
            bundle.put(
                "status.txt",
                status_text(&report, Ink::NONE, None).as_bytes(),
            )?;
            services(bundle, run_dir, &report)?;
        }
        Err(error) => bundle.lack("status.json", &error),
    }
    configuration(bundle, config_dir)?;
    for fact in FACTS {
        let name = format!("host{fact}");
        bundle.put_file(&name, Path::new(fact), FILE_BYTES_MAX)?;
    }
    for (name, words) in PROGRAMS {
        match output_of(words) {
            Ok(bytes) => bundle.put(&format!("host/{name}"), &without_secrets(&bytes))?,
            Err(error) => bundle.lack(name, &error),
        }
    }
    let lacks = bundle.lacks.join("\n") + "\n";
    bundle.put("not-there.txt", lacks.as_bytes())
}

/// What the sets and targets say of themselves, and their logs.
fn services(bundle: &mut Bundle, run_dir: &Path, report: &StatusReport) -> std::io::Result<()> {
    for service in control::list_services(run_dir).unwrap_or_default() {
        let questions = match &service {
            Service::Set(_) => vec![("stats", Request::Stats), ("queue", Request::QueueShow)],
            Service::Target(_) => vec![("peers", Request::Peers)],
        };
        for (what, request) in questions {
            let name = format!("{}/{what}.json", service.stem());
            let limit = Some(control::ANSWER_PATIENCE);
            let answer = Client::connect(run_dir, &service).and_then(|c| c.ask(&request, limit));
            match answer {
                Ok(Reply::Stats(stats)) => bundle.put_json(&name, &stats)?,
                Ok(Reply::Queue(queue)) => bundle.put_json(&name, &queue)?,
                Ok(Reply::Peers(peers)) => bundle.put_json(&name, &peers)?,
                Ok(_) => bundle.lack(&name, &"another answer"),
                Err(error) => bundle.lack(&name, &error),
            }
        }
    }
    let sets = report.sets.iter().map(|set| (&set.name, &set.state_dir));
    for (name, state) in sets.filter(|(_, state)| !state.is_empty()) {
        let log = Path::new(state).join("log");
        let entries = std::fs::read_dir(&log).map(|entries| entries.flatten().collect());
        let entries: Vec<std::fs::DirEntry> = match entries {
            Ok(entries) => entries,
            Err(error) => {
                bundle.lack(&format!("{name}/log"), &error);
                continue;
            }
        };
        for entry in entries {
            let file = format!("{name}/log/{}", entry.file_name().to_string_lossy());
            bundle.put_file(&file, &entry.path(), LOG_BYTES_MAX)?;
        }
    }
    Ok(())
}

/// The files of the configuration; never the keys beside them.
fn configuration(bundle: &mut Bundle, config_dir: &Path) -> std::io::Result<()> {
    let mut files = vec![config_dir.join("doppelfs.toml")];
    match std::fs::read_dir(config_dir.join("sets.d")) {
        Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path())),
        Err(error) => bundle.lack("config/sets.d", &error),
    }
    let is_toml = |path: &&PathBuf| path.extension().is_some_and(|e| e == "toml");
    for path in files.iter().filter(is_toml) {
        let below = path.strip_prefix(config_dir).unwrap_or(path);
        let name = format!("config/{}", below.display());
        bundle.put_file(&name, path, FILE_BYTES_MAX)?;
    }
    Ok(())
}
