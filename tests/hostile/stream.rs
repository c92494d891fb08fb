//! Frames, batches and positions that lie.

use std::time::Duration;

use super::attack;
use super::attack::{Attack, Theatre, carry_out};
use super::frames::*;
use super::line::{
    ACK, BATCH, CHECKPOINT, HELLO, Hello, Line, PAIR, PING, REKEY, START, WANT, WELCOME, start,
};
use super::pack::{Pack, fields};
use super::scene::{Outcome, ROOT, Scene, Verdict, hello, is_remembered};

fn good(s: &mut Scene<'_>) -> Vec<u8> {
    let id = s.fresh();
    s.seal(&create(ROOT, b"a", id, file(), 0o100_644))
}

/// Sends one frame that was changed.
fn frame_is_refused(s: &mut Scene<'_>, change: impl Fn(&mut Vec<u8>), words: &str) -> Verdict {
    let mut frame = good(s);
    change(&mut frame);
    s.send(BATCH, &batch(&frame));
    s.refused(words)?;
    match s.replica().join("a").exists() {
        true => Err("it was applied".to_owned()),
        false => Ok(()),
    }
}

/// Changes a number in a header and makes its checksum right.
fn field(at: usize, bytes: &'static [u8]) -> impl Fn(&mut Vec<u8>) {
    move |frame| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        let meta = frame.len() - 64;
        reseal(frame, meta);
    }
}

/// Is it refused for its number? By the journal, by the frame, or where it is decoded.
fn is_of_positions(text: &str) -> bool {
    let words = ["Position", "positions rise", "no number of a record"];
    words.iter().any(|words| text.contains(words))
}

/// A frame at a place of its own, which does not follow.
fn misplaced(s: &mut Scene<'_>, seq: u64, prev: u64) -> Verdict {
    let id = s.fresh();
    let frame = create(ROOT, b"a", id, file(), 0o100_644).seal(seq, prev);
    s.last += 1;
    s.send(BATCH, &batch(&frame));
    match s.outcome() {
        Outcome::Refused(text) if is_of_positions(&text) => {}
        other => return Err(format!("{other:?}")),
    }
    match s.replica().join("a").exists() {
        true => Err("it was applied".to_owned()),
        false => Ok(()),
    }
}

