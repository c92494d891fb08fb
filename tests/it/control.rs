//! Goal: whatever state a worker is in, whoever asks gets an answer or a clear error, in time.
//! Method: servers and clients in this process, over sockets in scratch directories; dead, silent
//! and foreign workers are played by bare sockets.

use crate::cli_scratch::{Scratch, Talker, runtime, serve, set};
use doppelfs::codec::{Draft, Frame};
use doppelfs::control::status::{STATUS_VERSION, SetStatus, StatusReport};
use doppelfs::control::{
    Client, Error, Item, MirrorKind, QueueFilter, QueueLine, REQUEST_NAMES, RefusalCode, Reply,
    Request, Server, Service, TermsChange, encode_request, escape, list_services, list_sets,
    parse_request, unescape,
};
use doppelfs::types::{
    Body, Caller, Dentry, FileId, Kind, MarkName, Name, Node, Op, RenameMode, Seq,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(200);

fn talk(socket: &std::path::Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_question_is_answered() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker::named("data", scratch.path());
    let status = talker.status.clone();
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let client = Client::connect(scratch.path(), &set("data")).unwrap();
    let reply = client.ask(&Request::Status, None).unwrap();
    assert_eq!(reply, Reply::Set(Box::new(status)));
}

#[test]
fn items_come_in_order_before_the_end() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let line = |seq| QueueLine {
        seq,
        ..QueueLine::default()
    };
    let talker = Talker {
        lines: (1..=500).map(line).collect(),
        ..Talker::default()
    };
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let client = Client::connect(scratch.path(), &set("data")).unwrap();
    let request = Request::QueueTail {
        follow: false,
        count: 500,
    };
    let mut answers = client.follow(&request).unwrap();
    let mut seen = Vec::new();
    while let Some(Item::Record(line)) = answers.next_item().unwrap() {
        seen.push(line.seq);
    }
    assert_eq!(seen, (1..=500).collect::<Vec<u64>>());
    assert_eq!(answers.reply().unwrap(), Reply::Done);
}

#[test]
fn a_client_that_goes_takes_its_request_with_it() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker {
        lines: vec![QueueLine::default()],
        ..Talker::default()
    };
    let dropped = Arc::clone(&talker.dropped);
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let client = Client::connect(scratch.path(), &set("data")).unwrap();
    let request = Request::QueueTail {
        follow: true,
        count: 1,
    };
    let mut answers = client.follow(&request).unwrap();
    assert!(answers.next_item().unwrap().is_some());
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(answers);
    let begin = Instant::now();
    while dropped.load(Ordering::SeqCst) == 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "it is still followed"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_set_that_was_never_there_is_not_running() {
    let scratch = Scratch::new();
    let error = Client::connect(scratch.path(), &set("data")).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::NotRunning {
                left_over: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("set data is not running here"),
        "{error}"
    );
    let error = Client::connect(&scratch.path().join("nowhere"), &set("data")).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotRunning {
                left_over: false,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_socket_left_over_says_that_its_worker_does_not_answer() {
    let scratch = Scratch::new();
    drop(UnixListener::bind(scratch.path().join("data.sock")).unwrap());
    let error = Client::connect(scratch.path(), &set("data")).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::NotRunning {
                left_over: true,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("its worker does not answer"),
        "{error}"
    );
}

#[test]
fn a_stopped_worker_costs_patience_and_no_more() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.path().join("data.sock")).unwrap();
    let ask = || {
        let client = Client::connect_within(scratch.path(), &set("data"), SHORT)?;
        client.ask(&Request::Status, None)
    };
    // It accepts nobody; the first ones wait in the queue, later ones for a place in it.
    let begin = Instant::now();
    let mut held = Vec::new();
    for _ in 0..200 {
        let Ok(client) = Client::connect_within(scratch.path(), &set("data"), SHORT) else {
            break;
        };
        held.push(client);
    }
    assert!(matches!(ask().unwrap_err(), Error::Silent { .. }));
    drop(held);
    let error = ask().unwrap_err();
    assert!(matches!(&error, Error::Silent { .. }), "{error}");
    assert!(error.to_string().contains("stopped or hangs"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(60));
    drop(listener);
}

#[test]
fn a_worker_that_only_says_alive_is_given_up_at_the_limit() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let talker = Talker {
        not_caught_up: Some("for ever".to_owned()),
        ..Talker::default()
    };
    let _server = serve(&runtime, scratch.path(), "data", talker);
    let client = Client::connect(scratch.path(), &set("data")).unwrap();
    let request = Request::Wait {
        caught_up: true,
        timeout_ms: None,
    };
    let begin = Instant::now();
    let error = client
        .ask(&request, Some(Duration::from_millis(1500)))
        .unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(1400));
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_handler_that_panics_cuts_its_client_off_and_no_other() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let ask = |request: &Request| Client::connect(scratch.path(), &set("data"))?.ask(request, None);
    let error = ask(&Request::Stop).unwrap_err();
    assert!(matches!(error, Error::CutOff { .. }), "{error}");
    assert!(ask(&Request::Status).is_ok());
}

