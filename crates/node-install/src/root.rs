//! The node's files, below a directory that is `/` on the node itself.
//!
//! A path is what the host calls it. It is looked up as `chroot` would do it: no symbolic link leads out of the root.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Most that is read of one file, in bytes. What is read are configuration files and records.
const MAX_FILE: u64 = 4 << 20;
/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Where the node's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

/// Whether a path's last link is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// It is: what the path leads to.
    Followed,
    /// It is not: the path's own entry.
    Itself,
}

impl Root {
    /// The node whose files are below `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Where a file of the host is, its links resolved inside the root.
    pub(crate) fn resolve(&self, path: &str, last: Last) -> Result<PathBuf> {
        let looked_up = |source| Error::Lookup { path: path.to_owned(), source };
        let mut rest: Vec<OsString> = parts(Path::new(path));
        let mut done: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let mut at = self.0.clone();
            at.extend(&done);
            at.push(&part);
            let follows = last == Last::Followed || !rest.is_empty();
            match fs::symlink_metadata(&at) {
                Ok(entry) if entry.is_symlink() && follows => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(looked_up(io::Error::other("its symbolic links go round in circles")));
                    }
                    let target = fs::read_link(&at).map_err(looked_up)?;
                    if target.is_absolute() {
                        done.clear();
                    }
                    rest.extend(parts(&target));
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(looked_up(error)),
                _ => done.push(part),
            }
        }
        let mut found = self.0.clone();
        found.extend(&done);
        Ok(found)
    }

    /// A file's bytes; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any configuration is.
    pub fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let file = match File::open(self.resolve(path, Last::Followed)?) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(failed(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
        }
        Ok(Some(bytes))
    }

    /// A file's text; `None` where there is none.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes)', or it is not UTF-8.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(path)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| Error::Read {
            path: path.to_owned(),
            source: io::Error::other("it is not UTF-8"),
        })?;
        Ok(Some(text))
    }

    /// Whether there is such an entry, of whatever kind, links followed.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path, Last::Followed).is_ok_and(|path| path.exists())
    }

    /// Whether the path's own entry is there, be it a link into nowhere.
    pub(crate) fn has_entry(&self, path: &str) -> bool {
        self.resolve(path, Last::Itself).is_ok_and(|path| fs::symlink_metadata(path).is_ok())
    }

    /// Whether the path's own entry is a symbolic link.
    pub(crate) fn is_link(&self, path: &str) -> bool {
        let entry = self.resolve(path, Last::Itself).and_then(|path| {
            fs::symlink_metadata(path).map_err(|source| Error::Lookup { path: String::new(), source })
        });
        entry.is_ok_and(|entry| entry.is_symlink())
    }

    /// What a link says; `None` where there is none.
    #[must_use]
    pub fn target(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.resolve(path, Last::Itself).ok()?).ok()?;
        target.into_os_string().into_string().ok()
    }

    /// The names in a directory, sorted; none where there is no such directory.
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = self.resolve(path, Last::Followed).ok().and_then(|path| fs::read_dir(path).ok());
        let names =
            entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }
}

/// A path's parts, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_leads_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "outside").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        fs::write(dir.path().join("etc/real/file"), "inside").unwrap();
        symlink("/etc/real", dir.path().join("etc/absolute")).unwrap();
        symlink("../../../../etc/real", dir.path().join("etc/up")).unwrap();
        symlink(outside.path(), dir.path().join("etc/out")).unwrap();
        symlink("loop", dir.path().join("etc/loop")).unwrap();
        for path in ["/etc/absolute/file", "/etc/up/file", "/../etc/real/./file"] {
            assert_eq!(root.text(path).unwrap().as_deref(), Some("inside"), "{path}");
        }
        assert_eq!(root.text("/etc/out/secret").unwrap(), None);
        let error = root.text("/etc/loop").unwrap_err().to_string();
        assert!(error.contains("/etc/loop"), "{error}");
        assert!(root.is_link("/etc/up") && !root.is_link("/etc/real") && root.has_entry("/etc/out"));
        assert_eq!((root.exists("/etc/out"), root.names("/etc/up")), (false, vec!["file".to_owned()]));
    }

    #[test]
    fn what_cannot_be_read_is_no_absent_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::write(dir.path().join("file"), [0xff]).unwrap();
        assert!(root.text("/file").unwrap_err().to_string().contains("/file"));
        assert!(root.text("/file/below").is_err() && root.text("/none").unwrap().is_none());
        File::create(dir.path().join("large")).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(root.bytes("/large").is_err());
    }
}