const FRAMES: &[Attack] = &[
    attack!("frame_magic", |s| frame_is_refused(
        s,
        field(0, b"DPR2"),
        "no record begins"
    )),
    attack!("frame_version", |s| frame_is_refused(
        s,
        field(4, &[9]),
        "format version 9"
    )),
    attack!("frame_header_checksum", |s| {
        frame_is_refused(s, |f| f[60] ^= 1, "checksum of the record's header")
    }),
    attack!("frame_body_altered", |s| {
        frame_is_refused(s, |f| f[70] ^= 1, "checksum of the record's header")
    }),
    attack!("frame_payload_checksum", |s| {
        let id = s.file("b")?;
        let mut frame = s.seal(&write(id, 0, b"content"));
        *frame.last_mut().unwrap() ^= 1;
        s.send(BATCH, &batch(&frame));
        s.refused("checksum of the payload")
    }),
    attack!("frame_payload_of_4_gib", |s| {
        frame_is_refused(s, field(12, &[0xff; 4]), "beyond the limits")
    }),
    attack!("frame_body_of_4_gib", |s| {
        frame_is_refused(s, field(8, &[0xff; 4]), "beyond the limits")
    }),
    attack!("frame_body_longer_than_the_batch", |s| {
        frame_is_refused(s, |f| f[9] = 0x08, "cut")
    }),
    attack!("frame_cut", |s| frame_is_refused(
        s,
        |f| f.truncate(100),
        "cut"
    )),
    attack!("frame_cut_in_its_header", |s| frame_is_refused(
        s,
        |f| f.truncate(10),
        "cut"
    )),
    attack!("frame_of_no_kind", |s| frame_is_refused(
        s,
        field(6, &[99]),
        "kind 99"
    )),
    attack!("frame_skips_records", |s| misplaced(
        s,
        s.last + 3,
        s.last + 2
    )),
    attack!("frame_again", |s| {
        let frame = good(s);
        s.send(BATCH, &batch(&frame));
        s.applied()?;
        s.last += 1;
        s.send(BATCH, &batch(&frame));
        s.refused("but the last record here is")
    }),
    attack!("frames_in_another_order", |s| {
        let (first, second) = (good(s), good(s));
        s.send(BATCH, &batch(&[second, first].concat()));
        match s.outcome() {
            Outcome::Refused(text) if is_of_positions(&text) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }),
    attack!("frame_with_the_number_of_the_last", |s| misplaced(
        s, s.last, s.last
    )),
    attack!("frame_backwards", |s| misplaced(s, s.last - 1, s.last)),
    attack!("frame_from_the_beginning", |s| misplaced(s, 1, 0)),
    attack!("frame_at_the_end_of_numbers", |s| {
        let id = s.fresh();
        let frame = create(ROOT, b"a", id, file(), 0o100_644).seal(u64::MAX, s.last);
        s.send(BATCH, &batch(&frame));
        let said = s.outcome_within(Duration::from_secs(3));
        // Whatever it is worth: the next session is told so, too.
        let mut again = hello(&s.hello.set);
        again.history = s.hello.history;
        let again = Scene::begin(s.stage, s.source, again, false);
        match again {
            Ok(mut again) => {
                again.send(PING, &[]);
                Ok(())
            }
            Err(e) => Err(format!("{said:?}, then {e}")),
        }
    }),
    attack!("group_that_never_ends", |s| {
        let before = s.stage.memory_bytes();
        let entries = |n: u64| {
            let names: Vec<Vec<u8>> = (0..4000).map(|i| format!("{n}.{i}").into_bytes()).collect();
            let entries = names.iter().map(|name| (name.as_slice(), Id(n, 1), file()));
            listing(ROOT, entries.collect()).more()
        };
        for n in 0..200 {
            s.put(&entries(n));
        }
        let said = s.outcome_within(Duration::from_secs(4));
        let grown = s.stage.memory_bytes().saturating_sub(before) >> 20;
        match said {
            Outcome::Silence if grown < 100 => Ok(()),
            other => Err(format!("{other:?}, {grown} MiB more")),
        }
    }),
    attack!("batch_of_no_codec", |s| {
        s.last += 1;
        s.send(BATCH, &batch_of(7, 3, b"abc"));
        s.refused("unknown codec")
    }),
    attack!("batch_without_a_head", |s| {
        s.last += 1;
        s.send(BATCH, &[0, 1]);
        s.refused("no head")
    }),
    attack!("batch_of_4_gib", |s| {
        s.last += 1;
        s.send(BATCH, &batch_of(1, u32::MAX, b"abc"));
        s.refused("beyond the limit")
    }),
    attack!("batch_raw_length_lies", |s| {
        let frame = good(s);
        s.send(BATCH, &batch_of(0, 5, &frame));
        s.refused("raw length differs")
    }),
    attack!("batch_bomb", |s| {
        let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 3).unwrap();
        s.last += 1;
        s.send(BATCH, &batch_of(1, 1000, &bomb));
        s.refused("does not decompress")
    }),
    attack!("batch_bomb_to_the_limit", |s| {
        let bomb = zstd::bulk::compress(&vec![0; 2 << 20], 3).unwrap();
        s.last += 1;
        s.send(BATCH, &batch_of(1, 2 << 20, &bomb));
        s.refused("no record begins")
    }),
    attack!("batch_shorter_than_said", |s| {
        let frame = good(s);
        let packed = zstd::bulk::compress(&frame, 1).unwrap();
        s.send(BATCH, &batch_of(1, 1 << 20, &packed));
        s.refused("another length")
    }),
    attack!("batch_in_a_batch", |s| {
        let frame = good(s);
        let once = zstd::bulk::compress(&frame, 1).unwrap();
        let twice = zstd::bulk::compress(&once, 1).unwrap();
        s.send(
            BATCH,
            &batch_of(1, u32::try_from(once.len()).unwrap(), &twice),
        );
        s.refused("no record begins")
    }),
    attack!("batches_of_nothing", |s| {
        for _ in 0..20_000 {
            s.send(BATCH, &batch(&[]));
        }
        s.file("a").map(|_| ())
    }),
];

#[test]
fn frames_and_batches_that_lie_are_refused() {
    carry_out("frames", FRAMES);
}

/// Begins with this `Start` on a stream that was never there.
fn start_is_refused(t: &mut Theatre, hello: &Hello, start: &Pack, words: &str) -> Verdict {
    let greeted = super::scene::greet(&t.stage, &t.mallory, hello);
    let (mut line, _) = greeted.map_err(|e| e.to_string())?;
    let _ = line.say(START, &start.encode());
    refused(t, &mut line, words)
}

