//! Quotes of TDX: platforms of an authority of our own with a quoting enclave that is played, and a verifier of the structure.
//!
//! The layout is that of version 4 (Intel, "TDX DCAP Quoting Library API", appendix 3): what the TD is, a signature by the quoting
//! enclave's key, the enclave's own report that names this key, a signature over that by the platform's key (PCK), and the
//! chain of this one's certificate. The platform's versions (TCB) need Intel's collateral: here every platform is up to date.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurement::initdata::InitData as Document;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::DecodePrivateKey as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

const HEADER: usize = 48;
const BODY: usize = 584;
/// Bytes of an enclave's report, and where its data are in it.
const ENCLAVE: usize = 384;
const ENCLAVE_DATA: usize = 320;
/// Bytes of a signature, and of a public key.
const PAIR: usize = 64;
/// Kinds of what certifies a key: an enclave's report with more behind it, a chain in PEM.
const BY_REPORT: u16 = 6;
const BY_CHAIN: u16 = 5;
/// What makes a quote a TD's, by keys on P-256.
const VERSION: u16 = 4;
const KEY_TYPE: u16 = 2;
const TEE: u32 = 0x81;

/// The body's fields: name and bytes, in their order.
const FIELDS: [(&str, usize); 15] = [
    ("tcb_svn", 16),
    ("mr_seam", 48),
    ("mrsigner_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    ("rtmr_0", 48),
    ("rtmr_1", 48),
    ("rtmr_2", 48),
    ("rtmr_3", 48),
    ("report_data", 64),
];

/// Who vouches for platforms: it plays Intel.
#[derive(Debug)]
pub struct Authority {
    root: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A platform with its quoting enclave.
#[derive(Debug)]
pub struct Platform {
    key: SigningKey,
    enclave: SigningKey,
    /// PEM, its own first.
    chain: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When the library has no keys.
    pub fn new() -> Result<Self> {
        let mut params = named("Root of the Tests' Platforms")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        let (root, pem) = (certificate.der().to_vec(), certificate.pem());
        Ok(Self { root, pem, issuer: Issuer::new(params, key) })
    }

    /// Its certificate (DER).
    pub fn root(&self) -> Vec<u8> {
        self.root.clone()
    }

    /// A platform of its.
    ///
    /// # Errors
    ///
    /// When the library has no keys.
    pub fn platform(&self) -> Result<Platform> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = named("PCK of the Tests")?.signed_by(&key, &self.issuer)?;
        let key = SigningKey::from_pkcs8_der(&key.serialize_der()).map_err(|error| anyhow!("{error}"))?;
        Ok(Platform { key, enclave: SigningKey::generate(), chain: certificate.pem() + &self.pem })
    }
}

fn named(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

impl Platform {
    /// A quote of a TD over `data`. Fields of the body that are not in `td` are zeros; bytes that do not fit are an error.
    ///
    /// # Errors
    ///
    /// A field that there is not, or of another length.
    pub fn quote(&self, td: &BTreeMap<&str, Vec<u8>>, data: &[u8; 64]) -> Result<Vec<u8>> {
        let mut quote = Vec::new();
        quote.extend(VERSION.to_le_bytes());
        quote.extend(KEY_TYPE.to_le_bytes());
        quote.extend(TEE.to_le_bytes());
        quote.resize(HEADER, 0);
        for (name, bytes) in FIELDS {
            let value = if name == "report_data" { Some(&data[..]) } else { td.get(name).map(Vec::as_slice) };
            let value = value.map_or_else(|| vec![0; bytes], <[u8]>::to_vec);
            ensure!(value.len() == bytes, "{name} has {bytes} bytes");
            quote.extend(value);
        }
        ensure!(td.keys().all(|name| FIELDS.iter().any(|(field, _)| field == name)), "no such field");
        let signature: Signature = self.enclave.sign(&quote);
        let public = self.enclave.verifying_key().to_sec1_point(false);
        let public = &public.as_bytes()[1..];
        let mut report = vec![0; ENCLAVE];
        report[ENCLAVE_DATA..ENCLAVE_DATA + 32].copy_from_slice(&Sha256::digest(public));
        let vouched: Signature = self.key.sign(&report);
        let certified = [
            &report[..],
            &vouched.to_bytes(),
            // No data of the enclave's besides.
            &0_u16.to_le_bytes(),
            &part(BY_CHAIN, self.chain.as_bytes()),
        ]
        .concat();
        let signed = [&signature.to_bytes()[..], public, &part(BY_REPORT, &certified)].concat();
        quote.extend(length(&signed));
        quote.extend(signed);
        Ok(quote)
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn part(kind: u16, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length(bytes), bytes].concat()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Evidence {
    cc_eventlog: Option<String>,
    quote: String,
}

/// What is left of a quote.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes).context("the quote is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into()?))
    }

    fn sized(&mut self) -> Result<Rest<'a>> {
        let bytes = u32::from_le_bytes(self.take(4)?.try_into()?);
        self.take(usize::try_from(bytes)?).map(Rest)
    }

    fn part(&mut self, kind: u16) -> Result<Rest<'a>> {
        let found = self.word()?;
        ensure!(found == kind, "certification data of type {found}, where {kind} is due");
        self.sized()
    }
}

