//! The ID block: what the tenant expects of the launch, signed, and checked by the security processor.
//!
//! The processor refuses to start a guest whose launch digest or policy is not the block's, and puts the digests of
//! the keys into the attestation report. Two structures go to it (AMD, "SEV Secure Nested Paging Firmware ABI
//! Specification" (56860), 8.18): the block, 96 bytes, and its authentication, 4096 bytes, with the ID key's signature
//! of the block and the author key's signature of the ID key. All numbers are little-endian.

use std::fmt;

use p384::ecdsa::signature::{Signer as _, Verifier as _};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::DecodePrivateKey as _;

use super::LaunchDigest;
use crate::Sha384Digest;
use crate::bytes::{array_at, u32_at, u64_at};

/// Size of the block in bytes.
pub const BLOCK: usize = 96;
/// Size of its authentication in bytes.
pub const AUTH: usize = 4096;

/// The version of the block's format.
const VERSION: u32 = 1;
/// Algorithm: ECDSA on P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// Curve: P-384.
const CURVE: u32 = 2;

/// Size of a number of a signature or key in bytes; P-384 fills 48 of them.
const NUMBER: usize = 72;
const SIGNATURE: usize = 512;
const KEY: usize = 1028;

// Offsets in the authentication.
const BLOCK_SIGNATURE: usize = 0x040;
const ID_KEY: usize = 0x240;
const KEY_SIGNATURE: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;

/// The guest's policy (AMD 56860, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy(u64);

impl Policy {
    /// What QEMU uses unless told otherwise: SMT allowed, no debugging, no migration.
    pub const DEFAULT: Self = Self(0x3_0000);

    /// Checks that a policy is one that a guest with secrets can have.
    ///
    /// # Errors
    /// [`IdBlockError::Policy`] without the bit that is always one, or with one that lets others in: debugging, or a
    /// migration agent, which is given the guest's memory.
    pub const fn new(bits: u64) -> Result<Self, IdBlockError> {
        const ALWAYS_ONE: u64 = 1 << 17;
        const MIGRATION_AGENT: u64 = 1 << 18;
        const DEBUG: u64 = 1 << 19;
        if bits & ALWAYS_ONE == 0 || bits & (MIGRATION_AGENT | DEBUG) != 0 {
            return Err(IdBlockError::Policy(bits));
        }
        Ok(Self(bits))
    }

    /// The policy's value.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// What the tenant expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest.
    pub launch_digest: LaunchDigest,
    /// Names the kind of guest; for the tenant's use.
    pub family_id: [u8; 16],
    /// Names the guest's image; for the tenant's use.
    pub image_id: [u8; 16],
    /// The image's security version; for the tenant's use.
    pub guest_svn: u32,
    /// The policy.
    pub policy: Policy,
}

/// What is wrong with a block, its authentication or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdBlockError {
    /// A policy that no guest with secrets can have.
    #[error(
        "the policy {0:#x} is none for a guest with secrets: bit 17 must be set, bit 18 (migration agent) and bit 19 \
         (debugging) not"
    )]
    Policy(u64),
    /// A key that is no unencrypted PKCS#8 PEM with a P-384 key.
    #[error("the key is no P-384 private key in unencrypted PKCS#8 PEM")]
    Key,
    /// Signing failed.
    #[error("the key does not sign")]
    Signing,
    /// A structure of another size.
    #[error("the {what} has {length} bytes, and must have {expected}")]
    Length {
        /// Which structure.
        what: &'static str,
        /// What it has, in bytes.
        length: usize,
        /// What it must have, in bytes.
        expected: usize,
    },
    /// A field has a value that is not known, or should be zero.
    #[error("the {0} is not what the format says")]
    Field(&'static str),
    /// A signature does not fit.
    #[error("the signature of the {0} is not by its key")]
    Signature(&'static str),
    /// The block is about another guest.
    #[error("the block expects the launch digest {block}, and the guest's is {guest}")]
    Digest {
        /// What the block says.
        block: LaunchDigest,
        /// What the guest has.
        guest: LaunchDigest,
    },
    /// The block is about a guest with another policy.
    #[error("the block expects the policy {block:#x}, and the guest's is {guest:#x}")]
    OtherPolicy {
        /// What the block says.
        block: u64,
        /// What the guest has.
        guest: u64,
    },
}

/// A private key of the tenant's.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// From unencrypted PKCS#8 in PEM, as `openssl genpkey` writes it.
    ///
    /// # Errors
    /// [`IdBlockError::Key`] for anything else. The cause is left out, as it might quote the key.
    pub fn from_pem(pem: &str) -> Result<Self, IdBlockError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| IdBlockError::Key)
    }

    /// SHA-384 of the public key as the processor stores it: what the attestation report says.
    pub fn digest(&self) -> Sha384Digest {
        Sha384Digest::of(&encode_key(self.0.verifying_key()))
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE], IdBlockError> {
        let signature: Signature = self.0.try_sign(message).map_err(|_| IdBlockError::Signing)?;
        let mut encoded = [0; SIGNATURE];
        put_number(&mut encoded[..NUMBER], &signature.r().to_bytes());
        put_number(&mut encoded[NUMBER..2 * NUMBER], &signature.s().to_bytes());
        Ok(encoded)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.digest())
    }
}

