//! The tenant's side: an image's root hashes, without root and without a daemon. Nothing of a layer is kept but its hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use serde::Serialize;
use shared_types::EmptyDirectory;
use verity::RootHash;

use crate::archive::Archive;
use crate::convert::{Converted, convert};
use crate::error::Error;
use crate::files::{self, Temporary};
use crate::layout::Layout;
use crate::manifest::MAX_MANIFEST;
use crate::mkfs::Mkfs;
use crate::registry::{Registries, Registry};
use crate::source::{Store, resolve};
use crate::volumes::Places;
use crate::{Descriptor, Digest, Image, Layer, Source, accounts, pool, volumes};

/// Where a line for the user goes.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// What computes root hashes.
#[derive(Debug)]
pub struct Hasher {
    /// A directory of the user's own, for what was found out and for work; made when it is needed.
    pub cache: PathBuf,
    /// Where mkfs.erofs is looked for.
    pub search: Vec<PathBuf>,
    /// How registries are talked to.
    pub registries: Registries,
}

/// An image whose layers have names that prove their content.
#[derive(Debug, Clone)]
pub struct HashedImage {
    /// The source, with the digest that it has been resolved to.
    pub reference: String,
    /// SHA-256 of the index or manifest that the source leads to.
    pub digest: Digest,
    /// The image's configuration (OCI image specification, `config.md`), as it is.
    pub config: Vec<u8>,
    /// The layers, the topmost first.
    pub layers: Vec<HashedLayer>,
    /// The image's `/etc/passwd`.
    pub passwd: Option<String>,
    /// The image's `/etc/group`.
    pub group: Option<String>,
    /// Its volumes in which it has nothing, by their paths as the configuration has them. One that is not there is like a
    /// new one of root's.
    pub empty_volumes: BTreeMap<String, EmptyDirectory>,
}

/// A layer and its root hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HashedLayer {
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// SHA-256 of the blob's content.
    pub diff_id: Digest,
    /// The name that proves the content.
    pub root_hash: RootHash,
}

impl Hasher {
    /// Reads an image, and converts its layers where they are not known yet.
    ///
    /// # Errors
    /// [`Error`].
    pub fn image(&self, source: &Source, progress: Progress) -> Result<HashedImage, Error> {
        let layers = self.cache.join("layers");
        let documents = self.cache.join("documents");
        for directory in [&layers, &documents] {
            std::fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
        }
        files::remove_dead(&layers);
        let store = Cached::new(self, source, documents);
        let image = resolve(&store)?;
        let named = volumes::named(&image.config);
        let asked: BTreeSet<String> = named.values().cloned().collect();
        let mkfs = OnceLock::new();
        let converted = pool::each(&image.layers, |layer| {
            let number = image.layers.iter().position(|other| other == layer).unwrap_or_default() + 1;
            let name = format!("layer {number} of {}, {}", image.layers.len(), layer.blob.digest.short());
            let mkfs = mkfs.get_or_init(|| Mkfs::find(self.search.iter().cloned()));
            self.layer(&store, layer, &asked, mkfs.as_ref(), &layers, &|text| {
                progress(&format!("{name}: {text}"))
            })
        })?;
        Ok(assemble(source, image, &named, &converted))
    }

