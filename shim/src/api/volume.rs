//! The mount by which an engine asks for an image to be pulled inside the guest: CRI-O, and containerd's snapshotter nydus.
//!
//! It has the type of a file system that is never mounted, and carries a volume as Base64 of JSON in an
//! option. The form is that of kata's `KataVirtualVolume`: CRI-O writes one (`internal/oci/runtime_vm.go`), and nydus-snapshotter
//! another one (`snapshot/mount_option.go`), which mostly has no image's name in it.

use agent_client::GUEST_PULL;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use shared_types::cri::Member;

use super::{Error, Mount, Result};

/// Type of the mount.
const MOUNT_TYPE: &str = "fuse.nydus-overlayfs";
/// Name of the option.
const OPTION: &str = "io.katacontainers.volume=";
/// What nydus-snapshotter writes where it does not know the image's name.
const DUMMY: &str = "dummy-image-reference";
/// Most that is decoded: CRI-O puts all annotations of the container in.
const MAX_OPTION: usize = 1 << 20;

/// An image that the guest pulls by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualVolume {
    /// Reference of the image; a text without meaning where the snapshotter does not know it.
    pub image: String,
}

#[derive(Deserialize)]
struct Wire {
    volume_type: String,
    #[serde(default)]
    source: String,
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
        if wire.volume_type != GUEST_PULL {
            let kind: String = wire.volume_type.chars().take(64).collect();
            return Err(Error::Unsupported(format!("a volume of type {kind:?} is")));
        }
        if wire.source.is_empty() {
            return Err(invalid("it names no image"));
        }
        Ok(Self { image: wire.source })
    }

    /// What the guest is to pull: the engine's name of the container's image, else the volume's. containerd 2 has the manifest's
    /// name there, containerd 1.7 its normal form, and CRI-O any name that it knows the image by.
    ///
    /// # Errors
    /// When neither names an image.
    pub fn reference<'a>(&'a self, container: Option<&Member<'a>>) -> Result<&'a str> {
        match container.and_then(|container| container.image) {
            Some(image) => Ok(image),
            _ if self.image == DUMMY => {
                Err(invalid("it names no image, and nor does an annotation of the container"))
            }
            _ => Ok(&self.image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::cri;
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
        assert_eq!(volume.reference(None).unwrap(), "quay.io/a/b:1");
    }

    #[test]
    fn an_annotations_name_comes_before_the_volumes() {
        let known = VirtualVolume { image: "quay.io/a/b:1".into() };
        // nydus-snapshotter's, whose containerd does not tell it the name.
        let json = r#"{"volume_type":"image_guest_pull","source":"dummy-image-reference",
            "image_pull":{"metadata":{"containerd.io/snapshot/nydus-proxy-mode":"true"}}}"#;
        let unknown = VirtualVolume::find(&[mount(json)]).unwrap().unwrap();
        for engine in [cri::Engine::Containerd, cri::Engine::Crio] {
            let names = engine.names();
            let member = Member::of(|name| match name {
                name if name == names.kind => Some("container"),
                name if name == names.image => Some("quay.io/a/b@sha256:12"),
                _ => None,
            });
            let member = member.unwrap();
            for volume in [&known, &unknown] {
                assert_eq!(volume.reference(member.as_ref()).unwrap(), "quay.io/a/b@sha256:12");
            }
        }
        assert_eq!(known.reference(None).unwrap(), "quay.io/a/b:1");
        let error = unknown.reference(None).unwrap_err();
        assert!(error.to_string().contains("names no image"), "{error}");
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
