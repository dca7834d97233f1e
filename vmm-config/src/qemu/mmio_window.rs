//! The window above 4 GiB that BARs are placed in.

use super::arg::{Arg, Options};
use crate::passthrough::MmioWindow;

/// Bytes in the unit of OVMF's file.
const MIB: u64 = 1 << 20;

impl MmioWindow {
    /// OVMF takes the window's size from a file of its configuration device; SeaBIOS places the BARs first, and what the
    /// board then tells the guest of its window must hold them.
    pub(super) fn args(self, firmware: bool) -> [Arg; 1] {
        if firmware {
            let file = Options::new("name=opt/ovmf/X-PciMmio64Mb").number("string", self.size.div_ceil(MIB));
            [Arg::new("-fw_cfg", file)]
        } else {
            [Arg::verbatim("-global", format!("q35-pcihost.pci-hole64-size={}", self.size))]
        }
    }
}
