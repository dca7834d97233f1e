//! All devices of the host that the VM has, and what they need.

use super::arg::Arg;
use super::{DeviceBackend, Expander, Iommufd, VfioDevice};
use crate::passthrough::{AddressWidth, MmioWindow};

/// The devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passthrough {
    /// The host's IOMMU, where a device is reached over it.
    pub iommufd: Option<Iommufd>,
    /// Root buses of NUMA nodes.
    pub expanders: Vec<Expander>,
    /// The devices in order.
    pub devices: Vec<VfioDevice>,
    /// The window that their BARs are placed in.
    pub window: Option<MmioWindow>,
    /// How far the guest's addresses must reach.
    pub width: Option<AddressWidth>,
}

impl Passthrough {
    /// Whether a program beside QEMU reads and writes the guest's memory.
    pub(crate) fn needs_shared_memory(&self) -> bool {
        self.devices.iter().any(|device| matches!(device.backend, DeviceBackend::VfioUser { .. }))
    }

    pub(super) fn args(&self, firmware: bool) -> Vec<Arg> {
        let mut args: Vec<Arg> = self.window.iter().flat_map(|window| window.args(firmware)).collect();
        args.extend(self.iommufd.iter().flat_map(|iommufd| iommufd.args()));
        args.extend(self.expanders.iter().flat_map(|expander| expander.args()));
        args.extend(self.devices.iter().flat_map(VfioDevice::args));
        args
    }
}
