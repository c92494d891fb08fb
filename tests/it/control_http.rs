//! Goal: requests mean the same at both ends, what is none is told so, and nobody who asks, badly or never
//! to the end, keeps a place or memory. Method: HTTP spoken by hand, byte by byte where that matters, to a
//! talking worker; workers of another time played by bare sockets.

use crate::cli_scratch::{Scratch, Talker, doppelfs, runtime, serve, set};
use crate::openapi::{LINES, ONE_VALUE, ask, request_text, say};
use doppelfs::control::status::SetStatus;
use doppelfs::control::{
    Answer, Client, Error, Groups, Handler, Items, MirrorKind, QueueFilter, QueueLine, ROUTES,
    Refusal, RefusalCode, Request, Server, Service, Terms, TermsChange, encode_request,
};
use doppelfs::types::MarkName;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

/// Says what it was asked.
struct Echo;

impl Handler for Echo {
    fn handle(self: Arc<Self>, request: Request, _items: Items) -> Answer {
        let text = format!("{request:?}");
        Box::pin(async move { Err(Refusal::new(RefusalCode::State, text)) })
    }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Status,
        Request::Wait {
            caught_up: true,
            timeout_ms: Some(5),
        },
        Request::Wait {
            caught_up: false,
            timeout_ms: None,
        },
        Request::QueueTail {
            follow: true,
            count: u64::MAX,
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
            name: "../v1/a b/%2F?x=1#ä{name}\n".into(),
        },
        Request::RevokePeer { name: "..".into() },
        Request::SetPeer {
            name: "web1".into(),
            terms: TermsChange {
                quota_files: Some(u64::MAX),
                ..TermsChange::default()
            },
        },
        Request::RotateKey {
            finish: true,
            force: false,
        },
        Request::Hold { milliseconds: 7 },
        Request::Mark {
            name: MarkName::new("m-1").unwrap(),
            hold: Some(u64::MAX),
        },
        Request::Pause {
            name: MarkName::new("m.2").unwrap(),
            hold: None,
        },
        Request::Resume,
        Request::Disconnect { forget: true },
        Request::Connect,
        Request::StopReplication,
        Request::StartReplication,
        Request::PauseReplicas {
            path: Some("a/b".into()),
            now: true,
        },
        Request::ResumeReplicas { path: None },
    ]
}

