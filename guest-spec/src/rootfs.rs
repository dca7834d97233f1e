//! The root file system: EROFS layers as LUNs of the VM's SCSI controller.

use std::fmt;

use agent::proto::agent::Storage;

use crate::paths;

/// The driver option of `overlayfs` by which the agent makes a directory first.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// A disk on the VM's virtio-scsi controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LunAddress {
    /// SCSI target id.
    pub target: u8,
    /// Logical unit number.
    pub lun: u16,
}

impl fmt::Display for LunAddress {
    /// The form the agent's `scsi` driver takes as a source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target, self.lun)
    }
}

/// A container's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRootfs {
    /// The layers, the topmost first. One layer is mounted like many: changes go to guest memory.
    pub layers: Vec<LunAddress>,
}

impl GuestRootfs {
    /// A mount for each layer, and an overlay of them with its upper directory in guest memory.
    ///
    /// kata-agent has one driver for all of it (`X-kata.multi-layer`), which mounts the layers inside the container's
    /// directory. Its RemoveContainer and DestroySandbox then fail on them with EROFS (4.1.0): it removes the directory
    /// before it unmounts them.
    pub(crate) fn storages(&self, container: &str) -> Vec<Storage> {
        let layers = self.layers.iter().map(|address| Storage {
            driver: "scsi".to_string(),
            source: address.to_string(),
            fstype: "erofs".to_string(),
            options: vec!["ro".to_string()],
            mount_point: paths::layer(*address),
            ..Default::default()
        });
        layers.chain([self.overlay(container)]).collect()
    }

    fn overlay(&self, container: &str) -> Storage {
        let lower: Vec<String> = self.layers.iter().map(|address| paths::layer(*address)).collect();
        let (upper, work) = (paths::upper(container), paths::work(container));
        Storage {
            driver: "overlayfs".to_string(),
            driver_options: [&upper, &work].map(|dir| format!("{CREATE_DIRECTORY}={dir}")).to_vec(),
            source: "overlay".to_string(),
            fstype: "overlay".to_string(),
            options: vec![
                format!("lowerdir={}", lower.join(":")),
                format!("upperdir={upper}"),
                format!("workdir={work}"),
            ],
            mount_point: paths::rootfs(container),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_their_order_below_one_overlay() {
        let rootfs = GuestRootfs { layers: [7, 0].map(|lun| LunAddress { target: 0, lun }).to_vec() };
        let storages = rootfs.storages("c1");
        assert_eq!(storages.iter().map(|s| s.source.as_str()).collect::<Vec<_>>(), ["0:7", "0:0", "overlay"]);
        assert_eq!(storages[2].mount_point, "/run/kata-containers/c1/rootfs");
        assert_eq!(storages[2].options[0], "lowerdir=/run/layers/0-7:/run/layers/0-0");
        assert!(storages[2].options[1].ends_with("/c1/upper") && storages[2].driver_options.len() == 2);
    }

    #[test]
    fn as_many_layers_as_an_image_can_have_fit_into_a_mount_call() {
        let layers = (0..128).map(|lun| LunAddress { target: 0, lun }).collect();
        let overlay = GuestRootfs { layers }.overlay(&"c".repeat(64));
        // mount(2) takes a page of options.
        assert!(overlay.options.join(",").len() < 4096);
    }
}
