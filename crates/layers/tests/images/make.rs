//! Makes images.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use layers::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An entry of a layer.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    File(&'static str, Vec<u8>),
    Directory(&'static str),
    Symlink(&'static str, &'static str),
    Hardlink(&'static str, &'static str),
    /// With a pax header: `SCHILY.xattr.user.x`, `mtime`.
    Pax(&'static str, &'static str, &'static str),
}

/// A layer's archive.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_ustar();
        // A zero byte means the same to everybody but mkfs.erofs.
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match item {
            Item::File(path, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, &content[..]).unwrap();
            }
            Item::Directory(path) => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, path, &[][..]).unwrap();
            }
            Item::Symlink(path, target) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Item::Hardlink(path, target) => {
                header.set_entry_type(EntryType::Link);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Item::Pax(path, key, value) => {
                // `Builder::append_pax_extensions` leaves fields empty that mkfs.erofs reads.
                let record = format!("{key}={value}\n");
                let length = (1..).find(|n| *n == record.len() + 1 + n.to_string().len()).unwrap();
                let record = format!("{length} {record}");
                let mut pax = header.clone();
                pax.set_entry_type(EntryType::XHeader);
                pax.set_size(record.len() as u64);
                builder.append_data(&mut pax, "PaxHeaders/0", record.as_bytes()).unwrap();
                header.set_size(1);
                builder.append_data(&mut header, path, &b"x"[..]).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// A layer with one file.
pub(crate) fn simple(path: &'static str, content: &str) -> Vec<u8> {
    tar(&[Item::File(path, content.into())])
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image: its blobs by digest, and the manifest's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
}

impl Image {
    /// Of layers as they are in the blobs, with their plain content, the bottom one first.
    pub(crate) fn new(layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let mut image = Self::default();
        let mut descriptors = Vec::new();
        for (blob, plain) in layers {
            let suffix = match blob.first_chunk() {
                Some([0x1f, 0x8b]) => "+gzip",
                Some([0x28, 0xb5]) => "+zstd",
                _ => "",
            };
            assert!(suffix.is_empty() != (blob != plain));
            descriptors.push(image.blob(&format!("{LAYER}{suffix}"), blob.clone()));
        }
        let diff_ids: Vec<_> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
        image.config = json!({
            "os": "linux", "architecture": "amd64",
            "config": {"Entrypoint": ["/app"], "User": "7:8"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        image.manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors});
        image
    }

    /// Of plain layers.
    pub(crate) fn plain(layers: &[Vec<u8>]) -> Self {
        Self::new(&layers.iter().map(|layer| (layer.clone(), layer.clone())).collect::<Vec<_>>())
    }

    pub(crate) fn blob(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = Digest::of(&content);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
        self.blobs.insert(digest.to_string(), content);
        descriptor
    }

    /// Writes configuration and manifest, and gives the manifest's descriptor.
    pub(crate) fn seal(&mut self) -> Value {
        let config = self.config.to_string().into_bytes();
        self.manifest["config"] = self.blob("application/vnd.oci.image.config.v1+json", config);
        let manifest = self.manifest.to_string().into_bytes();
        self.blob(MANIFEST, manifest)
    }

    /// The content of the layer `number`, from the bottom.
    pub(crate) fn layer_mut(&mut self, number: usize) -> &mut Vec<u8> {
        let digest = self.manifest["layers"][number]["digest"].as_str().unwrap();
        self.blobs.get_mut(digest).unwrap()
    }

    /// Writes a layout.
    pub(crate) fn layout(&mut self, directory: &Path) {
        let top = self.seal();
        self.layout_of(directory, &[top]);
    }

    /// Writes a layout whose index has these entries.
    pub(crate) fn layout_of(&self, directory: &Path, entries: &[Value]) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for (digest, content) in &self.blobs {
            fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), content).unwrap();
        }
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
    }
}
