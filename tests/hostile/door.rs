//! Who comes in: keys, tokens, TLS, names, mirror paths.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::attack::{Attack, Theatre, carry_out, hello_to};
use super::line::{self, HELLO, Heard, Hello, Key, Line, PAIR, PATIENCE, REKEY, rekey};
use super::pack::{Pack, fields, text};
use super::scene::{Scene, Verdict, greet, hello, is_remembered};
use super::stage::{Source, until};

fn refused(t: &Theatre, heard: &Heard, words: &str) -> Verdict {
    match heard {
        Heard::Refused(r) if format!("{}: {}", r.code, r.text).contains(words) => {}
        other => return Err(format!("{other:?}, not {words:?}")),
    }
    let words = words.rsplit(": ").next().unwrap_or(words);
    is_remembered(&t.stage, words)
}

/// The hello is refused, and no directory was made for it.
fn hello_is_refused(t: &Theatre, source: &Source, hello: &Hello, words: &str) -> Verdict {
    let greeted = greet(&t.stage, source, hello).map_err(|e| e.to_string())?;
    match greeted.1 {
        Heard::Refused(r) if format!("{}: {}", r.code, r.text).contains(words) => Ok(()),
        other => Err(format!("{other:?}, not {words:?}")),
    }
}

fn path_is_refused(t: &Theatre, set: &str, path: &str, words: &str) -> Verdict {
    hello_is_refused(t, &t.mallory, &hello_to(set, path), words)
}

/// Somebody with a key that nobody knows.
fn stranger() -> Source {
    let key = Key::generate();
    let config = Arc::new(key.config());
    Source {
        name: "stranger".to_owned(),
        key,
        config,
    }
}

fn ask_rekey(t: &Theatre, source: &Source, asked: &Pack) -> Result<Heard, String> {
    let line = Line::open(t.stage.address, &source.config);
    let mut line = line.map_err(|e| e.to_string())?;
    line.say(REKEY, &asked.encode())
        .map_err(|e| e.to_string())?;
    Ok(line.hear(PATIENCE))
}

macro_rules! paths {
    ($($name:literal $path:expr => $words:literal),* $(,)?) => {
        &[$(Attack {
            name: $name,
            act: |t, set| path_is_refused(t, set, $path, $words),
        }),*]
    };
}

const PATHS: &[Attack] = paths![
    "path_up" "mallory/../victim/data" => "not a file name",
    "path_up_at_once" "../outside" => "not a file name",
    "path_absolute" "/etc" => "absolute",
    "path_of_another_source" "honest/data" => "Forbidden",
    "path_around_another_source" "honest" => "Forbidden",
    "path_below_another_source" "honest/data/file3" => "Forbidden",
    "path_beginning_like_the_own" "mallory2/data" => "Forbidden",
    "path_that_nobody_has" "victim/data" => "Forbidden",
    "path_hidden" ".doppelfs" => "target's own",
    "path_hidden_below" "mallory/.doppelfs/x" => "target's own",
    "path_of_the_root" "." => "root itself",
    "path_of_the_root_by_slashes" "//" => "absolute",
    "path_empty" "" => "root itself",
    "path_deep" &["mallory"; 1].into_iter().chain(["d"; 70]).collect::<Vec<_>>().join("/") => "too deep",
    "path_long" &format!("mallory/{}", "x".repeat(256)) => "longer than",
    "path_with_nul" "mallory/a\0b" => "not a file name",
];

#[test]
fn mirror_paths_lead_nowhere() {
    carry_out("paths", PATHS);
}

