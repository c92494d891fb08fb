//! Goal: a secret on the command line or in the environment is gone from the process list when it has been
//! hidden. Method: this program again, as a child, whose `/proc` entries are read before and after.

use doppelfs::sys;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const TOKEN: &str = "tok-4f1d-very-secret";
const VARIABLE: &str = "DOPPELFS_TOKEN";

/// The child: does nothing among the other tests.
#[test]
fn child_that_hides_its_token() {
    let Ok(token) = std::env::var(VARIABLE) else {
        return;
    };
    let mut line = String::new();
    println!("\nready");
    std::io::stdin().read_line(&mut line).unwrap();
    // Twice on the command line, once in the environment.
    let hidden = sys::hide_argument(token.as_bytes()).unwrap();
    println!("\nhidden {hidden}");
    std::io::stdin().read_line(&mut line).unwrap();
    // What was copied before is good, and nothing else has gone.
    assert_eq!(token, TOKEN);
    assert_eq!(std::env::var("DOPPELFS_BESIDE").unwrap(), "stays");
}

#[test]
fn a_hidden_token_is_gone_from_the_process_list() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child_that_hides_its_token", "--nocapture"]);
    child
        .args(["--skip", TOKEN, "--skip"])
        .arg(format!("token={TOKEN}"));
    child.env(VARIABLE, TOKEN).env("DOPPELFS_BESIDE", "stays");
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut hear = |word: &str| {
        let line = said.find(|line| line.as_ref().is_ok_and(|line| line.starts_with(word)));
        line.expect("the child ended").unwrap()
    };
    let pid = child.id();
    let shown = |file: &str| {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    };
    hear("ready");
    assert_eq!(shown("cmdline").matches(TOKEN).count(), 2);
    assert_eq!(shown("environ").matches(TOKEN).count(), 1);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(hear("hidden"), "hidden 3");
    let (words, variables) = (shown("cmdline"), shown("environ"));
    assert!(!words.contains("very-secret"), "{words}");
    assert!(!variables.contains("very-secret"));
    // Only that: the rest is what it was.
    assert!(
        words.contains("--nocapture") && words.contains("token=xxx"),
        "{words}"
    );
    assert!(variables.contains("DOPPELFS_BESIDE=stays"));
    stdin.write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(sys::hide_argument(b"").unwrap(), 0);
}
