//! The host's files, below a directory that is `/` except in tests.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Most that is read of one file, in bytes. What is looked for is at the beginning of all of them.
const MAX_FILE: u64 = 256 << 10;

/// Where the host's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A file that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be read: {source}")]
pub struct Unreadable {
    /// The file, as the host calls it.
    pub path: String,
    /// Why.
    pub source: io::Error,
}

impl Root {
    /// This host.
    #[must_use]
    pub fn host() -> Self {
        Self::new(Path::new("/"))
    }

    /// A host whose files are below `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where the file is that the host calls `path`.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether there is such a file, of whatever kind.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The rights of a file, the last nine bits of its mode; `None` if there is none.
    #[must_use]
    pub fn mode(&self, path: &str) -> Option<u32> {
        Some(std::fs::metadata(self.path(path)).ok()?.permissions().mode() & 0o777)
    }

    /// A file's text, up to [`MAX_FILE`]; `None` if there is none.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn text(&self, path: &str) -> Result<Option<String>, Unreadable> {
        Ok(self.bytes(path, MAX_FILE)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A file's first `max` bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn bytes(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut content = Vec::new();
        let read = File::open(self.path(path)).and_then(|file| file.take(max).read_to_end(&mut content));
        match read {
            Ok(_) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Unreadable { path: path.to_owned(), source }),
        }
    }

    /// The names in a directory, sorted; none if there is no such directory.
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_path_stays_below_the_root() {
        assert_eq!(Root::new(Path::new("/r")).path("/dev/kvm"), Path::new("/r/dev/kvm"));
        assert_eq!(Root::host().path("/dev/kvm"), Path::new("/dev/kvm"));
    }

    #[test]
    fn what_is_absent_is_none_and_what_is_no_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(root.text("/absent").unwrap().is_none());
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let error = root.text("/etc").unwrap_err().to_string();
        assert!(error.starts_with("/etc cannot be read: "), "{error}");
        assert!(root.names("/absent").is_empty());
        assert_eq!(root.names("/"), ["etc"]);
    }
}