fn refused(t: &Theatre, line: &mut Line, words: &str) -> Verdict {
    loop {
        match line.hear(Duration::from_secs(20)) {
            super::line::Heard::Refused(r) if format!("{}: {}", r.code, r.text).contains(words) => {
                break;
            }
            super::line::Heard::Refused(r) => return Err(format!("{}: {}", r.code, r.text)),
            super::line::Heard::Closed => return Err("closed without a word".to_owned()),
            super::line::Heard::Silence => return Err("silence".to_owned()),
            _ => {}
        }
    }
    is_remembered(&t.stage, words)
}

fn message_is_refused(s: &mut Scene<'_>, kind: u8, body: &[u8]) -> Verdict {
    s.last += 1;
    s.send(kind, body);
    s.refused("not expected")
}

const POSITIONS: &[Attack] = &[
    Attack {
        name: "start_in_another_history",
        act: |t, set| {
            let start = start(rand::random(), 0, true, None);
            start_is_refused(t, &hello(set), &start, "begins in history")
        },
    },
    Attack {
        name: "start_beyond_the_position",
        act: |t, set| {
            let hello = hello(set);
            let start = start(hello.history, 100, false, None);
            start_is_refused(t, &hello, &start, "the target stands at")
        },
    },
    Attack {
        name: "fork_from_an_unknown_history",
        act: |t, set| {
            let hello = hello(set);
            let start = start(hello.history, 0, false, Some(rand::random()));
            start_is_refused(t, &hello, &start, "the target stands at")
        },
    },
    Attack {
        name: "jump_to_the_end_of_numbers",
        act: |t, set| {
            let hello = hello(set);
            let mut scene = Scene::begin(&t.stage, &t.mallory, hello.clone(), true)?;
            drop(scene.line);
            let greeted = super::scene::greet(&t.stage, &t.mallory, &hello);
            scene.line = greeted.map_err(|e| e.to_string())?.0;
            scene.send(START, &start(hello.history, u64::MAX, true, None).encode());
            let frame = mirror_begin(1, "f", ROOT).seal(u64::MAX, u64::MAX);
            scene.send(BATCH, &batch(&frame));
            scene.last = u64::MAX;
            let mut said = scene.outcome_within(Duration::from_secs(5));
            if matches!(said, Outcome::Applied) {
                // It stands there, but nothing can come after it.
                said = scene.outcome_within(Duration::from_secs(5));
            }
            match said {
                Outcome::Refused(text) if is_of_positions(&text) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    },
    Attack {
        name: "jump_without_a_mirror",
        act: |t, set| {
            let mut scene = Scene::begin(&t.stage, &t.mallory, hello(set), true)?;
            scene.put(&create(ROOT, b"a", Id(60, 1), file(), 0o100_644));
            scene.refused("must begin with a full mirror")
        },
    },
    Attack {
        name: "jump_with_part_of_a_mirror",
        act: |t, set| {
            let mut scene = Scene::begin(&t.stage, &t.mallory, hello(set), true)?;
            scene.put(&mirror_begin(1, "p", ROOT));
            scene.refused("must begin with a full mirror")
        },
    },
    Attack {
        name: "history_that_is_over",
        act: |t, set| {
            let old = Scene::open(&t.stage, &t.mallory, set)?.hello;
            // Another history takes the stream over.
            drop(Scene::open(&t.stage, &t.mallory, set)?);
            let start = start(old.history, 3, false, None);
            start_is_refused(t, &old, &start, "the target stands at")
        },
    },
    Attack {
        name: "batch_before_hello",
        act: |t, _| {
            let line = Line::open(t.stage.address, &t.mallory.config);
            let mut line = line.map_err(|e| e.to_string())?;
            let _ = line.say(BATCH, &batch(b"abc"));
            refused(t, &mut line, "not expected in the handshake")
        },
    },
    Attack {
        name: "start_before_hello",
        act: |t, _| {
            let line = Line::open(t.stage.address, &t.mallory.config);
            let mut line = line.map_err(|e| e.to_string())?;
            let _ = line.say(START, &start(1, 0, true, None).encode());
            refused(t, &mut line, "not expected before a hello")
        },
    },
    Attack {
        name: "batch_before_start",
        act: |t, set| {
            let greeted = super::scene::greet(&t.stage, &t.mallory, &hello(set));
            let (mut line, _) = greeted.map_err(|e| e.to_string())?;
            let _ = line.say(BATCH, &batch(&mirror_begin(1, "f", ROOT).seal(1, 0)));
            refused(t, &mut line, "not expected in the handshake")
        },
    },
    Attack {
        name: "hello_of_another_version",
        act: |t, set| {
            let mut hello = hello(set);
            hello.protocol = 2;
            let greeted = super::scene::greet(&t.stage, &t.mallory, &hello);
            match greeted.map_err(|e| e.to_string())?.1 {
                super::line::Heard::Refused(r) if r.code == "Version" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    },
    Attack {
        name: "hello_nested_deep",
        act: |t, set| {
            let mut hello = hello(set);
            hello.more.push(("other", Pack::Raw(vec![0x91; 60_000])));
            let greeted = super::scene::greet(&t.stage, &t.mallory, &hello);
            match greeted.map_err(|e| e.to_string())?.1 {
                super::line::Heard::Refused(r) if r.code == "Protocol" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    },
    Attack {
        name: "hello_longer_than_its_limit",
        act: |t, _| {
            let line = Line::open(t.stage.address, &t.mallory.config);
            let mut line = line.map_err(|e| e.to_string())?;
            let _ = line.write(&[0xff, 0xff, 0xff, 0xff, HELLO]);
            refused(t, &mut line, "is longer than")
        },
    },
    attack!("hello_in_the_session", |s| {
        let body = s.hello.pack().encode();
        message_is_refused(s, HELLO, &body)
    }),
    attack!("start_in_the_session", |s| {
        let body = start(s.hello.history, 3, false, None).encode();
        message_is_refused(s, START, &body)
    }),
    attack!("welcome_from_a_source", |s| message_is_refused(
        s, WELCOME, b"\x80"
    )),
    attack!("ack_from_a_source", |s| message_is_refused(s, ACK, b"\x80")),
    attack!("wants_from_a_source", |s| {
        let ids = vec![ROOT.pack(); 100];
        let body = fields(vec![("ids", Pack::List(ids))]).encode();
        message_is_refused(s, WANT, &body)
    }),
    attack!("pairing_in_the_session", |s| message_is_refused(
        s, PAIR, b"\x80"
    )),
    attack!("rekey_in_the_session", |s| message_is_refused(
        s, REKEY, b"\x80"
    )),
    attack!("message_of_no_type", |s| {
        s.last += 1;
        s.send(77, b"");
        s.refused("type 77 is not known")
    }),
    attack!("message_of_no_length", |s| {
        s.last += 1;
        let _ = s.line.write(&[0, 0, 0, 0, PING]);
        s.refused("is longer than")
    }),
    attack!("ping_with_a_body", |s| {
        s.last += 1;
        s.send(PING, &[0; 300]);
        s.refused("is longer than")
    }),
    attack!("mirror_end_without_beginning", |s| {
        s.put(&mirror_end(9));
        s.put(&mirror_end(u64::MAX));
        s.file("a").map(|_| ())
    }),
    attack!("mirrors_in_each_other", |s| {
        s.put(&mirror_begin(2, "f", ROOT));
        s.put(&mirror_begin(3, "p", ROOT));
        s.put(&mirror_end(2));
        s.put(&listing(ROOT, Vec::new()));
        s.put(&mirror_end(3));
        s.file("a").map(|_| ())
    }),
    attack!("mirror_of_another_root", |s| {
        let other = Id(4711, 1);
        s.put(&mirror_begin(2, "f", other));
        s.put(&listing(other, Vec::new()));
        s.put(&mirror_end(2));
        s.put(&create(ROOT, b"a", Id(60, 1), file(), 0o100_644));
        s.held("not known")
    }),
    attack!("gaps_without_end", |s| {
        for _ in 0..3000 {
            s.put(&gap(&[ROOT], true));
        }
        s.applied()
    }),
    attack!("checkpoint_at_the_end_of_numbers", |s| {
        let body = fields(vec![("upto", Pack::Whole(u64::MAX))]).encode();
        s.send(CHECKPOINT, &body);
        match s.file("a") {
            // It is no number.
            Err(e) if is_of_positions(&e) => return Ok(()),
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        let before = s.stage.cpu_seconds();
        let _ = s.outcome_within(Duration::from_secs(1));
        s.last += 1;
        let _ = s.outcome_within(Duration::from_secs(4));
        s.last -= 1;
        match s.stage.cpu_seconds() - before {
            used if used < 2.0 => Ok(()),
            used => Err(format!("{used} seconds of processor time for nothing")),
        }
    }),
    attack!("pings_without_end", |s| {
        let ping = [1, 0, 0, 0, PING];
        for _ in 0..200 {
            let _ = s.line.write(&ping.repeat(2000));
        }
        s.file("a").map(|_| ())
    }),
];

#[test]
fn positions_and_messages_that_lie_are_refused() {
    carry_out("positions", POSITIONS);
}
