//! Host devices that a VM gets: what must be known of them, and where in the guest they go.
//!
//! Everything here is arithmetic on facts. Each device sits alone behind a root port of its own; the ports sit on the
//! board's root bus, or, where the devices are on several NUMA nodes of the host, on one root bus per node. The ports'
//! windows and the window of the whole board are computed from the devices' real BARs, and a set that does not fit is
//! refused before QEMU starts.

mod device;
mod numa;
mod plan;
mod width;
mod window;

pub use device::{Access, Bar, Description, HostDevices, PciId, VerifiedDevice};
pub use numa::HostNode;
pub use plan::DevicesError;
pub(crate) use plan::{Vm, plan};
pub use width::{AddressWidth, BadWidth};
pub use window::{BarSpace, MmioWindow, WindowError};

#[cfg(test)]
pub(crate) mod tests;
