//! What is installed: a directory with programs, guest images and firmware, a version and the digest of each file.
//!
//! `VERSION` is one line. `SHA256SUMS` has a line for each other file, as coreutils' `sha256sum` writes it: 64 hex digits,
//! two spaces, the path. A file that it does not list is refused, and so is a link.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const SUMS: &str = "SHA256SUMS";
const VERSION: &str = "VERSION";
/// The program that engines start; a bundle without it is none.
const SHIM: &str = "bin/containerd-shim-coffer-v2";
/// Below it each directory is a guest image.
const IMAGES: &str = "share/images/";

/// A bundle whose every file has the digest that it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    directory: PathBuf,
    id: String,
    files: Vec<BundleFile>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Its path in the bundle.
    pub path: String,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
    /// Whether it is a program.
    pub executable: bool,
}

impl Bundle {
    /// Reads a bundle and checks it.
    ///
    /// # Errors
    /// [`Error::Bundle`], [`Error::Checksum`], [`Error::Architecture`].
    pub fn read(directory: &Path) -> Result<Self> {
        let bad = |reason: String| Error::Bundle { directory: directory.display().to_string(), reason };
        let text = |name: &str| {
            fs::read_to_string(directory.join(name)).map_err(|error| bad(format!("{name}: {error}")))
        };
        let (version, sums) = (text(VERSION)?, text(SUMS)?);
        let version = version.trim();
        if version.is_empty() || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b)) {
            return Err(bad(format!("{VERSION} is {version:?}, and no version")));
        }
        let wanted = parse(&sums).map_err(bad)?;
        let mut found = Vec::new();
        walk(directory, Path::new(""), &mut found).map_err(bad)?;
        if let Some(extra) = found.iter().find(|path| *path != SUMS && !wanted.contains_key(*path)) {
            return Err(bad(format!("{SUMS} does not list {extra}")));
        }
        if !wanted.contains_key(SHIM) {
            return Err(bad(format!("{SUMS} does not list {SHIM}")));
        }
        let mut files = Vec::new();
        for (path, sha256) in wanted {
            let at = directory.join(&path);
            let (digest, mode) = digest(&at).map_err(|error| bad(format!("{path}: {error}")))?;
            if digest != sha256 {
                let directory = directory.display().to_string();
                return Err(Error::Checksum { directory, file: path, wanted: sha256, found: digest });
            }
            let executable = mode & 0o111 != 0;
            if let Some(found) = executable.then(|| foreign(&at)).flatten() {
                let directory = directory.display().to_string();
                return Err(Error::Architecture { directory, file: path, found, wanted: ARCH });
            }
            files.push(BundleFile { path, sha256, executable });
        }
        let id = format!("{version}-{}", &hex(&Sha256::digest(sums.as_bytes()))[..12]);
        Ok(Self { directory: directory.to_owned(), id, files })
    }

    /// Its version with the beginning of the digest of all its content: the name of its directory on the node.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its files, sorted by path.
    #[must_use]
    pub fn files(&self) -> &[BundleFile] {
        &self.files
    }

    /// Whether it has a file.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Where a file is.
    #[must_use]
    pub(crate) fn source(&self, file: &BundleFile) -> PathBuf {
        self.directory.join(&file.path)
    }

    /// A file was another one when it was copied than when it was checked.
    pub(crate) fn changed(&self, file: &BundleFile) -> Error {
        let (directory, found) = (self.directory.display().to_string(), "another one by now".to_owned());
        Error::Checksum { directory, file: file.path.clone(), wanted: file.sha256.clone(), found }
    }

    /// Its guest images by name, each with the digest of its content.
    #[must_use]
    pub fn images(&self) -> BTreeMap<String, String> {
        let mut of_image: BTreeMap<String, Sha256> = BTreeMap::new();
        for file in &self.files {
            let Some((name, inside)) = image_file(&file.path) else { continue };
            of_image.entry(name.to_owned()).or_default().update(format!("{}  {inside}\n", file.sha256));
        }
        of_image.into_iter().map(|(name, sum)| (name, hex(&sum.finalize())[..32].to_owned())).collect()
    }
}

/// A guest image's name and the path inside it, of a file that is part of one.
pub(crate) fn image_file(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix(IMAGES)?.split_once('/')
}

fn parse(sums: &str) -> std::result::Result<BTreeMap<String, String>, String> {
    let mut wanted = BTreeMap::new();
    for (line, number) in sums.lines().zip(1..) {
        let wrong = || format!("{SUMS}:{number} is no line of sha256sum");
        let (digest, path) = line.split_once("  ").ok_or_else(wrong)?;
        let path = path.strip_prefix("./").unwrap_or(path);
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_digest || path.is_empty() {
            return Err(wrong());
        }
        let stays_inside = path.split('/').all(|part| !["", ".", ".."].contains(&part));
        if !stays_inside {
            return Err(format!("{SUMS}:{number} leads out of the bundle: {path:?}"));
        }
        if wanted.insert(path.to_owned(), digest.to_ascii_lowercase()).is_some() {
            return Err(format!("{SUMS}:{number} names {path} again"));
        }
    }
    Ok(wanted)
}

