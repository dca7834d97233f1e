//! Which image this is: its own root file system says so, and that is measured.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The image's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For work on Coffer.
    Dev,
    /// For finding out why a guest fails.
    Debug,
    /// For confidential VMs.
    Release,
}

/// Why the profile is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file that says it cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It says something else, or nothing, or two things.
    #[error("{} names no profile; build the image with guest-image/build", path.display())]
    Unknown { path: PathBuf },
}

/// Reads `VARIANT_ID` of `/etc/os-release` below `root`.
///
/// # Errors
///
/// [`ProfileError`].
pub fn read(root: &Path) -> Result<Profile, ProfileError> {
    let path = root.join("etc/os-release");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ProfileError::Read { path, source }),
    };
    let mut names = text.lines().filter_map(|line| line.strip_prefix("VARIANT_ID="));
    match (names.next(), names.next()) {
        (Some("dev"), None) => Ok(Profile::Dev),
        (Some("debug"), None) => Ok(Profile::Debug),
        (Some("release"), None) => Ok(Profile::Release),
        _ => Err(ProfileError::Unknown { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Profile, ProfileError> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/os-release"), text).unwrap();
        read(root.path())
    }

    #[test]
    fn the_profile_is_read_from_the_image() {
        assert_eq!(with("ID=coffer\nVARIANT_ID=release\n").unwrap(), Profile::Release);
        assert_eq!(with("VARIANT_ID=dev\n").unwrap(), Profile::Dev);
        assert_eq!(with("VARIANT_ID=debug\n").unwrap(), Profile::Debug);
    }

    #[test]
    fn anything_else_is_no_profile() {
        for text in [
            "",
            "ID=coffer\n",
            "VARIANT_ID=\n",
            "VARIANT_ID=\"dev\"\n",
            "VARIANT_ID=dev\nVARIANT_ID=release\n",
        ] {
            assert!(matches!(with(text), Err(ProfileError::Unknown { .. })), "{text:?}");
        }
        assert!(matches!(read(Path::new("/nowhere")), Err(ProfileError::Read { .. })));
    }
}
