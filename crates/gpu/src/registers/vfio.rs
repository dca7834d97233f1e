//! Registers over VFIO: BAR0 and configuration space as regions of the device, reset by ioctl.
//!
//! The words go through pread and pwrite of the device's descriptor: the kernel makes one 32-bit access of
//! each, and no mapping outlives a reset.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};

use super::{At, Registers, ResetKind, Word};
use crate::PciAddress;
use crate::sys::{self, Region};

/// What must stay open for as long as the device is.
#[derive(Debug)]
enum Owner {
    /// The iommufd object that the device is bound to.
    Iommufd { _iommufd: File },
    /// The legacy group and its container.
    Group { group: File, _container: File },
}

/// An open VFIO device.
#[derive(Debug)]
pub struct Vfio {
    // Closed before its owner, field order is drop order.
    device: File,
    bar0: Region,
    config: Region,
    owner: Owner,
}

impl Vfio {
    /// Opens a device by its node in `<dev>/vfio/devices` and binds it to an iommufd object of its own. The
    /// kernel wakes the function and resets it, since we are the first to open it.
    ///
    /// # Errors
    /// `EBUSY` or `EINVAL` while somebody else has the device or its group open; `ENOENT` for a kernel
    /// without iommufd.
    pub fn open_device(node: &Path, iommufd: &Path) -> io::Result<Self> {
        let iommufd = read_write(iommufd)?;
        let device = read_write(node)?;
        sys::bind_iommufd(&device, &iommufd)?;
        Self::new(device, Owner::Iommufd { _iommufd: iommufd })
    }

    /// Opens a device through its legacy group, with a container of its own.
    ///
    /// # Errors
    /// `EBUSY` while somebody else has the group; `EPERM` when a function of the group has a driver that is
    /// none of VFIO's.
    pub fn open_group(node: &Path, container: &Path, address: PciAddress) -> io::Result<Self> {
        let container = read_write(container)?;
        let group = read_write(node)?;
        sys::join_group(&group, &container)?;
        let device = sys::group_device(&group, &address.to_string())?;
        Self::new(device, Owner::Group { group, _container: container })
    }

    fn new(device: File, owner: Owner) -> io::Result<Self> {
        let bar0 = sys::region(&device, VFIO_PCI_BAR0_REGION_INDEX)?;
        let config = sys::region(&device, VFIO_PCI_CONFIG_REGION_INDEX)?;
        Ok(Self { device, bar0, config, owner })
    }

    fn place(&self, at: At) -> io::Result<u64> {
        let region = match at {
            At::Bar0(_) => self.bar0,
            At::Config(_) => self.config,
        };
        let offset = at.offset();
        let inside = offset.is_multiple_of(4) && offset + 4 <= region.size;
        if inside { Ok(region.offset + offset) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

fn read_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

impl Registers for Vfio {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        let mut word = [0; 4];
        self.device.read_exact_at(&mut word, self.place(at)?)?;
        Ok(Word::of(u32::from_le_bytes(word)))
    }

    fn write32(&mut self, at: At, value: u32) -> io::Result<()> {
        self.device.write_all_at(&value.to_le_bytes(), self.place(at)?)
    }

    fn reset(&mut self, kind: ResetKind) -> io::Result<()> {
        match kind {
            ResetKind::Function => sys::reset_device(&self.device),
            ResetKind::Bus => match &self.owner {
                // A device bound to iommufd proves its ownership by the binding.
                Owner::Iommufd { .. } => sys::reset_bus(&self.device, None),
                Owner::Group { group, .. } => sys::reset_bus(&self.device, Some(group)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_vfio_device_is_refused_by_the_first_ioctl() {
        let null = Path::new("/dev/null");
        let error = Vfio::open_device(null, null).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
        let address = "0000:41:00.0".parse().unwrap();
        let error = Vfio::open_group(null, null, address).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
        let error = Vfio::open_device(Path::new("/nonexistent"), null).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
