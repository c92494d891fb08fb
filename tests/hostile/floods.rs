//! Much of what is allowed: others are served all the same, and memory is bounded.

use std::net::TcpStream;
use std::time::Duration;

use super::attack;
use super::attack::{Attack, Theatre, carry_out};
use super::frames::*;
use super::line::{BATCH, HELLO, Line};
use super::scene::{Outcome, ROOT, Scene, Verdict, hello};

const MANY: usize = 400;

/// Is the honest source served while this is held?
fn beats<T>(t: &mut Theatre, held: T) -> Verdict {
    let served = t
        .beat()
        .map_err(|e| format!("the honest source meanwhile: {e}"));
    drop(held);
    served
}

const FLOODS: &[Attack] = &[
    Attack {
        name: "half_open_connections",
        act: |t, _| {
            let address = t.stage.address;
            let held: Vec<_> = (0..MANY).map(|_| TcpStream::connect(address)).collect();
            beats(t, held)
        },
    },
    Attack {
        name: "connections_that_say_nothing_in_tls",
        act: |t, _| {
            let address = t.stage.address;
            let mallory = t.mallory.clone();
            let open = |_| Line::encrypted(address, &mallory.config);
            let held: Vec<_> = (0..MANY).map(open).collect();
            beats(t, held)
        },
    },
    Attack {
        name: "sessions_of_one_stream_that_wait",
        act: |t, set| {
            drop(Scene::open(&t.stage, &t.mallory, set)?);
            let hello = hello(set).pack().encode();
            let (address, mallory) = (t.stage.address, t.mallory.clone());
            let open = |_| {
                let mut line = Line::open(address, &mallory.config)?;
                line.say(HELLO, &hello)?;
                std::io::Result::Ok(line)
            };
            let held: Vec<_> = (0..MANY).map(open).collect();
            beats(t, held)
        },
    },
    Attack {
        name: "sessions_of_one_stream_that_come_and_go",
        act: |t, set| {
            // A stream that is held: whoever asks in another history is to wait for it.
            let mut scene = Scene::open(&t.stage, &t.mallory, set)?;
            scene.put(&truncate(Id(60, 1), 0));
            scene.held("not known")?;
            let mut asked = hello(set);
            asked.forks = vec![scene.hello.history];
            drop(scene);
            let before = t.stage.thread_count();
            let asked = asked.pack().encode();
            let mut most = 0;
            for _ in 0..MANY {
                if let Ok(mut line) = Line::open(t.stage.address, &t.mallory.config) {
                    let _ = line.say(HELLO, &asked);
                    // Long enough to be admitted.
                    let _ = line.hear(Duration::from_millis(5));
                }
                most = most.max(t.stage.thread_count());
            }
            beats(t, ())?;
            match most.saturating_sub(before) {
                more if more < 60 => Ok(()),
                more => Err(format!("{more} threads more")),
            }
        },
    },
    Attack {
        name: "acknowledgements_never_read",
        act: |t, set| {
            let mut scene = Scene::open(&t.stage, &t.mallory, set)?;
            let id = scene.file("a")?;
            let before = t.stage.memory_bytes();
            for _ in 0..400 {
                let mut frames = Vec::new();
                for _ in 0..50 {
                    frames.extend(scene.seal(&write(id, 0, &[7; 4096])));
                }
                scene.send(BATCH, &batch(&frames));
            }
            let grown = t.stage.memory_bytes().saturating_sub(before) >> 20;
            scene.applied()?;
            match grown {
                grown if grown < 100 => Ok(()),
                grown => Err(format!("{grown} MiB more")),
            }
        },
    },
    Attack {
        name: "wants_never_answered",
        act: |t, set| {
            let mut scene = Scene::open(&t.stage, &t.mallory, set)?;
            let before = t.stage.memory_bytes();
            let names: Vec<Vec<u8>> = (0..3000u32).map(|n| format!("f{n}").into_bytes()).collect();
            for round in 0..10 {
                scene.put(&mirror_begin(round + 2, "f", ROOT));
                let entry = |(n, name): (usize, &'_ Vec<u8>)| {
                    (name.clone(), Id(n as u64 + 100, round), file())
                };
                let all: Vec<_> = names.iter().enumerate().map(entry).collect();
                let all = all
                    .iter()
                    .map(|(name, id, node)| (name.as_slice(), *id, node.clone()));
                scene.put(&listing(ROOT, all.collect()));
            }
            scene.applied()?;
            match t.stage.memory_bytes().saturating_sub(before) >> 20 {
                grown if grown < 150 => Ok(()),
                grown => Err(format!("{grown} MiB more")),
            }
        },
    },
    attack!("slow_in_a_batch", |s| {
        let id = s.fresh();
        let frame = s.seal(&create(ROOT, b"a", id, file(), 0o100_644));
        let body = batch(&frame);
        let mut message = u32::try_from(body.len() + 1)
            .unwrap()
            .to_le_bytes()
            .to_vec();
        message.push(BATCH);
        message.extend_from_slice(&body);
        for byte in &message {
            std::thread::sleep(Duration::from_millis(10));
            s.line.write(&[*byte]).map_err(|e| e.to_string())?;
        }
        s.applied()
    }),
];

#[test]
fn floods_keep_nobody_out() {
    carry_out("floods", FLOODS);
}

