//! Goal: the description of the API says what the API does, and the API does nothing that it does not say.
//! Method: the table of routes against the file, both ways; a worker with rich answers is asked each question
//! by hand, in both forms, and what it says is held against the schemas, in which nothing may be missing.

use crate::cli_scratch::{Scratch, runtime, set};
use crate::openapi::{Description, LINES, ONE_VALUE, Told, ask};
use doppelfs::control::status::{
    ConfinementStatus, ConnectionStatus, DataState, LayerState, MarkStatus, MirrorState,
    MirrorStatus, PauseStatus, QueueStatus, Replication, RootStatus, SetState, SetStatus,
    StreamStatus, TargetState, TargetStatus, Transmit,
};
use doppelfs::control::{
    Access, Answer, BodyKind, CursorLine, DESCRIPTION, DESCRIPTION_PATH, Handler, Item, Items,
    MirrorKind, ParameterKind, PeerLine, PeersReport, QueueLine, QueueReport, ROUTES, Refusal,
    RefusalCode, RefusalLine, Reply, Request, Route, SecretText, SegmentLine, Server,
};
use doppelfs::stats::{ConnectionSnapshot, Snapshot, StreamNumbers, TargetNumbers};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A worker that has something to tell everywhere.
#[derive(Clone, Copy)]
enum Speaker {
    Set,
    Target,
    Refuses(RefusalCode),
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn full_set() -> SetStatus {
    SetStatus {
        name: "data".to_owned(),
        roots: vec![RootStatus::default()],
        connections: vec![
            ConnectionStatus::default(),
            ConnectionStatus {
                connected_since: Some(7),
                last_path: text("a/b"),
                protection: text("plain"),
                pause: Some(PauseStatus::default()),
                error: text("no"),
                lag_seconds: 0.5,
                mirror: MirrorStatus {
                    percent: Some(0.5),
                    remaining_bytes: Some(u64::MAX),
                    ..MirrorStatus::default()
                },
                ..ConnectionStatus::default()
            },
        ],
        mark: Some(MarkStatus::default()),
        queue: QueueStatus {
            used_percent: Some(0.5),
            ..QueueStatus::default()
        },
        warnings: vec!["a warning".to_owned()],
        error: text("no"),
        ..SetStatus::default()
    }
}

fn full_target() -> TargetStatus {
    TargetStatus {
        last_refusal: text("no"),
        confinement: ConfinementStatus {
            capabilities_kept: vec!["CHOWN".to_owned()],
            landlock_version: Some(6),
            landlock_refuses: vec!["tcp".to_owned()],
            lacks: vec!["a layer".to_owned()],
            ..ConfinementStatus::default()
        },
        streams: vec![StreamStatus {
            remap_from: vec!["/srv".to_owned()],
            mark: Some(MarkStatus::default()),
            protection: text("plain"),
            error: text("no"),
            ..StreamStatus::default()
        }],
        error: text("no"),
        ..TargetStatus::default()
    }
}

fn full_peer() -> PeerLine {
    PeerLine {
        keys: vec!["k".to_owned()],
        grants: vec!["g".to_owned()],
        connected: vec!["data".to_owned()],
        quota_bytes: Some(1),
        quota_files: Some(2),
        used_bytes: Some(3),
        used_files: Some(4),
        knows_next_key: Some(true),
        ..PeerLine::default()
    }
}

fn full_reply(request: &Request) -> Reply {
    match request {
        Request::Status => Reply::Set(Box::new(full_set())),
        Request::Wait { .. } => Reply::Waited {
            caught_up: false,
            reason: text("the target sleeps"),
        },
        Request::QueueShow => Reply::Queue(Box::new(QueueReport {
            disk_bytes_max: Some(1),
            segments: vec![SegmentLine::default()],
            cursors: vec![CursorLine::default()],
            ..QueueReport::default()
        })),
        Request::Stats => Reply::Stats(Box::new(Snapshot {
            connections: vec![ConnectionSnapshot::default()],
            ..Snapshot::default()
        })),
        Request::MirrorStart { .. } => Reply::MirrorStarted { mirror: 7 },
        Request::PrepareUmount => Reply::Prepared { worker_pid: 7 },
        Request::Invite { .. } => Reply::Invited {
            token: SecretText("secret".to_owned()),
            key: "k".to_owned(),
        },
        Request::Peers => Reply::Peers(Box::new(PeersReport {
            next_key: text("k"),
            peers: vec![PeerLine::default(), full_peer()],
            refusals: vec![RefusalLine::default()],
            ..PeersReport::default()
        })),
        Request::RevokePeer { .. } | Request::SetPeer { .. } => Reply::Peer(Box::new(full_peer())),
        Request::RotateKey { .. } => Reply::KeyRotated {
            key: "k".to_owned(),
            finished: false,
            untold: vec!["web1".to_owned()],
        },
        Request::Hold { .. } => Reply::Held { hold: 7 },
        Request::Mark { .. } | Request::Pause { .. } => Reply::Marked { seq: 7 },
        Request::PauseReplicas { .. } | Request::ResumeReplicas { .. } => Reply::Replicas {
            paths: vec!["web1/data".to_owned()],
        },
        Request::QueueTail { .. }
        | Request::QueueFind { .. }
        | Request::AbandonUmount
        | Request::Stop
        | Request::Resume
        | Request::Disconnect { .. }
        | Request::Connect
        | Request::StopReplication
        | Request::StartReplication => Reply::Done,
    }
}

impl Handler for Speaker {
    fn handle(self: Arc<Self>, request: Request, items: Items) -> Answer {
        Box::pin(async move {
            if let Speaker::Refuses(code) = *self {
                return Err(Refusal::new(code, "no"));
            }
            if let Request::QueueTail { count, .. } | Request::QueueFind { count, .. } = &request {
                for seq in 0..*count {
                    let line = QueueLine {
                        seq,
                        to: text("b"),
                        offset: Some(5),
                        ..QueueLine::default()
                    };
                    items.send(Item::Record(line)).await;
                }
            }
            Ok(match (*self, &request) {
                (Speaker::Target, Request::Status) => Reply::Target(Box::new(full_target())),
                (Speaker::Target, Request::Stats) => Reply::TargetStats(Box::new(TargetNumbers {
                    streams: vec![StreamNumbers::default()],
                    ..TargetNumbers::default()
                })),
                _ => full_reply(&request),
            })
        })
    }
}

struct Spoken {
    scratch: Scratch,
    _server: Server,
    _runtime: Runtime,
}

impl Spoken {
    fn new(speaker: Speaker) -> Spoken {
        let (scratch, runtime) = (Scratch::new(), runtime());
        let handler = Arc::new(speaker);
        let server = Server::start(scratch.path(), &set("data"), handler, runtime.handle());
        Spoken {
            _server: server.unwrap(),
            scratch,
            _runtime: runtime,
        }
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path().join("data.sock")
    }

