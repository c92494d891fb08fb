//! Goal: bad input around the target is refused or reported with one clear message; the source
//! serves whatever happens there. Method: each bad thing once; keywords of message or status.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::support::{
    Fixture, Scratch, Target, doppelfs, free_port, is_ready, program, random_bytes, seed, until,
};

/// First bytes of every connection.
const MAGIC: &[u8] = b"DPFS";

/// Longer than the target waits for a handshake.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Sends `bytes` to the target's port and reads until it closes the connection.
fn talk(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    stream
        .set_read_timeout(Some(ANSWER_MAX))
        .expect("set a timeout");
    // The other side may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    if let Err(e) = stream.read_to_end(&mut answer) {
        assert_ne!(
            e.kind(),
            std::io::ErrorKind::WouldBlock,
            "the target never hung up"
        );
    }
    String::from_utf8_lossy(&answer).to_lowercase()
}

/// The source serves, and its status says `words`.
fn assert_complains(fixture: &Fixture, words: &[&str]) {
    std::fs::write(fixture.path("served"), b"anyhow").expect("the source serves");
    until(&format!("status to say {words:?}"), || {
        let said = fixture.set().complaints();
        words.iter().all(|word| said.contains(word))
    });
}

#[test]
fn another_protocol_version_is_refused_by_name() {
    if !is_ready("another_protocol_version_is_refused_by_name") {
        return;
    }
    let mut fixture = Fixture::started("version");
    let mut hello = MAGIC.to_vec();
    hello.extend_from_slice(&0x7fffu16.to_le_bytes());
    hello.extend_from_slice(&[0; 64]);
    let answer = talk(fixture.target.port(), &hello);
    assert!(answer.contains("version"), "{answer:?}");
    assert!(fixture.target.is_running());
    std::fs::write(fixture.path("file"), b"goes on").expect("write");
    fixture.finish();
}

#[test]
fn random_bytes_to_the_port_harm_nothing() {
    let test = "random_bytes_to_the_port_harm_nothing";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::started("random-bytes");
    let (seed, port) = (seed(test), fixture.target.port());
    for round in 0..10 {
        talk(port, &random_bytes(seed + round, 8 << 10));
    }
    // The right beginning, then nonsense: lengths are not to be believed.
    for (round, version) in (0..5u16).zip([1u16, 1, 1, 2, 0]) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend_from_slice(&random_bytes(seed + u64::from(round), 8 << 10));
        talk(port, &bytes);
    }
    assert!(fixture.target.is_running());
    std::fs::write(fixture.path("file"), b"goes on").expect("write");
    fixture.finish();
}

#[test]
fn a_target_that_does_not_answer_is_named_in_status() {
    if !is_ready("a_target_that_does_not_answer_is_named_in_status") {
        return;
    }
    let run = Scratch::new("unreachable");
    let (data, state) = (run.path().join("data"), run.path().join("state"));
    std::fs::create_dir(&data).expect("mkdir");
    let target = format!("127.0.0.1:{}", free_port());
    doppelfs(run.path())
        .arg("mount")
        .arg(&data)
        .args([
            "--set",
            "data",
            "--insecure-loopback",
            "--target",
            &target,
            "--state",
        ])
        .arg(&state)
        .succeed();
    std::fs::write(data.join("file"), b"served").expect("write");
    until("status to name the target", || {
        let status = doppelfs(run.path()).args(["status", "--json"]).run().stdout;
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let error = status
            .pointer("/sets/0/connections/0/error")
            .and_then(|e| e.as_str());
        error.is_some_and(|error| error.contains(&target) || error.contains("refused"))
    });
    let status = doppelfs(run.path()).args(["status", "data"]).run();
    assert!(status.stdout.contains(&target), "{status:?}");
    doppelfs(run.path()).arg("umount").arg(&data).succeed();
}

fn serve_at(
    scratch: &Scratch,
    root: &Path,
    listen: &str,
    flags: &[&str],
) -> crate::support::Finished {
    doppelfs(scratch.path())
        .args(["target", "serve", "--listen", listen, "--root"])
        .arg(root)
        .arg("--state")
        .arg(scratch.path().join("target-state"))
        .args(flags)
        .deadline(Duration::from_secs(20))
        .run()
}

#[test]
fn a_target_root_that_does_not_exist_is_refused() {
    let scratch = Scratch::new("no-root");
    let root = scratch.path().join("absent");
    let listen = format!("127.0.0.1:{}", free_port());
    serve_at(&scratch, &root, &listen, &["--insecure-loopback"])
        .expect_code(2)
        .expect_words(&["absent"]);
    assert!(!root.exists(), "the root was made");
}

