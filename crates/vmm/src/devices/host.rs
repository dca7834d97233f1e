//! Where GPUs and what concerns them are on the host.

use std::fs;
use std::path::{Path, PathBuf};

use gpu::PciAddress;
use gpu::owner::CC_MANAGER_READY;
use gpu::sysfs::Sysfs;
use host_claims::accel;
use serde::{Deserialize, Serialize};
use vmm_config::passthrough::{AddressWidth, HostNode};
use vmm_config::units::MemorySize;

use super::DevicesError;

/// Roots of what is read and written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHost {
    /// Holds `bus/pci/devices`.
    pub sysfs: PathBuf,
    /// Holds `vfio` and `iommu`.
    pub dev: PathBuf,
    /// Locks and quarantine, shared with `coffer gpu`.
    pub state: PathBuf,
    /// There while NVIDIA's cc-manager looks after the node.
    pub cc_manager: PathBuf,
    /// Where vfio-user servers play the devices, each at a socket named by its address: a rig.
    #[cfg(feature = "vfio-user")]
    #[serde(default)]
    pub emulated: Option<PathBuf>,
}

impl Default for GpuHost {
    fn default() -> Self {
        Self {
            sysfs: "/sys".into(),
            dev: "/dev".into(),
            state: "/var/lib/coffer/gpu".into(),
            cc_manager: CC_MANAGER_READY.into(),
            #[cfg(feature = "vfio-user")]
            emulated: None,
        }
    }
}

impl GpuHost {
    pub(super) fn sysfs(&self) -> Sysfs {
        Sysfs::new(&self.sysfs)
    }

    /// The nodes by which devices are opened over their IOMMU groups, VFIO's own first; none for no device.
    ///
    /// # Errors
    /// [`DevicesError::Group`].
    pub(crate) fn group_nodes(&self, devices: &[PciAddress]) -> Result<Vec<PathBuf>, DevicesError> {
        let vfio = self.dev.join("vfio");
        let mut nodes = Vec::new();
        for device in devices {
            let link = self.sysfs.join("bus/pci/devices").join(device.to_string()).join("iommu_group");
            let group = fs::read_link(link).map_err(|source| DevicesError::Group { gpu: *device, source })?;
            let node = vfio.join(group.file_name().unwrap_or_default());
            if nodes.is_empty() {
                nodes.push(vfio.join("vfio"));
            }
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    pub(super) fn iommu(&self) -> PathBuf {
        self.dev.join("iommu")
    }

    /// The socket of a device that is played.
    #[cfg(feature = "vfio-user")]
    pub(super) fn socket(&self, address: PciAddress) -> Option<PathBuf> {
        self.emulated.as_ref().map(|rig| gpu::registers::rig_socket(rig, address))
    }
}

/// How far physical addresses reach.
pub(super) fn address_width() -> AddressWidth {
    let bits = accel::cpu().physical_bits;
    bits.and_then(|bits| AddressWidth::new(bits).ok()).unwrap_or_default()
}

/// The host's NUMA nodes that have memory.
pub(super) fn nodes(sysfs: &Path) -> Vec<HostNode> {
    let entries = std::fs::read_dir(sysfs.join("devices/system/node")).into_iter().flatten().flatten();
    let mut nodes: Vec<HostNode> = entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let text = std::fs::read_to_string(entry.path().join("meminfo")).ok()?;
            let memory = memory_in(&text).filter(|memory| *memory > MemorySize::ZERO)?;
            Some(HostNode { id, memory })
        })
        .collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// `Node 0 MemTotal:       24689424 kB`
fn memory_in(meminfo: &str) -> Option<MemorySize> {
    let (_, rest) = meminfo.split_once("MemTotal:")?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(MemorySize::from_bytes(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_the_kernel_writes_them() {
        let sysfs = tempfile::tempdir().unwrap();
        for (node, kib) in [("node10", "2048"), ("node2", "4096"), ("node3", "0")] {
            let folder = sysfs.path().join("devices/system/node").join(node);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(
                folder.join("meminfo"),
                format!("Node 2 MemTotal:  {kib} kB\nNode 2 MemFree: 1 kB\n"),
            )
            .unwrap();
        }
        let found: Vec<_> =
            nodes(sysfs.path()).into_iter().map(|node| (node.id, node.memory.mib())).collect();
        assert_eq!(found, [(2, 4), (10, 2)]);
        assert_eq!(nodes(Path::new("/nonexistent")), []);
    }
}