/// A block and an authentication that belong together.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedIdBlock {
    block: IdBlock,
    auth: Box<[u8; AUTH]>,
}

impl IdBlock {
    /// The block's bytes.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..0x30].copy_from_slice(self.launch_digest.digest().as_bytes());
        block[0x30..0x40].copy_from_slice(&self.family_id);
        block[0x40..0x50].copy_from_slice(&self.image_id);
        block[0x50..0x54].copy_from_slice(&VERSION.to_le_bytes());
        block[0x54..0x58].copy_from_slice(&self.guest_svn.to_le_bytes());
        block[0x58..].copy_from_slice(&self.policy.bits().to_le_bytes());
        block
    }

    fn decode(bytes: &[u8]) -> Result<Self, IdBlockError> {
        let length = IdBlockError::Length { what: "ID block", length: bytes.len(), expected: BLOCK };
        let bytes: &[u8; BLOCK] = bytes.try_into().map_err(|_| length.clone())?;
        let field = || {
            Some(Self {
                launch_digest: LaunchDigest::from_digest(Sha384Digest::from_bytes(array_at(bytes, 0)?)),
                family_id: array_at(bytes, 0x30)?,
                image_id: array_at(bytes, 0x40)?,
                guest_svn: u32_at(bytes, 0x54)?,
                policy: Policy(u64_at(bytes, 0x58)?),
            })
        };
        if u32_at(bytes, 0x50) != Some(VERSION) {
            return Err(IdBlockError::Field("version of the block"));
        }
        let block = field().ok_or(length)?;
        Policy::new(block.policy.bits())?;
        Ok(block)
    }

    /// Signs the block with `id_key`, and that key with `author_key`.
    ///
    /// # Errors
    /// [`IdBlockError::Signing`], which a sound key does not give.
    pub fn sign(self, id_key: &PrivateKey, author_key: &PrivateKey) -> Result<SignedIdBlock, IdBlockError> {
        let public = encode_key(id_key.0.verifying_key());
        let mut auth = Box::new([0; AUTH]);
        let mut put = |at: usize, bytes: &[u8]| auth[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &ALGORITHM.to_le_bytes());
        put(4, &ALGORITHM.to_le_bytes());
        put(BLOCK_SIGNATURE, &id_key.sign(&self.encode())?);
        put(ID_KEY, &public);
        put(KEY_SIGNATURE, &author_key.sign(&public)?);
        put(AUTHOR_KEY, &encode_key(author_key.0.verifying_key()));
        Ok(SignedIdBlock { block: self, auth })
    }
}

