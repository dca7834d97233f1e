//! The mount by which CRI-O asks for an image to be pulled inside the guest.
//!
//! It has the type of a file system that is never mounted, and carries a volume as Base64 of JSON in an
//! option. The form is that of kata's `KataVirtualVolume`, which CRI-O writes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Error, Mount, Result};

/// Type of the mount.
const MOUNT_TYPE: &str = "fuse.nydus-overlayfs";
/// Name of the option.
const OPTION: &str = "io.katacontainers.volume=";
/// Most that is decoded: CRI-O puts all annotations of the container in.
const MAX_OPTION: usize = 1 << 20;

/// An image that the guest pulls by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualVolume {
    /// Reference of the image.
    pub image: String,
    /// What the guest is told about it.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Wire {
    volume_type: String,
    #[serde(default)]
    source: String,
    image_pull: Option<ImagePull>,
}

#[derive(Deserialize)]
struct ImagePull {
    metadata: Option<BTreeMap<String, String>>,
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidRequest { field: "rootfs", reason: format!("guest-pull mount: {}", reason.into()) }
}

impl VirtualVolume {
    /// The volume among `mounts`, if there is one.
    ///
    /// # Errors
    /// When it is malformed, of another kind, or not the only mount of its kind.
    pub fn find(mounts: &[Mount]) -> Result<Option<Self>> {
        let mut marked = mounts.iter().filter(|mount| mount.kind == MOUNT_TYPE);
        let Some(mount) = marked.next() else { return Ok(None) };
        if marked.next().is_some() {
            return Err(invalid("there is more than one"));
        }
        let option = mount.options.iter().find_map(|option| option.strip_prefix(OPTION));
        Self::parse(option.ok_or_else(|| invalid("the option io.katacontainers.volume is missing"))?)
            .map(Some)
    }

    fn parse(option: &str) -> Result<Self> {
        if option.len() > MAX_OPTION {
            return Err(invalid(format!(
                "the option has {} bytes, at most {MAX_OPTION} are read",
                option.len()
            )));
        }
        let json = STANDARD.decode(option).map_err(|error| invalid(format!("not Base64: {error}")))?;
        let wire: Wire =
            serde_json::from_slice(&json).map_err(|error| invalid(format!("not a volume: {error}")))?;
        if wire.volume_type != "image_guest_pull" {
            let kind: String = wire.volume_type.chars().take(64).collect();
            return Err(Error::Unsupported(format!("a volume of type {kind:?} is")));
        }
        if wire.source.is_empty() {
            return Err(invalid("it names no image"));
        }
        let metadata = wire.image_pull.and_then(|pull| pull.metadata).unwrap_or_default();
        Ok(Self { image: wire.source, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ttrpc::Code;

    fn mount(json: &str) -> Mount {
        Mount {
            kind: MOUNT_TYPE.into(),
            options: vec!["ro".into(), format!("{OPTION}{}", STANDARD.encode(json))],
            ..Mount::default()
        }
    }

    #[test]
    fn what_crio_writes_is_read() {
        let json = r#"{"volume_type":"image_guest_pull","source":"quay.io/a/b:1","fs_type":"overlay_fs",
            "image_pull":{"metadata":{"io.kubernetes.cri-o.ImageName":"quay.io/a/b:1"}}}"#;
        let volume = VirtualVolume::find(&[Mount::default(), mount(json)]).unwrap().unwrap();
        assert_eq!(volume.image, "quay.io/a/b:1");
        assert_eq!(volume.metadata["io.kubernetes.cri-o.ImageName"], "quay.io/a/b:1");
    }

    #[test]
    fn ordinary_mounts_are_left_alone() {
        let overlay = Mount { kind: "overlay".into(), ..Mount::default() };
        assert_eq!(VirtualVolume::find(&[overlay]).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bare = Mount { kind: MOUNT_TYPE.into(), ..Mount::default() };
        let raw = |text: &str| Mount { options: vec![format!("{OPTION}{text}")], ..bare.clone() };
        let good = mount(r#"{"volume_type":"image_guest_pull","source":"a"}"#);
        for (mounts, part, code) in [
            (vec![bare.clone()], "missing", Code::INVALID_ARGUMENT),
            (vec![raw("***")], "not Base64", Code::INVALID_ARGUMENT),
            (vec![mount("[]")], "not a volume", Code::INVALID_ARGUMENT),
            (vec![mount(r#"{"volume_type":"image_guest_pull"}"#)], "no image", Code::INVALID_ARGUMENT),
            (
                vec![mount(r#"{"volume_type":"direct_block","source":"a"}"#)],
                "direct_block",
                Code::UNIMPLEMENTED,
            ),
            (vec![raw(&"A".repeat(MAX_OPTION + 1))], "at most", Code::INVALID_ARGUMENT),
            (vec![good.clone(), good], "more than one", Code::INVALID_ARGUMENT),
        ] {
            let error = VirtualVolume::find(&mounts).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_option_is_survived(text: String, json: Vec<u8>) {
            let _ = VirtualVolume::parse(&text);
            let _ = VirtualVolume::parse(&STANDARD.encode(json));
        }

        #[test]
        fn every_image_name_survives_the_round_trip(image in "[ -~]{1,80}") {
            let json = serde_json::json!({"volume_type": "image_guest_pull", "source": image}).to_string();
            proptest::prop_assert_eq!(VirtualVolume::find(&[mount(&json)]).unwrap().unwrap().image, image);
        }
    }
}