#[test]
fn a_target_root_that_is_a_file_is_refused() {
    let scratch = Scratch::new("file-root");
    let root = scratch.path().join("file");
    std::fs::write(&root, b"").expect("write");
    let listen = format!("127.0.0.1:{}", free_port());
    serve_at(&scratch, &root, &listen, &["--insecure-loopback"])
        .expect_code(2)
        .expect_words(&["file", "directory"]);
}

#[test]
fn plain_tcp_on_other_addresses_is_refused() {
    let scratch = Scratch::new("any-address");
    let listen = format!("0.0.0.0:{}", free_port());
    serve_at(&scratch, scratch.path(), &listen, &["--insecure-loopback"])
        .expect_code(2)
        .expect_words(&["loopback"]);
}

#[test]
fn a_port_in_use_is_named() {
    if !is_ready("a_port_in_use_is_named") {
        return;
    }
    let scratch = Scratch::new("port");
    let mut target = Target::new(scratch.path(), scratch.path());
    target.start();
    let second = Scratch::new("port-second");
    let listen = format!("127.0.0.1:{}", target.port());
    let root = second.path().join("root");
    std::fs::create_dir(&root).expect("mkdir");
    serve_at(&second, &root, &listen, &["--insecure-loopback"])
        .expect_code(2)
        .expect_words(&[&target.port().to_string()]);
    target.stop();
}

#[test]
fn a_mirror_path_inside_its_source_is_refused_and_the_mount_serves() {
    if !is_ready("a_mirror_path_inside_its_source_is_refused_and_the_mount_serves") {
        return;
    }
    let base = Scratch::new("inside");
    // The fixture puts data at `data` and replicas at `replicas`; here both are one.
    let data = base.path().join("data");
    std::fs::create_dir(&data).expect("mkdir");
    let mut target = Target::new(base.path(), &data);
    let (state, log_dir) = (base.path().join("state"), base.path().join("aside"));
    std::fs::create_dir(log_dir).expect("mkdir");
    target.start();
    let address = format!("127.0.0.1:{}:mirror", target.port());
    doppelfs(base.path())
        .arg("mount")
        .arg(&data)
        .args([
            "--set",
            "data",
            "--insecure-loopback",
            "--target",
            &address,
            "--state",
        ])
        .arg(&state)
        .succeed();
    std::fs::write(data.join("file"), b"served").expect("write");
    until("status to say that the mirror path is inside", || {
        let status = doppelfs(base.path())
            .args(["status", "--json"])
            .run()
            .stdout;
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let error = status
            .pointer("/sets/0/connections/0/error")
            .and_then(|e| e.as_str());
        error.is_some_and(|error| error.contains("inside"))
    });
    target.kill();
    doppelfs(base.path()).arg("umount").arg(&data).succeed();
}

#[test]
fn a_full_target_is_reported_and_goes_on_when_there_is_room() {
    if !is_ready("a_full_target_is_reported_and_goes_on_when_there_is_room") {
        return;
    }
    let mut fixture = Fixture::new("full");
    let replicas = fixture.target.root().to_path_buf();
    let tmpfs = |options: &str| {
        program("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&replicas)
            .succeed();
    };
    tmpfs("size=8m");
    fixture.start();
    std::fs::write(fixture.path("large"), random_bytes(4, 12 << 20)).expect("write");
    assert_complains(&fixture, &["space"]);
    assert_eq!(fixture.connection().target_state(), "retrying");
    tmpfs("remount,size=64m");
    fixture.assert_equal();
    fixture.umount();
    fixture.target.stop();
    doppelfs::sys::umount(&replicas, false).expect("umount the tmpfs");
}

#[test]
fn a_read_only_target_is_reported_and_goes_on_when_it_is_writable() {
    if !is_ready("a_read_only_target_is_reported_and_goes_on_when_it_is_writable") {
        return;
    }
    let mut fixture = Fixture::new("read-only");
    let replicas = fixture.target.root().to_path_buf();
    let tmpfs = |options: &str| {
        program("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&replicas)
            .succeed();
    };
    tmpfs("size=64m");
    fixture.target.start();
    tmpfs("remount,ro,size=64m");
    fixture.mount();
    assert_complains(&fixture, &["read-only"]);
    tmpfs("remount,rw,size=64m");
    fixture.assert_equal();
    fixture.umount();
    fixture.target.stop();
    doppelfs::sys::umount(&replicas, false).expect("umount the tmpfs");
}

#[test]
fn a_replica_path_that_is_a_file_is_reported() {
    if !is_ready("a_replica_path_that_is_a_file_is_reported") {
        return;
    }
    let mut fixture = Fixture::new("replica-file");
    std::fs::write(fixture.replica(""), b"in the way").unwrap_or_else(|_| {
        let path = fixture.target.root().join("mirror");
        std::fs::write(path, b"in the way").expect("write");
    });
    fixture.target.start();
    fixture.mount();
    assert_complains(&fixture, &["directory"]);
}
