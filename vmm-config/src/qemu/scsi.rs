//! The one SCSI controller that all image layers hang on.

use super::arg::Arg;
use super::virtio_device;
use crate::pci::PciSlot;
use crate::units::Vcpus;

/// Device id of the controller; its bus, which layers are added to, is `scsi0.0`.
pub(crate) const CONTROLLER_ID: &str = "scsi0";

/// The controller. It is there from the start even if it stays empty: a PCI device that appears later
/// would need PCI hotplug, which a confidential VM must not have, while a LUN that appears does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiController {
    /// Its slot.
    pub slot: PciSlot,
    /// Request queues: one per CPU, at most [`Self::MAX_QUEUES`].
    queues: u8,
}

impl ScsiController {
    /// Layers are read mostly sequentially and then cached; more queues only cost memory.
    pub const MAX_QUEUES: u8 = 4;

    /// A controller for a VM with this many CPUs.
    pub fn new(slot: PciSlot, vcpus: Vcpus) -> Self {
        Self { slot, queues: vcpus.get().min(Self::MAX_QUEUES) }
    }

    pub(super) fn args(&self) -> [Arg; 1] {
        let controller = virtio_device("virtio-scsi-pci", self.slot)
            .text("id", CONTROLLER_ID)
            .number("num_queues", self.queues);
        [Arg::new("-device", controller)]
    }
}
