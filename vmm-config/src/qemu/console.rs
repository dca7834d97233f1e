//! The guest's serial console (`ttyS0`), which ends in the shim's log.

use super::arg::{Arg, Options};
use crate::spec::QemuFd;

/// Id of the console's character device.
const CHARDEV: &str = "console";
/// The set of descriptors that holds the pipe; image layers have the numbers of their LUNs, which are smaller.
const FD_SET: u32 = 65_536;

/// The serial console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Console {
    /// The end of a pipe that is written. A UART's bytes come one by one: a pipe gathers them, where a socket keeps some
    /// hundred bytes of memory for each, and wakes its reader.
    pub fd: QemuFd,
}

impl Console {
    pub(super) fn args(&self) -> [Arg; 3] {
        let pipe = Arg::verbatim("-add-fd", format!("fd={},set={FD_SET}", self.fd));
        // Appending, because QEMU empties other files, and a pipe cannot be.
        let chardev = Options::new("file").text("id", CHARDEV).text("path", &format!("/dev/fdset/{FD_SET}"));
        [
            pipe,
            Arg::new("-chardev", chardev.flag("append", true)),
            Arg::new("-device", Options::new("isa-serial").text("chardev", CHARDEV).number("index", 0)),
        ]
    }
}