    /// Asks a question as somebody may who has read the description only.
    fn ask(&self, description: &Description, route: &Route, accept: &str) -> Told {
        let operation = description.operation(route.method, route.path);
        let target = route.path.replace("{name}", "web%201");
        let schema = &operation["requestBody"]["content"][ONE_VALUE]["schema"];
        let body = match schema.is_object() {
            true => sample(description, schema).to_string(),
            false => String::new(),
        };
        ask(&self.socket(), route.method, &target, accept, &body)
    }
}

/// A value for a schema: what is required, and the first word of each enumeration.
fn sample(description: &Description, schema: &Value) -> Value {
    if let Some(place) = schema["$ref"].as_str() {
        return sample(description, description.0.pointer(&place[1..]).unwrap());
    }
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let names = schema["required"].as_array().into_iter().flatten();
            let names = names.map(|name| name.as_str().unwrap());
            let field = |name: &str| {
                let value = sample(description, &schema["properties"][name]);
                (name.to_owned(), value)
            };
            Value::Object(names.map(field).collect())
        }
        Some("integer") => json!(60),
        Some("string") => json!("text"),
        Some("boolean") => json!(false),
        other => panic!("no sample of {other:?}"),
    }
}

/// What the file and the table do not have in common.
fn strangers(description: &Description) -> Vec<String> {
    let mut wrong = Vec::new();
    let described: BTreeSet<(String, String)> = description
        .operations()
        .into_iter()
        .map(|(method, path, _)| (method, path))
        .collect();
    let route = |route: &Route| (route.method.to_owned(), route.path.to_owned());
    let mut known: BTreeSet<(String, String)> = ROUTES.iter().map(route).collect();
    known.insert(("GET".to_owned(), DESCRIPTION_PATH.to_owned()));
    for (method, path) in known.symmetric_difference(&described) {
        wrong.push(format!("{method} {path} is in one of table and file only"));
    }
    for route in ROUTES {
        let operation = description.operation(route.method, route.path);
        let mut differ = |what: &str, ours: Value, theirs: &Value| {
            if ours != *theirs {
                wrong.push(format!(
                    "{}: {what}: {ours}, described as {theirs}",
                    route.name
                ));
            }
        };
        differ("name", json!(route.name), &operation["operationId"]);
        let parameter = |parameter: &doppelfs::control::Parameter| {
            let mut schema = match parameter.kind {
                ParameterKind::Flag => json!({"type": "boolean"}),
                ParameterKind::Number => json!({"type": "integer", "minimum": 0}),
            };
            if let Some(default) = parameter.default {
                schema["default"] = serde_json::from_str(default).unwrap();
            }
            json!([parameter.name, "query", false, schema])
        };
        let mut parameters: Vec<Value> = route.query.iter().map(parameter).collect();
        let place = |name| json!([name, "path", true, {"type": "string"}]);
        parameters.extend(route.place().map(place));
        let theirs = operation["parameters"].as_array().into_iter().flatten();
        let theirs = theirs.map(|p| json!([p["name"], p["in"], p["required"], p["schema"]]));
        differ("parameters", json!(parameters), &theirs.collect());
        let has_body = operation["requestBody"].is_object();
        differ(
            "body",
            json!(route.body != BodyKind::Empty),
            &json!(has_body),
        );
        let responses = operation["responses"].as_object().into_iter().flatten();
        let statuses: Value = responses.map(|(status, _)| status.as_str()).collect();
        let ours: Vec<String> = route.statuses().iter().map(u16::to_string).collect();
        differ("statuses", json!(ours), &statuses);
    }
    wrong
}

