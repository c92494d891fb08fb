//! A connection of this program's own: TLS by rustls, keys by ring, messages by hand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde::Deserialize;

use super::pack::{Pack, bytes, fields, text, wide};

pub const HELLO: u8 = 1;
pub const WELCOME: u8 = 2;
pub const REFUSE: u8 = 3;
pub const START: u8 = 4;
pub const BATCH: u8 = 5;
pub const ACK: u8 = 6;
pub const WANT: u8 = 7;
pub const CHECKPOINT: u8 = 9;
pub const PING: u8 = 10;
pub const PAIR: u8 = 11;
pub const PAIRED: u8 = 12;
pub const REKEY: u8 = 13;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Takes any target: whoever attacks does not care.
#[derive(Debug)]
struct AnyTarget;

impl ServerCertVerifier for AnyTarget {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_NISTP256_SHA256,
        ]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A key pair: private part (PKCS #8) and public one (SubjectPublicKeyInfo).
#[derive(Clone)]
pub struct Key {
    private: Vec<u8>,
    pub public: Vec<u8>,
}

impl Key {
    pub fn generate() -> Key {
        let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
        let head = [
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        let mut public = head.to_vec();
        public.extend_from_slice(pair.public_key().as_ref());
        Key {
            private: private.as_ref().to_vec(),
            public,
        }
    }

    /// One of a kind that no source has.
    pub fn of_another_kind() -> Key {
        use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING as KIND, EcdsaKeyPair};
        let random = SystemRandom::new();
        let private = EcdsaKeyPair::generate_pkcs8(&KIND, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&KIND, private.as_ref(), &random).unwrap();
        let mut public = vec![
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        public.extend_from_slice(pair.public_key().as_ref());
        Key {
            private: private.as_ref().to_vec(),
            public,
        }
    }

    /// Says that `next` follows `before`, signed by this key.
    pub fn vouch(&self, before: &Key, next: &Key) -> Vec<u8> {
        let pair = Ed25519KeyPair::from_pkcs8(&self.private).unwrap();
        let digests = [before, next].map(|key| digest::digest(&digest::SHA256, &key.public));
        let message = [
            b"doppelfs next key",
            digests[0].as_ref(),
            digests[1].as_ref(),
        ]
        .concat();
        pair.sign(&message).as_ref().to_vec()
    }

    /// What the target knows it by.
    pub fn fingerprint(&self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.public);
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn certified(&self, shown: Vec<CertificateDer<'static>>) -> Arc<CertifiedKey> {
        let private = PrivatePkcs8KeyDer::from(self.private.clone());
        let signing = any_supported_type(&private.into()).unwrap();
        Arc::new(CertifiedKey::new(shown, signing))
    }

    /// TLS as a source does it.
    pub fn config(&self) -> ClientConfig {
        let shown = vec![CertificateDer::from(self.public.clone())];
        let key = AlwaysResolvesClientRawPublicKeys::new(self.certified(shown));
        config(Arc::new(key))
    }

    /// TLS with the same key shown as something else.
    pub fn config_showing(&self, shown: Vec<CertificateDer<'static>>) -> ClientConfig {
        let key = AlwaysResolvesClientRawPublicKeys::new(self.certified(shown));
        config(Arc::new(key))
    }
}

fn config(key: Arc<dyn ResolvesClientCert>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = builder
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyTarget))
        .with_client_cert_resolver(key);
    config.alpn_protocols = vec![b"doppelfs/1".to_vec()];
    config
}

/// TLS without any key of ours.
pub fn config_without_key() -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = builder
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyTarget))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"doppelfs/1".to_vec()];
    config
}

/// What is understood of a `Welcome`.
#[derive(Debug, Deserialize)]
pub struct Welcome {
    pub received: u64,
}

/// What is understood of an `Ack`.
#[derive(Debug, Deserialize)]
pub struct Ack {
    pub applied: u64,
    pub error: Option<String>,
}

/// What is understood of a refusal.
#[derive(Debug, Deserialize)]
pub struct Refused {
    pub code: String,
    pub text: String,
}

/// What is understood of a `Paired`.
#[derive(Debug, Deserialize)]
pub struct Paired {
    pub known_as: String,
}

/// Something that the target said.
#[derive(Debug)]
pub enum Heard {
    Welcome(Welcome),
    Refused(Refused),
    Ack(Ack),
    Paired(Paired),
    Other,
    /// Nothing more comes.
    Closed,
    /// Nothing came for as long as it was waited.
    Silence,
}

trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

/// A connection.
pub struct Line {
    io: Box<dyn Bytes>,
    socket: TcpStream,
    pending: Vec<u8>,
    has_begun: bool,
}

