//! The verity superblock.

use crate::layout::MAX_DATA_BLOCKS;
use crate::{BLOCK, FormatError, SALT};

/// Its size in bytes; the rest of its block is zero.
pub(crate) const SUPERBLOCK_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"verity\0\0";
const ALGORITHM: [u8; 32] = {
    let mut name = [0; 32];
    name[0] = b's';
    name[1] = b'h';
    name[2] = b'a';
    name[3] = b'2';
    name[4] = b'5';
    name[5] = b'6';
    name
};
const BLOCK_U32: u32 = 4096;
const SALT_LENGTH: u16 = 32;

/// What differs between the superblocks of two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// How many blocks the tree covers.
    pub data_blocks: u64,
    /// Any, but not all zeros, which containerd refuses. Nothing depends on it.
    pub uuid: [u8; 16],
}

impl Superblock {
    /// Reads a superblock, which has to be of our format in everything.
    ///
    /// # Errors
    /// [`FormatError`], also where fewer than 512 bytes are given.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes: &[u8; SUPERBLOCK_BYTES] = bytes.first_chunk().ok_or(FormatError::NoSuperblock)?;
        let mut fields = Fields(bytes);
        if fields.take()? != MAGIC {
            return Err(FormatError::NoSuperblock);
        }
        expect(u32::from_le_bytes(fields.take()?), 1, FormatError::Version)?;
        expect(u32::from_le_bytes(fields.take()?), 1, FormatError::HashType)?;
        let uuid = fields.take()?;
        let algorithm: [u8; 32] = fields.take()?;
        if algorithm != ALGORITHM {
            let name = algorithm.split(|&byte| byte == 0).next().unwrap_or_default();
            return Err(FormatError::Algorithm(String::from_utf8_lossy(name).into_owned()));
        }
        expect(u32::from_le_bytes(fields.take()?), BLOCK_U32, FormatError::DataBlockSize)?;
        expect(u32::from_le_bytes(fields.take()?), BLOCK_U32, FormatError::HashBlockSize)?;
        let data_blocks = match u64::from_le_bytes(fields.take()?) {
            0 => return Err(FormatError::NoData),
            blocks @ 1..=MAX_DATA_BLOCKS => blocks,
            blocks => return Err(FormatError::TooManyBlocks(blocks)),
        };
        expect(u16::from_le_bytes(fields.take()?), SALT_LENGTH, FormatError::SaltLength)?;
        zeros(&fields.take::<6>()?, FormatError::Padding)?;
        zeros(&fields.take::<32>()?, FormatError::Salt)?;
        zeros(fields.0, FormatError::Padding)?;
        Ok(Self { data_blocks, uuid })
    }

    /// The superblock and the zeros behind it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BLOCK] {
        let fields: [&[u8]; 11] = [
            &MAGIC,
            &1_u32.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &self.uuid,
            &ALGORITHM,
            &BLOCK_U32.to_le_bytes(),
            &BLOCK_U32.to_le_bytes(),
            &self.data_blocks.to_le_bytes(),
            &SALT_LENGTH.to_le_bytes(),
            &[0; 6],
            &SALT,
        ];
        let mut block = [0; BLOCK];
        for (to, from) in block.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        block
    }
}

/// What has not been read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(FormatError::NoSuperblock)?;
        self.0 = rest;
        Ok(*field)
    }
}

fn expect<T: PartialEq>(found: T, wanted: T, error: fn(T) -> FormatError) -> Result<(), FormatError> {
    if found == wanted { Ok(()) } else { Err(error(found)) }
}

fn zeros(bytes: &[u8], error: FormatError) -> Result<(), FormatError> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Superblock = Superblock { data_blocks: 3, uuid: [7; 16] };

    #[test]
    fn another_superblock_is_refused_by_name() {
        // Offset in the superblock, what is written there, what is said.
        let cases: [(usize, &[u8], FormatError); 15] = [
            (0, b"Verity", FormatError::NoSuperblock),
            (0, b"LUKS\xba\xbe", FormatError::NoSuperblock),
            (8, &[2], FormatError::Version(2)),
            (8, &[0, 1], FormatError::Version(256)),
            (12, &[0], FormatError::HashType(0)),
            (32, b"sha1\0\0", FormatError::Algorithm("sha1".into())),
            (32, b"sha256\0x", FormatError::Algorithm("sha256".into())),
            (64, &[0, 2], FormatError::DataBlockSize(512)),
            (68, &[0, 0x20], FormatError::HashBlockSize(8192)),
            (72, &[0], FormatError::NoData),
            (72, &[0xff; 8], FormatError::TooManyBlocks(u64::MAX)),
            (80, &[0], FormatError::SaltLength(0)),
            (80, &[0, 1], FormatError::SaltLength(256)),
            (88 + 31, &[1], FormatError::Salt),
            (511, &[1], FormatError::Padding),
        ];
        for (at, bytes, error) in cases {
            let mut block = GOOD.to_bytes();
            block[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Superblock::parse(&block), Err(error), "{at}");
        }
        assert_eq!(Superblock::parse(&GOOD.to_bytes()[..511]), Err(FormatError::NoSuperblock));
        assert_eq!(Superblock::parse(&[]), Err(FormatError::NoSuperblock));
    }

    #[test]
    fn every_byte_but_the_count_and_the_uuid_counts() {
        for at in (0..SUPERBLOCK_BYTES).filter(|at| !(16..32).contains(at) && !(72..80).contains(at)) {
            let mut block = GOOD.to_bytes();
            block[at] ^= 0x40;
            assert!(Superblock::parse(&block).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(data_blocks in 1..=MAX_DATA_BLOCKS, uuid: [u8; 16]) {
            let superblock = Superblock { data_blocks, uuid };
            prop_assert_eq!(Superblock::parse(&superblock.to_bytes()), Ok(superblock));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            let _ = Superblock::parse(&bytes);
        }
    }
}
