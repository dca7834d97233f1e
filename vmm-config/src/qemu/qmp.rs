//! The control socket.

use super::arg::{Arg, Options};
use crate::spec::QemuFd;

/// Id of the control socket's character device.
const CHARDEV: &str = "qmp";

/// The control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qmp {
    /// QEMU's end of a connected socket pair.
    pub fd: QemuFd,
}

impl Qmp {
    pub(super) fn args(&self) -> [Arg; 2] {
        let chardev = Options::new("socket").text("id", CHARDEV).number("fd", self.fd);
        [Arg::new("-chardev", chardev), Arg::verbatim("-qmp", format!("chardev:{CHARDEV}"))]
    }
}
