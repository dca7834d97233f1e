//! The device by which a panicking guest says so; QEMU passes it on as `GUEST_PANICKED`.

use super::arg::Arg;
use super::pci_device;
use crate::pci::PciSlot;

/// The panic notifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pvpanic {
    /// Its slot.
    pub slot: PciSlot,
}

impl Pvpanic {
    pub(super) fn args(&self) -> [Arg; 1] {
        [Arg::new("-device", pci_device("pvpanic-pci", self.slot))]
    }
}
