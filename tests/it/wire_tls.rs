//! Goal: an encrypted connection leads to the one who has the key, and to nobody else. Method: real
//! sockets; what goes over the wire is recorded by a relay in between.

use std::sync::{Arc, Mutex};

use doppelfs::keys::{Fingerprint, Key};
use doppelfs::wire::{Acceptor, Connector, Error, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::link_support::runtime;

async fn meet(
    acceptor: &Acceptor,
    connector: &Connector,
) -> (
    Result<(Transport, Fingerprint), Error>,
    Result<(Transport, Fingerprint), Error>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = async {
        let (socket, _) = listener.accept().await.unwrap();
        acceptor.accept(socket).await
    };
    let connected = async {
        let socket = TcpStream::connect(address).await.unwrap();
        connector.connect(socket).await
    };
    tokio::join!(accepted, connected)
}

/// Each end sends a word and hears the other's: tickets are handed over with the first bytes.
async fn talk(target: &mut Transport, source: &mut Transport) {
    let mut word = [0; 4];
    target.write_all(b"pong").await.unwrap();
    target.flush().await.unwrap();
    source.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"pong");
    source.write_all(b"ping").await.unwrap();
    source.flush().await.unwrap();
    target.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

#[test]
fn both_learn_the_others_key() {
    let (target, source) = (Key::generate().unwrap(), Key::generate().unwrap());
    let acceptor = Acceptor::new(&target).unwrap();
    let connector = Connector::new(&source, &[target.fingerprint()]).unwrap();
    runtime().block_on(async {
        let (accepted, connected) = meet(&acceptor, &connector).await;
        let (mut there, found) = accepted.unwrap();
        assert_eq!(found, source.fingerprint());
        let (mut here, found) = connected.unwrap();
        assert_eq!(found, target.fingerprint());
        assert!(
            here.protection().starts_with("TLS 1.3"),
            "{}",
            here.protection()
        );
        talk(&mut there, &mut here).await;
    });
}

#[test]
fn another_targets_key_is_refused_before_anything_is_said() {
    let (target, other) = (Key::generate().unwrap(), Key::generate().unwrap());
    let acceptor = Acceptor::new(&other).unwrap();
    let source = Key::generate().unwrap();
    let connector = Connector::new(&source, &[target.fingerprint()]).unwrap();
    runtime().block_on(async {
        let (accepted, connected) = meet(&acceptor, &connector).await;
        match connected {
            Err(Error::WrongKey { found }) => assert_eq!(found, other.fingerprint()),
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("connected to a stranger"),
        }
        let told = accepted.map(|_| ()).unwrap_err().to_string();
        assert!(told.contains("TLS handshake"), "{told}");
    });
}

#[test]
fn a_session_is_resumed_with_the_same_keys_only() {
    let (target, source) = (Key::generate().unwrap(), Key::generate().unwrap());
    let acceptor = Acceptor::new(&target).unwrap();
    let pins = [target.fingerprint()];
    let connector = Connector::new(&source, &pins).unwrap();
    let is_resumed = |one: &Transport| one.protection().ends_with("resumed");
    runtime().block_on(async {
        for round in 0..4 {
            let (accepted, connected) = meet(&acceptor, &connector).await;
            let (mut there, seen) = accepted.unwrap();
            let (mut here, found) = connected.unwrap();
            // What was proved then is known still.
            assert_eq!((seen, found), (source.fingerprint(), target.fingerprint()));
            assert_eq!(is_resumed(&here), round > 0, "round {round}");
            assert_eq!(is_resumed(&there), round > 0, "round {round}");
            talk(&mut there, &mut here).await;
        }
        // Another source has no such session; nor has a target that was started anew.
        let other = Connector::new(&Key::generate().unwrap(), &pins).unwrap();
        let (_, connected) = meet(&acceptor, &other).await;
        assert!(!is_resumed(&connected.unwrap().0));
        let anew = Acceptor::new(&target).unwrap();
        let (accepted, connected) = meet(&anew, &connector).await;
        assert!(accepted.is_ok() && !is_resumed(&connected.unwrap().0));
        // And a target with another key is none that a session could be resumed with.
        let stranger = Acceptor::new(&Key::generate().unwrap()).unwrap();
        let (_, connected) = meet(&stranger, &connector).await;
        assert!(matches!(connected.map(|_| ()), Err(Error::WrongKey { .. })));
    });
}

/// Hands bytes on and keeps them.
async fn relay(from: TcpStream, to: TcpStream, kept: Arc<Mutex<Vec<u8>>>) {
    let ((mut a, mut b), (mut c, mut d)) = (from.into_split(), to.into_split());
    let one = async |read: &mut tokio::net::tcp::OwnedReadHalf,
                     write: &mut tokio::net::tcp::OwnedWriteHalf| {
        let mut buffer = vec![0; 4096];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            kept.lock().unwrap().extend_from_slice(&buffer[..n]);
            if write.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    tokio::join!(one(&mut a, &mut d), one(&mut c, &mut b));
}

#[test]
fn nobody_in_between_reads_a_word_or_a_key() {
    let (target, source) = (Key::generate().unwrap(), Key::generate().unwrap());
    let acceptor = Acceptor::new(&target).unwrap();
    let connector = Connector::new(&source, &[target.fingerprint()]).unwrap();
    runtime().block_on(async {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to_front, to_back) = (front.local_addr().unwrap(), back.local_addr().unwrap());
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeping = Arc::clone(&kept);
        tokio::spawn(async move {
            let (socket, _) = front.accept().await.unwrap();
            let onward = TcpStream::connect(to_back).await.unwrap();
            relay(socket, onward, keeping).await;
        });
        let accepted = async {
            let (socket, _) = back.accept().await.unwrap();
            acceptor.accept(socket).await
        };
        let connected = async {
            let socket = TcpStream::connect(to_front).await.unwrap();
            connector.connect(socket).await
        };
        let (accepted, connected) = tokio::join!(accepted, connected);
        let (mut there, mut here) = (accepted.unwrap().0, connected.unwrap().0);
        let secret = b"a name that nobody is to read";
        here.write_all(secret).await.unwrap();
        here.flush().await.unwrap();
        let mut word = vec![0; secret.len()];
        there.read_exact(&mut word).await.unwrap();
        assert_eq!(word, secret);
        let seen = kept.lock().unwrap().clone();
        let is_seen = |what: &[u8]| seen.windows(what.len()).any(|w| w == what);
        assert!(!is_seen(secret));
        // Neither do the keys show themselves.
        assert!(!is_seen(&source.public()[12..]) && !is_seen(&target.public()[12..]));
    });
}