#[test]
fn a_refusal_arrives_with_its_text() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let client = Client::connect(scratch.path(), &set("data")).unwrap();
    let error = client.ask(&Request::PrepareUmount, None).unwrap_err();
    assert_eq!(error.to_string(), "nothing is mounted; mount first");
}

#[test]
fn another_program_behind_the_socket_is_not_understood() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.path().join("data.sock")).unwrap();
    let answerer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut line)
            .unwrap();
        stream.write_all(b"220 smtp ready\n").unwrap();
    });
    let client = Client::connect(scratch.path(), &set("data")).unwrap();
    let error = client.ask(&Request::Status, None).unwrap_err();
    assert!(matches!(&error, Error::NotUnderstood { .. }), "{error}");
    assert!(error.to_string().contains("220 smtp ready"), "{error}");
    answerer.join().unwrap();
}

#[test]
fn a_name_belongs_to_one_worker() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let start = || {
        let handler = Arc::new(Talker::default());
        Server::start(scratch.path(), &set("data"), handler, runtime.handle())
    };
    assert!(!Server::is_running(scratch.path(), &set("data")));
    let first = start().unwrap();
    assert!(Server::is_running(scratch.path(), &set("data")));
    let error = start().unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    // The loser did not take the winner's socket away.
    assert!(Client::connect(scratch.path(), &set("data")).is_ok());
    drop(first);
    assert!(!Server::is_running(scratch.path(), &set("data")));
    assert!(!set("data").socket(scratch.path()).exists());
    start().unwrap();
}

#[test]
fn a_socket_left_over_is_replaced() {
    let scratch = Scratch::new();
    drop(UnixListener::bind(scratch.path().join("data.sock")).unwrap());
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    assert!(Client::connect(scratch.path(), &set("data")).is_ok());
}

