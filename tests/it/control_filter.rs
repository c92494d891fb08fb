//! Goal: a filter of the queue lets through what its words say. Method: lines by hand.

use doppelfs::control::{QueueFilter, QueueLine, ROUTES, Request, encode_request};

fn line(path: &str, to: Option<&str>) -> QueueLine {
    QueueLine {
        path: path.to_owned(),
        to: to.map(str::to_owned),
        pid: 7,
        uid: 1000,
        ..QueueLine::default()
    }
}

fn by_path(pattern: &str) -> QueueFilter {
    QueueFilter {
        paths: vec![pattern.to_owned()],
        ..QueueFilter::default()
    }
}

#[test]
fn paths_are_a_directory_or_a_pattern() {
    let cases = [
        ("mail", "mail", true),
        ("mail", "mail/a/b", true),
        ("mail/", "mail/a", true),
        ("./mail", "mail/a", true),
        ("mail", "mailbox", false),
        ("mail", "a/mail", false),
        (".", "anything/at/all", true),
        ("*.db", "a.db", true),
        ("*.db", "dir/a.db", false),
        ("**/*.db", "dir/sub/a.db", true),
        ("**/*.db", "a.db", true),
        ("mail/*", "mail/a", true),
        ("mail/*", "mail/a/b", false),
        ("mail/**", "mail/a/b", true),
        ("{a,b}/?", "b/x", true),
        ("{a,b}/?", "c/x", false),
        // Names are shown with their backslashes doubled.
        ("a\\\\b*", "a\\\\bc", true),
    ];
    for (pattern, path, fits) in cases {
        let matcher = by_path(pattern).matcher().unwrap();
        assert_eq!(matcher.takes(&line(path, None)), fits, "{pattern} {path}");
    }
    let matcher = by_path("to").matcher().unwrap();
    assert!(
        matcher.takes(&line("from/a", Some("to/a"))),
        "a rename has two paths"
    );
}

#[test]
fn of_several_kinds_all_have_to_fit_and_of_one_kind_any() {
    let filter = QueueFilter {
        pids: vec![6, 7],
        uids: vec![1000],
        ..by_path("mail")
    };
    assert!(filter.matcher().unwrap().takes(&line("mail/a", None)));
    let other = QueueFilter {
        uids: vec![0],
        ..filter.clone()
    };
    assert!(!other.matcher().unwrap().takes(&line("mail/a", None)));
    let other = QueueFilter {
        pids: vec![8],
        ..filter
    };
    assert!(!other.matcher().unwrap().takes(&line("mail/a", None)));
    assert!(
        QueueFilter::default()
            .matcher()
            .unwrap()
            .takes(&line("mail/a", None))
    );
}

#[test]
fn what_cannot_be_meant_is_said() {
    let error = by_path("a[b").matcher().unwrap_err().to_string();
    assert!(error.starts_with("--path a[b: "), "{error}");
    let filter = QueueFilter {
        ops: vec!["wirte".to_owned()],
        ..QueueFilter::default()
    };
    let error = filter.matcher().unwrap_err().to_string();
    assert!(
        error.contains("wirte") && error.contains("write, "),
        "{error}"
    );
}

#[test]
fn a_request_with_a_filter_may_leave_out_what_is_not_asked_for() {
    let route = ROUTES
        .iter()
        .find(|route| route.name == "queue-find")
        .unwrap();
    let body = br#"{"follow":true,"count":3,"filter":{"ops":["write"]}}"#;
    let request = route.read(None, "", body).unwrap();
    let expected = Request::QueueFind {
        follow: true,
        count: 3,
        filter: QueueFilter {
            ops: vec!["write".to_owned()],
            ..QueueFilter::default()
        },
    };
    assert_eq!(request, expected);
    let asked = encode_request(&expected).unwrap();
    assert_eq!(
        asked.route.read(None, &asked.query, &asked.body).unwrap(),
        expected
    );
}
