//! Goal: a target that cannot go on says so, holds, and goes on when the cause is gone. Method: a
//! replica changed by hand; a state directory on a file system that is full.

use std::path::Path;
use std::process::Command;

use doppelfs::receiver::Target;
use doppelfs::wire::{DataState, TargetState};

use super::link_support::{Site, Source};

#[test]
fn a_replica_changed_by_hand_is_held_until_a_mirror_repairs_it() {
    let Some(site) = Site::new("by-hand") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    for name in ["a", "b"] {
        source.create(name);
        source.write(name, name.as_bytes());
    }
    site.await_caught_up(&source, &sender);
    std::fs::remove_file(site.replica().join("a")).unwrap();
    source.unlink("a");
    source.write("b", b"more");
    let state = site.await_state(&sender, "held stream", |s| {
        s.target_state == TargetState::Retrying
    });
    let text = state.error.unwrap();
    assert!(text.contains("/a"), "{text}");
    assert!(state.marks.applied < state.marks.received);
    assert!(state.lags.applied.ops >= 1);
    sender.require_mirror();
    let state = site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(state.target_state, TargetState::Ok);
    assert_eq!(state.error, None);
}

#[test]
fn what_stood_at_the_mirror_path_before_is_replaced() {
    let Some(site) = Site::new("before") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    source.create("a");
    source.write("a", b"right");
    std::fs::create_dir_all(site.replica().join("dir/sub")).unwrap();
    std::fs::write(site.replica().join("dir/sub/x"), b"old").unwrap();
    std::fs::write(site.replica().join("a"), b"wrong").unwrap();
    let sender = source.connect(site.address(), &site.runtime);
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_state_directory_holds_the_stream_and_freed_space_frees_it() {
    let Some(mut site) = Site::new("full") else {
        return;
    };
    site.stop();
    let state = site.scratch.dir("small");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"])
        .arg(&state)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no tmpfs can be mounted");
        return;
    }
    let mounted = Mounted(&state);
    let mut options = site.options();
    options.state = state.clone();
    options.queue.segment_bytes = 4 << 20;
    options.queue.free_bytes_min = 8 << 20;
    site.target = Some(Target::serve(options).unwrap());
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    source.create("a");
    site.await_caught_up(&source, &sender);
    let filler = state.join("filler");
    let mut size = 80 << 20;
    // As full as it gets.
    while size > 0 && std::fs::write(&filler, vec![1u8; size]).is_err() {
        size -= 1 << 20;
    }
    let chunk = vec![b'q'; 1 << 20];
    for _ in 0..40 {
        source.write("a", &chunk);
    }
    let held = site.await_state(&sender, "held intake", |s| {
        s.error.as_deref().is_some_and(|e| e.contains("room"))
    });
    assert_eq!(held.target_state, TargetState::Retrying);
    assert!(held.error.unwrap().contains("free space"));
    std::fs::remove_file(&filler).unwrap();
    let state = site.await_caught_up(&source, &sender);
    assert_eq!(state.data, DataState::Ok);
    assert_eq!(site.files(), source.files());
    assert_eq!(state.sessions, 1, "held, not cut");
    drop(sender);
    site.stop();
    drop(mounted);
}