const NEIGHBOURS: &[Attack] = &[
    Attack {
        name: "path_of_another_set",
        act: |t, set| {
            let other = format!("{set}-other");
            let scene = Scene::open(&t.stage, &t.mallory, &other)?;
            let path = format!("mallory/{other}");
            drop(scene);
            path_is_refused(t, set, &path, "holds the replica")?;
            path_is_refused(t, set, &format!("{path}/below"), "lie in each other")?;
            path_is_refused(t, set, "mallory", "lie in each other")
        },
    },
    Attack {
        name: "path_through_a_link",
        act: |t, set| {
            std::fs::create_dir_all(t.stage.root().join("mallory")).unwrap();
            let link = t.stage.root().join("mallory/out");
            std::os::unix::fs::symlink(t.stage.outside(), &link).unwrap();
            path_is_refused(t, set, "mallory/out", "symbolic link")?;
            path_is_refused(t, set, "mallory/out/new", "symbolic link")
        },
    },
    Attack {
        name: "set_and_path_that_were_not_granted",
        act: |t, _| {
            let terms = ["--set", "db", "--path", "mallory/narrow"];
            let narrow = t.stage.source("narrow", &terms);
            for (set, path) in [
                ("mail", None),
                ("mail", Some("mallory/narrow")),
                ("db", Some("narrow/db")),
                ("db", Some("mallory/narrower")),
                ("db", Some("mallory")),
            ] {
                let mut asked = hello(set);
                asked.path = path.map(str::to_owned);
                hello_is_refused(t, &narrow, &asked, "Forbidden")?;
            }
            let mut asked = hello("db");
            asked.path = Some("mallory/narrow".to_owned());
            Scene::begin(&t.stage, &narrow, asked, true).map(|_| ())
        },
    },
    Attack {
        name: "sets_of_odd_names",
        act: |t, _| {
            for name in ["", ".", "..", "../x", "-x", "a/b", "a\0b", &"x".repeat(65)] {
                hello_is_refused(t, &t.mallory, &hello(name), "not a set name")?;
            }
            Ok(())
        },
    },
    Attack {
        name: "more_replicas_than_there_may_be",
        act: |t, _| {
            let many = t.stage.source("many", &["--path", "mallory/many"]);
            for number in 0..64 {
                let begun = Scene::begin(&t.stage, &many, hello(&format!("s{number}")), true);
                begun.map(|_| ()).map_err(|e| format!("{number}: {e}"))?;
            }
            hello_is_refused(t, &many, &hello("s64"), "which is the limit")
        },
    },
];

#[test]
fn replicas_of_others_are_not_taken() {
    carry_out("neighbours", NEIGHBOURS);
}

