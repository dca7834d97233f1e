//! A root bus of its own for the devices of one NUMA node.

use super::arg::Arg;
use super::pci_device;
use crate::pci::{PciSlot, RootBus};

/// The bus, and the device on the board's root bus that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expander {
    /// The guest's number of its node.
    pub rank: usize,
    /// The bus's number.
    pub bus: RootBus,
    /// The slot on the board's root bus.
    pub slot: PciSlot,
}

impl Expander {
    /// Id of the bus.
    pub(super) fn id(rank: usize) -> String {
        format!("node{rank}")
    }

    pub(super) fn args(self) -> [Arg; 1] {
        let device = pci_device("pxb-pcie", self.slot)
            .text("id", &Self::id(self.rank))
            .number("bus_nr", self.bus.number())
            .number("numa_node", self.rank);
        [Arg::new("-device", device)]
    }
}
