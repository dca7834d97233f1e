//! Entropy from the host. Only for VMs that trust it: a confidential VM takes none.

use super::arg::{Arg, Options};
use super::virtio_device;
use crate::pci::PciSlot;

/// Id of the source.
const SOURCE: &str = "entropy";

/// The entropy device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng {
    /// Its slot.
    pub slot: PciSlot,
}

impl Rng {
    pub(super) fn args(&self) -> [Arg; 2] {
        let device = virtio_device("virtio-rng-pci", self.slot).text("rng", SOURCE);
        [Arg::new("-object", Options::new("rng-builtin").text("id", SOURCE)), Arg::new("-device", device)]
    }
}
