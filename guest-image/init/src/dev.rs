//! /dev: a tmpfs of PID 1's own with a closed list of nodes.
//!
//! The kernel's devtmpfs would have a node for every disk that the host attaches, and the agent mounts what a
//! request names. Here only what containers' programs use has a node, and later each layer whose tree
//! was checked has one below `mapper`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};

use crate::private::{Device, Kind, Private};
use crate::sys;

/// Character devices with a node for everybody (Linux, `Documentation/admin-guide/devices.txt`).
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links, as programs expect them.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Directories: two mount points, and the place of the checked layers.
const DIRECTORIES: [&str; 3] = ["pts", "shm", "mapper"];

/// Why there is no /dev.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The file system could not be mounted.
    #[error("cannot mount a tmpfs on {}", path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    /// Something could not be made in it.
    #[error("cannot make {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Gives PID 1 its standard streams: the console, or nothing where the machine has none.
///
/// # Errors
///
/// When not even /dev/null can be opened.
pub fn open_streams(private: &Private) -> io::Result<()> {
    let console = private.open(Kind::Char, Device { major: 5, minor: 1 }, true);
    let stream = console.or_else(|_| private.open(Kind::Char, Device { major: 1, minor: 3 }, true))?;
    sys::become_streams(sys::above_streams(stream.into())?)
}

/// Mounts /dev at `path` and fills it.
///
/// # Errors
///
/// [`DevError`] with what could not be made.
pub fn mount_dev(path: &Path) -> Result<(), DevError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("dev"), path, Some("tmpfs"), flags, Some("mode=755,size=1m"))
        .map_err(|source| DevError::Mount { path: path.to_owned(), source })?;
    let usual = umask(Mode::empty());
    let filled = fill(path, |node, device| {
        let number = makedev(device.major, device.minor);
        Ok(mknod(node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), number)?)
    });
    umask(usual);
    filled
}

/// Makes everything of the lists below `path`; nodes by `node`.
fn fill(path: &Path, node: impl Fn(&Path, Device) -> io::Result<()>) -> Result<(), DevError> {
    let named = |name: &str, made: io::Result<()>| {
        made.map_err(|source| DevError::Make { path: path.join(name), source })
    };
    for (name, major, minor) in NODES {
        named(name, node(&path.join(name), Device { major, minor }))?;
    }
    for (name, target) in LINKS {
        named(name, symlink(target, path.join(name)))?;
    }
    for name in DIRECTORIES {
        named(name, fs::create_dir(path.join(name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn nothing_but_the_lists_is_made_and_no_disk() {
        let root = tempfile::tempdir().unwrap();
        let made = RefCell::new(Vec::new());
        fill(root.path(), |path, device| {
            made.borrow_mut().push(device.to_string());
            fs::write(path, "")
        })
        .unwrap();
        assert_eq!(made.into_inner(), ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]);
        let mut names: Vec<String> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "fd", "full", "mapper", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
                "tty", "urandom", "zero"
            ]
        );
        assert_eq!(fs::read_link(root.path().join("ptmx")).unwrap(), Path::new("pts/ptmx"));
    }

    #[test]
    fn what_cannot_be_made_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("mapper"), "").unwrap();
        let error = fill(root.path(), |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().ends_with("/mapper"), "{error}");
    }
}
