//! Where superblock and hash tree are, which follows from the number of data blocks alone.

use crate::{BLOCK, BLOCK_BYTES, DIGEST, FormatError};

/// As many as an EROFS image can have blocks; with 4096 bytes each, 16 TiB.
pub(crate) const MAX_DATA_BLOCKS: u64 = u32::MAX as u64;
/// Hashes in a block.
const PER_BLOCK: u64 = (BLOCK / DIGEST) as u64;

/// A level of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Where it begins, in bytes from the image's start.
    pub offset: u64,
    /// How many hash blocks it has.
    pub blocks: u64,
}

/// The places of everything behind the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    data_blocks: u64,
    levels: Vec<Level>,
}

impl Layout {
    /// The layout of an image with so many data blocks.
    ///
    /// # Errors
    /// [`FormatError::NoData`], [`FormatError::TooManyBlocks`].
    pub fn of(data_blocks: u64) -> Result<Self, FormatError> {
        match data_blocks {
            0 => return Err(FormatError::NoData),
            1..=MAX_DATA_BLOCKS => {}
            _ => return Err(FormatError::TooManyBlocks(data_blocks)),
        }
        let mut counts = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(PER_BLOCK);
            counts.push(below);
        }
        let mut offset = (data_blocks + 1) * BLOCK_BYTES;
        let place = |blocks: u64| {
            let level = Level { offset, blocks };
            offset += blocks * BLOCK_BYTES;
            level
        };
        Ok(Self { data_blocks, levels: counts.into_iter().rev().map(place).collect() })
    }

    /// How many blocks the tree covers.
    #[must_use]
    pub const fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// How many bytes the tree covers.
    #[must_use]
    pub(crate) const fn data_bytes(&self) -> u64 {
        self.data_blocks * BLOCK_BYTES
    }

    /// Where the verity superblock begins, in bytes: the hash offset of containerd and veritysetup.
    #[must_use]
    pub const fn superblock(&self) -> u64 {
        self.data_bytes()
    }

    /// The block in which the tree begins: `<hash_start_block>` of the device-mapper target.
    #[must_use]
    pub const fn hash_start_block(&self) -> u64 {
        self.data_blocks + 1
    }

    /// The levels, the top one first; none where there is one data block.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Where the block is whose hash is the root hash, in bytes.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.levels.first().map_or(0, |level| level.offset)
    }

    /// Where the last level ends, in bytes: the image's size with all that belongs to it.
    #[must_use]
    pub fn end(&self) -> u64 {
        let tree = self.levels.iter().map(|level| level.blocks).sum::<u64>();
        (self.data_blocks + 1 + tree) * BLOCK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_level_has_a_hash_for_each_block_below() {
        let blocks = |n| Layout::of(n).unwrap().levels().iter().map(|l| l.blocks).collect::<Vec<_>>();
        assert_eq!(blocks(1), [0_u64; 0]);
        assert_eq!(blocks(2), [1]);
        assert_eq!(blocks(128), [1]);
        assert_eq!(blocks(129), [1, 2]);
        assert_eq!(blocks(128 * 128), [1, 128]);
        assert_eq!(blocks(128 * 128 + 1), [1, 2, 129]);
        assert_eq!(blocks(MAX_DATA_BLOCKS), [1, 16, 2048, 1 << 18, 1 << 25]);
    }

    #[test]
    fn nothing_and_too_much_have_no_layout() {
        assert_eq!(Layout::of(0), Err(FormatError::NoData));
        for n in [MAX_DATA_BLOCKS + 1, u64::MAX] {
            assert_eq!(Layout::of(n), Err(FormatError::TooManyBlocks(n)));
        }
    }

    proptest! {
        #[test]
        fn levels_follow_each_other_behind_the_superblock(n in 1..=MAX_DATA_BLOCKS) {
            let layout = Layout::of(n).unwrap();
            let mut at = layout.superblock() + 4096;
            prop_assert_eq!(at, layout.hash_start_block() * 4096);
            for level in layout.levels() {
                prop_assert_eq!(level.offset, at);
                at += level.blocks * 4096;
            }
            prop_assert_eq!(layout.end(), at);
            prop_assert!(layout.levels().first().is_none_or(|top| top.blocks == 1));
        }
    }
}
