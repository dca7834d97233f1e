//! Where devices are in the guest, as QEMU tells it.
//!
//! Source of the format: QEMU's `qapi/pci.json`. A bridge lists what is behind it only once the guest's firmware has given
//! its bus a number.

use serde::Deserialize;
use serde_json::Value;
use shared_types::{NvidiaKind, PciAddress};
use vmm_config::passthrough::PciId;
use vmm_config::pci::GuestPciPath;
use vmm_config::qemu::VfioDevice;

use super::{Qmp, QmpError};

/// Bridges below each other that are followed; QEMU's description has one.
const DEEPEST: usize = 8;

/// A device that is not where it was planned: the guest would be told of another one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} {address} was planned at guest path {planned} as {id}, and QEMU has {}; this is a bug of Coffer's, or a QEMU \
     that numbers devices otherwise",
    .found.as_ref().map_or_else(|| "no such device".to_owned(), |(path, id)| format!("it at {path} as {id}"))
)]
pub struct Misplaced {
    /// What it is.
    pub kind: NvidiaKind,
    /// Where it is on the host.
    pub address: PciAddress,
    /// Where it should be.
    pub planned: GuestPciPath,
    /// Its ids on the host.
    pub id: PciId,
    /// Where it is, and with which ids.
    pub found: Option<(GuestPciPath, PciId)>,
}

#[derive(Deserialize)]
struct Bus {
    bus: u8,
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    slot: u8,
    id: Id,
    #[serde(default)]
    qdev_id: String,
    pci_bridge: Option<Bridge>,
}

#[derive(Deserialize)]
struct Id {
    device: u16,
    vendor: u16,
}

#[derive(Deserialize)]
struct Bridge {
    #[serde(default)]
    devices: Vec<Device>,
}

impl Qmp {
    /// Checks that each device is where the VM's description has it.
    pub(crate) async fn check_places(&self, devices: &[VfioDevice]) -> Result<(), crate::boot::Failure> {
        if devices.is_empty() {
            return Ok(());
        }
        let answer = self.execute("query-pci", Value::Null).await?;
        let buses = parse(answer)?;
        Ok(devices.iter().try_for_each(|device| check(&buses, device))?)
    }
}

fn parse(answer: Value) -> Result<Vec<Bus>, QmpError> {
    serde_json::from_value(answer).map_err(|error| QmpError::Protocol(format!("query-pci: {error}")))
}

fn check(buses: &[Bus], device: &VfioDevice) -> Result<(), Misplaced> {
    let name = device.qemu_id();
    let found = buses.iter().find_map(|bus| {
        let mut slots = Vec::new();
        let found = find(&bus.devices, &name, &mut slots)?;
        let id = PciId { vendor: found.id.vendor, device: found.id.device };
        Some((GuestPciPath::from_numbers(bus.bus, &slots), id))
    });
    let planned = device.guest_path();
    match found {
        Some((path, id)) if path == planned && id == device.id => Ok(()),
        found => Err(Misplaced { kind: device.kind, address: device.address, planned, id: device.id, found }),
    }
}

/// The device of that name, with the slots on the way to it.
fn find<'a>(devices: &'a [Device], name: &str, slots: &mut Vec<u8>) -> Option<&'a Device> {
    for device in devices {
        slots.push(device.slot);
        if device.qdev_id == name {
            return Some(device);
        }
        if let Some(bridge) = device.pci_bridge.as_ref().filter(|_| slots.len() < DEEPEST)
            && let Some(found) = find(&bridge.devices, name, slots)
        {
            return Some(found);
        }
        slots.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vmm_config::passthrough::BarSpace;
    use vmm_config::pci::PciSlots;
    use vmm_config::qemu::{DeviceBackend, PortBus, RootPort};

    use super::*;

    /// The first free slot is 01.
    fn device() -> VfioDevice {
        let slot = PciSlots::new().take().unwrap();
        VfioDevice {
            address: "0000:41:00.0".parse().unwrap(),
            kind: NvidiaKind::Gpu,
            id: PciId { vendor: 0x10de, device: 0x2330 },
            port: RootPort { index: 0, bus: PortBus::Board, slot, space: BarSpace::default() },
            backend: DeviceBackend::Group,
        }
    }

    /// As QEMU 11.1 answers, shortened.
    fn answer(port: u8, slot: u8, device: u16) -> Value {
        json!([{ "bus": 0, "devices": [
            { "bus": 0, "slot": 0, "function": 0, "id": { "vendor": 0x8086, "device": 0x29c0 }, "qdev_id": "",
              "regions": [], "class_info": { "class": 1536 } },
            { "bus": 0, "slot": port, "function": 0, "id": { "vendor": 0x1b36, "device": 12 }, "qdev_id": "port0",
              "pci_bridge": { "bus": { "number": 0, "secondary": 1, "subordinate": 1 }, "devices": [
                { "bus": 1, "slot": slot, "function": 0, "id": { "vendor": 0x10de, "device": device },
                  "qdev_id": "host0", "regions": [{ "bar": 0, "size": 16_777_216, "address": 4_244_635_648_u64 }] },
              ] } },
        ] }])
    }

    #[test]
    fn a_device_in_its_place_is_fine() {
        check(&parse(answer(1, 0, 0x2330)).unwrap(), &device()).unwrap();
    }

    #[test]
    fn another_place_or_another_device_is_told_with_both() {
        let text = |answer| check(&parse(answer).unwrap(), &device()).unwrap_err().to_string();
        let moved = text(answer(2, 0, 0x2330));
        assert!(moved.contains("GPU 0000:41:00.0 was planned at guest path 01/00 as 10de:2330"), "{moved}");
        assert!(moved.contains("QEMU has it at 02/00 as 10de:2330"), "{moved}");
        assert!(text(answer(1, 3, 0x2330)).contains("at 01/03"));
        assert!(text(answer(1, 0, 0x2331)).contains("at 01/00 as 10de:2331"));
        // Before the firmware has numbered the buses.
        let unnumbered = json!([{ "bus": 0, "devices": [
            { "slot": 1, "id": { "vendor": 0x1b36, "device": 12 }, "qdev_id": "port0", "pci_bridge": { "bus": {} } },
        ] }]);
        assert!(text(unnumbered).contains("no such device"));
    }

    #[test]
    fn what_is_no_list_of_buses_is_refused() {
        for odd in [json!({}), json!([{ "bus": 256, "devices": [] }]), json!(null)] {
            assert!(parse(odd).is_err());
        }
    }
}
