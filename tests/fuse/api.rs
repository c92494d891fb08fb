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
    let peer = format!("/v1/peers/{name}");
    let mut answered = Vec::new();
    // What revokes or ends is asked of the one that refuses it.
    for (socket, words, path, body, status) in [
        (&set, "GET /v1/status", "/v1/status", "", 200),
        (&set, "GET /v1/wait", "/v1/wait?timeout_ms=60000", "", 200),
        (
            &set,
            "GET /v1/operations",
            "/v1/operations?count=5",
            "",
            200,
        ),
        (&set, "GET /v1/queue", "/v1/queue", "", 200),
        (&set, "GET /v1/stats", "/v1/stats", "", 200),
        (
            &set,
            "POST /v1/mirror",
            "/v1/mirror",
            "{\"kind\":\"full\"}",
            200,
        ),
        (
            &set,
            "POST /v1/mirror",
            "/v1/mirror",
            "{\"kind\":\"difference\"}",
            409,
        ),
        (
            &set,
            "POST /v1/umount/prepare",
            "/v1/umount/prepare",
            "",
            200,
        ),
        (
            &set,
            "POST /v1/umount/abandon",
            "/v1/umount/abandon",
            "",
            200,
        ),
        (&set, "POST /v1/stop", "/v1/stop", "", 409),
        (&set, "DELETE /v1/peers/{name}", &peer, "", 409),
        (&target, "GET /v1/status", "/v1/status", "", 200),
        (&target, "GET /v1/peers", "/v1/peers", "", 200),
        (&target, "GET /v1/queue", "/v1/queue", "", 409),
        (
            &target,
            "POST /v1/invitations",
            "/v1/invitations",
            "{\"expires_seconds\":60}",
            200,
        ),
        (
            &target,
            "POST /v1/invitations",
            "/v1/invitations",
            "{}",
            400,
        ),
        (
            &target,
            "PATCH /v1/peers/{name}",
            &peer,
            "{\"quota_files\":100000}",
            200,
        ),
        (
            &target,
            "PATCH /v1/peers/{name}",
            "/v1/peers/nobody",
            "{}",
            409,
        ),
        (
            &target,
            "DELETE /v1/peers/{name}",
            "/v1/peers/nobody",
            "",
            409,
        ),
        (&target, "POST /v1/key", "/v1/key", "", 200),
    ] {
        for accept in [ONE_VALUE, LINES] {
            let told = asked(socket, words, path, accept, body);
            assert_eq!(told.status, status, "{words}: {told:#?}");
        }
        answered.push(words.to_owned());
    }
    for route in ROUTES {
        let words = format!("{} {}", route.method, route.path);
        assert!(answered.contains(&words), "{words} is not asked");
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
