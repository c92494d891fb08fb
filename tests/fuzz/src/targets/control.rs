//! The local API: what clients ask, what workers answer, names on one line.

use doppelfs::control::{
    Item, QueueLine, Refusal, Reply, encode_request, escape, parse_request, unescape,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn answer<T: Serialize + DeserializeOwned>(line: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<T>(line) else {
        return;
    };
    let text = serde_json::to_string(&answer).expect("into memory");
    assert!(!text.contains('\n'), "an answer is one line: {text}");
    if let Err(error) = serde_json::from_str::<T>(&text) {
        // No number is what JSON has no word for.
        assert!(text.contains("null"), "{error}: {text}");
    }
}

/// A line in each of its roles.
pub fn control(bytes: &[u8]) {
    if let Ok(request) = parse_request(bytes) {
        let line = encode_request(&request);
        assert!(!line.contains('\n'), "a request is one line: {line}");
        assert_eq!(parse_request(line.as_bytes()).as_ref(), Ok(&request));
    }
    answer::<Reply>(bytes);
    answer::<Item>(bytes);
    answer::<QueueLine>(bytes);
    answer::<Refusal>(bytes);
    let escaped = escape(bytes);
    assert!(!escaped.chars().any(char::is_control), "{escaped:?}");
    assert_eq!(unescape(&escaped).as_deref(), Some(bytes));
    if let Some(found) = std::str::from_utf8(bytes).ok().and_then(unescape) {
        assert_eq!(escape(&found).as_bytes(), bytes, "nobody wrote that");
    }
}
