//! From [`VmSpec`] to QEMU's arguments, one file per device.
//!
//! Each part of the description gives its own [`Arg`]s; this module only puts them in order. Properties
//! are those of QEMU 11 (`qemu-system-x86_64 -device X,help`).

mod arg;
mod blk;
mod confidential;
mod console;
mod cpu;
mod expander;
mod initdata;
mod iommufd;
mod kernel;
mod machine;
mod memory;
mod mmio_window;
mod net;
mod numa;
mod passthrough;
mod pvpanic;
mod qmp;
mod rehearsal;
mod rng;
mod root_port;
mod scratch;
mod scsi;
mod snp;
mod tdx;
mod vfio;
mod vsock;

pub use self::arg::Arg;
#[cfg(test)]
pub(crate) use self::arg::read;
pub use self::blk::RootDisk;
pub use self::confidential::ConfidentialGuest;
pub use self::console::Console;
pub use self::cpu::Cpu;
pub use self::expander::Expander;
pub use self::initdata::{INITDATA_FILE, InitdataDisk};
pub use self::iommufd::Iommufd;
pub use self::kernel::Kernel;
pub use self::machine::Machine;
pub use self::memory::{Memory, MemoryBacking, MemoryNode, NodePolicy};
pub use self::net::{Nic, NicQueue};
pub use self::passthrough::Passthrough;
pub use self::pvpanic::Pvpanic;
pub use self::qmp::Qmp;
pub use self::rehearsal::HasHostDevices;
pub use self::rng::Rng;
pub use self::root_port::{PortBus, RootPort};
pub use self::scratch::ScratchDisk;
pub(crate) use self::scsi::CONTROLLER_ID;
pub use self::scsi::ScsiController;
pub use self::snp::SnpGuest;
pub use self::tdx::TdxGuest;
pub use self::vfio::{DeviceBackend, VfioDevice};
pub use self::vsock::{Vsock, VsockBackend};

use self::arg::Options;
use crate::pci::PciSlot;
use crate::spec::VmSpec;

/// The oldest QEMU that has all these options, by its major version.
pub const OLDEST: u32 = 11;

/// What QEMU may not do once it runs: become another user, start programs, change scheduling, or use
/// system calls that nothing current needs.
const SECCOMP: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

impl VmSpec {
    /// QEMU's command line without the program itself.
    pub fn qemu_args(&self) -> Vec<String> {
        self.args().into_iter().flat_map(Arg::into_words).collect()
    }

    fn args(&self) -> Vec<Arg> {
        let mut args = vec![
            Arg::new("-name", Options::new(self.name().as_str()).flag("debug-threads", true)),
            Arg::bare("-nodefaults"),
            Arg::bare("-no-user-config"),
            Arg::verbatim("-display", "none"),
            Arg::bare("-no-reboot"),
            Arg::verbatim("-sandbox", SECCOMP),
        ];
        args.extend(self.qmp.args());
        let guest = self.confidential.as_ref();
        args.extend(guest.iter().flat_map(|guest| guest.args()));
        args.extend(self.machine.args(&self.memory, guest));
        args.extend(self.cpu.args(guest));
        args.extend(self.memory.args());
        args.extend(numa::args(&self.memory, self.cpu.vcpus));
        args.extend(self.kernel.args());
        args.extend(self.console.iter().flat_map(|console| console.args()));
        args.extend(self.root.args());
        args.extend(self.initdata.iter().flat_map(|disk| disk.args()));
        args.extend(self.scratch.iter().flat_map(|disk| disk.args()));
        args.extend(self.scsi.args());
        args.extend(self.vsock.args());
        args.extend(self.pvpanic.args());
        args.extend(self.rng.iter().flat_map(|rng| rng.args()));
        args.extend(self.nics.iter().flat_map(|nic| nic.args()));
        args.extend(self.passthrough.args(self.kernel.firmware.is_some()));
        args
    }
}

/// A device on the root bus, in its slot.
fn pci_device(driver: &str, slot: PciSlot) -> Options {
    Options::new(driver).text("bus", "pcie.0").text("addr", &format!("0x{slot}"))
}

/// A virtio device on the root bus. Modern only: the legacy interface would cost each one I/O ports.
fn virtio_device(driver: &str, slot: PciSlot) -> Options {
    pci_device(driver, slot).flag("disable-legacy", true)
}
