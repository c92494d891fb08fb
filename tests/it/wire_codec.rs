//! Goal: whatever bytes come, the wire room answers with a message or an error, never a panic, and
//! never believes a length beyond its limit. Method: round trips; then random bytes, truncations and
//! bit flips of good conversations. Seeds are printed; `DOPPELFS_SEED` repeats one.

use std::time::Duration;

use doppelfs::codec::Draft;
use doppelfs::keys::{Fingerprint, Secret};
use doppelfs::types::{Body, FileId, History, Op, Remap, Seq, SetName, limits};
use doppelfs::wire::{
    Ack, BATCH_RAW_BYTES_MAX, CheckpointRequest, DataState, DirectoryId, Done, Error, Hello, Kind,
    Message, MessageReader, MirrorProgress, PROTOCOL, Packer, Pair, Paired, Phase, Place, Refuse,
    RefuseCode, Rekey, Start, TargetAddr, TargetState, Unpacker, Want, Welcome, write_message,
    write_preface,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::link_support::seeded;

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        source: "host".into(),
        set: SetName::new("data").unwrap(),
        instance: u128::MAX - 7,
        path: Some("a/b".into()),
        history: History(u128::MAX / 3),
        forks: Vec::new(),
        first: Seq(1),
        end: Seq::MAX,
        root: FileId::new(2, 0),
        features: 5,
        place: Some(Place {
            boot_id: "boot".into(),
            chain: vec![DirectoryId { dev: 1, ino: 2 }],
            mount_dev: Some(9),
        }),
        remap: vec!["/srv/data".into()],
        staged_bytes_max: 1 << 40,
    }
}

fn every_message() -> Vec<Message> {
    let ids = (0..limits::WANT_COUNT_MAX as u64)
        .map(|i| FileId::new(u64::MAX - i, u64::from(u32::MAX)))
        .collect();
    vec![
        Message::Hello(hello()),
        Message::Welcome(Welcome {
            protocol: PROTOCOL,
            history: None,
            received: Seq(3),
            applied: Seq(2),
            durable: Seq(1),
            mirror: Some(4),
            replica_path: "/srv/x".into(),
            state: TargetState::Retrying,
            remap: Some(Remap {
                from: vec!["/srv/data".into()],
                to: "/srv/x".into(),
            }),
            next_key: Some(Fingerprint([7; 32])),
        }),
        Message::Refuse(Refuse {
            code: RefuseCode::OwnSource,
            text: "no".into(),
        }),
        Message::Start(Start {
            history: History(7),
            after: Seq(9),
            jump: true,
            fork: Some(History(5)),
            next_key: Some(Fingerprint([3; 32])),
        }),
        Message::Batch(Packer::new().pack(b"").bytes[5..].to_vec()),
        Message::Ack(Ack {
            received: Seq(9),
            applied: Seq(8),
            durable: Seq(7),
            data: DataState::Mirroring,
            state: TargetState::Ok,
            error: Some("e".into()),
            last_path: Some("p".into()),
            mirror: Some(MirrorProgress {
                mirror: 1,
                pending: 2,
                done: 3,
            }),
            is_staged: true,
        }),
        Message::Want(Want { ids }),
        Message::Done(Done { mirror: u64::MAX }),
        Message::CheckpointRequest(CheckpointRequest { upto: Seq(5) }),
        Message::Ping,
        Message::Pair(Pair {
            protocol: PROTOCOL,
            secret: Secret::generate().unwrap(),
            name: "web1".into(),
        }),
        Message::Paired(Paired {
            target: "backup1".into(),
            known_as: "web1".into(),
            grants: vec!["any set to web1 and below".into()],
            next_key: None,
        }),
        Message::Rekey(Rekey {
            protocol: PROTOCOL,
            next: Fingerprint([255; 32]),
            public: vec![7; 44],
            proof: vec![9; 64],
        }),
    ]
}

fn phase_of(kind: Kind) -> Phase {
    match kind {
        Kind::Hello
        | Kind::Welcome
        | Kind::Refuse
        | Kind::Start
        | Kind::Pair
        | Kind::Paired
        | Kind::Rekey => Phase::Handshake,
        Kind::Batch | Kind::CheckpointRequest | Kind::Ping => Phase::FromSource,
        Kind::Ack | Kind::Want | Kind::Done => Phase::FromTarget,
    }
}

