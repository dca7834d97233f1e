//! What hangs on the VM when it starts: a closed list, and anything else ends the boot.
//!
//! A device that the host adds reaches a driver of the kernel before PID 1 can look. What PID 1 can do is not to go on: no
//! pod runs, and no key is asked for, in a VM with a device that this list does not have. PCI hotplug is not in the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use shared_types::{PciAddress, ScratchSize};

use crate::lun;
use crate::private::Device;
use crate::profile::Profile;
use crate::scratch::Disk as Scratch;

/// Serial number of the disk with the pod's initdata.
pub const INITDATA: &str = "coffer-initdata";
/// Serial number of the disk that tests give a report by.
#[cfg(feature = "fake-report")]
pub const FAKE_REPORT: &str = "coffer-fake-report";

/// Kinds of PCI devices, in the words of what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The board's own functions, bridges, and the panic notifier: any number.
    Board,
    Nic,
    Disk,
    Controller,
    Vsock,
    Entropy,
    Gpu,
    Switch,
}

/// Devices by vendor and device id (QEMU, `docs/specs/pci-ids.rst`; virtio 1.3, section 4.1.2).
const KNOWN: [(u32, u32, Kind); 10] = [
    // q35's host bridge and LPC bridge, the root port, the expander bridge, pvpanic.
    (0x8086, 0x29c0, Kind::Board),
    (0x8086, 0x2918, Kind::Board),
    (0x1b36, 0x000b, Kind::Board),
    (0x1b36, 0x000c, Kind::Board),
    (0x1b36, 0x0011, Kind::Board),
    (0x1af4, 0x1041, Kind::Nic),
    (0x1af4, 0x1042, Kind::Disk),
    (0x1af4, 0x1044, Kind::Entropy),
    (0x1af4, 0x1048, Kind::Controller),
    (0x1af4, 0x1053, Kind::Vsock),
];

const NVIDIA: u32 = 0x10de;
/// Classes of a display controller (its first byte) and of an NVSwitch.
const DISPLAY: u32 = 0x03;
const OTHER_BRIDGE: u32 = 0x0680;

/// How many NVIDIA devices the pod's owner declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Declared {
    /// GPUs.
    pub gpus: u16,
    /// NVSwitches.
    pub switches: u16,
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GPUs and {} switches", self.gpus, self.switches)
    }
}

/// NVIDIA's devices that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The GPUs, in the order of the bus.
    pub gpus: Vec<PciAddress>,
    /// How many NVSwitches.
    pub switches: u16,
}

impl Found {
    /// How many there are of each.
    pub fn count(&self) -> Declared {
        Declared { gpus: u16::try_from(self.gpus.len()).unwrap_or(u16::MAX), switches: self.switches }
    }
}

/// What the VM may not have.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Sysfs cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A device of another kind.
    #[error("PCI device {slot} ({vendor:04x}:{device:04x}, class {class:06x}) is none that a pod VM has")]
    Pci { slot: String, vendor: u32, device: u32, class: u32 },
    /// More of a kind than there may be.
    #[error("PCI device {slot} is one {what} too many")]
    TooMany { slot: String, what: &'static str },
    /// Other GPUs than declared.
    #[error("the VM has {found}, and coffer.toml in the initdata declares {declared}")]
    Gpus { found: Declared, declared: Declared },
    /// A disk of another kind.
    #[error("block device {name} (serial number {serial:?}) is none that a pod VM has")]
    Disk { name: String, serial: String },
    /// Two disks of a kind that is there once.
    #[error("block devices {0} and {1} have the same serial number")]
    Twice(String, String),
    /// No root disk.
    #[error("the root file system is on {0} disks, and must be on one")]
    Root(usize),
}

/// The disks that are not image layers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// The one with the initdata.
    pub initdata: Option<Device>,
    /// The one that the pod writes to.
    pub scratch: Option<Scratch>,
    /// The one with a made-up report.
    #[cfg(feature = "fake-report")]
    pub fake_report: Option<Device>,
}

