//! The host's IOMMU, as one object that all devices share: the guest's memory is pinned and mapped once for all of them.

use super::arg::{Arg, Options};
use crate::spec::QemuFd;

/// The object's id.
pub(super) const ID: &str = "iommufd0";

/// The object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Iommufd {
    /// `/dev/iommu`.
    pub fd: QemuFd,
}

impl Iommufd {
    pub(super) fn args(self) -> [Arg; 1] {
        [Arg::new("-object", Options::new("iommufd").text("id", ID).number("fd", self.fd))]
    }
}
