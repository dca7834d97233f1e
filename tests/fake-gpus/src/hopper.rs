//! Reports in the form of an H100's, by devices of an authority of our own.
//!
//! A report is the request and the response of SPDM 1.1's GET_MEASUREMENTS: 64 measurements of SHA-384, a nonce, what the device
//! says of itself, and a signature by P-384 over all that is before it. The form is that of a real H100's report, which
//! Trustee's test data has (`deps/verifier/test_data/nvidia`). The authority plays NVIDIA's.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use p384::SecretKey;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P384_SHA384,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use sha2::{Digest as _, Sha384};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P384_SHA384};

const REQUEST: usize = 37;
const BLOCKS: usize = 64;
const BLOCK: usize = 55;
/// Version, code, two parameters, number of blocks, length of the record.
const HEAD: usize = 8;
const SIGNATURE: usize = 96;
/// The driver's version among what the device says of itself.
const DRIVER: u16 = 3;
const DRIVER_VERSION: &str = "550.163.01";

/// Who vouches for devices.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A device that it vouches for.
#[derive(Debug)]
pub struct Device {
    key: SigningKey,
    chain: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When the library has no keys.
    pub fn new() -> Result<Self> {
        Self::of_key(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?)
    }

    /// The one that a guest with the tests' GPUs has, and a broker that is to believe it: everybody can know its key.
    ///
    /// # Errors
    ///
    /// When the library does not take the key.
    pub fn known() -> Result<Self> {
        Self::of_key(key_of("authority")?)
    }

    fn of_key(key: KeyPair) -> Result<Self> {
        let mut params = named("Device Authority of the Tests")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its certificate (DER).
    pub fn root(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    /// A device of its.
    ///
    /// # Errors
    ///
    /// When the library has no keys.
    pub fn device(&self, name: &str) -> Result<Device> {
        self.device_of_key(name, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?)
    }

    /// The device of this name, which has the same key each time.
    ///
    /// # Errors
    ///
    /// When the library does not take the key.
    pub fn known_device(&self, name: &str) -> Result<Device> {
        self.device_of_key(name, key_of(name)?)
    }

    fn device_of_key(&self, name: &str, key: KeyPair) -> Result<Device> {
        let leaf = named(name)?.signed_by(&key, &self.issuer)?;
        let key = SigningKey::from_pkcs8_der(&key.serialize_der()).map_err(|error| anyhow!("{error}"))?;
        Ok(Device { key, chain: leaf.pem() + &self.certificate.pem() })
    }
}

/// A key that follows from a name.
fn key_of(name: &str) -> Result<KeyPair> {
    let seed = Sha384::digest(["key of the tests: ", name].concat());
    let key = SecretKey::from_slice(&seed).map_err(|error| anyhow!("{error}"))?;
    let der = key.to_pkcs8_der().map_err(|error| anyhow!("{error}"))?;
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(der.as_bytes()),
        &PKCS_ECDSA_P384_SHA384,
    )?)
}

