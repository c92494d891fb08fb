//! Goal: who watches the mount hears what who watches the file system below would hear, in the same
//! order. Method: the same program in two copies of a file system, one mounted over, with an observer
//! of the kernel on each.

use std::path::Path;

use nix::sys::fanotify::{self, EventFFlags, Fanotify, MarkFlags, MaskFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::support::{Pair, is_ready, program};

/// One of everything that a directory's watchers hear of.
const CHANGES: &str = r#"
    echo a > w/f; cat w/f; echo b >> w/f; cat w/f; mv w/f w/g; chmod 600 w/g; touch -d 2000-01-01 w/g
    chown 1 w/g; mkdir w/d; rmdir w/d; ln w/g w/h; ln -s x w/l; readlink w/l; mv w/h w/sub/h
    mkfifo w/p; truncate -s 100 w/g; rm w/g w/l w/p w/sub/h
    xfs_io -f -c "pwrite -q 0 10" -c "falloc 0 100" -c "truncate 5" w/x
    xfs_io -f -c "copy_range -l 5 w/x" w/y; ls w; mv w/y w/x; mv w/x outside; mv outside w/z
    mv w/sub w/sub2; rm -r w/sub2; : > w/z; rm -r w"#;

fn run_in(dir: &Path, script: &str) {
    program("sh")
        .args(["-c", script])
        .current_dir(dir)
        .succeed();
}

/// What inotify(7) says while the changes are made. All is read afterwards: it is there when the call
/// that it is about has returned.
fn inotified(dir: &Path) -> Vec<String> {
    std::fs::create_dir_all(dir.join("w/sub")).expect("mkdir");
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("inotify");
    for watched in ["w", "w/sub"] {
        let all = AddWatchFlags::IN_ALL_EVENTS;
        inotify.add_watch(&dir.join(watched), all).expect("watch");
    }
    run_in(dir, CHANGES);
    let mut heard = Vec::new();
    while let Ok(events) = inotify.read_events() {
        for event in events {
            let mut line = format!("{:?} {:?} {:?}", event.wd, event.mask, event.name);
            line.push_str(if event.cookie == 0 {
                ""
            } else {
                " with another"
            });
            heard.push(line);
        }
    }
    heard
}

/// What fanotify(7) says about one mount while the changes are made.
fn fanotified(dir: &Path) -> Vec<String> {
    std::fs::create_dir_all(dir.join("w/sub")).expect("mkdir");
    let flags = fanotify::InitFlags::FAN_CLOEXEC | fanotify::InitFlags::FAN_NONBLOCK;
    let fanotify = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC);
    let fanotify = fanotify.expect("fanotify");
    let here = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
    let events = MaskFlags::FAN_OPEN
        | MaskFlags::FAN_ACCESS
        | MaskFlags::FAN_MODIFY
        | MaskFlags::FAN_CLOSE_WRITE
        | MaskFlags::FAN_CLOSE_NOWRITE
        | MaskFlags::FAN_ONDIR;
    let at = std::fs::File::open(dir).expect("open");
    fanotify
        .mark(here, events, &at, None::<&Path>)
        .expect("mark");
    let mut heard = Vec::new();
    // One call after the other, read at once: what is not read yet is merged with what is the same.
    for call in [
        "echo a > w/f",
        "cat w/f",
        "echo b >> w/f",
        "cp w/f w/g",
        "ls w",
        r#"xfs_io -c "pwrite -q 0 10" -c "truncate 5" w/g"#,
        "mv w/g w/sub/h",
        "rm -r w",
    ] {
        run_in(dir, call);
        while let Ok(events) = fanotify.read_events() {
            heard.extend(
                events
                    .iter()
                    .map(|event| format!("{call}: {:?}", event.mask())),
            );
        }
    }
    heard
}

fn is_heard_as_below(test: &str, watch: fn(&Path) -> Vec<String>, wanted: &[&str]) {
    if !is_ready(test) {
        return;
    }
    for kind in ["ext4", "xfs"] {
        let Some(pair) = Pair::new(test, (kind, &[]), 300, "loop", |_| {}) else {
            continue;
        };
        let below = watch(pair.plain.path());
        let through = watch(pair.over.path());
        assert_eq!(through, below, "{kind}");
        for word in wanted {
            assert!(
                below.iter().any(|line| line.contains(word)),
                "no {word}: {below:?}"
            );
        }
        pair.finish();
    }
}

#[test]
fn inotify_hears_every_change_in_order() {
    let wanted = [
        "IN_CREATE",
        "IN_MODIFY",
        "IN_CLOSE_WRITE",
        "IN_MOVED_FROM",
        "IN_MOVED_TO",
        "IN_ATTRIB",
        "IN_DELETE",
        "IN_DELETE_SELF",
        "IN_MOVE_SELF",
        "IN_ACCESS",
        "IN_IGNORED",
    ];
    is_heard_as_below("inotify_hears_every_change_in_order", inotified, &wanted);
}

#[test]
fn fanotify_hears_every_change_in_order() {
    let wanted = ["FAN_OPEN", "FAN_MODIFY", "FAN_CLOSE_WRITE", "FAN_ACCESS"];
    is_heard_as_below("fanotify_hears_every_change_in_order", fanotified, &wanted);
}