const LISTINGS: &[Attack] = &[Attack {
    name: "listing_of_tiny_entries",
    act: |t, set| {
        // Small on the wire, large in memory: 135 MB of frames of one listing.
        let mut scene = Scene::open(&t.stage, &t.mallory, set)?;
        let before = t.stage.memory_bytes();
        let mut raw = Vec::new();
        let count: u32 = 90_000;
        for _ in 0..count {
            // Three fields: a name of one byte, an identity of three small numbers, a file.
            raw.extend_from_slice(&[0x93, 0xc4, 1, b'a', 0x93, 0, 1, 1, 0xa1, b'f']);
        }
        let mut entries = vec![0xdd];
        entries.extend_from_slice(&count.to_be_bytes());
        entries.extend_from_slice(&raw);
        let op = super::pack::variant(
            "L",
            vec![ROOT.pack(), super::pack::Pack::Raw(entries), none()],
        );
        let part = draft(LISTING, op, None);
        scene.put(&gap(&[], true));
        for _ in 0..150 {
            scene.put(&part.clone().more());
        }
        // The last of the group makes it known to the applier.
        scene.put(&part);
        let mut most = 0;
        let said = loop {
            let said = scene.outcome_within(Duration::from_millis(1500));
            most = most.max(t.stage.memory_bytes());
            if !matches!(said, Outcome::Silence) || most > 3 << 30 {
                break said;
            }
        };
        let grown = most.saturating_sub(before) >> 20;
        match &said {
            Outcome::Held(text) if text.contains("it has more than") && grown < 900 => Ok(()),
            _ => Err(format!("{grown} MiB more for 135 MB of frames: {said:?}")),
        }
    },
}];

#[test]
fn a_listing_has_its_limit_in_memory() {
    carry_out("listings", LISTINGS);
}

fn disk_bytes(s: &Scene<'_>, path: &std::path::Path) -> u64 {
    let done = std::process::Command::new("du")
        .args(["-s", "-B1"])
        .arg(path)
        .output();
    let done = done.unwrap_or_else(|e| panic!("du of {}: {e}", s.hello.set));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// An attack by a source of its own with a quota, as quotas are over all replicas of a source.
macro_rules! limited {
    ($name:literal, $act:expr) => {
        Attack {
            name: $name,
            act: |t, set| {
                let act: fn(&mut Scene<'_>) -> Verdict = $act;
                let path = format!("mallory/{set}");
                let terms = [
                    "--path",
                    &path,
                    "--quota-bytes",
                    "8M",
                    "--quota-files",
                    "100",
                ];
                let limited = t.stage.source(&format!("limited-{set}"), &terms);
                let mut scene = Scene::open(&t.stage, &limited, "data")?;
                scene.hello.path = Some(format!("{path}/data"));
                act(&mut scene)
            },
        }
    };
}

const QUOTAS: &[Attack] = &[
    limited!("quota_of_bytes_written", |s| {
        let id = s.file("a")?;
        for n in 0..40 {
            s.put(&write(id, n << 20, &vec![7; 1 << 20]));
        }
        s.held("quota")?;
        match disk_bytes(s, &s.replica()) {
            bytes if bytes < 10 << 20 => Ok(()),
            bytes => Err(format!("{bytes} bytes")),
        }
    }),
    limited!("quota_of_bytes_allocated", |s| {
        let id = s.file("a")?;
        s.put(&fallocate(id, 0, 0, 1 << 40));
        s.held("quota")
    }),
    limited!("quota_of_bytes_allocated_beyond_the_end", |s| {
        let id = s.file("a")?;
        s.put(&fallocate(id, 1, 1 << 30, 1 << 40));
        s.held("quota")
    }),
    limited!("quota_of_files", |s| {
        for n in 0..200u32 {
            let id = s.fresh();
            s.put(&create(
                ROOT,
                format!("f{n}").as_bytes(),
                id,
                file(),
                0o100_644,
            ));
        }
        s.held("quota")
    }),
    limited!("quota_of_files_listed", |s| {
        s.put(&mirror_begin(2, "f", ROOT));
        let names: Vec<Vec<u8>> = (0..200u32).map(|n| format!("f{n}").into_bytes()).collect();
        let entry =
            |(n, name): (usize, &'_ Vec<u8>)| (name.clone(), Id(n as u64 + 5000, 1), file());
        let all: Vec<_> = names.iter().enumerate().map(entry).collect();
        let all = all
            .iter()
            .map(|(name, id, node)| (name.as_slice(), *id, node.clone()));
        s.put(&listing(ROOT, all.collect()));
        s.held("quota")
    }),
    limited!("quota_and_the_queue", |s| {
        // What is held waits on the target's disk; that is not for nothing either.
        let id = s.file("a")?;
        s.put(&truncate(Id(60, 1), 0));
        s.held("not known")?;
        let state = s.stage.state();
        let before = disk_bytes(s, &state);
        s.line
            .socket()
            .set_write_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        let data: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
        for n in 0..600 {
            let frame = s.seal(&write(id, n << 20, &data));
            if s.line.say(BATCH, &batch(&frame)).is_err() {
                break;
            }
        }
        let stored = disk_bytes(s, &state).saturating_sub(before);
        match stored >> 20 {
            mib if mib < 400 => Ok(()),
            mib => Err(format!("{mib} MiB are stored for a source that may have 8")),
        }
    }),
];

#[test]
fn quotas_hold() {
    carry_out("quotas", QUOTAS);
}
