//! Where images come from.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_client::Reference;

use crate::error::{Error, Problem};
use crate::manifest::{self, Document, MAX_CONFIG, MAX_MANIFEST};
use crate::{Descriptor, Digest, Layer};

/// An index may refer to an index, once; nobody needs more.
const MAX_DEPTH: usize = 3;

/// An image, as a tenant names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a registry.
    Registry(Reference),
    /// In a directory: `oci:DIR[:TAG]` (OCI image layout).
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Which of its images; not needed where there is one.
        tag: Option<String>,
    },
    /// In a file that `docker save` or `podman save` wrote: `docker-archive:FILE`.
    Archive(PathBuf),
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::Source { text: text.into(), reason: reason.into() };
        if let Some(place) = text.strip_prefix("oci:") {
            // The first colon behind a directory's name, since names of images have colons as well.
            let is_directory = |end: &usize| Path::new(&place[..*end]).is_dir();
            let mut colons = place.match_indices(':').map(|(at, _)| at);
            let end = match is_directory(&place.len()) {
                true => None,
                false => colons.clone().find(is_directory).or_else(|| colons.next()),
            };
            let (directory, tag) = match end {
                Some(end) => (&place[..end], Some(place[end + 1..].to_owned())),
                None => (place, None),
            };
            return match (directory, tag.as_deref()) {
                ("", _) => Err(bad("write oci:DIRECTORY or oci:DIRECTORY:TAG")),
                (_, Some("")) => Err(bad("the tag is empty")),
                _ => Ok(Self::Layout { directory: directory.into(), tag }),
            };
        }
        if let Some(file) = text.strip_prefix("docker-archive:") {
            return match file {
                "" => Err(bad("write docker-archive:FILE")),
                file => Ok(Self::Archive(file.into())),
            };
        }
        let reference = text.strip_prefix("docker://").unwrap_or(text);
        match reference.parse::<Reference>() {
            Ok(reference) => match reference.digest() {
                Some(digest) if digest.parse::<Digest>().is_err() => {
                    Err(bad("its digest has to be a sha256 one"))
                }
                _ => Ok(Self::Registry(reference)),
            },
            Err(error) => Err(bad(&error.to_string())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { directory, tag: None } => write!(f, "oci:{}", directory.display()),
            Self::Layout { directory, tag: Some(tag) } => write!(f, "oci:{}:{tag}", directory.display()),
            Self::Archive(file) => write!(f, "docker-archive:{}", file.display()),
        }
    }
}

/// An image whose documents have been read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// SHA-256 of the index or manifest that the reference names: what to write behind the `@` of a reference.
    pub digest: Digest,
    /// The configuration, as it is.
    pub config: Vec<u8>,
    /// The layers, the bottom one first, as manifests have them.
    pub layers: Vec<Layer>,
}

/// Where an image's parts are.
pub(crate) trait Store: Sync {
    /// What the image's name leads to.
    fn top(&self) -> Result<Descriptor, Error>;

    /// An index or a manifest. At most `limit` bytes and one are needed of a longer one; nobody has checked them.
    fn manifest(&self, manifest: &Descriptor, limit: u64) -> Result<Vec<u8>, Error>;

    /// A configuration or a layer, unchecked.
    fn blob<'a>(&'a self, what: &'static str, blob: &Descriptor) -> Result<Box<dyn Read + Send + 'a>, Error>;
}

/// Reads and checks an image's documents.
pub(crate) fn resolve(store: &dyn Store) -> Result<Image, Error> {
    let top = store.top()?;
    let digest = top.digest;
    let mut at = top;
    for _ in 0..MAX_DEPTH {
        let bytes = document("manifest", &at, MAX_MANIFEST, &mut |limit| store.manifest(&at, limit))?;
        match Document::parse(&bytes).map_err(Error::Manifest)? {
            Document::Index(entries) => at = manifest::choose(&entries).map_err(Error::Manifest)?.clone(),
            Document::Image { config, layers } => {
                let bytes = document("configuration", &config, MAX_CONFIG, &mut |limit| {
                    let mut bytes = Vec::new();
                    let read = store.blob("configuration", &config)?.take(limit + 1).read_to_end(&mut bytes);
                    let what = "configuration";
                    read.map_err(|source| Error::Read { what, digest: config.digest, source })?;
                    Ok(bytes)
                })?;
                let layers = manifest::layers(&bytes, layers)?;
                return Ok(Image { digest, config: bytes, layers });
            }
        }
    }
    Err(Error::Manifest(Problem::Nested))
}

/// Reads a document of a known size and digest.
fn document(
    what: &'static str,
    descriptor: &Descriptor,
    limit: u64,
    read: &mut dyn FnMut(u64) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let (expected, size) = (descriptor.digest, descriptor.size);
    if size > limit {
        return Err(Error::TooLarge { what, digest: expected.to_string(), size });
    }
    let bytes = read(size)?;
    let length = bytes.len() as u64;
    if length != size {
        return Err(Error::Size { what, digest: expected, expected: size, found: length });
    }
    let found = Digest::of(&bytes);
    if found == expected { Ok(bytes) } else { Err(Error::Digest { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_prefix() {
        let source = |text: &str| text.parse::<Source>();
        assert!(
            matches!(source("busybox:1.36"), Ok(Source::Registry(r)) if r.whole() == "docker.io/library/busybox:1.36")
        );
        assert!(
            matches!(source("localhost:5000/a/b"), Ok(Source::Registry(r)) if r.registry() == "localhost:5000")
        );
        let layout = |directory: &str, tag: Option<&str>| Source::Layout {
            directory: directory.into(),
            tag: tag.map(str::to_owned),
        };
        assert_eq!(source("oci:/a/b").unwrap(), layout("/a/b", None));
        assert_eq!(source("oci:a/b:v1").unwrap(), layout("a/b", Some("v1")));
        assert_eq!(source("oci:b:r.example.com/a:v1").unwrap(), layout("b", Some("r.example.com/a:v1")));
        let dir = tempfile::tempdir().unwrap();
        let with_colon = dir.path().join("a:b");
        std::fs::create_dir(&with_colon).unwrap();
        let text = format!("oci:{}", with_colon.display());
        assert_eq!(source(&text).unwrap(), layout(with_colon.to_str().unwrap(), None));
        let tagged = source(&format!("{text}:v1:2")).unwrap();
        assert_eq!(tagged, layout(with_colon.to_str().unwrap(), Some("v1:2")));
        assert_eq!(source("docker-archive:a.tar").unwrap(), Source::Archive("a.tar".into()));
        for good in ["busybox@sha256:", "oci:", "oci:a:", "docker-archive:", "", "A B", "a@sha512:00"] {
            assert!(matches!(source(good), Err(Error::Source { .. })), "{good}");
        }
        let sha512 = format!("a@sha512:{}", "0".repeat(128));
        assert!(matches!(source(&sha512), Err(Error::Source { reason, .. }) if reason.contains("sha256")));
    }
}
