//! The root file system: EROFS layers as LUNs of the VM's SCSI controller.

use std::fmt;

use agent::proto::agent::Storage;

use crate::paths;

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
    /// One storage per layer; the agent mounts them all, with an upper directory in guest memory, as one overlay on
    /// [`paths::rootfs`]. Their order is the order of the overlay's lower directories.
    pub(crate) fn storages(&self, container: &str) -> Vec<Storage> {
        let options = ["X-kata.multi-layer=true", "X-kata.overlay-lower", "ro"].map(str::to_string);
        self.layers
            .iter()
            .map(|address| Storage {
                driver: "scsi".to_string(),
                source: address.to_string(),
                fstype: "erofs".to_string(),
                options: options.to_vec(),
                // The first layer's is the overlay's; the same on all, or the agent takes one for another mount.
                mount_point: paths::rootfs(container),
                ..Default::default()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_their_order_and_share_the_mount_point() {
        let rootfs = GuestRootfs { layers: [7, 0].map(|lun| LunAddress { target: 0, lun }).to_vec() };
        let storages = rootfs.storages("c1");
        assert_eq!(storages.iter().map(|s| s.source.as_str()).collect::<Vec<_>>(), ["0:7", "0:0"]);
        assert!(storages.iter().all(|s| s.mount_point == "/run/kata-containers/c1/rootfs"));
    }
}
