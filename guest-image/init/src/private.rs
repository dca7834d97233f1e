//! Device nodes for PID 1 alone.
//!
//! A disk or a control device that has a node in /dev can be opened by whoever the host's requests make the agent
//! open. So there is none: PID 1 makes one for itself, in a file system that is mounted nowhere, and it is
//! gone again before the first byte is read.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys;

/// A device by its numbers, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
}

impl Device {
    /// Reads a `dev` file of sysfs.
    ///
    /// # Errors
    ///
    /// The kernel's, and that the file has no numbers.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("{text:?} is no device's numbers")))
    }

    /// Reads the text of such a file: `MAJOR:MINOR` and a newline.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim_end().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// The place for nodes that nobody else sees.
#[derive(Debug)]
pub struct Private(OwnedFd);

impl Private {
    /// Makes the place.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        Ok(Self(sys::above_streams(sys::detached_tmpfs()?)?))
    }

    /// Opens a device, to read it or (`write`) to talk to it.
    ///
    /// # Errors
    ///
    /// The kernel's, above all when no driver has the numbers.
    pub fn open(&self, kind: Kind, device: Device, write: bool) -> io::Result<File> {
        let (flag, name) = match kind {
            Kind::Char => (SFlag::S_IFCHR, "char"),
            Kind::Block => (SFlag::S_IFBLK, "block"),
        };
        let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        mknodat(&self.0, name, flag, Mode::from_bits_truncate(0o600), makedev(device.major, device.minor))?;
        let opened = openat(&self.0, name, access | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty());
        unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?;
        Ok(File::from(opened?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_sysfs_writes_them() {
        assert_eq!(Device::parse("8:16\n"), Some(Device { major: 8, minor: 16 }));
        assert_eq!(Device::parse("8:16\n").map(|device| device.to_string()).as_deref(), Some("8:16"));
        for text in ["", "8", "8:", ":1", "8:x", "8:1 2"] {
            assert_eq!(Device::parse(text), None, "{text:?}");
        }
    }
}
