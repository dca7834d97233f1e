//! The file that containerd 2.3 and later write beside a layer with a tree (`internal/dmverity`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::RootHash;

/// A sidecar has less than 150 bytes.
const MAX_BYTES: u64 = 4096;

/// What containerd says of a layer: `{"roothash": hex, "hashoffset": bytes}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sidecar {
    /// The root hash that containerd computed.
    #[serde(rename = "roothash")]
    pub root_hash: RootHash,
    /// Where the verity superblock is, in bytes.
    #[serde(rename = "hashoffset")]
    pub hash_offset: u64,
}

/// A sidecar that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The sidecar.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no dm-verity sidecar of containerd", path.display())]
    Content {
        /// The sidecar.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It is too large.
    #[error("{} has more than {MAX_BYTES} bytes, and a dm-verity sidecar of containerd has 150", path.display())]
    Large {
        /// The sidecar.
        path: PathBuf,
    },
}

impl Sidecar {
    /// Where the sidecar of a layer is: `layer.erofs.dmverity` beside `layer.erofs`.
    #[must_use]
    pub fn path(layer: &Path) -> PathBuf {
        let mut path = OsString::from(layer);
        path.push(".dmverity");
        path.into()
    }

    /// Reads the sidecar of a layer; `None` where there is none, as before containerd 2.3 and without
    /// `enable_dmverity`.
    ///
    /// # Errors
    /// [`SidecarError`].
    pub fn of(layer: &Path) -> Result<Option<Self>, SidecarError> {
        let path = Self::path(layer);
        let read = || {
            let mut content = Vec::new();
            File::open(&path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
            Ok(content)
        };
        let content = match read() {
            Ok(content) => content,
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SidecarError::Read { path, source }),
        };
        if content.len() as u64 > MAX_BYTES {
            return Err(SidecarError::Large { path });
        }
        match serde_json::from_slice(&content) {
            Ok(sidecar) => Ok(Some(sidecar)),
            Err(source) => Err(SidecarError::Content { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Option<Sidecar>, SidecarError> {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer.erofs");
        std::fs::write(dir.path().join("layer.erofs.dmverity"), content).unwrap();
        Sidecar::of(&layer)
    }

    #[test]
    fn what_containerd_writes_is_read() {
        let hash = "0f".repeat(32);
        let sidecar = read(&format!("{{\n  \"roothash\": \"{hash}\",\n  \"hashoffset\": 8192\n}}"));
        let expected = Sidecar { root_hash: hash.parse().unwrap(), hash_offset: 8192 };
        assert_eq!(sidecar.unwrap(), Some(expected));
        assert_eq!(Sidecar::of(Path::new("/there/is/none")).unwrap(), None);
    }

    #[test]
    fn something_else_is_an_error_with_its_path() {
        let hash = "0f".repeat(32);
        for bad in [
            String::new(),
            "{}".into(),
            format!("{{\"roothash\": \"{}\", \"hashoffset\": 1}}", &hash[2..]),
            format!("{{\"roothash\": \"{hash}\", \"hashoffset\": -1}}"),
            format!("{{\"roothash\": \"{hash}\", \"hashoffset\": 1}} and more"),
        ] {
            let error = read(&bad).unwrap_err();
            assert!(matches!(error, SidecarError::Content { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("layer.erofs.dmverity"), "{error}");
        }
        assert!(matches!(read(&" ".repeat(5000)), Err(SidecarError::Large { .. })));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a.dmverity")).unwrap();
        assert!(matches!(Sidecar::of(&dir.path().join("a")), Err(SidecarError::Read { .. })));
    }
}
