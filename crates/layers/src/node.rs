//! The node's side: layers of containerd's images, each converted once and kept.
//!
//! A layer's image is `<digest of its blob>.erofs` in the cache, with its hash tree; beside it is a note of the same name with
//! `.json`. Whoever uses an image holds a shared lock (`flock`) on it; what nobody holds goes when the cache is too large,
//! those first that were not used for longest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use jail::Builder;
use serde::Serialize;
use verity::RootHash;

use crate::containerd::Containerd;
use crate::convert::{Converted, convert};
use crate::error::Error;
use crate::files::{self, Lock, Temporary};
use crate::mkfs::Mkfs;
use crate::source::{Store, resolve};
use crate::tenant::{Progress, megabytes};
use crate::volumes::Places;
use crate::{Digest, Layer, pool};

/// How long a layer is waited for that somebody is about to remove. After that it is converted anew.
const IN_USE: Duration = Duration::from_secs(10);

/// A node's layers.
#[derive(Debug)]
pub struct Node {
    /// Where they are kept; made when it is needed.
    pub cache: PathBuf,
    /// How large the cache may grow, as far as images in use allow.
    pub bytes: u64,
    /// How long another process may take for a layer that is wanted here.
    pub patience: Duration,
    /// Where mkfs.erofs is looked for.
    pub search: Vec<PathBuf>,
    /// As whom it runs; `None`: as the caller, for one that has no right to be somebody else.
    pub builder: Option<Builder>,
}

/// A layer on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeLayer {
    /// The EROFS image with its hash tree.
    pub path: PathBuf,
    /// The name that proves its content.
    pub root_hash: RootHash,
    /// SHA-256 of the blob's content.
    pub diff_id: Digest,
    /// SHA-256 of the blob.
    pub digest: Digest,
}

