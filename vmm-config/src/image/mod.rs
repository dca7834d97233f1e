//! The guest image's manifest, `image.json`.
//!
//! A guest image is a directory: this manifest, a kernel, and a root file system with its dm-verity tree
//! appended. The kernel's command line carries the tree's root hash; [`ImageManifest::parse`] refuses a
//! manifest whose command line names another root than the one it ships, so that the mistake is found
//! here and not by a guest that does not boot.

mod verity;

use std::collections::BTreeMap;

use serde::Deserialize;
use shared_types::kernel_keys::STANDIN;

pub use self::verity::VerityMismatch;
use crate::cmdline::{Cmdline, CmdlineError};
use crate::digest::{Sha256Digest, parse_hex};

/// Largest manifest that is read; a real one has about 1 KiB.
pub const MAX_MANIFEST: usize = 64 * 1024;

/// The manifest's format that this version reads.
const FORMAT: u32 = 1;

/// What a guest image is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageProfile {
    /// For work on Coffer itself: console, no policy.
    Dev,
    /// For finding out why a guest fails: console and logs.
    Debug,
    /// For production.
    Release,
}

impl ImageProfile {
    /// The name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// A checked manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The image's name, for people.
    pub name: String,
    /// What the image is made for.
    pub profile: ImageProfile,
    /// Which agent is inside, for people.
    pub agent: String,
    /// Digest of the agent's program.
    pub agent_sha256: Sha256Digest,
    /// The kernel.
    pub kernel: ImageFile,
    /// The kernel's release, as `uname -r` prints it in the guest.
    pub kernel_release: String,
    /// The root file system with its hash tree.
    pub root: ImageFile,
    /// How the root is verified.
    pub verity: Verity,
    /// The kernel's command line.
    pub cmdline: Cmdline,
    /// The guest components of the Confidential Containers project inside, by their names, and the digests of their programs; none
    /// in an image with Coffer's own attestation service.
    pub guest_components: BTreeMap<String, Sha256Digest>,
    /// The driver of GPUs inside, by its version; none in an image that drives none.
    pub gpu_driver: Option<String>,
    /// Whether its PID 1 takes the hardware's report from a disk of the host: for tests, and worth nothing.
    pub fake_report: bool,
    /// The distribution's packages that the image was built with, and their versions.
    pub packages: BTreeMap<String, String>,
}

/// A file of the image's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name in the directory, without any path.
    pub file: FileName,
    /// Digest of its whole content.
    pub sha256: Sha256Digest,
}

/// The name of a file in the image's directory; it cannot lead out of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileName(String);

impl FileName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FileName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(safe) {
            Ok(Self(name))
        } else {
            Err("a file name is letters, digits, '.', '_' and '-', and does not start with '.'")
        }
    }
}

/// dm-verity parameters of the root (Linux, `Documentation/admin-guide/device-mapper/verity.rst`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// Hash of the tree's root.
    pub root_hash: Sha256Digest,
    /// Salt of every hash.
    pub salt: Salt,
    /// Number of blocks of the file system.
    pub data_blocks: u64,
    /// Block at which the tree starts, counted in `block_size`.
    pub hash_start_block: u64,
    /// Size of data and hash blocks in bytes.
    pub block_size: u32,
    /// Hash algorithm.
    pub algorithm: VerityAlgorithm,
}

/// Salt of a verity tree: up to 256 bytes as lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Salt(String);

impl Salt {
    /// The hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Salt {
    type Error = &'static str;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        match parse_hex(&digits) {
            Some(bytes) if bytes.len() <= 256 => Ok(Self(digits)),
            _ => Err("a salt is up to 256 bytes in lower-case hexadecimal digits"),
        }
    }
}

/// Hash algorithm of a verity tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerityAlgorithm {
    /// SHA-256.
    Sha256,
}

impl VerityAlgorithm {
    /// The kernel's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
        }
    }
}

/// A manifest that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Too much to be a manifest.
    #[error("image.json has {bytes} bytes; at most {MAX_MANIFEST} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the JSON that a manifest is.
    #[error("image.json is not a guest image's manifest; build the image again")]
    Json(#[source] serde_json::Error),
    /// Made for another version of Coffer.
    #[error(
        "image.json has format {found}; this Coffer reads format {FORMAT}: use the image that belongs to it"
    )]
    Format {
        /// The manifest's format.
        found: u32,
    },
    /// Something on the kernel's command line is not allowed.
    #[error("image.json has a kernel command line that is not allowed")]
    Cmdline(#[from] CmdlineError),
    /// A release image whose inside the host could see, or talk to, or whose guest would not start.
    #[error(
        "image.json has the profile release and, on its command line, `{key}`: a release image has console=null and no key \
         by which its guest would be looked into, or that it refuses; build the image again, or with the profile debug"
    )]
    Talkative {
        /// The key.
        key: &'static str,
    },
    /// The command line does not verify this root.
    #[error("image.json contradicts itself: its kernel command line does not verify its root")]
    Verity(#[from] VerityMismatch),
}