#[test]
fn every_request_arrives_as_it_was_asked() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let handler = Arc::new(Echo);
    let _server = Server::start(scratch.path(), &set("data"), handler, runtime.handle()).unwrap();
    let mut routes = Vec::new();
    for request in requests() {
        let asked = encode_request(&request).unwrap();
        let parsed = asked
            .route
            .read(asked.place.as_deref(), &asked.query, &asked.body);
        assert_eq!(parsed.unwrap(), request);
        let client = Client::connect(scratch.path(), &set("data")).unwrap();
        match client.ask(&request, None).unwrap_err() {
            Error::Refused(refusal) => assert_eq!(refusal.text, format!("{request:?}")),
            other => panic!("{request:?}: {other}"),
        }
        routes.push(asked.route.name);
    }
    routes.dedup();
    let known: Vec<&str> = ROUTES.iter().map(|route| route.name).collect();
    assert_eq!(routes, known, "every request is tried");
    let nameless = Request::RevokePeer {
        name: String::new(),
    };
    let refusal = encode_request(&nameless).unwrap_err();
    assert!(refusal.text.contains("needs a name"), "{refusal}");
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let socket = scratch.path().join("data.sock");
    for (method, target, body, status, code, text) in [
        (
            "GET",
            "/v1/dance",
            "",
            404,
            "unknown",
            "unknown request GET \\\"/v1/dance\\\"",
        ),
        ("GET", "/", "", 404, "unknown", "/v1/openapi.json"),
        (
            "DELETE",
            "/v1/peers/",
            "",
            404,
            "unknown",
            "unknown request",
        ),
        ("GET", "/v2/status", "", 400, "version", "speaks version 2"),
        ("POST", "/v1/status", "", 405, "unknown", "which methods"),
        ("BREW", "/v1/status", "", 405, "unknown", "which methods"),
        (
            "GET",
            "/v1/operations?count=many",
            "",
            400,
            "malformed",
            "a whole number",
        ),
        (
            "GET",
            "/v1/operations?count=-1",
            "",
            400,
            "malformed",
            "a whole number",
        ),
        (
            "GET",
            "/v1/operations?count=1&count=2",
            "",
            400,
            "malformed",
            "given twice",
        ),
        (
            "GET",
            "/v1/operations?follow=yes",
            "",
            400,
            "malformed",
            "true or false",
        ),
        (
            "POST",
            "/v1/mirror",
            "",
            400,
            "malformed",
            "missing field `kind`",
        ),
        (
            "POST",
            "/v1/mirror",
            "kind=full",
            400,
            "malformed",
            "no JSON",
        ),
        ("POST", "/v1/mirror", "[]", 400, "malformed", "no object"),
        (
            "POST",
            "/v1/mirror",
            "{\"kind\":\"half\"}",
            400,
            "malformed",
            "unknown variant",
        ),
        (
            "POST",
            "/v1/mirror",
            "{\"do\":\"stop\"}",
            400,
            "malformed",
            "missing field `kind`",
        ),
        ("PATCH", "/v1/peers/%ff", "{}", 400, "malformed", "UTF-8"),
    ] {
        for accept in [ONE_VALUE, LINES] {
            let told = ask(&socket, method, target, accept, body);
            let shown = format!("{method} {target}: {told:?}");
            assert_eq!((told.status, told.kind()), (status, accept), "{shown}");
            assert!(
                told.body.contains(&format!("\"code\":\"{code}\"")),
                "{shown}"
            );
            assert!(told.body.contains(text), "{shown}");
            assert!(told.is_whole && told.body.ends_with('\n'), "{shown}");
        }
    }
    let told = ask(&socket, "POST", "/v1/peers/a", ONE_VALUE, "");
    let allowed = told.header("allow").unwrap_or_default();
    assert!(
        allowed.contains("PATCH") && allowed.contains("DELETE"),
        "{told:?}"
    );
    for noise in [
        "\r\n\r\n",
        "hello\r\n\r\n",
        "{\"version\":1,\"do\":\"status\"}\n",
        "\0\0\0\0",
    ] {
        let told = say(&socket, noise.as_bytes());
        assert!([0, 400].contains(&told.status), "{noise:?}: {told:?}");
    }
}

#[test]
fn fields_of_later_versions_are_passed_over() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let socket = scratch.path().join("data.sock");
    let told = ask(&socket, "GET", "/v1/status?colour=blue", "*/*", "");
    assert_eq!((told.status, told.kind()), (200, ONE_VALUE));
    let body = "{\"kind\":\"full\",\"colour\":\"blue\"}";
    assert_eq!(ask(&socket, "POST", "/v1/mirror", "", body).status, 200);
    // A body where none is wanted, too.
    assert_eq!(ask(&socket, "GET", "/v1/status", "", body).status, 200);
    let status: SetStatus = serde_json::from_str(r#"{"name":"x","mood":"good"}"#).unwrap();
    assert_eq!(status.name, "x");
}

