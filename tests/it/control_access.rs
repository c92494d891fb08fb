//! Goal: root, administrators, monitors and all others may each do what the documentation says, whichever
//! request and command it is; nobody hinders the others. Method: a talking worker, and clients that are
//! other users, by setpriv, with made-up groups. Needs root, says so when it is skipped.

use crate::cli_scratch::{Ran, Scratch, Talker, doppelfs, runtime, set};
use crate::openapi::{LINES, request_text};
use doppelfs::control::status::ConnectionStatus;
use doppelfs::control::{
    Access, Groups, MirrorKind, QueueLine, ROUTES, Request, Server, Terms, TermsChange,
    encode_request,
};
use doppelfs::types::MarkName;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const ADMINS: u32 = 54_001;
const MONITORS: u32 = 54_002;
const GROUPS: Groups = Groups {
    admin: Some(ADMINS),
    monitor: Some(MONITORS),
};

/// Every request once.
fn mark_name() -> MarkName {
    MarkName::new("x").unwrap()
}

fn requests() -> Vec<Request> {
    vec![
        Request::Status,
        Request::Wait {
            caught_up: true,
            timeout_ms: Some(1),
        },
        Request::QueueTail {
            follow: false,
            count: 1,
        },
        Request::QueueFind {
            follow: false,
            count: 1,
            filter: doppelfs::control::QueueFilter::default(),
        },
        Request::QueueShow,
        Request::Stats,
        Request::MirrorStart {
            kind: MirrorKind::Full,
        },
        Request::PrepareUmount,
        Request::AbandonUmount,
        Request::Stop,
        Request::Invite {
            set: None,
            path: None,
            terms: TermsChange::default(),
            expires_seconds: 1,
        },
        Request::Peers,
        Request::RevokePeer { name: "x".into() },
        Request::SetPeer {
            name: "x".into(),
            terms: TermsChange::default(),
        },
        Request::RotateKey {
            finish: false,
            force: false,
        },
        Request::Hold { milliseconds: 1 },
        Request::Mark {
            name: mark_name(),
            hold: None,
        },
        Request::Pause {
            name: mark_name(),
            hold: None,
        },
        Request::Resume,
        Request::Disconnect { forget: false },
        Request::Connect,
        Request::StopReplication,
        Request::StartReplication,
        Request::PauseReplicas {
            path: None,
            now: false,
        },
        Request::ResumeReplicas { path: None },
    ]
}

/// A request as it stands on the socket.
fn text_of(request: &Request) -> String {
    let asked = encode_request(request).unwrap();
    let body = String::from_utf8(asked.body.clone()).unwrap();
    request_text(asked.route.method, &asked.target(), LINES, &body)
}

