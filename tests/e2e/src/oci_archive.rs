//! OCI image archives, written byte for byte the same every time.
//!
//! Format: OCI image layout 1.0 in a tar, as `ctr images import` reads it.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::or_fail::OrFail;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One layer: an uncompressed tar under construction.
#[derive(Debug, Default)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, None, &[])
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, None, content)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, Some(target), &[])
    }

    /// Adds another name for a file of this layer.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, Some(target), &[])
    }

    /// Removes a file of a lower layer: a whiteout.
    #[must_use]
    pub fn without(self, path: &str) -> Self {
        let path = Path::new(path);
        let name = path.file_name().or_fail("name of the whiteout").to_string_lossy().into_owned();
        let whiteout = path.with_file_name(format!(".wh.{name}"));
        self.file(&whiteout.to_string_lossy(), 0o644, &[])
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, target: Option<&str>, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_path(path).or_fail(path);
        if let Some(target) = target {
            header.set_link_name(target).or_fail(target);
        }
        header.set_cksum();
        let mut tar = Builder::new(&mut self.tar);
        tar.append(&header, content).or_fail(path);
        // The end mark is written once, when the layer is complete.
        drop(tar.into_inner().map(|_| ()));
        self.tar.truncate(self.tar.len() - 1024);
        self
    }

    /// The tar.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}

/// The archive of one image called `name` that runs `entrypoint`.
pub fn archive(name: &str, layers: Vec<Layer>, entrypoint: &[&str]) -> Vec<u8> {
    archive_with_volumes(name, layers, entrypoint, &[])
}

/// As [`archive`], with a `VOLUME` at each of these paths.
pub fn archive_with_volumes(
    name: &str,
    layers: Vec<Layer>,
    entrypoint: &[&str],
    volumes: &[&str],
) -> Vec<u8> {
    let mut blobs = Vec::new();
    let layers: Vec<Value> =
        layers.into_iter().map(|layer| blob(&mut blobs, LAYER, layer.finish())).collect();
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let volumes: serde_json::Map<String, Value> =
        volumes.iter().map(|path| ((*path).to_owned(), json!({}))).collect();
    let mut config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": entrypoint, "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    if !volumes.is_empty() {
        config["config"]["Volumes"] = volumes.into();
    }
    let config = blob(&mut blobs, CONFIG, config.to_string().into_bytes());
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
    let mut manifest = blob(&mut blobs, MANIFEST, manifest.to_string().into_bytes());
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });

    let mut tar = Layer::default()
        .file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", 0o644, index.to_string().as_bytes())
        .directory("blobs", 0o755)
        .directory("blobs/sha256", 0o755);
    for (digest, content) in &blobs {
        tar = tar.file(&format!("blobs/sha256/{digest}"), 0o644, content);
    }
    tar.finish()
}

/// Adds a blob unless it is there (layers of several images may be the same) and returns its descriptor.
fn blob(blobs: &mut Vec<(String, Vec<u8>)>, media_type: &str, content: Vec<u8>) -> Value {
    let digest = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let descriptor =
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() });
    if !blobs.iter().any(|(known, _)| *known == digest) {
        blobs.push((digest, content));
    }
    descriptor
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tar::Archive;

    use super::*;

    fn entries(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
        Archive::new(tar)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (path, content)
            })
            .collect()
    }

    #[test]
    fn a_layer_holds_its_entries_in_order() {
        let tar =
            Layer::default().directory("bin", 0o755).file("bin/a", 0o755, b"A").link("bin/b", "a").finish();
        let names: Vec<String> = entries(&tar).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["bin", "bin/a", "bin/b"]);
        assert_eq!(tar.len() % 512, 0);
    }

    #[test]
    fn a_whiteout_has_its_mark() {
        let tar = Layer::default().without("etc/old").finish();
        assert_eq!(entries(&tar)[0].0, "etc/.wh.old");
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_the_archive_is_deterministic() {
        let make = || archive("localhost/x:test", vec![Layer::default().file("a", 0o644, b"A")], &["/a"]);
        assert_eq!(make(), make());
        let blobs: Vec<_> =
            entries(&make()).into_iter().filter(|(name, _)| name.starts_with("blobs/sha256/")).collect();
        assert_eq!(blobs.iter().filter(|(_, content)| !content.is_empty()).count(), 3);
        for (name, content) in blobs.iter().filter(|(_, content)| !content.is_empty()) {
            let digest = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(*name, format!("blobs/sha256/{digest}"));
        }
    }

    #[test]
    fn a_layer_that_two_images_share_is_stored_once() {
        let layers =
            || vec![Layer::default().file("a", 0o644, b"A"), Layer::default().file("a", 0o644, b"A")];
        let blobs = entries(&archive("localhost/x:test", layers(), &["/a"]));
        assert_eq!(blobs.iter().filter(|(name, _)| name.len() > 20).count(), 3);
    }
}
