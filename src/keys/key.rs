//! A private key, and the fingerprint of a public one.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::error::Error;
use super::files::{ensure_private_dir, read_private, write_private};

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// SHA-256 of a public key's SubjectPublicKeyInfo: what a peer is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The beginning, for people: 16 hexadecimal digits.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(16);
        text
    }
}

/// The fingerprint of a public key, given as SubjectPublicKeyInfo (DER).
pub fn fingerprint_of(public: &[u8]) -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, public);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Fingerprint(bytes)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hexadecimal digits")]
pub struct NoFingerprint;

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NoFingerprint> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(NoFingerprint);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| NoFingerprint)?;
            // Its parser takes a sign.
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return Err(NoFingerprint);
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoFingerprint)?;
        }
        Ok(Fingerprint(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A private key with its public one.
pub struct Key {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, ...)", self.fingerprint().short())
    }
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Key, Error> {
        let random = || Error::Random {
            source: io::Error::other("the system's generator failed"),
        };
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| random())?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        Key::of(pkcs8).ok_or_else(random)
    }

    fn of(pkcs8: Zeroizing<Vec<u8>>) -> Option<Key> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let mut public = SPKI_HEAD.to_vec();
        public.extend_from_slice(pair.public_key().as_ref());
        Some(Key { pkcs8, public })
    }

    /// Reads a key; `None` when there is no such file.
    ///
    /// # Errors
    /// [`Error::NoKey`], and those of [`read_private`].
    pub fn load(path: &Path) -> Result<Option<Key>, Error> {
        let Some(bytes) = read_private(path)? else {
            return Ok(None);
        };
        let key = Key::of(Zeroizing::new(bytes));
        let key = key.ok_or_else(|| Error::NoKey { path: path.into() })?;
        Ok(Some(key))
    }

    /// Reads a key, or makes one and its directory. Two that do it at once are to be kept apart by the
    /// caller.
    ///
    /// # Errors
    /// As [`Key::load`], and [`Error::Io`] when it cannot be written.
    pub fn load_or_create(path: &Path) -> Result<Key, Error> {
        if let Some(dir) = path.parent() {
            ensure_private_dir(dir)?;
        }
        if let Some(key) = Key::load(path)? {
            return Ok(key);
        }
        let key = Key::generate()?;
        key.store(path)?;
        Ok(key)
    }

    /// Writes it to a file for us alone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn store(&self, path: &Path) -> Result<(), Error> {
        write_private(path, &self.pkcs8)
    }

    /// The proof that who has this key is who showed the one before; see [`is_vouched`].
    pub fn vouch(&self, before: &Fingerprint) -> Vec<u8> {
        // It was read once already, when this was made.
        let pair = Ed25519KeyPair::from_pkcs8(&self.pkcs8).ok();
        let message = vouching(before, &self.fingerprint());
        pair.map_or(Vec::new(), |pair| pair.sign(&message).as_ref().to_vec())
    }

    /// The private key: PKCS #8, DER.
    pub fn private(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key: SubjectPublicKeyInfo, DER.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// What peers know it by.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint_of(&self.public)
    }
}

/// What is signed: both keys, so that it says nothing to anybody else who is told.
fn vouching(before: &Fingerprint, next: &Fingerprint) -> Vec<u8> {
    [b"doppelfs next key".as_slice(), &before.0, &next.0].concat()
}

/// Has the holder of the `public` key, which is `next`, said that it follows the key `before`? Without that
/// anybody could call the key of somebody else its own.
pub fn is_vouched(public: &[u8], proof: &[u8], before: &Fingerprint, next: &Fingerprint) -> bool {
    let Some(raw) = public.strip_prefix(&SPKI_HEAD) else {
        return false;
    };
    let key = UnparsedPublicKey::new(&ED25519, raw);
    fingerprint_of(public) == *next && key.verify(&vouching(before, next), proof).is_ok()
}