impl SignedIdBlock {
    /// Reads a block and its authentication, and checks them as the processor would: both signatures, and that the
    /// block is about `guest`.
    ///
    /// # Errors
    /// [`IdBlockError`] for whatever the processor would refuse.
    pub fn verify(block: &[u8], auth: &[u8], guest: LaunchDigest) -> Result<Self, IdBlockError> {
        let length = IdBlockError::Length { what: "ID authentication", length: auth.len(), expected: AUTH };
        let auth: Box<[u8; AUTH]> = auth.to_vec().into_boxed_slice().try_into().map_err(|_| length)?;
        let decoded = IdBlock::decode(block)?;
        if (u32_at(&auth[..], 0), u32_at(&auth[..], 4)) != (Some(ALGORITHM), Some(ALGORITHM)) {
            return Err(IdBlockError::Field("algorithm of a key"));
        }
        let reserved = [8..BLOCK_SIGNATURE, ID_KEY + KEY..KEY_SIGNATURE, AUTHOR_KEY + KEY..AUTH];
        if reserved.into_iter().any(|range| auth[range].iter().any(|byte| *byte != 0)) {
            return Err(IdBlockError::Field("reserved part of the authentication"));
        }
        let id_key = &auth[ID_KEY..ID_KEY + KEY];
        check(id_key, &auth[BLOCK_SIGNATURE..BLOCK_SIGNATURE + SIGNATURE], block, "ID block")?;
        let author_key = &auth[AUTHOR_KEY..AUTHOR_KEY + KEY];
        check(author_key, &auth[KEY_SIGNATURE..KEY_SIGNATURE + SIGNATURE], id_key, "ID key")?;
        if decoded.launch_digest != guest {
            return Err(IdBlockError::Digest { block: decoded.launch_digest, guest });
        }
        Ok(Self { block: decoded, auth })
    }

    /// The block.
    pub const fn block(&self) -> &IdBlock {
        &self.block
    }

    /// The authentication's bytes.
    pub fn auth(&self) -> &[u8; AUTH] {
        &self.auth
    }

    /// Digest of the ID key, `ID_KEY_DIGEST` of the report.
    pub fn id_key_digest(&self) -> Sha384Digest {
        Sha384Digest::of(&self.auth[ID_KEY..ID_KEY + KEY])
    }

    /// Digest of the author key, `AUTHOR_KEY_DIGEST` of the report.
    pub fn author_key_digest(&self) -> Sha384Digest {
        Sha384Digest::of(&self.auth[AUTHOR_KEY..AUTHOR_KEY + KEY])
    }
}

impl fmt::Debug for SignedIdBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = (self.id_key_digest(), self.author_key_digest());
        f.debug_struct("SignedIdBlock").field("block", &self.block).field("keys", &keys).finish()
    }
}

/// Writes a big-endian number in little-endian, the rest zero.
fn put_number(to: &mut [u8], big_endian: &[u8]) {
    for (to, from) in to.iter_mut().zip(big_endian.iter().rev()) {
        *to = *from;
    }
}

/// Reads a number that must fit into P-384's 48 bytes, to big-endian.
fn number(bytes: &[u8], at: usize) -> Option<[u8; 48]> {
    let mut number: [u8; 48] = array_at(bytes, at)?;
    number.reverse();
    bytes.get(at + 48..at + NUMBER)?.iter().all(|byte| *byte == 0).then_some(number)
}

fn encode_key(key: &VerifyingKey) -> [u8; KEY] {
    let mut encoded = [0; KEY];
    encoded[..4].copy_from_slice(&CURVE.to_le_bytes());
    // SEC1: a byte 4, then X and Y, big-endian.
    let sec1 = key.to_sec1_point(false);
    put_number(&mut encoded[4..4 + NUMBER], &sec1.as_bytes()[1..49]);
    put_number(&mut encoded[4 + NUMBER..4 + 2 * NUMBER], &sec1.as_bytes()[49..]);
    encoded
}

