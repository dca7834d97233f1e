//! Slots on the PCI root buses.
//!
//! Every device has an explicit slot, handed out in the order in which the VM's description lists the
//! devices. So the same description gives the same guest, and Coffer can tell the guest where a device
//! sits without asking QEMU.

use std::fmt;

/// First slot that can be given out: 0 is the host bridge.
const FIRST: u8 = 0x01;
/// Last one: 0x1f is the chipset's own (LPC).
const LAST: u8 = 0x1e;

/// A slot of a bus, function 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciSlot(u8);

impl PciSlot {
    /// The one slot of the bus behind a root port.
    pub(crate) const ONLY: Self = Self(0);

    /// The slot as the guest's agent names the device in it: two hexadecimal digits.
    pub fn guest_path(self) -> GuestPciPath {
        GuestPciPath { root: RootBus::BOARD, slots: vec![self] }
    }

    /// The number, 0 to 31.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// The number of a root bus: 0 for the board's own, `pcie.0`; a NUMA node's has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootBus(u8);

impl RootBus {
    /// `pcie.0`.
    pub(crate) const BOARD: Self = Self(0);
    /// How many numbers each root bus has for the buses behind its ports: as many as it has slots.
    const APART: u8 = 0x20;
    /// How many there can be beside the board's.
    pub(crate) const MOST_NODES: usize = 0x100 / Self::APART as usize - 1;

    /// The bus of the NUMA node of this rank, from 0. kata-agent takes numbers from 0x20 on for such buses
    /// (`linux_abi.rs`).
    pub(crate) fn of_node(rank: usize) -> Option<Self> {
        let number = (rank + 1) * usize::from(Self::APART);
        u8::try_from(number).ok().map(Self)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The way to a device from its root bus: one slot per bridge, then the device's own, as in `09/00`; before them the
/// root bus where it is not the board's, as in `20/00/00`. Sorts in the guest's order of PCI addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPciPath {
    root: RootBus,
    slots: Vec<PciSlot>,
}

impl GuestPciPath {
    /// The device behind the port in `port` of a root bus.
    pub(crate) fn behind_port(root: RootBus, port: PciSlot) -> Self {
        Self { root, slots: vec![port, PciSlot::ONLY] }
    }

    /// From numbers that QEMU told: the root bus, then the slots.
    pub fn from_numbers(root: u8, slots: &[u8]) -> Self {
        Self { root: RootBus(root), slots: slots.iter().copied().map(PciSlot).collect() }
    }
}

impl fmt::Display for GuestPciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.root != RootBus::BOARD {
            write!(f, "{:02x}/", self.root.0)?;
        }
        for (i, slot) in self.slots.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            slot.fmt(f)?;
        }
        Ok(())
    }
}

/// Hands out a root bus's slots, each once.
#[derive(Debug)]
pub struct PciSlots {
    next: u8,
    last: u8,
}

impl PciSlots {
    /// How many devices fit onto the board's root bus.
    pub(crate) const CAPACITY: usize = (LAST - FIRST + 1) as usize;

    /// Of `pcie.0`, all slots free.
    pub const fn new() -> Self {
        Self { next: FIRST, last: LAST }
    }

    /// Of a NUMA node's root bus, which has nothing of its own in any slot.
    pub(crate) const fn of_node() -> Self {
        Self { next: 0, last: 0x1f }
    }

    /// The next free slot.
    ///
    /// # Errors
    /// [`BusFull`] if there is none.
    pub const fn take(&mut self) -> Result<PciSlot, BusFull> {
        if self.next > self.last {
            return Err(BusFull);
        }
        let slot = PciSlot(self.next);
        self.next += 1;
        Ok(slot)
    }

    /// How many slots are free.
    pub(crate) fn free(&self) -> usize {
        usize::from(self.last + 1 - self.next)
    }
}

impl Default for PciSlots {
    fn default() -> Self {
        Self::new()
    }
}

/// More devices than the root bus has slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the VM has more than {} PCI devices, which is what its root bus holds", PciSlots::CAPACITY)]
pub struct BusFull;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_stay_between_host_bridge_and_chipset() {
        let mut slots = PciSlots::new();
        let taken: Vec<u8> = std::iter::from_fn(|| slots.take().ok()).map(PciSlot::number).collect();
        assert_eq!(taken, (1..=30).collect::<Vec<u8>>());
        assert_eq!(taken.len(), PciSlots::CAPACITY);
        assert_eq!(slots.take(), Err(BusFull));
    }

    #[test]
    fn guest_path_is_hexadecimal() {
        assert_eq!(PciSlot(0x1e).guest_path().to_string(), "1e");
        assert_eq!(GuestPciPath::behind_port(RootBus::BOARD, PciSlot(9)).to_string(), "09/00");
        let node = RootBus::of_node(1).unwrap();
        assert_eq!(GuestPciPath::behind_port(node, PciSlot(0)).to_string(), "40/00/00");
    }

    #[test]
    fn paths_sort_by_number() {
        let port = |root, slot| GuestPciPath::behind_port(root, PciSlot(slot));
        let node = RootBus::of_node(0).unwrap();
        assert!(
            port(RootBus::BOARD, 2) < port(RootBus::BOARD, 10) && port(RootBus::BOARD, 30) < port(node, 0)
        );
    }

    #[test]
    fn root_buses_leave_room_for_the_buses_behind_them() {
        let buses: Vec<_> = (0..9).map(RootBus::of_node).collect();
        assert_eq!(buses[6], Some(RootBus(0xe0)));
        assert_eq!(buses[7..], [None, None]);
        assert_eq!(buses.iter().flatten().count(), RootBus::MOST_NODES);
        let mut slots = PciSlots::of_node();
        assert_eq!(std::iter::from_fn(|| slots.take().ok()).count(), slots.free() + 32);
    }
}
