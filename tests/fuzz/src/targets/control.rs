//! The local API: what clients ask, what workers answer, names on one line.

use doppelfs::control::{
    Item, QueueLine, ROUTES, Refusal, Reply, encode_request, escape, unescape,
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

/// A request: a line with the route's name, what stands in the path, and the query; then the body.
fn request(bytes: &[u8]) -> Option<()> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (head, body) = bytes.split_at(end);
    let mut words = std::str::from_utf8(head).ok()?.splitn(3, ' ');
    let (name, place, query) = (words.next()?, words.next()?, words.next()?);
    let route = ROUTES.iter().find(|route| route.name == name)?;
    let request = route.read(Some(place), query, &body[1..]).ok()?;
    let asked = match encode_request(&request) {
        Ok(asked) => asked,
        Err(refusal) => {
            assert!(place.is_empty(), "{refusal}");
            return None;
        }
    };
    assert_eq!(asked.route, route);
    let target = asked.target();
    assert!(target.bytes().all(|b| b.is_ascii_graphic()), "{target}");
    let parsed = route.read(asked.place.as_deref(), &asked.query, &asked.body);
    assert_eq!(parsed.as_ref(), Ok(&request));
    Some(())
}

/// Bytes in each of their roles.
pub fn control(bytes: &[u8]) {
    request(bytes);
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