/// Checks `signature` of `message` by `key`, all as the processor stores them.
fn check(key: &[u8], signature: &[u8], message: &[u8], what: &'static str) -> Result<(), IdBlockError> {
    let decode = || {
        let sec1 = [&[4][..], &number(key, 4)?, &number(key, 4 + NUMBER)?].concat();
        let verifying = VerifyingKey::from_sec1_bytes(&sec1).ok()?;
        let signature = Signature::from_scalars(number(signature, 0)?, number(signature, NUMBER)?).ok()?;
        Some((verifying, signature))
    };
    if u32_at(key, 0) != Some(CURVE) {
        return Err(IdBlockError::Field("curve of a key"));
    }
    let rest = key[4 + 2 * NUMBER..].iter().chain(&signature[2 * NUMBER..]);
    if rest.into_iter().any(|byte| *byte != 0) {
        return Err(IdBlockError::Field("reserved part of a key or signature"));
    }
    let (verifying, signature) = decode().ok_or(IdBlockError::Signature(what))?;
    verifying.verify(message, &signature).map_err(|_| IdBlockError::Signature(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::pkcs8::{EncodePrivateKey as _, LineEnding};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// A key that only tests have.
    fn key(byte: u8) -> PrivateKey {
        PrivateKey(SigningKey::from_slice(&[byte; 48]).unwrap())
    }

    fn block() -> IdBlock {
        IdBlock {
            launch_digest: LaunchDigest::from_digest(Sha384Digest::of(b"guest")),
            family_id: *b"family..........",
            image_id: *b"image...........",
            guest_svn: 7,
            policy: Policy::new(0x83_0000 & !(1 << 19)).unwrap(),
        }
    }

    #[test]
    fn what_is_signed_verifies() {
        let signed = block().sign(&key(1), &key(2)).unwrap();
        let verified =
            SignedIdBlock::verify(&block().encode(), signed.auth(), block().launch_digest).unwrap();
        assert_eq!(verified, signed);
        assert_eq!(signed.id_key_digest(), key(1).digest());
        assert_eq!(signed.author_key_digest(), key(2).digest());
        // RFC 6979: the same key and block give the same signature.
        assert_eq!(block().sign(&key(1), &key(2)).unwrap(), signed);
    }

    #[test]
    fn signatures_of_others_are_refused() {
        let verify = |auth: &[u8; AUTH]| {
            SignedIdBlock::verify(&block().encode(), auth, block().launch_digest).map(|_| ()).unwrap_err()
        };
        let mut auth = *block().sign(&key(1), &key(2)).unwrap().auth();
        let other = IdBlock { guest_svn: 6, ..block() }.sign(&key(1), &key(2)).unwrap();
        assert_eq!(verify(other.auth()), IdBlockError::Signature("ID block"));
        // The author's signature from elsewhere, of another ID key.
        let other = block().sign(&key(3), &key(2)).unwrap();
        auth[KEY_SIGNATURE..KEY_SIGNATURE + SIGNATURE]
            .copy_from_slice(&other.auth()[KEY_SIGNATURE..KEY_SIGNATURE + SIGNATURE]);
        assert_eq!(verify(&auth), IdBlockError::Signature("ID key"));
    }

    #[test]
    fn policies_that_let_others_in_are_refused() {
        for bits in [0, 0x1_0000, 0xb_0000, 0x7_0000] {
            assert_eq!(Policy::new(bits), Err(IdBlockError::Policy(bits)));
        }
        let debugging = IdBlock { policy: Policy(0xb_0000), ..block() };
        let signed = debugging.sign(&key(1), &key(2)).unwrap();
        let error =
            SignedIdBlock::verify(&debugging.encode(), signed.auth(), block().launch_digest).unwrap_err();
        assert_eq!(error, IdBlockError::Policy(0xb_0000));
    }

    #[test]
    fn keys_are_pem_and_do_not_show() {
        let pem = key(5).0.to_pkcs8_pem(LineEnding::LF).unwrap();
        let read = PrivateKey::from_pem(&pem).unwrap();
        assert_eq!(read.digest(), key(5).digest());
        assert_eq!(format!("{read:?}"), format!("PrivateKey({})", read.digest()));
        assert_eq!(PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----\n").unwrap_err(), IdBlockError::Key);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            start in proptest::collection::vec(any::<u8>(), 0..BLOCK + 1),
            at in 0..AUTH,
            byte: u8,
        ) {
            // Signing takes long enough to be done once.
            static SIGNED: LazyLock<SignedIdBlock> = LazyLock::new(|| block().sign(&key(1), &key(2)).unwrap());
            let mut auth = *SIGNED.auth();
            auth[at] = byte;
            let _ = SignedIdBlock::verify(&start, &auth, block().launch_digest);
            let _ = SignedIdBlock::verify(&block().encode(), &auth, block().launch_digest);
        }
    }
}
