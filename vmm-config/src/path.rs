//! Paths on the host, as the configuration and QEMU's command line take them: UTF-8, without NUL.

use std::fmt;
use std::path::Path;

/// An absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AbsolutePath(String);

/// A path of the wrong form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not {wanted}")]
pub struct BadPath {
    /// The path.
    pub path: String,
    /// What it should be.
    pub wanted: &'static str,
}

impl AbsolutePath {
    /// For defaults, which the tests check.
    pub(crate) fn known(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Checks that the path is absolute.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn new(path: &str) -> Result<Self, BadPath> {
        if path.starts_with('/') && !path.contains('\0') {
            Ok(Self(path.to_owned()))
        } else {
            Err(BadPath { path: path.to_owned(), wanted: "an absolute path" })
        }
    }

    /// Checks that the path is absolute and that QEMU's JSON can carry it.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn from_path(path: &Path) -> Result<Self, BadPath> {
        let bad = || BadPath { path: path.display().to_string(), wanted: "valid UTF-8" };
        Self::new(path.to_str().ok_or_else(bad)?)
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file of that name in this directory.
    pub(crate) fn file(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0.trim_end_matches('/')))
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A program: an absolute path, or a bare name to look up in PATH.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program(String);

impl Program {
    /// For defaults, which the tests check.
    pub(crate) fn known(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Checks the form.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn new(name: &str) -> Result<Self, BadPath> {
        let bare = !name.is_empty() && !name.contains('/');
        if (bare || name.starts_with('/')) && !name.contains('\0') {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadPath { path: name.to_owned(), wanted: "an absolute path or a program's bare name" })
        }
    }

    /// Path or name; a name has no slash, which is what `execvp` looks up in PATH.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Path of a unix socket, relative to QEMU's working directory or absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath(String);

impl SocketPath {
    /// `sun_path` less its terminating NUL.
    const MAX_LEN: usize = 107;

    /// Checks that the path fits into a socket address.
    pub fn new(path: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_LEN).contains(&path.len()) && !path.contains('\0');
        fits.then(|| Self(path.to_owned()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn absolute_paths() {
        assert_eq!(AbsolutePath::new("/a/").unwrap().file("b").as_str(), "/a/b");
        assert_eq!(AbsolutePath::new("/").unwrap().file("b").as_str(), "/b");
        for bad in ["", "a", "./a", "/a\0"] {
            assert!(AbsolutePath::new(bad).is_err(), "{bad:?}");
        }
        let error = AbsolutePath::from_path(Path::new(OsStr::from_bytes(b"/\xff"))).unwrap_err();
        assert!(error.to_string().ends_with("is not valid UTF-8"));
    }

    #[test]
    fn programs_are_absolute_or_bare() {
        for good in ["qemu", "/usr/bin/qemu"] {
            assert_eq!(Program::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "./qemu", "bin/qemu", "q\0"] {
            assert!(Program::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn socket_paths_fit_into_their_address() {
        assert!(SocketPath::new(&"s".repeat(107)).is_some());
        for bad in ["", "a\0", "s".repeat(108).as_str()] {
            assert_eq!(SocketPath::new(bad), None);
        }
    }
}
