//! Goal: a sender bears whatever answers, says what is wrong and what to do, and tries again.
//! Method: targets played by the test.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doppelfs::sender::{Link, Sender, SenderState, WINDOW_BYTES};
use doppelfs::types::{FileId, History, Seq};
use doppelfs::wire::{
    Ack, DataState, Message, MessageReader, PROTOCOL, Phase, Refuse, RefuseCode, Start,
    TargetState, Unpacker, Want, Welcome, write_message, write_preface,
};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::link_support::{Scratch, Source, runtime};

struct Stage {
    scratch: Scratch,
    runtime: Runtime,
    listener: TcpListener,
}

struct Actor {
    reader: MessageReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        Stage {
            scratch: Scratch::new(name),
            runtime,
            listener,
        }
    }

    fn source(&self) -> Arc<Source> {
        let source = Source::new(&self.scratch.dir("queue"), 1);
        source.create("a");
        source
    }

    fn connect(&self, source: &Arc<Source>) -> Sender {
        source.connect(self.listener.local_addr().unwrap(), &self.runtime)
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Accepts and reads the hello.
    async fn greet(&self) -> Actor {
        let (reader, mut writer) = self.accept().await.into_split();
        let mut reader = MessageReader::new(reader, Duration::from_secs(20));
        reader.preface().await.unwrap();
        write_preface(&mut writer).await.unwrap();
        let hello = reader.next(Phase::Handshake).await.unwrap();
        assert!(matches!(hello, Message::Hello(_)));
        Actor { reader, writer }
    }

    fn await_state(
        &self,
        sender: &Sender,
        mut is_it: impl FnMut(&SenderState) -> bool,
    ) -> SenderState {
        let mut changes = sender.subscribe();
        self.runtime.block_on(async {
            let wait = async {
                while !is_it(&sender.state()) {
                    changes.changed().await.unwrap();
                }
            };
            let patience = Duration::from_secs(30);
            let waited = tokio::time::timeout(patience, wait).await;
            assert!(waited.is_ok(), "{:#?}", sender.state());
            sender.state()
        })
    }
}

impl Actor {
    async fn say(&mut self, message: Message) {
        write_message(&mut self.writer, &message).await.unwrap();
    }

    async fn welcome(&mut self, history: Option<u128>, received: u64) -> Start {
        self.welcome_at(history, received, received).await
    }

    async fn welcome_at(&mut self, history: Option<u128>, received: u64, applied: u64) -> Start {
        let seq = Seq(applied);
        self.say(Message::Welcome(Welcome {
            protocol: PROTOCOL,
            history: history.map(History),
            received: Seq(received),
            applied: seq,
            durable: seq,
            mirror: None,
            replica_path: "/srv/replica".into(),
            state: TargetState::Ok,
            remap: None,
            next_key: None,
        }))
        .await;
        match self.reader.next(Phase::Handshake).await.unwrap() {
            Message::Start(start) => start,
            other => panic!("{other:?}"),
        }
    }

    async fn ack(&mut self, seq: u64) {
        let seq = Seq(seq);
        self.say(Message::Ack(Ack {
            received: seq,
            applied: seq,
            durable: seq,
            ..Ack::default()
        }))
        .await;
    }

    /// The numbers in the next batch.
    async fn batch(&mut self) -> Vec<u64> {
        loop {
            let message = self.reader.next(Phase::FromSource).await.unwrap();
            if let Message::Batch(body) = message {
                let mut unpacker = Unpacker::new();
                let frames = unpacker.open(&body).unwrap();
                return frames.map(|f| f.unwrap().header().seq.0).collect();
            }
        }
    }
}

fn says(state: &SenderState, words: &str) -> bool {
    state.error.as_deref().is_some_and(|e| e.contains(words))
}

#[test]
fn a_new_target_is_sent_a_mirror_from_its_beginning() {
    let stage = Stage::new("jump");
    let source = stage.source();
    let sender = stage.connect(&source);
    stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        let start = actor.welcome(None, 0).await;
        assert!(start.jump);
        assert_eq!(start.after, Seq(1));
        assert_eq!(actor.batch().await, [2]);
        // While the target still listens: the sender sees at once when it goes.
        let state = sender.state();
        assert_eq!(state.link, Link::Connected);
        assert_eq!(state.data, DataState::Mirroring);
        assert_eq!(state.replica_path.as_deref(), Some("/srv/replica"));
    });
    assert_eq!(source.journal.cursor("conn-1"), Some(Seq(1)));
}