#[test]
fn what_is_longer_than_its_limit_is_refused() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let socket = scratch.path().join("data.sock");
    let filler = |count| format!("{{\"kind\":\"full\",\"x\":\"{}\"}}", "x".repeat(count));
    let post = |body: &str| ask(&socket, "POST", "/v1/mirror", ONE_VALUE, body);
    assert_eq!(post(&filler(60 << 10)).status, 200);
    let told = post(&filler(70 << 10));
    assert_eq!(
        (told.status, told.json()["code"].as_str()),
        (413, Some("malformed"))
    );
    // Announced, in parts without an end, as a head, as a name of a header.
    let begin = "POST /v1/mirror HTTP/1.1\r\n";
    let part = "8000\r\n".to_owned() + &"x".repeat(0x8000) + "\r\n";
    for (text, repeated, status) in [
        (
            format!("{begin}content-length: 99999999999\r\n\r\n"),
            "x",
            413,
        ),
        (
            format!("{begin}transfer-encoding: chunked\r\n\r\n"),
            &*part,
            413,
        ),
        ("GET /v1/status?".to_owned(), "x=y&", 431),
        (format!("{begin}a: "), "x", 431),
        (begin.to_owned(), "a: x\r\n", 431),
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let chunk = repeated.repeat((1 << 16) / repeated.len());
        let mut written = 0;
        // The server stops reading and closes; nothing grows.
        while stream.write_all(chunk.as_bytes()).is_ok() {
            written += chunk.len();
            assert!(written < 64 << 20, "it reads for ever");
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let begins = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begins), "{text:.60}: {answer:.300}");
    }
}

fn wait_for(count: &AtomicU64, what: &str) {
    let begin = Instant::now();
    while count.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < LONG, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_client_that_goes_takes_its_request_with_it_in_every_form() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let socket = scratch.path().join("data.sock");
    for (accept, more) in [
        (ONE_VALUE, ""),
        (LINES, ""),
        (ONE_VALUE, "GET "),
        (LINES, "x"),
    ] {
        let talker = Talker {
            not_caught_up: Some("for ever".to_owned()),
            ..Talker::default()
        };
        let (waiting, dropped) = (Arc::clone(&talker.waiting), Arc::clone(&talker.dropped));
        let _server = serve(&runtime, scratch.path(), "data", talker);
        let mut stream = UnixStream::connect(&socket).unwrap();
        let text = request_text("GET", "/v1/wait", accept, "") + more;
        stream.write_all(text.as_bytes()).unwrap();
        wait_for(&waiting, "it was not asked");
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        drop(stream);
        wait_for(
            &dropped,
            &format!("{accept} {more:?}: it is still answered"),
        );
    }
}

#[test]
fn who_does_not_take_what_is_told_is_cut_off_and_who_takes_it_slowly_is_not() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let line = QueueLine {
        path: "x".repeat(1000),
        ..QueueLine::default()
    };
    let talker = Talker {
        lines: vec![line; 4000],
        ..Talker::default()
    };
    let terms = Terms {
        groups: Some(Groups::default()),
        patience: Duration::from_millis(500),
    };
    let (service, handler) = (set("data"), Arc::new(talker));
    let _server =
        Server::start_on(scratch.path(), &service, handler, runtime.handle(), terms).unwrap();
    let socket = scratch.path().join("data.sock");
    let begin_to_ask = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let text = request_text("GET", "/v1/operations?count=4000", LINES, "");
        stream.write_all(text.as_bytes()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let mut idle = begin_to_ask();
    let mut slow = begin_to_ask();
    // Slower than it is told, for several times the patience.
    let (mut heard, mut chunk) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        match slow.read(&mut chunk).unwrap() {
            0 => break,
            count => heard.extend(&chunk[..count]),
        }
    }
    let told = crate::openapi::understand(&String::from_utf8_lossy(&heard));
    assert!(told.is_whole, "cut off after {} bytes", heard.len());
    assert_eq!(told.body.matches("\"item\"").count(), 8000);
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest);
    assert!(rest.len() < heard.len(), "it was waited for");
    let told = crate::openapi::understand(&String::from_utf8_lossy(&rest));
    assert!(!told.is_whole);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let terms = Terms {
        groups: Some(Groups::default()),
        patience: Duration::from_millis(200),
    };
    let (service, handler) = (set("data"), Arc::new(Talker::default()));
    let _server =
        Server::start_on(scratch.path(), &service, handler, runtime.handle(), terms).unwrap();
    let begin = Instant::now();
    let text = "POST /v1/mirror HTTP/1.1\r\ncontent-length: 15\r\n\r\n{\"kind\"";
    let told = say(&scratch.path().join("data.sock"), text.as_bytes());
    assert_eq!(told.status, 408, "{told:?}");
    assert!(begin.elapsed() < LONG);
}

