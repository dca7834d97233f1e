//! The host's devices of a VM: locked, set to their mode, verified, handed to QEMU, and given back clean.
//!
//! ```text
//! DevicesPlan --record, lock--> Devices --verify--> HostDevices --QEMU--> reset, wiped, free or in quarantine
//! ```
//!
//! Whatever ends the way, the devices are reset if a VM may have had them or setting their mode went wrong, and one that
//! does not come back is put into quarantine. The record does the same for a shim that was killed.

mod claim;
mod error;
mod facts;
mod host;
mod memlock;
mod mode;
mod record;
mod release;
#[cfg(test)]
#[cfg(feature = "vfio-user")]
mod tests;

pub(crate) use claim::{Devices, DevicesPlan};
pub use error::DevicesError;
use gpu::PciAddress;
pub use host::GpuHost;
pub(crate) use memlock::raise as raise_memory_lock;
pub use record::DevicesRecord;

/// Which devices a VM gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicesRequest {
    /// Their addresses; each must be the only holder of its IOMMU group, or together with others of these.
    pub addresses: Vec<PciAddress>,
    /// Where things are on the host.
    pub host: GpuHost,
}
