//! Goal: what a confined process is refused and what goes on. Method: each case runs with and without
//! confinement, to show that what is refused is refused by the confinement.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use doppelfs::confine::{Wish, refused_calls};
use doppelfs::sys;
use doppelfs::sys::{CallRule, When};

use crate::confine_calls as calls;
use crate::confine_child::{
    CASE, confine_in, is_ready, run, run_well, run_with, scratch, tell, told,
};

/// Calls that would harm the machine or us where nobody refuses them.
fn is_harmful(number: libc::c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    let forks = [libc::SYS_fork, libc::SYS_vfork];
    #[cfg(not(target_arch = "x86_64"))]
    let forks = [];
    number == libc::SYS_vhangup || forks.contains(&number)
}

fn is_unconditional(rule: &&CallRule) -> bool {
    matches!(rule.when, When::Always)
}

pub fn calls_are_told(dir: &Path) {
    let confined = std::env::var(CASE).unwrap().ends_with("confined");
    for rule in refused_calls().iter().filter(is_unconditional) {
        if confined || !is_harmful(rule.number) {
            tell(
                &format!("call {}", rule.number),
                calls::nonsense(rule.number),
            );
        }
    }
    let flags = nix::mount::MsFlags::MS_BIND;
    let nothing = None::<&str>;
    let (root, state) = (dir.join("root"), dir.join("state"));
    let bound = nix::mount::mount(Some(&root), &state, nothing, flags, nothing);
    if bound.is_ok() {
        sys::umount(&state, true).unwrap();
    }
    tell("mount", bound.map_err(io::Error::from));
    tell("program", Command::new("/bin/true").status());
    tell("process", calls::clone_process(0));
    tell(
        "network namespace",
        calls::clone_process(libc::CLONE_NEWNET),
    );
    tell("user namespace", calls::clone_process(libc::CLONE_NEWUSER));
    for (name, family, kind) in [
        ("packet", libc::AF_PACKET, libc::SOCK_RAW),
        ("netlink", libc::AF_NETLINK, libc::SOCK_RAW),
        ("inet", libc::AF_INET, libc::SOCK_STREAM),
        ("inet6", libc::AF_INET6, libc::SOCK_DGRAM),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET),
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM),
    ] {
        tell(&format!("socket {name}"), calls::socket(family, kind));
    }
    let input = fs::File::open("/dev/null").unwrap();
    tell("TIOCSTI", calls::ioctl(input.as_fd(), libc::TIOCSTI));
    let (read, write, run) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    tell("writable code", calls::map_page(read | write | run, false));
    tell("code later", calls::map_page(read | write, true));
    // What has to go on.
    tell("kept unix", calls::socket(libc::AF_UNIX, libc::SOCK_DGRAM));
    tell("kept memory", calls::map_page(read | write, false));
    tell("kept code", calls::map_page(read | run, false));
    let thread = std::thread::Builder::new().spawn(|| calls::socket(libc::AF_INET, 1));
    tell(
        "kept thread",
        thread
            .as_ref()
            .map(drop)
            .map_err(|e| io::Error::from(e.kind())),
    );
    tell("socket of a thread", thread.unwrap().join().unwrap());
    tell("kept file", fs::write(dir.join("root/file"), "text"));
}

/// What no target may ever be allowed, whatever becomes of the list.
const NEVER: [libc::c_long; 30] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_settimeofday,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_io_uring_setup,
    libc::SYS_quotactl,
    libc::SYS_personality,
    libc::SYS_connect,
];

#[test]
fn what_no_target_may_is_on_the_list() {
    let rules = refused_calls();
    let refused = |number| {
        let of = rules.iter().filter(is_unconditional);
        of.clone().any(|rule| rule.number == number)
    };
    let gone: Vec<_> = NEVER.iter().filter(|number| !refused(**number)).collect();
    assert!(gone.is_empty(), "not refused any more: {gone:?}");
}

