//! Tests that need the whole machine: a network with the well-known ports free, a `/run` of their
//! own, and an end of all that they started.

use super::command::program;
use super::has_programs;
use super::settings::patience;

/// Set in the process that runs inside.
const INSIDE: &str = "DOPPELFS_ISOLATED";

/// Runs `body` in another process of this program, in namespaces of its own for network, mounts and
/// processes. What is left running or mounted at its end goes with them.
#[track_caller]
pub(crate) fn isolated(module: &str, test: &str, body: fn(&str)) {
    if std::env::var_os(INSIDE).is_some() {
        program("ip").args(["link", "set", "lo", "up"]).succeed();
        let mount = program("mount").args(["-t", "tmpfs", "tmpfs", "/run"]);
        mount.succeed();
        return body(test);
    }
    if !has_programs(test, &["unshare", "ip", "mount"]) {
        return;
    }
    let module = module.split_once("::").map_or(module, |(_, module)| module);
    let name = format!("{module}::{test}");
    let me = std::env::current_exe().expect("the path of this program");
    let ended = program("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
        .arg("--mount-proc")
        .arg(me)
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .deadline(patience() * 4)
        .run();
    eprint!("{}", ended.stderr);
    let ended = ended.expect_code(0);
    assert!(ended.stdout.contains("1 passed"), "{ended:?}");
}
