//! Writes superblock and hash tree behind an EROFS image.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::{mem, thread};

use crate::root::hash;
use crate::{BLOCK, BLOCK_BYTES, DIGEST, HEAD, Layout, RootHash, Superblock, erofs_bytes, root_of};

/// How much is read at a time: enough that starting the threads for it costs nothing.
const BATCH: usize = 4 << 20;
/// More than any node gives to one layer.
const MAX_THREADS: usize = 8;

/// Writes a verity superblock and a hash tree behind an EROFS image, and returns the tree's root hash. What follows
/// the image is overwritten, so that it can be repeated. Hashes with as many threads as the machine has processors, up
/// to eight.
///
/// # Errors
/// Reading and writing; [`io::ErrorKind::InvalidData`] with a [`crate::FormatError`] for what is no EROFS image, and
/// [`io::ErrorKind::UnexpectedEof`] where it is shorter than its superblock says.
pub fn append(image: &mut (impl Read + Write + Seek), uuid: [u8; 16]) -> io::Result<RootHash> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut head = [0; HEAD];
    image.seek(SeekFrom::Start(0))?;
    image.read_exact(&mut head)?;
    let data_blocks = erofs_bytes(&head).map_err(invalid)? / BLOCK_BYTES;
    let layout = Layout::of(data_blocks).map_err(invalid)?;
    image.seek(SeekFrom::Start(0))?;
    let mut hashes = hashes_of(image, data_blocks)?;
    let mut root = hashes.first_chunk().map(|only: &[u8; DIGEST]| RootHash::from_bytes(*only));
    for level in layout.levels().iter().rev() {
        pad(&mut hashes);
        image.seek(SeekFrom::Start(level.offset))?;
        image.write_all(&hashes)?;
        root = hashes.first_chunk().map(root_of);
        hashes = hashes.chunks_exact(BLOCK).flat_map(hash).collect();
    }
    image.seek(SeekFrom::Start(layout.superblock()))?;
    image.write_all(&Superblock { data_blocks, uuid }.to_bytes())?;
    // There is a data block, so there is a hash.
    root.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Zeros up to a whole block.
fn pad(hashes: &mut Vec<u8>) {
    hashes.resize(hashes.len().next_multiple_of(BLOCK), 0);
}

/// The hashes of the next blocks, one behind the other: 8 MiB for a layer of 1 GiB.
fn hashes_of(image: &mut impl Read, blocks: u64) -> io::Result<Vec<u8>> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS);
    let zeros = hash(&[0; BLOCK]);
    let mut hashes = Vec::new();
    let (mut now, mut next) = (Vec::new(), Vec::new());
    let mut left = blocks;
    read_batch(image, &mut left, &mut now)?;
    while !now.is_empty() {
        let start = hashes.len();
        hashes.resize(start + now.len() / BLOCK * DIGEST, 0);
        let share = (now.len() / BLOCK).div_ceil(threads);
        let work = now.chunks(share * BLOCK).zip(hashes[start..].chunks_mut(share * DIGEST));
        thread::scope(|scope| {
            for (data, hashes) in work {
                scope.spawn(move || fill(data, hashes, &zeros));
            }
            read_batch(image, &mut left, &mut next)
        })?;
        mem::swap(&mut now, &mut next);
    }
    Ok(hashes)
}

/// The next blocks, none where there are no more.
fn read_batch(image: &mut impl Read, left: &mut u64, batch: &mut Vec<u8>) -> io::Result<()> {
    let size = usize::try_from(*left).map_or(BATCH, |left| left.saturating_mul(BLOCK).min(BATCH));
    batch.resize(size, 0);
    *left -= (size / BLOCK) as u64;
    image.read_exact(batch)
}

fn fill(data: &[u8], hashes: &mut [u8], zeros: &[u8; DIGEST]) {
    for (block, hashed) in data.chunks_exact(BLOCK).zip(hashes.chunks_exact_mut(DIGEST)) {
        // Sparse files have many of these, and looking costs a hundredth of hashing.
        let empty = block.iter().all(|&byte| byte == 0);
        hashed.copy_from_slice(&if empty { *zeros } else { hash(block) });
    }
}
