//! Goal: what README says about two hosts works as it is written there, and what is wrong is told on both
//! sides. Method: the program's own commands, real processes.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Fixture, doppelfs, is_ready, until};

fn peers(fixture: &Fixture) -> Value {
    let listed = fixture
        .doppelfs()
        .args(["peers", "list", "--json", "--keys"])
        .arg(fixture.keys_dir())
        .succeed();
    serde_json::from_str(&listed.stdout).expect("JSON")
}

fn refusals(fixture: &Fixture) -> String {
    let peers = peers(fixture);
    let refusals = peers.pointer("/targets/0/report/refusals");
    refusals.map(ToString::to_string).unwrap_or_default()
}

fn invite(fixture: &Fixture, flags: &[&str]) -> String {
    let invited = fixture
        .doppelfs()
        .args(["target", "invite"])
        .args(flags)
        .succeed();
    invited.stdout.trim().to_owned()
}

fn pair(fixture: &Fixture, token: &str, keys: &str) -> crate::support::Finished {
    fixture
        .doppelfs()
        .args(["pair", &fixture.endpoint(), token, "--keys"])
        .arg(fixture.outside(keys))
        .run()
}

#[test]
fn a_paired_source_is_encrypted_and_listed_on_both_sides() {
    if !is_ready("a_paired_source_is_encrypted_and_listed_on_both_sides") {
        return;
    }
    let fixture = Fixture::started("paired");
    let status = fixture.doppelfs().arg("status").succeed();
    assert!(status.stdout.contains("TLS 1.3"), "{}", status.stdout);
    let peers = peers(&fixture);
    let source = peers.pointer("/targets/0/report/peers/0").expect("a peer");
    assert_eq!(source["connected"][0], "data", "{source}");
    let key = peers.pointer("/source/key").expect("a key");
    assert_eq!(&source["keys"][0], key);
    let endpoint = peers.pointer("/source/targets/0/endpoint");
    assert_eq!(
        endpoint.and_then(Value::as_str),
        Some(fixture.endpoint().as_str())
    );
    std::fs::write(fixture.path("file"), b"x").expect("write");
    fixture.finish();
}

