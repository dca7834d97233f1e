//! mkfs.erofs: which one, and how it is run.
//!
//! Options and UUID are containerd's (`plugins/diff/erofs/differ.go`, `internal/erofsutils/mount.go`) with the `mkfs_options` that
//! its documentation (`docs/snapshotters/erofs.md`) prefers for reproducible images, so that a layer's bytes depend on
//! the layer alone, and are the same wherever they are made.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use jail::{Builder, OUTPUT, Workplace};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Digest;
use crate::error::Error;

const PROGRAM: &str = "mkfs.erofs";
/// `--sort=none` is of 1.8.2; before 1.8, every image has the time at which it was made.
pub(crate) const MINIMUM: Version = Version([1, 8, 2]);
const OPTIONS: [&str; 8] =
    ["--tar=f", "--aufs", "--quiet", "-Enoinline_data", "-b4096", "-T0", "--mkfs-time", "--sort=none"];
/// The same for a directory: its owners are this machine's and mean nothing elsewhere.
const OF_DIRECTORY: [&str; 8] = [
    "--quiet",
    "-Enoinline_data",
    "-b4096",
    "-T0",
    "--mkfs-time",
    "--all-root",
    "-U",
    "00000000-0000-0000-0000-000000000000",
];
/// What is kept of what the program says.
const KEPT: u64 = 2048;

/// A version of erofs-utils.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version([u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}")?;
        if patch > 0 { write!(f, ".{patch}") } else { Ok(()) }
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = [0; 3];
        let mut written = text.split('.');
        for part in &mut parts {
            let Some(text) = written.next() else { break };
            // As in 1.9-rc1.
            let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
            *part = digits.parse().map_err(|_| "it is no version number")?;
        }
        Ok(Self(parts))
    }
}

impl TryFrom<String> for Version {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// A mkfs.erofs that makes the bytes we want.
#[derive(Debug, Clone)]
pub struct Mkfs {
    program: PathBuf,
    version: Version,
    builder: Option<Builder>,
}

/// A conversion that has begun.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    /// What the program may write to, besides the image.
    workplace: Option<Workplace>,
}

impl Mkfs {
    /// Looks for the program in these directories, and asks it for its version.
    ///
    /// # Errors
    /// [`Error::NoMkfs`], [`Error::OldMkfs`], [`Error::UnknownMkfs`], [`Error::File`].
    pub fn find(directories: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let mut candidates = directories.into_iter().map(|directory| directory.join(PROGRAM));
        let program = candidates.find(|path| path.is_file()).ok_or(Error::NoMkfs)?;
        let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(Error::file("start", &program))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let line: String = said.lines().next().unwrap_or_default().chars().take(100).collect();
        // 1.9.4: `mkfs.erofs (erofs-utils) 1.9.4`; 1.5: `mkfs.erofs 1.5`.
        let word = line.split_ascii_whitespace().last().and_then(|word| word.parse().ok());
        match word.filter(|_| line.starts_with(PROGRAM)) {
            None => Err(Error::UnknownMkfs { program, said: line }),
            Some(found) if found < MINIMUM => Err(Error::OldMkfs { program, found }),
            Some(version) => Ok(Self { program, version, builder: None }),
        }
    }

    /// The same, in a jail: a layer that takes it over has nothing but that layer.
    #[must_use]
    pub fn jailed(self, builder: Option<Builder>) -> Self {
        Self { builder, ..self }
    }

    /// The version of erofs-utils that it is of.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Makes an image of a directory's files, which depends on them and on the program's version alone.
    ///
    /// # Errors
    /// [`Error::File`], and what the program says.
    pub fn directory(&self, directory: &Path, image: &Path) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command.args(OF_DIRECTORY).arg(image).arg(directory).stdin(Stdio::null()).stdout(Stdio::null());
        let output = command.stderr(Stdio::piped()).output().map_err(Error::file("start", &self.program))?;
        if output.status.success() {
            return Ok(());
        }
        let said = io::Error::other(words(&*output.stderr));
        Err(Error::file("convert", directory)(said))
    }

    /// Starts the conversion of a layer, to be written to its standard input, into a file that is there and empty.
    pub(crate) fn start(&self, layer: Digest, image: &Path) -> Result<Started, Error> {
        let failed = Error::file("start", &self.program);
        let arguments = |command: &mut Command, output: &Path| {
            command.args(OPTIONS).arg("-U").arg(uuid(layer).to_string()).arg(output);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        };
        let Some(Builder { user, jailer }) = &self.builder else {
            let mut command = Command::new(&self.program);
            arguments(&mut command, image);
            // What it sorts out first goes beside the image, where there is room.
            if let Some(directory) = image.parent() {
                command.env("TMPDIR", directory);
            }
            return Ok(Started { child: command.spawn().map_err(failed)?, workplace: None });
        };
        let workplace = Workplace::new(image, *user).map_err(Error::file("give its user", image))?;
        let start = || {
            let mut command = workplace.jail().command(jailer, &self.program)?;
            arguments(&mut command, Path::new(OUTPUT));
            jail::apart(|| command.spawn())
        };
        let child = start().map_err(io::Error::other).flatten().map_err(failed)?;
        Ok(Started { child, workplace: Some(workplace) })
    }
}

impl Started {
    /// Takes the image back, once the program has ended, and all that it had started with it.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.workplace.map_or(Ok(()), Workplace::finish)
    }
}

/// `uuid.NewSHA1(uuid.NameSpaceURL, "erofs:blobs/<digest of the blob>")` in containerd.
fn uuid(layer: Digest) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("erofs:blobs/{layer}").as_bytes())
}

/// The verity superblock's: any will do, nothing depends on it, and so it is the same on every node.
pub(crate) fn verity_uuid(layer: Digest) -> [u8; 16] {
    uuid(layer).into_bytes()
}

/// Reads a program's standard error to its end, and keeps its beginning.
pub(crate) fn words(mut pipe: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = pipe.by_ref().take(KEPT).read_to_end(&mut kept);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("1.10") > version("1.9.4"));
        assert!(version("1.8.2") == MINIMUM && version("1.8.1") < MINIMUM && version("1.8-rc1") < MINIMUM);
        assert_eq!(version("1.9.4").to_string(), "1.9.4");
        assert_eq!(version("1.9").to_string(), "1.9");
        assert!("x".parse::<Version>().is_err() && "".parse::<Version>().is_err());
    }

    #[test]
    fn the_uuid_is_containerds() {
        // Of Go's `uuid.NewSHA1` for the digest of nothing, by Python's `uuid.uuid5`.
        assert_eq!(uuid(Digest::of(b"")).to_string(), "0f8a237d-48ca-5305-ba9f-d2efb00fcd98");
    }

    #[test]
    fn a_program_that_cannot_do_it_is_named() {
        let find = |script: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(PROGRAM);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            Mkfs::find(["/there/is/none".into(), dir.path().to_owned()])
        };
        let good = find("echo 'mkfs.erofs (erofs-utils) 1.9.4'; echo 'available compressors: lz4'").unwrap();
        assert_eq!(good.version().to_string(), "1.9.4");
        let error = find("echo 'mkfs.erofs 1.5'").unwrap_err();
        assert!(matches!(error, Error::OldMkfs { found, .. } if found.to_string() == "1.5"), "{error}");
        assert!(matches!(find("echo usage >&2; exit 1"), Err(Error::UnknownMkfs { .. })));
        assert!(matches!(find("exit 0"), Err(Error::UnknownMkfs { .. })));
        assert!(matches!(Mkfs::find(["/there/is/none".into()]), Err(Error::NoMkfs)));
    }
}