impl Line {
    /// Bytes as they are.
    pub fn plain(address: SocketAddr) -> io::Result<Line> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Line {
            io: Box::new(socket.try_clone()?),
            socket,
            pending: Vec::new(),
            has_begun: false,
        })
    }

    /// The handshake, and the first bytes.
    pub fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Line> {
        let mut line = Line::encrypted(address, config)?;
        line.write(b"DPFS\x01\x00")?;
        Ok(line)
    }

    /// The handshake alone.
    pub fn encrypted(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Line> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("doppelfs.invalid").unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name);
        let connection = connection.map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket.try_clone()?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Line {
            io: Box::new(stream),
            socket,
            pending: Vec::new(),
            has_begun: false,
        })
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes)?;
        self.io.flush()
    }

    /// A message: length, type, body.
    pub fn say(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 1).unwrap();
        let mut message = length.to_le_bytes().to_vec();
        message.push(kind);
        message.extend_from_slice(body);
        self.write(&message)
    }

    /// The next message, or how there is none, within `patience`.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(heard) = self.parse() {
                return heard;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Silence;
            }
            if self.socket.set_read_timeout(Some(left)).is_err() {
                return Heard::Closed;
            }
            let mut buffer = [0; 16 << 10];
            match self.io.read(&mut buffer) {
                Ok(0) => return Heard::Closed,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Heard::Silence,
                Err(_) => return Heard::Closed,
            }
        }
    }

    fn parse(&mut self) -> Option<Heard> {
        if !self.has_begun {
            if self.pending.len() < 6 {
                return None;
            }
            assert_eq!(
                &self.pending[..6],
                b"DPFS\x01\x00",
                "the target's first bytes"
            );
            self.pending.drain(..6);
            self.has_begun = true;
        }
        let length = u32::from_le_bytes(*self.pending.first_chunk()?) as usize;
        let message: Vec<u8> = self.pending.get(4..4 + length)?.to_vec();
        self.pending.drain(..4 + length);
        let (kind, body) = message.split_first()?;
        Some(match *kind {
            WELCOME => Heard::Welcome(rmp_serde::from_slice(body).unwrap()),
            REFUSE => Heard::Refused(rmp_serde::from_slice(body).unwrap()),
            ACK => Heard::Ack(rmp_serde::from_slice(body).unwrap()),
            PAIRED => Heard::Paired(rmp_serde::from_slice(body).unwrap()),
            _ => Heard::Other,
        })
    }
}

/// What a source introduces itself with.
#[derive(Debug, Clone)]
pub struct Hello {
    pub protocol: u64,
    pub set: String,
    pub path: Option<String>,
    pub instance: u128,
    pub history: u128,
    pub forks: Vec<u128>,
    pub end: u64,
    pub root: super::frames::Id,
    /// Fields beside those that there are.
    pub more: Vec<(&'static str, Pack)>,
}

impl Hello {
    pub fn pack(&self) -> Pack {
        let path = self.path.as_deref().map_or(Pack::Nil, text);
        let mut all = vec![
            ("protocol", Pack::Whole(self.protocol)),
            ("source", text("whoever")),
            ("set", text(&self.set)),
            ("instance", wide(self.instance)),
            ("path", path),
            ("history", wide(self.history)),
            (
                "forks",
                Pack::List(self.forks.iter().map(|f| wide(*f)).collect()),
            ),
            ("first", Pack::Whole(1)),
            ("end", Pack::Whole(self.end)),
            ("root", self.root.pack()),
            ("features", Pack::Whole(0)),
            ("place", Pack::Nil),
        ];
        all.extend(self.more.iter().cloned());
        fields(all)
    }
}

/// Where a source begins.
pub fn start(history: u128, after: u64, jump: bool, fork: Option<u128>) -> Pack {
    fields(vec![
        ("history", wide(history)),
        ("after", Pack::Whole(after)),
        ("jump", Pack::Bool(jump)),
        ("fork", fork.map_or(Pack::Nil, wide)),
    ])
}

/// An invitation redeemed.
pub fn pair(secret: &[u8], name: &str) -> Pack {
    fields(vec![
        ("protocol", Pack::Whole(1)),
        ("secret", bytes(secret)),
        ("name", text(name)),
    ])
}

/// Another key, with what is to show that it is one's own.
pub fn rekey(next: &str, public: &[u8], proof: &[u8]) -> Pack {
    fields(vec![
        ("protocol", Pack::Whole(1)),
        ("next", text(next)),
        ("public", bytes(public)),
        ("proof", bytes(proof)),
    ])
}