#[test]
fn refused_calls_fail_and_are_made_without_confinement() {
    if !is_ready("refused_calls_fail_and_are_made_without_confinement") {
        return;
    }
    let scratch = scratch("confine-calls");
    let free = run_well("calls", scratch.path());
    let confined = run_well("calls confined", scratch.path());
    let clone3 = format!("call {}", libc::SYS_clone3);
    let mut shown = 0;
    for (name, what) in &confined {
        let without = free.iter().find(|(other, _)| other == name);
        let without = without.map(|(_, what)| what.as_str());
        if name.starts_with("kept ") {
            assert_eq!((what.as_str(), without), ("fine", Some("fine")), "{name}");
            continue;
        }
        let refused = if *name == clone3 { "ENOSYS" } else { "EPERM" };
        assert_eq!(what, refused, "{name}; without confinement {without:?}");
        match without {
            Some("EPERM" | "ENOSYS" | "EAFNOSUPPORT") | None => {
                eprintln!("not shown, {without:?} without confinement, too: {name}");
            }
            Some(_) => shown += 1,
        }
    }
    assert!(shown >= 70, "only {shown} are shown to be refused by us");
}

pub fn foreign() {
    #[cfg(target_arch = "x86_64")]
    calls::call_of_i386();
    told("foreign", "alive");
}

pub fn foreign_x32() {
    #[cfg(target_arch = "x86_64")]
    calls::call_of_x32();
    told("foreign", "alive");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_another_architecture_kill() {
    if !is_ready("calls_of_another_architecture_kill") {
        return;
    }
    let scratch = scratch("confine-foreign");
    for case in ["i386 confined", "x32 confined"] {
        let (status, told) = run(case, scratch.path());
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{case}: {status}");
        assert!(told.is_empty(), "{case}: {told:?}");
    }
    let (status, _) = run("i386", scratch.path());
    assert_ne!(status.signal(), Some(libc::SIGSYS), "{status}");
}

/// Connects to a listener of this process, made before.
pub fn landlock_is_told(dir: &Path) {
    let address = std::env::var("DOPPELFS_CONFINE_PEER").unwrap();
    tell("connect", TcpStream::connect(address));
    tell("bind", TcpListener::bind("127.0.0.1:0"));
    let parent = std::os::unix::process::parent_id();
    tell("signal", calls::may_signal(parent));
    tell("program", Command::new("/bin/true").status());
    let zero = fs::File::open("/dev/zero").unwrap();
    tell("device", calls::ioctl(zero.as_fd(), libc::TCGETS));
    tell("elsewhere", fs::write(dir.join("elsewhere/file"), "text"));
    let moved = fs::rename(dir.join("root/old"), dir.join("elsewhere/new"));
    tell("moved elsewhere", moved);
    // What has to go on.
    tell("kept own signal", calls::may_signal(std::process::id()));
    tell("kept root", fs::write(dir.join("root/file"), "text"));
    tell("kept state", fs::write(dir.join("state/file"), "text"));
    tell("kept read", fs::read("/proc/self/status"));
    fs::create_dir_all(dir.join("root/sub")).unwrap();
    let renamed = fs::rename(dir.join("root/file"), dir.join("root/sub/file"));
    tell("kept rename", renamed);
}

/// The root of the replicas, as a mount of its own.
struct Bound<'a>(&'a Path);

impl<'a> Bound<'a> {
    fn new(dir: &'a Path) -> Bound<'a> {
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(dir), dir, None::<&str>, flags, None::<&str>).unwrap();
        Bound(dir)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        sys::umount(self.0, true).unwrap();
    }
}