#[test]
fn a_run_directory_that_cannot_be_made_is_an_error() {
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    let handler = Arc::new(Talker::default());
    let error = Server::start(&file, &set("data"), handler, runtime().handle()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Io {
                operation: "create",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn directory_and_socket_are_for_their_owner_only() {
    let scratch = Scratch::new();
    let run_dir = scratch.path().join("run");
    let runtime = runtime();
    let _server = serve(&runtime, &run_dir, "data", Talker::default());
    let mode = |path: &std::path::Path| {
        std::fs::symlink_metadata(path)
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&run_dir), 0o700);
    assert_eq!(mode(&run_dir.join("data.sock")), 0o600);
}

#[test]
fn a_run_directory_may_be_longer_than_a_socket_address() {
    let scratch = Scratch::new();
    let run_dir = scratch.path().join("x".repeat(200)).join("y".repeat(200));
    let runtime = runtime();
    let _server = serve(&runtime, &run_dir, "data", Talker::default());
    let client = Client::connect(&run_dir, &set("data")).unwrap();
    assert!(client.ask(&Request::Status, None).is_ok());
}

#[test]
fn services_are_listed_and_strangers_are_not() {
    let scratch = Scratch::new();
    for name in [
        "b.sock",
        "a.sock",
        "target-7420.sock",
        "a.lock",
        ".x.sock",
        "note",
    ] {
        std::fs::write(scratch.path().join(name), "").unwrap();
    }
    let services = list_services(scratch.path()).unwrap();
    assert_eq!(services, [set("a"), set("b"), Service::Target(7420)]);
    assert_eq!(list_sets(scratch.path()).unwrap().len(), 2);
    assert!(
        list_services(&scratch.path().join("none"))
            .unwrap()
            .is_empty()
    );
    assert!(list_services(&scratch.path().join("note")).is_err());
}

#[test]
fn every_request_survives_its_line() {
    let requests = [
        Request::Status,
        Request::Wait {
            caught_up: true,
            timeout_ms: Some(5),
        },
        Request::QueueTail {
            follow: true,
            count: 3,
        },
        Request::QueueFind {
            follow: false,
            count: 3,
            filter: QueueFilter {
                paths: vec!["mail/**".to_owned()],
                ..QueueFilter::default()
            },
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
            set: Some("data".into()),
            path: None,
            terms: TermsChange {
                quota_bytes: Some(1 << 30),
                deny_dev: Some(true),
                ..TermsChange::default()
            },
            expires_seconds: 3600,
        },
        Request::Peers,
        Request::RevokePeer {
            name: "web1".into(),
        },
        Request::SetPeer {
            name: "web1".into(),
            terms: TermsChange::default(),
        },
        Request::RotateKey {
            finish: true,
            force: false,
        },
        Request::Hold { milliseconds: 2000 },
        Request::Mark {
            name: MarkName::new("noon").unwrap(),
            hold: None,
        },
        Request::Pause {
            name: MarkName::new("backup-1").unwrap(),
            hold: Some(u64::MAX),
        },
        Request::Resume,
        Request::Disconnect { forget: true },
        Request::Connect,
        Request::StopReplication,
        Request::StartReplication,
        Request::PauseReplicas {
            path: Some("host/data".into()),
            now: true,
        },
        Request::ResumeReplicas { path: None },
    ];
    assert_eq!(requests.len(), REQUEST_NAMES.len());
    for (request, name) in requests.iter().zip(REQUEST_NAMES) {
        let line = encode_request(request);
        assert!(line.contains(&format!("\"do\":\"{name}\"")), "{line}");
        assert_eq!(parse_request(line.as_bytes()).unwrap(), *request);
    }
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    let cases = [
        ("hello", RefusalCode::Malformed, "not a line of JSON"),
        ("[]", RefusalCode::Malformed, "needs \"version\""),
        (
            "{\"do\":\"status\"}",
            RefusalCode::Malformed,
            "needs \"version\"",
        ),
        (
            "{\"version\":2,\"do\":\"status\"}",
            RefusalCode::Version,
            "speaks version 2",
        ),
        (
            "{\"version\":1,\"do\":\"dance\"}",
            RefusalCode::Unknown,
            "unknown request \"dance\"",
        ),
        ("{\"version\":1}", RefusalCode::Unknown, "unknown request"),
        (
            "{\"version\":1,\"do\":\"queue-tail\"}",
            RefusalCode::Malformed,
            "missing field",
        ),
    ];
    let scratch = Scratch::new();
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    for (line, code, text) in cases {
        let refusal = parse_request(line.as_bytes()).unwrap_err();
        assert_eq!(refusal.code, code, "{line}");
        assert!(refusal.text.contains(text), "{line}: {refusal}");
        let answer = talk(&scratch.path().join("data.sock"), &format!("{line}\n"));
        assert!(
            answer.starts_with("{\"kind\":\"refused\""),
            "{line}: {answer}"
        );
    }
}

#[test]
fn a_request_longer_than_its_limit_is_refused() {
    let scratch = Scratch::new();
    let runtime = runtime();
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let mut stream = UnixStream::connect(scratch.path().join("data.sock")).unwrap();
    let chunk = vec![b'x'; 1 << 16];
    let mut written = 0;
    // The server stops reading and closes; nothing grows.
    while stream.write_all(&chunk).is_ok() {
        written += chunk.len();
        assert!(written < 64 << 20, "it reads for ever");
    }
}

#[test]
fn fields_of_later_versions_are_passed_over() {
    let line = br#"{"version":1,"do":"status","colour":"blue"}"#;
    assert_eq!(parse_request(line).unwrap(), Request::Status);
    let status: SetStatus = serde_json::from_str(r#"{"name":"x","mood":"good"}"#).unwrap();
    assert_eq!(status.name, "x");
}

/// The JSON of `status` is an interface: these keys were promised.
#[test]
fn status_has_every_key_that_was_promised() {
    let set = SetStatus {
        connections: vec![Default::default()],
        roots: vec![Default::default()],
        ..SetStatus::default()
    };
    let report = StatusReport {
        version: STATUS_VERSION,
        sets: vec![set],
        targets: Vec::new(),
    };
    let json = serde_json::to_value(&report).unwrap();
    let has = |at: &serde_json::Value, keys: &str| {
        for key in keys.split_whitespace() {
            assert!(at.get(key).is_some(), "{key} is missing in {at}");
        }
    };
    assert_eq!(json["version"], 1);
    let set = &json["sets"][0];
    has(
        set,
        "name roots state supervisor_pid worker_pid worker_restarts history captured_seq queue \
         connections",
    );
    has(&set["roots"][0], "path mountpoint");
    has(&set["queue"], "ops bytes disk_bytes oldest_seconds");
    let connection = &set["connections"][0];
    has(
        connection,
        "id target path transmit data_state target_state replication sent_seq received_seq \
         applied_seq durable_seq lag_ops lag_bytes lag_seconds sent_bytes wire_bytes mirror_bytes \
         connected_since last_path mirror error",
    );
    has(&connection["mirror"], "state percent remaining_bytes");
    let word = |state| serde_json::to_value(state).unwrap();
    assert_eq!(
        word(doppelfs::control::status::DataState::MirrorRequired),
        "mirror-required"
    );
    assert_eq!(set["state"], "ok");
    assert!(connection["connected_since"].is_null());
}

#[test]
fn names_are_written_on_one_line_and_read_back() {
    let seed = std::env::var("DOPPELFS_SEED").map_or(42, |s| s.parse().unwrap());
    println!("DOPPELFS_SEED={seed}");
    let mut random: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(seed);
    let alphabet = b"ab/\\nx0\n\r\t\x1b\x7f\xc3\xa4\xff\xe2\x80\xae ";
    for _ in 0..20_000 {
        let length = rand::Rng::random_range(&mut random, 0..24);
        let pick = |_| alphabet[rand::Rng::random_range(&mut random, 0..alphabet.len())];
        let bytes: Vec<u8> = (0..length).map(pick).collect();
        let text = escape(&bytes);
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(unescape(&text).unwrap(), bytes);
    }
    assert_eq!(
        escape(b"a\nb\\c\xff\xe2\x80\xae"),
        "a\\nb\\\\c\\xff\\xe2\\x80\\xae"
    );
    for odd in [
        "\\", "\\q", "\\x1", "\\xzz", "\\x+f", "\\x41", "\\x0A", "a\n",
    ] {
        assert_eq!(unescape(odd), None, "{odd}");
    }
}

fn frame(op: Op, path: &[u8], payload: &[u8]) -> Frame {
    let mut body = Body::of(op);
    body.path = path.to_vec();
    body.caller = Caller {
        uid: 1000,
        gid: 100,
        pid: 77,
    };
    let draft = Draft::new(&body, payload);
    let mut bytes = draft.seal(Seq(9), Seq(8), 5).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes.extend_from_slice(payload);
    Frame::from_vec(bytes).unwrap()
}

#[test]
fn a_record_is_listed_with_path_size_and_caller() {
    let op = Op::Write {
        id: FileId::new(12, 1),
        offset: 4096,
    };
    let line = QueueLine::of(&frame(op, b"dir/fi\nle", b"hello"));
    assert_eq!((line.seq, line.time_ns), (9, 5));
    assert_eq!(
        (line.op.as_str(), line.path.as_str()),
        (Kind::Write.word(), "dir/fi\\nle")
    );
    assert_eq!((line.size, line.offset), (5, Some(4096)));
    assert_eq!((line.uid, line.gid, line.pid), (1000, 100, 77));
}

#[test]
fn a_rename_is_listed_with_both_paths() {
    let rename = |parent| {
        let place = |ino, name: &[u8]| Dentry {
            parent: FileId::new(ino, 1),
            name: Name::new(name).unwrap(),
        };
        Op::Rename {
            id: FileId::new(12, 1),
            node: Node::File,
            from: place(2, b"old"),
            to: place(parent, b"new"),
            replaced: None,
            mode: RenameMode::Plain,
        }
    };
    let to = |parent, path: &[u8]| QueueLine::of(&frame(rename(parent), path, b"")).to.unwrap();
    assert_eq!(to(2, b"a/old"), "a/new");
    assert_eq!(to(2, b"old"), "new");
    assert_eq!(to(3, b"a/old"), ".../new");
    assert_eq!(to(3, b"a/old\0b/c/new"), "b/c/new");
}
