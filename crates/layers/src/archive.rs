//! A file that `docker save`, `podman save` or `skopeo copy` to `docker-archive:` wrote.
//!
//! Docker 25 and later put an OCI layout into it, beside what older ones wrote (`manifest.json`). The layout comes first,
//! as in containerd's import (`core/images/archive/importer.go`), because the layers' digests follow from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, Problem};
use crate::manifest::{MAX_CONFIG, MAX_MANIFEST};
use crate::source::Store;
use crate::{Descriptor, Digest, layout};

/// More entries than any image's archive has.
const MAX_ENTRIES: usize = 10_000;

/// An archive whose entries are known.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    /// Where each file's content is, by its name.
    files: BTreeMap<String, (u64, u64)>,
    top: Descriptor,
    /// A manifest that the archive does not have, since older formats have none.
    made: Option<Vec<u8>>,
    /// Names of blobs in older formats.
    blobs: BTreeMap<Digest, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
}

impl Archive {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let files = entries(path)?;
        let nothing = Descriptor {
            media_type: String::new(),
            digest: Digest::of(&[]),
            size: 0,
            platform: None,
            annotations: None,
        };
        let (path, blobs) = (path.to_owned(), BTreeMap::new());
        let mut archive = Self { path, files, top: nothing, made: None, blobs };
        if archive.files.contains_key("index.json") {
            let index = archive.read("index.json", MAX_MANIFEST)?;
            archive.top = layout::choose(&index, None, &archive.path).map_err(Error::Manifest)?;
        } else {
            archive.saved()?;
        }
        Ok(archive)
    }

    /// The older format: makes the manifest that the image would have in a registry without compression.
    fn saved(&mut self) -> Result<(), Error> {
        let saved = self.read("manifest.json", MAX_MANIFEST)?;
        let saved: Vec<Saved> =
            serde_json::from_slice(&saved).map_err(|error| Error::Manifest(Problem::Json(error)))?;
        let [image] = &saved[..] else {
            let text = format!("it has {} images, and must have one", saved.len());
            return Err(Error::Manifest(Problem::NoSuchImage(text)));
        };
        let config = self.read(&image.config, MAX_CONFIG)?;
        let parsed: Config =
            serde_json::from_slice(&config).map_err(|error| Error::Config(Problem::Json(error)))?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let (layers, diff_ids) = (image.layers.len(), diff_ids.len());
            return Err(Error::Config(Problem::DiffIds { layers, diff_ids }));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(diff_ids) {
            let (_, size) = self.place(name)?;
            // The layers are plain as a rule, and then the digest is the diffID, which is checked when they are read.
            let mut start = [0; 4];
            let plain = match self.content(name)?.read_exact(&mut start) {
                Ok(()) => !matches!(start, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]),
                Err(_) => true,
            };
            let digest = if plain { diff_id } else { self.hash(name)? };
            self.blobs.insert(digest, name.clone());
            layers.push(json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "digest": digest, "size": size,
            }));
        }
        let digest = Digest::of(&config);
        self.blobs.insert(digest, image.config.clone());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest,
                "size": config.len(),
            },
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        self.top.digest = Digest::of(&manifest);
        self.top.size = manifest.len() as u64;
        self.made = Some(manifest);
        Ok(())
    }

    fn hash(&self, name: &str) -> Result<Digest, Error> {
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        let mut content = self.content(name)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match content.read(&mut buffer).map_err(Error::file("read", &self.path))? {
                0 => return Ok(Digest::finish(hash)),
                read => hash.update(&buffer[..read]),
            }
        }
    }

    fn place(&self, name: &str) -> Result<(u64, u64), Error> {
        let reason = || format!("it has no file {name:?}; is it of `docker save`?");
        let missing = || Error::Archive { path: self.path.clone(), reason: reason() };
        self.files.get(name).copied().ok_or_else(missing)
    }

    fn content(&self, name: &str) -> Result<io::Take<File>, Error> {
        let (offset, size) = self.place(name)?;
        let open = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file.take(size))
        };
        open().map_err(Error::file("read", &self.path))
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let (_, size) = self.place(name)?;
        if size > limit {
            return Err(Error::TooLarge { what: "file", digest: name.to_owned(), size });
        }
        let mut bytes = Vec::new();
        self.content(name)?.read_to_end(&mut bytes).map_err(Error::file("read", &self.path))?;
        Ok(bytes)
    }

    fn name(&self, what: &'static str, blob: &Descriptor) -> Result<String, Error> {
        let in_layout = format!("blobs/sha256/{}", blob.digest.hex());
        let name = self.blobs.get(&blob.digest).cloned().unwrap_or(in_layout);
        match self.files.contains_key(&name) {
            true => Ok(name),
            false => Err(Error::NoBlob { what, digest: blob.digest, place: self.path.clone() }),
        }
    }
}

impl Store for Archive {
    fn top(&self) -> Result<Descriptor, Error> {
        Ok(self.top.clone())
    }

    fn manifest(&self, manifest: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        match &self.made {
            Some(made) if manifest.digest == self.top.digest => Ok(made.clone()),
            _ => {
                let name = self.name("manifest", manifest)?;
                let mut bytes = Vec::new();
                let read = self.content(&name)?.take(limit + 1).read_to_end(&mut bytes);
                read.map_err(Error::file("read", &self.path))?;
                Ok(bytes)
            }
        }
    }

    fn blob<'a>(&'a self, what: &'static str, blob: &Descriptor) -> Result<Box<dyn Read + Send + 'a>, Error> {
        let name = self.name(what, blob)?;
        Ok(Box::new(self.content(&name)?))
    }
}

/// All files, and the links between them that older versions of Docker wrote for layers of the same content.
fn entries(path: &Path) -> Result<BTreeMap<String, (u64, u64)>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let bad = |reason: String| Error::Archive { path: path.to_owned(), reason };
    let mut archive = tar::Archive::new(file);
    let mut files = BTreeMap::new();
    let mut links = Vec::new();
    let unreadable =
        |error: io::Error| bad(format!("it is no plain tar ({error}); unpack it first if it is compressed"));
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Some(name) = crate::accounts::normal(&entry.path_bytes()) else { continue };
        if files.len() + links.len() > MAX_ENTRIES {
            return Err(bad(format!("it has more than {MAX_ENTRIES} entries")));
        }
        match entry.header().entry_type() {
            kind if kind.is_file() => {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            }
            kind if kind.is_symlink() || kind.is_hard_link() => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let directory = if kind.is_symlink() { directory.as_bytes() } else { b"" };
                let target = crate::accounts::normal(&[directory, &target].join(&b'/'));
                links.extend(target.map(|target| (name, target)));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(&place) = files.get(&target) {
            files.insert(name, place);
        }
    }
    if files.is_empty() {
        return Err(bad("it has no files".into()));
    }
    Ok(files)
}