fn named(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// The measurement that is expected at an index.
fn golden(index: u8) -> [u8; 48] {
    Sha384::digest([b"measurement ", &[index][..]].concat()).into()
}

impl Device {
    /// Its chain of certificates, its own first (PEM).
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Its report.
    pub fn report(&self, nonce: [u8; 32]) -> Vec<u8> {
        self.report_with(nonce, |_| {})
    }

    /// Its report over other measurements than are expected: `change` gets one by one what it measured.
    pub fn report_with(&self, nonce: [u8; 32], change: impl Fn(&mut [[u8; 48]])) -> Vec<u8> {
        let mut measured: Vec<_> =
            (1..=BLOCKS).filter_map(|index| u8::try_from(index).ok()).map(golden).collect();
        change(&mut measured);
        let mut report = vec![0x11, 0xe0, 0x01, 0xff];
        report.extend(nonce);
        report.push(0);
        report.extend([0x11, 0x60, 0, 0, 64]);
        report.extend(&u32::try_from(BLOCKS * BLOCK).unwrap_or_default().to_le_bytes()[..3]);
        for (index, digest) in (1..).zip(&measured) {
            report.extend([index, 1, 51, 0, 0, 48, 0]);
            report.extend(digest);
        }
        report.extend(nonce);
        let driver = [DRIVER_VERSION.as_bytes(), &[0]].concat();
        let length = |bytes: usize| u16::try_from(bytes).unwrap_or_default().to_le_bytes();
        report.extend(length(4 + driver.len()));
        report.extend(DRIVER.to_le_bytes());
        report.extend(length(driver.len()));
        report.extend(driver);
        let signature: Signature = self.key.sign(&report);
        report.extend(signature.to_bytes());
        report
    }
}

/// What a report says.
#[derive(Debug)]
pub struct Report {
    /// What it answers.
    pub nonce: [u8; 32],
    /// The driver's version.
    pub driver: String,
    /// Whether all measurements are as expected.
    pub golden: bool,
    /// Which device it is: a number, as text.
    pub ueid: String,
}

/// Checks signature and chain, and reads what was signed.
///
/// # Errors
///
/// What is wrong with it.
pub fn verify(report: &[u8], chain: &str, root: &[u8]) -> Result<Report> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
    let (leaf, others) = chain.split_first().context("the chain is empty")?;
    let root = CertificateDer::from(root);
    let anchor = anchor_from_trusted_cert(&root)?;
    let device = EndEntityCert::try_from(leaf)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    device.verify_for_usage(
        &[ECDSA_P384_SHA384],
        &[anchor],
        others,
        time,
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    let signed = report.len().checked_sub(SIGNATURE).context("the report is cut off")?;
    let (signed, signature) = report.split_at(signed);
    let signature = Signature::from_slice(signature).map_err(|_| anyhow!("the signature is none"))?;
    device
        .verify_signature(ECDSA_P384_SHA384, signed, signature.to_der().as_bytes())
        .context("the report's signature")?;

    let record = REQUEST + HEAD;
    let behind = record + BLOCKS * BLOCK;
    ensure!(
        signed.len() >= behind + 34 && signed[..4] == [0x11, 0xe0, 1, 0xff] && signed[REQUEST + 4] == 64,
        "the report's form"
    );
    let nonce: [u8; 32] = signed[behind..behind + 32].try_into()?;
    ensure!(signed[4..36] == nonce, "the response is to another request");
    let golden = (1..=64_u8)
        .zip(signed[record..behind].chunks(BLOCK))
        .all(|(index, block)| block[7..] == golden(index));
    let driver = driver(&signed[behind + 34..]).context("no driver version")?;
    let digest: [u8; 48] = Sha384::digest(leaf).into();
    let ueid = digest[..16].iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte)).to_string();
    Ok(Report { nonce, driver, golden, ueid })
}

fn driver(mut opaque: &[u8]) -> Option<String> {
    while let [a, b, c, d, rest @ ..] = opaque {
        let length = usize::from(u16::from_le_bytes([*c, *d]));
        let value = rest.get(..length)?;
        if u16::from_le_bytes([*a, *b]) == DRIVER {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        opaque = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_the_authority_believes_its_devices_and_no_others() {
        let (one, two) = (Authority::known().unwrap(), Authority::known().unwrap());
        let device = one.known_device("0000:01:00.0").unwrap();
        let report = device.report([7; 32]);
        // Each maker of the certificate signs it anew, with the same key.
        let read = verify(&report, device.chain(), &two.root()).unwrap();
        assert_eq!((read.nonce, read.driver.as_str(), read.golden), ([7; 32], DRIVER_VERSION, true));
        let stranger = Authority::new().unwrap();
        assert!(verify(&report, device.chain(), &stranger.root()).is_err());
        let other = one.known_device("0000:02:00.0").unwrap();
        assert!(verify(&report, other.chain(), &one.root()).is_err(), "another device's chain");
    }

    #[test]
    fn what_was_changed_after_signing_is_found() {
        let authority = Authority::known().unwrap();
        let device = authority.known_device("0000:01:00.0").unwrap();
        let report = device.report([7; 32]);
        for at in [4, REQUEST + HEAD + 7, report.len() - SIGNATURE - 1, report.len() - 1] {
            let mut changed = report.clone();
            changed[at] ^= 1;
            assert!(verify(&changed, device.chain(), &authority.root()).is_err(), "byte {at}");
        }
        for length in [0, REQUEST, report.len() - SIGNATURE, report.len() - 1] {
            assert!(verify(&report[..length], device.chain(), &authority.root()).is_err(), "{length} bytes");
        }
        let other = device.report_with([7; 32], |measured| measured[8] = [0; 48]);
        assert!(!verify(&other, device.chain(), &authority.root()).unwrap().golden);
    }
}
