//! A device that its VM loses: what QEMU says then, and what the host's kernel knows before QEMU can say anything.
//!
//! While it sets its devices up, QEMU hears nothing and answers nobody: it may wait for a device that is gone, or read its
//! list of capabilities, all-ones, without end. So as long as the VM boots, the shim looks itself.
//!
//! Later, QEMU hears of it from the kernel through two eventfds (`hw/vfio/pci.c`). At a fatal bus error it prints a line
//! and stops the VM with the status `internal-error`. When the host wants the device back, because its driver is being
//! unbound or the device removed, it tries to unplug it, which no port of ours allows, and prints that.

use std::fmt;
use std::future::pending;
use std::path::Path;
use std::time::Duration;

use shared_types::PciAddress;
use tokio::time::sleep;
use vmm_config::qemu::VfioDevice;

use crate::lines::Tail;

/// What QEMU prints at a fatal error; the device's name is in front of it, in parentheses.
const BUS_ERROR: &str = "Unrecoverable error detected";
/// What QEMU prints when it cannot give a device back; the device's name is in front of it.
const RECLAIMED: &str = "does not support hotplugging";

/// Between two looks at a device.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until a VM that boots has lost one of its devices, by what QEMU says or by what the host sees.
pub(crate) async fn in_boot(stderr: &Tail, devices: &[VfioDevice], sysfs: &Path) -> (PciAddress, Loss) {
    let told = async {
        told(stderr).await;
        match find(&stderr.lines(), devices) {
            Some(found) => found,
            None => pending().await,
        }
    };
    tokio::select! {
        found = told => found,
        address = absent(devices, sysfs) => (address, Loss::Absent),
    }
}

/// Waits until a device does not answer at two looks in a row: while an error on a bus is being corrected, everything on it
/// is away for a moment.
async fn absent(devices: &[VfioDevice], sysfs: &Path) -> PciAddress {
    let mut suspect = None;
    loop {
        sleep(PAUSE).await;
        let before = suspect.take();
        for VfioDevice { address, .. } in devices {
            let folder = sysfs.join("bus/pci/devices").join(address.to_string());
            if let Ok(false) = gpu::look::answers(&folder).await {
                if before == Some(*address) {
                    return *address;
                }
                suspect = Some(*address);
                break;
            }
        }
    }
}

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
    /// It does not answer on its bus.
    Absent,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BusError => "reported a fatal bus error or fell off its bus; see the host kernel's log",
            Self::Reclaimed => {
                "is wanted back by the host: somebody unbinds or removes it while its VM runs, cc-manager for example"
            }
            Self::Absent => "does not answer on its bus any more; see the host kernel's log",
        })
    }
}

/// The first of these devices that QEMU complains of.
pub(crate) fn find(stderr: &[String], devices: &[VfioDevice]) -> Option<(PciAddress, Loss)> {
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
                // QEMU has no word for it.
                Loss::Absent => false,
            }
        })?;
        Some((device.address, loss))
    })
}

#[cfg(test)]
mod tests {
    use shared_types::NvidiaKind;
    use vmm_config::passthrough::{BarSpace, PciId};
    use vmm_config::pci::PciSlots;
    use vmm_config::qemu::{DeviceBackend, PortBus, RootPort};

    use super::*;

    fn device(address: &str) -> VfioDevice {
        let slot = PciSlots::new().take().unwrap();
        VfioDevice {
            address: address.parse().unwrap(),
            kind: NvidiaKind::Gpu,
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