fn frames(count: u64, payload: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    for seq in 1..=count {
        let body = Body::of(Op::Write {
            id: FileId::new(12, 1),
            offset: seq,
        });
        let draft = Draft::new(&body, payload);
        raw.extend_from_slice(&draft.seal(Seq(seq), Seq(seq - 1), 1_000 + seq));
        raw.extend_from_slice(draft.meta());
        raw.extend_from_slice(payload);
    }
    raw
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn reader(bytes: &[u8]) -> MessageReader<&[u8]> {
    MessageReader::new(bytes, Duration::from_secs(5))
}

#[test]
fn every_message_comes_back_as_it_was_written() {
    runtime().block_on(async {
        for message in every_message() {
            let mut bytes = Vec::new();
            write_preface(&mut bytes).await.unwrap();
            let count = write_message(&mut bytes, &message).await.unwrap();
            assert_eq!(count as usize + 6, bytes.len());
            let mut reader = reader(&bytes);
            reader.preface().await.unwrap();
            let phase = phase_of(message.kind());
            assert_eq!(reader.next(phase).await.unwrap(), message);
            assert!(matches!(reader.next(phase).await, Err(Error::Closed)));
        }
    });
}

#[test]
fn another_version_and_other_protocols_are_told_apart() {
    runtime().block_on(async {
        let mut other = reader(b"DPFS\x02\x01");
        let found = other.preface().await;
        assert!(matches!(found, Err(Error::Version { theirs: 0x0102 })));
        let mut http = reader(b"GET / HTTP/1.1\r\n");
        assert!(matches!(
            http.preface().await,
            Err(Error::NotDoppelfs { .. })
        ));
        assert!(matches!(reader(b"").preface().await, Err(Error::Closed)));
        assert!(matches!(reader(b"DPF").preface().await, Err(Error::Cut)));
    });
}

#[test]
fn messages_are_refused_where_they_have_no_place() {
    runtime().block_on(async {
        for message in every_message() {
            let bytes = message.encode();
            for phase in [Phase::Handshake, Phase::FromSource, Phase::FromTarget] {
                let kind = message.kind();
                let shared = matches!(kind, Kind::Refuse | Kind::Ping);
                if phase == phase_of(kind) || shared {
                    continue;
                }
                let found = reader(&bytes).next(phase).await;
                assert!(
                    matches!(found, Err(Error::Unexpected { .. })),
                    "{kind:?} {phase:?}: {found:?}"
                );
            }
        }
    });
}

#[test]
fn lengths_beyond_the_limit_are_refused_before_anything_is_read() {
    runtime().block_on(async {
        for kind in Kind::ALL {
            let length = u32::try_from(kind.body_bytes_max()).unwrap() + 2;
            for length in [length, u32::MAX, 0] {
                let mut bytes = length.to_le_bytes().to_vec();
                bytes.push(kind.number());
                let found = reader(&bytes).next(phase_of(kind)).await;
                assert!(matches!(found, Err(Error::TooLong { .. })), "{found:?}");
            }
        }
        let mut bytes = 1u32.to_le_bytes().to_vec();
        bytes.push(99);
        let found = reader(&bytes).next(Phase::Handshake).await;
        assert!(matches!(found, Err(Error::UnknownType { found: 99 })));
    });
}

#[test]
fn a_want_list_beyond_the_limit_is_refused() {
    let ids = vec![FileId::new(1, 1); limits::WANT_COUNT_MAX + 1];
    let bytes = rmp_serde::to_vec_named(&Want { ids }).unwrap();
    let found = Message::decode(Kind::Want, bytes);
    assert!(matches!(found, Err(Error::TooMany { .. })));
}

#[test]
fn a_field_of_a_later_release_is_passed_over() {
    #[derive(serde::Serialize)]
    struct Later {
        mirror: u64,
        colour: &'static str,
    }
    let later = Later {
        mirror: 3,
        colour: "red",
    };
    let bytes = rmp_serde::to_vec_named(&later).unwrap();
    let found = Message::decode(Kind::Done, bytes).unwrap();
    assert_eq!(found, Message::Done(Done { mirror: 3 }));
}

#[test]
fn silence_is_noticed() {
    runtime().block_on(async {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut reader = MessageReader::new(ours, Duration::from_millis(20));
        let found = reader.next(Phase::FromSource).await;
        assert!(matches!(found, Err(Error::Silent { .. })));
    });
}

#[test]
fn batches_are_compressed_where_it_pays_and_come_back_whole() {
    let mut random = vec![0u8; 900_000];
    StdRng::seed_from_u64(1).fill_bytes(&mut random);
    for (payload, shrinks) in [(vec![7u8; 900_000], true), (random, false)] {
        let raw = frames(1, &payload);
        let mut packer = Packer::new();
        let packed = packer.pack(&raw);
        assert_eq!(packed.raw_bytes, raw.len());
        assert_eq!(packed.bytes.len() < raw.len(), shrinks);
        let mut unpacker = Unpacker::new();
        let found: Vec<_> = unpacker.open(&packed.bytes[5..]).unwrap().collect();
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].payload(), payload);
    }
}

