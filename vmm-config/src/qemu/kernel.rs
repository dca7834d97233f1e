//! What the VM boots: firmware, kernel and the kernel's command line.

use super::arg::Arg;
use crate::cmdline::Cmdline;
use crate::path::AbsolutePath;

/// What the VM boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel image.
    pub path: AbsolutePath,
    /// Its command line.
    pub cmdline: Cmdline,
    /// Firmware; absent: QEMU's own.
    pub firmware: Option<AbsolutePath>,
}

impl Kernel {
    pub(super) fn args(&self) -> Vec<Arg> {
        let mut args = vec![
            Arg::verbatim("-kernel", self.path.as_str()),
            Arg::verbatim("-append", self.cmdline.to_string()),
        ];
        if let Some(firmware) = &self.firmware {
            args.push(Arg::verbatim("-bios", firmware.as_str()));
        }
        args
    }
}
