//! The emulated devices on the VM's bus, and their sockets.

use std::str::FromStr;

use clap::ValueEnum;
use emulated_gpu::{Emulator, Options, Product, Timing};
use outer_vm::DEVICES;
use tempfile::TempDir;

use crate::run::Error;

/// What to emulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    product: Product,
    /// Size of the memory BAR in GiB.
    memory: u32,
}

/// Ports of one serial controller: of what it has to say of more of them at once, QEMU loses what is beyond its queue's
/// 32 messages, and such a port never opens.
const PORTS: usize = 8;

/// The size of a memory BAR where nothing is said: large enough to lie above 4 GiB, as the real ones do.
const MEMORY: u32 = 8;
/// As an H100's really is: there are eight, the most that one VM has to find a place for.
const H100_MEMORY: u32 = 128;
/// Small: whoever gives a VM this one by its legacy group has the kernel map all of it for the IOMMU, and a mapping is
/// slow under emulation.
const H200_MEMORY: u32 = 1;

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (product, memory) = text.split_once(':').unwrap_or((text, ""));
        let product = Product::from_str(product, true)?;
        let memory = match memory {
            "" => MEMORY,
            digits => digits.parse().map_err(|_| format!("{digits:?} is no number of GiB"))?,
        };
        if !memory.is_power_of_two() {
            return Err(format!("{memory} GiB is no power of two, as BARs are"));
        }
        Ok(Self { product, memory })
    }
}

/// What the VM has where nothing is said.
pub(crate) fn all() -> Vec<Device> {
    let memory = |product| match product {
        Product::H100 => H100_MEMORY,
        Product::H200 => H200_MEMORY,
        _ => MEMORY,
    };
    DEVICES.iter().map(|product| Device { product: *product, memory: memory(*product) }).collect()
}

/// Devices that are being served.
#[derive(Debug)]
pub(crate) struct Bus {
    folder: TempDir,
    emulators: Vec<Emulator>,
}

impl Bus {
    /// Starts all of them.
    pub(crate) fn start(devices: &[Device]) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(Error::Folder)?;
        let start = |(index, device): (usize, &Device)| {
            Emulator::start(&Options {
                product: device.product,
                socket: folder.path().join(format!("{index}.sock")),
                control: folder.path().join(format!("{index}.control")),
                timing: Timing::REAL,
                memory: Some(u64::from(device.memory) << 30),
                resets_like_vfio: false,
            })
        };
        let emulators = devices.iter().enumerate().map(start).collect::<Result<_, _>>()?;
        Ok(Self { folder, emulators })
    }

    /// QEMU's arguments: each device behind a root port of its own, in the slot of its number counted from 1, and its
    /// control socket as a port `gpu<slot>`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for index in 0..self.emulators.len() {
            let slot = index + 1;
            let ports = format!("ports{}", index / PORTS);
            if index.is_multiple_of(PORTS) {
                let controller = format!("virtio-serial-pci,id={ports},max_ports={}", PORTS + 1);
                arguments.extend(["-device".to_owned(), controller]);
            }
            let socket = self.folder.path().join(format!("{index}.sock"));
            let control = self.folder.path().join(format!("{index}.control"));
            let mut device = |text: String| arguments.extend(["-device".to_owned(), text]);
            device(format!("pcie-root-port,id=port{slot},chassis={slot},slot={slot},x-speed=5"));
            device(format!(
                r#"{{"driver":"vfio-user-pci","id":"gpu{slot}","bus":"port{slot}","socket":{{"type":"unix","path":"{}"}}}}"#,
                socket.display()
            ));
            device(format!("virtserialport,bus={ports}.0,chardev=control{slot},name=gpu{slot}"));
            let chardev = format!("socket,id=control{slot},path={}", control.display());
            arguments.extend(["-chardev".to_owned(), chardev]);
        }
        arguments
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_size() {
        let device: Device = "b200:256".parse().unwrap();
        assert_eq!(device, Device { product: Product::B200, memory: 256 });
        assert_eq!("rtx-pro6000".parse::<Device>().unwrap().memory, MEMORY);
        for text in ["", "h100:", "voodoo", "h100:3", "h100:x"] {
            assert_eq!(text.parse::<Device>().is_err(), text != "h100:", "{text}");
        }
    }
}
