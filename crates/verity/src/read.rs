//! Reads what an image says of itself.

use std::io;
use std::os::unix::fs::FileExt;

use crate::superblock::SUPERBLOCK_BYTES;
use crate::{BLOCK, BLOCK_BYTES, FormatError, HEAD, Layout, RootHash, Superblock, erofs_bytes, root_of};

/// Why an image has no root hash.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Something in it is wrong.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It ends before its tree does.
    #[error("it is shorter than its superblocks say: {what} should be at byte {offset}")]
    Short {
        /// What is not there, or not all of it.
        what: &'static str,
        /// Where it should be.
        offset: u64,
    },
    /// It cannot be read.
    #[error("{what} at byte {offset} cannot be read")]
    Read {
        /// What should be there.
        what: &'static str,
        /// Where.
        offset: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The root hash that follows from an image's own tree, and where its parts are.
///
/// It proves nothing of the data: only who compares the hash with one that he knows, and has every block checked by
/// dm-verity, knows what is in the image.
///
/// # Errors
/// [`ReadError`].
pub fn read_root(image: &impl FileExt) -> Result<(RootHash, Layout), ReadError> {
    let mut head = [0; HEAD];
    read(image, &mut head, 0, "its EROFS superblock")?;
    let bytes = erofs_bytes(&head)?;
    let mut superblock = [0; SUPERBLOCK_BYTES];
    read(image, &mut superblock, bytes, "its verity superblock")?;
    let superblock = Superblock::parse(&superblock)?;
    let erofs = bytes / BLOCK_BYTES;
    if superblock.data_blocks != erofs {
        return Err(FormatError::Covers { verity: superblock.data_blocks, erofs }.into());
    }
    let layout = Layout::of(erofs)?;
    let mut block = [0; BLOCK];
    read(image, &mut block, layout.end() - BLOCK_BYTES, "the end of its hash tree")?;
    read(image, &mut block, layout.top(), "the top of its hash tree")?;
    Ok((root_of(&block), layout))
}

fn read(image: &impl FileExt, to: &mut [u8], offset: u64, what: &'static str) -> Result<(), ReadError> {
    image.read_exact_at(to, offset).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Short { what, offset },
        _ => ReadError::Read { what, offset, source },
    })
}