/// A `ClientHello` of TLS 1.2: without the extension that offers anything newer.
fn client_hello_12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    // No session; two suites of that version; no compression; no extensions.
    body.extend_from_slice(&[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let length = u8::try_from(body.len()).unwrap();
    let mut message = vec![1, 0, 0, length];
    message.extend_from_slice(&body);
    let mut record = vec![0x16, 3, 1, 0, length + 4];
    record.extend_from_slice(&message);
    record
}

/// No word of the product is said on this connection.
fn gets_no_welcome(t: &Theatre, config: &Arc<rustls::ClientConfig>) -> Verdict {
    let Ok(mut line) = Line::open(t.stage.address, config) else {
        return Ok(());
    };
    let _ = line.say(HELLO, &hello("x").pack().encode());
    match line.hear(PATIENCE) {
        Heard::Closed => is_remembered(&t.stage, "TLS handshake"),
        other => Err(format!("{other:?}")),
    }
}

const KEYS: &[Attack] = &[
    Attack {
        name: "plain_bytes",
        act: |t, set| {
            let mut line = Line::plain(t.stage.address).map_err(|e| e.to_string())?;
            line.write(b"DPFS\x01\x00").map_err(|e| e.to_string())?;
            let _ = line.say(HELLO, &hello(set).pack().encode());
            let heard = line.hear(PATIENCE);
            refused(t, &heard, "speaks TLS with paired sources only")
        },
    },
    Attack {
        name: "plain_bytes_of_something_else",
        act: |t, _| {
            let mut socket = TcpStream::connect(t.stage.address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = socket.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
            match answer.is_empty() {
                true => is_remembered(&t.stage, "does not speak doppelfs"),
                false => Err(format!("{answer:?}")),
            }
        },
    },
    Attack {
        name: "tls_1_2",
        act: |t, _| {
            let mut socket = TcpStream::connect(t.stage.address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(&client_hello_12()).unwrap();
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
            match answer.first() {
                // An alert, or nothing.
                Some(0x15) | None => is_remembered(&t.stage, "TLS handshake"),
                other => Err(format!("{other:?}")),
            }
        },
    },
    Attack {
        name: "tls_without_a_key",
        act: |t, _| gets_no_welcome(t, &Arc::new(line::config_without_key())),
    },
    Attack {
        name: "key_of_another_kind",
        act: |t, _| gets_no_welcome(t, &Arc::new(Key::of_another_kind().config())),
    },
    Attack {
        name: "certificate_for_a_key",
        act: |t, _| {
            let key = Key::generate();
            let certificate = vec![0x30u8; 300];
            let shown = vec![CertificateDer::from(certificate)];
            gets_no_welcome(t, &Arc::new(key.config_showing(shown)))
        },
    },
    Attack {
        name: "key_of_somebody_else",
        act: |t, _| {
            // What the honest source shows, signed by another.
            let shown = vec![CertificateDer::from(t.honest.key.public.clone())];
            gets_no_welcome(t, &Arc::new(t.mallory.key.config_showing(shown)))
        },
    },
    Attack {
        name: "two_keys_at_once",
        act: |t, _| {
            let own = CertificateDer::from(t.mallory.key.public.clone());
            let other = CertificateDer::from(t.honest.key.public.clone());
            gets_no_welcome(t, &Arc::new(t.mallory.key.config_showing(vec![own, other])))
        },
    },
    Attack {
        name: "key_that_nobody_knows",
        act: |t, set| {
            let greeted = greet(&t.stage, &stranger(), &hello(set)).map_err(|e| e.to_string())?;
            refused(t, &greeted.1, "is not known here, or was revoked")
        },
    },
    Attack {
        name: "revoked_with_a_ticket",
        act: |t, _| {
            let gone = t.stage.source("gone", &["--path", "mallory/gone"]);
            // Tickets come after the handshake: a session leaves some behind.
            drop(Scene::open(&t.stage, &gone, "data")?);
            let revoked = t.stage.run(&["peers", "revoke", "gone"]);
            let greeted = greet(&t.stage, &gone, &hello("data")).map_err(|e| e.to_string())?;
            refused(t, &greeted.1, "is not known here, or was revoked").map_err(|e| e + &revoked)
        },
    },
    Attack {
        name: "revoked_while_it_sends",
        act: |t, _| {
            let gone = t.stage.source("going", &["--path", "mallory/going"]);
            let mut scene = Scene::open(&t.stage, &gone, "data")?;
            t.stage.run(&["peers", "revoke", "going"]);
            scene.last += 1;
            scene.refused("was revoked")
        },
    },
    Attack {
        name: "token_guessed",
        act: |t, _| {
            for _ in 0..50 {
                let guess: [u8; 16] = rand::random();
                let heard = t.stage.redeem(&stranger().config, &guess, "guesser");
                refused(t, &heard, "Token: this token is not known here")?;
            }
            for guess in [&[] as &[u8], &[0; 15], &[0; 900]] {
                let heard = t.stage.redeem(&stranger().config, guess, "guesser");
                refused(t, &heard, "Token: this token is not known here")?;
            }
            Ok(())
        },
    },
    Attack {
        name: "token_altered",
        act: |t, _| {
            let mut secret = t.stage.invite(&[]);
            secret[3] ^= 1;
            let heard = t.stage.redeem(&stranger().config, &secret, "alterer");
            refused(t, &heard, "Token: this token is not known here")
        },
    },
    Attack {
        name: "token_used",
        act: |t, _| {
            let secret = t.stage.invite(&["--path", "mallory/first"]);
            t.stage.redeem(&stranger().config, &secret, "first");
            let heard = t.stage.redeem(&stranger().config, &secret, "second");
            refused(t, &heard, "this token was used")
        },
    },
    Attack {
        name: "token_expired",
        act: |t, _| {
            let secret = t.stage.invite(&["--expires", "1s"]);
            std::thread::sleep(Duration::from_millis(2100));
            let heard = t.stage.redeem(&stranger().config, &secret, "late");
            refused(t, &heard, "this token has expired")
        },
    },
    Attack {
        name: "name_of_another_source",
        act: |t, _| {
            let secret = t.stage.invite(&[]);
            let heard = t.stage.redeem(&stranger().config, &secret, "honest");
            refused(t, &heard, "a source named honest is paired already")
        },
    },
    Attack {
        name: "names_of_no_source",
        act: |t, _| {
            let secret = t.stage.invite(&[]);
            for name in [
                "",
                ".",
                "..",
                "../honest",
                "a/b",
                ".doppelfs",
                "-x",
                "a\nb",
                "a\0b",
                "ä",
                &"x".repeat(65),
            ] {
                let heard = t.stage.redeem(&stranger().config, &secret, name);
                refused(t, &heard, "cannot be the name of a source")?;
            }
            Ok(())
        },
    },
    Attack {
        name: "paired_twice",
        act: |t, _| {
            // One that is known already does not become another by one more token.
            let secret = t.stage.invite(&["--path", "mallory/more"]);
            match t.stage.redeem(&t.mallory.config, &secret, "somebody") {
                Heard::Paired(paired) if paired.known_as == "mallory" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    },
    Attack {
        name: "rekey_to_the_key_of_another",
        act: |t, _| {
            // Vouched for by nobody but who asks, and by its holder for somebody else.
            let (own, other) = (&t.mallory.key, &t.honest.key);
            let vouched = [own.vouch(own, other), other.vouch(other, other), Vec::new()];
            for proof in vouched {
                let asked = rekey(&other.fingerprint(), &other.public, &proof);
                let heard = ask_rekey(t, &t.mallory, &asked)?;
                refused(t, &heard, "not shown to be this source's")?;
            }
            Ok(())
        },
    },
    Attack {
        name: "rekey_to_the_key_of_another_that_vouches",
        act: |t, _| {
            let (own, other) = (&t.mallory.key, &t.honest.key);
            let proof = other.vouch(own, other);
            let asked = rekey(&other.fingerprint(), &other.public, &proof);
            let heard = ask_rekey(t, &t.mallory, &asked)?;
            refused(t, &heard, "belongs to another source")
        },
    },
    Attack {
        name: "rekey_of_nobody",
        act: |t, _| {
            let stranger = stranger();
            let asked = rekey(&stranger.key.fingerprint(), &[], &[]);
            let heard = ask_rekey(t, &stranger, &asked)?;
            refused(t, &heard, "is not known here, or was revoked")
        },
    },
    Attack {
        name: "rekey_to_no_fingerprint",
        act: |t, _| {
            let heard = ask_rekey(t, &t.mallory, &rekey("zz", &[], &[]))?;
            refused(t, &heard, "cannot be decoded")
        },
    },
    Attack {
        name: "rekey_to_the_key_of_one_to_come",
        act: |t, _| {
            // The key of a source that will be invited later, known from elsewhere: who is paired then is
            // that source, and none of its rights are mallory's.
            let heir = stranger();
            let own = &t.mallory.key;
            for (public, proof) in [
                (heir.key.public.clone(), own.vouch(own, &heir.key)),
                (own.public.clone(), own.vouch(own, &heir.key)),
                (own.public.clone(), own.vouch(own, own)),
                (Vec::new(), Vec::new()),
            ] {
                let asked = rekey(&heir.key.fingerprint(), &public, &proof);
                ask_rekey(t, &t.mallory, &asked)?;
            }
            let secret = t.stage.invite(&["--path", "mallory/heirloom"]);
            let heard = t.stage.redeem(&heir.config, &secret, "heir");
            let known = t.stage.run(&["peers", "list"]).replace('\n', " | ");
            // So that mallory's key is the only one again.
            let asked = rekey(&own.fingerprint(), &[], &[]);
            ask_rekey(t, &t.mallory, &asked)?;
            match heard {
                Heard::Paired(paired) if paired.known_as == "heir" => Ok(()),
                other => Err(format!("{other:?}; {known}")),
            }
        },
    },
    Attack {
        name: "rekey_in_order",
        act: |t, _| {
            // None: the way by which a source changes its key.
            let before = t.stage.source("changing", &["--path", "mallory/changing"]);
            let next = stranger();
            let proof = next.key.vouch(&before.key, &next.key);
            let asked = rekey(&next.key.fingerprint(), &next.key.public, &proof);
            match ask_rekey(t, &before, &asked)? {
                Heard::Paired(paired) if paired.known_as == "changing" => {}
                other => return Err(format!("{other:?}")),
            }
            Scene::open(&t.stage, &next, "data").map(|_| ())
        },
    },
    Attack {
        name: "pair_without_its_fields",
        act: |t, _| {
            let line = Line::open(t.stage.address, &stranger().config);
            let mut line = line.map_err(|e| e.to_string())?;
            let body = fields(vec![("name", text("x")), ("protocol", Pack::Whole(1))]);
            let _ = line.say(PAIR, &body.encode());
            let heard = line.hear(PATIENCE);
            refused(t, &heard, "cannot be decoded")
        },
    },
    Attack {
        name: "slow_in_the_door",
        act: |t, _| {
            let mut socket = TcpStream::connect(t.stage.address).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            let mut rest = client_hello_12().into_iter();
            until(
                "a connection of one byte each half second is closed",
                || {
                    let written = socket.write_all(&[rest.next().unwrap_or(0)]);
                    let mut answer = [0; 1];
                    let closed = match socket.read(&mut answer) {
                        Ok(0) => true,
                        Ok(_) => false,
                        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
                    };
                    closed || written.is_err()
                },
            )
        },
    },
];

#[test]
fn keys_and_tokens_let_in_nobody_else() {
    carry_out("keys", KEYS);
}