#[test]
fn table_and_description_have_the_same_routes() {
    let mut description = Description::new();
    assert_eq!(description.0["openapi"], "3.1.0");
    assert_eq!(strangers(&description), [""; 0]);
    // Each kind of difference is seen.
    let paths = description.0["paths"].as_object_mut().unwrap();
    let stats = paths.remove("/v1/stats").unwrap();
    paths.insert("/v1/statistics".to_owned(), stats);
    paths["/v1/wait"]["get"]["parameters"][1]["schema"] = json!({"type": "string"});
    paths["/v1/queue"]["get"]["responses"]["418"] = json!({});
    paths["/v1/stop"]["post"]["operationId"] = json!("end");
    paths["/v1/mirror"]["post"]["requestBody"] = Value::Null;
    let wrong = strangers(&description).join("\n");
    for words in [
        "GET /v1/stats is in one",
        "GET /v1/statistics is in one",
        "wait: parameters",
        "queue-show: statuses",
        "stop: name",
        "mirror-start: body",
    ] {
        assert!(wrong.contains(words), "{words}: {wrong}");
    }
}

#[test]
fn the_group_that_may_ask_is_told_rightly() {
    let description = Description::new();
    for route in ROUTES {
        let operation = description.operation(route.method, route.path);
        let schema = &operation["requestBody"]["content"][ONE_VALUE]["schema"];
        let body = match schema.is_object() {
            true => sample(&description, schema).to_string(),
            false => String::new(),
        };
        let request = route.read(Some("web1"), "", body.as_bytes()).unwrap();
        let group = match request.needs() {
            Access::Look => "doppelfs-monitor",
            Access::Act => "doppelfs-admin",
        };
        assert_eq!(operation["x-access"], group, "{}", route.name);
    }
}

#[test]
fn schemas_can_grow_and_have_no_words_that_are_not_checked() {
    assert_eq!(Description::new().strange_words(), [""; 0]);
}

/// The words that a type has, as its own error tells them.
fn words_of<T: DeserializeOwned>() -> BTreeSet<String> {
    let error = serde_json::from_str::<T>("\"?\"")
        .err()
        .unwrap()
        .to_string();
    let words = error.split('`').skip(3).step_by(2);
    words.map(str::to_owned).collect()
}

#[test]
fn enumerations_have_the_words_of_the_code() {
    let described: [(&str, BTreeSet<String>); 9] = [
        ("SetState", words_of::<SetState>()),
        ("Transmit", words_of::<Transmit>()),
        ("DataState", words_of::<DataState>()),
        ("TargetState", words_of::<TargetState>()),
        ("Replication", words_of::<Replication>()),
        ("MirrorState", words_of::<MirrorState>()),
        ("LayerState", words_of::<LayerState>()),
        ("MirrorKind", words_of::<MirrorKind>()),
        ("RefusalCode", words_of::<RefusalCode>()),
    ];
    let description = Description::new();
    for (name, words) in &described {
        assert!(words.len() > 1, "{name}: {words:?}");
        let theirs = description.schema(name)["enum"].as_array().unwrap();
        let theirs: BTreeSet<String> = theirs
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(*words, theirs, "{name}");
    }
    let schemas = description.0["components"]["schemas"].as_object().unwrap();
    let with_words = schemas
        .iter()
        .filter(|(_, schema)| schema["enum"].is_array());
    assert_eq!(with_words.count(), described.len(), "one is not compared");
}

