//! Goal: keys, tokens and pairings come back as they were written, are for their owner alone, and say
//! what is wrong with them. Method: real files, each thing altered once.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use doppelfs::keys::{Error, Fingerprint, Key, PairedTarget, Pairings, Secret, Token, TokenError};

use super::link_support::Scratch;

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn token() -> Token {
    Token {
        target: Key::generate().unwrap().fingerprint(),
        secret: Secret::generate().unwrap(),
    }
}

#[test]
fn a_key_comes_back_and_is_ours_alone() {
    let scratch = Scratch::new("key");
    let path = scratch.path().join("keys/key");
    assert!(Key::load(&path).unwrap().is_none());
    let made = Key::load_or_create(&path).unwrap();
    let read = Key::load_or_create(&path).unwrap();
    assert_eq!(made.fingerprint(), read.fingerprint());
    assert_ne!(made.fingerprint(), Key::generate().unwrap().fingerprint());
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(mode_of(path.parent().unwrap()), 0o700);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let scratch = Scratch::new("exposed");
    let path = scratch.path().join("key");
    Key::load_or_create(&path).unwrap();
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Key::load(&path);
        assert!(matches!(refused, Err(Error::Exposed { .. })), "{mode:o}");
    }
}

#[test]
fn a_key_behind_a_link_or_of_another_kind_is_refused() {
    let scratch = Scratch::new("odd-keys");
    let (path, link) = (scratch.path().join("key"), scratch.path().join("link"));
    Key::load_or_create(&path).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Key::load(&link), Err(Error::Io { .. })));
    std::fs::write(&path, b"-----BEGIN PRIVATE KEY-----").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(Key::load(&path), Err(Error::NoKey { .. })));
}

#[test]
fn a_token_comes_back_whatever_its_letters_case() {
    for _ in 0..100 {
        let made = token();
        let text = made.text();
        assert_eq!(text.len(), 5 + 84);
        assert_eq!(text.parse::<Token>().unwrap(), made);
        let shouted = format!("  dfs1-{}\n", text[5..].to_uppercase());
        assert_eq!(shouted.parse::<Token>().unwrap(), made);
    }
}

#[test]
fn a_token_with_any_letter_changed_is_found_to_be_altered() {
    let made = token();
    let text = made.text().to_string();
    let letters = b"abcdefghijklmnopqrstuvwxyz234567";
    for at in 5..text.len() {
        for &letter in letters {
            let mut bytes = text.clone().into_bytes();
            if bytes[at] == letter {
                continue;
            }
            bytes[at] = letter;
            let altered = String::from_utf8(bytes).unwrap();
            assert_eq!(altered.parse::<Token>(), Err(TokenError::Altered), "{at}");
        }
    }
}

#[test]
fn what_is_no_token_is_told_apart() {
    let text = token().text().to_string();
    assert_eq!("".parse::<Token>(), Err(TokenError::NoToken));
    assert_eq!(text[5..].parse::<Token>(), Err(TokenError::NoToken));
    for end in 5..text.len() {
        let short = text[..end].parse::<Token>();
        assert!(matches!(short, Err(TokenError::Length { wanted: 84, .. })));
    }
    let odd = format!("dfs1-{}", "ä".repeat(42));
    assert_eq!(odd.parse::<Token>(), Err(TokenError::Altered));
    let odd = format!("dfs1-{}", "0".repeat(84));
    assert_eq!(odd.parse::<Token>(), Err(TokenError::Altered));
}

#[test]
fn secrets_are_not_printed() {
    let scratch = Scratch::new("unprinted");
    let made = token();
    let text = made.text().to_string();
    let shown = format!("{made:?} {:?}", made.secret);
    // The target's fingerprint may be seen.
    assert!(shown.contains("..."), "{shown}");
    let key = Key::load_or_create(&scratch.path().join("key")).unwrap();
    let shown = format!("{shown} {key:?}");
    let private: String = key.private()[16..48]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert!(!shown.contains(&private) && !shown.contains(&text[60..]));
    assert!(shown.len() < 200, "{shown}");
}

#[test]
fn fingerprints_are_what_openssl_would_say() {
    // RFC 8410, section 10.1: this public key as SubjectPublicKeyInfo; digest by sha256sum(1).
    let spki: Vec<u8> = (0..44)
        .map(|i| {
            let text = "302a300506032b657003210019bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
            u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).unwrap()
        })
        .collect();
    let print = doppelfs::keys::fingerprint_of(&spki);
    let text = print.to_string();
    assert_eq!(text.len(), 64);
    assert_eq!(text.parse::<Fingerprint>().unwrap(), print);
    let output = std::process::Command::new("sha256sum")
        .stdin({
            let scratch = Scratch::new("spki");
            let path = scratch.path().join("spki");
            std::fs::write(&path, &spki).unwrap();
            std::fs::File::open(path).unwrap()
        })
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(text.as_bytes()));
    for bad in ["", "ab", &text[1..], &format!("+{}", &text[1..])] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}

#[test]
fn pairings_are_kept_and_changed_durably() {
    let scratch = Scratch::new("pairings");
    let pairings = Pairings::of(&scratch.path().join("keys"));
    assert!(pairings.list().unwrap().is_empty());
    let missing = pairings.find("backup1:7420").unwrap_err().to_string();
    assert!(missing.contains("doppelfs pair backup1:7420"), "{missing}");
    let target = PairedTarget {
        endpoint: "backup1:7420".into(),
        name: "backup1".into(),
        keys: vec![Key::generate().unwrap().fingerprint()],
        known_as: "web1".into(),
        paired_at: 1,
    };
    {
        let _lock = pairings.lock().unwrap();
        pairings
            .change(|targets| targets.push(target.clone()))
            .unwrap();
    }
    assert_eq!(pairings.find("backup1:7420").unwrap(), target);
    let path = pairings.dir().join("targets.json");
    assert_eq!(mode_of(&path), 0o600);
    std::fs::write(&path, b"{").unwrap();
    assert!(matches!(pairings.list(), Err(Error::Damaged { .. })));
    std::fs::write(&path, b"{\"version\":2,\"targets\":[]}").unwrap();
    assert!(matches!(
        pairings.list(),
        Err(Error::Version { version: 2, .. })
    ));
}
