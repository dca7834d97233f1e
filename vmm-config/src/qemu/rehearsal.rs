//! The same VM without what only its host has: for the ACPI tables that QEMU makes for it.
//!
//! The tables follow from the board, the number of vCPUs, what is in which slot of the root bus, and the addresses that the
//! firmware gives to the devices' BARs. So every device stays in its slot, with BARs of the same sizes, and what leads out of
//! the VM is left out: descriptors, the TEE, the kernel. QEMU emulates; the firmware does not see the difference in time.

use shared_types::Accelerator;

use super::arg::{Arg, Options};
use super::console::Console;
use super::machine::Machine;
use super::memory::RAM_ID;
use super::net::Nic;
use super::scratch::ScratchDisk;
use super::vsock::Vsock;
use super::{Cpu, virtio_device};
use crate::passthrough::AddressWidth;
use crate::spec::VmSpec;

/// Devices of the host are behind root ports with windows as large as their BARs; without them the tables are others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the VM has {0} devices of the host, whose address windows are in the tables: only a VM that has them makes those tables"
)]
pub struct HasHostDevices(pub usize);

impl VmSpec {
    /// QEMU's command line for a VM that has the ACPI tables of this one on a host whose physical addresses have `width`
    /// bits, and needs neither the host's hardware nor a descriptor. Its monitor is on the standard streams, and the file of
    /// the initdata's disk ([`INITDATA_FILE`](super::INITDATA_FILE)) is in its working directory.
    ///
    /// # Errors
    /// [`HasHostDevices`].
    pub fn rehearsal_args(&self, width: AddressWidth) -> Result<Vec<String>, HasHostDevices> {
        match self.passthrough().len() {
            0 => Ok(self.rehearsal(width).into_iter().flat_map(Arg::into_words).collect()),
            devices => Err(HasHostDevices(devices)),
        }
    }

    fn rehearsal(&self, width: AddressWidth) -> Vec<Arg> {
        let mut args = vec![
            Arg::bare("-nodefaults"),
            Arg::bare("-no-user-config"),
            Arg::verbatim("-display", "none"),
            Arg::bare("-no-reboot"),
            Arg::verbatim("-run-with", "exit-with-parent=on"),
            Arg::verbatim("-qmp", "stdio"),
        ];
        // Without interrupt controller and timer of old, as TDX has it.
        args.extend(Machine { accel: Accelerator::Tcg }.args(&self.memory, None));
        args.extend(Cpu { accel: Accelerator::Tcg, width: Some(width), ..self.cpu }.args(None));
        // Not reserved: the firmware touches little of it, and this machine may have less.
        let size = self.memory().size().bytes();
        let memory = Options::new("memory-backend-ram").text("id", RAM_ID).number("size", size);
        args.push(Arg::new("-object", memory.flag("reserve", false)));
        args.push(Arg::new("-m", Options::new(&format!("{size}b"))));
        args.extend(self.kernel.firmware.iter().map(|path| Arg::verbatim("-bios", path.as_str())));
        args.extend(self.console.iter().flat_map(Console::rehearsal));
        args.extend(self.root.args());
        args.extend(self.initdata.iter().flat_map(|disk| disk.args()));
        args.extend(self.scratch.iter().flat_map(ScratchDisk::rehearsal));
        args.extend(self.scsi.args());
        args.extend(self.vsock.rehearsal());
        args.extend(self.pvpanic.args());
        args.extend(self.rng.iter().flat_map(|rng| rng.args()));
        args.extend(self.nics.iter().flat_map(Nic::rehearsal));
        args
    }
}

impl Console {
    fn rehearsal(&self) -> [Arg; 2] {
        let [.., device] = self.args();
        [Arg::new("-chardev", Options::new("null").text("id", "console")), device]
    }
}

impl Vsock {
    /// Another virtio device: its BARs are the same, and no table says what it is.
    fn rehearsal(&self) -> [Arg; 2] {
        let device = virtio_device("virtio-rng-pci", self.slot).text("rng", "vsock").number("vectors", 3);
        [Arg::new("-object", Options::new("rng-builtin").text("id", "vsock")), Arg::new("-device", device)]
    }
}

impl Nic {
    /// On a hub that leads nowhere.
    fn rehearsal(&self) -> [Arg; 2] {
        let [.., device] = self.args();
        let hub =
            Options::new("hubport").text("id", &format!("net{}", self.index)).number("hubid", self.index);
        [Arg::new("-netdev", hub), device]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passthrough::HostDevices;
    use crate::passthrough::tests::{Board, devices};
    use crate::plan::HostFacts;
    use crate::plan::tests::{image, nic, request, vhost};
    use crate::qemu::read::properties;

    fn spec(passthrough: HostDevices) -> VmSpec {
        let host = HostFacts { passthrough, ..vhost(vec![nic(2, true), nic(1, false)]) };
        let asked = crate::request::PodRequest { scratch: Some("1Gi".parse().unwrap()), ..request(4) };
        crate::plan::plan(&crate::config::NodeConfig::default(), &image(), &asked, &host).unwrap()
    }

    fn width() -> AddressWidth {
        AddressWidth::new(52).unwrap()
    }

    /// What is in which slot.
    fn slots(args: &[String]) -> Vec<(String, String)> {
        let devices = args.windows(2).filter(|pair| pair[0] == "-device").map(|pair| properties(&pair[1]));
        let mut slots: Vec<_> = devices
            .filter_map(|properties| {
                let at = properties.iter().find(|(key, _)| key == "addr")?.1.clone();
                Some((at, properties[0].1.clone()))
            })
            .collect();
        slots.sort();
        slots
    }

    #[test]
    fn every_device_is_in_its_slot() {
        let spec = spec(HostDevices::default());
        let rehearsed = slots(&spec.rehearsal_args(width()).unwrap());
        let expected = slots(&spec.qemu_args())
            .into_iter()
            .map(|(at, driver)| (at, driver.replace("vhost-vsock-pci", "virtio-rng-pci")));
        assert_eq!(rehearsed, expected.collect::<Vec<_>>());
        assert!(rehearsed.len() >= 6, "{rehearsed:?}");
    }

    #[test]
    fn nothing_of_the_host_is_needed() {
        let line = spec(HostDevices::default()).rehearsal_args(width()).unwrap().join("\n");
        for word in ["fd=", "fds=", "tap", "kvm", "vhost", "-kernel", "-append"] {
            assert!(!line.contains(word), "{word} in\n{line}");
        }
        assert!(line.contains("phys-bits=52") && line.contains("-smp\n4,"), "{line}");
    }

    #[test]
    fn gpus_cannot_be_rehearsed() {
        let error = spec(devices(&Board::h100(1))).rehearsal_args(width()).unwrap_err();
        assert_eq!(error, HasHostDevices(1));
    }
}
