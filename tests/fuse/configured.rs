//! Goal: a configured set is mounted by its name, and what its file says later reaches the next worker, as
//! far as a mount can take it. Method: a set with a file, no target at first, then one.

use std::path::Path;

use crate::support::{Finished, Fixture, is_ready};

const NAME: &str = "data";

/// Writes the set's file; `config` is the configuration directory.
fn configure(fixture: &Fixture, config: &Path, more: &str) {
    let text = format!(
        "path = {:?}\nstate = {:?}\n{more}",
        fixture.path(""),
        fixture.state_dir()
    );
    std::fs::create_dir_all(config.join("sets.d")).expect("make a directory");
    std::fs::write(config.join("sets.d").join(format!("{NAME}.toml")), text).expect("write");
}

fn run(fixture: &Fixture, config: &Path, words: &[&str]) -> Finished {
    let program = fixture.doppelfs().env("DOPPELFS_CONFIG_DIR", config);
    program.args(words).run()
}

#[test]
fn a_configured_set_is_mounted_by_name_and_restarted_with_what_its_file_says() {
    let test = "a_configured_set_is_mounted_by_name_and_restarted_with_what_its_file_says";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::new("configured");
    let config = fixture.outside("etc");
    configure(&fixture, &config, "queue-memory = \"64M\"\n");
    fixture.target.start();
    run(&fixture, &config, &["set", "check", NAME]).expect_code(0);
    run(&fixture, &config, &["mount", NAME, "--queue-alert", "60%"]).expect_code(0);
    assert!(fixture.is_mounted());
    std::fs::write(fixture.path("before"), "before").expect("write");
    let held = std::fs::File::open(fixture.path("before")).expect("open");

    // A mistake replaces nothing.
    let worker = |fixture: &Fixture| fixture.supervision().expect("told")["worker_pid"].clone();
    let first = worker(&fixture);
    configure(&fixture, &config, "quene-memory = \"64M\"\n");
    run(&fixture, &config, &["restart", NAME])
        .expect_code(2)
        .expect_words(&["data.toml:3:1", "did you mean"]);
    assert_eq!(worker(&fixture), first);

    // A target, and what only another mount can have; the command line of the mount stays above the file.
    let target = format!(
        "targets = [\"{}:mirror\"]\ninsecure-loopback = true\nqueue-alert = \"70%\"\nread-only = true\n",
        fixture.endpoint()
    );
    configure(&fixture, &config, &target);
    let told = run(&fixture, &config, &["restart", NAME, "--json"]).expect_code(0);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
    let keys = |list: &str| -> Vec<String> {
        let list = told[list].as_array().expect("a list");
        let keys = list.iter().map(|change| change["key"].as_str());
        keys.map(|key| key.expect("a key").to_owned()).collect()
    };
    assert_eq!(
        keys("changed"),
        ["targets", "insecure-loopback", "queue-memory"]
    );
    assert_eq!(keys("waiting"), ["read-only"]);
    assert_ne!(worker(&fixture), first);
    assert_eq!(std::io::read_to_string(held).expect("read"), "before");
    std::fs::write(fixture.path("after"), "after").expect("still writable");
    fixture.caught_up();

    // A worker that is killed is followed by one with the options of now, whatever the file says by then.
    configure(&fixture, &config, "path = \n");
    let second = worker(&fixture)
        .as_u64()
        .and_then(|pid| i32::try_from(pid).ok());
    let second = nix::unistd::Pid::from_raw(second.expect("its process"));
    nix::sys::signal::kill(second, nix::sys::signal::Signal::SIGKILL).expect("kill");
    std::fs::write(fixture.path("later"), "later").expect("write");
    fixture.caught_up();
    std::fs::remove_file(config.join("sets.d/data.toml")).expect("remove");
    run(&fixture, &config, &["restart", NAME])
        .expect_code(2)
        .expect_words(&["is gone", "--keep-options"]);
    run(&fixture, &config, &["restart", NAME, "--keep-options"]).expect_code(0);
    fixture.caught_up();
    fixture.assert_equal();
    run(&fixture, &config, &["umount", NAME]).expect_code(0);
    assert!(!fixture.is_mounted());
    assert!(!fixture.run_dir().join("data.options").exists());
}
