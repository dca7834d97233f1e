//! The guest's serial console (`ttyS0`), which ends in the shim's log.

use super::arg::{Arg, Options};
use crate::spec::QemuFd;

/// Id of the console's character device.
const CHARDEV: &str = "console";

/// The serial console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Console {
    /// QEMU's end of a connected socket pair.
    pub fd: QemuFd,
}

impl Console {
    pub(super) fn args(&self) -> [Arg; 2] {
        let chardev = Options::new("socket").text("id", CHARDEV).number("fd", self.fd);
        [
            Arg::new("-chardev", chardev),
            Arg::new("-device", Options::new("isa-serial").text("chardev", CHARDEV).number("index", 0)),
        ]
    }
}
