//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use verity::RootHash;

use crate::digest::NotADigest;
use crate::manifest::{MAX_CONFIG, MAX_MANIFEST};
use crate::mkfs::{MINIMUM, Version};
use crate::{Digest, MAX_LAYERS};

/// What is wrong with a document of an image.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not JSON, or a field of another type.
    #[error("it cannot be read")]
    Json(#[source] serde_json::Error),
    /// Docker's first schema, or none.
    #[error("it has not schemaVersion 2; images of Docker's first schema are not supported")]
    Schema,
    /// Something else.
    #[error("its media type is {0}, which is no image's")]
    MediaType(String),
    /// Fields of an index and of a manifest.
    #[error("it is an index and a manifest at the same time")]
    Ambiguous,
    /// Nothing to run.
    #[error("it has no layers")]
    NoLayers,
    /// More than can be stacked.
    #[error("it has {0} layers, and can have {MAX_LAYERS} at most")]
    Layers(usize),
    /// A long index.
    #[error("it has {0} entries, which is more than any index needs")]
    Entries(usize),
    /// An index that refers to an index, and so on.
    #[error("it is an index of indices of indices")]
    Nested,
    /// For another machine.
    #[error("it has no image for linux/amd64; it has: {0}")]
    Platform(String),
    /// The lists do not belong to each other.
    #[error("it has {diff_ids} diffIDs, and the manifest has {layers} layers")]
    DiffIds {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A layout's tag or an archive's image is not there, or is not the only one.
    #[error("{0}")]
    NoSuchImage(String),
}

/// Why an image's layers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text names no source.
    #[error("{text:?} names no image: {reason}")]
    Source {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An index or a manifest is wrong.
    #[error("cannot use the manifest of the image")]
    Manifest(#[source] Problem),
    /// An image's configuration is wrong.
    #[error("cannot use the configuration of the image")]
    Config(#[source] Problem),
    /// A document is larger than is read.
    #[error(
        "{what} {digest} has {size} bytes; a manifest has {MAX_MANIFEST} at most, a configuration {MAX_CONFIG}"
    )]
    TooLarge {
        /// Manifest or configuration.
        what: &'static str,
        /// Which.
        digest: String,
        /// How large it is, or how much was read of it.
        size: u64,
    },
    /// The bytes are others than those that the digest names.
    #[error(
        "{what} {expected} has other bytes than its digest says (they have {found}): somebody changed it, or its download broke"
    )]
    Digest {
        /// Manifest, configuration or layer.
        what: &'static str,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The unpacked bytes are others than the configuration says.
    #[error("layer {layer} unpacks to {found}, and the image's configuration says {expected}")]
    DiffId {
        /// The blob.
        layer: Digest,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// More or fewer bytes than the manifest says.
    #[error("{what} {digest} has {found} bytes, and the image's manifest says {expected}")]
    Size {
        /// Manifest, configuration or layer.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// What it should have.
        expected: u64,
        /// What it has, or one more than it may have.
        found: u64,
    },
    /// A layer that may not be distributed.
    #[error(
        "layer {layer} is a foreign (non-distributable) one, which a registry does not have; only images without such layers are supported"
    )]
    Foreign {
        /// The blob.
        layer: Digest,
    },
    /// A layer that only its owner can read.
    #[error("layer {layer} is encrypted, which is not supported")]
    Encrypted {
        /// The blob.
        layer: Digest,
    },
    /// A blob that is no tar.
    #[error(
        "layer {layer} has media type {media_type:?}; supported are tar, plain or compressed with gzip or zstd"
    )]
    LayerMediaType {
        /// The blob.
        layer: Digest,
        /// What it is called.
        media_type: String,
    },
    /// A layer whose bytes cannot be unpacked.
    #[error("layer {layer} cannot be unpacked: it is {kind}, and damaged")]
    Unpack {
        /// The blob.
        layer: Digest,
        /// How it is compressed.
        kind: &'static str,
        /// What the decompressor said.
        #[source]
        source: io::Error,
    },
    /// A layer with an entry that may be another one than it looks like.
    #[error(
        "layer {layer} cannot be converted: the pax header or GNU name before its entry {entry:?} {why}; build the image with \
         another tool"
    )]
    TarHeader {
        /// The blob.
        layer: Digest,
        /// The entry's path as far as that is known.
        entry: String,
        /// What is wrong with the header.
        why: &'static str,
    },
    /// A blob that cannot be read.
    #[error("cannot read {what} {digest}")]
    Read {
        /// Manifest, configuration or layer.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A blob is missing in a layout or archive.
    #[error("{what} {digest} is not in {}", place.display())]
    NoBlob {
        /// Manifest, configuration or layer.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// Layout or archive.
        place: PathBuf,
    },
    /// An archive has a structure that is not Docker's.
    #[error("cannot use the archive {}: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file or directory.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The converter is missing.
    #[error("mkfs.erofs is not installed: install erofs-utils {MINIMUM} or later (Debian: erofs-utils)")]
    NoMkfs,
    /// The converter cannot do it.
    #[error("{} is of erofs-utils {found}, and {MINIMUM} or later is needed: older ones make other bytes of the same layer each time", program.display())]
    OldMkfs {
        /// Where it is.
        program: PathBuf,
        /// What it is.
        found: Version,
    },
    /// The converter's version is not to be learned.
    #[error("{} --version says no version of erofs-utils: {said:?}", program.display())]
    UnknownMkfs {
        /// Where it is.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// The converter failed.
    #[error("mkfs.erofs of erofs-utils {version} failed on layer {layer} ({status}): {said}")]
    Mkfs {
        /// The blob.
        layer: Digest,
        /// The converter's version.
        version: Version,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        said: String,
    },
    /// No room.
    #[error("no space left in {} for the layers of the image", dir.display())]
    DiskFull {
        /// Where.
        dir: PathBuf,
    },
    /// The hash is not the one that the pod's policy has.
    #[error(
        "erofs-utils {version} made {made} of layer {layer}, the pod wants {wanted}: take the version of erofs-utils that the policy was made with, or make the policy anew"
    )]
    Unwanted {
        /// The blob.
        layer: Digest,
        /// The version that made it.
        version: Version,
        /// The root hash here.
        made: RootHash,
        /// What the policy has in its place.
        wanted: RootHash,
    },
    /// The policy is one for another image.
    #[error(
        "the image has {found} layers, and the pod wants {wanted}: its policy was made for another image"
    )]
    UnwantedNumber {
        /// In the image.
        found: usize,
        /// In the policy.
        wanted: usize,
    },
    /// Another process converts the same layer, and does not end.
    #[error("another process has been converting layer {layer} for more than {} s (lock {})", waited.as_secs(), lock.display())]
    Busy {
        /// The blob.
        layer: Digest,
        /// How long it was waited for.
        waited: Duration,
        /// What it holds.
        lock: PathBuf,
    },
    /// A registry.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// containerd.
    #[error(transparent)]
    Containerd(#[from] crate::containerd::ContainerdError),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { dir: path.parent().unwrap_or(&path).to_owned() }
            }
            _ => Self::File { action, path, source },
        }
    }
}

impl From<NotADigest> for Problem {
    fn from(error: NotADigest) -> Self {
        Self::NoSuchImage(error.to_string())
    }
}
