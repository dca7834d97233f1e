//! A layer: which blob, and what its bytes are.

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::error::Error;

/// As many layers as an image can have: Docker's limit, and what one page of overlay options holds.
pub const MAX_LAYERS: usize = 127;

/// What refers to a blob (OCI image specification, `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// For which machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Whatever else is said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As Go has it.
    #[serde(default)]
    pub architecture: String,
    /// As Go has it.
    #[serde(default)]
    pub os: String,
    /// A level of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What the image needs beyond the usual.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// A layer that can be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob, as the image's manifest names it.
    pub blob: Descriptor,
    /// SHA-256 of the blob's content, unpacked, as the image's configuration names it.
    pub diff_id: Digest,
}

impl Layer {
    /// Looks at the layer's media type alone; how its bytes are compressed, they say themselves.
    pub(crate) fn new(blob: Descriptor, diff_id: Digest) -> Result<Self, Error> {
        let media_type = blob.media_type.as_str();
        match media_type {
            // A layout made by hand may leave it out.
            "" => return Ok(Self { blob, diff_id }),
            _ if media_type.contains("foreign") || media_type.contains("nondistributable") => {
                return Err(Error::Foreign { layer: blob.digest });
            }
            _ if media_type.ends_with("+encrypted") => return Err(Error::Encrypted { layer: blob.digest }),
            _ => {}
        }
        let tar = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
        let rest = tar.iter().find_map(|prefix| media_type.strip_prefix(prefix));
        match rest {
            Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd") => Ok(Self { blob, diff_id }),
            _ => Err(Error::LayerMediaType {
                layer: blob.digest,
                media_type: media_type.chars().take(100).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_are_no_tar_are_refused_by_name() {
        let layer = |media_type: &str| {
            let blob = Descriptor {
                media_type: media_type.into(),
                digest: Digest::of(b"x"),
                size: 1,
                platform: None,
                annotations: None,
            };
            Layer::new(blob, Digest::of(b"y"))
        };
        for good in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "",
        ] {
            assert!(layer(good).is_ok(), "{good}");
        }
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            assert!(matches!(layer(foreign), Err(Error::Foreign { .. })), "{foreign}");
        }
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        assert!(matches!(layer(encrypted), Err(Error::Encrypted { .. })));
        for other in [
            "application/vnd.erofs.layer.v1",
            "application/vnd.in-toto+json",
            "application/vnd.oci.image.layer.v1.tar+lzma",
            "text/plain",
        ] {
            assert!(matches!(layer(other), Err(Error::LayerMediaType { .. })), "{other}");
        }
    }
}
