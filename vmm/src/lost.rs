//! A device that its VM loses: what QEMU says then.
//!
//! QEMU hears of it from the kernel through two eventfds (`hw/vfio/pci.c`). At a fatal bus error it prints a line and stops
//! the VM with the status `internal-error`. When the host wants the device back, because its driver is being unbound or
//! the device removed, it tries to unplug it, which no port of ours allows, and prints that.

use std::fmt;

use vmm_config::passthrough::HostAddress;
use vmm_config::qemu::VfioDevice;

use crate::lines::Tail;

/// What QEMU prints at a fatal error; the device's name is in front of it, in parentheses.
const BUS_ERROR: &str = "Unrecoverable error detected";
/// What QEMU prints when it cannot give a device back; the device's name is in front of it.
const RECLAIMED: &str = "does not support hotplugging";

/// Waits until QEMU says one of these.
pub(crate) async fn told(stderr: &Tail) {
    stderr.said(&[BUS_ERROR, RECLAIMED]).await;
}

/// How a device was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It reported an error that nobody can correct (AER), or fell off its bus.
    BusError,
    /// The host wants it back.
    Reclaimed,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BusError => "reported a fatal bus error or fell off its bus; see the host kernel's log",
            Self::Reclaimed => {
                "is wanted back by the host: somebody unbinds or removes it while its VM runs, cc-manager for example"
            }
        })
    }
}

/// The first of these devices that QEMU complains of.
pub(crate) fn find(stderr: &[String], devices: &[VfioDevice]) -> Option<(HostAddress, Loss)> {
    stderr.iter().find_map(|line| {
        let loss = match line {
            line if line.contains(BUS_ERROR) => Loss::BusError,
            line if line.contains(RECLAIMED) => Loss::Reclaimed,
            _ => return None,
        };
        let device = devices.iter().find(|device| {
            let name = device.qemu_name();
            match loss {
                Loss::BusError => line.contains(&format!("({name})")),
                Loss::Reclaimed => line.contains(&format!("vfio {name}:")),
            }
        })?;
        Some((device.address, loss))
    })
}

#[cfg(test)]
mod tests {
    use vmm_config::passthrough::{BarSpace, Kind, PciId};
    use vmm_config::pci::PciSlots;
    use vmm_config::qemu::{DeviceBackend, PortBus, RootPort};

    use super::*;

    fn device(address: &str) -> VfioDevice {
        let slot = PciSlots::new().take().unwrap();
        VfioDevice {
            address: address.parse().unwrap(),
            kind: Kind::Gpu,
            id: PciId { vendor: 0x10de, device: 0x2330 },
            port: RootPort { index: 0, bus: PortBus::Board, slot, space: BarSpace::default() },
            backend: DeviceBackend::Group,
        }
    }

    #[test]
    fn the_device_is_told_by_the_name_that_qemu_gives_it() {
        let devices = [device("0000:41:00.0"), device("0000:42:00.0")];
        let find = |line: &str| find(&["warning: x".to_owned(), line.to_owned()], &devices);
        let second = devices[1].address;
        // As QEMU 11.1 prints it.
        let error = "qemu-system-x86_64: vfio_err_notifier_handler(0000:42:00.0) Unrecoverable error detected. Please \
                     collect any data possible and then kill the guest";
        assert_eq!(find(error), Some((second, Loss::BusError)));
        let request =
            "qemu-system-x86_64: warning: vfio 0000:42:00.0: Bus 'port1' does not support hotplugging";
        assert_eq!(find(request), Some((second, Loss::Reclaimed)));
        assert_eq!(find("vfio_err_notifier_handler(0000:43:00.0) Unrecoverable error detected"), None);
        assert_eq!(find("Bus 'port1' does not support hotplugging"), None);
    }
}
