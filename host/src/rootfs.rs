//! Root file systems as read-only EROFS images: containerd's own layers where its EROFS snapshotter made
//! them, else one image built from the mounted root file system.

mod build;
mod cache;
mod layers;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

pub use cache::{Cache, DEFAULT_CACHE_BYTES};

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
    #[error("Cannot use {path:?} of the container's root file system: it {reason}")]
    Untrusted {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A mount that we do not know how to turn into an image.
    #[error("A root file system of type {fstype:?} is not supported: {reason}")]
    Unsupported {
        /// As containerd calls it.
        fstype: String,
        /// What stands in the way.
        reason: &'static str,
    },
    /// A file or directory cannot be read, made or removed.
    #[error("Cannot {action} {path:?}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image builder is missing.
    #[error("mkfs.erofs was not found in {searched:?}; install Debian's package erofs-utils")]
    NoMkfs {
        /// Directories.
        searched: Vec<PathBuf>,
    },
    /// The image builder failed.
    #[error("mkfs.erofs failed ({status}) on {image:?}: {stderr}")]
    Mkfs {
        /// What it should have made.
        image: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it wrote.
        stderr: String,
    },
    /// No room for the image.
    #[error("No space left for an EROFS image in {dir:?}; free some, or make the cache smaller")]
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

/// How a container's root file system gets into the VM.
#[derive(Debug)]
pub enum RootfsPlan {
    /// Layers that exist, the top one first.
    Layers(Vec<PathBuf>),
    /// An image that has to be built, or is in the cache.
    Image(ImagePlan),
}

/// An image to be.
#[derive(Debug)]
pub struct ImagePlan {
    tree: tree::Tree,
    cache: Cache,
    place: cache::Place,
}

impl RootfsPlan {
    /// Decides by containerd's mounts alone and builds nothing. `id` is the container's, unique on the host
    /// together with `sandbox`.
    ///
    /// # Errors
    /// [`Error::Untrusted`], [`Error::Unsupported`], [`Error::File`].
    pub fn new(mounts: &[Mount], cache: Cache, sandbox: &str, id: &str) -> Result<Self, Error> {
        if let Some(layers) = layers::find(mounts)? {
            return Ok(Self::Layers(layers));
        }
        let tree = tree::Tree::new(mounts)?;
        let place = cache.place(&tree, sandbox, id)?;
        Ok(Self::Image(ImagePlan { tree, cache, place }))
    }

    /// What to write down before [`Self::claim`].
    #[must_use]
    pub fn record(&self) -> RootfsRecord {
        match self {
            Self::Layers(_) => RootfsRecord::default(),
            Self::Image(plan) => RootfsRecord { own_image: plan.place.own() },
        }
    }

    /// Builds the image where there is none yet. `search` is where mkfs.erofs is looked for.
    ///
    /// # Errors
    /// [`Error::NoMkfs`], [`Error::Mkfs`], [`Error::DiskFull`], [`Error::File`].
    pub async fn claim(self, search: &[PathBuf]) -> Result<Rootfs, Error> {
        let record = self.record();
        match self {
            Self::Layers(layers) => Ok(Rootfs { layers, _in_use: None, record }),
            Self::Image(plan) => {
                let mut rootfs = Rootfs { layers: Vec::new(), _in_use: None, record };
                let image = build::run(plan, search).await?;
                rootfs.layers.push(image.path.clone());
                rootfs._in_use = Some(image);
                Ok(rootfs)
            }
        }
    }
}

/// A root file system's images, ours to use.
#[derive(Debug)]
#[must_use = "dropping it removes an image that is not in the cache"]
pub struct Rootfs {
    layers: Vec<PathBuf>,
    /// The lock that keeps the image in the cache.
    _in_use: Option<cache::Image>,
    record: RootfsRecord,
}

impl Rootfs {
    /// EROFS images, the top one first.
    #[must_use]
    pub fn layers(&self) -> &[PathBuf] {
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

/// An absolute path to a regular file that starts like an EROFS image.
fn check_image(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileExt;

    let untrusted = |reason| Error::Untrusted { path: path.to_owned(), reason };
    if !path.is_absolute() {
        return Err(untrusted("is not absolute"));
    }
    let meta = std::fs::symlink_metadata(path).map_err(Error::file("look at", path))?;
    if !meta.is_file() {
        return Err(untrusted("is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(Error::file("open", path))?;
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, SUPERBLOCK) {
        Ok(()) if magic == MAGIC => Ok(()),
        Ok(()) => Err(untrusted("is not an EROFS image")),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(untrusted("is too short for an EROFS image"))
        }
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

/// Where the superblock is: `EROFS_SUPER_OFFSET`.
const SUPERBLOCK: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`, little-endian.
const MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