/// The manifest as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "format")]
    _format: u32,
    name: String,
    profile: ImageProfile,
    agent: String,
    agent_sha256: Sha256Digest,
    report: Option<WrittenReport>,
    gpu_driver: Option<String>,
    #[serde(default)]
    guest_components: BTreeMap<String, Sha256Digest>,
    kernel: WrittenKernel,
    root: WrittenRoot,
    cmdline: String,
    packages: BTreeMap<String, String>,
}

/// Where PID 1 has the hardware's report from, if not from the hardware.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenReport {
    Fake,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKernel {
    file: FileName,
    sha256: Sha256Digest,
    release: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoot {
    file: FileName,
    sha256: Sha256Digest,
    verity: Verity,
}

/// Read first, because another format may have other fields.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl ImageManifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn parse(json: &[u8]) -> Result<Self, ImageError> {
        if json.len() > MAX_MANIFEST {
            return Err(ImageError::TooLarge { bytes: json.len() });
        }
        let FormatOnly { format } = serde_json::from_slice(json).map_err(ImageError::Json)?;
        if format != FORMAT {
            return Err(ImageError::Format { found: format });
        }
        let written: Written = serde_json::from_slice(json).map_err(ImageError::Json)?;
        let WrittenKernel { file, sha256, release } = written.kernel;
        let kernel = ImageFile { file, sha256 };
        let WrittenRoot { file, sha256, verity } = written.root;
        let root = ImageFile { file, sha256 };
        let cmdline = Cmdline::parse(&written.cmdline)?;
        verity.check(&cmdline)?;
        if written.profile != ImageProfile::Dev && cmdline.has(STANDIN) {
            return Err(CmdlineError::UnknownKey { key: STANDIN.to_owned() }.into());
        }
        if written.profile == ImageProfile::Release
            && let Some(key) = cmdline.beyond_release().or_else(|| cmdline.has_console().then_some("console"))
        {
            return Err(ImageError::Talkative { key });
        }
        Ok(Self {
            name: written.name,
            profile: written.profile,
            agent: written.agent,
            agent_sha256: written.agent_sha256,
            gpu_driver: written.gpu_driver,
            guest_components: written.guest_components,
            fake_report: matches!(written.report, Some(WrittenReport::Fake)),
            kernel,
            kernel_release: release,
            root,
            verity,
            cmdline,
            packages: written.packages,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest as guest-image writes it.
    pub(crate) fn manifest() -> serde_json::Value {
        let (root, salt) = ("ab".repeat(32), "cd".repeat(32));
        serde_json::json!({
            "format": 1,
            "name": "coffer-guest-dev",
            "profile": "dev",
            "agent": "kata-agent 4.1.0",
            "agent_sha256": "03".repeat(32),
            "kernel": { "file": "vmlinuz", "sha256": "01".repeat(32), "release": "7.2.12-coffer" },
            "root": {
                "file": "root.img",
                "sha256": "02".repeat(32),
                "verity": {
                    "root_hash": root,
                    "salt": salt,
                    "data_blocks": 1000,
                    "hash_start_block": 1000,
                    "block_size": 4096,
                    "algorithm": "sha256",
                },
            },
            "packages": { "erofs-utils": "1.9.4-1" },
            "cmdline": format!(
                "console=ttyS0 quiet panic=-1 dm-mod.create=\"root,,,ro,0 8000 verity 1 /dev/vda /dev/vda \
                 4096 4096 1000 1000 sha256 {root} {salt}\" root=/dev/dm-0 rootfstype=erofs ro"
            ),
        })
    }

    fn parse(json: &serde_json::Value) -> Result<ImageManifest, ImageError> {
        ImageManifest::parse(json.to_string().as_bytes())
    }

    #[test]
    fn manifest_is_read() {
        let image = parse(&manifest()).unwrap();
        assert_eq!(image.profile.name(), "dev");
        assert_eq!(image.root.file.as_str(), "root.img");
        assert_eq!(image.verity.algorithm.name(), "sha256");
        assert!(image.cmdline.has("dm-mod.create"));
    }

    #[test]
    fn fields_that_are_missing_unknown_or_wrong_are_refused() {
        let changes: [(&str, serde_json::Value); 7] = [
            ("/name", 3.into()),
            ("/profile", "production".into()),
            ("/kernel/sha256", "01".into()),
            ("/kernel/file", "../vmlinuz".into()),
            ("/root/file", "".into()),
            ("/root/verity/salt", "xyz".into()),
            ("/root/verity/algorithm", "md5".into()),
        ];
        for (field, value) in changes {
            let mut json = manifest();
            *json.pointer_mut(field).unwrap() = value;
            assert!(matches!(parse(&json), Err(ImageError::Json(_))), "{field}");
        }
        let mut json = manifest();
        json["extra"] = 1.into();
        assert!(matches!(parse(&json), Err(ImageError::Json(_))));
        let mut json = manifest();
        json.as_object_mut().unwrap().remove("agent");
        assert!(matches!(parse(&json), Err(ImageError::Json(_))));
    }

    #[test]
    fn another_format_is_named_even_with_other_fields() {
        let error = ImageManifest::parse(br#"{"format": 2, "layers": []}"#).unwrap_err();
        assert!(error.to_string().starts_with("image.json has format 2; this Coffer reads format 1"));
    }

    #[test]
    fn cmdline_with_unknown_key_is_refused() {
        let mut json = manifest();
        json["cmdline"] = format!("{} rdinit=/bin/sh", json["cmdline"].as_str().unwrap()).into();
        assert!(matches!(parse(&json), Err(ImageError::Cmdline(CmdlineError::UnknownKey { .. }))));
    }

    #[test]
    fn a_release_image_with_a_console_is_refused() {
        let with = |console: &str, more: &str| {
            let mut json = manifest();
            json["profile"] = "release".into();
            let line = json["cmdline"].as_str().unwrap().replace("console=ttyS0", console);
            json["cmdline"] = format!("{line}{more}").into();
            parse(&json)
        };
        assert!(!with("console=null", "").unwrap().cmdline.has_console());
        for (console, more, expected) in [
            ("console=ttyS0", "", "console"),
            ("", "", "console"),
            ("console=null", " agent.debug_console_vport=1026", "agent.debug_console_vport"),
            ("console=null", " loglevel=8", "loglevel"),
            ("console=null", " agent.debug_console", "agent.debug_console"),
            ("console=null", " agent.log_vport=1024", "agent.log_vport"),
        ] {
            let error = with(console, more).unwrap_err();
            assert!(matches!(error, ImageError::Talkative { key } if key == expected), "{error}");
        }
    }

    #[test]
    fn a_report_that_is_not_the_hardwares_is_told() {
        let mut json = manifest();
        assert!(!parse(&json).unwrap().fake_report);
        json["report"] = "fake".into();
        assert!(parse(&json).unwrap().fake_report);
        json["report"] = "hardware".into();
        assert!(matches!(parse(&json), Err(ImageError::Json(_))));
    }

    #[test]
    fn the_guest_components_are_told() {
        let mut json = manifest();
        assert!(parse(&json).unwrap().guest_components.is_empty());
        let digest = json["agent_sha256"].clone();
        json["guest_components"] = serde_json::json!({ "attestation-agent": digest });
        assert!(parse(&json).unwrap().guest_components.contains_key("attestation-agent"));
        json["guest_components"] = serde_json::json!({ "attestation-agent": "none" });
        assert!(matches!(parse(&json), Err(ImageError::Json(_))));
    }

    #[test]
    fn the_driver_of_gpus_is_told() {
        let mut json = manifest();
        assert_eq!(parse(&json).unwrap().gpu_driver, None);
        json["gpu_driver"] = "550.163.01".into();
        assert_eq!(parse(&json).unwrap().gpu_driver.as_deref(), Some("550.163.01"));
    }

    #[test]
    fn root_hash_on_the_command_line_must_be_the_manifests() {
        let mut json = manifest();
        json["root"]["verity"]["root_hash"] = "ef".repeat(32).into();
        assert!(matches!(parse(&json), Err(ImageError::Verity(_))));
    }

    #[test]
    fn huge_manifest_is_refused_unread() {
        let error = ImageManifest::parse(&vec![b'['; MAX_MANIFEST + 1]).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { bytes } if bytes == MAX_MANIFEST + 1));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_manifest_or_an_error(bytes: Vec<u8>) {
            prop_assert!(ImageManifest::parse(&bytes).is_err());
        }
    }
}
