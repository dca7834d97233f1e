//! IOMMU groups: every function of a GPU's group is accounted for.

use gpu::PciAddress;
use gpu::sysfs::{Function, GroupFunction};

/// Why a group cannot go to a VM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No IOMMU.
    #[error(
        "GPU {gpu} is in no IOMMU group; enable the IOMMU (Intel: boot with intel_iommu=on; AMD: without \
         amd_iommu=off) and the BIOS setting for it"
    )]
    NoGroup {
        /// The GPU.
        gpu: PciAddress,
    },
    /// Another device in the group.
    #[error(
        "{other} (class {class:#08x}) is in IOMMU group {group} of GPU {gpu}, but is not the pod's: the group cannot be \
         split; enable ACS, or give the pod all of it"
    )]
    Foreign {
        /// The GPU.
        gpu: PciAddress,
        /// The group.
        group: u32,
        /// The other device.
        other: PciAddress,
        /// Its PCI class.
        class: u32,
    },
    /// Another function of the GPU has a driver of the host.
    #[error(
        "{other}, a function of GPU {gpu}, is bound to driver {driver:?}; unbind it or bind it to vfio-pci"
    )]
    Driver {
        /// The GPU.
        gpu: PciAddress,
        /// Its other function.
        other: PciAddress,
        /// The driver.
        driver: String,
    },
}

/// The functions that come along: other functions of these GPUs, such as their audio.
///
/// # Errors
/// [`Error`].
pub(crate) fn companions(functions: &[&Function]) -> Result<Vec<PciAddress>, Error> {
    let claimed: Vec<_> = functions.iter().map(|function| function.address).collect();
    let mut along = Vec::new();
    for function in functions {
        let gpu = function.address;
        let group = function.group.as_ref().ok_or(Error::NoGroup { gpu })?;
        for other in group.others(&claimed) {
            along.push(companion(gpu, group.id, other)?);
        }
    }
    along.sort();
    along.dedup();
    Ok(along)
}

fn companion(gpu: PciAddress, group: u32, other: &GroupFunction) -> Result<PciAddress, Error> {
    if !gpu.is_same_device(other.address) {
        return Err(Error::Foreign { gpu, group, other: other.address, class: other.class });
    }
    match other.driver.as_deref() {
        None => Ok(other.address),
        Some(driver) if gpu::open::is_vfio(driver) => Ok(other.address),
        Some(driver) => Err(Error::Driver { gpu, other: other.address, driver: driver.to_owned() }),
    }
}