/// Checks evidence over `data`, and reads it.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn verify(
    evidence: Value,
    data: &[u8; 48],
    initdata: Option<&Document>,
    root: &[u8],
) -> Result<Value> {
    let evidence: Evidence = serde_json::from_value(evidence)?;
    ensure!(evidence.cc_eventlog.is_none(), "event logs are not replayed here");
    let quote = STANDARD.decode(evidence.quote)?;
    let mut rest = Rest(&quote);
    let (header, body) = (rest.take(HEADER)?, rest.take(BODY)?);
    let mut kind = Rest(header);
    ensure!(kind.word()? == VERSION, "Quote version");
    ensure!(kind.word()? == KEY_TYPE, "the attestation key's type");
    ensure!(kind.take(4)? == TEE.to_le_bytes(), "it is no TD's quote");
    signatures(&quote[..HEADER + BODY], rest.sized()?, root)?;

    let (mut rest, mut fields) = (Rest(body), Map::new());
    for (name, bytes) in FIELDS {
        fields.insert(name.to_owned(), hex(rest.take(bytes)?).into());
    }
    ensure!(
        fields["report_data"] == hex(data) + &"00".repeat(16),
        "REPORT_DATA is different from that in the quote"
    );
    if let Some(document) = initdata {
        let expected = hex(document.mr_config_id().as_bytes());
        ensure!(fields["mr_config_id"] == expected, "MRCONFIGID is not the initdata's digest");
    }
    let attributes = u64::from_le_bytes(body[120..128].try_into()?);
    let (report_data, initdata) = (fields["report_data"].clone(), fields["mr_config_id"].clone());
    Ok(json!({
        "report_data": report_data,
        "init_data": initdata,
        "quote": { "header": { "version": hex(&header[..2]), "tee_type": hex(&header[4..8]) }, "body": fields },
        "td_attributes": { "debug": attributes & 1 == 1, "septve_disable": attributes >> 28 & 1 == 1 },
        "tcb_status": "UpToDate",
        "collateral_expiration_status": "0",
    }))
}

/// Every signature from the TD to the root.
fn signatures(signed: &[u8], mut rest: Rest<'_>, root: &[u8]) -> Result<()> {
    let signature = Signature::from_slice(rest.take(PAIR)?).map_err(|_| anyhow!("the signature is none"))?;
    let public = rest.take(PAIR)?;
    let key = VerifyingKey::from_sec1_bytes(&[&[4][..], public].concat())
        .map_err(|_| anyhow!("the attestation key is none"))?;
    key.verify(signed, &signature).map_err(|_| anyhow!("the quote's signature"))?;

    let mut certified = rest.part(BY_REPORT)?;
    let (report, vouched) = (certified.take(ENCLAVE)?, certified.take(PAIR)?);
    let more = certified.word()?;
    let more = certified.take(more.into())?;
    let expected = Sha256::digest([public, more].concat());
    ensure!(
        report[ENCLAVE_DATA..ENCLAVE_DATA + 32] == expected[..],
        "the quoting enclave's report is of another key"
    );
    let chain = certified.part(BY_CHAIN)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.0).collect::<Result<_, _>>()?;
    let (leaf, others) = chain.split_first().context("the chain is empty")?;
    let root = CertificateDer::from(root);
    let platform = EndEntityCert::try_from(leaf)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    platform
        .verify_for_usage(
            &[ECDSA_P256_SHA256],
            &[anchor_from_trusted_cert(&root)?],
            others,
            time,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .context("the platform's certificate")?;
    let vouched = Signature::from_slice(vouched).map_err(|_| anyhow!("the enclave's signature is none"))?;
    platform
        .verify_signature(ECDSA_P256_SHA256, report, vouched.to_der().as_bytes())
        .context("the quoting enclave's report")
}

/// What Trustee's default policy comes to.
pub(crate) fn status(claims: &Value, references: &BTreeMap<String, Value>) -> &'static str {
    let body = &claims["quote"]["body"];
    let listed = |name: &str| {
        references.get(name).and_then(Value::as_array).is_some_and(|list| list.contains(&body[name]))
    };
    let known = ["mr_td", "rtmr_1", "rtmr_2", "xfam"].into_iter().all(listed);
    if known && claims["td_attributes"]["debug"] == false { "affirming" } else { "contraindicated" }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
