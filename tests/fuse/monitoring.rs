//! Goal: a real Prometheus scrapes a real source and target; the bundle for support has what helps and no secret.
//! Method: the servers and the files themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Fixture, free_port, has_programs, is_ready, kill_worker, program, until};

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answer to a GET; none while nobody answers.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn exporter(fixture: &Fixture, port: u16) -> Running {
    let child = Command::new(env!("CARGO_BIN_EXE_doppelfs"))
        .env("DOPPELFS_RUN_DIR", fixture.run_dir())
        .args(["metrics", "serve", "--listen", &format!("127.0.0.1:{port}")])
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Running(child.expect("start the exporter"));
    let out = child.0.stdout.take().expect("its output");
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert!(line.contains("serving on http://127.0.0.1"), "{line}");
    child
}

#[test]
fn a_real_prometheus_scrapes_source_and_target() {
    let name = "a_real_prometheus_scrapes_source_and_target";
    if !is_ready(name) {
        return;
    }
    let fixture = Fixture::started("prometheus");
    std::fs::write(fixture.path("secret name"), "text").expect("write");
    fixture.caught_up();
    let port = free_port();
    let _exporter = exporter(&fixture, port);
    let text = get(port, "/metrics").expect("an answer");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"),
        "{text}"
    );
    assert!(
        text.contains("doppelfs_up{role=\"source\",set=\"data\"} 1.0"),
        "{text}"
    );
    assert!(text.contains("doppelfs_stream_connected{"), "{text}");
    assert!(!text.contains("secret name"), "{text}");
    assert!(
        get(port, "/nothing")
            .expect("an answer")
            .starts_with("HTTP/1.1 404")
    );
    if has_programs(name, &["prometheus"]) {
        scraped(&fixture, port);
    }
    // Whoever connects and says nothing keeps nobody out.
    let silent: Vec<TcpStream> = (0..200)
        .filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok())
        .collect();
    until("an answer beside the silent ones", || {
        get(port, "/metrics").is_some_and(|text| text.starts_with("HTTP/1.1 200"))
    });
    drop(silent);
    fixture.finish();
}

/// A Prometheus that scrapes this port sees the set as up.
fn scraped(fixture: &Fixture, port: u16) {
    let dir = fixture.outside("prometheus");
    std::fs::create_dir(&dir).expect("make a directory");
    let configuration = dir.join("prometheus.yml");
    let rules = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/monitoring/prometheus-rules.yml"
    );
    let text = format!(
        "global: {{scrape_interval: 500ms}}\nrule_files: ['{rules}']\nscrape_configs:\n\
         - job_name: doppelfs\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
    );
    std::fs::write(&configuration, text).expect("write");
    let listen = free_port();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _prometheus = Running(child.expect("start Prometheus"));
    let query = "/api/v1/query?query=doppelfs_up%7Bset%3D%22data%22%7D";
    until("Prometheus to have scraped the set", || {
        get(listen, query).is_some_and(|answer| {
            answer.contains("\"status\":\"success\"") && answer.contains(",\"1\"]")
        })
    });
    let rules = get(listen, "/api/v1/rules").expect("an answer");
    assert!(
        rules.contains("DoppelfsQueueFull") && !rules.contains("\"health\":\"err\""),
        "{rules}"
    );
}

/// All files below a directory.
fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("list").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files(&path, all),
            false => all.push(path),
        }
    }
}

#[test]
fn the_bundle_for_support_has_what_helps_and_no_secret() {
    if !is_ready("the_bundle_for_support_has_what_helps_and_no_secret") {
        return;
    }
    let fixture = Fixture::started("diag");
    std::fs::write(
        fixture.path("file"),
        "what is in the file is nobody's business",
    )
    .expect("write");
    fixture.caught_up();
    let config = fixture.outside("config");
    std::fs::create_dir_all(config.join("sets.d")).expect("make a directory");
    let text = "# A note.\nproxy-password = \"hunter2-of-the-proxy\"\n";
    std::fs::write(config.join("doppelfs.toml"), text).expect("write");
    let bundle = fixture.outside("bundle.tar.gz");
    let diag = || fixture.doppelfs().env("DOPPELFS_CONFIG_DIR", &config);
    let made = diag().args(["diag", "--output"]).arg(&bundle).succeed();
    assert!(made.stdout.contains("look before you send it"), "{made:?}");
    // What is there is not overwritten.
    diag()
        .args(["diag", "--output"])
        .arg(&bundle)
        .run()
        .expect_code(2);
    let unpacked = fixture.outside("unpacked");
    std::fs::create_dir(&unpacked).expect("make a directory");
    program("tar")
        .arg("-xzf")
        .arg(&bundle)
        .arg("-C")
        .arg(&unpacked)
        .succeed();
    let mut all = Vec::new();
    files(&unpacked, &mut all);
    let names: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
    for name in [
        "status.json",
        "status.txt",
        "version.txt",
        "not-there.txt",
        "data/stats.json",
        "data/queue.json",
        "data/log/worker.log",
        "peers.json",
        "config/doppelfs.toml",
        "host/etc/os-release",
        "host/proc/self/mountinfo",
        "host/df.txt",
    ] {
        assert!(
            names.iter().any(|path| path.ends_with(name)),
            "no {name} in {names:#?}"
        );
    }
    let mut secrets = vec![
        b"hunter2-of-the-proxy".to_vec(),
        b"nobody's business".to_vec(),
    ];
    let mut keys = Vec::new();
    files(&fixture.keys_dir(), &mut keys);
    files(fixture.target.state(), &mut keys);
    let is_key = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().contains("key"))
    };
    for path in keys.iter().filter(|path| is_key(path)) {
        let bytes = std::fs::read(path).expect("read a key");
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        secrets.push(bytes.get(16..48).unwrap_or(&bytes).to_vec());
        secrets.push(
            hexadecimal
                .as_bytes()
                .get(32..96)
                .unwrap_or_default()
                .to_vec(),
        );
    }
    assert!(secrets.len() >= 6, "no keys were found");
    for path in &all {
        let bytes = std::fs::read(path).expect("read");
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "a secret is in {}", path.display());
        }
    }
    fixture.finish();
}

#[test]
fn what_needs_somebody_is_told_with_its_number() {
    if !is_ready("what_needs_somebody_is_told_with_its_number") {
        return;
    }
    let fixture = Fixture::started("alerts");
    let told = |number: u16| {
        let log = std::fs::read_to_string(fixture.state_dir().join("log/worker.log"));
        let log = log.expect("the worker's log") + &fixture.target.log();
        log.contains(&format!("DFS-{number} "))
    };
    let is_told = |number: u16| until(&format!("alert {number}"), || told(number));
    assert!(
        !told(101) && !told(141) && !told(211),
        "nothing has happened yet"
    );
    fixture.proxy.cut();
    is_told(101);
    is_told(211);
    fixture.proxy.mend();
    is_told(102);
    is_told(212);
    fixture.doppelfs().args(["pause", "data"]).succeed();
    is_told(103);
    fixture.doppelfs().args(["resume", "data"]).succeed();
    is_told(104);
    fixture.doppelfs().args(["target", "pause"]).succeed();
    is_told(221);
    fixture.doppelfs().args(["target", "resume"]).succeed();
    is_told(222);
    kill_worker(fixture.set().worker_pid());
    is_told(141);
    until("the next worker", || {
        fixture.find_set().is_some_and(|set| set.state() == "ok")
    });
    fixture.finish();
}
