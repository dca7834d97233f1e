//! Root file systems as read-only EROFS images with dm-verity trees, by whose root hashes the guest knows them:
//! containerd's own layers where its EROFS snapshotter made them with a tree, else the image's layers converted once, else
//! one image built from the mounted root file system.

mod build;
mod cache;
mod convert;
mod layer;
mod layers;
mod tree;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use jail::Builder;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

pub use cache::{Cache, DEFAULT_CACHE_BYTES, IMAGES};
pub use convert::Conversion;
pub use layer::Layer;
use verity::{ReadError, RootHash, SidecarError};

/// One of the mounts that containerd asks a shim to make for a container's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind`, `erofs`, `format/mkdir/overlay`...
    pub fstype: String,
    /// A path, or a word that means nothing.
    pub source: String,
    /// As in mount(8), with containerd's own among them.
    pub options: Vec<String>,
}

impl Mount {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What can go wrong with a root file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that containerd named cannot be used.
    #[error("cannot use {path} of the container's root file system: it {reason}")]
    Untrusted {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A mount that we do not know how to turn into an image.
    #[error("a root file system of type {fstype:?} is not supported: {reason}")]
    Unsupported {
        /// As containerd calls it.
        fstype: String,
        /// What stands in the way.
        reason: &'static str,
    },
    /// A file or directory cannot be read, made or removed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An image without a hash tree, or with one of another kind.
    #[error("image layer {image} has no dm-verity tree as containerd makes it")]
    NoTree {
        /// The image.
        image: PathBuf,
        /// What is wrong.
        #[source]
        source: ReadError,
    },
    /// An image that is another one.
    #[error("image layer {image} has root hash {found}, and {described} is what whoever made it says")]
    OtherRoot {
        /// The image.
        image: PathBuf,
        /// By its tree.
        found: RootHash,
        /// By its description.
        described: RootHash,
    },
    /// containerd's description of a layer's tree is damaged.
    #[error(transparent)]
    Sidecar(Box<SidecarError>),
    /// containerd's layers cannot be converted.
    #[error("{program} cannot convert the image's layers: {reason}")]
    Convert {
        /// The program.
        program: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The image builder is missing.
    #[error("mkfs.erofs was not found in {searched:?}; install Debian's package erofs-utils")]
    NoMkfs {
        /// Directories.
        searched: Vec<PathBuf>,
    },
    /// The image builder failed.
    #[error("mkfs.erofs failed ({status}) on {image}: {stderr}")]
    Mkfs {
        /// What it should have made.
        image: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it wrote.
        stderr: String,
    },
    /// Somebody has a lock for too long.
    #[error("{path} is locked by {holder} for {limit:?} by now; end that process (`fuser -v` shows it)")]
    Locked {
        /// The file.
        path: PathBuf,
        /// As the holder calls itself.
        holder: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// No room for the image.
    #[error("no space left for an EROFS image in {dir}; free some, or make the cache smaller")]
    DiskFull {
        /// The cache's directory.
        dir: PathBuf,
    },
}

impl Error {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// What is needed to give a root file system's image back without the shim that took it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsRecord {
    /// An image that belongs to one container alone.
    pub own_image: Option<PathBuf>,
}

impl RootfsRecord {
    /// Removes the container's own image, if it had one; repeats do no harm.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn release(&self) -> Result<(), Error> {
        let Some(image) = &self.own_image else { return Ok(()) };
        match std::fs::remove_file(image) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove image", image)(e)),
            _ => Ok(()),
        }
    }
}

/// Layers with a hash tree that containerd 2.3 or later has made, the top one first; `None` where it did not make them, or
/// made none for one of them.
///
/// # Errors
/// [`Error::Untrusted`], [`Error::Unsupported`], [`Error::Sidecar`], [`Error::NoTree`], [`Error::OtherRoot`],
/// [`Error::File`].
pub fn containerds_layers(mounts: &[Mount]) -> Result<Option<Vec<Layer>>, Error> {
    let Some(images) = layers::find(mounts)? else { return Ok(None) };
    images.iter().map(|image| Layer::with_sidecar(image)).collect()
}

/// Whether a container has changed its root file system already, so that the image's layers are not all of it.
///
/// # Errors
/// [`Error::File`].
pub fn has_changes(mounts: &[Mount]) -> Result<bool, Error> {
    layers::upper_is_empty(mounts).map(|empty| !empty)
}

/// A root file system as one image, which has to be built or is in the cache.
#[derive(Debug)]
pub struct ImagePlan {
    tree: tree::Tree,
    cache: Cache,
    place: cache::Place,
}

impl ImagePlan {
    /// Decides by the mounts alone and builds nothing.
    ///
    /// # Errors
    /// [`Error::Untrusted`], [`Error::Unsupported`], [`Error::File`].
    pub fn new(mounts: &[Mount], cache: Cache) -> Result<Self, Error> {
        let tree = tree::Tree::new(mounts)?;
        let place = cache.place(&tree)?;
        Ok(Self { tree, cache, place })
    }

    /// What to write down before [`Self::claim`].
    #[must_use]
    pub fn record(&self) -> RootfsRecord {
        RootfsRecord { own_image: self.place.own() }
    }

    /// Builds the image where there is none yet. `search` is where mkfs.erofs is looked for; without a `builder` it runs as
    /// the caller.
    ///
    /// # Errors
    /// [`Error::NoMkfs`], [`Error::Mkfs`], [`Error::DiskFull`], [`Error::Locked`], [`Error::File`].
    pub async fn claim(self, search: &[PathBuf], builder: Option<Builder>) -> Result<Rootfs, Error> {
        let mut rootfs =
            Rootfs { layers: Vec::new(), _in_use: None, held: Vec::new(), record: self.record() };
        let image = build::run(self, search, builder).await?;
        rootfs.layers.push(image.layer.clone());
        rootfs._in_use = Some(image);
        Ok(rootfs)
    }
}

/// A root file system's images, ours to use.
#[derive(Debug)]
#[must_use = "dropping it removes an image that is not in the cache"]
pub struct Rootfs {
    layers: Vec<Layer>,
    /// The lock that keeps the image in the cache.
    _in_use: Option<cache::Image>,
    /// The same for converted layers.
    held: Vec<Flock<File>>,
    record: RootfsRecord,
}

impl Rootfs {
    /// One of layers that stay when it is released.
    pub fn of_layers(layers: Vec<Layer>) -> Self {
        Self { layers, _in_use: None, held: Vec::new(), record: RootfsRecord::default() }
    }

    /// The layers, the top one first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Gives the images back: VM and QEMU must have closed them.
    ///
    /// # Errors
    /// As [`RootfsRecord::release`].
    pub fn release(self) -> Result<(), Error> {
        self.record.release()
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        let _ = self.record.release();
    }
}
