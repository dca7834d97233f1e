//! A stand-in for Trustee: key broker and attestation service in one process, for tests and the demonstration.
//!
//! It speaks the key broker's protocol 0.4.0 as Trustee of 2026-08 does (`kbs/src/attestation/backend.rs`, `kbs/src/error.rs`),
//! reads messages with Trustee's own types (kbs-types), and is strict where Trustee is. It knows the evidence of machines without
//! confidential computing (`sample`, `sampledevice`), SNP reports and TDX quotes of authorities of its own ([`snp`], [`tdx`]),
//! and GPU reports of another one's devices ([`hopper`]).
//!
//! ```text
//! server    HTTP(S), one question a connection
//! rcar      sessions: challenge, evidence, token, resource
//! verifier  evidence -> claims (snp, tdx)   token   claims -> a signed EAR
//! policy    may this token have that resource? (Rego, Trustee's input)
//! jwe       the resource, for the session's key alone
//! ```

mod jwe;
mod policy;
mod rcar;
pub mod sealed;
mod server;
pub mod snp;
pub mod tdx;
mod token;
mod verifier;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SanType};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::rand_core::OsRng;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use fake_gpus::hopper;
use rcar::Rcar;
use server::Server;

/// A policy that gives every resource for every evidence that verifies.
pub const ALLOW_ALL: &str = "package policy\n\nallow := true\n";

/// What goes wrong, on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// It takes questions and never answers.
    Silent,
    /// The first answers are a server's failure.
    Fails(usize),
    /// Each answer is longer than any may be.
    Endless,
    /// Each answer sends the asker elsewhere.
    Elsewhere,
    /// It answers in another protocol's words.
    Nonsense,
    /// Its challenge is too short.
    ShortNonce,
    /// It opens no session.
    NoCookie,
    /// It encrypts for another key.
    OtherKey,
    /// It says that it encrypts by another algorithm.
    OtherAlgorithm,
    /// It forgets the session once, when a resource was given.
    Forgets,
    /// It finds the first session's token expired when it is asked for a second resource.
    Expires,
    /// Its token ends when it begins.
    EndedToken,
    /// Its token is for another key than the session's.
    OthersToken,
    /// It refuses each resource, with this kind of error.
    Refuses(&'static str),
    /// It answers a byte at a time.
    Slow,
}

/// What a broker has and demands.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Decides on resources (Rego, `data.policy.allow`).
    pub policy: String,
    /// Resources by their paths.
    pub resources: BTreeMap<String, Vec<u8>>,
    /// Who vouches for GPUs: a certificate (DER), as NVIDIA's root is.
    pub gpu_root: Option<Vec<u8>>,
    /// The chips whose SNP reports are believed.
    pub chips: Option<snp::Chips>,
    /// Who vouches for platforms with TDX: a certificate (DER), as Intel's root is.
    pub platform_root: Option<Vec<u8>>,
    /// Reference values by their names, for who administers it.
    pub references: BTreeMap<String, serde_json::Value>,
    /// Who may read policy and reference values: whoever has this token. Nobody without one.
    pub admin: Option<String>,
    /// How long tokens and sessions are good.
    pub lifetime: Duration,
    /// What goes wrong.
    pub trouble: Trouble,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: ALLOW_ALL.to_owned(),
            resources: BTreeMap::new(),
            gpu_root: None,
            chips: None,
            platform_root: None,
            references: BTreeMap::new(),
            admin: None,
            lifetime: Duration::from_secs(300),
            trouble: Trouble::None,
        }
    }
}

impl Setup {
    /// With a resource.
    #[must_use]
    pub fn resource(mut self, path: &str, content: &[u8]) -> Self {
        self.resources.insert(path.to_owned(), content.to_vec());
        self
    }

    /// With another policy.
    #[must_use]
    pub fn policy(self, policy: impl Into<String>) -> Self {
        Self { policy: policy.into(), ..self }
    }

    /// With trouble.
    #[must_use]
    pub fn trouble(self, trouble: Trouble) -> Self {
        Self { trouble, ..self }
    }
}

/// How often it was asked.
#[derive(Debug, Default)]
pub struct Counts {
    pub(crate) auth: AtomicUsize,
    pub(crate) attest: AtomicUsize,
    pub(crate) resource: AtomicUsize,
    pub(crate) begun: OnceLock<Instant>,
    pub(crate) given: OnceLock<Instant>,
}

/// A certificate for an address, and its key.
#[derive(Debug)]
pub struct Identity {
    /// PEM.
    pub certificate: String,
    key: KeyPair,
    der: CertificateDer<'static>,
}

impl Identity {
    /// A new one, signed by itself.
    ///
    /// # Errors
    ///
    /// When the library has none.
    pub fn new(address: IpAddr) -> io::Result<Self> {
        Self::with(address, KeyPair::generate)
    }

    /// One with an RSA key.
    ///
    /// # Errors
    ///
    /// When the library makes none.
    pub fn rsa(address: IpAddr) -> io::Result<Self> {
        // rcgen takes such a key, but makes none.
        let key = RsaPrivateKey::new(&mut OsRng, 2048).map_err(io::Error::other)?;
        let key = key.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)?;
        Self::with(address, || KeyPair::from_pem_and_sign_algo(&key, &PKCS_RSA_SHA256))
    }

    fn with(address: IpAddr, key: impl Fn() -> Result<KeyPair, rcgen::Error>) -> io::Result<Self> {
        let made = || -> Result<Self, rcgen::Error> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.subject_alt_names = vec![SanType::IpAddress(address)];
            let key = key()?;
            let certificate = params.self_signed(&key)?;
            Ok(Self { certificate: certificate.pem(), key, der: certificate.der().clone() })
        };
        made().map_err(io::Error::other)
    }

    fn config(&self) -> io::Result<Arc<ServerConfig>> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(io::Error::other)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let config = builder.with_no_client_auth().with_single_cert(vec![self.der.clone()], key);
        config.map(Arc::new).map_err(io::Error::other)
    }
}

/// A broker that runs until this is dropped.
#[derive(Debug)]
pub struct Kbs {
    /// Where it is.
    pub url: String,
    counts: Arc<Counts>,
    _server: Server,
}

impl Kbs {
    /// Starts one at an address; with an identity it speaks TLS.
    ///
    /// # Errors
    ///
    /// When the address cannot be had.
    pub fn start(address: SocketAddr, identity: Option<&Identity>, setup: Setup) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let config = identity.map(Identity::config).transpose()?;
        let scheme = if config.is_some() { "https" } else { "http" };
        let trouble = setup.trouble;
        let rcar = Rcar::new(setup, counts.clone());
        let server = Server::start(address, config, trouble, move |question| rcar.answer(question))?;
        Ok(Self { url: format!("{scheme}://{}", server.address), counts, _server: server })
    }

    /// Handshakes that were begun.
    pub fn handshakes(&self) -> usize {
        self.counts.auth.load(Ordering::Acquire)
    }

    /// Evidence that was looked at.
    pub fn attestations(&self) -> usize {
        self.counts.attest.load(Ordering::Acquire)
    }

    /// From the first challenge to the first resource that was given.
    pub fn first_key(&self) -> Option<Duration> {
        Some(self.counts.given.get()?.duration_since(*self.counts.begun.get()?))
    }

    /// Resources that were asked for.
    pub fn questions(&self) -> usize {
        self.counts.resource.load(Ordering::Acquire)
    }
}
