//! The document as a disk of the VM.
//!
//! `initdata`, the length of what follows as a 64-bit little-endian number, the document in gzip, zeros up to
//! whole sectors (Kata Containers, `src/runtime-rs/crates/resource/src/coco_data/initdata_block.rs`). The disk
//! comes from the host, so its reader trusts none of it.

use super::gzip::{self, GzipError};
use super::{DocumentError, InitData, MAX_COMPRESSED};
use crate::bytes::u64_at;

const MAGIC: &[u8; 8] = b"initdata";
const HEADER: usize = MAGIC.len() + 8;

/// A disk is whole sectors of this many bytes.
pub const SECTOR: usize = 512;

/// Largest disk in bytes, and all that a reader needs to read of one.
pub const MAX_DISK: usize = (HEADER + MAX_COMPRESSED).next_multiple_of(SECTOR);

/// What is wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It is some other disk.
    #[error("the disk does not begin with \"initdata\" and a length")]
    Magic,
    /// The length leaves the disk, or the limit.
    #[error(
        "the disk says that the document has {length} bytes; it has room for {room}, and at most {MAX_COMPRESSED} are read"
    )]
    Length {
        /// What it says, in bytes.
        length: u64,
        /// What is there, in bytes.
        room: usize,
    },
    /// The document does not decompress.
    #[error("the disk does not hold a compressed document")]
    Gzip(#[from] GzipError),
    /// It decompresses to something else.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Writes a document as a disk.
///
/// # Errors
/// [`GzipError`] for a document that is too large once compressed.
pub fn encode(document: &InitData) -> Result<Vec<u8>, GzipError> {
    Ok(frame(&gzip::compress(document.raw())?))
}

fn frame(compressed: &[u8]) -> Vec<u8> {
    let length = compressed.len() as u64;
    let mut disk = [&MAGIC[..], &length.to_le_bytes(), compressed].concat();
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
    disk
}

/// Reads a disk, or as much of it as [`MAX_DISK`] says.
///
/// # Errors
/// [`DiskError`] for what is no disk with a document.
pub fn decode(disk: &[u8]) -> Result<InitData, DiskError> {
    Ok(InitData::parse(plain(disk)?)?)
}

fn plain(disk: &[u8]) -> Result<Vec<u8>, DiskError> {
    let length = u64_at(disk, MAGIC.len()).filter(|_| disk.starts_with(MAGIC)).ok_or(DiskError::Magic)?;
    let body = &disk[HEADER..];
    let compressed = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_COMPRESSED)
        .and_then(|length| body.get(..length))
        .ok_or(DiskError::Length { length, room: body.len() })?;
    Ok(gzip::decompress(compressed)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, build};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_survives() {
        let data = [("cdh.toml".to_owned(), "socket = 'unix:///x'\n".to_owned())].into();
        let document = build(Algorithm::Sha384, data).unwrap();
        let disk = encode(&document).unwrap();
        assert_eq!(disk.len() % SECTOR, 0);
        assert_eq!(disk[..8], *MAGIC);
        assert_eq!(decode(&disk).unwrap(), document);
        // A block device may be larger than what was written to it.
        assert_eq!(decode(&[&disk[..], &[0; 4096]].concat()).unwrap(), document);
    }

    #[test]
    fn other_disks_are_refused() {
        let disk = frame(&gzip::compress(b"some content").unwrap());
        assert_eq!(disk.len(), SECTOR);
        assert_eq!(plain(&disk).unwrap(), b"some content");
        assert!(matches!(decode(&disk), Err(DiskError::Document(_))));
        for short in [&b""[..], b"initdata", &disk[..15]] {
            assert!(matches!(decode(short), Err(DiskError::Magic)));
        }
        let with_length = |length: u64| {
            let mut disk = disk.clone();
            disk[8..16].copy_from_slice(&length.to_le_bytes());
            plain(&disk).unwrap_err()
        };
        for length in [497, MAX_COMPRESSED as u64 + 1, u64::MAX] {
            assert!(matches!(with_length(length), DiskError::Length { length: l, room: 496 } if l == length));
        }
        assert!(matches!(with_length(0), DiskError::Gzip(_)));
        assert!(matches!(with_length(100), DiskError::Gzip(GzipError::Trailing(_))));
    }

    #[test]
    fn the_largest_disk_is_as_large_as_said() {
        assert_eq!(frame(&vec![0; MAX_COMPRESSED]).len(), MAX_DISK);
    }

    proptest! {
        #[test]
        fn arbitrary_disks_never_panic(bytes: Vec<u8>, length: u16) {
            let _ = decode(&bytes);
            let _ = decode(&[&MAGIC[..], &u64::from(length).to_le_bytes(), &bytes].concat());
        }
    }
}
