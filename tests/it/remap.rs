//! Which links are remapped, and to what: one table.

use doppelfs::types::{REMAP_BYTES_MAX, Remap};

fn remap(from: &[&str], to: &str) -> Remap {
    Remap {
        from: from.iter().map(|&path| path.to_owned()).collect(),
        to: to.to_owned(),
    }
}

#[track_caller]
fn check(remap: &Remap, rows: &[(&str, Option<&str>)]) {
    for (target, expected) in rows {
        let found = remap.rewritten(target.as_bytes());
        let found = found.map(|path| String::from_utf8(path).expect("as the words of the table"));
        assert_eq!(found.as_deref(), *expected, "{target:?} by {remap:?}");
    }
}

#[test]
fn absolute_targets_in_the_set_lead_into_the_replica() {
    check(
        &remap(&["/srv/data"], "/replicas/host/data"),
        &[
            ("/srv/data", Some("/replicas/host/data")),
            ("/srv/data/a", Some("/replicas/host/data/a")),
            ("/srv/data/a/b c", Some("/replicas/host/data/a/b c")),
            (
                "/srv/data/\n\u{1F980}",
                Some("/replicas/host/data/\n\u{1F980}"),
            ),
            // By their text alone.
            ("//srv/.//data/./a", Some("/replicas/host/data/a")),
            ("/srv/other/../data/a", Some("/replicas/host/data/a")),
            ("/../srv/data/a/../../data/b", Some("/replicas/host/data/b")),
            // What is a directory stays one.
            ("/srv/data/", Some("/replicas/host/data/")),
            ("/srv/data/a/", Some("/replicas/host/data/a/")),
            ("/srv/data/a/.", Some("/replicas/host/data/a/")),
            ("/srv/data/a/b/..", Some("/replicas/host/data/a/")),
            // Names, not dots.
            ("/srv/data/...", Some("/replicas/host/data/...")),
        ],
    );
}

#[test]
fn all_other_targets_are_left_alone() {
    check(
        &remap(&["/srv/data"], "/replicas/host/data"),
        &[
            ("", None),
            ("a", None),
            ("../../srv/data/a", None),
            ("srv/data", None),
            ("./srv/data", None),
            ("/", None),
            ("/srv", None),
            ("/srv/", None),
            ("/srv/dat", None),
            ("/srv/data2", None),
            ("/srv/data.old/a", None),
            ("/srv/data/../other", None),
            ("/srv/data/a/../../..", None),
            ("/mnt/srv/data", None),
            ("/replicas/host/data/a", None),
            ("/SRV/data", None),
        ],
    );
}

#[test]
fn the_first_path_that_fits_counts() {
    // A mount point above the directory hides it.
    check(
        &remap(&["/srv", "/srv/data"], "/replica"),
        &[
            ("/srv/data/a", Some("/replica/data/a")),
            ("/srv/a", Some("/replica/a")),
        ],
    );
    check(
        &remap(&["/mnt/data", "/srv/data"], "/replica"),
        &[
            ("/mnt/data/a", Some("/replica/a")),
            ("/srv/data/a", Some("/replica/a")),
            ("/mnt/srv/data", None),
        ],
    );
}

#[test]
fn a_replica_at_the_same_path_needs_nothing() {
    check(
        &remap(&["/srv/data"], "/srv/data/"),
        &[("/srv/data/a", None), ("/srv//data/a", None)],
    );
}

#[test]
fn odd_settings_remap_nothing_or_what_they_say() {
    check(&remap(&[], "/replica"), &[("/a", None)]);
    check(&remap(&["data"], "/replica"), &[("/data/a", None)]);
    check(&remap(&["/data"], "replica"), &[("/data/a", None)]);
    check(
        &remap(&["/data"], "/"),
        &[("/data", Some("/")), ("/data/a", Some("/a"))],
    );
    check(
        &remap(&["/data/"], "/replica//x/"),
        &[("/data/a", Some("/replica/x/a"))],
    );
}

#[test]
fn targets_are_bytes() {
    let remap = remap(&["/d"], "/replica");
    assert_eq!(
        remap.rewritten(b"/d/\xff\xfe"),
        Some(b"/replica/\xff\xfe".to_vec())
    );
}

#[test]
fn what_may_not_fit_on_the_replica_is_left_alone() {
    let remap = remap(&["/d"], "/replica");
    let of_length = |length: usize| format!("/d/{}", "n".repeat(length - 3));
    let grows = "/replica".len() - "/d".len();
    let fits = of_length(REMAP_BYTES_MAX - grows);
    let rewritten = remap.rewritten(fits.as_bytes()).expect("fits");
    assert_eq!(rewritten.len(), REMAP_BYTES_MAX);
    assert_eq!(
        remap.rewritten(of_length(REMAP_BYTES_MAX - grows + 1).as_bytes()),
        None
    );
    let shrinks = Remap {
        from: vec!["/a-long-path".to_owned()],
        to: "/r".to_owned(),
    };
    let original = format!("/a-long-path/{}", "n".repeat(REMAP_BYTES_MAX));
    assert_eq!(shrinks.rewritten(original.as_bytes()), None);
}
