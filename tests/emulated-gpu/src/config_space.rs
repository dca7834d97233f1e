//! Configuration space: identity, BARs, power management, PCI Express with function-level reset, MSI-X, and
//! NVIDIA's own capabilities.
//!
//! Layout: PCI Express Base Specification 6.0, chapter 7. Where each capability sits is our choice, except
//! for GB1xx's designated one, which silicon has at 0xAF0.

use crate::Product;
use crate::product::Firewall;

pub(crate) const SIZE: usize = 4096;
/// Interrupts; the table and pending bits are in BAR 0, in a hole of the registers.
pub(crate) const MSIX_VECTORS: u16 = 6;
const MSIX_TABLE: u32 = 0x00b9_0000;
const MSIX_PENDING: u32 = 0x00ba_0000;

const COMMAND: usize = 0x04;
const POWER: usize = 0x44;
const DEVICE_CONTROL: usize = 0x68;
const MSIX_CONTROL: usize = 0xca;
const VENDOR_SPECIFIC: usize = 0x250;
const DESIGNATED: usize = 0xaf0;

/// Why a device has locked itself down; the value is ours.
const FAULT_REASON: u32 = 0x0000_0c0f;

/// What a write asks for besides the bytes it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    FunctionLevelReset,
}

/// The bytes, and which of them a write changes.
#[derive(Debug, Clone)]
pub(crate) struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    at_reset: Vec<u8>,
    firewall: Firewall,
}

impl ConfigSpace {
    pub(crate) fn new(product: Product, bars: [u64; 3]) -> Self {
        let mut space = Self {
            bytes: vec![0; SIZE],
            writable: vec![0; SIZE],
            at_reset: Vec::new(),
            firewall: product.firewall(),
        };
        space.header(product, bars);
        space.capabilities();
        space.extended(product);
        space.at_reset = space.bytes.clone();
        space
    }

    fn header(&mut self, product: Product, bars: [u64; 3]) {
        self.set16(0x00, 0x10de);
        self.set16(0x02, product.device_id());
        self.let16(COMMAND, 0x0547);
        // Has capabilities.
        self.set16(0x06, 0x0010);
        self.set32(0x08, product.class() << 8 | 0xa1);
        for (index, size) in bars.into_iter().enumerate().filter(|(_, size)| *size != 0) {
            let at = 0x10 + 8 * index;
            // 64 bits; all but the registers prefetchable.
            self.set32(at, if index == 0 { 0x4 } else { 0xc });
            let [low, high] = halves(!(size - 1));
            self.let32(at, low & !0xf);
            self.let32(at + 4, high);
        }
        self.set16(0x2c, 0x10de);
        self.set16(0x2e, product.subsystem_id());
        self.set16(0x34, 0x40);
        self.let16(0x3c, 0x00ff);
    }

    fn capabilities(&mut self) {
        // Power management, version 3; keeps its state when it comes back from D3hot.
        self.set32(0x40, 0x0003_6001);
        self.set16(POWER, 0x0008);
        self.let16(POWER, 0x0103);
        // PCI Express endpoint, version 2: function-level reset, 256 bytes, generation 5 x16.
        self.set32(0x60, 0x0002_c810);
        self.set32(0x64, 0x1000_8001);
        self.set16(DEVICE_CONTROL, 0x2810);
        self.let16(DEVICE_CONTROL, 0x7fff);
        self.set32(0x6c, 0x0000_5d05);
        self.let16(0x70, 0x0fff);
        self.set16(0x72, 0x1105);
        self.set32(0x84, 0x0000_0013);
        self.let16(0x88, 0x0fff);
        self.set32(0x8c, 0x0000_003e);
        self.set16(0x90, 0x0005);
        // MSI-X, last of the list.
        self.set32(0xc8, u32::from(MSIX_VECTORS - 1) << 16 | 0x0011);
        self.let16(MSIX_CONTROL, 0xc000);
        self.set32(0xcc, MSIX_TABLE);
        self.set32(0xd0, MSIX_PENDING);
    }

    fn extended(&mut self, product: Product) {
        let (next, vendor, id) = (0x250, product.device_id(), 0x0001_0003);
        // Serial number.
        self.set32(0x100, next << 20 | id);
        self.set32(0x104, 0x4853_0000 | u32::from(vendor));
        self.set32(0x108, 0x048b_2d00);
        let designated = self.firewall == Firewall::Designated;
        // Vendor-specific 1, revision 1, 0x1c bytes.
        self.set32(VENDOR_SPECIFIC, if designated { 0xaf0 << 20 } else { 0 } | 0x0001_000b);
        self.set32(VENDOR_SPECIFIC + 4, 0x01c1_0001);
        if designated {
            // Another vendor-specific one then, which nobody must take for NVIDIA's first.
            self.set32(VENDOR_SPECIFIC + 4, 0x01c1_0002);
            self.set32(DESIGNATED, 0x0001_0023);
            self.set32(DESIGNATED + 4, 0x01c0_10de);
            self.set32(DESIGNATED + 8, 0x0000_0000);
        }
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn let16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }

