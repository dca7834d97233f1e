//! Files of the host below a directory that is trusted, reached through no symbolic link.
//!
//! Who may write below kubelet's or the engine's directory of one pod must not be able to show the shim, which is root, a
//! file elsewhere. The kernel sees to that (openat2): a name is looked up below the directory, and a link in it is an error.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::Mode;

/// A trusted directory of the host.
#[derive(Debug)]
pub struct Below {
    path: PathBuf,
    directory: OwnedFd,
}

impl Below {
    /// Opens the directory. An administrator may have put it elsewhere: the way to it may have links.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_path_buf(), directory })
    }

    /// What is at `path`; of a link itself, not of what it names.
    ///
    /// # Errors
    /// Nothing is there, or the way to it leaves the directory or has a link.
    pub fn look(&self, path: &Path) -> io::Result<Metadata> {
        self.at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?.metadata()
    }

    /// Opens the regular file or disk at `path` for reading; `None` where something else is.
    ///
    /// # Errors
    /// Nothing is there, the way to it leaves the directory or has a link, or it cannot be opened.
    pub fn volume(&self, path: &Path) -> io::Result<Option<File>> {
        let is_one = |metadata: &Metadata| metadata.is_file() || metadata.file_type().is_block_device();
        // To open another kind of device may do something.
        if !is_one(&self.look(path)?) {
            return Ok(None);
        }
        let file = self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        Ok(is_one(&file.metadata()?).then_some(file))
    }

    /// Where the link at `path` points.
    pub(crate) fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let link = self.at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        Ok(PathBuf::from(readlinkat(&link, "")?))
    }

    /// The names in the directory at `path`, as paths below it.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let directory = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::from_fd(OwnedFd::from(directory))?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(path.join(OsStr::from_bytes(name)));
            }
        }
        Ok(entries)
    }

    /// Opens the regular file at `path` for reading.
    pub(crate) fn read(&self, path: &Path) -> io::Result<File> {
        regular(self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?)
    }

    /// Replaces the content of the regular file at `path`, which must be there.
    ///
    /// # Errors
    /// It is not there, is no regular file, or cannot be written.
    pub fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = regular(self.at(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK)?)?;
        file.set_len(0)?;
        file.write_all(content)
    }

    fn at(&self, path: &Path, flags: OFlag) -> io::Result<File> {
        let below = path.strip_prefix(&self.path).map_err(|_| elsewhere(&self.path))?;
        let below = if below == Path::new("") { Path::new(".") } else { below };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        match openat2(&self.directory, below, how) {
            Ok(file) => Ok(File::from(file)),
            Err(Errno::ELOOP) => Err(io::Error::other("a symbolic link is on the way to it")),
            Err(Errno::EXDEV) => Err(elsewhere(&self.path)),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn elsewhere(path: &Path) -> io::Error {
    io::Error::other(format!("it is not below {}", path.display()))
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;

    /// A pod's directory with a file, a link out of it, and a link to a directory out of it; a secret beside it.
    fn rig() -> (TempDir, Below) {
        let dir = TempDir::new().unwrap();
        let pod = dir.path().join("pod");
        fs::create_dir_all(pod.join("sub")).unwrap();
        fs::write(pod.join("sub/file"), "mine").unwrap();
        fs::write(dir.path().join("secret"), "theirs").unwrap();
        symlink("../secret", pod.join("out")).unwrap();
        symlink(dir.path(), pod.join("away")).unwrap();
        symlink("sub", pod.join("inside")).unwrap();
        let below = Below::open(&pod).unwrap();
        (dir, below)
    }

    #[test]
    fn what_is_below_is_read_listed_and_written() {
        let (dir, below) = rig();
        let at = |name: &str| dir.path().join("pod").join(name);
        assert!(below.look(&at("sub")).unwrap().is_dir() && below.look(&at("out")).unwrap().is_symlink());
        assert_eq!(below.read_link(&at("out")).unwrap(), Path::new("../secret"));
        assert_eq!(below.list(&at("sub")).unwrap(), [at("sub/file")]);
        assert_eq!(below.list(&dir.path().join("pod")).unwrap().len(), 4);
        assert!(below.volume(&at("sub/file")).unwrap().is_some());
        assert_eq!(below.read(&at("sub/file")).unwrap().metadata().unwrap().len(), 4);
        below.write(&at("sub/file"), b"new").unwrap();
        assert_eq!(fs::read(at("sub/file")).unwrap(), b"new");
    }

    #[test]
    fn a_link_is_followed_nowhere_on_the_way() {
        let (dir, below) = rig();
        let at = |name: &str| dir.path().join("pod").join(name);
        for name in ["out", "away/secret", "inside/file", "sub/../../secret", "../secret"] {
            assert!(
                below.read(&at(name)).is_err() && !matches!(below.volume(&at(name)), Ok(Some(_))),
                "{name}"
            );
            assert!(below.write(&at(name), b"x").is_err(), "{name}");
        }
        assert!(below.look(&at("away/secret")).is_err() && below.list(&at("inside")).is_err());
        assert!(below.read(&dir.path().join("secret")).is_err());
        assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"theirs");
        // Exchanged after it was looked at.
        fs::remove_file(at("sub/file")).unwrap();
        symlink("../../secret", at("sub/file")).unwrap();
        let error = below.read(&at("sub/file")).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_written_and_nothing_is_made() {
        let (dir, below) = rig();
        let at = |name: &str| dir.path().join("pod").join(name);
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        assert!(below.volume(&at("fifo")).unwrap().is_none() && below.volume(&at("sub")).unwrap().is_none());
        assert!(below.volume(&at("missing")).is_err());
        for name in ["fifo", "sub", "missing"] {
            assert!(below.read(&at(name)).is_err() && below.write(&at(name), b"x").is_err(), "{name}");
        }
        assert!(!at("missing").exists());
        assert!(Below::open(&at("sub/file")).is_err() && Below::open(&at("missing")).is_err());
    }
}
