//! Goal: a target takes only what fits, tells everybody else why, and stays in service. Method: raw
//! conversations with a real target.

use std::time::Duration;

use doppelfs::codec::Draft;
use doppelfs::receiver::{Error, ServeOptions, Target};
use doppelfs::sys;
use doppelfs::types::{Body, History, Op, Scope, Seq, SetName};
use doppelfs::wire::{
    self, Ack, CheckpointRequest, Hello, Message, MessageReader, PROTOCOL, Packer, Phase, Place,
    RefuseCode, Start, Welcome, write_bytes, write_message, write_preface,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::link_support::{ROOT, Site, seeded};
use rand::RngCore;

struct Raw {
    reader: MessageReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Raw {
    async fn dial(site: &Site) -> Raw {
        let socket = TcpStream::connect(site.address()).await.unwrap();
        let (reader, mut writer) = socket.into_split();
        write_preface(&mut writer).await.unwrap();
        let mut reader = MessageReader::new(reader, Duration::from_secs(20));
        reader.preface().await.unwrap();
        Raw { reader, writer }
    }

    async fn say(&mut self, message: Message) {
        write_message(&mut self.writer, &message).await.unwrap();
    }

    async fn ask(site: &Site, hello: Hello) -> (Raw, Message) {
        let mut raw = Raw::dial(site).await;
        raw.say(Message::Hello(hello)).await;
        let answer = raw.reader.next(Phase::Handshake).await.unwrap();
        (raw, answer)
    }

    async fn welcome(site: &Site, hello: Hello) -> (Raw, Welcome) {
        match Raw::ask(site, hello).await {
            (raw, Message::Welcome(welcome)) => (raw, welcome),
            (_, other) => panic!("{other:?}"),
        }
    }

    /// The next message that satisfies.
    async fn until(&mut self, mut is_it: impl FnMut(&Message) -> bool) -> Message {
        loop {
            let message = self.reader.next(Phase::FromTarget).await.unwrap();
            if is_it(&message) {
                return message;
            }
        }
    }

    async fn refusal(&mut self) -> (RefuseCode, String) {
        match self.until(|m| matches!(m, Message::Refuse(_))).await {
            Message::Refuse(refuse) => (refuse.code, refuse.text),
            other => panic!("{other:?}"),
        }
    }

    async fn batch(&mut self, raw: &[u8]) {
        let packed = Packer::new().pack(raw);
        write_bytes(&mut self.writer, &packed.bytes).await.unwrap();
    }
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        source: "here".into(),
        set: SetName::new("data").unwrap(),
        instance: 1,
        path: None,
        history: History(5),
        forks: Vec::new(),
        first: Seq(1),
        end: Seq(10),
        root: ROOT,
        features: 0,
        place: None,
        remap: Vec::new(),
        staged_bytes_max: 0,
    }
}

fn sealed(body: &Body, seq: u64, prev: u64) -> Vec<u8> {
    let draft = Draft::new(body, b"");
    let mut bytes = draft.seal(Seq(seq), Seq(prev), 1_000).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes
}

fn begin(seq: u64) -> Vec<u8> {
    let op = Op::MirrorBegin {
        mirror: 1,
        scope: Scope::Full,
        root: ROOT,
    };
    sealed(&Body::of(op), seq, seq - 1)
}

fn end(seq: u64, prev: u64) -> Vec<u8> {
    sealed(&Body::of(Op::MirrorEnd { mirror: 99 }), seq, prev)
}

fn start(after: u64, jump: bool) -> Message {
    Message::Start(Start {
        history: History(5),
        after: Seq(after),
        jump,
        fork: None,
        next_key: None,
    })
}

fn is_received(message: &Message, seq: u64) -> bool {
    matches!(message, Message::Ack(Ack { received, .. }) if received.0 == seq)
}

/// A stream that stands at record 12 of history 5.
async fn settled(site: &Site) -> Raw {
    let (mut raw, welcome) = Raw::welcome(site, hello()).await;
    assert_eq!(welcome.history, None);
    raw.say(start(10, true)).await;
    raw.batch(&[begin(11), end(12, 11)].concat()).await;
    raw.until(|m| is_received(m, 12)).await;
    raw
}

#[test]
fn garbage_is_dropped_and_the_target_serves_on() {
    let Some(site) = Site::new("garbage") else {
        return;
    };
    let mut rng = seeded();
    site.runtime.block_on(async {
        for length in [0usize, 1, 5, 6, 100, 100_000] {
            let mut socket = TcpStream::connect(site.address()).await.unwrap();
            let mut bytes = vec![0u8; length];
            rng.fill_bytes(&mut bytes);
            if length % 2 == 1 && length > 6 {
                bytes[..6].copy_from_slice(b"DPFS\x01\x00");
            }
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer).await;
        }
        let (_, welcome) = Raw::welcome(&site, hello()).await;
        assert_eq!(welcome.received, Seq::ZERO);
    });
}

