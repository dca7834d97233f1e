//! Slots on the PCI root bus.
//!
//! Every device has an explicit slot, handed out in the order in which the VM's description lists the
//! devices. So the same description gives the same guest, and Coffer can tell the guest where a device
//! sits without asking QEMU.

use std::fmt;

/// First slot that can be given out: 0 is the host bridge.
const FIRST: u8 = 0x01;
/// Last one: 0x1f is the chipset's own (LPC).
const LAST: u8 = 0x1e;

/// A slot of the root bus `pcie.0`, function 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciSlot(u8);

impl PciSlot {
    /// The slot as the guest's agent names the device in it: two hexadecimal digits.
    pub fn guest_path(self) -> GuestPciPath {
        GuestPciPath(vec![self])
    }

    /// The number, 1 to 30.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// The way to a device from the root bus: one slot per bridge, then the device's own, as in `09/00`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GuestPciPath(Vec<PciSlot>);

impl fmt::Display for GuestPciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, slot) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            slot.fmt(f)?;
        }
        Ok(())
    }
}

/// Hands out the root bus's slots, each once.
#[derive(Debug)]
pub struct PciSlots {
    next: u8,
}

impl PciSlots {
    /// How many devices fit.
    pub const CAPACITY: usize = (LAST - FIRST + 1) as usize;

    /// All slots free.
    pub const fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next free slot.
    ///
    /// # Errors
    /// [`BusFull`] if there is none.
    pub const fn take(&mut self) -> Result<PciSlot, BusFull> {
        if self.next > LAST {
            return Err(BusFull);
        }
        let slot = PciSlot(self.next);
        self.next += 1;
        Ok(slot)
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
        assert_eq!(GuestPciPath(vec![PciSlot(9), PciSlot(0)]).to_string(), "09/00");
    }
}