/// Locks on all of an image's layers.
#[derive(Debug)]
#[must_use = "who drops it lets others remove the layers"]
pub struct Held(#[expect(dead_code, reason = "held for its locks")] Vec<File>);

impl Node {
    /// The layers of a container's image, the topmost first; `None` where the container has no image in containerd.
    /// `wanted` are the root hashes that the pod's policy has for them, in the same order.
    ///
    /// # Errors
    /// [`Error`].
    pub fn container(
        &self,
        socket: &Path,
        namespace: &str,
        id: &str,
        wanted: Option<&[RootHash]>,
        progress: Progress,
    ) -> Result<Option<(Vec<NodeLayer>, Held)>, Error> {
        match Containerd::open(socket, namespace, id)? {
            Some(containerd) => {
                let name = containerd.image().to_owned();
                let progress = |text: &str| progress(&format!("{name}: {text}"));
                self.image(&containerd, wanted, &progress).map(Some)
            }
            None => Ok(None),
        }
    }

    fn image(
        &self,
        store: &dyn Store,
        wanted: Option<&[RootHash]>,
        progress: Progress,
    ) -> Result<(Vec<NodeLayer>, Held), Error> {
        files::make_private(&self.cache).map_err(Error::file("make", &self.cache))?;
        let image = resolve(store)?;
        let total = image.layers.len();
        if let Some(wanted) = wanted
            && wanted.len() != total
        {
            return Err(Error::UnwantedNumber { found: total, wanted: wanted.len() });
        }
        let held = Mutex::new(Vec::new());
        let made = pool::each(&image.layers, |layer| {
            let number = image.layers.iter().position(|other| other == layer).unwrap_or_default();
            // Manifests have the bottom one first.
            let wanted = wanted.and_then(|wanted| wanted.get(total - 1 - number).copied());
            let name = format!("layer {} of {total}, {}", number + 1, layer.blob.digest.short());
            let (converted, file) =
                self.layer(store, layer, wanted, &|text| progress(&format!("{name}: {text}")))?;
            if let Ok(mut held) = held.lock() {
                held.push(file);
            }
            Ok(converted)
        })?;
        let mut layers = Vec::new();
        for (converted, wanted) in made.iter().rev().zip(0..).map(|(made, n)| (made, wanted.map(|w| w[n]))) {
            // Equal layers are looked at once above, and each place counts.
            check(converted, wanted)?;
            layers.push(NodeLayer {
                path: self.place(converted.digest, "erofs"),
                root_hash: converted.root_hash,
                diff_id: converted.diff_id,
                digest: converted.digest,
            });
        }
        self.clean();
        Ok((layers, Held(held.into_inner().unwrap_or_default())))
    }

    fn layer(
        &self,
        store: &dyn Store,
        layer: &Layer,
        wanted: Option<RootHash>,
        progress: Progress,
    ) -> Result<(Converted, File), Error> {
        let digest = layer.blob.digest;
        let mut mkfs = None;
        if let Some((known, file)) = self.known(layer) {
            if wanted.is_none_or(|wanted| wanted == known.root_hash) {
                return Ok((known, file));
            }
            // Another version may make the bytes that the pod wants; the same one will not.
            let found = self.mkfs()?;
            if found.version() == known.erofs_utils {
                return check(&known, wanted).map(|()| (known, file));
            }
            mkfs = Some(found);
        }
        let path = self.place(digest, "lock");
        let start = Instant::now();
        let busy = || Error::Busy { layer: digest, waited: start.elapsed(), lock: path.clone() };
        let _lock = Lock::wait(&path, self.patience)?.ok_or_else(busy)?;
        if let Some((known, file)) = self.known(layer)
            && wanted.is_none_or(|wanted| wanted == known.root_hash)
        {
            return Ok((known, file));
        }
        let mkfs = match mkfs {
            Some(mkfs) => mkfs,
            None => self.mkfs()?,
        };
        self.clean();
        progress(&format!("converting {:.1} MB", megabytes(layer.blob.size)));
        let start = Instant::now();
        let temporary = Temporary::new(&self.cache, &digest.hex())?;
        let converted = convert(
            &mkfs,
            layer,
            Places::default(),
            &mut store.blob("layer", &layer.blob)?,
            temporary.path(),
        )?;
        // Checked before it has a name: what nobody wants takes no room, and nothing that is in use from its users.
        check(&converted, wanted)?;
        files::write_note(&self.place(digest, "json"), &converted)?;
        temporary.keep(&self.place(digest, "erofs"))?;
        progress(&format!(
            "done in {:.1} s, root hash {}",
            start.elapsed().as_secs_f64(),
            converted.root_hash
        ));
        let lost = || Error::file("find", self.place(digest, "erofs"))(std::io::ErrorKind::NotFound.into());
        self.known(layer).ok_or_else(lost)
    }

    fn mkfs(&self) -> Result<Mkfs, Error> {
        Ok(Mkfs::find(self.search.iter().cloned())?.jailed(self.builder.clone()))
    }

    fn place(&self, digest: Digest, extension: &str) -> PathBuf {
        self.cache.join(format!("{}.{extension}", digest.hex()))
    }

    /// A layer that is there, whole as far as its superblocks and the top of its tree say, and now in use.
    fn known(&self, layer: &Layer) -> Option<(Converted, File)> {
        let digest = layer.blob.digest;
        let note: Converted = files::read_note(&self.place(digest, "json"))?;
        let file = File::open(self.place(digest, "erofs")).ok()?;
        files::lock_shared(&file, IN_USE)?;
        let (root_hash, _) = verity::read_root(&file).ok()?;
        let is_this = (note.digest, note.diff_id, note.root_hash) == (digest, layer.diff_id, root_hash);
        // What was used last is kept longest; a read-only directory only makes that worse.
        let _ = file.set_modified(SystemTime::now());
        (is_this && files::is_linked(&file)).then_some((note, file))
    }

    /// Removes what dead processes left, then layers that nobody uses until the rest fits.
    /// Best effort: a cache that is too large is no reason to refuse a container.
    fn clean(&self) {
        files::remove_dead(&self.cache);
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.cache).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            if path.extension().is_some_and(|extension| extension == "erofs") {
                images.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
            }
        }
        images.sort();
        let mut total: u64 = images.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in images {
            if total <= self.bytes {
                break;
            }
            if files::remove_unused(&path).is_ok() {
                let _ = fs::remove_file(path.with_extension("json"));
                total -= bytes;
            }
        }
    }
}

/// Names the versions where the bytes are others than the policy's.
fn check(made: &Converted, wanted: Option<RootHash>) -> Result<(), Error> {
    match wanted {
        Some(wanted) if wanted != made.root_hash => Err(Error::Unwanted {
            layer: made.digest,
            version: made.erofs_utils,
            made: made.root_hash,
            wanted,
        }),
        _ => Ok(()),
    }
}
