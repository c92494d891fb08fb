//! Goal: programs run from the mount as from the file system below, and a running program cannot be
//! overwritten. Method: the same steps on a plain directory and through a mount beside it; what each
//! step said is compared, and with what execve(2) and open(2) promise.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Fixture, Image, has_programs, is_ready, program, until};

// Files that are run are written by other processes: a descriptor of this one is for a moment also that
// of every child which another test starts, and would make them busy.

fn install(from: &str, to: &Path, mode: u32) {
    program("cp").arg(from).arg(to).succeed();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn said<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "works".to_owned(),
        Err(e) => format!(
            "{:?}",
            nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0))
        ),
    }
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    fn start(path: &Path) -> Running {
        let child = when_closed(|| Command::new(path).arg("1000").stdin(Stdio::null()).spawn());
        Running(child.expect("start a program"))
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `start` gives when no child of another test has a writer's descriptor any more.
fn when_closed<T>(mut start: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let mut last = start();
    until("nobody to have it open to write", || {
        let is_busy = matches!(&last, Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy);
        if is_busy {
            last = start();
        }
        !is_busy
    });
    last
}

fn run_once(path: &Path) -> std::io::Result<std::process::Output> {
    Command::new(path).arg("0").stdin(Stdio::null()).output()
}

fn run(path: &Path) -> std::io::Result<std::process::Output> {
    when_closed(|| run_once(path))
}

fn write(path: &Path, text: &str) {
    let script = "printf '%b' \"$1\" > \"$2\"";
    program("sh")
        .args(["-c", script, "sh", text])
        .arg(path)
        .succeed();
}

/// What a user without rights gets from a program.
fn as_nobody(path: &Path, args: &[&str]) -> String {
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let ended = program("setpriv").args(user).arg(path).args(args).run();
    ended.stdout.trim().to_owned()
}

/// All steps in `dir`, which is empty.
fn steps(dir: &Path) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut say = |step: &'static str, said: String| all.push((step, said));
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let sleep = dir.join("sleep");
    install("/bin/sleep", &sleep, 0o755);
    let whole = std::fs::read(&sleep).expect("read");

    let mut running = Running::start(&sleep);
    let open = |options: &mut std::fs::OpenOptions| said(options.open(&sleep));
    say(
        "open to write while it runs",
        open(File::options().write(true)),
    );
    say(
        "open to read and write",
        open(File::options().read(true).write(true)),
    );
    say("open to append", open(File::options().append(true)));
    say(
        "open to truncate",
        open(File::options().write(true).truncate(true)),
    );
    say(
        "truncate",
        said(nix::unistd::truncate(&sleep, 0).map_err(std::io::Error::from)),
    );
    say("open to read", open(File::options().read(true)));
    let is_whole = std::fs::read(&sleep).expect("read") == whole;
    say(
        "it is as it was",
        format!("{is_whole}, runs {}", running.is_alive()),
    );
    let twin = dir.join("twin");
    std::fs::hard_link(&sleep, &twin).expect("link");
    say(
        "open its other name to write",
        said(File::options().write(true).open(&twin)),
    );
    std::fs::remove_file(&sleep).expect("unlink");
    say("removed, it runs on", running.is_alive().to_string());
    say("a second from its other name", said(run(&twin)));
    drop(running);
    say(
        "open to write when it has ended",
        said(File::options().write(true).open(&twin)),
    );

    let writer = File::options().write(true).open(&twin).expect("open");
    say("run while it is open to write", said(run_once(&twin)));
    drop(writer);
    say("run when it is closed", said(run(&twin)));
    let mut running = Running::start(&twin);
    install("/bin/sleep", &dir.join("new"), 0o755);
    std::fs::rename(dir.join("new"), &twin).expect("rename");
    say("replaced, it runs on", running.is_alive().to_string());
    say("what replaced it runs", said(run(&twin)));
    drop(running);

    install("/usr/bin/id", &dir.join("id"), 0o4755);
    say("set-user-id", as_nobody(&dir.join("id"), &["-u"]));
    install("/usr/bin/id", &dir.join("gid"), 0o2755);
    nix::unistd::chown(&dir.join("gid"), None, Some(nix::unistd::Gid::from_raw(12)))
        .expect("chown");
    let mode = std::fs::Permissions::from_mode(0o2755);
    std::fs::set_permissions(dir.join("gid"), mode).expect("chmod");
    say("set-group-id", as_nobody(&dir.join("gid"), &["-g"]));
    install("/bin/grep", &dir.join("caps"), 0o755);
    let caps = dir.join("caps");
    program("setfattr")
        .args([
            "-n",
            "security.capability",
            "-v",
            "0x0100000200200000000000000000000000000000",
        ])
        .arg(&caps)
        .succeed();
    say(
        "file capabilities",
        as_nobody(&caps, &["CapEff", "/proc/self/status"]),
    );
    write(&dir.join("script"), r"#!/bin/sh\necho $0 | sed 's,.*/,,'\n");
    let script = dir.join("script");
    say("a script without x", said(run(&script)));
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o711)).expect("chmod");
    say(
        "a script that the user cannot read",
        as_nobody(&script, &[]),
    );
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    say("a script", as_nobody(&script, &[]));
    write(&dir.join("own"), &format!("#!{}\\n", caps.display()));
    std::fs::set_permissions(dir.join("own"), std::fs::Permissions::from_mode(0o755))
        .expect("chmod");
    say(
        "a script whose interpreter lies here",
        said(run(&dir.join("own"))),
    );
    write(&dir.join("junk"), r"\x7fELFjunk");
    std::fs::set_permissions(dir.join("junk"), std::fs::Permissions::from_mode(0o755))
        .expect("chmod");
    say("a broken program", said(run(&dir.join("junk"))));
    install("/bin/true", &dir.join("closed"), 0o111);
    say("a program that only runs", said(run(&dir.join("closed"))));
    all
}

