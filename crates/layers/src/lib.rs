//! Container images' layers as EROFS images with a hash tree, whose root hash names their content.
//!
//! The tenant computes root hashes of an image that is in a registry, a directory or a file ([`Hasher`]), the node makes the
//! same bytes of the image that its containerd has ([`Node`]). Both do it in one way: the layer's blob is streamed once,
//! its digest and its content's (diffID) are computed on the way, mkfs.erofs gets the content by its standard input, and
//! [`verity`] appends the hash tree. The bytes are a function of the layer and of the version of erofs-utils; they are
//! those that containerd 2.3 and later makes with `enable_dmverity = true` and
//! `mkfs_options = ["-T0", "--mkfs-time", "--sort=none"]`.
//!
//! Nothing here trusts a registry, a file or containerd: an image is what its digest says, or an error.

mod accounts;
mod archive;
mod background;
mod containerd;
mod convert;
mod credentials;
mod digest;
mod error;
mod files;
mod layer;
mod layout;
mod manifest;
mod mkfs;
mod node;
mod pool;
mod registry;
mod source;
mod tar;
mod tenant;
mod volumes;

pub use containerd::ContainerdError;
pub use credentials::Places;
pub use digest::{Digest, NotADigest};
pub use error::{Error, Problem};
pub use layer::{Descriptor, Layer, MAX_LAYERS, Platform};
pub use mkfs::{Mkfs, Version};
pub use node::{Held, Node, NodeLayer};
pub use registry::{Registries, RegistryError};
pub use source::{Image, Source};
pub use tenant::{HashedImage, HashedLayer, Hasher, Progress};
