//! New disks: one key slot, PBKDF2, data from [`DATA_START`] on.
//!
//! A model's key has as much chance in it as its cipher, since a program made it; so nothing is gained by a derivation that
//! takes long or needs memory, and an emulated or busy guest would wait for it.

use std::io::{Read, Seek, SeekFrom, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::cipher::{Cipher, Way, split};
use super::header::{CHECKSUM, Hash, Kdf, STRIPES, checksum};
use super::open::derive;
use super::{CIPHER, KEY_BYTES, LuksError};
use crate::superblock::{HEAD, MAGIC, Uuid};

/// Where the data begins, in bytes.
pub const DATA_START: u64 = 1 << 20;
/// Size of a header area, of which there are two.
const AREA: usize = 16 << 10;
/// Where the key slot is, and how much is reserved for it.
const SLOT: u64 = 2 * AREA as u64;
const SLOT_BYTES: usize = (STRIPES * KEY_BYTES).next_multiple_of(4096);
/// The least that the specification allows.
const ITERATIONS: u32 = 1000;
const SECTOR: usize = 4096;
/// How much is encrypted at a time.
const BATCH: usize = 1 << 20;

/// Writes a disk with this content, whose end is filled with zeros up to a whole sector. `random` gives random bytes without end.
///
/// # Errors
/// What is read or written.
pub fn write(
    disk: &mut (impl Write + Seek),
    content: &mut impl Read,
    uuid: Uuid,
    passphrase: &[u8],
    random: &mut dyn Read,
) -> Result<(), LuksError> {
    let mut fill = |to: &mut [u8]| {
        random.read_exact(to).map_err(|source| LuksError::Io { what: "a source of random numbers", source })
    };
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    fill(&mut key[..])?;
    let mut kdf = || {
        let mut salt = vec![0; 32];
        fill(&mut salt).map(|()| Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: ITERATIONS, salt })
    };
    let (of_slot, of_digest) = (kdf()?, kdf()?);
    let mut material = Zeroizing::new(vec![0; STRIPES * KEY_BYTES]);
    fill(&mut material)?;
    split(&mut material, &key, Hash::Sha256);
    let mut opener = Zeroizing::new([0; KEY_BYTES]);
    derive(&of_slot, passphrase, &mut opener[..])?;
    Cipher::new(&opener).apply(Way::Encrypt, &mut material, 512, 0);
    let mut digest = vec![0; 32];
    derive(&of_digest, &key[..], &mut digest)?;
    let json = metadata(&of_slot, &of_digest, &digest);

    let io = |what| move |source| LuksError::Io { what, source };
    for (offset, magic) in [(0, MAGIC), (AREA as u64, *b"SKUL\xba\xbe\x00\x02")] {
        let mut salt = [0; 64];
        fill(&mut salt)?;
        let area = area(offset, magic, uuid, &salt, json.as_bytes());
        disk.seek(SeekFrom::Start(offset)).map_err(io("a header"))?;
        disk.write_all(&area).map_err(io("a header"))?;
    }
    disk.seek(SeekFrom::Start(SLOT)).map_err(io("a key slot"))?;
    disk.write_all(&material).map_err(io("a key slot"))?;
    encrypt(disk, content, &key)
}

fn encrypt(
    disk: &mut (impl Write + Seek),
    content: &mut impl Read,
    key: &[u8; KEY_BYTES],
) -> Result<(), LuksError> {
    let io = |source| LuksError::Io { what: "the content", source };
    let cipher = Cipher::new(key);
    let mut at = 0;
    disk.seek(SeekFrom::Start(DATA_START)).map_err(io)?;
    loop {
        let mut batch = Zeroizing::new(Vec::with_capacity(BATCH));
        content.by_ref().take(BATCH as u64).read_to_end(&mut batch).map_err(io)?;
        if batch.is_empty() {
            return Ok(());
        }
        let whole = batch.len().next_multiple_of(SECTOR);
        batch.resize(whole, 0);
        cipher.apply(Way::Encrypt, &mut batch, SECTOR, at);
        disk.write_all(&batch).map_err(io)?;
        at += whole as u64;
    }
}

fn metadata(of_slot: &Kdf, of_digest: &Kdf, digest: &[u8]) -> String {
    let salt = |kdf: &Kdf| match kdf {
        Kdf::Pbkdf2 { salt, .. } | Kdf::Argon2 { salt, .. } => STANDARD.encode(salt),
    };
    let slot = json!({
        "type": "luks2",
        "key_size": KEY_BYTES,
        "af": {"type": "luks1", "stripes": STRIPES, "hash": "sha256"},
        "area": {"type": "raw", "offset": SLOT.to_string(), "size": SLOT_BYTES.to_string(),
            "encryption": CIPHER, "key_size": KEY_BYTES},
        "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": ITERATIONS, "salt": salt(of_slot)},
    });
    let segment = json!({"type": "crypt", "offset": DATA_START.to_string(), "size": "dynamic", "iv_tweak": "0",
        "encryption": CIPHER, "sector_size": SECTOR});
    let digest = json!({"type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256",
        "iterations": ITERATIONS, "salt": salt(of_digest), "digest": STANDARD.encode(digest)});
    let slots_size = DATA_START - SLOT;
    let config = json!({"json_size": (AREA - HEAD).to_string(), "keyslots_size": slots_size.to_string()});
    json!({"keyslots": {"0": slot}, "tokens": {}, "segments": {"0": segment}, "digests": {"0": digest}, "config": config})
        .to_string()
}

fn area(offset: u64, magic: [u8; 8], uuid: Uuid, salt: &[u8; 64], json: &[u8]) -> Vec<u8> {
    let mut area = vec![0; AREA];
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &magic);
    put(8, &(AREA as u64).to_be_bytes());
    put(16, &1u64.to_be_bytes());
    put(72, b"sha256");
    put(104, salt);
    put(168, uuid.as_str().as_bytes());
    put(256, &offset.to_be_bytes());
    put(HEAD, json);
    let sum = checksum(&area);
    area[CHECKSUM..CHECKSUM + 32].copy_from_slice(&sum);
    area
}
