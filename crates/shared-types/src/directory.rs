//! A directory with nothing in it, as an image has one at the place of a `VOLUME`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an empty directory is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EmptyDirectory {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions, the group's bit (setgid) and the sticky bit: within 0o3777. A directory's type is not in it.
    pub mode: u32,
}

impl EmptyDirectory {
    /// As an engine makes one where it finds none in the image.
    pub const NEW: Self = Self { uid: 0, gid: 0, mode: 0o755 };
}

/// `UID:GID:MODE`, the mode in octal.
impl fmt::Display for EmptyDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:04o}", self.uid, self.gid, self.mode)
    }
}

/// A text that is not of the form `UID:GID:MODE`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form UID:GID:MODE, with the mode in octal")]
pub struct BadEmptyDirectory(String);

impl FromStr for EmptyDirectory {
    type Err = BadEmptyDirectory;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let mut parts = text.splitn(3, ':');
            let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some(Self { uid, gid, mode: u32::from_str_radix(parts.next()?, 8).ok()? })
        };
        parsed().ok_or_else(|| BadEmptyDirectory(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written() {
        let directory = EmptyDirectory { uid: 999, gid: 998, mode: 0o1770 };
        assert_eq!(directory.to_string(), "999:998:1770");
        assert_eq!("999:998:1770".parse(), Ok(directory));
        assert_eq!(EmptyDirectory::NEW.to_string(), "0:0:0755");
        for text in ["", "0", "0:0", "a:0:755", "0:0:788", "0:0:755:1", "-1:0:755"] {
            assert_eq!(text.parse::<EmptyDirectory>(), Err(BadEmptyDirectory(text.to_owned())));
        }
    }
}
