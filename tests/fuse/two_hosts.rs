//! Goal: two hosts replicate with the commands that README names, by IPv4 and by IPv6, and whoever listens in
//! between reads no name and no word of what is replicated. Method: two network namespaces with a cable
//! between them, real processes in each; everything that goes over the cable is recorded.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::support::{Finished, Program, Scratch, is_ready, program, until};

/// Two hosts and a cable; they go with the value.
struct Hosts {
    names: [String; 2],
}

const SOURCE: usize = 0;
const TARGET: usize = 1;

fn ip(words: &str) -> Finished {
    program("ip").args(words.split(' ')).run()
}

impl Hosts {
    /// `None`, loudly, where there are no network namespaces.
    fn new(label: &str) -> Option<Hosts> {
        let own = std::process::id();
        let names = ["source", "target"].map(|role| format!("dfs-{label}-{role}-{own}"));
        let hosts = Hosts { names };
        let [source, target] = &hosts.names;
        for name in &hosts.names {
            let made = ip(&format!("netns add {name}"));
            if made.code != Some(0) {
                eprintln!("SKIPPED: no network namespaces here: {}", made.stderr);
                return None;
            }
        }
        ip(&format!(
            "link add cable netns {source} type veth peer name cable netns {target}"
        ))
        .expect_code(0);
        for (name, last) in [(source, 1), (target, 2)] {
            for words in [
                format!("-n {name} addr add 10.77.0.{last}/24 dev cable"),
                format!("-n {name} addr add fd77::{last}/64 dev cable nodad"),
                format!("-n {name} link set lo up"),
                format!("-n {name} link set cable up"),
            ] {
                ip(&words).expect_code(0);
            }
        }
        Some(hosts)
    }

    /// A program on one of them: in its network, and in everybody's mounts.
    fn on(&self, host: usize, name: &str) -> Program {
        program("nsenter")
            .arg(format!("--net=/run/netns/{}", self.names[host]))
            .arg(name)
    }

