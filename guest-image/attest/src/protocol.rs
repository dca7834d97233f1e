//! The key broker's protocol, version 0.4.0: its messages, and what is hashed of them.
//!
//! Source: Trustee, `kbs/docs/kbs_attestation_protocol.md`, `kbs/src/attestation/backend.rs`, and the crate kbs-types 0.18.
//! Hashes are SHA-384 over canonical JSON (RFC 8785). Each object that is hashed is a struct here whose members are in
//! the canonical order, with text for values; so what serde writes is canonical.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha384};

/// The only version that key brokers take.
pub const VERSION: &str = "0.4.0";
/// Bytes of a challenge.
const NONCE: usize = 32;

/// The kind of the processor's evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// None: evidence that proves nothing, for tests.
    Sample,
}

impl Tee {
    /// As the protocol names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Sample => "sample",
        }
    }
}

/// A session's public key. Other members than these would be lost when the broker reads it, and with them the hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    alg: &'static str,
    crv: &'static str,
    kty: &'static str,
    x: String,
    y: String,
}

impl Jwk {
    /// Of a key on P-256.
    pub fn of(key: &PublicKey) -> Self {
        let point = key.to_sec1_bytes();
        // 4, x, y.
        let coordinate = |at: usize| URL_SAFE_NO_PAD.encode(point.get(at..at + 32).unwrap_or_default());
        Self {
            alg: crate::jwe::ALGORITHM,
            crv: crate::jwe::CURVE,
            kty: "EC",
            x: coordinate(1),
            y: coordinate(33),
        }
    }
}

/// A challenge, as the text that came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Nonce(String);

/// What came as a challenge is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its challenge is not {NONCE} bytes in base64")]
pub struct NoNonce;

impl TryFrom<String> for Nonce {
    type Error = NoNonce;

    fn try_from(text: String) -> Result<Self, NoNonce> {
        let bytes = STANDARD.decode(&text).map_err(|_| NoNonce)?;
        if bytes.len() == NONCE { Ok(Self(text)) } else { Err(NoNonce) }
    }
}

/// What the processor signs: 48 bytes of a hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData([u8; 48]);

impl ReportData {
    /// The hash.
    pub const fn hash(&self) -> &[u8; 48] {
        &self.0
    }

    /// The report's field: the hash, then zeros.
    pub fn field(&self) -> [u8; 64] {
        let mut field = [0; 64];
        field[..48].copy_from_slice(&self.0);
        field
    }
}

impl From<[u8; 48]> for ReportData {
    fn from(hash: [u8; 48]) -> Self {
        Self(hash)
    }
}

impl fmt::Debug for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReportData({})", STANDARD.encode(self.0))
    }
}

/// What evidence is bound to: the broker's challenge, and the key that its answers are to be encrypted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeData {
    nonce: Nonce,
    #[serde(rename = "tee-pubkey")]
    key: Jwk,
}

#[derive(Serialize)]
struct Bound<'a> {
    #[serde(rename = "additional-evidence")]
    additional: &'a str,
    #[serde(flatten)]
    runtime: &'a RuntimeData,
}

impl RuntimeData {
    /// Of a session.
    pub fn new(nonce: Nonce, key: &PublicKey) -> Self {
        Self { nonce, key: Jwk::of(key) }
    }

    /// What GPUs are challenged with.
    pub fn device_data(&self) -> ReportData {
        ReportData(hash(self))
    }

    /// What the processor signs: this, and the text of the GPUs' evidence.
    pub fn report_data(&self, additional: &str) -> ReportData {
        ReportData(hash(&Bound { additional, runtime: self }))
    }
}

/// The challenge of a GPU: the first 32 bytes of the session's.
pub fn gpu_nonce(data: &ReportData) -> [u8; 32] {
    let mut nonce = [0; 32];
    nonce.copy_from_slice(&data.0[..32]);
    nonce
}

fn hash(value: &impl Serialize) -> [u8; 48] {
    // A struct of texts can always be written.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha384::digest(text).into()
}

/// The first request.
#[derive(Debug, Serialize)]
pub(crate) struct AuthRequest {
    version: &'static str,
    tee: Tee,
    #[serde(rename = "extra-params")]
    extra: &'static str,
}

impl AuthRequest {
    pub(crate) const fn new(tee: Tee) -> Self {
        Self { version: VERSION, tee, extra: "" }
    }
}

/// Its answer.
#[derive(Debug, Deserialize)]
pub(crate) struct AuthAnswer {
    pub(crate) nonce: String,
}

/// The second request.
#[derive(Debug, Serialize)]
pub(crate) struct AttestRequest<'a> {
    #[serde(rename = "init-data", skip_serializing_if = "Option::is_none")]
    pub(crate) initdata: Option<Initdata<'a>>,
    #[serde(rename = "runtime-data")]
    pub(crate) runtime: &'a RuntimeData,
    #[serde(rename = "tee-evidence")]
    pub(crate) evidence: Evidence<'a>,
}

/// The pod's initdata, whose digest the report has.
#[derive(Debug, Serialize)]
pub(crate) struct Initdata<'a> {
    pub(crate) format: &'static str,
    pub(crate) body: &'a str,
}

/// Here the names have underscores.
#[derive(Debug, Serialize)]
pub(crate) struct Evidence<'a> {
    pub(crate) primary_evidence: Value,
    pub(crate) additional_evidence: &'a str,
}

/// Its answer.
#[derive(Debug, Deserialize)]
pub(crate) struct AttestAnswer {
    pub(crate) token: String,
}

/// A refusal.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorAnswer {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) detail: String,
}

#[cfg(test)]
mod tests;
