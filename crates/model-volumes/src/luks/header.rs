//! The header: two areas, each a binary part and metadata in JSON, of which the first that is whole counts.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{CIPHER, KEY_BYTES, LuksError};
use crate::superblock::{HEAD, MAGIC};

/// Sizes of a header area that are read, in bytes; the specification has larger ones, for metadata that no model volume has.
const SIZES: [u64; 3] = [16 << 10, 32 << 10, 64 << 10];
/// Magic of the second area, which is there in case the first is not whole.
const SECOND: [u8; 8] = *b"SKUL\xba\xbe\x00\x02";
/// Fields of the binary part: size of the area, checksum's algorithm, where the area is, checksum.
const SIZE: usize = 8;
const ALGORITHM: usize = 72;
const OFFSET: usize = 256;
pub(super) const CHECKSUM: usize = 448;
const CHECKSUM_BYTES: usize = 64;

/// More key slots than the format has; the first that fits opens the disk.
const MAX_SLOTS: usize = 32;
/// Stripes of a key slot: all programs write this many.
pub(super) const STRIPES: usize = 4000;
/// More iterations than a second of any machine.
const MAX_ITERATIONS: u32 = 50_000_000;
/// The most memory that Argon2 may take here, in KiB: what cryptsetup takes at most.
const MAX_MEMORY: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 4;
/// Longest salt, in bytes.
const MAX_SALT: usize = 256;

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// How a passphrase becomes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kdf {
    Pbkdf2 { hash: Hash, iterations: u32, salt: Vec<u8> },
    Argon2 { id: bool, passes: u32, kib: u32, lanes: u32, salt: Vec<u8> },
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) kdf: Kdf,
    pub(super) af: Hash,
    /// Where its material is, in bytes.
    pub(super) offset: u64,
}

/// What tells the right volume key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) kdf: Kdf,
    pub(super) bytes: Vec<u8>,
}

/// What a header says, as far as it is needed to open the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) slots: Vec<Slot>,
    pub(super) digest: Digest,
    /// Where the data begins, in bytes.
    pub(super) offset: u64,
    /// How long it is, in bytes; to the disk's end where nothing is said.
    pub(super) size: Option<u64>,
    pub(super) sector: u32,
    /// What is added to the first sector's number.
    pub(super) tweak: u64,
}

/// Reads the header.
pub(super) fn read(disk: &impl FileExt) -> Result<Header, LuksError> {
    let first = area(disk, 0, MAGIC);
    let metadata = match first {
        // A disk that is none is told as such; one whose first area is torn has a second.
        Err(LuksError::Damaged(why)) => {
            let second = SIZES.iter().find_map(|offset| area(disk, *offset, SECOND).ok());
            second.ok_or(LuksError::Damaged(why))?
        }
        first => first?,
    };
    parse(&metadata)
}

/// The metadata of one area.
fn area(disk: &impl FileExt, offset: u64, magic: [u8; 8]) -> Result<Vec<u8>, LuksError> {
    let what = "its header";
    let io = |source| LuksError::Io { what, source };
    let mut head = [0; HEAD];
    disk.read_exact_at(&mut head, offset).map_err(io)?;
    if head[..8] != magic {
        return Err(LuksError::Magic);
    }
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| head[at + byte]));
    let size = number(SIZE);
    if !SIZES.contains(&size) {
        let takes = "16, 32 or 64 KiB (cryptsetup luksFormat --luks2-metadata-size)";
        return Err(LuksError::Unusual { what: "metadata's size", found: size.to_string(), takes });
    }
    if number(OFFSET) != offset {
        return Err(LuksError::Damaged("it says that it is somewhere else"));
    }
    let algorithm = &head[ALGORITHM..ALGORITHM + 32];
    if !algorithm.starts_with(b"sha256\0") {
        let found = String::from_utf8_lossy(algorithm).trim_end_matches('\0').to_owned();
        return Err(LuksError::Unusual { what: "checksum's algorithm", found, takes: "sha256" });
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    disk.read_exact_at(&mut bytes, offset).map_err(io)?;
    if checksum(&bytes) != bytes[CHECKSUM..CHECKSUM + 32] {
        return Err(LuksError::Damaged("its checksum is another"));
    }
    let json = bytes.split_off(HEAD);
    let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
    Ok(json[..end].to_vec())
}