#[test]
fn another_protocol_version_is_told_so() {
    let Some(site) = Site::new("version") else {
        return;
    };
    site.runtime.block_on(async {
        let socket = TcpStream::connect(site.address()).await.unwrap();
        let (reader, mut writer) = socket.into_split();
        writer.write_all(b"DPFS\x63\x00").await.unwrap();
        let mut reader = MessageReader::new(reader, Duration::from_secs(20));
        reader.preface().await.unwrap();
        let Message::Refuse(refuse) = reader.next(Phase::Handshake).await.unwrap() else {
            panic!("no refusal");
        };
        assert_eq!(refuse.code, RefuseCode::Version);
        assert!(refuse.text.contains("99"), "{}", refuse.text);
    });
}

#[test]
fn mirror_paths_that_are_not_allowed_are_refused() {
    let Some(site) = Site::new("paths") else {
        return;
    };
    let outside = site.scratch.dir("outside");
    std::os::unix::fs::symlink(&outside, site.scratch.path().join("root/link")).unwrap();
    std::fs::write(site.scratch.path().join("root/file"), b"x").unwrap();
    site.runtime.block_on(async {
        for path in [
            "/abs",
            "..",
            "a/../..",
            ".",
            "",
            "link",
            "link/x",
            "file/x",
            ".doppelfs/x",
        ] {
            let mut hello = hello();
            hello.path = Some(path.into());
            let (_, answer) = Raw::ask(&site, hello).await;
            let Message::Refuse(refuse) = answer else {
                panic!("{path:?}: {answer:?}");
            };
            assert_eq!(refuse.code, RefuseCode::Path, "{path:?}: {}", refuse.text);
        }
        let mut odd = hello();
        odd.source = "a/b".into();
        let (_, answer) = Raw::ask(&site, odd).await;
        assert!(matches!(answer, Message::Refuse(r) if r.code == RefuseCode::Path));
    });
    assert!(std::fs::read_dir(outside).unwrap().next().is_none());
}

#[test]
fn a_mirror_path_belongs_to_one_source_and_set() {
    let Some(site) = Site::new("taken") else {
        return;
    };
    site.runtime.block_on(async {
        let mut first = hello();
        first.path = Some("x/y".into());
        Raw::welcome(&site, first.clone()).await;
        Raw::welcome(&site, first).await;
        for path in ["x/y", "x", "x/y/z"] {
            let mut other = hello();
            other.source = "there".into();
            other.path = Some(path.into());
            let (_, answer) = Raw::ask(&site, other).await;
            let Message::Refuse(refuse) = answer else {
                panic!("{path:?}: {answer:?}");
            };
            assert_eq!(refuse.code, RefuseCode::Taken, "{}", refuse.text);
        }
        let mut beside = hello();
        beside.source = "there".into();
        beside.path = Some("x/yy".into());
        Raw::welcome(&site, beside).await;
    });
}

#[test]
fn a_source_is_not_replicated_into_itself() {
    let Some(site) = Site::new("own") else { return };
    let inside = site.scratch.dir("root/data");
    let place_of = |path: &std::path::Path| {
        let opened = std::fs::File::open(path).unwrap();
        Place::of(path, std::os::fd::AsFd::as_fd(&opened)).unwrap()
    };
    site.runtime.block_on(async {
        // The target's root lies in the source; the mirror path is the source, or around it.
        let cases = [
            (site.scratch.path().to_owned(), "m"),
            (inside.clone(), "data"),
            (inside.clone(), "data/sub"),
            (site.scratch.dir("root/p/q/r"), "p/q"),
        ];
        for (directory, path) in cases {
            let mut hello = hello();
            hello.path = Some(path.into());
            hello.place = Some(place_of(&directory));
            let (_, answer) = Raw::ask(&site, hello).await;
            let Message::Refuse(refuse) = answer else {
                panic!("{directory:?} {path:?}: {answer:?}");
            };
            assert_eq!(refuse.code, RefuseCode::OwnSource, "{}", refuse.text);
        }
        assert!(!site.scratch.path().join("root/m").exists());
        let mut beside = hello();
        beside.place = Some(place_of(&inside));
        Raw::welcome(&site, beside).await;
    });
}

