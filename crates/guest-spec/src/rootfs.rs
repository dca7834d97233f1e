//! The root file system: image layers that the guest has checked, below one overlay.

use std::collections::BTreeSet;

use agent_client::GUEST_PULL;
use agent_client::proto::agent::Storage;
use verity::RootHash;

use crate::model::storage;
use crate::paths;

/// The driver option of `overlayfs` by which the agent makes a directory first.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// What the agent is told of an image that the data hub pulls. Nothing: the agent would take the guest's own pause image where
/// an annotation in it says that this is a sandbox.
const METADATA: &str = r#"{"metadata":{}}"#;

/// A container's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestRootfs {
    /// The layers by the root hashes of their dm-verity trees, the topmost first. One layer is mounted like many:
    /// changes go to guest memory.
    Layers(Vec<RootHash>),
    /// What the guest pulls: an image's reference.
    Pulled(String),
}

impl Default for GuestRootfs {
    fn default() -> Self {
        Self::Layers(Vec::new())
    }
}

impl GuestRootfs {
    /// Whether there is nothing to run.
    pub(crate) const fn is_empty(&self) -> bool {
        match self {
            Self::Layers(layers) => layers.is_empty(),
            Self::Pulled(image) => image.is_empty(),
        }
    }

    pub(crate) fn storages(&self, container: &str) -> Vec<Storage> {
        match self {
            Self::Layers(layers) => layered(layers, container),
            Self::Pulled(image) => vec![pulled(image, container)],
        }
    }
}

/// The image, which the data hub unpacks in guest memory and mounts as the container's root file system.
fn pulled(image: &str, container: &str) -> Storage {
    Storage {
        driver: GUEST_PULL.to_string(),
        driver_options: vec![format!("{GUEST_PULL}={METADATA}")],
        source: image.to_string(),
        fstype: "overlay".to_string(),
        mount_point: paths::rootfs(container),
        ..Default::default()
    }
}

/// Each layer once, where it is on top: there it hides all that it hid further down, and an overlay refuses a
/// directory that is there twice.
fn distinct(layers: &[RootHash]) -> impl Iterator<Item = &RootHash> {
    let mut seen = BTreeSet::new();
    layers.iter().filter(move |layer| seen.insert(**layer))
}

/// A mount for each layer, and an overlay of them with its upper directory in guest memory.
///
/// The guest's PID 1 opens a layer as `/dev/mapper/<root hash>`, so its name is what its bytes are, and no disk of
/// the host has a node of another kind. kata-agent takes such a source of driver `blk` as it is (`block_handler.rs`).
///
/// kata-agent has one driver for all of it (`X-kata.multi-layer`), which mounts the layers inside the container's
/// directory. Its RemoveContainer and DestroySandbox then fail on them with EROFS (4.1.0): it removes the directory
/// before it unmounts them.
fn layered(layers: &[RootHash], container: &str) -> Vec<Storage> {
    distinct(layers).map(|root| storage(container, root)).chain([overlay(layers, container)]).collect()
}

fn overlay(layers: &[RootHash], container: &str) -> Storage {
    let lower: Vec<String> = distinct(layers).map(|root| paths::layer(container, root)).collect();
    let (upper, work) = (paths::upper(container), paths::work(container));
    Storage {
        driver: "overlayfs".to_string(),
        driver_options: [&upper, &work].map(|dir| format!("{CREATE_DIRECTORY}={dir}")).to_vec(),
        source: "overlay".to_string(),
        fstype: "overlay".to_string(),
        options: vec![
            "nodev".to_string(),
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={upper}"),
            format!("workdir={work}"),
        ],
        mount_point: paths::rootfs(container),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(digit: u8) -> RootHash {
        char::from(digit).to_string().repeat(64).parse().unwrap()
    }

    #[test]
    fn layers_keep_their_order_below_one_overlay() {
        let rootfs = GuestRootfs::Layers([b'7', b'a'].map(root).to_vec());
        let storages = rootfs.storages("c1");
        let sources: Vec<_> = storages.iter().map(|s| s.source.clone()).collect();
        let mapper = |digit: &str| format!("/dev/mapper/{}", digit.repeat(64));
        assert_eq!(sources, [mapper("7"), mapper("a"), "overlay".to_string()]);
        assert_eq!(storages[2].mount_point, "/run/kata-containers/c1/rootfs");
        let lower = format!("lowerdir={}:{}", storages[0].mount_point, storages[1].mount_point);
        assert_eq!(storages[2].options[1], lower);
        assert!(storages[2].options[2].ends_with("/c1/upper") && storages[2].driver_options.len() == 2);
    }

    #[test]
    fn a_layer_that_is_there_twice_is_mounted_where_it_is_on_top() {
        let once = GuestRootfs::Layers([b'7', b'a'].map(root).to_vec());
        let twice = GuestRootfs::Layers([b'7', b'a', b'7'].map(root).to_vec());
        assert_eq!(twice.storages("c1"), once.storages("c1"));
    }

    #[test]
    fn nothing_of_a_root_file_system_can_be_a_device() {
        let storages = GuestRootfs::Layers([b'7', b'a'].map(root).to_vec()).storages("c1");
        assert!(storages.iter().all(|storage| storage.options.contains(&"nodev".to_string())));
    }

    #[test]
    fn as_many_layers_as_an_image_can_have_fit_into_a_mount_call() {
        let layers: Vec<_> = (0..127).map(|byte| RootHash::from_bytes([byte; 32])).collect();
        let overlay = overlay(&layers, &"c".repeat(64));
        // mount(2) takes a page of options, a zero at the end included.
        assert!(overlay.options.join(",").len() < 4096);
    }

    #[test]
    fn an_image_to_pull_is_named_and_nothing_of_the_hosts_besides() {
        let [storage] = GuestRootfs::Pulled("r.example/a@sha256:1".into()).storages("c1").try_into().unwrap();
        assert_eq!((storage.driver.as_str(), storage.source.as_str()), (GUEST_PULL, "r.example/a@sha256:1"));
        assert_eq!(storage.driver_options, [r#"image_guest_pull={"metadata":{}}"#]);
        assert_eq!((storage.fstype.as_str(), storage.options.is_empty()), ("overlay", true));
        assert_eq!(storage.mount_point, "/run/kata-containers/c1/rootfs");
        assert!(GuestRootfs::default().is_empty() && GuestRootfs::Pulled(String::new()).is_empty());
    }
}