fn walk(directory: &Path, below: &Path, found: &mut Vec<String>) -> std::result::Result<(), String> {
    let read = |error: io::Error| format!("{}: {error}", directory.join(below).display());
    for entry in fs::read_dir(directory.join(below)).map_err(read)? {
        let entry = entry.map_err(read)?;
        let (path, kind) = (below.join(entry.file_name()), entry.file_type().map_err(read)?);
        if kind.is_dir() {
            walk(directory, &path, found)?;
        } else if kind.is_file() {
            let path = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
            found.push(path.to_owned());
        } else {
            return Err(format!("{} is no regular file", path.display()));
        }
    }
    Ok(())
}

fn digest(path: &Path) -> io::Result<(String, u32)> {
    let mut file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let (mut sum, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((hex(&sum.finalize()), mode)),
            n => sum.update(&piece[..n]),
        }
    }
}

/// What a program is for, where it is not for this processor; a script is for all. `elf(5)`: `e_ident`, `e_machine`.
fn foreign(path: &Path) -> Option<String> {
    let mut head = [0; 20];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = [head[18], head[19]];
    let machine = if head[5] == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let name = match machine {
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        22 => "s390x",
        21 => "powerpc64",
        _ => return Some(format!("the machine {machine}")),
    };
    (name != ARCH).then(|| name.to_owned())
}

/// Of a file's content, in hex.
pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::tests::fixture::bundle;

    #[test]
    fn a_bundle_is_its_content() {
        let (one, other) = (bundle("1.0", "a"), bundle("1.0", "b"));
        let read = |dir: &tempfile::TempDir| Bundle::read(dir.path()).unwrap();
        assert_eq!(read(&one).id().len(), "1.0-".len() + 12);
        assert_ne!(read(&one).id(), read(&other).id());
        // Another shim, the same images.
        assert_eq!(read(&one).images(), read(&other).images());
        assert_eq!(read(&one).images().keys().collect::<Vec<_>>(), ["confidential", "plain"]);
        let shim = read(&one).files().iter().find(|file| file.path == SHIM).unwrap().executable;
        assert!(shim && !read(&one).files().iter().all(|file| file.executable));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_program_for_another_processor_is_refused() {
        let program = |machine: [u8; 2], order: u8| {
            let head = [0x7f, b'E', b'L', b'F', 2, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
            String::from_utf8([&head[..], &machine].concat()).unwrap()
        };
        let read =
            |text: &str| Bundle::read(bundle("1.0", text).path()).map(|_| ()).map_err(|e| e.to_string());
        read(&program([62, 0], 1)).unwrap();
        read("#!/bin/sh").unwrap();
        for (text, found) in [
            (program([22, 0], 1), "s390x"),
            (program([0, 21], 2), "powerpc64"),
            (program([1, 1], 1), "the machine 257"),
        ] {
            let said = read(&text).unwrap_err();
            assert!(said.contains(SHIM) && said.contains(&format!("a program for {found}")), "{said}");
        }
    }

    #[test]
    fn what_is_not_the_bundle_that_was_made_is_refused() {
        type Spoil = fn(&Path);
        let cases: [(Spoil, &str); 8] = [
            (|dir| fs::write(dir.join(SHIM), "other").unwrap(), "has SHA-256 "),
            (|dir| fs::remove_file(dir.join(SHIM)).unwrap(), "No such file"),
            (|dir| fs::write(dir.join("bin/more"), "").unwrap(), "does not list bin/more"),
            (|dir| fs::remove_file(dir.join(SUMS)).unwrap(), "SHA256SUMS: No such file"),
            (|dir| fs::write(dir.join(SUMS), "nothing\n").unwrap(), "SHA256SUMS:1 is no line"),
            (|dir| fs::write(dir.join(VERSION), "../../etc\n").unwrap(), "no version"),
            (|dir| symlink("/etc/passwd", dir.join("bin/l")).unwrap(), "no regular file"),
            (
                |dir| {
                    let sums = fs::read_to_string(dir.join(SUMS)).unwrap();
                    fs::write(dir.join(SUMS), sums.replace(SHIM, "../bin/x")).unwrap();
                },
                "leads out of the bundle",
            ),
        ];
        for (spoil, said) in cases {
            let dir = bundle("1.0", "a");
            spoil(dir.path());
            let error = Bundle::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
