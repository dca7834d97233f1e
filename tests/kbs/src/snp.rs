//! Reports of SEV-SNP: chips of an authority of our own, and the verifier, which is as strict as Trustee's
//! (`deps/verifier/src/snp/mod.rs`).
//!
//! A report is AMD's (56860, table 23), and a chip's certificate has the extensions of AMD's VCEKs (57230, chapter 3): versions
//! of the firmware's parts, and the chip's id. All keys are on P-384, where AMD's own root and intermediate have RSA.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use measurement::initdata::InitData as Document;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::DecodePrivateKey as _;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P384_SHA384,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P384_SHA384};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Bytes of a report, and of what is signed of it.
const LENGTH: usize = 1184;
const SIGNED: usize = 0x2a0;
/// Bytes of a number in the signature's field, and of one on P-384.
const FIELD: usize = 72;
const NUMBER: usize = 48;
/// Versions of reports that are taken.
const VERSIONS: std::ops::RangeInclusive<u32> = 3..=5;
/// AMD's extensions: a version each (.3.N), and the chip's id (.4).
const AMD: [u64; 8] = [1, 3, 6, 1, 4, 1, 3704, 1];
/// Family of the chips here: Genoa's.
const FAMILY: u8 = 0x19;

/// Versions of the firmware's parts (TCB).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcb {
    /// Of the boot loader.
    pub bootloader: u8,
    /// Of the security processor's system.
    pub tee: u8,
    /// Of SNP's firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

impl Tcb {
    /// As Trustee calls them in claims and reference values, with AMD's number of each extension.
    const fn parts(self) -> [(&'static str, &'static str, u64, u8); 4] {
        [
            ("reported_tcb_bootloader", "snp_bootloader", 1, self.bootloader),
            ("reported_tcb_tee", "snp_tee_svn", 2, self.tee),
            ("reported_tcb_snp", "snp_snp_svn", 3, self.snp),
            ("reported_tcb_microcode", "snp_microcode", 8, self.microcode),
        ]
    }
}

/// Who vouches for chips: it plays AMD.
#[derive(Debug)]
pub struct Authority {
    root: Vec<u8>,
    intermediate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A chip with the key that its versions give it (VCEK).
#[derive(Debug)]
pub struct Chip {
    id: [u8; 64],
    tcb: Tcb,
    key: SigningKey,
    /// Its certificate, and the intermediate's (DER).
    chain: [Vec<u8>; 2],
}

/// What a guest was launched as.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The launch digest.
    pub measurement: [u8; 48],
    /// The guest's policy.
    pub policy: u64,
    /// What the host was told to put into the report.
    pub host_data: [u8; 32],
}

/// The chips that a verifier can find certificates of, and whom it believes.
#[derive(Debug, Clone, Default)]
pub struct Chips {
    root: Vec<u8>,
    chains: BTreeMap<Vec<u8>, [Vec<u8>; 2]>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When the library has no keys.
    pub fn new() -> Result<Self> {
        let authority = |name| -> Result<CertificateParams> {
            let mut params = named(name)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Ok(params)
        };
        let (ark, ask) = (authority("ARK of the Tests")?, authority("ASK of the Tests")?);
        let (ark_key, ask_key) = (key()?, key()?);
        let root = ark.self_signed(&ark_key)?.der().to_vec();
        let intermediate = ask.signed_by(&ask_key, &Issuer::new(ark, ark_key))?.der().to_vec();
        Ok(Self { root, intermediate, issuer: Issuer::new(ask, ask_key) })
    }

    /// A chip of its, with these versions.
    ///
    /// # Errors
    ///
    /// When the library has no keys.
    pub fn chip(&self, id: [u8; 64], tcb: Tcb) -> Result<Chip> {
        let mut params = named("VCEK of the Tests")?;
        for (_, _, number, version) in tcb.parts() {
            params.custom_extensions.push(extension(&[3, number], integer(version)));
        }
        params.custom_extensions.push(extension(&[4], id.to_vec()));
        let key = key()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        let key = SigningKey::from_pkcs8_der(&key.serialize_der()).map_err(|error| anyhow!("{error}"))?;
        Ok(Chip { id, tcb, key, chain: [certificate, self.intermediate.clone()] })
    }

    /// What a verifier needs that believes it and finds these chips' certificates.
    pub fn store<'a>(&self, chips: impl IntoIterator<Item = &'a Chip>) -> Chips {
        let chains = chips.into_iter().map(|chip| (chip.id.to_vec(), chip.chain.clone()));
        Chips { root: self.root.clone(), chains: chains.collect() }
    }
}

impl Chip {
    /// Its report of a guest over `data`, of version 3; `change` may change it before it is signed.
    pub fn report(&self, guest: &Guest, data: &[u8; 64], change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; LENGTH];
        let mut put = |place: usize, bytes: &[u8]| report[place..place + bytes.len()].copy_from_slice(bytes);
        let Tcb { bootloader, tee, snp, microcode } = self.tcb;
        put(0, &[3]);
        put(0x8, &guest.policy.to_le_bytes());
        put(0x34, &[1]);
        // SMT is on.
        put(0x40, &[1]);
        put(0x50, data);
        put(0x90, &guest.measurement);
        put(0xc0, &guest.host_data);
        for place in [0x38, 0x180, 0x1e0, 0x1f0] {
            put(place, &[bootloader, tee, 0, 0, 0, 0, snp, microcode]);
        }
        put(0x188, &[FAMILY, 0x11, 1]);
        put(0x1a0, &self.id);
        change(&mut report);
        let signature: Signature = self.key.sign(&report[..SIGNED]);
        for (place, number) in [SIGNED, SIGNED + FIELD].into_iter().zip(signature.to_bytes().chunks(NUMBER)) {
            for (to, from) in report[place..].iter_mut().zip(number.iter().rev()) {
                *to = *from;
            }
        }
        report
    }
}

