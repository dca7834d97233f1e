//! What the kernel says about NVIDIA's PCI functions, read below a sysfs root given as a path.
//!
//! Formats: `Documentation/ABI/testing/sysfs-bus-pci` and `sysfs-devices-vfio-dev` of the Linux kernel.

mod attribute;
mod group;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::chip::{Chip, DeviceId, VENDOR};
use crate::registers::ResetKind;
use crate::{BadPciAddress, Kind, PciAddress};
use attribute::{hex, link_name, optional, resource};
pub use group::{GroupFunction, IommuGroup};

/// What can go wrong while reading sysfs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder is unreadable.
    #[error("cannot read {path}; a GPU that has just fallen off its bus looks like this, too")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what the kernel writes there.
    #[error("{path} holds {content:?}, which is no {expected}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        content: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// A device's folder has another name than an address.
    #[error("{path} is not named after a PCI address")]
    Name {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: BadPciAddress,
    },
    /// No such device.
    #[error("there is no PCI device {address} on this host")]
    Missing {
        /// Its address.
        address: PciAddress,
    },
}

/// One memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// 0 to 5; of a 64-bit BAR the lower.
    pub index: u8,
    /// Bytes.
    pub size: u64,
    /// 64 bits wide and prefetchable: belongs into the window above 4 GiB.
    pub prefetchable: bool,
    /// 64-bit address.
    pub wide: bool,
}

/// How the kernel can reset a function, in its order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetMethod {
    /// Function-level reset over the PCIe or AF capability.
    Function,
    /// D3hot and back.
    PowerManagement,
    /// Secondary bus reset.
    Bus,
    /// Another of the kernel's words: `device_specific`, `acpi`, `cxl_bus`.
    Other(String),
}

impl ResetMethod {
    /// The kernel's word.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Function => "flr",
            Self::PowerManagement => "pm",
            Self::Bus => "bus",
            Self::Other(word) => word,
        }
    }

    fn of_word(word: &str) -> Self {
        match word {
            "flr" | "af_flr" => Self::Function,
            "pm" => Self::PowerManagement,
            "bus" => Self::Bus,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A GPU or NVSwitch as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its address.
    pub address: PciAddress,
    /// Its folder in sysfs.
    pub path: PathBuf,
    /// GPU or switch.
    pub kind: Kind,
    /// Its device id, whether or not we know the chip.
    pub id: DeviceId,
    /// The chip, if the id is in one of our ranges.
    pub chip: Option<Chip>,
    /// Subsystem device id: tells boards of one product apart.
    pub subsystem: u16,
    /// PCI class, 24 bits.
    pub class: u32,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its group, with every function in it; `None` without an IOMMU.
    pub group: Option<IommuGroup>,
    /// Name of its `/dev/vfio/devices` node, as in `vfio3`; only under a VFIO driver with iommufd support.
    pub vfio_device: Option<String>,
    /// Memory BARs that have a size.
    pub bars: Vec<Bar>,
    /// The node it hangs on; `None` where there is only one.
    pub numa_node: Option<u32>,
    /// Empty where the kernel can reset it in no way, or is older than the file (5.15).
    pub reset_methods: Vec<ResetMethod>,
}

impl Function {
    /// The iommufd way in: `<dev>/vfio/devices/vfioN`.
    #[must_use]
    pub fn vfio_device_node(&self, dev: &Path) -> Option<PathBuf> {
        self.vfio_device.as_ref().map(|name| dev.join("vfio/devices").join(name))
    }

    /// How to reset it: over its bus only where nothing else is left. `None` when the kernel knows no way, or
    /// is too old to say; the function's own is to be tried then.
    #[must_use]
    pub fn reset_kind(&self) -> Option<ResetKind> {
        match self.reset_methods.as_slice() {
            [] => None,
            methods if methods.iter().all(|method| *method == ResetMethod::Bus) => Some(ResetKind::Bus),
            _ => Some(ResetKind::Function),
        }
    }

    /// The legacy way in: `<dev>/vfio/<group>`.
    #[must_use]
    pub fn vfio_group_node(&self, dev: &Path) -> Option<PathBuf> {
        self.group.as_ref().map(|group| dev.join("vfio").join(group.id.to_string()))
    }
}

/// What is on the host.
#[derive(Debug, Default)]
pub struct Inventory {
    /// In the order of their addresses.
    pub functions: Vec<Function>,
    /// NVIDIA devices of which something could not be read. They are not to be used.
    pub unreadable: Vec<Error>,
}

/// A sysfs, usually [`Sysfs::host`].
#[derive(Debug, Clone)]
pub struct Sysfs {
    devices: PathBuf,
}

impl Sysfs {
    /// Below `root`, which holds `bus/pci/devices`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { devices: root.join("bus/pci/devices") }
    }

    /// The host's own.
    #[must_use]
    pub fn host() -> Self {
        Self::new(Path::new("/sys"))
    }

    /// Every GPU and NVSwitch of NVIDIA's. A host without PCI has none.
    ///
    /// # Errors
    /// [`Error::Read`] when the list of devices cannot be read; what concerns one device is in the inventory.
    pub fn discover(&self) -> Result<Inventory, Error> {
        let fail = |source| Error::Read { path: self.devices.clone(), source };
        let entries = match std::fs::read_dir(&self.devices) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inventory::default()),
            Err(error) => return Err(fail(error)),
        };
        let mut found = BTreeMap::new();
        let mut unreadable = Vec::new();
        for entry in entries {
            match read_device(&entry.map_err(fail)?.path()) {
                Ok(Some(function)) => _ = found.insert(function.address, function),
                Ok(None) => {}
                Err(error) => unreadable.push(error),
            }
        }
        Ok(Inventory { functions: found.into_values().collect(), unreadable })
    }

    /// One device; `None` when it is none of ours.
    ///
    /// # Errors
    /// [`Error::Missing`], or what is wrong with its files.
    pub fn function(&self, address: PciAddress) -> Result<Option<Function>, Error> {
        let path = self.devices.join(address.to_string());
        if !path.exists() {
            return Err(Error::Missing { address });
        }
        read_device(&path)
    }
}

