//! An image for tests of the command line: one layer with an `/etc/passwd`, in a layout, and a stand-in for mkfs.erofs,
//! which makes one block that begins like an EROFS image. The crate `layers` is tested with the real one.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use layers::Digest;
use serde_json::json;

/// A layout `image`, a cache `cache` and a directory `bin` with the stand-in.
pub struct FakeImage(tempfile::TempDir);

impl FakeImage {
    /// With this `config` in its configuration.
    pub fn new(config: &str) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write_layout(config);
        let bin = this.path("bin");
        fs::create_dir(&bin).unwrap();
        let program = bin.join("mkfs.erofs");
        // Magic, 2^12 bytes a block, one block, behind 1024 bytes of nothing.
        let script = r#"#!/bin/sh
if [ "$1" = --version ]; then echo 'mkfs.erofs (erofs-utils) 1.9.4'; exit; fi
cat >/dev/null
for image; do :; done
{
    head -c 1024 /dev/zero
    printf '\342\341\365\340\0\0\0\0\0\0\0\0\014'
    head -c 23 /dev/zero
    printf '\001\0\0\0'
    head -c 3032 /dev/zero
} >"$image"
"#;
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn source(&self) -> String {
        format!("oci:{}", self.path("image").display())
    }

    pub fn coffer(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.args(args).env("PATH", path).env("XDG_CACHE_HOME", self.path("cache"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    pub fn stdout(&self, args: &[&str]) -> String {
        let output = self.coffer(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn failure(&self, args: &[&str]) -> String {
        let output = self.coffer(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    /// The only layer's.
    pub fn root_hash(&self) -> String {
        let text = self.stdout(&["image", "verity", &self.source(), "-o", "json"]);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        object["layers"][0]["root_hash"].as_str().unwrap().to_owned()
    }

    fn write_layout(&self, config: &str) {
        let blobs = self.path("image/blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |content: &[u8]| {
            let digest = Digest::of(content);
            fs::write(blobs.join(digest.hex()), content).unwrap();
            json!({"digest": digest, "size": content.len()})
        };
        let mut tar = tar::Builder::new(Vec::new());
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:77:88::/srv:/bin/false\n";
        let mut header = tar::Header::new_ustar();
        header.set_size(passwd.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "etc/passwd", passwd.as_bytes()).unwrap();
        let layer = tar.into_inner().unwrap();
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": config,
            "rootfs": {"diff_ids": [Digest::of(&layer)]},
        });
        let mut blob = put(&layer);
        blob["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        let config = put(config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [blob]});
        let manifest = put(manifest.to_string().as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.path("image/index.json"), index.to_string()).unwrap();
    }
}