/// What execve(2), open(2) and truncate(2) promise.
const PROMISED: [(&str, &str); 12] = [
    ("open to write while it runs", "ETXTBSY"),
    ("open to read and write", "ETXTBSY"),
    ("open to append", "ETXTBSY"),
    ("open to truncate", "ETXTBSY"),
    ("truncate", "ETXTBSY"),
    ("it is as it was", "true, runs true"),
    ("open its other name to write", "ETXTBSY"),
    ("removed, it runs on", "true"),
    ("run while it is open to write", "ETXTBSY"),
    ("set-user-id", "0"),
    ("set-group-id", "12"),
    ("file capabilities", "CapEff:\t0000000000002000"),
];

fn run_alike(test: &str, kind: &str) {
    if !is_ready(test) || !has_programs(test, &["setpriv", "setfattr"]) {
        return;
    }
    let Some(image) = Image::new(test, kind, 512) else {
        return;
    };
    let mut fixture = Fixture::on(kind, image.path());
    fixture.start();
    let beside = image.path().join("beside");
    let through = fixture.path("dir");
    for dir in [&beside, &through] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    let (expected, seen) = (steps(&beside), steps(&through));
    assert_eq!(seen, expected);
    for (step, promised) in PROMISED {
        let found = seen.iter().find(|(name, _)| *name == step);
        assert_eq!(
            found.map(|(_, said)| said.as_str()),
            Some(promised),
            "{step}"
        );
    }
    fixture.finish();
}

#[test]
fn programs_run_from_ext4() {
    run_alike("programs_run_from_ext4", "ext4");
}

#[test]
fn programs_run_from_xfs() {
    run_alike("programs_run_from_xfs", "xfs");
}

#[test]
fn programs_run_from_btrfs() {
    run_alike("programs_run_from_btrfs", "btrfs");
}
