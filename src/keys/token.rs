//! Invitations as text: `dfs1-` and 84 letters and digits.

use std::fmt;
use std::io;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD_NOCASE;
use ring::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::Error;
use super::key::Fingerprint;

/// Length of a secret: nobody guesses 128 bits.
pub const SECRET_BYTES: usize = 16;

const PREFIX: &str = "dfs1-";
const SUM_BYTES: usize = 4;
const TOKEN_BYTES: usize = 32 + SECRET_BYTES + SUM_BYTES;

/// The part of a token that only its maker and its bearer know. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(#[serde(with = "serde_bytes")] Vec<u8>);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Secret, Error> {
        let random = crate::sys::random_u128().map_err(|source| Error::Random { source })?;
        Ok(Secret(random.to_le_bytes().to_vec()))
    }

    /// What its maker keeps: enough to know it again, not enough to say it.
    pub fn hash(&self) -> Fingerprint {
        let digest = digest::digest(&digest::SHA256, &self.0);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Fingerprint(bytes)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// An invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The target's key.
    pub target: Fingerprint,
    /// What the target asks for.
    pub secret: Secret,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, ...)", self.target.short())
    }
}

/// Why a text is no token. Nobody was asked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("this is no token: one begins with \"dfs1-\", as `doppelfs target invite` prints it")]
    NoToken,
    /// Something is missing or too much.
    #[error(
        "the token is not whole: it has {found} letters and digits after \"dfs1-\", one has {wanted}"
    )]
    Length {
        /// How many there are.
        found: usize,
        /// How many belong there.
        wanted: usize,
    },
    /// A letter or digit that no token has, or another than was printed.
    #[error("the token was altered: a letter or digit is another than was printed; copy it again")]
    Altered,
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    crc32c::crc32c(bytes).to_le_bytes()
}

impl Token {
    /// The text. It is a secret: show it to its bearer only.
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_BYTES));
        bytes.extend_from_slice(&self.target.0);
        bytes.extend_from_slice(&self.secret.0);
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        let letters = BASE32_NOPAD_NOCASE.encode(&bytes).to_ascii_lowercase();
        Zeroizing::new(format!("{PREFIX}{letters}"))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        let letters = text.strip_prefix(PREFIX).ok_or(TokenError::NoToken)?;
        let wanted = BASE32_NOPAD_NOCASE.encode_len(TOKEN_BYTES);
        if letters.len() != wanted {
            let found = letters.chars().count();
            return Err(TokenError::Length { found, wanted });
        }
        let bytes = BASE32_NOPAD_NOCASE.decode(letters.as_bytes());
        let bytes = Zeroizing::new(bytes.map_err(|_| TokenError::Altered)?);
        let (body, tail) = bytes.split_at(TOKEN_BYTES - SUM_BYTES);
        if tail != sum(body) {
            return Err(TokenError::Altered);
        }
        let (fingerprint, secret) = body.split_at(32);
        let mut target = [0; 32];
        target.copy_from_slice(fingerprint);
        Ok(Token {
            target: Fingerprint(target),
            secret: Secret(secret.to_vec()),
        })
    }
}

impl From<TokenError> for io::Error {
    fn from(error: TokenError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}
