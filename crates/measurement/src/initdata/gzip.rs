//! Compression with a limit on what comes out.

use std::io::{self, Read, Write};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};

use super::{MAX_COMPRESSED, MAX_PLAIN};

/// What is wrong with compressed data.
#[derive(Debug, thiserror::Error)]
pub enum GzipError {
    /// Too much, compressed.
    #[error("the compressed document has {0} bytes; at most {MAX_COMPRESSED} are read")]
    Compressed(usize),
    /// Too much, once decompressed.
    #[error("the document has more than {MAX_PLAIN} bytes once decompressed")]
    Plain,
    /// No gzip, or damaged.
    #[error("the document cannot be decompressed")]
    Damaged(#[source] io::Error),
    /// Something follows the compressed data.
    #[error("{0} bytes follow the compressed document")]
    Trailing(usize),
}

/// Compresses without a time stamp, so that the same document gives the same bytes.
pub(super) fn compress(plain: &[u8]) -> Result<Vec<u8>, GzipError> {
    if plain.len() > MAX_PLAIN {
        return Err(GzipError::Plain);
    }
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(plain).map_err(GzipError::Damaged)?;
    let compressed = encoder.finish().map_err(GzipError::Damaged)?;
    match compressed.len() {
        0..=MAX_COMPRESSED => Ok(compressed),
        length => Err(GzipError::Compressed(length)),
    }
}

/// Decompresses data of one member, with nothing behind it.
pub(super) fn decompress(compressed: &[u8]) -> Result<Vec<u8>, GzipError> {
    if compressed.len() > MAX_COMPRESSED {
        return Err(GzipError::Compressed(compressed.len()));
    }
    let mut decoder = GzDecoder::new(compressed);
    let mut plain = Vec::new();
    // One byte more than is allowed, to see that there is too much. The checksum is read with the end.
    decoder.by_ref().take(MAX_PLAIN as u64 + 1).read_to_end(&mut plain).map_err(GzipError::Damaged)?;
    if plain.len() > MAX_PLAIN {
        return Err(GzipError::Plain);
    }
    match decoder.into_inner() {
        [] => Ok(plain),
        rest => Err(GzipError::Trailing(rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bomb_is_stopped() {
        let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; MAX_PLAIN + 1]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 10_000);
        assert!(matches!(decompress(&bomb), Err(GzipError::Plain)));
        assert!(matches!(decompress(&vec![0; MAX_COMPRESSED + 1]), Err(GzipError::Compressed(_))));
        assert!(matches!(compress(&vec![0; MAX_PLAIN + 1]), Err(GzipError::Plain)));
        let largest = vec![0; MAX_PLAIN];
        assert_eq!(decompress(&compress(&largest).unwrap()).unwrap(), largest);
    }

    #[test]
    fn damage_is_seen() {
        let good = compress(b"some content").unwrap();
        assert!(matches!(decompress(b""), Err(GzipError::Damaged(_))));
        assert!(matches!(decompress(&good[..good.len() - 1]), Err(GzipError::Damaged(_))));
        let mut checksum = good.clone();
        let at = good.len() - 8;
        checksum[at] ^= 1;
        assert!(matches!(decompress(&checksum), Err(GzipError::Damaged(_))));
        for behind in [&b"x"[..], &good] {
            let trailing = [&good[..], behind].concat();
            assert!(matches!(decompress(&trailing), Err(GzipError::Trailing(n)) if n == behind.len()));
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(plain: Vec<u8>) {
            prop_assert_eq!(decompress(&compress(&plain).unwrap()).unwrap(), plain);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decompress(&bytes);
            let _ = decompress(&[&[0x1f, 0x8b, 8][..], &bytes].concat());
        }
    }
}