fn key() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?)
}

fn named(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn extension(below: &[u64], content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(&[&AMD[..], below].concat(), content)
}

/// A small number in DER.
fn integer(number: u8) -> Vec<u8> {
    if number < 0x80 { vec![2, 1, number] } else { vec![2, 2, 0, number] }
}

/// Checks evidence over `data`, and reads it.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn verify(
    evidence: &Value,
    data: &[u8; 48],
    initdata: Option<&Document>,
    chips: &Chips,
) -> Result<Value> {
    // Trustee reads the report's parts and puts it together again; a part that is another is another signature.
    let report: AttestationReport = serde_json::from_value(evidence["attestation_report"].clone())?;
    let bytes = report.to_bytes()?;
    let bytes: &[u8] = bytes.as_ref();
    ensure!(VERSIONS.contains(&report.version), "Unexpected report version");
    ensure!(report.vmpl == 0, "VMPL Check Failed");
    let [vcek, intermediate] =
        chips.chains.get(&report.chip_id[..]).context("no certificate (VCEK) of this chip is found")?;
    let leaf = CertificateDer::from(vcek.as_slice());
    let chip = signed_by(&leaf, intermediate, &chips.root)?;
    let number = |place: usize| -> Vec<u8> { bytes[place..place + NUMBER].iter().rev().copied().collect() };
    let signature = Signature::from_slice(&[number(SIGNED), number(SIGNED + FIELD)].concat())
        .map_err(|_| anyhow!("the signature is none"))?;
    chip.verify_signature(ECDSA_P384_SHA384, &bytes[..SIGNED], signature.to_der().as_bytes())
        .context("the report's signature")?;

    let tcb = &report.reported_tcb;
    let reported = Tcb { bootloader: tcb.bootloader, tee: tcb.tee, snp: tcb.snp, microcode: tcb.microcode };
    let (_, certificate) = X509Certificate::from_der(vcek)?;
    for (name, _, number, version) in reported.parts() {
        ensure!(value(&certificate, &[3, number])? == integer(version), "{name} is not the certificate's");
    }
    ensure!(value(&certificate, &[4])? == report.chip_id, "the chip's id is not the certificate's");

    ensure!(report.report_data[..48] == data[..], "REPORT_DATA is different from that in the evidence");
    ensure!(report.report_data[48..] == [0; 16], "REPORT_DATA is different from that in the evidence");
    if let Some(document) = initdata {
        ensure!(
            report.host_data == *document.host_data().as_bytes(),
            "HOST_DATA is not the initdata's digest"
        );
    }
    let policy = u64::from_le_bytes(bytes[8..16].try_into()?);
    let platform = u64::from_le_bytes(bytes[0x40..0x48].try_into()?);
    let bit = |word: u64, bit: u32| word >> bit & 1 == 1;
    let mut claims = json!({
        "report_data": hex(&report.report_data),
        "init_data": hex(&report.host_data),
        "measurement": hex(&report.measurement),
        "chip_id": hex(&report.chip_id),
        "policy_abi_major": policy >> 8 & 0xff,
        "policy_abi_minor": policy & 0xff,
        "policy_smt_allowed": bit(policy, 16),
        "policy_migrate_ma": bit(policy, 18),
        "policy_debug_allowed": bit(policy, 19),
        "policy_single_socket": bit(policy, 20),
        "platform_smt_enabled": bit(platform, 0),
        "platform_tsme_enabled": bit(platform, 1),
    });
    for (name, _, _, version) in reported.parts() {
        claims[name] = version.into();
    }
    Ok(claims)
}

/// What Trustee's default policy comes to: all of it has reference values, and nobody looks in.
pub(crate) fn status(claims: &Value, references: &BTreeMap<String, Value>) -> &'static str {
    let listed = |name: &str, value: &Value| {
        references.get(name).and_then(Value::as_array).is_some_and(|list| list.contains(value))
    };
    let parts = Tcb { bootloader: 0, tee: 0, snp: 0, microcode: 0 }.parts();
    let known = listed("snp_launch_measurement", &claims["measurement"])
        && parts.iter().all(|(claim, reference, ..)| listed(reference, &claims[*claim]));
    let closed = claims["policy_debug_allowed"] == false && claims["policy_migrate_ma"] == false;
    if known && closed { "affirming" } else { "contraindicated" }
}

fn signed_by<'a>(
    leaf: &'a CertificateDer<'a>,
    intermediate: &[u8],
    root: &[u8],
) -> Result<EndEntityCert<'a>> {
    let root = CertificateDer::from(root);
    let anchor = anchor_from_trusted_cert(&root)?;
    let chip = EndEntityCert::try_from(leaf)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let others = [CertificateDer::from(intermediate)];
    chip.verify_for_usage(
        &[ECDSA_P384_SHA384],
        &[anchor],
        &others,
        time,
        KeyUsage::server_auth(),
        None,
        None,
    )
    .context("the chip's certificate")?;
    Ok(chip)
}

/// An extension's content.
fn value<'a>(certificate: &'a X509Certificate<'_>, below: &[u64]) -> Result<&'a [u8]> {
    let wanted = [&AMD[..], below].concat();
    let is = |oid: &x509_parser::der_parser::Oid<'_>| {
        oid.iter().is_some_and(|parts| parts.eq(wanted.iter().copied()))
    };
    let found = certificate.extensions().iter().find(|extension| is(&extension.oid));
    Ok(found.with_context(|| format!("the certificate has no extension {wanted:?}"))?.value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