#[test]
fn elided_operations_are_no_gap() {
    let Some(site) = Site::new("elided") else {
        return;
    };
    site.runtime.block_on(async {
        drop(settled(&site).await);
        let (mut raw, _) = Raw::welcome(&site, hello()).await;
        raw.say(start(12, false)).await;
        // 13 to 19 were never sent, and 20 says so.
        raw.batch(&end(20, 12)).await;
        raw.batch(&end(22, 20)).await;
        raw.until(|m| matches!(m, Message::Ack(ack) if ack.applied == Seq(22)))
            .await;
    });
}

#[test]
fn a_gap_in_the_sequence_is_refused_and_nothing_is_lost() {
    let Some(site) = Site::new("gap") else { return };
    site.runtime.block_on(async {
        drop(settled(&site).await);
        let (mut raw, welcome) = Raw::welcome(&site, hello()).await;
        assert_eq!(welcome.received, Seq(12));
        assert_eq!(welcome.history, Some(History(5)));
        raw.say(start(12, false)).await;
        raw.batch(&end(14, 13)).await;
        let (code, text) = raw.refusal().await;
        assert_eq!(code, RefuseCode::Position, "{text}");
        let (mut raw, welcome) = Raw::welcome(&site, hello()).await;
        assert_eq!(welcome.received, Seq(12));
        raw.say(start(12, false)).await;
        raw.batch(&end(13, 12)).await;
        raw.until(|m| is_received(m, 13)).await;
    });
}

#[test]
fn a_start_elsewhere_is_refused() {
    let Some(site) = Site::new("start") else {
        return;
    };
    site.runtime.block_on(async {
        drop(settled(&site).await);
        for (after, history) in [(11, 5), (13, 5), (12, 6), (0, 5)] {
            let mut other = hello();
            other.history = History(history);
            let (mut raw, _) = Raw::welcome(&site, other).await;
            raw.say(Message::Start(Start {
                history: History(history),
                after: Seq(after),
                jump: false,
                fork: None,
                next_key: None,
            }))
            .await;
            let (code, text) = raw.refusal().await;
            assert_eq!(code, RefuseCode::Position, "{text}");
        }
    });
}

#[test]
fn a_jump_without_a_full_mirror_changes_nothing() {
    let Some(site) = Site::new("jump") else {
        return;
    };
    site.runtime.block_on(async {
        drop(settled(&site).await);
        let (mut raw, _) = Raw::welcome(&site, hello()).await;
        raw.say(start(40, true)).await;
        raw.batch(&end(41, 40)).await;
        let (code, text) = raw.refusal().await;
        assert_eq!(code, RefuseCode::Position, "{text}");
        let (_, welcome) = Raw::welcome(&site, hello()).await;
        assert_eq!(welcome.received, Seq(12));
        assert_eq!(welcome.history, Some(History(5)));
    });
}

#[test]
fn a_damaged_frame_is_refused_and_sent_again() {
    let Some(site) = Site::new("damage") else {
        return;
    };
    site.runtime.block_on(async {
        drop(settled(&site).await);
        let (mut raw, _) = Raw::welcome(&site, hello()).await;
        raw.say(start(12, false)).await;
        let mut bytes = [end(13, 12), end(14, 13)].concat();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        raw.batch(&bytes).await;
        let (code, text) = raw.refusal().await;
        assert_eq!(code, RefuseCode::Protocol, "{text}");
        let (mut raw, welcome) = Raw::welcome(&site, hello()).await;
        assert_eq!(welcome.received, Seq(13), "the good one is kept");
        raw.say(start(13, false)).await;
        raw.batch(&end(14, 13)).await;
        raw.until(|m| is_received(m, 14)).await;
    });
}