#[test]
fn a_connection_is_for_one_request() {
    let (scratch, runtime) = (Scratch::new(), runtime());
    let _server = serve(&runtime, scratch.path(), "data", Talker::default());
    let text = request_text("GET", "/v1/status", ONE_VALUE, "").repeat(3);
    let told = say(&scratch.path().join("data.sock"), text.as_bytes());
    assert_eq!(
        (told.status, told.header("connection")),
        (200, Some("close"))
    );
    assert!(told.is_whole, "{told:?}");
}

/// Answers everybody on a socket with `text`, whatever was asked.
fn play(run_dir: &Path, service: &Service, text: &'static [u8]) {
    let listener = UnixListener::bind(service.socket(run_dir)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(text);
        }
    });
}

#[test]
fn a_worker_of_the_time_before_http_is_known_and_what_to_do_is_told() {
    let scratch = Scratch::new();
    let answer = b"{\"kind\":\"refused\",\"body\":{\"code\":\"malformed\",\"text\":\"not a line of JSON\"}}\n";
    for (service, remedy) in [
        (set("data"), "`doppelfs restart data`"),
        (Service::Target(7420), "stop that target"),
    ] {
        play(scratch.path(), &service, answer);
        let client = Client::connect(scratch.path(), &service).unwrap();
        let error = client.ask(&Request::Status, None).unwrap_err();
        assert!(matches!(error, Error::Older { .. }), "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
        assert!(error.to_string().contains("older version"), "{error}");
    }
    let ran = doppelfs(scratch.path())
        .args(["queue", "show", "data"])
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(2));
    let shown = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(shown.contains("doppelfs restart data"), "{shown}");
}

#[test]
fn a_refusal_before_the_question_is_understood() {
    let scratch = Scratch::new();
    let answer = b"HTTP/1.1 503 \r\ncontent-type: application/json\r\ncontent-length: 33\r\n\
        connection: close\r\n\r\n{\"code\":\"busy\",\"text\":\"too many\"}";
    let service = set("data");
    let listener = UnixListener::bind(service.socket(scratch.path())).unwrap();
    for hears_first in [false, true] {
        let client = Client::connect(scratch.path(), &service).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut tell = move || {
            if hears_first {
                let _ = stream.read(&mut [0; 4096]);
            }
            stream.write_all(answer).unwrap();
        };
        // It has been told, and the connection closed, before it asks; or while it listens.
        let told = match hears_first {
            true => Some(std::thread::spawn(tell)),
            false => {
                tell();
                drop(tell);
                None
            }
        };
        match client.ask(&Request::Status, None).unwrap_err() {
            Error::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Busy),
            other => panic!("{hears_first}: {other}"),
        }
        told.into_iter().for_each(|told| told.join().unwrap());
    }
}

#[test]
fn an_answer_without_its_end_is_none() {
    let scratch = Scratch::new();
    let cases: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n{\"kind\":\"alive\"}\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{\"kind\":\"alive\"}",
        b"HTTP/1.1 200 OK\r\ncontent-ty",
    ];
    for (number, answer) in cases.into_iter().enumerate() {
        let service = set(&format!("s{number}"));
        play(scratch.path(), &service, answer);
        let client = Client::connect(scratch.path(), &service).unwrap();
        let error = client.ask(&Request::Status, Some(LONG)).unwrap_err();
        assert!(matches!(error, Error::CutOff { .. }), "{number}: {error}");
    }
    let strange = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    play(scratch.path(), &set("web"), strange);
    let client = Client::connect(scratch.path(), &set("web")).unwrap();
    let error = client.ask(&Request::Status, None).unwrap_err();
    assert!(matches!(error, Error::NotUnderstood { .. }), "{error}");
    assert!(error.to_string().contains("hello"), "{error}");
}
