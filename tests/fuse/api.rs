//! Goal: what a real worker and a real target answer to who has nothing but a socket and the description is
//! what that says. Method: every request over HTTP by hand, in both forms.

use std::path::Path;

use doppelfs::control::ROUTES;

use crate::openapi::{Description, LINES, ONE_VALUE, Told, ask};
use crate::support::{Fixture, is_ready};

/// Asks, and holds the answer against the description.
fn asked(socket: &Path, words: &str, target: &str, accept: &str, body: &str) -> Told {
    let description = Description::new();
    let (method, path) = words.split_once(' ').expect("method and path");
    let told = ask(socket, method, target, accept, body);
    let wrong = description.differences(method, path, &told);
    assert!(wrong.is_empty(), "{}\n{told:#?}", wrong.join("\n"));
    assert_eq!(told.kind(), accept, "{told:#?}");
    told
}

#[test]
fn real_workers_answer_as_described() {
    let test = "real_workers_answer_as_described";
    if !is_ready(test) {
        return;
    }
    let mut fixture = Fixture::new(test);
    fixture.start();
    std::fs::create_dir(fixture.path("dir")).expect("make a directory");
    std::fs::write(fixture.path("dir/file"), "content").expect("write");
    std::fs::rename(fixture.path("dir/file"), fixture.path("file")).expect("rename");
    fixture.caught_up();
    let set = fixture.run_dir().join("data.sock");
    let port = fixture.target.port();
    let target = fixture.run_dir().join(format!("target-{port}.sock"));
    let peers = asked(&target, "GET /v1/peers", "/v1/peers", ONE_VALUE, "").json();
    let name = peers["peers"][0]["name"].as_str().expect("a source");
    let none = "";
    let kind = |kind: &str| format!("{{\"kind\":\"{kind}\"}}");
    let (full, difference) = (kind("full"), kind("difference"));
    // What revokes or ends is asked of the one that refuses it.
    let questions: [(&Path, &str, &str, &str, u16); 32] = [
        (&set, "GET /v1/status", "", none, 200),
        (&set, "GET /v1/wait", "?timeout_ms=60000", none, 200),
        (&set, "GET /v1/operations", "?count=5", none, 200),
        (&set, "GET /v1/queue", "", none, 200),
        (&set, "GET /v1/stats", "", none, 200),
        (&set, "POST /v1/hold", "", "{\"milliseconds\":100}", 200),
        (&set, "POST /v1/marks", "", "{\"name\":\"m1\"}", 200),
        (&set, "POST /v1/marks", "", "{\"name\":\"../m\"}", 400),
        (&set, "POST /v1/pause", "", "{\"name\":\"m2\"}", 200),
        (&set, "GET /v1/status", "", none, 200),
        (&set, "POST /v1/resume", "", none, 200),
        (&set, "POST /v1/disconnect", "", none, 200),
        (&set, "POST /v1/connect", "", none, 200),
        (&set, "POST /v1/replication/stop", "", none, 200),
        (&set, "POST /v1/replication/start", "", none, 200),
        (&set, "POST /v1/mirror", "", &full, 200),
        (&set, "POST /v1/mirror", "", &difference, 409),
        (
            &set,
            "POST /v1/operations/find",
            "",
            "{\"follow\":false,\"count\":5,\"filter\":{\"ops\":[\"write\"]}}",
            200,
        ),
        (&set, "POST /v1/operations/find", "", "{}", 400),
        (&set, "POST /v1/umount/prepare", "", none, 200),
        (&set, "POST /v1/umount/abandon", "", none, 200),
        (&set, "POST /v1/stop", "", none, 409),
        (&target, "GET /v1/status", "", none, 200),
        (&target, "GET /v1/peers", "", none, 200),
        (&target, "GET /v1/queue", "", none, 409),
        (
            &target,
            "POST /v1/invitations",
            "",
            "{\"expires_seconds\":60}",
            200,
        ),
        (&target, "POST /v1/invitations", "", "{}", 400),
        (
            &target,
            "PATCH /v1/peers/{name}",
            "",
            "{\"quota_files\":100000}",
            200,
        ),
        (&set, "DELETE /v1/peers/{name}", "", none, 409),
        (&target, "POST /v1/key", "", none, 200),
        (
            &target,
            "POST /v1/replicas/pause",
            "",
            "{\"now\":true}",
            200,
        ),
        (&target, "POST /v1/replicas/resume", "", none, 200),
    ];
    for accept in [ONE_VALUE, LINES] {
        for (socket, words, query, body, status) in questions {
            let (_, path) = words.split_once(' ').expect("a path");
            let place = path.replace("{name}", name) + query;
            let told = asked(socket, words, &place, accept, body);
            assert_eq!(told.status, status, "{words}: {told:#?}");
        }
        fixture.caught_up();
    }
    let answered: Vec<&str> = questions.iter().map(|(_, words, ..)| *words).collect();
    for route in ROUTES {
        let words = format!("{} {}", route.method, route.path);
        assert!(answered.contains(&&*words), "{words} is not asked");
    }
    let operations = asked(
        &set,
        "GET /v1/operations",
        "/v1/operations?count=1000000",
        ONE_VALUE,
        "",
    );
    let operations = operations.json();
    let items = operations["items"].as_array().expect("items");
    let renamed = items.iter().find(|item| item["op"] == "rename");
    assert_eq!(renamed.expect("a rename")["to"], "file");
    fixture.finish();
}