/// Who asks: user, group, supplementary groups.
struct Who(u32, u32, &'static str);

const ADMIN: Who = Who(54_101, 54_101, "54001");
const ADMIN_BY_GROUP: Who = Who(54_102, ADMINS, "");
const MONITOR: Who = Who(54_103, 54_103, "54009,54002");
const BOTH: Who = Who(54_104, MONITORS, "54001");
const OTHER: Who = Who(54_105, 54_105, "54009");

struct Host {
    scratch: Scratch,
    runtime: Runtime,
    _server: Server,
}

fn is_root(test: &str) -> bool {
    let is_root = doppelfs::sys::is_root();
    if !is_root {
        eprintln!("SKIPPED {test}: needs root, to be other users");
    }
    is_root
}

fn talker() -> Talker {
    let mut talker = Talker::named("data", Path::new("/proc"));
    talker.status.connections = vec![ConnectionStatus {
        last_path: Some("dir/secret name".to_owned()),
        ..ConnectionStatus::default()
    }];
    talker.lines = vec![QueueLine {
        path: "dir/secret name".to_owned(),
        ..QueueLine::default()
    }];
    talker
}

impl Host {
    fn new(groups: Groups) -> Host {
        Host::with(groups, Duration::from_secs(30))
    }

    fn with(groups: Groups, patience: Duration) -> Host {
        let scratch = Scratch::new();
        let runtime = runtime();
        let open = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(scratch.path(), open).unwrap();
        // The program may lie where only root can go.
        std::fs::copy(
            env!("CARGO_BIN_EXE_doppelfs"),
            scratch.path().join("doppelfs"),
        )
        .unwrap();
        let terms = Terms {
            groups: Some(groups),
            patience,
        };
        let run_dir = scratch.path().join("run");
        let (service, handler) = (set("data"), Arc::new(talker()));
        let server = Server::start_on(&run_dir, &service, handler, runtime.handle(), terms);
        Host {
            scratch,
            runtime,
            _server: server.unwrap(),
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    fn socket(&self) -> PathBuf {
        self.run_dir().join("data.sock")
    }

    fn as_user(&self, who: &Who, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", who.0));
        command.arg(format!("--regid={}", who.1));
        match who.2 {
            "" => command.arg("--clear-groups"),
            groups => command.arg(format!("--groups={groups}")),
        };
        command.arg(program).env("DOPPELFS_RUN_DIR", self.run_dir());
        command.current_dir("/");
        command
    }

    fn run(&self, who: &Who, words: &str) -> Ran {
        let program = self.scratch.path().join("doppelfs");
        let mut command = self.as_user(who, &program);
        Ran::of(&command.args(words.split_whitespace()).output().unwrap())
    }

    /// What the socket answers to a request; none when it cannot be reached.
    fn ask(&self, who: &Who, text: &str) -> Option<String> {
        let script = r#"
            my $s = IO::Socket::UNIX->new($ARGV[0]) or exit($!{EACCES} ? 7 : 8);
            print $s $ARGV[1];
            $s->flush;
            print <$s>;
        "#;
        let mut command = self.as_user(who, Path::new("perl"));
        command.args(["-MErrno", "-MIO::Socket::UNIX", "-e", script]);
        command.arg(self.socket()).arg(text);
        let ran = Ran::of(&command.output().unwrap());
        match ran.code {
            7 => None,
            0 => Some(ran.out),
            other => panic!("{other}: {}", ran.err),
        }
    }
}

#[test]
fn every_request_is_classified_and_the_monitors_part_changes_nothing() {
    let requests = requests();
    let name = |request: &Request| {
        let asked = encode_request(request).unwrap();
        asked.route.name.to_owned()
    };
    let names: Vec<String> = requests.iter().map(name).collect();
    let known: Vec<&str> = ROUTES.iter().map(|route| route.name).collect();
    assert_eq!(names, known);
    let looks = requests.iter().filter(|r| r.needs() == Access::Look);
    let looks: Vec<String> = looks.map(name).collect();
    assert_eq!(looks, ["status", "wait", "queue-show", "stats", "peers"]);
}

#[test]
fn each_kind_of_caller_gets_what_it_may_ask_and_nothing_else() {
    if !is_root("each_kind_of_caller_gets_what_it_may_ask_and_nothing_else") {
        return;
    }
    let host = Host::new(GROUPS);
    let root = Who(0, 0, "");
    for (who, may) in [
        (&root, Some(Access::Act)),
        (&ADMIN, Some(Access::Act)),
        (&ADMIN_BY_GROUP, Some(Access::Act)),
        (&BOTH, Some(Access::Act)),
        (&MONITOR, Some(Access::Look)),
        (&OTHER, None),
    ] {
        for request in requests() {
            let answer = host.ask(who, &text_of(&request));
            let shown = format!("user {} asks {request:?}: {answer:?}", who.0);
            match may {
                None => assert_eq!(answer, None, "{shown}"),
                Some(may) => {
                    let answer = answer.unwrap();
                    let is_denied = answer.contains("\"denied\"");
                    assert_eq!(is_denied, request.needs() > may, "{shown}");
                }
            }
        }
    }
}

#[test]
fn the_commands_of_a_stranger_say_what_to_do_and_end_with_2() {
    if !is_root("the_commands_of_a_stranger_say_what_to_do_and_end_with_2") {
        return;
    }
    let host = Host::new(GROUPS);
    for words in [
        "status",
        "status data",
        "status --json",
        "stats",
        "stats data",
        "queue show",
        "queue tail data",
        "wait --caught-up --timeout 1",
        "mirror start --full",
        "restart",
        "restart data",
    ] {
        let ran = host.run(&OTHER, words);
        assert_eq!(ran.code, 2, "{words}: {}", ran.err);
        assert_eq!(ran.out, "", "{words}");
        assert!(
            ran.err.contains("permission denied"),
            "{words}: {}",
            ran.err
        );
        let hint = words.starts_with("restart d") || ran.err.contains("doppelfs-monitor");
        assert!(hint, "{words}: {}", ran.err);
    }
}

#[test]
fn a_monitor_looks_and_an_administrator_acts() {
    if !is_root("a_monitor_looks_and_an_administrator_acts") {
        return;
    }
    let host = Host::new(GROUPS);
    // As a supervisor leaves it.
    let told = host.run_dir().join("data.supervisor");
    std::fs::write(&told, "{}").unwrap();
    std::fs::set_permissions(&told, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (words, monitor, admin) in [
        ("status", 0, 0),
        ("status data --json", 0, 0),
        ("stats", 0, 0),
        ("queue show", 0, 0),
        ("wait --caught-up", 0, 0),
        ("queue tail", 2, 0),
        ("mirror start --full", 2, 0),
        // The handler of this test refuses what it does not know, but it is asked.
        ("pause data --no-wait", 2, 2),
        ("resume data", 2, 2),
        ("mark data m", 2, 2),
        ("disconnect data", 2, 2),
        ("replication stop data", 2, 2),
        // It is no part of the socket: the supervisor's file is root's.
        ("restart data", 2, 2),
    ] {
        let looked = host.run(&MONITOR, words);
        assert_eq!(looked.code, monitor, "{words}: {}", looked.err);
        assert!(
            monitor == 0 || looked.err.contains("permission denied"),
            "{}",
            looked.err
        );
        let acted = host.run(&ADMIN, words);
        assert!(
            !acted.err.contains("permission denied") || words.contains("restart"),
            "{words}: {}",
            acted.err
        );
        assert_eq!(acted.code, admin, "{words}: {}", acted.err);
    }
    // Names of files are data.
    let seen = host.run(&MONITOR, "status --json").out;
    assert!(
        seen.contains("\"data\"") && !seen.contains("secret name"),
        "{seen}"
    );
    let seen = host.run(&ADMIN, "status --json").out;
    assert!(seen.contains("secret name"), "{seen}");
}

#[test]
fn without_groups_the_run_directory_is_closed() {
    if !is_root("without_groups_the_run_directory_is_closed") {
        return;
    }
    let host = Host::new(Groups::default());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host.run_dir()), 0o700);
    assert_eq!(mode(&host.socket()), 0o600);
    for who in [&ADMIN, &MONITOR, &OTHER] {
        assert_eq!(host.run(who, "status").code, 2);
    }
}

#[test]
fn a_group_lets_nobody_at_other_files_and_a_later_start_takes_it_away() {
    if !is_root("a_group_lets_nobody_at_other_files_and_a_later_start_takes_it_away") {
        return;
    }
    let host = Host::new(GROUPS);
    let read = |who: &Who, file: &str| {
        let mut command = host.as_user(who, Path::new("cat"));
        command.arg(host.run_dir().join(file));
        command.output().unwrap().status.success()
    };
    std::fs::write(host.run_dir().join("x.lock"), "x").unwrap();
    for who in [&ADMIN, &MONITOR, &OTHER] {
        assert!(!read(who, "data.lock"), "{}", who.0);
    }
    let terms = Terms {
        groups: Some(Groups::default()),
        ..Terms::default()
    };
    let handle = host.runtime.handle();
    let (service, handler) = (set("other"), Arc::new(talker()));
    let _other = Server::start_on(&host.run_dir(), &service, handler, handle, terms).unwrap();
    assert_eq!(host.run(&ADMIN, "status").code, 2);
}

#[test]
fn groups_are_found_by_their_names() {
    let found = Groups::named("root", "no-such-group-here");
    assert_eq!((found.admin, found.monitor), (Some(0), None));
}

fn open_many(socket: &Path, count: usize) -> Vec<UnixStream> {
    (0..count)
        .map(|_| UnixStream::connect(socket).unwrap())
        .collect()
}

/// What a new connection is told when it says this; empty when it is waited for.
fn told(socket: &Path, says: &str, patience: Duration) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let _ = stream.write_all(says.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn one_user_takes_no_more_than_its_share_and_root_finds_a_place() {
    if !is_root("one_user_takes_no_more_than_its_share_and_root_finds_a_place") {
        return;
    }
    let host = Host::new(GROUPS);
    let script = r#"
        my @held = map { IO::Socket::UNIX->new($ARGV[0]) or die } 1 .. 40;
        print $_ "GET /v1/status HTTP/1.1\r\n\r\n" for @held[32 .. 39];
        my $refused = grep { $_->flush; join("", <$_>) =~ /503.*busy/s } @held[32 .. 39];
        $| = 1;
        print "$refused\n";
        <STDIN>;
    "#;
    let mut greedy = host.as_user(&MONITOR, Path::new("perl"));
    greedy.args(["-MIO::Socket::UNIX", "-e", script]);
    greedy.arg(host.socket());
    greedy
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut greedy = greedy.spawn().unwrap();
    let mut line = String::new();
    let output = greedy.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    assert_eq!(line, "8\n");
    // It gets no more; the others do.
    let ran = host.run(&MONITOR, "queue show data");
    assert!(
        ran.code == 2 && ran.err.contains("too many questions"),
        "{}",
        ran.err
    );
    assert_eq!(host.run(&BOTH, "status data").code, 0);
    assert_eq!(host.run(&Who(0, 0, ""), "status data").code, 0);
    drop(greedy.stdin.take());
    greedy.wait().unwrap();
    let begin = Instant::now();
    while host.run(&MONITOR, "queue show data").code != 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "its places stay taken"
        );
    }
}

#[test]
fn who_has_all_places_is_told_and_gets_them_back() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let run_dir = scratch.path().join("run");
    let handler = Arc::new(talker());
    let _server = Server::start(&run_dir, &set("data"), handler, runtime.handle()).unwrap();
    let socket = run_dir.join("data.sock");
    let held = open_many(&socket, 256);
    let status = text_of(&Request::Status);
    let long = Duration::from_secs(30);
    // Also who says nothing at all, and does not know what to listen for.
    for says in ["", &status] {
        let told = told(&socket, says, long);
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert!(told.contains("\"busy\""), "{told}");
    }
    // Those who are told so take no places either, however many they are.
    let crowd = open_many(&socket, 200);
    assert!(told(&socket, "", long).contains("\"busy\""));
    drop(crowd);
    let ran = doppelfs(&run_dir)
        .args(["status", "data"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(shown.contains("too many questions"), "{shown}");
    drop(held);
    let begin = Instant::now();
    while told(&socket, &status, long).contains("busy") {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "the places stay taken"
        );
    }
}

#[test]
fn who_says_nothing_or_too_little_is_cut_off() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let run_dir = scratch.path().join("run");
    let terms = Terms {
        groups: Some(Groups::default()),
        patience: Duration::from_millis(200),
    };
    let (service, handler) = (set("data"), Arc::new(talker()));
    let _server = Server::start_on(&run_dir, &service, handler, runtime.handle(), terms).unwrap();
    let socket = run_dir.join("data.sock");
    for first in ["", "GET /v1/st", "GET /v1/status HTTP/1.1\r\nhost: "] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0, "{first:?}");
    }
    // Drop by drop is no way around it.
    let mut stream = UnixStream::connect(&socket).unwrap();
    let begin = Instant::now();
    stream.write_all(b"GET /").unwrap();
    while stream.write_all(b"x").is_ok() {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "it still listens"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_panic_in_one_conversation_leaves_the_others_alone() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let run_dir = scratch.path().join("run");
    let handler = Arc::new(talker());
    let _server = Server::start(&run_dir, &set("data"), handler, runtime.handle()).unwrap();
    let connect = || UnixStream::connect(run_dir.join("data.sock")).unwrap();
    let mut follower = connect();
    let follow = text_of(&Request::QueueTail {
        follow: true,
        count: 1,
    });
    follower.write_all(follow.as_bytes()).unwrap();
    for _ in 0..300 {
        let mut victim = connect();
        victim
            .write_all(text_of(&Request::Stop).as_bytes())
            .unwrap();
        let mut nothing = String::new();
        let _ = victim.read_to_string(&mut nothing);
        assert_eq!(nothing, "");
    }
    // It still hears heartbeats, and the places of those that panicked are free again.
    follower
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut heard = String::new();
    while !heard.contains("alive") {
        let mut chunk = [0; 100];
        let count = follower.read(&mut chunk).unwrap();
        assert!(count > 0, "{heard}");
        heard += &String::from_utf8_lossy(&chunk[..count]);
    }
}

#[test]
fn a_run_directory_that_others_use_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let start = |run_dir: &Path| {
        let handler = Arc::new(talker());
        Server::start(run_dir, &set("data"), handler, runtime.handle()).map(drop)
    };
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let make = |name: &str, mode: u32, file: Option<&str>| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        if let Some(file) = file {
            std::fs::write(path.join(file), "").unwrap();
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    };
    for (name, bits, file, words) in [
        ("strange", 0o755, "sshd.pid", "none of doppelfs"),
        ("sticky", 0o1777, "a.lock", "others may write"),
        ("writable", 0o775, "a.lock", "others may write"),
    ] {
        let path = make(name, bits, Some(file));
        let error = start(&path).unwrap_err().to_string();
        assert!(
            error.contains(words) && error.contains("--run-dir"),
            "{error}"
        );
        assert_eq!(mode(&path), bits);
    }
    for (name, bits, file) in [
        ("ours", 0o755, Some("old.lock")),
        ("empty", 0o755, None),
        ("open", 0o777, None),
    ] {
        let path = make(name, bits, file);
        start(&path).unwrap();
        assert_eq!(mode(&path), 0o700, "{name}");
    }
}
