//! Who somebody is: tokens that people carry, fingerprints, lists of peers.

use doppelfs::keys::{Fingerprint, PairedTarget, Token, fingerprint_of};
use doppelfs::receiver::{Grant, Peer, PeerTerms};

/// Any bytes as each of them.
pub fn pairing(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = text.parse::<Token>() {
        let again = token.text().parse::<Token>();
        assert_eq!(again.as_ref(), Ok(&token));
        assert!(format!("{token:?}").len() < 64);
    }
    if let Ok(print) = text.parse::<Fingerprint>() {
        assert_eq!(print.to_string(), text.to_ascii_lowercase());
    }
    assert_eq!(fingerprint_of(bytes).to_string().len(), 64);
    if let Ok(peer) = serde_json::from_slice::<Peer>(bytes) {
        assert_eq!(peer.grants_in_words().len(), peer.grants.len());
        let text = serde_json::to_vec(&peer).expect("it was JSON");
        assert_eq!(serde_json::from_slice::<Peer>(&text).ok(), Some(peer));
    }
    drop(serde_json::from_slice::<PairedTarget>(bytes));
    drop(serde_json::from_slice::<Grant>(bytes));
    drop(serde_json::from_slice::<PeerTerms>(bytes));
}
