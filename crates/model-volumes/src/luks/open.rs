//! From a passphrase to the volume key.

use std::os::unix::fs::FileExt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hmac::Hmac;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use super::cipher::{Cipher, Way, merge};
use super::header::{self, Digest, Hash, Kdf, STRIPES, Slot};
use super::{KEY_BYTES, Key, LuksError};

/// Where the data of an open disk is, and how it is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: whole sectors.
    pub size: u64,
    /// Size of the sectors that are encrypted each by itself, in bytes.
    pub sector: u32,
    /// Number of the first sector, of 512 bytes each, for the cipher.
    pub tweak: u64,
    /// The volume key, for [`super::CIPHER`].
    pub key: Key,
}

/// Opens a disk of `size` bytes with what its owner calls its key: a passphrase to LUKS2.
///
/// # Errors
/// [`LuksError`].
pub fn open(disk: &impl FileExt, size: u64, passphrase: &[u8]) -> Result<Mapping, LuksError> {
    let header = header::read(disk)?;
    let sector = u64::from(header.sector);
    let room = size.saturating_sub(header.offset) / sector * sector;
    let data = header.size.unwrap_or(room);
    if data == 0 || data > room {
        return Err(LuksError::Damaged("the disk ends before its data does"));
    }
    for slot in &header.slots {
        if let Some(key) = try_slot(disk, slot, &header.digest, passphrase)? {
            let (offset, sector, tweak) = (header.offset, header.sector, header.tweak);
            return Ok(Mapping { offset, size: data, sector, tweak, key });
        }
    }
    Err(LuksError::WrongKey(header.slots.len()))
}

fn try_slot(
    disk: &impl FileExt,
    slot: &Slot,
    digest: &Digest,
    passphrase: &[u8],
) -> Result<Option<Key>, LuksError> {
    let mut opener = Zeroizing::new([0; KEY_BYTES]);
    derive(&slot.kdf, passphrase, &mut opener[..])?;
    let mut material = Zeroizing::new(vec![0; STRIPES * KEY_BYTES]);
    let io = |source| LuksError::Io { what: "its key slot", source };
    disk.read_exact_at(&mut material, slot.offset).map_err(io)?;
    Cipher::new(&opener).apply(Way::Decrypt, &mut material, 512, 0);
    let candidate = merge(&material, slot.af);
    let mut found = vec![0; digest.bytes.len()];
    derive(&digest.kdf, &candidate[..], &mut found)?;
    // Who measures how long this takes is the host, and it has the disk: the digest is no secret.
    Ok(if found == digest.bytes { Key::of(&candidate[..]) } else { None })
}

/// Fills `to` with a key.
pub(super) fn derive(kdf: &Kdf, passphrase: &[u8], to: &mut [u8]) -> Result<(), LuksError> {
    let unfit = |_| LuksError::Metadata("its key derivation cannot be done".to_owned());
    match kdf {
        Kdf::Pbkdf2 { hash: Hash::Sha256, iterations, salt } => {
            pbkdf2::pbkdf2::<Hmac<Sha256>>(passphrase, salt, *iterations, to).map_err(|_| unfit(()))
        }
        Kdf::Pbkdf2 { hash: Hash::Sha512, iterations, salt } => {
            pbkdf2::pbkdf2::<Hmac<Sha512>>(passphrase, salt, *iterations, to).map_err(|_| unfit(()))
        }
        Kdf::Argon2 { id, passes, kib, lanes, salt } => {
            let params = Params::new(*kib, *passes, *lanes, Some(to.len())).map_err(|_| unfit(()))?;
            let algorithm = if *id { Algorithm::Argon2id } else { Algorithm::Argon2i };
            let mut blocks = Vec::new();
            let count = params.block_count();
            blocks.try_reserve_exact(count).map_err(|_| LuksError::Memory { kib: *kib })?;
            blocks.resize(count, Block::default());
            let argon = Argon2::new(algorithm, Version::V0x13, params);
            argon.hash_password_into_with_memory(passphrase, salt, to, &mut blocks).map_err(|_| unfit(()))
        }
    }
}