fn landlock_refuses(test: &str, bound: bool) {
    if !is_ready(test) {
        return;
    }
    let scratch = scratch(test);
    let root = scratch.path().join("root");
    let _bound = bound.then(|| Bound::new(&root));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let case = |name| {
        fs::write(root.join("old"), "text").unwrap();
        let (status, lines) =
            run_with(name, scratch.path(), &[("DOPPELFS_CONFINE_PEER", &address)]);
        assert!(status.success(), "{name}: {status}");
        lines
    };
    let (free, confined) = (case("landlock"), case("landlock confined"));
    let of = |lines: &[(String, String)], name: &str| {
        let found = lines.iter().find(|(other, _)| other == name);
        found
            .unwrap_or_else(|| panic!("{name} in {lines:?}"))
            .1
            .clone()
    };
    let version = sys::landlock_version().unwrap();
    let fixed = version >= 5 && sys::is_landlock_fixed(3);
    let mut expected = vec![];
    if version >= 4 {
        expected.extend([("connect", "EACCES", "fine"), ("bind", "EACCES", "fine")]);
    }
    if version >= 6 {
        expected.push(("signal", "EPERM", "fine"));
    }
    if fixed {
        expected.extend([
            ("program", "EACCES", "fine"),
            ("device", "EACCES", "ENOTTY"),
        ]);
    }
    if fixed && bound {
        expected.push(("elsewhere", "EACCES", "fine"));
    }
    for (name, with, without) in expected {
        assert_eq!(of(&confined, name), with, "{name}");
        assert_eq!(of(&free, name), without, "{name} without confinement");
    }
    let across = if bound { "EXDEV" } else { "fine" };
    assert_eq!(of(&confined, "moved elsewhere"), across);
    let kept = confined
        .iter()
        .filter(|(name, _)| name.starts_with("kept "));
    let broken: Vec<_> = kept.filter(|(_, what)| what != "fine").collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn landlock_refuses_what_it_says() {
    landlock_refuses("landlock_refuses_what_it_says", false);
}

#[test]
fn landlock_keeps_writes_in_a_root_that_is_a_mount() {
    landlock_refuses("landlock_keeps_writes_in_a_root_that_is_a_mount", true);
}

/// Opens by handle, links and renames what nobody has looked up since it was last in memory.
pub fn by_handle(dir: &Path, wish: Option<&Wish>) {
    let root = fs::File::open(dir.join("root")).unwrap();
    let sub = dir.join("root/one/two");
    fs::create_dir_all(&sub).unwrap();
    fs::create_dir_all(dir.join("root/other")).unwrap();
    let names = ["written", "linked", "renamed"];
    let handles = names.map(|name| {
        fs::write(sub.join(name), "text").unwrap();
        let dir = fs::File::open(&sub).unwrap();
        let name = std::ffi::CString::new(name).unwrap();
        sys::name_to_handle_at(dir.as_fd(), &name).unwrap()
    });
    let other = fs::File::open(dir.join("root/other")).unwrap();
    let other = sys::name_to_handle_at(other.as_fd(), c"").unwrap();
    let two = fs::File::open(&sub).unwrap();
    let two = sys::name_to_handle_at(two.as_fd(), c"").unwrap();
    sys::sync_file_system_of(dir).unwrap();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    if let Some(wish) = wish {
        confine_in(wish, dir);
    }
    let open = |handle, flags| sys::open_by_handle_at(root.as_fd(), handle, flags);
    let written = open(&handles[0], libc::O_RDWR);
    tell(
        "open and write",
        written.and_then(|fd| sys::pwrite(fd.as_fd(), b"more", 0)),
    );
    let linked = open(&handles[1], libc::O_PATH).unwrap();
    let directory = libc::O_RDONLY | libc::O_DIRECTORY;
    let (two, other) = (
        open(&two, directory).unwrap(),
        open(&other, directory).unwrap(),
    );
    tell(
        "link",
        sys::linkat_fd(linked.as_fd(), other.as_fd(), c"linked"),
    );
    tell(
        "rename",
        sys::renameat2(two.as_fd(), c"renamed", other.as_fd(), c"renamed", 0),
    );
    tell(
        "make",
        sys::mknodat(other.as_fd(), c"device", libc::S_IFCHR | 0o600, 0x103),
    );
}

fn handles_work(test: &str, bound: bool) {
    if !is_ready(test) {
        return;
    }
    for case in ["handles", "handles confined"] {
        let scratch = scratch(test);
        let root = scratch.path().join("root");
        let _bound = bound.then(|| Bound::new(&root));
        let broken = run_well(case, scratch.path());
        let broken: Vec<_> = broken.iter().filter(|(_, what)| what != "fine").collect();
        assert!(broken.is_empty(), "{case}: {broken:?}");
    }
}

#[test]
fn files_without_a_path_in_memory_are_written_linked_and_renamed() {
    handles_work(
        "files_without_a_path_in_memory_are_written_linked_and_renamed",
        false,
    );
}

#[test]
fn files_without_a_path_are_written_in_a_root_that_is_a_mount() {
    handles_work(
        "files_without_a_path_are_written_in_a_root_that_is_a_mount",
        true,
    );
}