#[test]
fn data_that_does_not_compress_is_not_tried_for_long() {
    let mut random = vec![0u8; 900_000];
    StdRng::seed_from_u64(2).fill_bytes(&mut random);
    let (random, zeroes) = (frames(1, &random), frames(1, &vec![0u8; 900_000]));
    let mut packer = Packer::new();
    packer.pack(&random);
    assert!(packer.pack(&zeroes).bytes.len() > 900_000, "skipped once");
    let again = (0..3).any(|_| packer.pack(&zeroes).bytes.len() < 100_000);
    assert!(again, "and tried again");
}

#[test]
fn batches_that_lie_about_their_length_are_refused() {
    let raw = frames(3, &[1; 5000]);
    let packed = Packer::new().pack(&raw).bytes[5..].to_vec();
    assert_eq!(packed[0], 1, "compressed");
    let too_long = u32::try_from(BATCH_RAW_BYTES_MAX + 1).unwrap();
    for length in [0, 1, raw.len() as u32 - 1, raw.len() as u32 + 1, too_long] {
        let mut lie = packed.clone();
        lie[1..5].copy_from_slice(&length.to_le_bytes());
        assert!(Unpacker::new().open(&lie).is_err(), "{length}");
        lie[0] = 0;
        assert!(Unpacker::new().open(&lie).is_err(), "raw {length}");
    }
    let mut other = packed.clone();
    other[0] = 2;
    assert!(Unpacker::new().open(&other).is_err());
    assert!(Unpacker::new().open(&packed[..4]).is_err());
}

fn conversation() -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in every_message() {
        bytes.extend_from_slice(&message.encode());
    }
    bytes.extend_from_slice(&Packer::new().pack(&frames(20, &[3; 700])).bytes);
    bytes
}

/// Reads everything there is as each side would, opening batches.
async fn swallow(bytes: &[u8]) {
    for phase in [Phase::Handshake, Phase::FromSource, Phase::FromTarget] {
        let mut reader = reader(bytes);
        let _ = reader.preface().await;
        let mut unpacker = Unpacker::new();
        while let Ok(message) = reader.next(phase).await {
            if let Message::Batch(body) = message
                && let Ok(frames) = unpacker.open(&body)
            {
                for frame in frames {
                    let _ = frame.map(|f| f.body().is_ok());
                }
            }
        }
    }
}

#[test]
fn damaged_conversations_never_panic() {
    let mut rng = seeded();
    let good = conversation();
    runtime().block_on(async {
        for _ in 0..2_000 {
            let mut bytes = good.clone();
            match rng.random_range(0..4) {
                0 => bytes.truncate(rng.random_range(0..good.len())),
                1 => {
                    bytes = vec![0; rng.random_range(0..4_000)];
                    rng.fill_bytes(&mut bytes);
                }
                2 => {
                    let at = rng.random_range(0..bytes.len());
                    bytes.drain(..at);
                }
                _ => {}
            }
            for _ in 0..rng.random_range(0..8) {
                if !bytes.is_empty() {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
            }
            swallow(&bytes).await;
        }
    });
}

#[test]
fn single_bodies_with_bit_flips_never_panic() {
    let mut rng = seeded();
    for message in every_message() {
        let body = message.encode()[5..].to_vec();
        for _ in 0..500 {
            let mut bytes = body.clone();
            for _ in 0..rng.random_range(1..4) {
                if !bytes.is_empty() {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
            let _ = Message::decode(message.kind(), bytes);
        }
    }
}

#[test]
fn targets_are_read_as_administrators_write_them() {
    let good = [
        ("h:1", "h", 1, None),
        ("h", "h", 7420, None),
        ("h:7420:a/b", "h", 7420, Some("a/b")),
        ("h:7420:a:b", "h", 7420, Some("a:b")),
        ("[::1]:9:x", "::1", 9, Some("x")),
        ("[::1]", "::1", 7420, None),
    ];
    for (text, host, port, path) in good {
        let found: TargetAddr = text.parse().unwrap();
        assert_eq!((found.host.as_str(), found.port), (host, port), "{text}");
        assert_eq!(found.path.as_deref(), path, "{text}");
        let again: TargetAddr = found.to_string().parse().unwrap();
        assert_eq!(again, found, "{text}");
    }
    for bad in [
        "",
        ":1",
        "h:",
        "h:0",
        "h:70000",
        "h:x",
        "h:9:",
        "h:9:a/../b",
        "[::1",
        "[::1]x:1",
        "[]:1",
    ] {
        assert!(bad.parse::<TargetAddr>().is_err(), "{bad}");
    }
}