#[test]
fn a_bad_token_is_refused_in_clear_words_on_both_sides() {
    if !is_ready("a_bad_token_is_refused_in_clear_words_on_both_sides") {
        return;
    }
    let mut fixture = Fixture::new("bad-tokens");
    fixture.target.start();
    let token = invite(&fixture, &[]);
    // A letter is another one: found without asking anybody.
    let last = if token.ends_with('a') { "b" } else { "a" };
    let altered = format!("{}{last}", &token[..token.len() - 1]);
    pair(&fixture, &altered, "keys")
        .expect_code(2)
        .expect_words(&["altered", "copy it again"]);
    pair(&fixture, &token[..40], "keys")
        .expect_code(2)
        .expect_words(&["not whole"]);
    pair(&fixture, "hello", "keys")
        .expect_code(2)
        .expect_words(&["no token", "target invite"]);
    // Used once, and then by another.
    pair(&fixture, &token, "keys").expect_code(0);
    pair(&fixture, &token, "other-keys")
        .expect_code(2)
        .expect_words(&["was used", "target invite"]);
    until("the target to tell", || {
        refusals(&fixture).contains("was used")
    });
    // Expired.
    let short = invite(&fixture, &["--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1100));
    pair(&fixture, &short, "other-keys")
        .expect_code(2)
        .expect_words(&["has expired", "target invite"]);
    until("the target to tell", || {
        refusals(&fixture).contains("has expired")
    });
    let log = fixture.target.log();
    assert!(
        log.contains("was used") && log.contains("has expired"),
        "{log}"
    );
    // No secret is in log or lists.
    let said = format!("{log} {}", peers(&fixture));
    for token in [&token, &short] {
        assert!(!said.contains(&token[20..]), "a token was told");
    }
}

#[test]
fn a_revoked_source_is_cut_off_and_status_says_why() {
    if !is_ready("a_revoked_source_is_cut_off_and_status_says_why") {
        return;
    }
    let fixture = Fixture::started("revoked");
    let name = peers(&fixture)
        .pointer("/targets/0/report/peers/0/name")
        .and_then(Value::as_str)
        .expect("a name")
        .to_owned();
    fixture
        .doppelfs()
        .args(["peers", "revoke", &name])
        .succeed();
    until("status to say so", || {
        let said = fixture.set().complaints();
        said.contains("revoked") && said.contains("doppelfs pair")
    });
    std::fs::write(fixture.path("late"), b"x").expect("the source serves");
    // Invited once more, it goes on where it was.
    let token = invite(&fixture, &["--path", "mirror"]);
    pair(&fixture, &token, "keys").expect_code(0);
    fixture.finish();
}

#[test]
fn both_keys_can_be_changed_under_load() {
    if !is_ready("both_keys_can_be_changed_under_load") {
        return;
    }
    let fixture = Fixture::started("rekey");
    let key = |peers: &Value, at: &str| peers.pointer(at).map(ToString::to_string);
    let before = peers(&fixture);
    std::fs::write(fixture.path("a"), b"x").expect("write");
    fixture
        .doppelfs()
        .args(["peers", "rotate-key", "--keys"])
        .arg(fixture.keys_dir())
        .succeed();
    std::fs::write(fixture.path("b"), b"x").expect("write");
    fixture.caught_up();
    let after = peers(&fixture);
    assert_ne!(key(&before, "/source/key"), key(&after, "/source/key"));
    fixture.doppelfs().args(["target", "rotate-key"]).succeed();
    fixture
        .doppelfs()
        .args(["target", "rotate-key", "--finish"])
        .run()
        .expect_code(2)
        .expect_words(&["have not been told", "--force"]);
    // A connection that begins anew is told.
    fixture.doppelfs().args(["restart", "data"]).succeed();
    until("the source to be told", || {
        let peers = peers(&fixture);
        let knows = peers.pointer("/targets/0/report/peers/0/knows_next_key");
        knows == Some(&Value::Bool(true))
    });
    fixture
        .doppelfs()
        .args(["target", "rotate-key", "--finish"])
        .succeed();
    let last = peers(&fixture);
    let at = "/targets/0/report/key";
    assert_ne!(key(&after, at), key(&last, at));
    fixture.doppelfs().args(["restart", "data"]).succeed();
    std::fs::write(fixture.path("c"), b"x").expect("write");
    fixture.finish();
}

#[test]
fn a_quota_holds_the_stream_until_it_is_raised() {
    if !is_ready("a_quota_holds_the_stream_until_it_is_raised") {
        return;
    }
    let mut fixture = Fixture::new("quota");
    fixture.target.start();
    let token = invite(
        &fixture,
        &[
            "--path",
            "mirror",
            "--quota-bytes",
            "8M",
            "--quota-files",
            "100",
        ],
    );
    pair(&fixture, &token, "keys").expect_code(0);
    fixture.set_paired();
    fixture.mount();
    fixture.caught_up();
    std::fs::write(fixture.path("large"), vec![7; 16 << 20]).expect("the source serves");
    until("the quota to be told", || {
        let said = fixture.set().complaints();
        said.contains("quota of 8.0 mib") && said.contains("peers set")
    });
    let listed = peers(&fixture);
    let used = listed.pointer("/targets/0/report/peers/0/used_bytes");
    let used = used.and_then(Value::as_u64).expect("what is used");
    assert!((4 << 20..10 << 20).contains(&used), "{used}");
    let name = listed.pointer("/targets/0/report/peers/0/name");
    let name = name.and_then(Value::as_str).expect("a name");
    fixture
        .doppelfs()
        .args(["peers", "set", name, "--quota-bytes", "64M"])
        .succeed();
    fixture.caught_up();
    for number in 0..120 {
        std::fs::write(fixture.path(format!("file-{number}")), b"x").expect("write");
    }
    until("the quota of files to be told", || {
        fixture.set().complaints().contains("quota of 100 files")
    });
    fixture
        .doppelfs()
        .args(["peers", "set", name, "--quota-files", "unlimited"])
        .succeed();
    fixture.finish();
}

#[test]
fn a_token_is_not_in_the_process_list() {
    if !is_ready("a_token_is_not_in_the_process_list") {
        return;
    }
    let mut fixture = Fixture::new("process-list");
    fixture.target.start();
    let token = invite(&fixture, &[]);
    // Somebody listens who never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let endpoint = silent.local_addr().expect("an address").to_string();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_doppelfs"))
        .args(["pair", &endpoint, &token, "--keys"])
        .arg(fixture.outside("keys"))
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    // It speaks when it has read its arguments.
    let _peer = silent.accept().expect("accept");
    let shown = std::fs::read(format!("/proc/{}/cmdline", child.id())).expect("read");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(
        shown.contains("pair") && shown.contains(&endpoint),
        "{shown}"
    );
    assert!(!shown.contains(&token[5..]), "{shown}");
}

#[test]
fn a_target_that_is_another_one_now_is_told_apart() {
    if !is_ready("a_target_that_is_another_one_now_is_told_apart") {
        return;
    }
    let mut fixture = Fixture::started("other-key");
    std::fs::write(fixture.path("file"), b"x").expect("write");
    fixture.caught_up();
    fixture.target.stop();
    // Set up anew: with a key of its own.
    std::fs::remove_file(fixture.target.state().join("key")).expect("remove");
    fixture.target.start();
    until("status to say so", || {
        let said = fixture.set().complaints();
        said.contains("another key answers") && said.contains("pair")
    });
    let told = doppelfs(fixture.run_dir())
        .args(["peers", "list"])
        .succeed();
    assert!(told.stdout.contains("refused"), "{}", told.stdout);
    fixture.pair();
    fixture.finish();
}
