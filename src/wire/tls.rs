//! TLS 1.3 between source and target: both show a self-made key, and are known by its fingerprint.
//!
//! # Why not certificates?
//! They say who vouches for a key, and nobody does here: each side has the other's fingerprint by the
//! pairing. Raw public keys (RFC 7250) leave out names, dates and authorities, and with them all that can
//! expire at night or be parsed wrongly.
//!
//! # What is proved
//! The source goes on only with a target whose key is one that it was given. The target takes any key in
//! the handshake, which proves that the source holds it, and looks afterwards at what that key may do: its
//! words of refusal come through an encrypted connection, and no stranger learns who is known here. That
//! look is taken at each connection, so a session that is resumed opens nothing that was closed meanwhile.
//! Data before the handshake's end (0-RTT), which could be replayed, is off.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider, sign::any_eddsa_type};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerMisbehaved, ServerConfig, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::keys::{Fingerprint, Key, fingerprint_of};

use super::error::Error;
use super::transport::Transport;

/// What is spoken inside: a peer that speaks something else is turned away in the handshake.
const ALPN: &[u8] = b"doppelfs/1";
/// The name that the protocol wants to have for a server; it is not sent.
const NO_NAME: &str = "doppelfs.invalid";
/// A public key with its head.
const SPKI_BYTES: usize = 44;
/// Sessions that can be resumed, of all sources together.
const RESUMABLE_COUNT_MAX: usize = 1024;

/// Does this CPU do AES in hardware? Then it is the fastest; ChaCha20 is where it does not.
fn has_fast_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

fn provider() -> CryptoProvider {
    let aes = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    let chacha = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let [first, second] = aes;
    let cipher_suites = match has_fast_aes() {
        true => vec![first, second, chacha],
        false => vec![chacha, first, second],
    };
    CryptoProvider {
        cipher_suites,
        ..default_provider()
    }
}

fn no_key(source: rustls::Error) -> Error {
    Error::Tls {
        operation: "prepare the key",
        source: io::Error::other(source),
    }
}

fn certified(key: &Key) -> Result<Arc<CertifiedKey>, Error> {
    let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(key.private())).map_err(no_key)?;
    let public = CertificateDer::from(key.public().to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![public], signing)))
}

/// The target answered with a key that this source was not given.
#[derive(Debug, thiserror::Error)]
#[error("key {found} is not the one that was paired with")]
struct WrongKey {
    found: Fingerprint,
}

fn bad_encoding() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::BadEncoding)
}

/// The fingerprint of what a peer shows as its key: one Ed25519 key and nothing beside it.
fn shown(
    key: &CertificateDer<'_>,
    beside: &[CertificateDer<'_>],
) -> Result<Fingerprint, rustls::Error> {
    if !beside.is_empty() || key.len() != SPKI_BYTES {
        return Err(bad_encoding());
    }
    Ok(fingerprint_of(key))
}

/// Has the peer signed this handshake with the key that it shows?
fn signed(
    message: &[u8],
    key: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if signature.scheme != SignatureScheme::ED25519 {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    let key = SubjectPublicKeyInfoDer::from(key.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken".to_owned())
}

/// Takes the targets that were paired with.
#[derive(Debug)]
struct Pinned {
    keys: Vec<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = shown(key, beside)?;
        if !self.keys.contains(&found) {
            let wrong = OtherError(Arc::new(WrongKey { found }));
            return Err(rustls::Error::Other(wrong));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes any key of a source that proves to hold it.
#[derive(Debug)]
struct AnySource {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnySource {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        shown(key, beside)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// What a handshake failed with, in our words.
fn handshake(source: io::Error) -> Error {
    let tls = source
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::Other(OtherError(other))) = tls
        && let Some(wrong) = other.downcast_ref::<WrongKey>()
    {
        return Error::WrongKey { found: wrong.found };
    }
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::Cut,
        _ => Error::Tls {
            operation: "TLS handshake",
            source,
        },
    }
}

fn peer_of(connection: &rustls::CommonState) -> Result<Fingerprint, Error> {
    let key = connection.peer_certificates().and_then(<[_]>::first);
    let key = key.ok_or_else(|| Error::Tls {
        operation: "TLS handshake",
        source: io::Error::other("the peer has shown no key"),
    })?;
    Ok(fingerprint_of(key))
}

/// The target's end: takes connections with one key.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
    own: Fingerprint,
}

impl Acceptor {
    /// Answers with this key.
    ///
    /// # Errors
    /// [`Error::Tls`] when the key cannot be used.
    pub fn new(key: &Key) -> Result<Acceptor, Error> {
        let provider = Arc::new(provider());
        let verifier = AnySource {
            algorithms: provider.signature_verification_algorithms,
        };
        let resolver = AlwaysResolvesServerRawPublicKeys::new(certified(key)?);
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
        let mut config = builder
            .map_err(no_key)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(RESUMABLE_COUNT_MAX);
        config.send_tls13_tickets = 1;
        // A target without AES in hardware chooses for both.
        config.ignore_client_order = !has_fast_aes();
        Ok(Acceptor {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            own: key.fingerprint(),
        })
    }

    /// The key that it answers with.
    pub fn fingerprint(&self) -> Fingerprint {
        self.own
    }

    /// The handshake: an encrypted stream, and the key of who is at its other end. Bounded by the caller.
    ///
    /// # Errors
    /// [`Error::Tls`], [`Error::Cut`].
    pub async fn accept(&self, socket: TcpStream) -> Result<(Transport, Fingerprint), Error> {
        let stream = self.acceptor.accept(socket).await.map_err(handshake)?;
        let peer = peer_of(stream.get_ref().1)?;
        Ok((Transport::tls(stream.into()), peer))
    }
}

/// A source's end: connects to a target whose key it knows.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
    own: Fingerprint,
    pinned: Vec<Fingerprint>,
}

impl Connector {
    /// Shows `key`, and goes on with a target that has one of the `pinned` keys. Keep it: later
    /// connections resume the session of earlier ones.
    ///
    /// # Errors
    /// [`Error::Tls`] when the key cannot be used.
    pub fn new(key: &Key, pinned: &[Fingerprint]) -> Result<Connector, Error> {
        let provider = Arc::new(provider());
        let verifier = Pinned {
            keys: pinned.to_vec(),
            algorithms: provider.signature_verification_algorithms,
        };
        let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified(key)?);
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
        let mut config = builder
            .map_err(no_key)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::in_memory_sessions(4);
        Ok(Connector {
            connector: TlsConnector::from(Arc::new(config)),
            own: key.fingerprint(),
            pinned: pinned.to_vec(),
        })
    }

    /// Is it the one for this key and these targets?
    pub fn is_of(&self, key: &Key, pinned: &[Fingerprint]) -> bool {
        self.own == key.fingerprint() && self.pinned == pinned
    }

    /// The handshake: an encrypted stream, and the key that the target has. Bounded by the caller.
    ///
    /// # Errors
    /// [`Error::WrongKey`], [`Error::Tls`], [`Error::Cut`].
    pub async fn connect(&self, socket: TcpStream) -> Result<(Transport, Fingerprint), Error> {
        let name = ServerName::try_from(NO_NAME).map_err(|e| Error::Tls {
            operation: "name the target",
            source: io::Error::other(e),
        })?;
        let connected = self.connector.connect(name, socket).await;
        let stream = connected.map_err(handshake)?;
        let peer = peer_of(stream.get_ref().1)?;
        Ok((Transport::tls(stream.into()), peer))
    }
}
