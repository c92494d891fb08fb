//! Goal: a mount that lives on in somebody else's mount namespace is explained. Method: a process in a
//! private namespace of its own keeps a copy of the mount.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Fixture, has_programs, is_ready, program, until};

#[test]
fn an_umount_names_who_keeps_the_mount_in_another_namespace() {
    let test = "an_umount_names_who_keeps_the_mount_in_another_namespace";
    if !is_ready(test) || !has_programs(test, &["unshare"]) {
        return;
    }
    let fixture = Fixture::started(test);
    let worker = fixture.set().worker_pid();
    let mut other = program("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "1000"])
        .spawn(&fixture.outside("other.log"));
    let pid = other.id();
    until("the other namespace", || {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
        of(&pid.to_string()).is_some_and(|theirs| Some(theirs) != of("self"))
    });
    fixture
        .doppelfs()
        .args(["umount", "--timeout", "1"])
        .arg(fixture.path(""))
        .deadline(Duration::from_secs(60))
        .run()
        .expect_code(2)
        .expect_words(&["mount namespace", &pid.to_string(), "sleep"]);
    assert!(!fixture.is_mounted());
    kill(
        Pid::from_raw(i32::try_from(pid).expect("a pid")),
        Signal::SIGKILL,
    )
    .expect("kill");
    other.wait().expect("wait");
    until("the worker to end with the last mount", || {
        !std::path::Path::new(&format!("/proc/{worker}")).exists()
    });
    fixture.mount();
    fixture.finish();
}