#[test]
fn every_answer_is_as_described() {
    let description = Description::new();
    for speaker in [Speaker::Set, Speaker::Target] {
        let spoken = Spoken::new(speaker);
        for route in ROUTES {
            for accept in [ONE_VALUE, LINES] {
                let told = spoken.ask(&description, route, accept);
                assert_eq!((told.status, told.kind()), (200, accept), "{}", route.name);
                let wrong = description.differences(route.method, route.path, &told);
                assert!(wrong.is_empty(), "{}\n{told:#?}", wrong.join("\n"));
            }
        }
        let told = ask(&spoken.socket(), "GET", DESCRIPTION_PATH, "*/*", "");
        assert_eq!((told.status, told.body.as_str()), (200, DESCRIPTION));
    }
}

#[test]
fn what_is_missing_in_the_description_is_found() {
    let spoken = Spoken::new(Speaker::Set);
    let route = &ROUTES[0];
    let plant = |change: fn(&mut Value)| {
        let mut description = Description::new();
        let told = spoken.ask(&description, route, ONE_VALUE);
        change(&mut description.0["components"]["schemas"]);
        let wrong = description.differences(route.method, route.path, &told);
        wrong.join("\n")
    };
    let wrong = plant(|schemas| {
        let properties = schemas["ConnectionStatus"]["properties"].as_object_mut();
        properties.unwrap().remove("staged").unwrap();
    });
    assert!(
        wrong.contains("connections[0].staged: is not described"),
        "{wrong}"
    );
    let wrong =
        plant(|schemas| schemas["SetStatus"]["properties"]["name"]["type"] = json!("integer"));
    assert!(wrong.contains("does not fit \"data\""), "{wrong}");
    let wrong = plant(|schemas| schemas["SetState"]["enum"] = json!(["paused"]));
    assert!(wrong.contains("does not fit \"ok\""), "{wrong}");
    let wrong = plant(|schemas| schemas["QueueStatus"]["required"] = json!(["colour"]));
    assert!(wrong.contains(".queue: required"), "{wrong}");
    assert_eq!(plant(|_| ()), "");
}

#[test]
fn a_refusal_has_its_status_and_is_as_described() {
    let description = Description::new();
    for code in RefusalCode::ALL {
        let spoken = Spoken::new(Speaker::Refuses(code));
        for route in ROUTES {
            for accept in [ONE_VALUE, LINES] {
                let told = spoken.ask(&description, route, accept);
                assert_eq!((told.status, told.kind()), (code.status(), accept));
                let wrong = description.differences(route.method, route.path, &told);
                assert!(wrong.is_empty(), "{}\n{told:#?}", wrong.join("\n"));
            }
        }
    }
}

#[test]
fn operations_are_one_value_or_lines() {
    let spoken = Spoken::new(Speaker::Set);
    let ask = |query: &str, accept| {
        let target = format!("/v1/operations{query}");
        ask(&spoken.socket(), "GET", &target, accept, "")
    };
    let count = |told: &Told| told.json()["items"].as_array().unwrap().len();
    assert_eq!(count(&ask("", ONE_VALUE)), 10);
    assert_eq!(count(&ask("?count=0", ONE_VALUE)), 0);
    assert_eq!(count(&ask("?count=3", ONE_VALUE)), 3);
    let lines = ask("?count=3", LINES);
    assert_eq!(lines.body.lines().count(), 4);
    // What goes on has no other form.
    let lines = ask("?count=3&follow=true", ONE_VALUE);
    assert_eq!((lines.kind(), lines.body.lines().count()), (LINES, 4));
    // Memory has an end.
    let told = ask("?count=1000000", ONE_VALUE);
    assert_eq!(
        (told.status, told.json()["code"].as_str()),
        (400, Some("malformed"))
    );
    assert!(told.body.contains(LINES), "{}", told.body);
}

#[test]
fn curl_is_enough() {
    let spoken = Spoken::new(Speaker::Set);
    let curl = |words: &str| {
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--show-error", "--unix-socket"]);
        command.arg(spoken.socket()).args(words.split(' '));
        command.output()
    };
    let Ok(output) = curl("http://doppelfs/v1/status") else {
        eprintln!("SKIPPED curl_is_enough: there is no curl");
        return;
    };
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&status["reply"], &status["name"]),
        (&json!("set"), &json!("data"))
    );
    for words in [
        "-d {\"kind\":\"full\"} http://doppelfs/v1/mirror",
        "-X POST http://doppelfs/v1/umount/prepare",
        "-X PATCH -d {\"quota_bytes\":5} http://doppelfs/v1/peers/web1",
        "-X DELETE http://doppelfs/v1/peers/web1",
        "-X POST http://doppelfs/v1/key",
    ] {
        let output = curl(&format!("--fail {words}")).unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}: {shown}");
    }
    let begin = std::time::Instant::now();
    assert!(
        !curl("--fail http://doppelfs/v1/dance")
            .unwrap()
            .status
            .success()
    );
    assert!(begin.elapsed() < Duration::from_secs(30));
}