#[test]
fn a_target_ahead_or_of_another_history_is_sent_a_mirror() {
    let stage = Stage::new("ahead");
    let source = stage.source();
    let _sender = stage.connect(&source);
    stage.runtime.block_on(async {
        for (history, received) in [(1, 9), (2, 1), (2, 0)] {
            let mut actor = stage.greet().await;
            let start = actor.welcome(Some(history), received).await;
            assert!(start.jump, "{history} {received}");
        }
        let end = source.journal.end();
        let mut actor = stage.greet().await;
        let start = actor.welcome(Some(1), end.0).await;
        assert!(!start.jump);
        assert_eq!(start.after, end);
    });
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 3);
}

#[test]
fn what_an_earlier_session_sent_is_as_old_as_it_is() {
    let stage = Stage::new("old");
    let source = stage.source();
    let sender = stage.connect(&source);
    let _actor = stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        assert!(!actor.welcome_at(Some(1), 1, 0).await.jump);
        actor
    });
    let is_old = |state: &SenderState| state.link == Link::Connected && state.lags.applied.ops == 1;
    let lag = stage.await_state(&sender, is_old).lags.applied;
    assert!(lag.seconds > 0.0, "{lag:?}");
}

#[test]
fn what_is_not_acknowledged_is_sent_again() {
    let stage = Stage::new("again");
    let source = stage.source();
    for _ in 0..10 {
        source.write("a", b"x");
    }
    let sender = stage.connect(&source);
    stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        actor.welcome(Some(1), 1).await;
        assert_eq!(actor.batch().await, Vec::from_iter(2..=11));
        actor.ack(5).await;
        let mut actor = stage.greet_after(actor).await;
        actor.welcome(Some(1), 5).await;
        assert_eq!(actor.batch().await, Vec::from_iter(6..=11));
        actor.ack(11).await;
    });
    let state = stage.await_state(&sender, |s| s.marks.durable == Seq(11));
    assert_eq!(state.sessions, 2);
    assert_eq!(source.mirrors_begun.load(Ordering::SeqCst), 0);
    assert_eq!(source.journal.cursor("conn-1"), Some(Seq(11)));
}

impl Stage {
    async fn greet_after(&self, actor: Actor) -> Actor {
        drop(actor);
        self.greet().await
    }
}

#[test]
fn a_refusal_is_shown_and_tried_again() {
    let stage = Stage::new("refused");
    let source = stage.source();
    let sender = stage.connect(&source);
    stage.runtime.block_on(async {
        for _ in 0..2 {
            let mut actor = stage.greet().await;
            actor
                .say(Message::Refuse(Refuse {
                    code: RefuseCode::Taken,
                    text: "choose another path".into(),
                }))
                .await;
        }
    });
    let state = stage.await_state(&sender, |s| says(s, "choose another path"));
    assert_eq!(state.link, Link::Connecting);
    assert_eq!(state.data, DataState::MirrorRequired);
    assert_eq!(state.sessions, 0);
}

#[test]
fn what_listens_there_and_is_no_target_is_named() {
    let stage = Stage::new("http");
    let source = stage.source();
    let sender = stage.connect(&source);
    stage.runtime.block_on(async {
        let mut socket = stage.accept().await;
        socket.write_all(b"HTTP/1.1 400 Bad\r\n").await.unwrap();
        let (reader, _writer) = socket.into_split();
        let mut reader = MessageReader::new(reader, Duration::from_secs(20));
        let _ = reader.preface().await;
    });
    stage.await_state(&sender, |s| says(s, "does not speak doppelfs"));
    stage.runtime.block_on(async {
        let mut socket = stage.accept().await;
        socket.write_all(b"DPFS\x07\x00").await.unwrap();
        let _ = socket.shutdown().await;
    });
    stage.await_state(&sender, |s| says(s, "version 7"));
}

