//! An image with the hash tree by which the guest knows it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use verity::{RootHash, Sidecar, read_root};

use super::Error;

/// Where the superblock is: `EROFS_SUPER_OFFSET`.
const SUPERBLOCK: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`, little-endian.
const MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

/// A layer of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// An EROFS image with a dm-verity tree behind it.
    pub image: PathBuf,
    /// The root hash of its tree; the guest checks every block against it.
    pub root: RootHash,
}

impl Layer {
    /// What an image says of itself. Nothing is proved by that: the guest compares.
    pub(super) fn of(image: &Path) -> Result<Self, Error> {
        let file = open(image)?;
        match read_root(&file) {
            Ok((root, _)) => Ok(Self { image: image.to_owned(), root }),
            Err(source) => Err(Error::NoTree { image: image.to_owned(), source }),
        }
    }

    /// A layer as whoever made it describes it: the file has to say the same.
    pub(super) fn described(image: &Path, root: RootHash) -> Result<Self, Error> {
        let layer = Self::of(image)?;
        if layer.root == root {
            return Ok(layer);
        }
        Err(Error::OtherRoot { image: layer.image, found: layer.root, described: root })
    }

    /// A layer of containerd 2.3 or later, which has made its tree; `None` for one without.
    pub(super) fn with_sidecar(image: &Path) -> Result<Option<Self>, Error> {
        let sidecar = Sidecar::of(image).map_err(|source| Error::Sidecar(Box::new(source)))?;
        sidecar.map(|sidecar| Self::described(image, sidecar.root_hash)).transpose()
    }
}

/// Opens an absolute path to a regular file that starts like an EROFS image.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    let untrusted = |reason| Error::Untrusted { path: path.to_owned(), reason };
    if !path.is_absolute() {
        return Err(untrusted("is not absolute"));
    }
    let meta = std::fs::symlink_metadata(path).map_err(Error::file("look at", path))?;
    if !meta.is_file() {
        return Err(untrusted("is not a regular file"));
    }
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, SUPERBLOCK) {
        Ok(()) if magic == MAGIC => Ok(file),
        Ok(()) => Err(untrusted("is not an EROFS image")),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(untrusted("is too short for an EROFS image"))
        }
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

/// The smallest image with a tree: one block, and a superblock.
#[cfg(test)]
pub(super) fn make(path: &Path, content: u8) -> RootHash {
    let mut bytes = vec![content; 4096];
    bytes[1024..2048].fill(0);
    bytes[1024..1028].copy_from_slice(&MAGIC);
    // Its block size's logarithm, and the number of its blocks (fs/erofs/erofs_fs.h).
    (bytes[1024 + 12], bytes[1024 + 36]) = (12, 1);
    std::fs::write(path, bytes).unwrap();
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    verity::append(&mut file, [0; 16]).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_what_its_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("layer.erofs");
        let root = make(&image, 1);
        assert_eq!(Layer::of(&image).unwrap(), Layer { image: image.clone(), root });
        let other = make(&dir.path().join("other"), 2);
        let error = Layer::described(&image, other).unwrap_err().to_string();
        assert!(error.contains(&root.to_string()) && error.contains(&other.to_string()), "{error}");
        std::fs::File::options().write(true).open(&image).unwrap().set_len(4096).unwrap();
        assert!(matches!(Layer::of(&image), Err(Error::NoTree { .. })));
    }

    #[test]
    fn a_sidecar_is_believed_where_the_file_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("layer.erofs");
        let root = make(&image, 1);
        assert_eq!(Layer::with_sidecar(&image).unwrap(), None);
        let sidecar = |root: &str| {
            let text = format!("{{\"roothash\": \"{root}\", \"hashoffset\": 4096}}");
            std::fs::write(dir.path().join("layer.erofs.dmverity"), text).unwrap();
            Layer::with_sidecar(&image)
        };
        assert_eq!(sidecar(&root.to_string()).unwrap().unwrap().root, root);
        assert!(matches!(sidecar(&"0".repeat(64)), Err(Error::OtherRoot { .. })));
        assert!(matches!(sidecar("x"), Err(Error::Sidecar(_))));
    }
}