    fn let32(&mut self, at: usize, mask: u32) {
        self.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
    }

    /// The state of the firewall, as configuration space shows it.
    pub(crate) fn show_firewall(&mut self, up: bool) {
        match self.firewall {
            Firewall::None => {}
            Firewall::Designated => self.set32(DESIGNATED + 8, if up { 1 << 20 } else { 0 }),
            Firewall::VendorSpecific => self.set32(VENDOR_SPECIFIC + 0x14, if up { 1 << 24 } else { 0 }),
        }
    }

    /// Shows a reason for a lockdown, or none.
    pub(crate) fn show_fault(&mut self, locked_down: bool) {
        let reason = if locked_down { FAULT_REASON } else { 0 };
        let at =
            if self.firewall == Firewall::Designated { DESIGNATED + 0x14 } else { VENDOR_SPECIFIC + 0x10 };
        self.set32(at, reason);
    }

    pub(crate) fn read(&self, at: usize, data: &mut [u8]) {
        data.copy_from_slice(&self.bytes[at..at + data.len()]);
    }

    /// Without extended capabilities.
    pub(crate) fn read_hidden(&self, at: usize, data: &mut [u8]) {
        for (offset, byte) in (at..).zip(data) {
            *byte = if offset < 0x100 { self.bytes[offset] } else { 0 };
        }
    }

    pub(crate) fn write(&mut self, at: usize, data: &[u8], stays_asleep: bool) -> Effect {
        let state = self.power_state();
        for (offset, byte) in (at..).zip(data) {
            let mask = self.writable[offset];
            self.bytes[offset] = self.bytes[offset] & !mask | byte & mask;
        }
        if stays_asleep && state != 0 {
            self.bytes[POWER] = self.bytes[POWER] & !3 | state;
        }
        // Initiate function-level reset: reads as zero.
        let flr = (at..).zip(data).any(|(offset, byte)| offset == DEVICE_CONTROL + 1 && byte & 0x80 != 0);
        if flr { Effect::FunctionLevelReset } else { Effect::None }
    }

    /// What a reset leaves: everything as at the beginning.
    pub(crate) fn reset(&mut self) {
        self.bytes.clone_from(&self.at_reset);
    }

    /// 0 for D0.
    pub(crate) fn power_state(&self) -> u8 {
        self.bytes[POWER] & 3
    }

    pub(crate) fn sleep(&mut self) {
        self.bytes[POWER] |= 3;
    }

    pub(crate) fn memory_space(&self) -> bool {
        self.bytes[COMMAND] & 2 != 0
    }

    pub(crate) fn bus_master(&self) -> bool {
        self.bytes[COMMAND] & 4 != 0
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(space: &ConfigSpace, at: usize) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn bars_tell_their_size() {
        let mut space = ConfigSpace::new(Product::H100, Product::H100.bars());
        space.write(0x10, &[0xff; 24], false);
        assert_eq!(word(&space, 0x10), 0xff00_0004);
        assert_eq!(word(&space, 0x14), 0xffff_ffff);
        // 128 GiB, prefetchable.
        assert_eq!(word(&space, 0x18), 0x0000_000c);
        assert_eq!(word(&space, 0x1c), 0xffff_ffe0);
    }

    #[test]
    fn the_identity_is_not_writable_and_function_level_reset_is_seen() {
        let mut space = ConfigSpace::new(Product::B200, Product::B200.bars());
        assert_eq!(space.write(0, &[0; 4], false), Effect::None);
        assert_eq!(word(&space, 0), 0x2901_10de);
        assert_eq!(space.write(0x68, &0xa810_u16.to_le_bytes(), false), Effect::FunctionLevelReset);
        assert_eq!(word(&space, 0x68) & 0x8000, 0);
        assert_eq!(word(&space, 0xaf0) & 0xffff, 0x23);
        space.show_firewall(true);
        assert_eq!(word(&space, 0xaf8), 1 << 20);
    }

    #[test]
    fn sleep_ends_unless_it_must_not() {
        let mut space = ConfigSpace::new(Product::H100, Product::H100.bars());
        space.sleep();
        space.write(0x44, &[0x08, 0], true);
        assert_eq!(space.power_state(), 3);
        space.write(0x44, &[0x08, 0], false);
        assert_eq!(space.power_state(), 0);
    }
}