/// Checks PCI devices; `sys` is /sys. Returns those of NVIDIA.
///
/// # Errors
///
/// [`InventoryError`] for the first device that may not be there.
pub fn pci(sys: &Path, profile: Profile) -> Result<Found, InventoryError> {
    let mut found = Vec::new();
    let mut gpus = Vec::new();
    for folder in list(&sys.join("bus/pci/devices"))? {
        let slot = name(&folder);
        let [vendor, device, class] =
            [number(&folder, "vendor")?, number(&folder, "device")?, number(&folder, "class")?];
        let kind = kind(vendor, device, class).filter(|kind| {
            // Randomness from the host is for VMs that trust it.
            *kind != Kind::Entropy || profile == Profile::Dev
        });
        let kind = kind.ok_or_else(|| InventoryError::Pci { slot: slot.clone(), vendor, device, class })?;
        let before = found.iter().filter(|other| **other == kind).count();
        // The root's disk, the initdata's, the scratch disk, and a test's.
        let disks = if cfg!(feature = "fake-report") { 4 } else { 3 };
        let (most, what) = match kind {
            Kind::Disk => (disks, "disk"),
            Kind::Controller => (1, "SCSI controller"),
            Kind::Vsock => (1, "vsock device"),
            Kind::Entropy => (1, "entropy device"),
            Kind::Board | Kind::Nic | Kind::Gpu | Kind::Switch => (usize::MAX, ""),
        };
        if before >= most {
            return Err(InventoryError::TooMany { slot, what });
        }
        if kind == Kind::Gpu {
            let address = slot.parse();
            gpus.push(address.map_err(|_| InventoryError::Pci { slot, vendor, device, class })?);
        }
        found.push(kind);
    }
    gpus.sort();
    let switches = found.iter().filter(|kind| **kind == Kind::Switch).count();
    Ok(Found { gpus, switches: u16::try_from(switches).unwrap_or(u16::MAX) })
}

/// Compares NVIDIA's devices with what the initdata declares.
///
/// # Errors
///
/// [`InventoryError::Gpus`] when there is one more or one less.
pub fn gpus(found: Declared, declared: Declared) -> Result<(), InventoryError> {
    if found == declared { Ok(()) } else { Err(InventoryError::Gpus { found, declared }) }
}

fn kind(vendor: u32, device: u32, class: u32) -> Option<Kind> {
    if vendor == NVIDIA {
        return match (class >> 16, class >> 8) {
            (DISPLAY, _) => Some(Kind::Gpu),
            (_, OTHER_BRIDGE) => Some(Kind::Switch),
            _ => None,
        };
    }
    let known = KNOWN.into_iter().find(|(v, d, _)| (*v, *d) == (vendor, device));
    known.map(|(_, _, kind)| kind)
}

/// Checks block devices: the root's disk, the initdata's, the scratch disk, and disks of the SCSI controller, which are
/// judged one by one later.
///
/// # Errors
///
/// [`InventoryError`] for the first one that may not be there.
pub fn disks(sys: &Path) -> Result<Disks, InventoryError> {
    let roots = list(&sys.join("block/dm-0/slaves"))?;
    let [root] = roots.as_slice() else { return Err(InventoryError::Root(roots.len())) };
    let root = name(root);
    let mut disks = Disks::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for folder in list(&sys.join("block"))? {
        let name = name(&folder);
        let link = fs::read_link(&folder).unwrap_or_default();
        let path = link.to_string_lossy().trim_start_matches("../").to_owned();
        if name == "dm-0" || name == root || lun::address(sys, &path).is_some() {
            continue;
        }
        let serial = fs::read_to_string(folder.join("serial")).unwrap_or_default().trim().to_owned();
        let numbers = fs::read_to_string(folder.join("dev")).ok();
        let device = numbers.as_deref().and_then(Device::parse);
        if !serial.is_empty()
            && let Some(other) = names.insert(serial.clone(), name.clone())
        {
            return Err(InventoryError::Twice(other, name));
        }
        match (serial.as_str(), device) {
            (INITDATA, Some(device)) => disks.initdata = Some(device),
            (ScratchSize::SERIAL, Some(device)) => {
                let size = fs::read_to_string(folder.join("size"));
                let sectors = size.ok().and_then(|size| size.trim_end().parse().ok()).unwrap_or(0);
                disks.scratch = Some(Scratch { device, sectors });
            }
            #[cfg(feature = "fake-report")]
            (FAKE_REPORT, Some(device)) => disks.fake_report = Some(device),
            _ => return Err(InventoryError::Disk { name, serial: serial.chars().take(40).collect() }),
        }
    }
    Ok(disks)
}

/// The entries of a directory in the order of their names.
fn list(path: &Path) -> Result<Vec<PathBuf>, InventoryError> {
    let failed = |source| InventoryError::Read { path: path.to_owned(), source };
    let entries: io::Result<Vec<PathBuf>> =
        fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries = entries.map_err(failed)?;
    entries.sort();
    Ok(entries)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A hexadecimal number of sysfs.
fn number(folder: &Path, file: &str) -> Result<u32, InventoryError> {
    let path = folder.join(file);
    let text = fs::read_to_string(&path);
    let parse = |text: &str| u32::from_str_radix(text.trim_end().trim_start_matches("0x"), 16).ok();
    text.and_then(|text| parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into()))
        .map_err(|source| InventoryError::Read { path, source })
}

#[cfg(test)]
mod tests;
