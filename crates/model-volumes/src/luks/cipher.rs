//! AES-XTS as dm-crypt has it, and the anti-forensic splitter of key slots.

use aes::Aes256;
use aes::cipher::{KeyInit, array::Array};
use sha2::{Digest as _, Sha256, Sha512};
use xts_mode::Xts128;
use zeroize::Zeroizing;

use super::KEY_BYTES;
use super::header::Hash;

/// Sectors of 512 bytes are what tweaks are counted in, whatever the size of the sectors that are encrypted.
const TWEAK_UNIT: u64 = 512;
/// Whether to encrypt or to decrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Encrypt,
    Decrypt,
}

/// The cipher with a key.
pub(super) struct Cipher(Xts128<Aes256>);

impl Cipher {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let (data, tweak) = key.split_at(KEY_BYTES / 2);
        let aes = |half: &[u8]| Aes256::new(&Array::try_from(half).unwrap_or_default());
        Self(Xts128::new(aes(data), aes(tweak)))
    }

    /// Works on whole sectors, the first of which is at byte `at` of what is encrypted.
    pub(super) fn apply(&self, way: Way, data: &mut [u8], sector: usize, at: u64) {
        for (number, chunk) in data.chunks_exact_mut(sector).enumerate() {
            let place = (at + (number * sector) as u64) / TWEAK_UNIT;
            let tweak = u128::from(place).to_le_bytes();
            match way {
                Way::Encrypt => self.0.encrypt_sector(chunk, tweak.into()),
                Way::Decrypt => self.0.decrypt_sector(chunk, tweak.into()),
            }
        }
    }
}

/// Puts a key together from its stripes ("AFmerge" of the LUKS1 On-Disk Format Specification, section 2.4).
pub(super) fn merge(material: &[u8], hash: Hash) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let mut stripes = material.chunks_exact(KEY_BYTES).peekable();
    while let Some(stripe) = stripes.next() {
        xor(&mut key, stripe);
        if stripes.peek().is_some() {
            diffuse(&mut key, hash);
        }
    }
    key
}

/// Makes the last of the stripes, whose others are random, so that they give `key` ("AFsplit", the same section).
pub(super) fn split(material: &mut [u8], key: &[u8; KEY_BYTES], hash: Hash) {
    let Some(last) = material.len().checked_sub(KEY_BYTES) else { return };
    let mut state = Zeroizing::new([0; KEY_BYTES]);
    for stripe in material[..last].chunks_exact(KEY_BYTES) {
        xor(&mut state, stripe);
        diffuse(&mut state, hash);
    }
    xor(&mut state, key);
    material[last..].copy_from_slice(&*state);
}

fn xor(to: &mut [u8; KEY_BYTES], with: &[u8]) {
    to.iter_mut().zip(with).for_each(|(to, with)| *to ^= with);
}

fn diffuse(key: &mut [u8; KEY_BYTES], hash: Hash) {
    let size = match hash {
        Hash::Sha256 => 32,
        Hash::Sha512 => 64,
    };
    for (number, block) in (0u32..).zip(key.chunks_mut(size)) {
        let number = number.to_be_bytes();
        match hash {
            Hash::Sha256 => {
                block.copy_from_slice(&Sha256::new().chain_update(number).chain_update(&*block).finalize())
            }
            Hash::Sha512 => {
                block.copy_from_slice(&Sha512::new().chain_update(number).chain_update(&*block).finalize())
            }
        }
    }
}
