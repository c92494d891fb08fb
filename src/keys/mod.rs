//! Who somebody is: self-made keys, their fingerprints, invitations, and whom a source knows.
//!
//! Each side makes one Ed25519 key for itself and knows the other by the *fingerprint* of its public
//! key: there is no authority to run, nothing that expires by itself and nobody else who could vouch for
//! a stranger. The two learn each other's fingerprint by a [`Token`]: the target's administrator makes
//! one, it is carried to the source by hand, and it works once.
//!
//! # What a token proves
//! It holds the fingerprint of the target's key and a [`Secret`]. The source connects, and goes on only
//! where the answering key has that fingerprint: nobody in between learns the secret. It then says the
//! secret inside of the encrypted connection, and the target writes down the key that the source proved
//! to have. A checksum finds what was mistyped before anybody is asked.
//!
//! # Files
//! ```text
//! <keys>/key            the source's key: PKCS #8, DER, 0600
//! <keys>/key.next       its successor while it is introduced to the targets
//! <keys>/targets.json   the targets that this host is paired with, 0600
//! <keys>/lock           one at a time who changes these
//! <state>/key, key.next the same of a target, in its state directory
//! ```
//! `openssl pkey -inform der -in key -pubout -outform der | sha256sum` shows a fingerprint.
//!
//! # Invariants
//! - A private key or a secret is never shown: their types print as `...`, and their memory is wiped.
//! - A key file that others could read is refused, not used.
//!
//! # Failure
//! [`Error`]; what was on disk is as it was.

mod error;
mod files;
mod key;
mod pairings;
mod token;

pub use error::Error;
pub use files::{ensure_private_dir, read_private, write_private};
pub use key::{Fingerprint, Key, fingerprint_of, is_vouched};
pub use pairings::{PairedTarget, Pairings};
pub use token::{SECRET_BYTES, Secret, Token, TokenError};
