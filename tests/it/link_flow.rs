//! Goal: what a source captures stands on the target, once and in order, whatever happens to link,
//! source and target in between. Method: a real sender and a real target over sockets of this host,
//! a real directory as replica, a model as source.

use std::sync::atomic::Ordering;

use doppelfs::types::Seq;
use doppelfs::wire::{DataState, TargetState};

use super::link_support::{Site, Source};

#[test]
fn a_new_target_gets_a_mirror_and_then_what_happens() {
    let Some(site) = Site::new("new") else { return };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    source.create("before");
    source.write("before", b"old content");
    let sender = source.connect(site.address(), &site.runtime);
    let state = site.await_caught_up(&source, &sender);
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 1);
    assert_eq!(site.files(), source.files());
    assert_eq!(state.data, DataState::Ok);
    source.create("after");
    source.write("after", b"new");
    source.write("before", b", and more");
    source.swap("before", "after");
    let state = site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 1);
    assert_eq!((state.lags.applied.ops, state.lags.applied.bytes), (0, 0));
    assert_eq!(state.lags.applied.seconds, 0.0);
    assert_eq!(state.marks.durable, source.journal.end());
    assert!(state.sent_bytes > 0 && state.wire_bytes > 0 && state.mirror_bytes > 0);
    assert_eq!(state.error, None);
    assert_eq!(state.target_state, TargetState::Ok);
    assert_eq!(source.journal.cursor("conn-1"), Some(state.marks.durable));
    assert_eq!(state.last_path.as_deref(), Some("before"));
}

#[test]
fn a_mirror_that_was_not_begun_is_asked_for() {
    let Some(site) = Site::new("due") else { return };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    source.create("a");
    source.write("a", b"content");
    let sender = source.connect(site.address(), &site.runtime);
    site.await_caught_up(&source, &sender);
    source.doubt();
    source.write("a", b"more content");
    let state = site.await_caught_up(&source, &sender);
    assert_eq!(state.data, DataState::Ok);
    assert_eq!(site.files(), source.files());
    // Not a full one.
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 1);
}

#[test]
fn a_restarted_target_goes_on_exactly() {
    let Some(mut site) = Site::new("restart") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    source.create("a");
    source.create("b");
    site.await_caught_up(&source, &sender);
    for round in 0..5 {
        source.write("a", format!("round {round};").as_bytes());
        source.swap("a", "b");
        site.restart();
    }
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 1);
}

#[test]
fn a_restarted_sender_continues_where_the_target_stands() {
    let Some(site) = Site::new("resend") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let mut sender = source.connect(site.address(), &site.runtime);
    source.create("a");
    source.create("b");
    site.await_caught_up(&source, &sender);
    for _ in 0..5 {
        sender.stop();
        source.write("a", &[b'x'; 3000]);
        source.swap("a", "b");
        sender = source.connect(site.address(), &site.runtime);
    }
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 1);
}

#[test]
fn a_backlog_given_up_leads_to_a_mirror() {
    let Some(site) = Site::new("given-up") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    source.create("a");
    site.await_caught_up(&source, &sender);
    sender.stop();
    for _ in 0..40 {
        source.write("a", &[b'y'; 20_000]);
    }
    let lost = source.journal.give_up().unwrap();
    assert_eq!(lost, ["conn-1"]);
    assert_eq!(sender.state().data, DataState::MirrorRequired);
    let sender = source.connect(site.address(), &site.runtime);
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 2);
}

#[test]
fn another_history_leads_to_a_mirror() {
    let Some(site) = Site::new("history") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    for name in ["a", "b", "gone"] {
        source.create(name);
        source.write(name, name.as_bytes());
    }
    site.await_caught_up(&source, &sender);
    sender.stop();
    let other = Source::new(&site.scratch.dir("queue2"), 2);
    other.create("a");
    other.write("a", b"of the other");
    let sender = other.connect(site.address(), &site.runtime);
    site.await_caught_up(&other, &sender);
    assert_eq!(site.files(), other.files());
    assert_eq!(other.mirrors_begun.load(Ordering::SeqCst), 1);
    let snapshot = site.target.as_ref().unwrap().snapshot();
    assert_eq!(snapshot.streams.len(), 1);
    assert_eq!(snapshot.streams[0].history, Some(other.history));
}

#[test]
fn a_target_that_is_down_is_waited_for() {
    let Some(mut site) = Site::new("down") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    source.create("a");
    site.await_caught_up(&source, &sender);
    let address = site.address();
    site.stop();
    for _ in 0..100 {
        source.write("a", &[b'z'; 1000]);
    }
    let state = site.await_state(&sender, "failed attempt", |s| {
        s.error.as_deref().is_some_and(|e| e.contains("refused"))
    });
    let text = state.error.unwrap();
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("doppelfs target serve"), "{text}");
    assert_eq!(state.lags.applied.ops, 100);
    assert!(state.lags.applied.bytes > 100_000 && state.lags.applied.bytes < 130_000);
    assert!(state.lags.applied.seconds > 0.0);
    let mut options = site.options();
    options.listen = address;
    site.target = Some(doppelfs::receiver::Target::serve(options).unwrap());
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 1);
}

#[test]
fn marks_stay_in_order_and_rise_under_load() {
    let Some(site) = Site::new("marks") else {
        return;
    };
    let source = Source::new(&site.scratch.dir("queue"), 1);
    let sender = source.connect(site.address(), &site.runtime);
    source.create("a");
    let mut last = Seq::ZERO;
    for round in 0..2_000u32 {
        source.write("a", &round.to_le_bytes());
        let state = sender.state();
        let marks = state.marks;
        assert!(marks.durable <= marks.applied && marks.applied <= marks.received);
        assert!(marks.received <= marks.sent && marks.sent <= state.end);
        assert!(marks.applied >= last);
        last = marks.applied;
    }
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
}