#[test]
fn asking_for_more_files_than_there_are_ends_the_session() {
    let stage = Stage::new("greedy");
    let source = stage.source();
    let sender = stage.connect(&source);
    stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        actor.welcome(Some(1), 0).await;
        actor.batch().await;
        let ids = (0..4000).map(|ino| FileId::new(ino, 1)).collect();
        actor.say(Message::Want(Want { ids })).await;
        let ended = actor.reader.next(Phase::FromSource).await;
        assert!(ended.is_err());
    });
    stage.await_state(&sender, |s| says(s, "asks for more files"));
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_session() {
    let stage = Stage::new("liar");
    let source = stage.source();
    let sender = stage.connect(&source);
    stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        actor.welcome(Some(1), 0).await;
        actor.batch().await;
        actor.ack(50).await;
        let ended = actor.reader.next(Phase::FromSource).await;
        assert!(ended.is_err());
    });
    let state = stage.await_state(&sender, |s| says(s, "breaks the protocol"));
    assert_eq!(state.marks.durable, Seq(0));
}

#[test]
fn plain_only_to_loopback_and_only_with_the_flag() {
    let stage = Stage::new("flag");
    let source = stage.source();
    let address = stage.listener.local_addr().unwrap();
    let mut options = source.options(address, &stage.runtime);
    options.insecure_loopback = false;
    let sender = Sender::start(options.clone()).unwrap();
    stage.await_state(&sender, |s| says(s, "not paired"));
    options.insecure_loopback = true;
    options.id = 2;
    options.target.host = "192.0.2.1".into();
    let sender = Sender::start(options).unwrap();
    stage.await_state(&sender, |s| says(s, "no loopback address"));
}

#[test]
fn stopping_is_prompt_in_every_phase() {
    let stage = Stage::new("stop");
    let source = stage.source();
    let sender = stage.connect(&source);
    let socket = stage.runtime.block_on(stage.accept());
    sender.stop();
    drop(socket);
    assert_eq!(sender.state().link, Link::Stopped);
    let sender = stage.connect(&source);
    let _actor = stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        actor.welcome(Some(1), 0).await;
        actor.batch().await;
        actor
    });
    sender.stop();
    assert_eq!(sender.state().link, Link::Stopped);
    assert_eq!(source.journal.cursor("conn-1"), Some(Seq(0)));
    sender.forget();
    assert_eq!(source.journal.cursor("conn-1"), None);
}

#[test]
fn a_checkpoint_asked_for_early_reaches_the_target() {
    let stage = Stage::new("checkpoint");
    let source = stage.source();
    let sender = stage.connect(&source);
    sender.request_checkpoint();
    stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        actor.welcome(Some(1), 0).await;
        loop {
            let message = actor.reader.next(Phase::FromSource).await.unwrap();
            if let Message::CheckpointRequest(request) = message {
                assert_eq!(request.upto, Seq(1));
                break;
            }
        }
    });
}

#[test]
fn a_target_that_stores_nothing_gets_no_more_than_the_window() {
    let stage = Stage::new("window");
    let source = stage.source();
    let sender = stage.connect(&source);
    let chunk = vec![0u8; 1 << 20];
    for _ in 0..80 {
        source.write("a", &chunk);
    }
    let mut got = 1;
    stage.runtime.block_on(async {
        let mut actor = stage.greet().await;
        actor.welcome(Some(1), 1).await;
        let silent = Duration::from_millis(500);
        while let Ok(batch) = tokio::time::timeout(silent, actor.batch()).await {
            got = batch.last().copied().unwrap();
        }
        let window = WINDOW_BYTES >> 20;
        assert!((window - 2..=window + 2).contains(&got), "{got}");
        actor.ack(got).await;
        while got < 81 {
            got = actor.batch().await.last().copied().unwrap();
            actor.ack(got).await;
        }
    });
    let state = stage.await_state(&sender, |s| s.marks.durable == Seq(81));
    assert!(state.sent_bytes >= 80 << 20);
    assert!(state.wire_bytes < 8 << 20, "compressed");
    assert_eq!(state.lags.applied.bytes, 0);
}