/// The checksum of an area: of all of it, with zeros in the checksum's place.
pub(super) fn checksum(area: &[u8]) -> [u8; 32] {
    let (before, rest) = area.split_at(CHECKSUM);
    let hash = Sha256::new().chain_update(before).chain_update([0; CHECKSUM_BYTES]);
    hash.chain_update(&rest[CHECKSUM_BYTES..]).finalize().into()
}

#[derive(Deserialize)]
struct JsonHeader {
    keyslots: BTreeMap<String, JsonSlot>,
    segments: BTreeMap<String, JsonSegment>,
    digests: BTreeMap<String, JsonDigest>,
    config: JsonConfig,
}

#[derive(Deserialize)]
struct JsonSlot {
    #[serde(rename = "type")]
    kind: String,
    key_size: u64,
    af: Option<JsonAf>,
    area: JsonArea,
    kdf: Option<JsonKdf>,
}

#[derive(Deserialize)]
struct JsonAf {
    #[serde(rename = "type")]
    kind: String,
    stripes: u64,
    hash: String,
}

#[derive(Deserialize)]
struct JsonArea {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    encryption: Option<String>,
    key_size: Option<u64>,
}

#[derive(Deserialize)]
struct JsonKdf {
    #[serde(rename = "type")]
    kind: String,
    salt: String,
    hash: Option<String>,
    iterations: Option<u32>,
    time: Option<u32>,
    memory: Option<u32>,
    cpus: Option<u32>,
}

#[derive(Deserialize)]
struct JsonSegment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    iv_tweak: String,
    encryption: String,
    sector_size: u32,
    integrity: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct JsonDigest {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    salt: String,
    digest: String,
    hash: String,
    iterations: u32,
}

#[derive(Deserialize)]
struct JsonConfig {
    requirements: Option<serde_json::Value>,
}

/// The number of key slots that open the data by this metadata, which is JSON.
///
/// # Errors
/// [`LuksError`] for metadata of which [`super::open`] would take none.
pub fn metadata(json: &[u8]) -> Result<usize, LuksError> {
    parse(json).map(|header| header.slots.len())
}

/// Understands the metadata.
pub(super) fn parse(json: &[u8]) -> Result<Header, LuksError> {
    let header: JsonHeader =
        serde_json::from_slice(json).map_err(|error| LuksError::Metadata(error.to_string()))?;
    if let Some(needs) = header.config.requirements {
        let takes = "none (a reencryption that was not finished has one)";
        return Err(LuksError::Unusual {
            what: "list of requirements",
            found: brief(&needs.to_string()),
            takes,
        });
    }
    let mut segments = header.segments.into_values();
    let (Some(segment), None) = (segments.next(), segments.next()) else {
        return Err(LuksError::Metadata("it has no data segment, or several".to_owned()));
    };
    is("data segment's type", &segment.kind, "crypt")?;
    is("data's encryption", &segment.encryption, CIPHER)?;
    if segment.integrity.is_some() {
        let takes = "none: a model volume has a hash tree, which needs no tags";
        return Err(LuksError::Unusual { what: "data's integrity", found: "there".to_owned(), takes });
    }
    if !matches!(segment.sector_size, 512 | 1024 | 2048 | 4096) {
        let found = segment.sector_size.to_string();
        return Err(LuksError::Unusual { what: "sector size", found, takes: "512 to 4096 bytes" });
    }
    let (offset, sector) = (number(&segment.offset)?, u64::from(segment.sector_size));
    let size = if segment.size == "dynamic" { None } else { Some(number(&segment.size)?) };
    if offset % sector != 0 || offset % 512 != 0 || size.is_some_and(|size| size % sector != 0) {
        return Err(LuksError::Metadata("its data does not begin or end at a sector".to_owned()));
    }
    let mut digests = header.digests.into_values().filter(|digest| digest.segments == ["0"]);
    let (Some(digest), None) = (digests.next(), digests.next()) else {
        return Err(LuksError::Metadata("it has no digest of the volume key, or several".to_owned()));
    };
    is("digest's type", &digest.kind, "pbkdf2")?;
    let bytes = decode(&digest.digest)?;
    if bytes.is_empty() || bytes.len() > 64 {
        return Err(LuksError::Metadata("its digest has another length than any hash".to_owned()));
    }
    let kdf = pbkdf2(&digest.hash, digest.iterations, &digest.salt)?;
    if header.keyslots.len() > MAX_SLOTS {
        return Err(LuksError::Metadata(format!("it has {} key slots", header.keyslots.len())));
    }
    let used = header.keyslots.into_iter().filter(|(name, _)| digest.keyslots.contains(name));
    let slots = used.map(|(_, slot)| slot_of(&slot)).collect::<Result<Vec<_>, _>>()?;
    Ok(Header {
        slots,
        digest: Digest { kdf, bytes },
        offset,
        size,
        sector: segment.sector_size,
        tweak: number(&segment.iv_tweak)?,
    })
}

