//! What has to be known of an EROFS image: where it ends.
//!
//! Superblock: `struct erofs_super_block`, fs/erofs/erofs_fs.h of the Linux kernel.

use crate::{BLOCK_BYTES, FormatError};

/// How much of an image's start [`erofs_bytes`] needs.
pub const HEAD: usize = 2048;
/// `EROFS_SUPER_OFFSET`.
const SUPERBLOCK: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xe0f5_e1e2;
/// log2 of the block size.
const BLOCK_BITS: u8 = 12;
/// `EROFS_FEATURE_INCOMPAT_48BIT`.
const WIDE: u32 = 0x80;

// Offsets in the superblock.
const BLKSZBITS: usize = 12;
const BLOCKS_LO: usize = 36;
const FEATURE_INCOMPAT: usize = 80;

/// The size of an EROFS image in bytes, from its first 2048 bytes: where its verity superblock has to be.
///
/// # Errors
/// [`FormatError`], also where fewer bytes are given.
pub fn erofs_bytes(head: &[u8]) -> Result<u64, FormatError> {
    let superblock = head.get(SUPERBLOCK..HEAD).ok_or(FormatError::NotErofs)?;
    let word = |at: usize| {
        superblock[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(FormatError::NotErofs)
    };
    if word(0)? != MAGIC {
        return Err(FormatError::NotErofs);
    }
    match superblock[BLKSZBITS] {
        BLOCK_BITS => {}
        bits => return Err(FormatError::ErofsBlockSize(bits)),
    }
    if word(FEATURE_INCOMPAT)? & WIDE != 0 {
        return Err(FormatError::ErofsWide);
    }
    match word(BLOCKS_LO)? {
        0 => Err(FormatError::NoData),
        blocks => Ok(u64::from(blocks) * BLOCK_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(patch: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
        head[1024 + BLKSZBITS] = BLOCK_BITS;
        head[1024 + BLOCKS_LO] = 3;
        patch(&mut head[1024..]);
        head
    }

    #[test]
    fn the_superblock_says_where_the_image_ends() {
        assert_eq!(erofs_bytes(&head(|_| {})), Ok(3 * 4096));
        let largest = head(|s| s[BLOCKS_LO..BLOCKS_LO + 4].fill(0xff));
        assert_eq!(erofs_bytes(&largest), Ok(u64::from(u32::MAX) * 4096));
    }

    #[test]
    fn what_is_no_image_of_ours_is_refused_by_name() {
        let cases = [
            (head(|s| s[0] = 0), FormatError::NotErofs),
            (head(|s| s[BLKSZBITS] = 9), FormatError::ErofsBlockSize(9)),
            (head(|s| s[BLKSZBITS] = 255), FormatError::ErofsBlockSize(255)),
            (head(|s| s[FEATURE_INCOMPAT] = 0x80), FormatError::ErofsWide),
            (head(|s| s[BLOCKS_LO] = 0), FormatError::NoData),
            (head(|_| {})[..2047].to_vec(), FormatError::NotErofs),
            (Vec::new(), FormatError::NotErofs),
        ];
        for (head, error) in cases {
            assert_eq!(erofs_bytes(&head), Err(error));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(mut bytes: Vec<u8>, at in 0_usize..4096) {
            let _ = erofs_bytes(&bytes);
            bytes.resize(at, 0);
            let _ = erofs_bytes(&bytes);
        }
    }
}