#[test]
fn a_source_hears_from_a_target_whose_news_change_nothing() {
    let Some(site) = Site::new("news") else {
        return;
    };
    site.runtime.block_on(async {
        let mut raw = settled(&site).await;
        raw.until(|m| matches!(m, Message::Ack(ack) if ack.durable == Seq(12)))
            .await;
        let Raw {
            mut reader,
            mut writer,
        } = raw;
        // Each request is news to the target, and asks for what is there already.
        let request = Message::CheckpointRequest(CheckpointRequest { upto: Seq(1) });
        let asking = async {
            for _ in 0..140 {
                write_message(&mut writer, &request).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let hearing = async {
            for _ in 0..2 {
                reader.next(Phase::FromTarget).await.unwrap();
            }
        };
        tokio::select! {
            () = asking => panic!("the target fell silent"),
            () = hearing => {}
        }
    });
}

#[test]
fn a_newer_connection_fences_the_older() {
    let Some(site) = Site::new("fence") else {
        return;
    };
    site.runtime.block_on(async {
        let mut older = settled(&site).await;
        for round in 0..20u64 {
            let (mut newer, welcome) = Raw::welcome(&site, hello()).await;
            let (code, _) = older.refusal().await;
            assert_eq!(code, RefuseCode::Fenced);
            assert_eq!(welcome.received, Seq(12 + round));
            newer.say(start(12 + round, false)).await;
            newer.batch(&end(13 + round, 12 + round)).await;
            newer.until(|m| is_received(m, 13 + round)).await;
            older = newer;
        }
    });
}

#[test]
fn connections_at_the_same_time_leave_one() {
    let Some(site) = Site::new("at-once") else {
        return;
    };
    site.runtime.block_on(async {
        drop(settled(&site).await);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let address = site.address();
            tasks.spawn(async move {
                let socket = TcpStream::connect(address).await.unwrap();
                let (reader, mut writer) = socket.into_split();
                let mut reader = MessageReader::new(reader, Duration::from_secs(20));
                let talk = async {
                    write_preface(&mut writer).await?;
                    reader.preface().await?;
                    write_message(&mut writer, &Message::Hello(hello())).await?;
                    reader.next(Phase::Handshake).await?;
                    write_message(&mut writer, &start(12, false)).await?;
                    reader.next(Phase::FromTarget).await
                };
                let spoken: Result<Message, wire::Error> = talk.await;
                (spoken, reader, writer)
            });
        }
        let all = tasks.join_all().await;
        assert_eq!(all.len(), 10);
        let (_, welcome) = Raw::welcome(&site, hello()).await;
        assert_eq!(welcome.received, Seq(12));
    });
}

#[test]
fn without_the_flag_nobody_is_served() {
    let Some(mut site) = Site::new("flag") else {
        return;
    };
    site.stop();
    let mut options = site.options();
    options.insecure_loopback = false;
    site.target = Some(Target::serve(options).unwrap());
    site.runtime.block_on(async {
        let mut raw = Raw::dial(&site).await;
        let (code, text) = match raw.reader.next(Phase::Handshake).await.unwrap() {
            Message::Refuse(refuse) => (refuse.code, refuse.text),
            other => panic!("{other:?}"),
        };
        assert_eq!(code, RefuseCode::Transport);
        assert!(text.contains("--insecure-loopback"), "{text}");
    });
}

#[test]
fn a_target_that_cannot_start_says_why() {
    let Some(site) = Site::new("cannot") else {
        return;
    };
    let failing = |change: &dyn Fn(&mut ServeOptions)| {
        let mut options = site.options();
        options.state = site.scratch.dir("state-other");
        change(&mut options);
        match Target::serve(options) {
            Ok(_) => panic!("it serves"),
            Err(e) => e,
        }
    };
    let missing = failing(&|o| o.root = "/nonexistent/root".into());
    assert!(matches!(missing, Error::Root { .. }), "{missing}");
    let file = site.scratch.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let no_dir = failing(&|o| o.root = file.clone());
    assert!(matches!(no_dir, Error::Root { .. }), "{no_dir}");
    let read_only = failing(&|o| o.root = "/proc/sys".into());
    assert!(
        matches!(read_only, Error::RootReadOnly { .. } | Error::Root { .. }),
        "{read_only}"
    );
    let taken = failing(&|o| o.state = site.scratch.path().join("state"));
    assert!(matches!(taken, Error::StateInUse { .. }), "{taken}");
    let busy = failing(&|o| o.listen = site.address());
    assert!(matches!(busy, Error::Listen { .. }), "{busy}");
    let open = failing(&|o| o.listen = "0.0.0.0:0".parse().unwrap());
    assert!(matches!(open, Error::NotLoopback { .. }), "{open}");
    let disk = failing(&|o| o.run = Some(site.scratch.dir("no-tmpfs")));
    assert!(matches!(disk, Error::NotTmpfs { .. }), "{disk}");
    assert!(sys::is_root());
}

#[test]
fn a_known_stream_whose_mirror_path_is_missing_is_not_made_anew() {
    let Some(mut site) = Site::new("missing") else {
        return;
    };
    site.runtime.block_on(async {
        drop(settled(&site).await);
    });
    site.stop();
    std::fs::rename(site.replica(), site.scratch.path().join("away")).unwrap();
    site.start();
    site.runtime.block_on(async {
        let (_, answer) = Raw::ask(&site, hello()).await;
        let Message::Refuse(refuse) = answer else {
            panic!("{answer:?}");
        };
        assert!(refuse.text.contains("missing"), "{}", refuse.text);
    });
    assert!(!site.replica().exists());
}