fn slot_of(slot: &JsonSlot) -> Result<Slot, LuksError> {
    is("key slot's type", &slot.kind, "luks2")?;
    is("key slot's area", &slot.area.kind, "raw")?;
    is("key slot's encryption", slot.area.encryption.as_deref().unwrap_or_default(), CIPHER)?;
    let wide = KEY_BYTES as u64;
    if slot.key_size != wide || slot.area.key_size != Some(wide) {
        let found = slot.key_size.to_string();
        return Err(LuksError::Unusual { what: "key's size in bytes", found, takes: "64" });
    }
    let missing = || LuksError::Metadata("a key slot lacks `af` or `kdf`".to_owned());
    let (af, kdf) = (slot.af.as_ref().ok_or_else(missing)?, slot.kdf.as_ref().ok_or_else(missing)?);
    is("key slot's splitter", &af.kind, "luks1")?;
    if af.stripes != STRIPES as u64 {
        return Err(LuksError::Unusual {
            what: "number of stripes",
            found: af.stripes.to_string(),
            takes: "4000",
        });
    }
    let kdf = match (kdf.kind.as_str(), &kdf.hash, kdf.iterations, kdf.time, kdf.memory, kdf.cpus) {
        ("pbkdf2", Some(hash), Some(iterations), ..) => pbkdf2(hash, iterations, &kdf.salt)?,
        ("argon2i" | "argon2id", _, _, Some(passes), Some(kib), Some(lanes)) => {
            let fits = (1..=MAX_PASSES).contains(&passes)
                && (1..=MAX_LANES).contains(&lanes)
                && (8 * lanes..=MAX_MEMORY).contains(&kib);
            if !fits {
                let found = format!("{passes} passes, {kib} KiB, {lanes} lanes");
                let takes = "at most 64 passes, 1 GiB and 4 lanes";
                return Err(LuksError::Unusual { what: "Argon2", found, takes });
            }
            Kdf::Argon2 { id: kdf.kind == "argon2id", passes, kib, lanes, salt: salt(&kdf.salt)? }
        }
        (kind, ..) => {
            let found = brief(kind);
            return Err(LuksError::Unusual {
                what: "key derivation",
                found,
                takes: "pbkdf2, argon2i or argon2id",
            });
        }
    };
    Ok(Slot { kdf, af: hash(&af.hash)?, offset: number(&slot.area.offset)? })
}

fn pbkdf2(name: &str, iterations: u32, of: &str) -> Result<Kdf, LuksError> {
    if !(1..=MAX_ITERATIONS).contains(&iterations) {
        let takes = "1 to 50,000,000";
        return Err(LuksError::Unusual {
            what: "number of iterations",
            found: iterations.to_string(),
            takes,
        });
    }
    Ok(Kdf::Pbkdf2 { hash: hash(name)?, iterations, salt: salt(of)? })
}

fn hash(name: &str) -> Result<Hash, LuksError> {
    match name {
        "sha256" => Ok(Hash::Sha256),
        "sha512" => Ok(Hash::Sha512),
        _ => Err(LuksError::Unusual { what: "hash", found: brief(name), takes: "sha256 or sha512" }),
    }
}

fn salt(text: &str) -> Result<Vec<u8>, LuksError> {
    let salt = decode(text)?;
    if (8..=MAX_SALT).contains(&salt.len()) {
        Ok(salt)
    } else {
        Err(LuksError::Metadata(format!("a salt has {} bytes", salt.len())))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, LuksError> {
    STANDARD.decode(text).map_err(|_| LuksError::Metadata("a value is not in base64".to_owned()))
}

/// Large numbers are texts in LUKS2.
fn number(text: &str) -> Result<u64, LuksError> {
    text.parse().map_err(|_| LuksError::Metadata(format!("{:?} is no number", brief(text))))
}

fn is(what: &'static str, found: &str, takes: &'static str) -> Result<(), LuksError> {
    if found == takes { Ok(()) } else { Err(LuksError::Unusual { what, found: brief(found), takes }) }
}

/// So much of a foreign text as a message may have.
fn brief(text: &str) -> String {
    text.chars().take(60).collect()
}