    fn layer(
        &self,
        store: &dyn Store,
        layer: &Layer,
        asked: &BTreeSet<String>,
        mkfs: Result<&Mkfs, &Error>,
        directory: &Path,
        progress: Progress,
    ) -> Result<Converted, Error> {
        let note = directory.join(format!("{}.json", layer.blob.digest.hex()));
        let known = files::read_note::<Converted>(&note);
        let is_this = |known: &Converted| {
            (known.digest, known.diff_id) == (layer.blob.digest, layer.diff_id)
                && mkfs.is_ok_and(|mkfs| mkfs.version() == known.erofs_utils)
        };
        let known = known.filter(is_this);
        if let Some(known) = known.as_ref().filter(|known| known.places.has(asked)) {
            return Ok(known.clone());
        }
        // What other images asked is asked again, so that none of them asks twice.
        let places = Places::new(known.iter().flat_map(|known| known.places.asked()).chain(asked));
        // The version decides the bytes, so that nothing can be said without one.
        let mkfs = match mkfs {
            Ok(mkfs) => mkfs,
            Err(_) => &Mkfs::find(self.search.iter().cloned())?,
        };
        progress(&format!("converting {:.1} MB", megabytes(layer.blob.size)));
        let start = Instant::now();
        let temporary = Temporary::new(directory, &layer.blob.digest.hex())?;
        let converted =
            convert(mkfs, layer, places, &mut store.blob("layer", &layer.blob)?, temporary.path())?;
        drop(temporary);
        files::write_note(&note, &converted)?;
        progress(&format!("done in {:.1} s", start.elapsed().as_secs_f64()));
        Ok(converted)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn assemble(
    source: &Source,
    image: Image,
    named: &BTreeMap<String, String>,
    converted: &[Converted],
) -> HashedImage {
    let topmost_first = || converted.iter().rev();
    let found: Vec<_> = topmost_first().map(|layer| &layer.accounts).collect();
    let (passwd, group) = accounts::merge(&found);
    let places: Vec<_> = topmost_first().map(|layer| &layer.places).collect();
    let empty_volumes = volumes::merge(named, &places);
    let hashed = |layer: &Converted| HashedLayer {
        digest: layer.digest,
        diff_id: layer.diff_id,
        root_hash: layer.root_hash,
    };
    let reference = match source {
        Source::Registry(reference) if reference.digest().is_some() => reference.whole(),
        _ => format!("{source}@{}", image.digest),
    };
    let layers = topmost_first().map(hashed).collect();
    HashedImage {
        reference,
        digest: image.digest,
        config: image.config,
        layers,
        passwd,
        group,
        empty_volumes,
    }
}

/// A source whose documents are kept by their digest. It is opened when something is needed of it, so that an image whose
/// digest is given and whose layers are known needs no network.
struct Cached<'a> {
    hasher: &'a Hasher,
    source: &'a Source,
    documents: PathBuf,
    inner: OnceLock<Box<dyn Store + Send>>,
}

impl<'a> Cached<'a> {
    const fn new(hasher: &'a Hasher, source: &'a Source, documents: PathBuf) -> Self {
        Self { hasher, source, documents, inner: OnceLock::new() }
    }

    fn inner(&self) -> Result<&dyn Store, Error> {
        if let Some(inner) = self.inner.get() {
            return Ok(&**inner);
        }
        let opened: Box<dyn Store + Send> = match self.source {
            Source::Registry(reference) => Box::new(Registry::open(reference, &self.hasher.registries)?),
            Source::Layout { directory, tag } => Box::new(Layout::new(directory, tag.as_deref())),
            Source::Archive(file) => Box::new(Archive::open(file)?),
        };
        Ok(&**self.inner.get_or_init(|| opened))
    }

    fn pinned(&self) -> Option<Digest> {
        match self.source {
            Source::Registry(reference) => reference.digest()?.parse().ok(),
            _ => None,
        }
    }

    fn known(&self, digest: Digest) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let file = std::fs::File::open(self.documents.join(digest.hex())).ok()?;
        file.take(MAX_MANIFEST + 1).read_to_end(&mut content).ok()?;
        (Digest::of(&content) == digest).then_some(content)
    }

    fn keep(&self, digest: Digest, content: &[u8]) -> Result<(), Error> {
        if Digest::of(content) == digest && matches!(self.source, Source::Registry(_)) {
            files::write(&self.documents.join(digest.hex()), content)?;
        }
        Ok(())
    }
}

impl Store for Cached<'_> {
    fn top(&self) -> Result<Descriptor, Error> {
        if let Some((digest, content)) = self.pinned().and_then(|digest| Some((digest, self.known(digest)?)))
        {
            let size = content.len() as u64;
            return Ok(Descriptor {
                media_type: String::new(),
                digest,
                size,
                platform: None,
                annotations: None,
            });
        }
        self.inner()?.top()
    }

    fn manifest(&self, manifest: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        if let Some(known) = self.known(manifest.digest) {
            return Ok(known);
        }
        let content = self.inner()?.manifest(manifest, limit)?;
        self.keep(manifest.digest, &content)?;
        Ok(content)
    }

    fn blob<'a>(&'a self, what: &'static str, blob: &Descriptor) -> Result<Box<dyn Read + Send + 'a>, Error> {
        if what == "layer" {
            return self.inner()?.blob(what, blob);
        }
        if let Some(known) = self.known(blob.digest) {
            return Ok(Box::new(Cursor::new(known)));
        }
        let mut content = Vec::new();
        let read = self.inner()?.blob(what, blob)?.take(blob.size + 1).read_to_end(&mut content);
        read.map_err(|error| match error.downcast::<Error>() {
            Ok(own) => own,
            Err(source) => Error::Read { what, digest: blob.digest, source },
        })?;
        self.keep(blob.digest, &content)?;
        Ok(Box::new(Cursor::new(content)))
    }
}
