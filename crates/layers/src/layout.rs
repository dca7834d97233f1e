//! An OCI image layout in a directory (OCI image specification, `image-layout.md`).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Descriptor;
use crate::error::{Error, Problem};
use crate::manifest::MAX_MANIFEST;
use crate::source::Store;

/// The annotations by which an index of a layout names its images: the specification's, and containerd's.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// A layout.
#[derive(Debug)]
pub(crate) struct Layout {
    directory: PathBuf,
    tag: Option<String>,
}

impl Layout {
    pub(crate) fn new(directory: &Path, tag: Option<&str>) -> Self {
        Self { directory: directory.to_owned(), tag: tag.map(str::to_owned) }
    }

    fn open(&self, what: &'static str, blob: &Descriptor) -> Result<File, Error> {
        let path = self.directory.join("blobs/sha256").join(blob.digest.hex());
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::NoBlob { what, digest: blob.digest, place: self.directory.clone() }
            }
            _ => Error::file("open", path)(error),
        })
    }
}

impl Store for Layout {
    fn top(&self) -> Result<Descriptor, Error> {
        let path = self.directory.join("index.json");
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes));
        read.map_err(Error::file("read", &path))?;
        if bytes.len() as u64 > MAX_MANIFEST {
            let (what, digest) = ("index", path.display().to_string());
            return Err(Error::TooLarge { what, digest, size: bytes.len() as u64 });
        }
        let choice = choose(&bytes, self.tag.as_deref(), &path);
        choice.map_err(Error::Manifest)
    }

    fn manifest(&self, manifest: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open("manifest", manifest)?.take(limit + 1).read_to_end(&mut bytes);
        let digest = manifest.digest;
        read.map_err(|source| Error::Read { what: "manifest", digest, source })?;
        Ok(bytes)
    }

    fn blob<'a>(&'a self, what: &'static str, blob: &Descriptor) -> Result<Box<dyn Read + Send + 'a>, Error> {
        Ok(Box::new(self.open(what, blob)?))
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// The image of a layout's index that a tag names, or the only one.
pub(crate) fn choose(index: &[u8], tag: Option<&str>, place: &Path) -> Result<Descriptor, Problem> {
    let index: Index = serde_json::from_slice(index).map_err(Problem::Json)?;
    let name = |entry: &Descriptor, key: &str| Some(entry.annotations.as_ref()?.get(key)?.clone());
    let names = |entry: &Descriptor| NAMES.iter().filter_map(|key| name(entry, key)).collect::<Vec<_>>();
    let wanted = |entry: &&Descriptor| match tag {
        Some(tag) => names(entry).iter().any(|name| name == tag) || entry.digest.to_string() == tag,
        None => true,
    };
    let found: Vec<&Descriptor> = index.manifests.iter().filter(wanted).collect();
    match found[..] {
        [only] => Ok(only.clone()),
        _ => {
            let known: Vec<String> = index.manifests.iter().flat_map(names).take(20).collect();
            let known = if known.is_empty() { "none that has a name".into() } else { known.join(", ") };
            let which = match tag {
                Some(tag) => format!("with the tag {tag:?}"),
                None => "to be taken without a tag".into(),
            };
            let place = place.display();
            Err(Problem::NoSuchImage(format!(
                "{place} has {} images {which}, and must have one; it has: {known}",
                found.len()
            )))
        }
    }
}