fn read_device(path: &Path) -> Result<Option<Function>, Error> {
    if hex(&path.join("vendor"))? != u32::from(VENDOR) {
        return Ok(None);
    }
    let class = hex(&path.join("class"))?;
    let Some(kind) = Kind::of_class(class) else { return Ok(None) };
    let id = DeviceId(hex16(&path.join("device"))?);
    Ok(Some(Function {
        address: address_of(path)?,
        path: path.to_owned(),
        kind,
        id,
        chip: Chip::of(id),
        subsystem: hex16(&path.join("subsystem_device"))?,
        class,
        driver: link_name(&path.join("driver"))?,
        group: IommuGroup::of_device(path)?,
        vfio_device: vfio_device(&path.join("vfio-dev"))?,
        bars: resource(&path.join("resource"))?,
        numa_node: numa_node(&path.join("numa_node"))?,
        reset_methods: reset_methods(&path.join("reset_method"))?,
    }))
}

fn address_of(path: &Path) -> Result<PciAddress, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.parse().map_err(|source| Error::Name { path: path.to_owned(), source })
}

fn hex16(path: &Path) -> Result<u16, Error> {
    let value = hex(path)?;
    u16::try_from(value).map_err(|_| attribute::content(path, &format!("{value:#x}"), "16-bit number"))
}

/// The kernel writes -1 where there is one node only.
fn numa_node(path: &Path) -> Result<Option<u32>, Error> {
    let Some(text) = optional(path)? else { return Ok(None) };
    let node: i32 = text.trim().parse().map_err(|_| attribute::content(path, &text, "NUMA node"))?;
    Ok(u32::try_from(node).ok())
}

fn reset_methods(path: &Path) -> Result<Vec<ResetMethod>, Error> {
    let text = optional(path)?.unwrap_or_default();
    Ok(text.split_ascii_whitespace().map(ResetMethod::of_word).collect())
}

/// The folder holds one entry, named as the node in `/dev/vfio/devices`.
fn vfio_device(path: &Path) -> Result<Option<String>, Error> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let Some(entry) = entries.next() else { return Ok(None) };
    let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
    let numbered = name.strip_prefix("vfio").is_some_and(|number| number.parse::<u32>().is_ok());
    if numbered { Ok(Some(name)) } else { Err(attribute::content(path, &name, "VFIO device name")) }
}

#[cfg(test)]
mod tests;