    /// Records what passes the source's end of the cable and its loopback.
    fn record(&self) -> Recorder {
        let network = File::open(format!("/run/netns/{}", self.names[SOURCE])).expect("open");
        let stop = Arc::new(AtomicBool::new(false));
        let (is_over, (ready, begun)) = (Arc::clone(&stop), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("enter the network");
            let packets = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .expect("a packet socket");
            let pause = nix::sys::time::TimeVal::new(0, 50_000);
            nix::sys::socket::setsockopt(
                &packets,
                nix::sys::socket::sockopt::ReceiveTimeout,
                &pause,
            )
            .expect("a timeout");
            nix::sys::socket::setsockopt(&packets, nix::sys::socket::sockopt::RcvBuf, &(64 << 20))
                .expect("room");
            ready.send(()).expect("somebody waits");
            let mut packets = File::from(packets);
            let (mut kept, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
            while !is_over.load(Ordering::Acquire) {
                if let Ok(length) = packets.read(&mut buffer) {
                    kept.extend_from_slice(&buffer[..length]);
                }
            }
            kept
        });
        begun.recv().expect("it records");
        Recorder { stop, thread }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

struct Recorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Recorder {
    fn end(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the recorder")
    }
}

fn contains(bytes: &[u8], part: &str) -> bool {
    let part = part.as_bytes();
    bytes.windows(part.len()).any(|window| window == part)
}

/// Two hosts' directories, and a target that serves until the value goes.
struct Stage {
    hosts: Hosts,
    scratch: Scratch,
    serving: std::process::Child,
}

impl Stage {
    fn new(label: &str, flags: &[&str]) -> Option<Stage> {
        let hosts = Hosts::new(label)?;
        let scratch = Scratch::new(label);
        for dir in ["data", "replicas", "run-source", "run-target"] {
            std::fs::create_dir(scratch.path().join(dir)).expect("mkdir");
        }
        let at = |name: &str| scratch.path().join(name);
        let serving = Stage::doppelfs(&hosts, TARGET, &at("run-target"))
            .args(["target", "serve", "--root"])
            .arg(at("replicas"))
            .arg("--state")
            .arg(at("target-state"))
            .args(flags)
            .spawn(&at("target.log"));
        let stage = Stage {
            hosts,
            scratch,
            serving,
        };
        until("the target to serve", || {
            let status = stage.target().arg("status").run();
            status.stdout.contains(":7420")
        });
        Some(stage)
    }

    fn doppelfs(hosts: &Hosts, host: usize, run_dir: &Path) -> Program {
        hosts
            .on(host, env!("CARGO_BIN_EXE_doppelfs"))
            .env("DOPPELFS_RUN_DIR", run_dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn source(&self) -> Program {
        Stage::doppelfs(&self.hosts, SOURCE, &self.at("run-source"))
            .env("DOPPELFS_KEYS", self.at("keys"))
    }

    fn target(&self) -> Program {
        Stage::doppelfs(&self.hosts, TARGET, &self.at("run-target"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let data = self.at("data");
        if doppelfs::sys::read_mounts().is_ok_and(|all| all.iter().any(|m| m.mountpoint == data)) {
            let _ = self.source().arg("umount").arg(&data).run();
        }
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

const NAME: &str = "a-name-that-nobody-is-to-read";
const WORDS: &str = "words that nobody in between is to read";

fn replicate_between_hosts(label: &str, address: &str) {
    let Some(stage) = Stage::new(label, &[]) else {
        return;
    };
    std::fs::write(stage.at("data").join("before"), WORDS).expect("write");
    let recorder = stage.hosts.record();
    let endpoint = format!("{address}:7420");
    let token = stage.target().args(["target", "invite"]).succeed();
    let token = token.stdout.trim().to_owned();
    stage.source().args(["pair", &endpoint, &token]).succeed();
    stage
        .source()
        .arg("mount")
        .arg(stage.at("data"))
        .args(["--target", &endpoint, "--state"])
        .arg(stage.at("state"))
        .succeed();
    let dir = stage.at("data").join(NAME);
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::write(dir.join(NAME), WORDS).expect("write");
    stage
        .source()
        .args(["wait", "data", "--caught-up", "--timeout", "60"])
        .succeed();
    let name = doppelfs::sys::host_name();
    let replica = stage.at("replicas").join(name).join("data");
    stage
        .source()
        .arg("compare")
        .arg(stage.at("data"))
        .arg(&replica)
        .succeed();
    assert!(replica.join(NAME).join(NAME).exists());
    let status = stage.source().args(["status", "data"]).succeed();
    assert!(status.stdout.contains("TLS 1.3"), "{}", status.stdout);
    stage.source().arg("umount").arg(stage.at("data")).succeed();
    let seen = recorder.end();
    assert!(seen.len() > 2000, "{} bytes were recorded", seen.len());
    for part in [NAME, WORDS, "before", &token[5..], "DPFS"] {
        assert!(!contains(&seen, part), "{part:?} can be read on the wire");
    }
}

#[test]
fn two_hosts_replicate_by_ipv4_and_nobody_reads_along() {
    if !is_ready("two_hosts_replicate_by_ipv4_and_nobody_reads_along") {
        return;
    }
    replicate_between_hosts("v4", "10.77.0.2");
}

#[test]
fn two_hosts_replicate_by_ipv6_and_nobody_reads_along() {
    if !is_ready("two_hosts_replicate_by_ipv6_and_nobody_reads_along") {
        return;
    }
    replicate_between_hosts("v6", "[fd77::2]");
}

/// The recorder reads: without encryption, which stays on one host, it finds all of it.
#[test]
fn plain_tcp_can_be_read_along() {
    if !is_ready("plain_tcp_can_be_read_along") {
        return;
    }
    let Some(stage) = Stage::new("plain", &["--insecure-loopback"]) else {
        return;
    };
    // A second one, on the source's own host.
    let run_dir = stage.at("run-source");
    std::fs::create_dir(stage.at("replicas-here")).expect("mkdir");
    let mut serving = stage
        .source()
        .args(["target", "serve", "--insecure-loopback", "--root"])
        .arg(stage.at("replicas-here"))
        .arg("--state")
        .arg(stage.at("target-state-here"))
        .spawn(&stage.at("target-here.log"));
    until("the target to serve", || {
        run_dir.join("target-7420.sock").exists()
    });
    let recorder = stage.hosts.record();
    stage
        .source()
        .arg("mount")
        .arg(stage.at("data"))
        .args([
            "--insecure-loopback",
            "--target",
            "127.0.0.1:7420",
            "--state",
        ])
        .arg(stage.at("state"))
        .succeed();
    std::fs::write(stage.at("data").join(NAME), WORDS).expect("write");
    stage
        .source()
        .args(["wait", "data", "--caught-up", "--timeout", "60"])
        .succeed();
    stage.source().arg("umount").arg(stage.at("data")).succeed();
    let seen = recorder.end();
    let _ = serving.kill();
    let _ = serving.wait();
    assert!(contains(&seen, NAME) && contains(&seen, WORDS) && contains(&seen, "DPFS"));
}
