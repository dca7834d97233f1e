//! What QEMU opens by its name, told by the same description as its command line. All else it gets as a descriptor.

use std::path::PathBuf;

use shared_types::{Accelerator, PciAddress};

use crate::config::QuoteAddress;
use crate::qemu::{ConfidentialGuest, DeviceBackend};
use crate::spec::VmSpec;

/// What QEMU must find below its root directory, each at its own path. What is relative is in its working directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opens {
    /// Files and directories that it reads.
    pub files: Vec<PathBuf>,
    /// Device nodes.
    pub nodes: Vec<PathBuf>,
    /// Sockets that it connects to.
    pub sockets: Vec<PathBuf>,
    /// Devices that it opens by their IOMMU groups, whose nodes the host knows.
    pub groups: Vec<PciAddress>,
    /// Whether it makes vsock sockets of the host's.
    pub vsock: bool,
}

/// Where QEMU looks a passed-through device and the host's NUMA nodes up.
const SYSFS: [&str; 4] = ["/sys/bus", "/sys/class/iommu", "/sys/devices", "/sys/kernel/iommu_groups"];
/// KVM's own node.
const KVM: &str = "/dev/kvm";
/// The security processor of SEV-SNP (QEMU's default for `sev-device`).
const SEV: &str = "/dev/sev";

impl VmSpec {
    /// What QEMU opens by its name.
    pub fn opens(&self) -> Opens {
        let mut opens = Opens::default();
        opens.files.extend([&self.kernel.path, &self.root.path].map(|path| path.as_path().to_owned()));
        opens.files.extend(self.kernel.firmware.iter().map(|path| path.as_path().to_owned()));
        if self.accelerator() == Accelerator::Kvm {
            opens.nodes.push(KVM.into());
        }
        match &self.confidential {
            Some(ConfidentialGuest::Snp(_)) => opens.nodes.push(SEV.into()),
            Some(ConfidentialGuest::Tdx(guest)) => match &guest.quotes {
                Some(QuoteAddress::Unix(path)) => opens.sockets.push(path.as_str().into()),
                Some(QuoteAddress::Vsock { .. }) => opens.vsock = true,
                None => {}
            },
            None => {}
        }
        if !self.passthrough().is_empty() || !self.memory.nodes.is_empty() {
            opens.files.extend(SYSFS.map(PathBuf::from));
        }
        for device in self.passthrough() {
            match &device.backend {
                DeviceBackend::Iommufd { .. } => {}
                DeviceBackend::Group => opens.groups.push(device.address),
                DeviceBackend::VfioUser { socket } => opens.sockets.push(socket.as_str().into()),
            }
        }
        opens
    }
}
